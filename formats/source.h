/* The model source: the one reader of models, whatever holds them.
 *
 *     fmt_src *s = NULL;
 *     Q_TRY(fmt_src_open(&s, path, err));
 *     fmt_ref ref = { FMT_ATTN_QKV, layer, FMT_WEIGHT };
 *     fmt_box all = fmt_src_shape(s, ref);
 *     Q_TRY(fmt_src_read(s, ref, all, buf, err));
 *
 * Containers: a Hugging Face directory (config.json beside safetensors), an FT directory
 * (config.ini).  Both give the same view: every role as one stacked [N, K] matrix (vectors are
 * [N, 1]), read by boxes, in the element type it is stored in.  At open every tensor of every role
 * is found and its shape checked; no tensor data is read, except biases that the family does not
 * have: they must be all zero.  A head tied to the embedding reads as the embedding. Threads:
 * fmt_src_read may be called from several threads. */
#ifndef FMT_SOURCE_H
#define FMT_SOURCE_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/dtype.h"
#include "formats/family.h"
#include "formats/gen_config.h"

typedef struct fmt_src fmt_src;

typedef enum fmt_part { FMT_WEIGHT, FMT_BIAS, FMT_PARTS } fmt_part;

typedef struct fmt_ref {
    fmt_role role;
    int64_t layer; /* 0 for roles that stand once in the model */
    fmt_part part;
} fmt_ref;

typedef struct fmt_box {
    int64_t n0, n1, k0, k1; /* rows n0 .. n1-1, columns k0 .. k1-1 */
} fmt_box;

/* path: a directory.  For an FT model also its parent when it holds exactly one `<T>-gpu`.
 * Errors: Q_ENOINPUT, Q_EFORMAT, Q_ESHAPE, Q_ECONFIG, Q_EUNSUPPORTED. */
q_status fmt_src_open(fmt_src **out, const char *path, q_err *err);
void fmt_src_close(fmt_src *s);
const fmt_model *fmt_src_model(const fmt_src *s);    /* valid until close */
const fmt_gen_config *fmt_src_gen(const fmt_src *s); /* generation_config.json or defaults */
const char *fmt_src_dir(const fmt_src *s);           /* directory of tokenizer files */
const char *fmt_src_kind(const fmt_src *s);          /* "hf" or "ft" */
int fmt_src_ranks(const fmt_src *s);                 /* T of an FT directory, else 1 */
const fmt_json *fmt_src_config(const fmt_src *s);    /* the keys of config.json */

int fmt_src_has(const fmt_src *s, fmt_ref ref);
fmt_box fmt_src_shape(const fmt_src *s, fmt_ref ref); /* {0, N, 0, K}; the role must exist */
fmt_dtype fmt_src_dtype(const fmt_src *s, fmt_ref ref);
/* The tensor name (HF) or file name (FT) that holds row n of the part: for messages and plans. */
const char *fmt_src_name(const fmt_src *s, fmt_ref ref, int64_t n);
uint64_t fmt_src_bytes(const fmt_src *s); /* of all tensors, a tied head once */

/* box of the stacked matrix into dst [n1-n0, k1-k0], row-major, stored dtype, caller-owned.
 * Errors: Q_EIO, Q_EFORMAT, Q_ENOMEM. */
q_status fmt_src_read(const fmt_src *s, fmt_ref ref, fmt_box box, void *dst, q_err *err);

#endif
