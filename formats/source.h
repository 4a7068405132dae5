/* The model source: the one reader of models, whatever holds them.
 *
 *     fmt_src *s = NULL;
 *     Q_TRY(fmt_src_open(&s, path, err));
 *     fmt_ref ref = { FMT_ATTN_QKV, layer, FMT_WEIGHT };
 *     fmt_box all = fmt_src_shape(s, ref);
 *     Q_TRY(fmt_src_read(s, ref, all, buf, err));
 *
 * Containers: a Hugging Face directory (config.json beside safetensors or pytorch_model*.bin), an
 * FT directory (config.ini), a model archive (one HDF5 file, arch.h).  All give the same view:
 * every role as one stacked [N, K] matrix (vectors are [N, 1]), read by boxes, in the element type
 * it is stored in.  At open every tensor of every role is found and its shape checked; no tensor
 * data is read, except biases that the family does not have: they must be all zero, and run-time
 * smoothers, which must be all ones.  A head tied to the embedding reads as the embedding. Threads:
 * fmt_src_read and fmt_src_read_into may be called from several threads. */
#ifndef FMT_SOURCE_H
#define FMT_SOURCE_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/dtype.h"
#include "formats/family.h"
#include "formats/files.h"
#include "formats/gen_config.h"
#include "formats/packing.h"

typedef struct fmt_src fmt_src;

/* What belongs to a role.  Every source has weights and biases, in a float type.  The rest is what
 * calibration added to an FT directory: codes [N, K] int8, all others [n, 1] float32.  s is 127
 * over the largest magnitude of an input x, an output y or a weight w.  One value stands for a
 * role, or for each piece of ffn_gate_up, whose pieces are two files: gate is first. */
typedef enum fmt_part {
    FMT_WEIGHT,
    FMT_BIAS,
    FMT_CODES,         /* one s_w for each piece */
    FMT_CODES_COL,     /* one s_w for each output channel */
    FMT_SCALE_X,       /* s_x */
    FMT_SCALE_Y,       /* 1 / s_y; of attn_qkv over q, k and v together */
    FMT_SCALE_W,       /* 1 / s_w of FMT_CODES; of attn_qkv [N], three values */
    FMT_SCALE_ACC,     /* s_y / (s_x s_w), likewise */
    FMT_SCALE_W_COL,   /* [N] the same two for FMT_CODES_COL */
    FMT_SCALE_ACC_COL, /* [N] */
    FMT_SMOOTHER,      /* [K] what the input would have to be divided by: all ones */
    FMT_K_SCALE,       /* [n_kv] of attn_qkv: 1 / s of a head of K after RoPE */
    FMT_V_SCALE,       /* [n_kv] and of V */
    FMT_FACTORS,       /* [K] what AWQ divided the input by, folded in already; of archives */
    /* What calibration saw, of archives, a row for each piece: */
    FMT_STAT_ABSMAX, /* [pieces, K] largest |x| of each channel of the input */
    FMT_STAT_H_DIAG, /* [pieces, K] mean of x^2: the diagonal of H over the tokens */
    FMT_STAT_LOSS,   /* [pieces, 2] error of the output, rounded to nearest and as it is */
    /* A linear quantized by groups has these in the place of FMT_WEIGHT, whose shape is still told.
     * Words as they are stored, see packing.h: */
    FMT_QWEIGHT, /* [N, K/pw] i32, or [N/pw, K] */
    FMT_QZEROS,  /* [N/pw, G] i32; absent: every zero is the middle of the range */
    FMT_QSCALES, /* [N, G] of a float type */
    FMT_G_IDX,   /* [pieces, K] i32: group of each column; absent: k / group */
    FMT_PARTS
} fmt_part;

const char *fmt_part_name(fmt_part p); /* "weight", "codes" */

typedef struct fmt_ref {
    fmt_role role;
    int64_t layer; /* 0 for roles that stand once in the model */
    fmt_part part;
} fmt_ref;

typedef struct fmt_box {
    int64_t n0, n1, k0, k1; /* rows n0 .. n1-1, columns k0 .. k1-1 */
} fmt_box;

/* path: a directory, or an archive.  For an FT model also its parent when it holds exactly one
 * `<T>-gpu`. Errors: Q_ENOINPUT, Q_EFORMAT, Q_ESHAPE, Q_ECONFIG, Q_EUNSUPPORTED. */
q_status fmt_src_open(fmt_src **out, const char *path, q_err *err);
void fmt_src_close(fmt_src *s);
const fmt_model *fmt_src_model(const fmt_src *s);    /* valid until close */
const fmt_gen_config *fmt_src_gen(const fmt_src *s); /* generation_config.json or defaults */
const char *fmt_src_dir(const fmt_src *s);           /* the directory or archive: for messages */
/* Whether one file may be written as path: it is neither the source nor in its directory, whose
 * small files belong to the model.  Errors: Q_EARG. */
q_status fmt_src_output_apart(const fmt_src *s, const char *path, q_err *err);
fmt_files fmt_src_files(const fmt_src *s);  /* tokenizer and the like; valid until close */
const char *fmt_src_kind(const fmt_src *s); /* "hf", "ft" or "h5" */
const fmt_packing *fmt_src_packing(const fmt_src *s); /* NULL: no linear is quantized by groups */
int fmt_src_ranks(const fmt_src *s);                  /* T of an FT directory, else 1 */
const fmt_json *fmt_src_config(const fmt_src *s);     /* the keys of config.json */
struct fmt_ft_layout;
/* What an FT directory holds (ft_names.h); of a Hugging Face one what a plain conversion would. */
const struct fmt_ft_layout *fmt_src_layout(const fmt_src *s);

/* Hash of sizes and times of the files that hold tensors: another one when any was written since.
 * Errors: Q_EIO, Q_ENOMEM. */
q_status fmt_src_stamp(const fmt_src *s, char hex[65], q_err *err);

int fmt_src_has(const fmt_src *s, fmt_ref ref);
fmt_box fmt_src_shape(const fmt_src *s, fmt_ref ref); /* {0, N, 0, K}; the role must exist */
fmt_dtype fmt_src_dtype(const fmt_src *s, fmt_ref ref);
/* The tensor name (HF) or file name (FT) that holds row n of the part: for messages and plans. */
const char *fmt_src_name(const fmt_src *s, fmt_ref ref, int64_t n);
uint64_t fmt_src_bytes(const fmt_src *s); /* of all tensors, a tied head once */
/* 1: stored [K, N], so that a few columns are cheap to read and a few rows cost as much as all. */
int fmt_src_turned(const fmt_src *s, fmt_ref ref);

/* box of the stacked matrix into dst [n1-n0, k1-k0], row-major, stored dtype, caller-owned.
 * Errors: Q_EIO, Q_EFORMAT, Q_ENOMEM. */
q_status fmt_src_read(const fmt_src *s, fmt_ref ref, fmt_box box, void *dst, q_err *err);
/* The same into a part of a wider matrix, whose rows are ld >= k1 - k0 elements apart. */
q_status fmt_src_read_into(const fmt_src *s, fmt_ref ref, fmt_box box, void *dst, int64_t ld,
                           q_err *err);

#endif
