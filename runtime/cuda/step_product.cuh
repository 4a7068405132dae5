/* Products of the persistent decode kernel: y = x W' with the weights taken from the ring.
 *
 * A block owns units of 16 rows of W (gate and up: 8 rows of each, so that a lane ends up with
 * both) and takes up to STEP_UNITS of them at once, a piece of 1 KB of K after the other; a warp
 * has 128 bytes of each piece.  So what a lane reads of x serves all of the units, and sums live in
 * registers until K is through.
 *
 * Arithmetic and order of codes are those of gemv.cuh: with 128 bytes of a row at hand, lane q of a
 * group of four has units 2 q and 2 q + 1 of 16 bytes, s = 0, 1; unit 2 q + s holds, j = 0 .. J -
 * 1, the 8 values from
 *
 *     k = (2 B + q / 2) C + 32 j + 8 (2 (q % 2) + s)      B: number of the 128 bytes, C = 32 J
 *
 *   f16  J 1       w8  J 2       w4  J 4
 *
 * x lies in shared memory in just this order, [B][s][j][q] units of 8 values, zeros behind; a part
 * of its columns at a time where it is too long.  w8a8 has codes on both sides, in their own order,
 * so a unit of x is 16 codes and J is 1: step_w8a8.cuh. */
#ifndef STEP_PRODUCT_CUH
#define STEP_PRODUCT_CUH

#include "runtime/cuda/gemv.cuh"
#include "runtime/cuda/step.h"
#include "runtime/cuda/step_ring.cuh"

template <int S> struct step_form {
    static const int J = S == CU_F16 ? 1 : S == CU_W8 ? 2 : 4;
    typedef float sum;
};
template <> struct step_form<CU_W8A8> {
    static const int J = 1;
    typedef int32_t sum; /* exact */
};

/* Place of values 8 v .. 8 v + 7 of x in shared memory, in units of 8. */
template <int S> static __device__ __forceinline__ uint32_t step_place(uint32_t v)
{
    const uint32_t J = step_form<S>::J, c = v / (4 * J), o = v % (4 * J), j = o / 4, p = o % 4;

    return ((c / 2 * 2 + p % 2) * J + j) * 4 + 2 * (c % 2) + p / 2;
}

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

/* Everything of one product, by the thread that copies. */
static __device__ __forceinline__ void step_feed(ring *r, const CUtensorMap *map,
                                                 const step_shape &w, rt_epi epi, uint64_t policy)
{
    const int units = step_units(w.N, epi), end = step_from(units, (int)blockIdx.x + 1);
    const int pieces = (w.row_bytes + RING_PIECE - 1) / RING_PIECE;
    const int silu = epi == RT_EPI_SILU_MUL;

    for (int u0 = step_from(units, (int)blockIdx.x); u0 < end; u0 += STEP_UNITS) {
        const int u1 = min(u0 + STEP_UNITS, end);

#pragma unroll 1
        for (int p = 0; p < pieces; p++)
#pragma unroll 1
            for (int u = u0; u < u1; u++) {
                char *to = r->data + r->slot * RING_STAGE;
                const uint32_t full = r->full + 8 * r->slot;
                const int row = silu ? 8 * u : 16 * u;

                bar_wait(r->empty + 8 * r->slot, r->parity ^ 1);
                bar_expect(full, RING_STAGE);
                copy_box(to, map, row, 8 * p, full, policy);
                copy_box(to + RING_BOX, map, silu ? w.N / 2 + row : row + 8, 8 * p, full, policy);
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

/* x of a product: [M][ld] in shared memory, in the order above.  from: NULL when all of it is there
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

#define STEP_BATCH 6 /* loads in flight of a thread that fetches x */

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

static __device__ __forceinline__ void store_shared(uint32_t at, uint4 v)
{
    asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
}

/* Columns c0 .. c0 + window - 1 of all tokens into shared memory, by all warps that compute. */
template <int S>
static __device__ __forceinline__ void step_gather(const step_x &x, const step_product &a, int c0)
{
    const uint32_t per = 8 * step_form<S>::J; /* units of 8 values of a column */
    const uint32_t first = (uint32_t)c0 * per, whole = (uint32_t)a.K / 8;
    const uint32_t units = (uint32_t)min(x.window, a.row_bytes / 128 - c0) * per;

#pragma unroll 1
    for (int t = 0; t < a.M; t++) {
        const uint4 *from = (const uint4 *)(x.from + (int64_t)t * a.K) + first;
        const uint32_t to = shared_at(x.shared) + (uint32_t)(2 * t * x.ld);

#pragma unroll 1
        for (uint32_t i = threadIdx.x; i < units; i += STEP_BATCH * 32 * STEP_WARPS) {
            uint4 v[STEP_BATCH];

#pragma unroll
            for (int e = 0; e < STEP_BATCH; e++) {
                const uint32_t at = i + e * 32 * STEP_WARPS;

                v[e] = make_uint4(0, 0, 0, 0);
                if (at < units && first + at < whole)
                    v[e] = __ldcg(from + at);
            }
#pragma unroll
            for (int e = 0; e < STEP_BATCH; e++) {
                const uint32_t at = i + e * 32 * STEP_WARPS;

                if (at < units)
                    store_shared(to + 16 * (step_place<S>(first + at) - first), v[e]);
            }
        }
    }
}

static __device__ __forceinline__ void step_mma(float d[4], const uint32_t a[4], uint32_t b0,
                                                uint32_t b1)
{
    cu_mma(d, a[0], a[1], a[2], a[3], b0, b1);
}

static __device__ __forceinline__ void step_mma(int32_t d[4], const uint32_t a[4], uint32_t b0,
                                                uint32_t b1)
{
    cu_mma_s8(d, a[0], a[1], a[2], a[3], b0, b1);
}

/* Chains of sums of a unit: with few units at hand two take turns, so that none waits for itself.
 */
#define STEP_CHAINS(U) ((U) <= STEP_UNITS / 2 ? 2 : 1)

/* d += 128 bytes of 16 rows of U units times x, an address in shared memory.  The stages are given
 * back when they are read, before the arithmetic is done. */
template <int S, int U>
static __device__ __forceinline__ void step_column(typename step_form<S>::sum d[STEP_UNITS][4],
                                                   const uint32_t w[U], const uint32_t empty[U],
                                                   uint32_t x)
{
    const int J = step_form<S>::J, P = STEP_CHAINS(U);
    const int lane = (int)threadIdx.x % 32, g = lane / 4, q = lane % 4;
    uint4 c[2][U][2], v[2 * J];
    uint32_t o[2][U][4]; /* operands of this step and the next */

#pragma unroll
    for (int s = 0; s < 2; s++)
#pragma unroll
        for (int u = 0; u < U; u++)
#pragma unroll
            for (int b = 0; b < 2; b++)
                c[s][u][b] = load_shared(w[u] + b * RING_BOX + g * 128 + (((2 * q + s) ^ g) << 4));
    __syncwarp();
    if (lane == 0)
#pragma unroll
        for (int u = 0; u < U; u++)
            bar_arrive(empty[u]);
#pragma unroll
    for (int i = 0; i < 2 * J; i++)
        v[i] = load_shared(x + 64 * i);
#pragma unroll
    for (int i = 0; i <= 4 * J; i++) { /* decoding is a step ahead */
#pragma unroll
        for (int u = 0; u < U && i < 4 * J; u++)
#pragma unroll
            for (int b = 0; b < 2; b++)
                gemv_operand<S == CU_W8A8 ? CU_F16 : S>(&c[i / (2 * J)][u][b], i % (2 * J),
                                                        &o[i % 2][u][b], &o[i % 2][u][b + 2]);
#pragma unroll
        for (int u = 0; u < U && i > 0; u++) {
            const int k = i - 1;

            step_mma(d[u * P + k % P], o[k % 2][u], word_of(v[k / 2], 2 * (k % 2)),
                     word_of(v[k / 2], 2 * (k % 2) + 1));
        }
    }
}

/* Columns c0 .. c1 - 1 of U units; the first is the first one in shared memory. */
template <int S, int U>
static __device__ __forceinline__ void step_pieces(ring *r,
                                                   typename step_form<S>::sum d[STEP_UNITS][4],
                                                   const step_product &a, const step_x &x, int c0,
                                                   int c1)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, J = step_form<S>::J;
    /* tokens too many are not stored */
    uint32_t mine = shared_at(x.shared) + (uint32_t)(2 * min(lane / 4, a.M - 1) * x.ld +
                                                     128 * J * warp + 16 * (lane % 4));

#pragma unroll 1
    for (int c = c0 + warp; c < c1 + warp; c += 8, mine += 1024 * J) {
        uint32_t w[U];
        uint32_t empty[U];

#pragma unroll
        for (int u = 0; u < U; u++) {
            int parity;
            const int s = ring_at(*r, u, &parity);

            w[u] = shared_at(r->data) + (uint32_t)(s * RING_STAGE + warp * 1024);
            empty[u] = r->empty + 8 * s;
            bar_wait(r->full + 8 * s, parity);
        }
        if (c < c1)
            step_column<S, U>(d, w, empty, mine);
        else if (lane == 0)
#pragma unroll
            for (int u = 0; u < U; u++)
                bar_arrive(empty[u]);
        __syncwarp();
        ring_step(r, U);
    }
}

/* A product, by the warps that compute.  first: outputs of this thread in the first units, fetched
 * earlier.  sums: see step_store. */
template <int S>
static __device__ __forceinline__ void step_multiply(ring *r, const step_product &a,
                                                     const step_x &x, const step_out &first,
                                                     char *sums)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, g = lane / 4,
              q = lane % 4;
    const int units = step_units(a.N, a.epi), begin = step_from(units, (int)blockIdx.x),
              end = step_from(units, (int)blockIdx.x + 1);
    const int cols = a.epi == RT_EPI_SILU_MUL ? 8 : 16, columns = a.row_bytes / 128;
    typedef typename step_form<S>::sum sum_t;
    sum_t *sum = (sum_t *)sums;

#pragma unroll 1
    for (int u0 = begin; u0 < end; u0 += STEP_UNITS) {
        const int n = min(STEP_UNITS, end - u0);
        sum_t d[STEP_UNITS][4];
        step_out out = first;

#pragma unroll
        for (int i = 0; i < 4 * STEP_UNITS; i++)
            d[i / 4][i % 4] = 0;
        if (u0 > begin)
            step_fetch(&out, a, u0, n, (int)threadIdx.x);
#pragma unroll 1
        for (int c0 = 0; c0 < columns; c0 += x.window) {
            const int c1 = min(c0 + x.window, columns);

            if (x.from && (u0 == begin || x.window < columns)) {
                if (c0 > 0)
                    step_meet(); /* everybody is through with the last one */
                step_gather<S>(x, a, c0);
                step_meet();
            }
            switch (n) {
            case 1:
                step_pieces<S, 1>(r, d, a, x, c0, c1);
                break;
            case 2:
                step_pieces<S, 2>(r, d, a, x, c0, c1);
                break;
            case 3:
                step_pieces<S, 3>(r, d, a, x, c0, c1);
                break;
            default:
                step_pieces<S, 4>(r, d, a, x, c0, c1);
                break;
            }
        }
#pragma unroll
        for (int i = 0; i < 2 * STEP_UNITS && n <= 2; i++)
            d[i / 4][i % 4] = d[i / 4 * 2][i % 4] + d[i / 4 * 2 + 1][i % 4];
#pragma unroll
        for (int u = 0; u < STEP_UNITS; u++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int t = 2 * q + e % 2;

                if (u < n && t < a.M)
                    sum[((u * STEP_WARPS + warp) * a.M + t) * 16 + g + e / 2 * 8] = d[u][e];
            }
        step_meet();
        step_store(a, out, x, sum, u0, n, (int)threadIdx.x);
#pragma unroll 1
        for (int i = (int)threadIdx.x + 32 * STEP_WARPS; i < STEP_UNITS * cols * a.M;
             i += 32 * STEP_WARPS) {
            step_fetch(&out, a, u0, n, i);
            step_store(a, out, x, sum, u0, n, i);
        }
        step_meet(); /* the next units overwrite the sums */
    }
}
#endif

#endif
