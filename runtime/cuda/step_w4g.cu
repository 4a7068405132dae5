/* The layers of a decode step in one launch, int4 weights in groups of 128 columns (scheme w4g).
 *
 * Codes become halves on their way from the ring to the tensor cores; scale and zero of a group are
 * applied to its sums.  Four kernels: heads of 64 or 128, a cache of f16 or int8.
 *
 * The kernel: step.cuh; when it is taken: step_launch.c.  Hopper alone, empty for other GPUs.  One
 * file per scheme, so that they compile side by side. */
#include "runtime/cuda/step.cuh"

extern "C" q_status cu_step_w4g(const cu_be *c, const step_args *a, q_err *err)
{
    return step_choose<CU_W4G>(c, a, err);
}
