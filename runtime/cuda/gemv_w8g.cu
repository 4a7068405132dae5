/* y = x W' for 1 .. 64 tokens, int8 weights in groups (scheme w8g).
 *
 * Codes are bytes, 64 columns to a chunk, with a scale and a zero for each group.  Groups of whole
 * chunks need one pair a chunk; the shorter ones (32 columns) have kernels of their own, with a
 * pair for each 32 columns.
 *
 * The kernels, their layouts and limits: gemv.cuh, and gemm_few.cuh, which on Hopper may take 9
 * tokens and more.  One file per scheme, so that they compile side by side. */
#include "runtime/cuda/gemm_few.cuh"

extern "C" q_status cu_gemv_w8g(const cu_be *c, const cu_gemv *a, q_err *err)
{
    return 1 << a->shift < gemv_form<CU_W8G>::chunk ? few_or_gemv<CU_W8G, 1>(c, a, err)
                                                    : few_or_gemv<CU_W8G, 0>(c, a, err);
}
