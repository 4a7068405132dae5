/* Products of the persistent decode kernel: y = x W' with the weights taken from the ring.
 *
 * A block owns units of 16 rows of W (gate and up: 8 rows of each, so that a lane ends up with
 * both) and takes up to STEP_UNITS of them at once, a piece of 1 KB of K after the other.  Two
 * teams of 8 warps share the units, every second one each; a warp has 128 bytes of each piece.  So
 * what a lane reads of x serves up to 3 units, and sums live in registers until K is through.
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
 * of its columns at a time where it is too long. */
#ifndef STEP_PRODUCT_CUH
#define STEP_PRODUCT_CUH

#include "runtime/cuda/gemv.cuh"
#include "runtime/cuda/step.h"
#include "runtime/cuda/step_ring.cuh"

template <int S> struct step_form {
    static const int J = S == CU_F16 ? 1 : S == CU_W8 ? 2 : 4;
};

/* Place of values 8 v .. 8 v + 7 of x in shared memory, in units of 8. */
template <int S> static __device__ __forceinline__ int step_place(int v)
{
    const int J = step_form<S>::J, c = v / (4 * J), o = v % (4 * J), j = o / 4, p = o % 4;

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

/* Output i of the units from u0 on: row, then token, then unit. */
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
    s.r = i % s.cols;
    s.t = i / s.cols % a.M;
    s.u = i / s.cols / a.M;
    s.n_cols = silu ? a.N / 2 : a.N;
    s.n = (int64_t)(u0 + s.u) * s.cols + s.r;
    s.valid = s.u < n && s.n < s.n_cols;
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

/* sum [unit][STEP_WARPS][M][16]: the parts in order of the warps, scale, bias, and what y wants. */
static __device__ __forceinline__ void step_store(const step_product &a, const step_out &o,
                                                  const float *sum, int u0, int n, int i)
{
    const step_spot s = step_spot_of(a, u0, n, i);
    const int silu = a.epi == RT_EPI_SILU_MUL;
    const int64_t at = s.t * s.n_cols + s.n;
    float v[2] = { 0, 0 };

    if (!s.valid)
        return;
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int w = 0; w < STEP_WARPS && h <= silu; w++)
            v[h] += sum[((s.u * STEP_WARPS + w) * a.M + s.t) * 16 + s.r + 8 * h];
        v[h] = v[h] * o.scale[h] + o.bias[h];
    }
    if (a.epi == RT_EPI_ADD)
        ((float *)a.y)[at] = o.y + v[0];
    else
        ((__half *)a.y)[at] = cu_half(silu ? v[0] / (1.0f + __expf(-v[0])) * v[1] : v[0]);
}

/* x of a product: [M][ld] in shared memory, in the order above.  from: NULL when all of it is there
 * already, else [M, K] f16 in memory, fetched `window` columns of 128 bytes at a time. */
typedef struct step_x {
    __half *shared;
    const __half *from;
    int ld, window;
} step_x;

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

/* Columns c0 .. c0 + window - 1 of all tokens into shared memory, by all warps that compute. */
template <int S>
static __device__ __forceinline__ void step_gather(const step_x &x, const step_product &a, int c0)
{
    const int per = 8 * step_form<S>::J, first = c0 * per; /* units of 8 values of a column */
    const int units = min(x.window, a.row_bytes / 128 - c0) * per;

#pragma unroll 4
    for (int i = (int)threadIdx.x; i < a.M * units; i += 32 * STEP_WARPS) {
        const int t = i / units, v = first + i % units;

        *(uint4 *)(x.shared + t * x.ld + 8 * (step_place<S>(v) - first)) =
            8 * v < a.K ? __ldcg((const uint4 *)(x.from + (int64_t)t * a.K) + v)
                        : make_uint4(0, 0, 0, 0);
    }
}

/* Before column c0: the window that begins there. */
template <int S>
static __device__ __forceinline__ void step_turn_window(const step_x &x, const step_product &a,
                                                        int c0)
{
    if (!x.from || c0 % x.window != 0)
        return;
    if (c0 > 0)
        step_meet(); /* everybody is through with the last one */
    step_gather<S>(x, a, c0);
    step_meet();
}

/* Volatile, so that the second half is not read before the first is used: registers. */
static __device__ __forceinline__ uint4 load_shared(uint32_t at)
{
    uint4 v;

    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(at));
    return v;
}

/* Chains of sums of a unit: with few units at hand two take turns, so that none waits for itself.
 */
#define STEP_CHAINS(U) ((U) <= STEP_UNITS / 2 ? 2 : 1)

/* d += 128 bytes of 16 rows of U units times x.  The stages are given back when they are read,
 * before the arithmetic is done. */
template <int S, int U>
static __device__ __forceinline__ void step_column(float d[STEP_UNITS][4], const uint32_t w[U],
                                                   const uint32_t empty[U], const __half *x)
{
    const int J = step_form<S>::J, P = STEP_CHAINS(U);
    const int lane = (int)threadIdx.x % 32, g = lane / 4, q = lane % 4;

#pragma unroll
    for (int s = 0; s < 2; s++) {
        const int at = g * 128 + (((2 * q + s) ^ g) << 4);
        uint4 w0[U], w1[U];

#pragma unroll
        for (int u = 0; u < U; u++) {
            w0[u] = load_shared(w[u] + at);
            w1[u] = load_shared(w[u] + RING_BOX + at);
        }
        if (s == 1) {
            __syncwarp();
            if (lane == 0)
#pragma unroll
                for (int u = 0; u < U; u++)
                    bar_arrive(empty[u]);
        }
#pragma unroll
        for (int j = 0; j < J; j++) {
            const uint4 v = *(const uint4 *)(x + ((s * J + j) * 4 + q) * 8);

#pragma unroll
            for (int h = 0; h < 2; h++)
#pragma unroll
                for (int u = 0; u < U; u++) {
                    uint32_t a0, a1, a2, a3;

                    gemv_operand<S>(&w0[u], 2 * j + h, &a0, &a2);
                    gemv_operand<S>(&w1[u], 2 * j + h, &a1, &a3);
                    cu_mma(d[u * P + h % P], a0, a1, a2, a3, word_of(v, 2 * h),
                           word_of(v, 2 * h + 1));
                }
        }
    }
}

/* All pieces of U units. */
template <int S, int U>
static __device__ __forceinline__ void step_pieces(ring *r, float d[STEP_UNITS][4],
                                                   const step_product &a, const step_x &x)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int columns = a.row_bytes / 128, P = STEP_CHAINS(U);
    /* tokens too many are not stored */
    const __half *mine = x.shared + min(lane / 4, a.M - 1) * x.ld + warp * 64 * step_form<S>::J;

    for (int c0 = 0; c0 < columns; c0 += 8) {
        uint32_t w[U];
        uint32_t empty[U];

        step_turn_window<S>(x, a, c0);
#pragma unroll
        for (int u = 0; u < U; u++) {
            int parity;
            const int s = ring_at(*r, u, &parity);

            w[u] = shared_at(r->data) + (uint32_t)(s * RING_STAGE + warp * 1024);
            empty[u] = r->empty + 8 * s;
            bar_wait(r->full + 8 * s, parity);
        }
        if (c0 + warp < columns)
            step_column<S, U>(d, w, empty, mine + c0 % x.window * 64 * step_form<S>::J);
        else if (lane == 0)
#pragma unroll
            for (int u = 0; u < U; u++)
                bar_arrive(empty[u]);
        __syncwarp();
        ring_step(r, U);
    }
#pragma unroll
    for (int u = 0; u < U && P == 2; u++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            d[u][i] = d[2 * u][i] + d[2 * u + 1][i];
}

/* A product, by the warps that compute.  first: outputs of this thread in the first units, fetched
 * earlier.  sum: see step_store. */
template <int S>
static __device__ __forceinline__ void step_multiply(ring *r, const step_product &a,
                                                     const step_x &x, const step_out &first,
                                                     float *sum)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, g = lane / 4,
              q = lane % 4;
    const int units = step_units(a.N, a.epi), begin = step_from(units, (int)blockIdx.x),
              end = step_from(units, (int)blockIdx.x + 1);
    const int cols = a.epi == RT_EPI_SILU_MUL ? 8 : 16;

    for (int u0 = begin; u0 < end; u0 += STEP_UNITS) {
        const int n = min(STEP_UNITS, end - u0);
        float d[STEP_UNITS][4];
        step_out out = first;

#pragma unroll
        for (int i = 0; i < 4 * STEP_UNITS; i++)
            d[i / 4][i % 4] = 0;
        if (u0 > begin)
            step_fetch(&out, a, u0, n, (int)threadIdx.x);
        switch (n) {
        case 1:
            step_pieces<S, 1>(r, d, a, x);
            break;
        case 2:
            step_pieces<S, 2>(r, d, a, x);
            break;
        case 3:
            step_pieces<S, 3>(r, d, a, x);
            break;
        default:
            step_pieces<S, 4>(r, d, a, x);
            break;
        }
#pragma unroll
        for (int u = 0; u < STEP_UNITS; u++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int t = 2 * q + e % 2;

                if (u < n && t < a.M)
                    sum[((u * STEP_WARPS + warp) * a.M + t) * 16 + g + e / 2 * 8] = d[u][e];
            }
        step_meet();
        step_store(a, out, sum, u0, n, (int)threadIdx.x);
        for (int i = (int)threadIdx.x + 32 * STEP_WARPS; i < n * cols * a.M; i += 32 * STEP_WARPS) {
            step_fetch(&out, a, u0, n, i);
            step_store(a, out, sum, u0, n, i);
        }
        step_meet(); /* the next units overwrite the sums */
    }
}
#endif

#endif
