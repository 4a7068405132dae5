/* Dense arithmetic under quant/ and the CPU backend, over OpenBLAS.
 *
 * Every call runs on the calling thread alone (OpenBLAS is pinned to one thread): callers cut the
 * work into tiles of fixed size and hand them to OpenMP, so a result does not depend on the number
 * of threads.  Threads: calls may run at the same time on different outputs. */
#ifndef QNT_LINALG_H
#define QNT_LINALG_H

#include <stdint.h>

void qnt_linalg_init(void); /* pins OpenBLAS to one thread; call before the first product */

/* C = A B' + beta C, row-major f32.
 *
 *   A  [M, K] stride lda    B  [N, K] stride ldb    C  [M, N] stride ldc, not aliased
 */
void qnt_gemm_nt(int64_t M, int64_t N, int64_t K, const float *A, int64_t lda, const float *B,
                 int64_t ldb, float beta, float *C, int64_t ldc);

#endif
