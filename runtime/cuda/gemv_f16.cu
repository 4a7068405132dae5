/* y = x W' for 1 .. 64 tokens, f16 weights (scheme f16).
 *
 * Weights are operands as they lie: nothing to decode, no scales.
 *
 * The kernels, their layouts and limits: gemv.cuh, and gemm_few.cuh, which on Hopper may take 9
 * tokens and more.  One file per scheme, so that they compile side by side. */
#include "runtime/cuda/gemm_few.cuh"

extern "C" q_status cu_gemv_f16(const cu_be *c, const cu_gemv *a, q_err *err)
{
    return few_or_gemv<CU_F16, 0>(c, a, err);
}
