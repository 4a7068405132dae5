/* The products of few tokens for w4g weights: gemv.cuh, gemm_few.cuh.  Groups of whole chunks need
 * fewer scales.
 */
#include "runtime/cuda/gemm_few.cuh"

extern "C" q_status cu_gemv_w4g(const cu_be *c, const cu_gemv *a, q_err *err)
{
    return 1 << a->shift < gemv_form<CU_W4G>::chunk ? few_or_gemv<CU_W4G, 1>(c, a, err)
                                                    : few_or_gemv<CU_W4G, 0>(c, a, err);
}
