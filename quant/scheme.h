/* Schemes: number formats of weights, one row each; and qnt_tensor, a weight in memory.
 *
 *     const qnt_scheme *s = qnt_scheme_find("w8");
 *     s->quantize_row(codes, &scale, row, K);
 *
 * A weight is [N, K], y = x W'.  Codes of a row are contiguous, rows are `row_bytes(K)` apart:
 *   f32 f16 bf16   the values
 *   w8             int8; w = code * scale[n]
 *   w4             two codes a byte, even k in the low nibble, stored as code + 8; w = code *
 *                  scale[n]
 *   w8a8           int8, -127 .. 127; w = code * scale[n], and activations are int8 as well
 *   w4g w8g        groups of columns: w = (code - zero[n, g]) * scale[n, g], column k is in group
 *                  g = k / group, or g_idx[k] where a file of others orders them differently; two
 *                  codes a byte, even k low (w4g), or one (w8g), 0 .. 15 or 0 .. 255
 * scale [N] of w8 and w4 is kept as the f16 value that was stored, widened to f32.  Source of both:
 * reference-behaviour section 6 (scale = absmax / 128 or / 8, codes half away from zero by the f32
 * scale, scale then rounded to f16; an all-zero row gets scale 1).  w8a8: w8a8.h; w4g and w8g:
 * rtn_group.h, gptq.h, awq.h.  Threads: constant table. */
#ifndef QNT_SCHEME_H
#define QNT_SCHEME_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/dtype.h"

/* One row of a weight, whatever holds it. */
typedef struct qnt_row {
    const void *codes;    /* from column 0 on */
    const float *scale;   /* one, or [G] of a grouped scheme; NULL for float schemes */
    const uint8_t *zero;  /* [G], grouped schemes only */
    const int32_t *g_idx; /* [K], or NULL: column k is in group k / group */
    int64_t group;        /* grouped schemes only */
} qnt_row;

typedef struct qnt_scheme {
    const char *name; /* "f16", "w8" */
    const char *text; /* for people: "int8 per channel" */
    int bits;         /* of one code */
    fmt_dtype dtype;  /* element type of codes, and of float schemes */
    int grouped;      /* scale and zero for groups of columns; made by GPTQ, AWQ or rtn_group.h */
    /* NULL for float and grouped schemes.  row [K] f32 in; codes row_bytes(K) out; *scale as
     * stored. */
    void (*quantize_row)(void *codes, float *scale, const float *row, int64_t K);
    /* any scheme: out [n] f32 = columns k0 .. k0 + n - 1 */
    void (*dequantize)(float *out, const qnt_row *row, int64_t k0, int64_t n);
} qnt_scheme;

extern const qnt_scheme qnt_schemes[]; /* ends with name == NULL */

const qnt_scheme *qnt_scheme_find(const char *name); /* NULL: unknown */
const qnt_scheme *qnt_scheme_float(fmt_dtype t);     /* row of a float type */
const qnt_scheme *qnt_scheme_grouped(int bits);      /* 4: w4g, 8: w8g */
int qnt_scheme_is_float(const qnt_scheme *s);
size_t qnt_row_bytes(const qnt_scheme *s, int64_t K); /* codes of one row */

/* A stacked role in memory, canonical order.  Owned by whoever holds it; freed by qnt_tensor_free.
 */
typedef struct qnt_tensor {
    const qnt_scheme *scheme;
    int64_t N, K;
    void *codes;    /* [N] rows of qnt_row_bytes(scheme, K) */
    float *scale;   /* [N], grouped [N, G]: stored f16 values, widened; NULL for float schemes */
    uint8_t *zero;  /* [N, G], grouped schemes only */
    int32_t *g_idx; /* [K] where the group of column k is not k / group, else NULL */
    int64_t group;  /* columns of a group, the last may be shorter; 0 when not grouped */
    float *bias;    /* [N] or NULL */
    /* w8a8: > 0: x ~ code * x_scale for every token; 0: by the maximum of each token.  Else 0. */
    float x_scale;
} qnt_tensor;

int64_t qnt_n_groups(const qnt_scheme *s, int64_t K, int64_t group); /* scales of a row: 0, 1, G */
qnt_row qnt_tensor_row(const qnt_tensor *t, int64_t n);              /* borrows from t */
/* out [n1 - n0, K] = rows n0 .. n1 - 1, by OpenMP's threads */
void qnt_tensor_rows(float *out, const qnt_tensor *t, int64_t n0, int64_t n1);
void qnt_tensor_free(qnt_tensor *t); /* frees the arrays and zeroes *t */

#endif
