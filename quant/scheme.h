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
 * scale [N] of w8 and w4 is kept as the f16 value that was stored, widened to f32.  Source of both:
 * reference-behaviour section 6 (scale = absmax / 128 or / 8, codes half away from zero by the f32
 * scale, scale then rounded to f16; an all-zero row gets scale 1).  w8a8: w8a8.h.  Threads:
 * constant table. */
#ifndef QNT_SCHEME_H
#define QNT_SCHEME_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/dtype.h"

typedef struct qnt_scheme {
    const char *name; /* "f16", "w8" */
    const char *text; /* for people: "int8 per channel" */
    int bits;         /* of one code */
    fmt_dtype dtype;  /* element type of float schemes */
    /* NULL for float schemes.  row [K] f32 in; codes row_bytes(K) out; *scale as stored. */
    void (*quantize_row)(void *codes, float *scale, const float *row, int64_t K);
    /* any scheme: row [K] f32 out */
    void (*dequantize_row)(float *row, const void *codes, float scale, int64_t K);
} qnt_scheme;

extern const qnt_scheme qnt_schemes[]; /* ends with name == NULL */

const qnt_scheme *qnt_scheme_find(const char *name);  /* NULL: unknown */
const qnt_scheme *qnt_scheme_float(fmt_dtype t);      /* row of a float type */
size_t qnt_row_bytes(const qnt_scheme *s, int64_t K); /* codes of one row */

/* A stacked role in memory, canonical order.  Owned by whoever holds it; freed by qnt_tensor_free.
 */
typedef struct qnt_tensor {
    const qnt_scheme *scheme;
    int64_t N, K;
    void *codes;  /* [N] rows of qnt_row_bytes(scheme, K) */
    float *scale; /* [N], NULL for float schemes */
    float *bias;  /* [N] or NULL */
    /* w8a8: > 0: x ~ code * x_scale for every token; 0: by the maximum of each token.  Else 0. */
    float x_scale;
} qnt_tensor;

void qnt_tensor_free(qnt_tensor *t); /* frees the arrays and zeroes *t */

#endif
