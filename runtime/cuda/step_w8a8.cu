/* The layers of a decode step in one launch, int8 weights and activations (scheme w8a8).
 *
 * Every block codes the rows of x for itself, sums of codes are exact (step_w8a8.cuh).  Four
 * kernels: heads of 64 or 128, a cache of f16 or int8.
 *
 * The kernel: step.cuh; when it is taken: step_launch.c.  Hopper alone, empty for other GPUs.  One
 * file per scheme, so that they compile side by side. */
#include "runtime/cuda/step.cuh"

extern "C" q_status cu_step_w8a8(const cu_be *c, const step_args *a, q_err *err)
{
    return step_choose<CU_W8A8>(c, a, err);
}
