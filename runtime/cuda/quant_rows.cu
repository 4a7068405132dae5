/* Activations as int8 codes for w8a8.  Rules and CPU twin: runtime/cpu/quant_rows.c.
 *
 * A block takes a row: the largest magnitude, found on the bits of the halves (infinity and NaN
 * come out above every number), then the codes; the second time the row comes from L1.  Division
 * and rounding are IEEE, so the twin gets the same codes from the same halves. */
#include "runtime/cuda/cu_codes.cuh"
#include "runtime/cuda/cu_w8a8.h"

/* 8 values from k on, zeros from K on */
static __device__ __forceinline__ void load8(__half v[8], const __half *x, int64_t k, int64_t K,
                                             int wide)
{
    if (wide && k < K) {
        *(uint4 *)v = *(const uint4 *)(x + k);
        return;
    }
#pragma unroll
    for (int e = 0; e < 8; e++)
        v[e] = k + e < K ? x[k + e] : __ushort_as_half(0);
}

static __global__ void quant_rows(const __half *x, int64_t K, int64_t ld, float x_scale, int8_t *q,
                                  float *qs)
{
    __shared__ uint32_t tmp[33];
    const int wide = K % 8 == 0;
    uint32_t top = 0;
    cu_coder coder;

    cu_wait();
    x += blockIdx.x * K;
    q += blockIdx.x * ld;
    for (int64_t k = 8 * (int64_t)threadIdx.x; k < K; k += 8 * blockDim.x) {
        __align__(16) __half v[8];

        load8(v, x, k, K, wide);
#pragma unroll
        for (int e = 0; e < 8; e++)
            top = max(top, (uint32_t)__half_as_ushort(v[e]) & 0x7fffu);
    }
    top = cu_block_max(top, tmp);
    coder = cu_coder_of(__half2float(__ushort_as_half((unsigned short)top)), x_scale);
    if (threadIdx.x == 0)
        qs[blockIdx.x] = coder.scale;
    for (int64_t k = 8 * (int64_t)threadIdx.x; k < ld; k += 8 * blockDim.x) {
        __align__(16) __half v[8];
        float f[8];

        load8(v, x, k, K, wide);
#pragma unroll
        for (int e = 0; e < 8; e++)
            f[e] = __half2float(v[e]);
        *(uint2 *)(q + k) = make_uint2(cu_codes4(coder, f), cu_codes4(coder, f + 4));
    }
}

extern "C" q_status cu_quant_rows(const cu_be *c, const void *x, int64_t rows, int64_t K,
                                  float x_scale, q_err *err)
{
    q_status st = Q_OK;

    /* few rows: as many threads as there are, a row is then two rounds */
    CU_LAUNCH(c, quant_rows, dim3((unsigned)rows), dim3(rows > c->sms ? 256 : 1024), 0,
              (const __half *)x, K, cu_codes_ld(K), x_scale, cu_codes(c), cu_codes_scale(c));
out:
    return st;
}
