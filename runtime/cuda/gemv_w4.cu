/* The matrix-vector kernel for w4 weights: gemv.cuh.  One file per scheme, to compile in parallel.
 */
#include "runtime/cuda/gemv.cuh"

extern "C" q_status cu_gemv_w4(const cu_be *c, const cu_gemv *a, q_err *err)
{
    return gemv_choose<CU_W4, 0>(c, a, err);
}
