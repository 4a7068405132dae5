/* Memory of GPUs in sums over ranks (runtime/comm.h).  Included by runtime/cuda/ only. */
#ifndef CU_COMM_H
#define CU_COMM_H

#ifdef __cplusplus
extern "C" {
#endif

#include "runtime/cuda/cu.h"

/* rt_backend_ops.join; be: borrowed until c->leave.  Errors: Q_EBACKEND (no libnccl.so.2, with what
 * to do about it), Q_EUNSUPPORTED (a build without nccl.h), Q_ENOMEM, Q_EFAIL (NCCL). */
q_status cu_join(rt_backend *be, struct rt_comm *c, q_err *err);

/* a[i] += b[i] for n floats of device memory, enqueued. */
q_status cu_add(rt_backend *be, float *a, const float *b, int64_t n, q_err *err);

#ifdef __cplusplus
}
#endif

#endif
