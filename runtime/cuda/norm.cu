/* RMSNorm: f32 residual row in, f16 row out; one block per row.  CPU twin: runtime/cpu/norm.c.
 *
 * y = x / sqrt(mean(x^2) + eps) * w with f32 sums in a fixed order.  The row is read twice; the
 * second time it comes from L1. */
#include "runtime/cuda/cu_device.cuh"

static __global__ void rmsnorm(const float *x, const float *w, __half *y, const int32_t *rows,
                               int64_t dim, float eps)
{
    __shared__ float tmp[33];
    float sum = 0, f;

    cu_wait();
    x += (rows ? (int64_t)rows[blockIdx.x] : (int64_t)blockIdx.x) * dim;
    y += blockIdx.x * dim;
    for (int64_t i = threadIdx.x; i < dim; i += blockDim.x)
        sum += x[i] * x[i];
    f = 1.0f / sqrtf(cu_block_sum(sum, tmp) / (float)dim + eps);
    for (int64_t i = threadIdx.x; i < dim; i += blockDim.x)
        y[i] = cu_half(x[i] * f * w[i]);
}

extern "C" q_status cu_rmsnorm(rt_backend *be, const rt_rmsnorm_args *a, q_err *err)
{
    q_status st = Q_OK;

    if (a->n_rows < 0 || a->n_rows > INT32_MAX || a->dim < 1)
        Q_FAIL(err, Q_ESHAPE, "rmsnorm: [%lld, %lld]", (long long)a->n_rows, (long long)a->dim);
    if (a->n_rows > 0)
        CU_LAUNCH(cu_of(be), rmsnorm, dim3((unsigned)a->n_rows), dim3(a->dim > 1024 ? 1024 : 256),
                  0, a->x, a->w, (__half *)a->y, a->rows, a->dim, (float)a->eps);
out:
    return st;
}
