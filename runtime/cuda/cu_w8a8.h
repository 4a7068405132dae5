/* Products of int8 activations with int8 weights: what linear.cu and the kernels share.
 *
 * Activations of one product are codes in c->tile, [n_tok, ld] with ld = K rounded up to 128 and
 * zeros behind K, and the scale of each token in c->workspace: both idle while a w8a8 product runs.
 * Weights are [N, ld] the same way.  Sums are exact in 32 bits up to CU_W8A8_MAX_K columns; then
 *
 *     y = (float)sum * (scale of the row of W * scale of the token) + bias
 *
 * with one rounding an operation, as on the CPU: equal inputs give equal bits. */
#ifndef CU_W8A8_H
#define CU_W8A8_H

#include "runtime/cuda/cu.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CU_W8A8_MAX_K  131071             /* 128 * 128 * K < 2^31 */
#define CU_W8A8_GEMM_N ((int64_t)1 << 24) /* rows of W of the GEMM, so that tiles fit an int */

static inline int64_t cu_codes_ld(int64_t K)
{
    return (K + 127) / 128 * 128;
}

/* tokens whose codes fit in CU_CODES, a multiple of the GEMM's tiles where it can be */
static inline int64_t cu_codes_tokens(int64_t K)
{
    const int64_t fit = (int64_t)CU_CODES / cu_codes_ld(K);

    return fit < 256 ? fit : fit / 256 * 256;
}

static inline int8_t *cu_codes(const cu_be *c)
{
    return (int8_t *)c->tile;
}

static inline float *cu_codes_scale(const cu_be *c)
{
    return (float *)c->workspace;
}

/* y of M tokens, whose codes are ready. */
typedef struct cu_w8a8 {
    const int8_t *x, *w; /* [M, ld], [N, ld] */
    const float *xs;     /* [M] */
    const float *scale, *bias;
    void *y;
    int64_t M, N, ld;
    rt_epi epi;
} cu_w8a8;

/* x [rows, K] f16 into codes and scales.  Rules: runtime/cpu/quant_rows.c. */
q_status cu_quant_rows(const cu_be *c, const void *x, int64_t rows, int64_t K, float x_scale,
                       q_err *err);
/* At most CU_ROWS tokens, any GPU. */
q_status cu_w8a8_few(const cu_be *c, const cu_w8a8 *a, q_err *err);
/* Any number, compute capability 9.0 alone, N up to CU_W8A8_GEMM_N. */
q_status cu_w8a8_gemm(const cu_be *c, const cu_w8a8 *a, q_err *err);

#ifdef __cplusplus
}
#endif
#endif
