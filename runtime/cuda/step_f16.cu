/* The persistent decode kernel for f16 weights: step.cuh.  One file per scheme, to compile in
 * parallel.
 */
#include "runtime/cuda/step.cuh"

extern "C" q_status cu_step_f16(const cu_be *c, const step_args *a, q_err *err)
{
    return step_choose<CU_F16>(c, a, err);
}
