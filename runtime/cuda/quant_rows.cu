/* Activations as int8 codes for w8a8.  Rules and CPU twin: runtime/cpu/quant_rows.c.
 *
 * A block takes a row: the largest magnitude, found on the bits of the halves (infinity and NaN
 * come out above every number), then the codes.  A thread keeps its first UNITS times 8 values,
 * all on their way at once; what is behind them is read again, from L1.  Division and rounding are
 * IEEE, so the twin gets the same codes from the same halves. */
#include "runtime/cuda/cu_codes.cuh"
#include "runtime/cuda/cu_w8a8.h"

#define UNITS       6 /* 256 threads: rows of 12288 */
#define MAX_THREADS 512

typedef struct unit {
    __align__(16) __half v[8];
} unit;

/* 8 values from k on, zeros from K on */
static __device__ __forceinline__ unit load8(const __half *x, int64_t k, int64_t K)
{
    unit u;

    if (K % 8 == 0 && k < K) {
        *(uint4 *)u.v = *(const uint4 *)(x + k);
        return u;
    }
#pragma unroll
    for (int e = 0; e < 8; e++)
        u.v[e] = k + e < K ? x[k + e] : __ushort_as_half(0);
    return u;
}

static __device__ __forceinline__ uint32_t largest(const unit &u, uint32_t top)
{
#pragma unroll
    for (int e = 0; e < 8; e++)
        top = max(top, (uint32_t)__half_as_ushort(u.v[e]) & 0x7fffu);
    return top;
}

static __device__ __forceinline__ void store8(int8_t *q, const unit &u, const cu_coder &coder)
{
    float f[8];

#pragma unroll
    for (int e = 0; e < 8; e++)
        f[e] = __half2float(u.v[e]);
    *(uint2 *)q = make_uint2(cu_codes4(coder, f), cu_codes4(coder, f + 4));
}

static __global__ void __launch_bounds__(MAX_THREADS)
    quant_rows(const __half *x, int64_t K, int64_t ld, float x_scale, int8_t *q, float *qs)
{
    __shared__ uint32_t tmp[33];
    const int64_t k0 = 8 * (int64_t)threadIdx.x, step = 8 * (int64_t)blockDim.x;
    uint32_t top = 0;
    unit u[UNITS];
    cu_coder coder;

    cu_wait();
    x += blockIdx.x * K;
    q += blockIdx.x * ld;
#pragma unroll
    for (int i = 0; i < UNITS; i++)
        u[i] = load8(x, k0 + i * step, K);
#pragma unroll
    for (int i = 0; i < UNITS; i++)
        top = largest(u[i], top);
    for (int64_t k = k0 + UNITS * step; k < K; k += step)
        top = largest(load8(x, k, K), top);
    top = cu_block_max(top, tmp);
    coder = cu_coder_of(__half2float(__ushort_as_half((unsigned short)top)), x_scale);
    if (threadIdx.x == 0)
        qs[blockIdx.x] = coder.scale;
#pragma unroll
    for (int i = 0; i < UNITS; i++)
        if (k0 + i * step < ld)
            store8(q + k0 + i * step, u[i], coder);
    for (int64_t k = k0 + UNITS * step; k < ld; k += step)
        store8(q + k, load8(x, k, K), coder);
}

extern "C" q_status cu_quant_rows(const cu_be *c, const void *x, int64_t rows, int64_t K,
                                  float x_scale, q_err *err)
{
    q_status st = Q_OK;

    /* few rows: more threads, less for each of them */
    CU_LAUNCH(c, quant_rows, dim3((unsigned)rows), dim3(rows > c->sms ? 256 : MAX_THREADS), 0,
              (const __half *)x, K, cu_codes_ld(K), x_scale, cu_codes(c), cu_codes_scale(c));
out:
    return st;
}
