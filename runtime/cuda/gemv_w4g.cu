/* y = x W' for 1 .. 64 tokens, int4 weights in groups (scheme w4g).
 *
 * Codes are nibbles, 128 columns to a chunk, with a scale and a zero for each group.  Groups of
 * whole chunks need one pair a chunk; the shorter ones (32 and 64 columns) have kernels of their
 * own, with a pair for each 32 columns.
 *
 * The kernels, their layouts and limits: gemv.cuh, and gemm_few.cuh, which on Hopper may take 9
 * tokens and more.  One file per scheme, so that they compile side by side. */
#include "runtime/cuda/gemm_few.cuh"

extern "C" q_status cu_gemv_w4g(const cu_be *c, const cu_gemv *a, q_err *err)
{
    return 1 << a->shift < gemv_form<CU_W4G>::chunk ? few_or_gemv<CU_W4G, 1>(c, a, err)
                                                    : few_or_gemv<CU_W4G, 0>(c, a, err);
}
