/* RMSNorm: f32 residual row in, f16 row out; one block per row.  CPU twin: runtime/cpu/norm.c.
 *
 * y = x / sqrt(mean(x^2) + eps) * w with f32 sums in a fixed order.  A thread keeps its first
 * values of the row, and of w, which it reads while the kernel before still runs; what is behind
 * them is read twice, the second time from L1.
 *
 * When a w8a8 product is the only reader, the row goes out as its codes: what quant_rows.cu makes
 * of the halves, without writing and reading them. */
#include "runtime/cuda/cu_codes.cuh"
#include "runtime/cuda/cu_w8a8.h"
#include "runtime/cuda/cu_weight.cuh"

#define KEPT 8 /* values of a thread in registers */

/* this thread's first values of a row */
static __device__ __forceinline__ void keep(float v[KEPT], const float *row, int64_t dim)
{
#pragma unroll
    for (int e = 0; e < KEPT; e++) {
        const int64_t i = threadIdx.x + (int64_t)e * blockDim.x;

        v[e] = i < dim ? row[i] : 0.0f;
    }
}

/* 1 / sqrt(mean(x^2) + eps) of the row whose first values are v */
static __device__ __forceinline__ float factor(const float v[KEPT], const float *x, int64_t dim,
                                               float eps)
{
    __shared__ float tmp[33];
    float sum = 0;

#pragma unroll
    for (int e = 0; e < KEPT; e++)
        sum += v[e] * v[e];
    for (int64_t i = threadIdx.x + (int64_t)KEPT * blockDim.x; i < dim; i += blockDim.x)
        sum += x[i] * x[i];
    return 1.0f / sqrtf(cu_block_sum(sum, tmp) / (float)dim + eps);
}

static __global__ void rmsnorm(const float *x, const float *w, __half *y, const int32_t *rows,
                               int64_t dim, float eps)
{
    float v[KEPT], g[KEPT], f;

    keep(g, w, dim);
    cu_wait();
    x += (rows ? (int64_t)rows[blockIdx.x] : (int64_t)blockIdx.x) * dim;
    y += blockIdx.x * dim;
    keep(v, x, dim);
    f = factor(v, x, dim, eps);
#pragma unroll
    for (int e = 0; e < KEPT; e++) {
        const int64_t i = threadIdx.x + (int64_t)e * blockDim.x;

        if (i < dim)
            y[i] = cu_half(v[e] * f * g[e]);
    }
    for (int64_t i = threadIdx.x + (int64_t)KEPT * blockDim.x; i < dim; i += blockDim.x)
        y[i] = cu_half(x[i] * f * w[i]);
}

static __global__ void rmsnorm_codes(const float *x, const float *w, int8_t *q, float *qs,
                                     int64_t dim, int64_t ld, float eps, float x_scale)
{
    __shared__ uint32_t tmp_max[33];
    const int64_t rest = threadIdx.x + (int64_t)KEPT * blockDim.x;
    uint32_t top = 0;
    float v[KEPT], g[KEPT], f;
    cu_coder coder;

    keep(g, w, dim);
    cu_wait();
    x += blockIdx.x * dim;
    q += blockIdx.x * ld;
    keep(v, x, dim);
    f = factor(v, x, dim, eps);
#pragma unroll
    for (int e = 0; e < KEPT; e++) { /* what is not there is zero */
        v[e] = __half2float(cu_half(v[e] * f * g[e]));
        top = max(top, (uint32_t)__half_as_ushort(__float2half_rn(v[e])) & 0x7fffu);
    }
    for (int64_t i = rest; i < dim; i += blockDim.x)
        top = max(top, (uint32_t)__half_as_ushort(cu_half(x[i] * f * w[i])) & 0x7fffu);
    top = cu_block_max(top, tmp_max);
    coder = cu_coder_of(__half2float(__ushort_as_half((unsigned short)top)), x_scale);
    if (threadIdx.x == 0)
        qs[blockIdx.x] = coder.scale;
#pragma unroll
    for (int e = 0; e < KEPT; e++) {
        const int64_t i = threadIdx.x + (int64_t)e * blockDim.x;

        if (i < ld)
            q[i] = i < dim ? cu_code(coder, v[e]) : (int8_t)0;
    }
    for (int64_t i = rest; i < ld; i += blockDim.x)
        q[i] = i < dim ? cu_code(coder, __half2float(cu_half(x[i] * f * w[i]))) : (int8_t)0;
}

/* 1: the row is wanted as codes, and all rows have room */
static int in_codes(const rt_rmsnorm_args *a)
{
    return a->reader && !a->rows && cu_scheme_of(a->reader) == CU_W8A8 &&
           a->n_rows <= cu_codes_tokens(a->dim);
}

extern "C" q_status cu_rmsnorm(rt_backend *be, const rt_rmsnorm_args *a, q_err *err)
{
    q_status st = Q_OK;
    const cu_be *c = cu_of(be);
    const unsigned threads = a->dim > 1024 ? 1024 : 256;

    if (a->n_rows < 0 || a->n_rows > INT32_MAX || a->dim < 1)
        Q_FAIL(err, Q_ESHAPE, "rmsnorm: [%lld, %lld]", (long long)a->n_rows, (long long)a->dim);
    if (a->n_rows == 0)
        return Q_OK;
    if (in_codes(a))
        CU_LAUNCH(c, rmsnorm_codes, dim3((unsigned)a->n_rows), dim3(threads), 0, a->x, a->w,
                  cu_codes(c), cu_codes_scale(c), a->dim, cu_codes_ld(a->dim), (float)a->eps,
                  a->reader->x_scale);
    else
        CU_LAUNCH(c, rmsnorm, dim3((unsigned)a->n_rows), dim3(threads), 0, a->x, a->w,
                  (__half *)a->y, a->rows, a->dim, (float)a->eps);
out:
    return st;
}
