/* The products of few tokens for f16 weights: gemv.cuh, gemm_few.cuh.  One file per scheme, to
 * compile in parallel.
 */
#include "runtime/cuda/gemm_few.cuh"

extern "C" q_status cu_gemv_f16(const cu_be *c, const cu_gemv *a, q_err *err)
{
    return few_or_gemv<CU_F16, 0>(c, a, err);
}
