/* The persistent decode kernel for w4g weights: step.cuh.  One file per scheme, to compile in
 * parallel.
 */
#include "runtime/cuda/step.cuh"

extern "C" q_status cu_step_w4g(const cu_be *c, const step_args *a, q_err *err)
{
    return step_choose<CU_W4G>(c, a, err);
}
