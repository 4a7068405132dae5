/* Families: how checkpoints of one architecture name their sizes and tensors; and the description
 * of one model that results.
 *
 *     fmt_model m;
 *     Q_TRY(fmt_model_parse(&m, config_json, "config.json", err));
 *
 * A family is data only (family_tables.c).  fmt_model_parse picks the row by model_type, reads the
 * sizes through the row's key list, checks ranges and products, and refuses what the runtime would
 * otherwise ignore.  Threads: constant tables; fmt_model is a plain value. */
#ifndef FMT_FAMILY_H
#define FMT_FAMILY_H

#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/dtype.h"
#include "formats/json.h"
#include "formats/roles.h"

typedef struct fmt_family fmt_family;

/* YaRN: frequencies of pairs that turn less than beta_slow times in `ctx` positions are divided by
 * factor, those that turn more than beta_fast times stay, with a ramp between.
 * Source: Peng et al. 2023, section 3. */
typedef struct fmt_yarn {
    double factor; /* 0: off */
    double ctx;    /* positions of the training before the extension */
    double beta_fast, beta_slow;
    int whole; /* the ends of the ramp are rounded outwards to whole pairs */
} fmt_yarn;

typedef struct fmt_model {
    const fmt_family *family;
    int64_t hid, layers, n_head, n_kv, hd, ffn, vocab;
    int64_t train_ctx; /* seq_length: dynamic NTK and logn start above it */
    int64_t max_ctx;   /* longest sequence the configuration allows */
    double eps;        /* of every RMSNorm */
    double rope_base;
    int64_t rot; /* rotated elements of a head; pair i is (i*step, i*step + gap) */
    int64_t rope_step, rope_gap;
    double
        rope_mscale; /* cosines and sines are multiplied by it: YaRN's attention factor, else 1 */
    fmt_yarn yarn;
    int dyn_ntk, logn, tied;
    fmt_dtype dtype; /* torch_dtype of the configuration, informative */
} fmt_model;

/* Fields that a key of config.json can set. */
typedef enum fmt_field {
    FMT_HID,
    FMT_LAYERS,
    FMT_HEADS,
    FMT_KV_HEADS,
    FMT_HEAD_DIM,
    FMT_FFN,
    FMT_VOCAB,
    FMT_TRAIN_CTX,
    FMT_MAX_CTX,
    FMT_EPS,
    FMT_ROPE_BASE,
    FMT_ROPE_RATIO, /* the base is multiplied by it */
    FMT_DYN_NTK,
    FMT_LOGN,
    FMT_TIED,
    FMT_FIELDS
} fmt_field;

typedef struct fmt_key {
    fmt_field field;
    const char *key; /* "a.b": member b of the object a */
    double dflt;     /* used when the key is absent and `optional` */
    int optional;    /* 0: absent is an error; 1: dflt; 2: derived from the other sizes */
    int div;         /* value is divided by it (0: 1); must divide evenly */
} fmt_key;

/* Which elements of a head turn together: all of them, i with i + hd/2; or the first half of the
 * head, neighbours. */
typedef enum fmt_rope { FMT_ROPE_HALVES, FMT_ROPE_HALF_PAIRS } fmt_rope;

#define FMT_MAX_KEYS   24
#define FMT_MAX_REFUSE 12
#define FMT_MAX_NAMES  16
#define FMT_MAX_IGNORE 8

typedef struct fmt_name_row {
    fmt_role role;
    const char
        *tensor[FMT_MAX_PIECES]; /* '#' is the layer; one name: it holds all pieces stacked */
    int bias;                    /* the family has tensor + ".bias" as well */
} fmt_name_row;

/* A config value that changes the mathematics in a way the runtime does not know. */
typedef struct fmt_refusal {
    const char *key;
    const char *only; /* JSON text that is accepted besides absent and null */
    const char *why;
} fmt_refusal;

struct fmt_family {
    const char *model_type; /* in config.json, and the section of config.ini */
    fmt_key keys[FMT_MAX_KEYS];
    fmt_rope rope;
    fmt_name_row names[FMT_MAX_NAMES];  /* ends with tensor[0] == NULL */
    const char *ignore[FMT_MAX_IGNORE]; /* tensors that carry nothing; '#' is any number */
    fmt_refusal refuse[FMT_MAX_REFUSE];
};

extern const fmt_family fmt_families[]; /* ends with model_type == NULL */

/* config: an object with the keys of config.json; file is used in messages.
 * Errors: Q_EUNSUPPORTED (family or feature), Q_ECONFIG (key, value, wanted). */
q_status fmt_model_parse(fmt_model *m, const fmt_json *config, const char *file, q_err *err);
const fmt_name_row *fmt_family_names(const fmt_family *f, fmt_role role); /* NULL: no such role */
/* 1 and *layer when name matches the pattern with '#' standing for a number ('#'-less: equal). */
int fmt_name_match(const char *pattern, const char *name, int64_t *layer);
/* pattern with '#' replaced; "" suffix allowed; 0 when it does not fit into cap bytes */
int fmt_name_make(char *out, size_t cap, const char *pattern, int64_t layer, const char *suffix);
/* Rows of the tensor that names->tensor[piece] is. */
int64_t fmt_piece_rows(const fmt_name_row *names, int piece, const fmt_model *m);
int64_t fmt_model_params(const fmt_model *m); /* number of parameters, a tied head once */

#endif
