/* y = x W' of int8 codes for many tokens on sm_90: wgmma fed by the copy engine.
 *
 * Two blocks work side by side as a cluster on 256 tokens and 256 rows of W, each on its 128
 * tokens:
 *
 *            256 rows of W             per step of 128 k: a block loads its own x (16 KiB) and half
 *          +---------------+           of W (16 KiB), which lands in both blocks; so L2 is read for
 *   block0 | 128 tokens    |           two blocks what one would need for W
 *          +---------------+
 *   block1 | 128 tokens    |           wgmma m64n256k32: consumer c of a block has tokens 64 c ..
 *          +---------------+           64 c + 63 and all 256 rows: 128 sums a thread
 *
 * A block is 3 warpgroups: one thread of the first fills a ring of 4 stages, the other two compute.
 * full[s]: the stage's 48 KiB are there; empty[s]: the consumers of both blocks are done with it,
 * because the other block's copies land here as well.  Clusters are as many as fit and take tiles
 * in turn, 8 tiles of tokens deep, so that what runs at one time shares its rows in L2; copies for
 * the next tile start while this one is stored.
 *
 * The 256 rows are two boxes of 128: neighbours, or for SILU_MUL 128 gate rows and the same up
 * rows, so that a thread ends up with both.  Halves leave in 16-byte pieces: four lanes of a row
 * exchange their pairs first.
 *
 * Built for sm_90a alone: clusters and wgmma are nowhere else.  Sources: PTX ISA, wgmma, mbarrier
 * and cp.async.bulk.tensor. */
#include "runtime/cuda/cu_map.h"
#include "runtime/cuda/cu_w8a8.h"
#include "runtime/cuda/wgmma.cuh"

#define BLOCK_M 128 /* tokens of a block */
#define BOX     128 /* rows of W of a box; two make a tile */
#define STEP    128 /* bytes of K */
#define STAGES  4
#define DEPTH   8 /* tiles of tokens that run together */
#define X_BYTES (BLOCK_M * STEP)
#define W_BYTES (BOX * STEP)
#define STAGE   (X_BYTES + 2 * W_BYTES)
#define SHARED  (STAGES * STAGE + 1024) /* stages start at multiples of 1024 */

typedef struct gemm_args {
    const float *xs, *scale, *bias;
    void *y;
    int64_t ldy;          /* elements of a row of y */
    int M, cols;          /* columns of y */
    int up;               /* first row of the second box, beyond the first's: BOX or N / 2 */
    int steps;            /* of K */
    int m_tiles, n_tiles; /* of a cluster */
    int wide;             /* columns are a multiple of 8: 16-byte stores */
} gemm_args;

/* tile t: its first token (of the cluster) and first column */
static __device__ __forceinline__ void place(const gemm_args &a, int t, int width, int *m, int *n)
{
    const int per = DEPTH * a.n_tiles, first = t / per * DEPTH;
    const int deep = min(DEPTH, a.m_tiles - first), r = t % per;

    *m = (first + r % deep) * 2 * BLOCK_M;
    *n = r / deep * width;
}

/* Column n (even) and n + 1 of row m, one value at a time: what is not aligned, and the edge. */
template <int EPI>
static __device__ void store_slow(const gemm_args &a, int m, int n, float v0, float v1)
{
    for (int e = 0; e < 2; e++) {
        const float v = e ? v1 : v0;
        const int64_t at = m * a.ldy + n + e;

        if (m >= a.M || n + e >= a.cols)
            continue;
        if (EPI == RT_EPI_F32)
            ((float *)a.y)[at] = v;
        else if (EPI == RT_EPI_ADD)
            ((float *)a.y)[at] += v;
        else
            ((__half *)a.y)[at] = cu_half(v);
    }
}

template <int EPI> static __device__ __forceinline__ void store_f32(float2 *to, float v0, float v1)
{
    if (EPI != RT_EPI_ADD)
        *to = make_float2(v0, v1);
    else /* formed in L2: nobody waits (out 152 -> 88 us), and one addition has no order */
        asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(to), "f"(v0), "f"(v1)
                     : "memory");
}

/* 32 columns from n on of rows m and m + 8: v[j] are columns n + 8 j + 2 q, + 1 of both rows. */
template <int EPI>
static __device__ __forceinline__ void store32(const gemm_args &a, int m, int n, float v[4][4])
{
    const int q = (int)threadIdx.x % 4;

    if (!a.wide) {
        for (int j = 0; j < 4; j++)
            for (int h = 0; h < 2; h++)
                store_slow<EPI>(a, m + 8 * h, n + 8 * j + 2 * q, v[j][2 * h], v[j][2 * h + 1]);
        return;
    }
#pragma unroll
    for (int h = 0; h < 2; h++)
        if constexpr (EPI == RT_EPI_NONE || EPI == RT_EPI_SILU_MUL) {
            const uint4 w = wgmma_turn4(cu_as_u32(cu_halves(v[0][2 * h], v[0][2 * h + 1])),
                                        cu_as_u32(cu_halves(v[1][2 * h], v[1][2 * h + 1])),
                                        cu_as_u32(cu_halves(v[2][2 * h], v[2][2 * h + 1])),
                                        cu_as_u32(cu_halves(v[3][2 * h], v[3][2 * h + 1])));

            if (m + 8 * h < a.M && n + 8 * q < a.cols)
                *(uint4 *)((__half *)a.y + (m + 8 * h) * a.ldy + n + 8 * q) = w;
        } else {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float2 *to = (float2 *)((float *)a.y + (m + 8 * h) * a.ldy + n + 8 * j + 2 * q);

                if (m + 8 * h < a.M && n + 8 * j < a.cols)
                    store_f32<EPI>(to, v[j][2 * h], v[j][2 * h + 1]);
            }
        }
}

/* sum * (scale of the row of W * scale of the token) + bias; every operation rounds once */
static __device__ __forceinline__ float scaled(int sum, float scale, float xs, float bias)
{
    return __fadd_rn(__fmul_rn((float)sum, __fmul_rn(scale, xs)), bias);
}

/* Scale and bias of the tile's rows of W: what a thread keeps during the products, for two of them,
 * and where all threads of a consumer find them afterwards: pairs of columns, {scale, scale, bias,
 * bias}. */
typedef struct ends {
    float2 scale, bias;
} ends;

template <int EPI> static __device__ __forceinline__ ends load_ends(const gemm_args &a, int n)
{
    const int in = (int)threadIdx.x % 128, at = n + 2 * (in % 64) + (in < 64 ? 0 : a.up);
    const int end = EPI == RT_EPI_SILU_MUL && in >= 64 ? 2 * a.cols : a.cols;
    ends e;

    e.scale.x = at < end ? a.scale[at] : 0;
    e.scale.y = at + 1 < end ? a.scale[at + 1] : 0;
    e.bias.x = a.bias && at < end ? a.bias[at] : 0;
    e.bias.y = a.bias && at + 1 < end ? a.bias[at + 1] : 0;
    return e;
}

/* the two columns of 4 sums of a thread, s: their scales and biases */
static __device__ __forceinline__ void scale4(float v[4], const int32_t *d, const float4 &s,
                                              const float xs[2])
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        v[i] = scaled(d[i], i % 2 ? s.y : s.x, xs[i / 2], i % 2 ? s.w : s.z);
}

template <int EPI>
static __device__ __forceinline__ void store_tile(const gemm_args &a, const int32_t d[128],
                                                  const float4 *end, int m, int n)
{
    const int q = (int)threadIdx.x % 4, blocks = EPI == RT_EPI_SILU_MUL ? 4 : 8;
    const float xs[2] = { m < a.M ? a.xs[m] : 0, m + 8 < a.M ? a.xs[m + 8] : 0 };

#pragma unroll
    for (int b = 0; b < blocks; b++) {
        float v[4][4];

#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int at = 4 * b + j; /* 8 columns of the tile */

            scale4(v[j], d + 4 * at, end[4 * at + q], xs);
            if constexpr (EPI == RT_EPI_SILU_MUL) {
                float u[4];

                scale4(u, d + 64 + 4 * at, end[64 + 4 * at + q], xs);
#pragma unroll
                for (int i = 0; i < 4; i++)
                    v[j][i] = __fdividef(v[j][i], 1.0f + __expf(-v[j][i])) * u[i];
            }
        }
        store32<EPI>(a, m, n + 32 * b, v);
    }
}

typedef struct ring {
    uint32_t stage, full, empty; /* addresses in shared memory */
} ring;

static __device__ __forceinline__ void produce(const gemm_args &a, const ring &r,
                                               const CUtensorMap *x, const CUtensorMap *w,
                                               int width)
{
    const uint32_t rank = cluster_rank();
    int i = 0;

    cu_wait();
    for (int t = (int)cluster_id(); t < a.m_tiles * a.n_tiles; t += (int)n_clusters()) {
        int m, n;

        place(a, t, width, &m, &n);
        for (int k = 0; k < a.steps; k++, i++) {
            const int s = i % STAGES;
            const uint32_t to = r.stage + s * STAGE, full = r.full + 8 * s;

            barrier_wait(r.empty + 8 * s, ~(i / STAGES) & 1);
            barrier_expect(full, STAGE);
            copy_box(to, x, k * STEP, m + (int)rank * BLOCK_M, full);
            copy_box_all(to + X_BYTES + rank * W_BYTES, w, k * STEP, n + (rank ? a.up : 0), full,
                         3);
        }
    }
}

template <int EPI>
static __device__ __forceinline__ void consume(const gemm_args &a, const ring &r, float4 *end,
                                               int width)
{
    const int group = (int)threadIdx.x / 128 - 1, in = (int)threadIdx.x % 128;
    const uint32_t rank = cluster_rank();
    int32_t d[128];
    int i = 0;

    end += group * 128;
    cu_wait();
    for (int t = (int)cluster_id(); t < a.m_tiles * a.n_tiles; t += (int)n_clusters()) {
        int m, n;
        ends e;

        place(a, t, width, &m, &n);
        e = load_ends<EPI>(a, n);
        for (int k = 0; k < a.steps; k++, i++) {
            const int s = i % STAGES;
            const uint32_t at = r.stage + s * STAGE;

            barrier_wait(r.full + 8 * s, i / STAGES & 1);
            wgmma_begin();
#pragma unroll
            for (int j = 0; j < STEP / 32; j++)
                wgmma_s8(d, operand(at + group * 64 * STEP + 32 * j),
                         operand(at + X_BYTES + 32 * j), k > 0 || j > 0);
            wgmma_end();
            wgmma_wait<1>(); /* the step before is done: its stage is free in both blocks */
            if (k > 0 && in < 2)
                barrier_arrive_at(r.empty + 8 * ((i - 1) % STAGES), (uint32_t)in);
        }
        wgmma_wait<0>();
        if (in < 2)
            barrier_arrive_at(r.empty + 8 * ((i - 1) % STAGES), (uint32_t)in);
        group_sync(group); /* all have read what the tile before left */
        end[in] = make_float4(e.scale.x, e.scale.y, e.bias.x, e.bias.y);
        group_sync(group);
        store_tile<EPI>(a, d, end,
                        m + (int)rank * BLOCK_M + group * 64 + in / 32 * 16 + in % 32 / 4, n);
    }
}

template <int EPI>
static __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1)
    gemm_w8a8(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap w,
              const gemm_args a)
{
    extern __shared__ uint8_t shared[];
    __shared__ __align__(8) uint64_t barrier[2 * STAGES];
    __shared__ float4 end[2 * 128];
    const int width = EPI == RT_EPI_SILU_MUL ? BOX : 2 * BOX;
    ring r;

    r.stage = (shared_address(shared) + 1023) / 1024 * 1024;
    r.full = shared_address(barrier);
    r.empty = r.full + 8 * STAGES;
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            barrier_make(r.full + 8 * s, 1);
            barrier_make(r.empty + 8 * s, 4); /* two consumers of two blocks */
        }
        barrier_made();
    }
    cluster_sync();
    if (threadIdx.x < 128) {
        registers_down<40>();
        if (threadIdx.x == 0)
            produce(a, r, &x, &w, width);
        __syncwarp(); /* cluster_sync is for whole warps */
    } else {
        registers_up<232>();
        consume<EPI>(a, r, end, width);
    }
    cluster_sync(); /* the other block still writes into this one */
}

template <int EPI> static q_status launch(const cu_be *c, const cu_w8a8 *g, gemm_args a, q_err *err)
{
    q_status st = Q_OK;
    const int width = EPI == RT_EPI_SILU_MUL ? BOX : 2 * BOX;
    int64_t tiles, clusters = c->sms / 2;
    CUtensorMap x, w;

    a.m_tiles = (int)((g->M + 2 * BLOCK_M - 1) / (2 * BLOCK_M));
    a.n_tiles = (a.cols + width - 1) / width;
    tiles = (int64_t)a.m_tiles * a.n_tiles;
    clusters = tiles < clusters ? tiles : clusters;
    Q_TRY(cu_map_bytes(&x, g->x, g->M, g->ld, g->ld, BLOCK_M, err));
    Q_TRY(cu_map_bytes(&w, g->w, g->N, g->ld, g->ld, BOX, err));
    CU_TRY(
        cudaFuncSetAttribute(gemm_w8a8<EPI>, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED));
    CU_LAUNCH(c, gemm_w8a8<EPI>, dim3((unsigned)(2 * clusters)), dim3(384), SHARED, x, w, a);
out:
    return st;
}

extern "C" q_status cu_w8a8_gemm(const cu_be *c, const cu_w8a8 *g, q_err *err)
{
    const int64_t cols = g->epi == RT_EPI_SILU_MUL ? g->N / 2 : g->N;
    gemm_args a;

    a.xs = g->xs;
    a.scale = g->scale;
    a.bias = g->bias;
    a.y = g->y;
    a.ldy = cols;
    a.M = (int)g->M;
    a.cols = (int)cols;
    a.up = g->epi == RT_EPI_SILU_MUL ? (int)cols : BOX;
    a.steps = (int)(g->ld / STEP);
    a.m_tiles = a.n_tiles = 0;
    a.wide = cols % 8 == 0;
    switch (g->epi) {
    case RT_EPI_F32:
        return launch<RT_EPI_F32>(c, g, a, err);
    case RT_EPI_ADD:
        return launch<RT_EPI_ADD>(c, g, a, err);
    case RT_EPI_SILU_MUL:
        return launch<RT_EPI_SILU_MUL>(c, g, a, err);
    default:
        return launch<RT_EPI_NONE>(c, g, a, err);
    }
}
