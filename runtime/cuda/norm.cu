/* RMSNorm: f32 residual row in, f16 row out; one block per row.  CPU twin: runtime/cpu/norm.c.
 *
 * y = x / sqrt(mean(x^2) + eps) * w with f32 sums in a fixed order.  A thread keeps QUADS times 4
 * neighbours of the row in registers, so that a block has all of a row of 4096 on its way at once,
 * and as much of w, which it reads while the kernel before still runs; what is behind them is read
 * twice, the second time from L1.
 *
 * When a w8a8 product is the only reader, the row goes out as its codes: what quant_rows.cu makes
 * of the halves, without writing and reading them. */
#include "runtime/cuda/cu_codes.cuh"
#include "runtime/cuda/cu_w8a8.h"
#include "runtime/cuda/cu_weight.cuh"

#define QUADS       4
#define KEPT        (4 * QUADS) /* values of a thread in registers */
#define MAX_THREADS 1024

/* where quad e of this thread starts */
static __device__ __forceinline__ int64_t place(int e)
{
    return 4 * (threadIdx.x + (int64_t)e * blockDim.x);
}

/* this thread's first values of a row, zeros from dim on */
static __device__ __forceinline__ void keep(float v[KEPT], const float *row, int64_t dim)
{
#pragma unroll
    for (int e = 0; e < QUADS; e++) {
        const int64_t k = place(e);

        if (dim % 4 == 0 && k < dim)
            *(float4 *)(v + 4 * e) = *(const float4 *)(row + k);
        else
#pragma unroll
            for (int i = 0; i < 4; i++)
                v[4 * e + i] = k + i < dim ? row[k + i] : 0.0f;
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

static __global__ void __launch_bounds__(MAX_THREADS)
    rmsnorm(const float *x, const float *w, __half *y, const int32_t *rows, int64_t dim, float eps)
{
    __align__(16) float v[KEPT], g[KEPT];
    float f;

    keep(g, w, dim);
    cu_wait();
    x += (rows ? (int64_t)rows[blockIdx.x] : (int64_t)blockIdx.x) * dim;
    y += blockIdx.x * dim;
    keep(v, x, dim);
    f = factor(v, x, dim, eps);
#pragma unroll
    for (int e = 0; e < QUADS; e++) {
        const int64_t k = place(e);
        __align__(8) __half h[4];

#pragma unroll
        for (int i = 0; i < 4; i++)
            h[i] = cu_half(v[4 * e + i] * f * g[4 * e + i]);
        if (dim % 4 == 0 && k < dim)
            *(uint2 *)(y + k) = *(const uint2 *)h;
        else
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (k + i < dim)
                    y[k + i] = h[i];
    }
    for (int64_t i = threadIdx.x + (int64_t)KEPT * blockDim.x; i < dim; i += blockDim.x)
        y[i] = cu_half(x[i] * f * w[i]);
}

static __global__ void __launch_bounds__(MAX_THREADS)
    rmsnorm_codes(const float *x, const float *w, int8_t *q, float *qs, int64_t dim, int64_t ld,
                  float eps, float x_scale)
{
    __shared__ uint32_t tmp_max[33];
    const int64_t rest = threadIdx.x + (int64_t)KEPT * blockDim.x;
    __align__(16) float v[KEPT], g[KEPT];
    uint32_t top = 0;
    float f;
    cu_coder coder;

    keep(g, w, dim);
    cu_wait();
    x += blockIdx.x * dim;
    q += blockIdx.x * ld;
    keep(v, x, dim);
    f = factor(v, x, dim, eps);
#pragma unroll
    for (int e = 0; e < KEPT; e++) { /* what is not there is zero, and so is its code */
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
    for (int e = 0; e < QUADS; e++)
        if (place(e) < ld) /* a multiple of 128 */
            *(uint32_t *)(q + place(e)) = cu_codes4(coder, v + 4 * e);
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
    unsigned threads = 256;

    if (a->n_rows < 0 || a->n_rows > INT32_MAX || a->dim < 1)
        Q_FAIL(err, Q_ESHAPE, "rmsnorm: [%lld, %lld]", (long long)a->n_rows, (long long)a->dim);
    if (a->n_rows == 0)
        return Q_OK;
    while (threads < MAX_THREADS && threads * KEPT < a->dim)
        threads *= 2;
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
