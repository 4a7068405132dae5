/* The arithmetic of quantization on the GPU (quant/device.h), between its files.
 *
 * Launched plainly on the backend's one stream: these kernels run for milliseconds, and nothing is
 * gained by starting one early. */
#ifndef CU_QUANT_H
#define CU_QUANT_H

#ifdef __cplusplus
extern "C" {
#endif

#include "quant/device.h"
#include "runtime/cuda/cu.h"

/* What d->self points to. */
typedef struct cu_math {
    rt_backend *be;
    void *vec[2]; /* host vectors on their way: valid until the next call */
    size_t vec_bytes[2];
} cu_math;

static inline cudaStream_t cu_stream_of(const qnt_dev *d)
{
    return cu_of(((const cu_math *)d->self)->be)->stream;
}

/* Device memory for `bytes`, slot 0 or 1, filled from host (NULL: not). */
q_status cu_math_vec(const qnt_dev *d, int slot, const void *host, size_t bytes, void **out,
                     q_err *err);

/* C = alpha A B + beta C, or A B' with nt; beta 0 or 1.
 *
 *   A [M, K] stride lda   B [K, N] or [N, K] stride ldb   C [M, N] stride ldc
 *
 * batch > 1: the i-th product is at A + i * step_a and so on.  lower: tiles of 128 x 128 above the
 * diagonal are left out.  C may be A when N <= 128, or B when M <= 128 (and not nt). */
typedef struct cu_gemm_f32 {
    const float *A, *B;
    float *C;
    int64_t M, N, K, lda, ldb, ldc;
    float alpha, beta;
    int nt, lower;
    int64_t batch, step_a, step_b, step_c;
} cu_gemm_f32;

q_status cu_gemm_run(const qnt_dev *d, const cu_gemm_f32 *g, q_err *err);

q_status cu_q_gram(const qnt_dev *d, float *H, int64_t K, const void *X, fmt_dtype type, int64_t n,
                   q_err *err);
/* The same of f16 on sm_90. */
q_status cu_gram_wgmma(const cu_be *c, float *H, int64_t K, const void *X, int64_t n, q_err *err);
q_status cu_q_columns(const qnt_dev *d, double *sum, float *max, const void *X, fmt_dtype type,
                      int64_t n, int64_t K, q_err *err);
q_status cu_q_triangle(const qnt_dev *d, float *P, const float *H, int64_t K, q_err *err);
q_status cu_q_add_triangle(const qnt_dev *d, float *H, const float *P, int64_t K, q_err *err);
q_status cu_q_mirror(const qnt_dev *d, float *H, int64_t K, q_err *err);
q_status cu_q_divide(const qnt_dev *d, float *H, int64_t K, const double *s, q_err *err);
q_status cu_q_diagonal(const qnt_dev *d, float *host, const float *H, int64_t K, q_err *err);
q_status cu_q_arrange(const qnt_dev *d, float *U, const float *H, int64_t K, const int32_t *order,
                      const float *diag, q_err *err);
q_status cu_q_factor(const qnt_dev *d, float *H, int64_t K, int *ok, q_err *err);
q_status cu_q_quadratic(const qnt_dev *d, double *out, const float *E, int64_t M, const float *H,
                        int64_t K, float *tmp, q_err *err);
q_status cu_q_scale_columns(const qnt_dev *d, float *W, int64_t N, int64_t K, const double *s,
                            q_err *err);
q_status cu_q_divide_rows(const qnt_dev *d, float *W, int64_t N, int64_t K, const double *s,
                          q_err *err);
q_status cu_q_subtract(const qnt_dev *d, float *A, const float *B, int64_t n, q_err *err);
q_status cu_q_mean(const qnt_dev *d, double *mean, const float *W, int64_t N, int64_t K,
                   int64_t group, q_err *err);
q_status cu_q_fit(const qnt_dev *d, qnt_tensor *t, const float *W, const qnt_group_opts *o,
                  q_err *err);
q_status cu_q_clip(const qnt_dev *d, qnt_tensor *t, const float *W, const float *H, int sym,
                   q_err *err);
q_status cu_q_round(const qnt_dev *d, qnt_tensor *t, const float *W, q_err *err);
q_status cu_q_means(const qnt_dev *d, float *W, const qnt_tensor *t, q_err *err);
q_status cu_q_scaled_error(const qnt_dev *d, float *E, const float *W, qnt_tensor *t,
                           const double *s, int sym, q_err *err);
q_status cu_q_solve(const qnt_dev *d, const qnt_columns *a, q_err *err);

/* codes [N, K] one byte each, to those of t */
q_status cu_q_pack(const qnt_dev *d, qnt_tensor *t, const uint8_t *codes, q_err *err);
/* Scale and zero of one group of columns in all rows, from W with a row stride of K; h: device. */
q_status cu_q_fit_group(const qnt_dev *d, qnt_tensor *t, const float *W, int64_t group,
                        const float *h, int sym, int plain, q_err *err);

#ifdef __cplusplus
}
#endif
#endif
