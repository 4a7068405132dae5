/* Dense arithmetic under quant/ and the CPU backend, over OpenBLAS and LAPACK.
 *
 *     qnt_gram(H, K, X, n);                                  for every step of calibration
 *     Q_TRY(qnt_factor(H, K, &ok, err));                     H becomes U, inverse(H) = U'U
 *
 * OpenBLAS is pinned to one thread.  qnt_gemm_nt runs on the calling thread alone; the rest cuts
 * its work into tiles of fixed size and hands them to OpenMP's threads.  Every sum has a fixed
 * order, so a result does not depend on the number of threads.  All matrices are row-major,
 * f32 unless said.
 * Threads: calls may run at the same time on different outputs. */
#ifndef QNT_LINALG_H
#define QNT_LINALG_H

#include <stdint.h>

#include "formats/base/q_err.h"

void qnt_linalg_init(void); /* pins OpenBLAS to one thread; call before the first product */

/* C = A B' + beta C.
 *
 *   A  [M, K] stride lda    B  [N, K] stride ldb    C  [M, N] stride ldc, not aliased
 */
void qnt_gemm_nt(int64_t M, int64_t N, int64_t K, const float *A, int64_t lda, const float *B,
                 int64_t ldb, float beta, float *C, int64_t ldc);

/* C -= A B, on the calling thread.
 *
 *   A  [M, K] stride lda    B  [K, N] stride ldb    C  [M, N] stride ldc, not aliased
 */
void qnt_gemm_sub(int64_t M, int64_t N, int64_t K, const float *A, int64_t lda, const float *B,
                  int64_t ldb, float *C, int64_t ldc);

/* H += X'X, upper triangle (and a little more, in the tiles of the diagonal).
 *
 *   X  [n, K]    H  [K, K], not aliased */
void qnt_gram(float *H, int64_t K, const float *X, int64_t n);
void qnt_mirror(float *H, int64_t K); /* lower triangle = upper */

/* The upper triangular U with inverse(H) = U'U, in place of H; below the diagonal zeros.  Only the
 * upper triangle of H is read.  *ok 0: H is not positive definite (a sum that is not finite counts
 * as that), and its contents are lost.  Errors: Q_ENOMEM. */
q_status qnt_factor(float *H, int64_t K, int *ok, q_err *err);
/* The same where f32 is too short: it needs eigenvalues of about K / 2^24 of the largest. */
q_status qnt_factor_f64(double *H, int64_t K, int *ok, q_err *err);

/* out[i] = e_i' H e_i for each row of E.  E [M, K], H [K, K] both triangles; tmp [M, K]. */
void qnt_quadratic(double *out, const float *E, int64_t M, const float *H, int64_t K, float *tmp);

#endif
