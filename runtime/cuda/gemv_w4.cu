/* y = x W' for 1 .. 64 tokens, int4 weights with a scale for each row (scheme w4).
 *
 * Codes are nibbles, 128 columns to a chunk; the scale of a row is applied to its sums.
 *
 * The kernels, their layouts and limits: gemv.cuh, and gemm_few.cuh, which on Hopper may take 9
 * tokens and more.  One file per scheme, so that they compile side by side. */
#include "runtime/cuda/gemm_few.cuh"

extern "C" q_status cu_gemv_w4(const cu_be *c, const cu_gemv *a, q_err *err)
{
    return few_or_gemv<CU_W4, 0>(c, a, err);
}
