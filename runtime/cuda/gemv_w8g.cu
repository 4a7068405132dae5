/* The matrix-vector kernel for w8g weights: gemv.cuh.  Groups of whole chunks need fewer scales.
 */
#include "runtime/cuda/gemv.cuh"

extern "C" q_status cu_gemv_w8g(const cu_be *c, const cu_gemv *a, q_err *err)
{
    return 1 << a->shift < gemv_form<CU_W8G>::chunk ? gemv_choose<CU_W8G, 1>(c, a, err)
                                                    : gemv_choose<CU_W8G, 0>(c, a, err);
}
