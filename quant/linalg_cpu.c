/* The numeric seam over OpenBLAS: the one file that includes cblas.h.
 *
 * OpenBLAS keeps a pool of threads of its own, which would fight the OpenMP threads of the callers
 * and make a sum depend on how many there are; it is pinned to one.  Calls from several threads at
 * once are safe then: each takes its own packing buffer. */
#include "quant/linalg.h"

#include <assert.h>

#include <cblas.h>

void qnt_linalg_init(void)
{
    openblas_set_num_threads(1);
}

void qnt_gemm_nt(int64_t M, int64_t N, int64_t K, const float *A, int64_t lda, const float *B,
                 int64_t ldb, float beta, float *C, int64_t ldc)
{
    assert(M <= INT32_MAX && N <= INT32_MAX && K <= INT32_MAX);
    assert(lda <= INT32_MAX && ldb <= INT32_MAX && ldc <= INT32_MAX);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)M, (blasint)N, (blasint)K, 1.0f,
                A, (blasint)lda, B, (blasint)ldb, beta, C, (blasint)ldc);
}
