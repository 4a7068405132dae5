/* What surrounds the products of the persistent decode kernel: which units of 16 rows a block has,
 * their x in shared memory, and from sums to outputs.
 *
 * A unit is 16 rows of W, of gate and up 8 rows of each.  x lies in shared memory as in memory, in
 * its order, zeros behind; a part of its columns at a time where it is too long.  w8a8: its codes,
 * step_w8a8.cuh. */
#ifndef STEP_UNITS_CUH
#define STEP_UNITS_CUH

#include "runtime/cuda/cu_weight.cuh"
#include "runtime/cuda/step.h"
#include "runtime/cuda/step_ring.cuh"

/* J: see step_product.cuh.  groups: bytes of a stage beside its codes.  givers: threads of a warp
 * that say it has read a stage: one for all, or each for itself, which is what a checker of races
 * can follow where plain copies (scales and zeros) bring the next contents. */
template <int S> struct step_form {
    static const int J = S == CU_F16 ? 1 : S == CU_W8 ? 2 : 4;
    static const int groups = S == CU_W4G ? STEP_GROUPS : 0;
    static const int givers = groups ? 32 : 1;
    typedef float sum;
};
template <> struct step_form<CU_W8A8> {
    static const int J = 1, groups = 0, givers = 1;
    typedef int32_t sum; /* exact */
};

/* A stage's scales and zeros: of both boxes, 16 groups of 8 rows each. */
#define STEP_SCALES 256
#define STEP_ZEROS  128

static __host__ __device__ __forceinline__ int step_ldx(int row_bytes, int bits)
{
    return row_bytes * 8 / bits + 32; /* halves from token to token: 64 bytes off the banks */
}

#if __CUDA_ARCH__ >= 900
/* the warps that compute */
static __device__ __forceinline__ void step_meet(void)
{
    asm volatile("bar.sync 1, %0;" ::"n"(32 * STEP_WARPS) : "memory");
}

/* After a phase: everybody is through and what was written is on its way. */
static __device__ __forceinline__ void step_arrive(grid_bar *g)
{
    step_meet();
    if (threadIdx.x == 0)
        grid_arrive(g);
}

static __device__ __forceinline__ void step_wait(const grid_bar *g)
{
    if (threadIdx.x == 0)
        grid_wait(g);
    step_meet();
}

typedef struct step_product {
    const float *scale, *bias;
    void *y;
    rt_epi epi;
    int N, K, row_bytes, M;
    int zeros; /* w4g: not all are the middle */
} step_product;

/* Units of this block: from .. to - 1, as even as whole units can be. */
static __device__ __forceinline__ int step_units(int N, rt_epi epi)
{
    return epi == RT_EPI_SILU_MUL ? (N / 2 + 7) / 8 : (N + 15) / 16;
}

static __device__ __forceinline__ int step_from(int units, int block)
{
    return (int)((int64_t)units * block / (int)gridDim.x);
}

/* Where a product's weights are: scale and zero of groups, zero or NULL for the middle. */
typedef struct step_source {
    const CUtensorMap *map;
    const __half *scale;
    const uint8_t *zero;
} step_source;

/* Scales and zeros of the 8 rows from `row` on, groups g0 .. g0 + n - 1, for half h of a stage. */
static __device__ __forceinline__ void step_feed_groups(char *to, int h, const step_source &a,
                                                        int row, int G, int g0, int n,
                                                        uint32_t full, uint64_t policy)
{
    const int64_t at = ((int64_t)(row / 8) * G + g0) * 8;

    copy_bytes(to + h * STEP_SCALES, a.scale + at, 16 * n, full, policy);
    if (a.zero)
        copy_bytes(to + 2 * STEP_SCALES + h * STEP_ZEROS, a.zero + at, 8 * n, full, policy);
}

/* Everything of one product, by the thread that copies. */
template <int S>
static __device__ __forceinline__ void step_feed(ring *r, const step_source &a, const step_shape &w,
                                                 rt_epi epi, uint64_t policy)
{
    const int units = step_units(w.N, epi), end = step_from(units, (int)blockIdx.x + 1);
    const int pieces = (w.row_bytes + RING_PIECE - 1) / RING_PIECE;
    const int silu = epi == RT_EPI_SILU_MUL, grouped = step_form<S>::groups > 0;

    for (int u0 = step_from(units, (int)blockIdx.x); u0 < end; u0 += STEP_UNITS) {
        const int u1 = min(u0 + STEP_UNITS, end);

#pragma unroll 1
        for (int p = 0; p < pieces; p++)
#pragma unroll 1
            for (int u = u0; u < u1; u++) {
                const int row = silu ? 8 * u : 16 * u, row2 = silu ? w.N / 2 + row : row + 8;
                const int G = w.row_bytes / 64, n = min(G - 16 * p, 16);
                char *to = r->data + r->slot * RING_STAGE;
                const uint32_t full = r->full + 8 * r->slot;

                bar_wait(r->empty + 8 * r->slot, r->parity ^ 1);
                bar_expect(full, RING_STAGE + (grouped ? (a.zero ? 48 : 32) * n : 0));
                copy_box(to, a.map, row, 8 * p, full, policy);
                copy_box(to + RING_BOX, a.map, row2, 8 * p, full, policy);
                if (grouped) {
                    char *beside = r->beside + r->slot * STEP_GROUPS;

                    step_feed_groups(beside, 0, a, row, G, 16 * p, n, full, policy);
                    step_feed_groups(beside, 1, a, row2, G, 16 * p, n, full, policy);
                }
                ring_step(r, 1);
            }
    }
}

/* What a thread needs to store an output: fetched before the weights are there. */
typedef struct step_out {
    float scale[2], bias[2], y;
} step_out;

/* Output i of the units from u0 on: row, then unit, then token. */
typedef struct step_spot {
    int t, r, u, cols, valid;
    int64_t n, n_cols;
} step_spot;

static __device__ __forceinline__ step_spot step_spot_of(const step_product &a, int u0, int n,
                                                         int i)
{
    step_spot s;
    const int silu = a.epi == RT_EPI_SILU_MUL;

    s.cols = silu ? 8 : 16;
    s.r = i & (s.cols - 1);
    s.u = (i >> (silu ? 3 : 4)) % STEP_UNITS;
    s.t = (i >> (silu ? 3 : 4)) / STEP_UNITS;
    s.n_cols = silu ? a.N / 2 : a.N;
    s.n = (int64_t)(u0 + s.u) * s.cols + s.r;
    s.valid = s.u < n && s.t < a.M && s.n < s.n_cols;
    return s;
}

static __device__ __forceinline__ float load_f32(const float *p)
{
    float v;

    asm volatile("ld.global.nc.f32 %0, [%1];" : "=f"(v) : "l"(p));
    return v;
}

static __device__ __forceinline__ void step_fetch(step_out *o, const step_product &a, int u0, int n,
                                                  int i)
{
    const step_spot s = step_spot_of(a, u0, n, i);
    const int silu = a.epi == RT_EPI_SILU_MUL;

    o->scale[0] = o->scale[1] = 1;
    o->bias[0] = o->bias[1] = o->y = 0;
    if (!s.valid)
        return;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (a.scale && h <= silu)
            o->scale[h] = load_f32(a.scale + s.n + h * s.n_cols);
        if (a.bias && h <= silu)
            o->bias[h] = load_f32(a.bias + s.n + h * s.n_cols);
    }
    if (a.epi == RT_EPI_ADD) /* only this thread writes it */
        o->y = __ldcg((const float *)a.y + s.t * s.n_cols + s.n);
}

/* x of a product: [M][ld] in shared memory.  from: NULL when all of it is there
 * already, else [M, K] f16 in memory, fetched `window` columns of 128 bytes at a time. */
typedef struct step_x {
    __half *shared;
    const __half *from;
    int ld, window;
} step_x;

/* w8a8: what a code of token t is worth, behind its codes. */
static __device__ __forceinline__ float *step_codes_scale(const step_x &x, int t)
{
    return (float *)(x.shared + (t + 1) * x.ld - 32);
}

/* Sum to output, row h of the unit's; an exact sum with the rounding of cu_w8a8.h. */
static __device__ __forceinline__ float step_scale(float sum, const step_out &o, int h,
                                                   const step_x &, int)
{
    return sum * o.scale[h] + o.bias[h];
}

static __device__ __forceinline__ float step_scale(int32_t sum, const step_out &o, int h,
                                                   const step_x &x, int t)
{
    return __fadd_rn(__fmul_rn((float)sum, __fmul_rn(o.scale[h], *step_codes_scale(x, t))),
                     o.bias[h]);
}

/* sum [unit][STEP_WARPS][M][16]: the parts in order of the warps, scale, bias, and what y wants. */
template <typename T>
static __device__ __forceinline__ void step_store(const step_product &a, const step_out &o,
                                                  const step_x &x, const T *sum, int u0, int n,
                                                  int i)
{
    const step_spot s = step_spot_of(a, u0, n, i);
    const int silu = a.epi == RT_EPI_SILU_MUL;
    const int64_t at = s.t * s.n_cols + s.n;
    float v[2];

    if (!s.valid)
        return;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        T all = 0;

#pragma unroll
        for (int w = 0; w < STEP_WARPS && h <= silu; w++)
            all += sum[((s.u * STEP_WARPS + w) * a.M + s.t) * 16 + s.r + 8 * h];
        v[h] = step_scale(all, o, h, x, s.t);
    }
    if (a.epi == RT_EPI_ADD)
        ((float *)a.y)[at] = o.y + v[0];
    else
        ((__half *)a.y)[at] = cu_half(silu ? v[0] / (1.0f + __expf(-v[0])) * v[1] : v[0]);
}

#define STEP_BATCH 12 /* loads in flight of a thread that fetches x */

static __device__ __forceinline__ step_x step_x_of(__half *shared, const __half *from,
                                                   const step_product &a, int bits, int window)
{
    step_x x;

    x.shared = shared;
    x.from = from;
    x.window = min(window, a.row_bytes / 128);
    x.ld = step_ldx(x.window * 128, bits);
    return x;
}

static __device__ __forceinline__ uint4 load_shared(uint32_t at)
{
    uint4 v;

    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(at));
    return v;
}

template <int OFFSET> static __device__ __forceinline__ __half load_half(uint32_t at)
{
    unsigned short v;

    asm volatile("ld.shared.u16 %0, [%1+%2];" : "=h"(v) : "r"(at), "n"(OFFSET));
    return __ushort_as_half(v);
}

template <int OFFSET> static __device__ __forceinline__ uint32_t load_byte(uint32_t at)
{
    uint32_t v;

    asm volatile("ld.shared.u8 %0, [%1+%2];" : "=r"(v) : "r"(at), "n"(OFFSET));
    return v;
}

static __device__ __forceinline__ void store_shared(uint32_t at, uint4 v)
{
    asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
}

/* 8 values of x as shared memory has them: for nibbles 0 1, 4 5, 2 3, 6 7, so that what goes with
 * either piece of a word (step_operand) is a pair of registers. */
template <int S> static __device__ __forceinline__ uint4 step_arranged(const uint4 &v)
{
    return S == CU_W4 || S == CU_W4G ? make_uint4(v.x, v.z, v.y, v.w) : v;
}

/* Columns c0 .. c0 + window - 1 of all tokens into shared memory, by all warps that compute. */
template <int S>
static __device__ __forceinline__ void step_gather(const step_x &x, const step_product &a, int c0)
{
    const uint32_t per = 8 * step_form<S>::J; /* units of 8 values of a column */
    const uint32_t first = (uint32_t)c0 * per, whole = (uint32_t)a.K / 8;
    const uint32_t units = (uint32_t)min(x.window, a.row_bytes / 128 - c0) * per;
    const float share = 1.0f / (float)units;
    const uint4 *from = (const uint4 *)x.from + first;

#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < (uint32_t)a.M * units; i += STEP_BATCH * 32 * STEP_WARPS) {
        uint4 v[STEP_BATCH];
        uint32_t to[STEP_BATCH];

#pragma unroll
        for (int e = 0; e < STEP_BATCH; e++) {
            const uint32_t all = i + e * 32 * STEP_WARPS;
            const uint32_t t = (uint32_t)(((float)all + 0.5f) * share), at = all - t * units;

            v[e] = make_uint4(0, 0, 0, 0);
            to[e] = 2 * t * (uint32_t)x.ld + 16 * at;
            if (t < (uint32_t)a.M && first + at < whole)
                v[e] = __ldcg(from + t * whole + at);
        }
#pragma unroll
        for (int e = 0; e < STEP_BATCH; e++)
            if (i + e * 32 * STEP_WARPS < (uint32_t)a.M * units)
                store_shared(shared_at(x.shared) + to[e], step_arranged<S>(v[e]));
    }
}
#endif

#endif
