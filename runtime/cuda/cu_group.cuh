/* Scale, zero, codes of one value and the search of ranges: the arithmetic of quant/rtn_group.c,
 * operation by operation, without contraction, so that a group with the same weights gets the same
 * scale.  A warp owns a group; its sums go by lanes and then across them. */
#ifndef CU_GROUP_CUH
#define CU_GROUP_CUH

#include "runtime/cuda/cu_device.cuh"

#define CU_SEARCH    20 /* ranges tried, and the narrowest: as in rtn_group.c */
#define CU_RATIO_MIN 0.6f

typedef struct cu_range {
    float scale;
    int zero;
} cu_range;

typedef struct cu_extent {
    float min, max, largest; /* min <= 0 <= max; largest NaN or infinite when a value is */
} cu_extent;

static __device__ __forceinline__ float cu_clamp(float v, float lo, float hi)
{
    v = v > lo ? v : lo; /* NaN becomes lo */
    return v < hi ? v : hi;
}

/* The value nearest to w that the group has, over the scale. */
static __device__ __forceinline__ float cu_nearest(float w, cu_range r, int bits)
{
    const float lo = (float)-r.zero, hi = (float)((1 << bits) - 1 - r.zero);

    return rintf(cu_clamp(__fdiv_rn(w, r.scale), lo, hi));
}

static __device__ __forceinline__ float cu_stored(float scale)
{
    const float s = __half2float(__float2half_rn(scale));

    return s == 0 ? 1.0f : s;
}

static __device__ __forceinline__ cu_range cu_fit(cu_extent e, int bits, int sym, float ratio)
{
    const float q = (float)((1 << bits) - 1);
    cu_range r;

    if (sym || !isfinite(e.largest)) {
        r.scale = cu_stored(__fdiv_rn(2 * ratio * e.largest, q));
        r.zero = 1 << (bits - 1);
        return r;
    }
    r.scale = cu_stored(__fdiv_rn((e.max - e.min) * ratio, q));
    r.zero = (int)rintf(cu_clamp(__fdiv_rn(-(e.min * ratio), r.scale), 0, q));
    return r;
}

/* magnitudes as bits: what is not finite is the largest */
static __device__ __forceinline__ void cu_extent_add(cu_extent *e, float w)
{
    e->min = w < e->min ? w : e->min;
    e->max = w > e->max ? w : e->max;
    e->largest = __uint_as_float(umax(__float_as_uint(e->largest), __float_as_uint(fabsf(w))));
}

static __device__ __forceinline__ cu_extent cu_extent_warp(cu_extent e)
{
    for (int d = 16; d > 0; d >>= 1) {
        const float lo = __shfl_xor_sync(0xffffffffu, e.min, d);
        const float hi = __shfl_xor_sync(0xffffffffu, e.max, d);
        const float a = __shfl_xor_sync(0xffffffffu, e.largest, d);

        e.min = fminf(e.min, lo);
        e.max = fmaxf(e.max, hi);
        e.largest = __uint_as_float(umax(__float_as_uint(e.largest), __float_as_uint(a)));
    }
    return e;
}

static __device__ __forceinline__ float cu_weighted(float w, float h, cu_range r, int bits)
{
    const float e = __fsub_rn(__fmul_rn(cu_nearest(w, r, bits), r.scale), w);

    return __fmul_rn(__fmul_rn(h, e), e);
}

#endif
