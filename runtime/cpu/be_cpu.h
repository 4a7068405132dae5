/* The CPU rows of the backend table.
 *
 * "cpu-ref" is plain C and the reference of the tests; "cpu-avx2" and "cpu" take the same
 * operations with the kernels of an instruction set, the latter the best one of this processor. */
#ifndef BE_CPU_H
#define BE_CPU_H

#include "runtime/backend.h"

extern const rt_backend_ops cpu_ref_backend, cpu_avx2_backend, cpu_backend;

#endif
