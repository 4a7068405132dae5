/* Values to int8 codes and back: shared by quant_rows.cu, norm.cu and the KV cache. */
#ifndef CU_CODES_CUH
#define CU_CODES_CUH

#include "runtime/cuda/cu_device.cuh"

/* The nearest integer, ties to even, saturated to -128 .. 127; NaN gives 0. */
static __device__ __forceinline__ int8_t cu_round_i8(float v)
{
    const int i = __float2int_rn(v);

    return (int8_t)max(-128, min(127, i));
}

/* How a row is coded: code = v * factor, or v / scale when factor is 0. */
typedef struct cu_coder {
    float scale, factor;
} cu_coder;

/* amax: the largest magnitude of the row; not finite: every code is 0 and the scale NaN, so that
 * every product with the row is NaN. */
static __device__ __forceinline__ cu_coder cu_coder_of(float amax, float x_scale)
{
    const float least = fmaxf(amax, 1e-6f);
    cu_coder c;

    c.factor = x_scale > 0 ? 0.0f : 127.0f / least;
    c.scale = x_scale > 0 ? x_scale : least / 127.0f;
    if (!(amax < INFINITY))
        c.scale = __int_as_float(0x7fc00000);
    return c;
}

static __device__ __forceinline__ int8_t cu_code(const cu_coder &c, float v)
{
    if (c.scale != c.scale)
        return 0;
    return cu_round_i8(c.factor > 0 ? v * c.factor : v / c.scale);
}

/* The codes of 4 values, the first in the low byte. */
static __device__ __forceinline__ uint32_t cu_codes4(const cu_coder &c, const float v[4])
{
    uint32_t r = 0;
    int i[4];

    if (c.scale != c.scale)
        return 0;
    for (int e = 0; e < 4; e++)
        i[e] = __float2int_rn(c.factor > 0 ? v[e] * c.factor : v[e] / c.scale);
    asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(i[3]), "r"(i[2]), "r"(0));
    asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %0;" : "+r"(r) : "r"(i[1]), "r"(i[0]));
    return r;
}

/* 4 codes -> halves of codes 0, 1 (lo) and 2, 3 (hi): 0x64 above a byte makes 1024 + it */
static __device__ __forceinline__ void cu_decode_i8(uint32_t v, uint32_t *lo, uint32_t *hi)
{
    const __half2 bias = cu_as_half2(0x64806480u); /* 1152: the sign bit is turned around as well */

    v ^= 0x80808080u;
    *lo = cu_as_u32(__hsub2(cu_as_half2(__byte_perm(v, 0x64646464u, 0x4140)), bias));
    *hi = cu_as_u32(__hsub2(cu_as_half2(__byte_perm(v, 0x64646464u, 0x4342)), bias));
}

/* Codes of keys r0 and r1 (4 elements each) as pairs: v[e] holds element e of both. */
static __device__ __forceinline__ void cu_decode_pairs(uint32_t r0, uint32_t r1, uint32_t v[4])
{
    cu_decode_i8(__byte_perm(r0, r1, 0x5140), &v[0], &v[1]);
    cu_decode_i8(__byte_perm(r0, r1, 0x7362), &v[2], &v[3]);
}

/* Maximum over a block of at most 1024 threads; every thread gets it.  tmp: 33 words. */
static __device__ __forceinline__ uint32_t cu_block_max(uint32_t v, uint32_t *tmp)
{
    const int warp = (int)threadIdx.x / 32, warps = ((int)blockDim.x + 31) / 32;

    v = __reduce_max_sync(0xffffffffu, v);
    if (threadIdx.x % 32 == 0)
        tmp[warp] = v;
    __syncthreads();
    if (warp == 0) {
        v = __reduce_max_sync(0xffffffffu, (int)threadIdx.x < warps ? tmp[threadIdx.x] : 0u);
        if (threadIdx.x == 0)
            tmp[32] = v;
    }
    __syncthreads();
    return tmp[32];
}

#endif
