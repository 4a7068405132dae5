/* Weights as numbers, any scheme but w8a8: one value for the embedding and the plain product, and
 * codes to pairs of halves for the matrix-vector kernels and for dequantizing.
 *
 * Codes become halves by bit tricks: a byte below 0x64 is 1024 + u as a half, so u - zero is that
 * less 1024 + zero; the upper nibble of a pair stands 16 times as high and is brought down by one
 * FMA.  All of these are exact; per channel the zero is the middle of the range. */
#ifndef CU_WEIGHT_CUH
#define CU_WEIGHT_CUH

#include "runtime/cuda/cu_device.cuh"

/* Place of unit o (8 codes) of a row whose chunks have n units: see cu.h. */
static __host__ __device__ __forceinline__ int64_t cu_unit(int64_t o, int n)
{
    return o / n * n + o % 4 * (n / 4) + o % n / 4;
}

typedef struct cu_table {
    const char *data;
    const float *scale;    /* [N] or NULL */
    const __half *scale16; /* grouped schemes, in the order of cu_group_at; else NULL */
    const uint8_t *zero;   /* the same, or NULL: the middle of the range */
    const int32_t *place;  /* [K] where column k stands, or NULL */
    int64_t row_bytes, group, G;
    int scheme; /* cu_scheme */
} cu_table;

static inline cu_table cu_table_of(const rt_weight *w)
{
    cu_table t;

    t.data = (const char *)w->data;
    t.scale = w->scheme->grouped ? NULL : w->scale;
    t.scale16 = w->scheme->grouped ? (const __half *)(const void *)w->scale : NULL;
    t.zero = w->zero;
    t.place = w->g_idx;
    t.row_bytes = w->row_bytes;
    t.group = w->group;
    t.G = qnt_n_groups(w->scheme, w->K, w->group);
    t.scheme = (int)cu_scheme_of(w);
    return t;
}

/* Where scale and zero of group g of row n stand. */
static __device__ __forceinline__ int64_t cu_group_at(int64_t n, int64_t g, int64_t G)
{
    return (n / 8 * G + g) * 8 + n % 8;
}

static __device__ __forceinline__ float cu_weight_at(const cu_table &t, int64_t n, int64_t k)
{
    const char *row = t.data + n * t.row_bytes;
    const int bits4 = t.scheme == CU_W4 || t.scheme == CU_W4G, middle = bits4 ? 8 : 128;
    int code;

    if (t.scheme == CU_F16)
        return __half2float(((const __half *)row)[k]);
    if (t.place)
        k = t.place[k];
    if (bits4)
        code =
            (int)(((const uint32_t *)row)[cu_unit(k / 8, 16)] >> (4 * (k % 8 / 2) + 16 * (k % 2)) &
                  15);
    else
        code = ((const uint8_t *)row)[8 * cu_unit(k / 8, 8) + k % 8];
    if (t.scale16) {
        const int64_t at = cu_group_at(n, k / t.group, t.G);

        return (float)(code - (t.zero ? t.zero[at] : middle)) * __half2float(t.scale16[at]);
    }
    return (float)(code - middle) * t.scale[n];
}

/* What decoding subtracts: 1024 + zero, and, for nibbles that stand high, adds: -64 - zero. */
typedef struct cu_zero {
    __half2 bias, off;
} cu_zero;

template <int BITS> static __device__ __forceinline__ cu_zero cu_zero_middle(void)
{
    cu_zero z;

    z.bias = cu_as_half2(BITS == 4 ? 0x64086408u : 0x64806480u); /* 1032, 1152 */
    z.off = cu_as_half2(0xd480d480u);                            /* -72 */
    return z;
}

static __device__ __forceinline__ cu_zero cu_zero_of(__half2 bias) /* 1024 + zero, twice */
{
    cu_zero z;

    z.bias = bias;
    z.off = __hsub2(cu_as_half2(0x63806380u), bias); /* 960 - 1024 - zero */
    return z;
}

/* 4 codes -> halves k, k + 1 (lo) and k + 2, k + 3 (hi) */
static __device__ __forceinline__ void cu_decode8(uint32_t v, const cu_zero &z, uint32_t *lo,
                                                  uint32_t *hi)
{
    *lo = cu_as_u32(__hsub2(cu_as_half2(__byte_perm(v, 0x64646464u, 0x4140)), z.bias));
    *hi = cu_as_u32(__hsub2(cu_as_half2(__byte_perm(v, 0x64646464u, 0x4342)), z.bias));
}

/* (v & mask) | bits as one instruction: the compiler makes two of two constants */
static __device__ __forceinline__ __half2 cu_masked(uint32_t v, uint32_t mask, uint32_t bits)
{
    uint32_t r;

    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(r) : "r"(v), "r"(mask), "r"(bits));
    return cu_as_half2(r);
}

static __device__ __forceinline__ void cu_decode4(uint32_t v, const cu_zero &z, uint32_t *lo,
                                                  uint32_t *hi)
{
    const __half2 down = cu_as_half2(0x2c002c00u); /* 1/16 */

    *lo = cu_as_u32(__hsub2(cu_masked(v, 0x000f000fu, 0x64006400u), z.bias));
    *hi = cu_as_u32(__hfma2(cu_masked(v, 0x00f000f0u, 0x64006400u), down, z.off));
}

#endif
