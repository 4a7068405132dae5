/* The layers of a decode step in one launch, f16 weights (scheme f16).
 *
 * Weights are operands as they come out of the ring.  Four kernels: heads of 64 or 128, a cache of
 * f16 or int8.
 *
 * The kernel: step.cuh; when it is taken: step_launch.c.  Hopper alone, empty for other GPUs.  One
 * file per scheme, so that they compile side by side. */
#include "runtime/cuda/step.cuh"

extern "C" q_status cu_step_f16(const cu_be *c, const step_args *a, q_err *err)
{
    return step_choose<CU_F16>(c, a, err);
}
