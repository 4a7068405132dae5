/* y = x W' for 9 .. 64 tokens on Hopper: one kernel template for f16, w8, w4, w8g, w4g and w8a8.
 *
 * What stops gemv.cuh from 9 tokens on is x: every block reads all of it again, which is more than
 * the weights are.  Here a block keeps its part of x in shared memory:
 *
 *              K                    S blocks are a team.  Each has a slice of K, and the tiles of
 * 64
 *        +----------+----------+    rows of its team one after the other; it reads its slice of x
 *      64|       team 0        |    once.  Its 4 warpgroups take chunks of the slice in turn, and
 *        +----------+----------+    their sums are added in shared memory.  What the blocks have of
 *      64|       team 1        |    a tile goes to memory (it stays in L2).  When a team has all
 * its
 *        +----------+----------+    tiles, its blocks add them up, in order of the slices, a share
 *                                   each: a team waits once, not at every tile.
 *
 * The blocks of a team wait for each other, so all have to be there at once: no more than there are
 * multiprocessors.  Weights are the operand in registers: codes become halves once and meet all
 * tokens in one wgmma.  They reach a thread through a ring of its own in shared memory (cp.async),
 * so no warp waits for another.  A chunk is 64 bytes of each row, 16 a lane, and stands in the
 * order of gemv.cuh: lane q of 4 has the words 4 q .. 4 q + 3 of a block of 64 bytes of x, and word
 * i of all lanes is half a product's k.  So x is stored with each block turned: word i of q becomes
 * word q of unit i.  Groups: scales and zeros come through the ring too, and weights are rounded to
 * f16 as in the strips of linear.cu.  FINE: groups may end inside a chunk, at multiples of 32
 * columns.
 *
 * SILU_MUL: rows 0 .. 7 of a warp's 16 are gate rows and 8 .. 15 the same up rows.  The ring is
 * filled before cu_wait(), while the kernel before still runs. */
#ifndef GEMM_FEW_CUH
#define GEMM_FEW_CUH

#include <string.h>

#include "runtime/cuda/few_sums.cuh"
#include "runtime/cuda/gemv.cuh"

static __device__ __forceinline__ void few_copy16(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from)
                 : "memory");
}

static __device__ __forceinline__ void few_copy8(uint32_t to, const void *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to), "l"(from) : "memory");
}

static __device__ __forceinline__ void few_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int LEFT> static __device__ __forceinline__ void few_arrived(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

static __device__ __forceinline__ uint4 few_read16(uint32_t at)
{
    uint4 v;

    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(at));
    return v;
}

/* What a warpgroup does: every FEW_WG-th chunk from .. to - 1, of tiles in steps of `step`. */
typedef struct few_share {
    int from, to, tile, step;
} few_share;

/* The next chunk to load: its tile, chunk, rows of this lane and slabs of 8 rows of its groups. */
typedef struct few_next {
    const char *row[2];
    int64_t slab[2];
    int tile, chunk, stage;
} few_next;

static __device__ __forceinline__ void few_rows(few_next &n, const cu_few &a)
{
    const int g = (int)threadIdx.x % 32 / 4, q = (int)threadIdx.x % 4;
    const int warp = (int)threadIdx.x / 32 % 4, silu = a.epi == RT_EPI_SILU_MUL;
    const int64_t end = silu ? a.N / 2 : a.N;

#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int64_t first =
            silu ? (int64_t)n.tile * 32 + 8 * warp : (int64_t)n.tile * 64 + 16 * warp + 8 * h;
        const int64_t up = silu && h ? end : 0;

        /* a row too much is computed and not stored */
        n.row[h] = a.w + (min(first + g, end - 1) + up) * a.row_bytes + 16 * q;
        n.slab[h] = (min(first, end - 1) + up) / 8;
    }
}

/* Starts the loads of the next chunk, if there is one; counts as a group of copies in any case. */
template <int S, int FINE>
static __device__ __forceinline__ void few_load(few_next &n, const cu_few &a, const few_share &s,
                                                uint32_t ring, uint32_t groups)
{
    const int tid = (int)threadIdx.x, lane = tid % 32, warp = tid / 32;
    const int per = FINE ? few_form<S>::blocks : 1;

    if (n.tile < a.tiles) {
#pragma unroll
        for (int h = 0; h < 2; h++)
            few_copy16(ring + (uint32_t)((n.stage * 2 + h) * FEW_THREADS + tid) * 16,
                       n.row[h] + (int64_t)n.chunk * 64);
        if (few_form<S>::grouped && lane < 2 * per) {
            const int h = lane % 2, k = (n.chunk * few_form<S>::blocks + lane / 2) * 32;
            const int64_t at = (h ? n.slab[1] : n.slab[0]) * a.G + min(k >> a.shift, a.G - 1);
            const uint32_t to =
                groups + (uint32_t)(((n.stage * 4 * FEW_WG + warp) * per * 2 + lane) * FEW_GROUP);

            few_copy8(to, (const char *)a.scale16 + 16 * at);
            few_copy8(to + 8, (const char *)a.scale16 + 16 * at + 8);
            if (a.zero)
                few_copy8(to + 16, a.zero + 8 * at);
        }
        n.chunk += FEW_WG;
        if (n.chunk >= s.to) {
            n.chunk = s.from;
            n.tile += s.step;
            few_rows(n, a);
        }
    }
    few_commit();
    n.stage = n.stage + 1 == FEW_RING ? 0 : n.stage + 1;
}

/* Scale, twice, and zero of a lane's row. */
typedef struct few_scale {
    __half2 scale;
    cu_zero zero;
} few_scale;

static __device__ __forceinline__ few_scale few_scale_at(uint32_t at, int g, int zeros,
                                                         uint32_t middle)
{
    few_scale r;
    uint32_t z = middle & 255;
    uint16_t s;

    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(s) : "r"(at + 2 * (uint32_t)g));
    if (zeros)
        asm volatile("ld.shared.u8 %0, [%1];" : "=r"(z) : "r"(at + 16 + (uint32_t)g));
    /* sums are divided by scales: the least half stands for a zero */
    r.scale = __half2half2(__ushort_as_half((unsigned short)(s & 0x7fff ? s : 1)));
    r.zero = cu_zero_of(__half2half2(__ushort_as_half((unsigned short)(0x6400 + z))));
    return r;
}

static __device__ __forceinline__ uint32_t few_times(uint32_t v, __half2 scale)
{
    return cu_as_u32(__hmul2(cu_as_half2(v), scale));
}

/* Sums in units of the scales of the next chunk's group, as in gemv.cuh. */
template <int NT>
static __device__ __forceinline__ void few_units(float d[NT][4], float unit[2],
                                                 const few_scale sc[2])
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float scale = __low2float(sc[h].scale), factor = __fdividef(unit[h], scale);

        unit[h] = scale;
#pragma unroll
        for (int j = 0; j < NT; j++) {
            d[j][2 * h] *= factor;
            d[j][2 * h + 1] *= factor;
        }
    }
}

/* The operands of a chunk: w are its 16 bytes of both rows.  FINE: weights times their scale. */
template <int S, int FINE>
static __device__ __forceinline__ void few_decode(uint32_t op[][4], const uint4 w[2],
                                                  const few_scale sc[][2])
{
#pragma unroll
    for (int s = 0; s < 2 * few_form<S>::blocks; s++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            if (few_form<S>::bytes) {
                op[s][h] = word_of(w[h], 2 * s);
                op[s][2 + h] = word_of(w[h], 2 * s + 1);
            } else if (few_form<S>::grouped) {
                const few_scale &f = sc[FINE ? s / 2 : 0][h];

                gemv_operand<S>(&w[h], s, f.zero, &op[s][h], &op[s][2 + h]);
                if (FINE) {
                    op[s][h] = few_times(op[s][h], f.scale);
                    op[s][2 + h] = few_times(op[s][2 + h], f.scale);
                }
            } else {
                gemv_operand<S>(&w[h], s, &op[s][h], &op[s][2 + h]);
            }
}

/* d += the chunk of W in stage `stage` times x, whose units for it start at operand b. */
template <int S, int FINE, int NT>
static __device__ __forceinline__ void few_multiply(typename few_sum<S == CU_W8A8>::type d[NT][4],
                                                    float unit[2], const cu_few &a, uint32_t ring,
                                                    uint32_t groups, int stage, uint64_t b)
{
    const int blocks = few_form<S>::blocks, tid = (int)threadIdx.x;
    const int per = FINE ? blocks : 1;
    uint4 w[2];
    uint32_t op[2 * blocks][4];
    few_scale sc[per][2];

#pragma unroll
    for (int h = 0; h < 2; h++)
        w[h] = few_read16(ring + (uint32_t)((stage * 2 + h) * FEW_THREADS + tid) * 16);
    if constexpr (few_form<S>::grouped) {
#pragma unroll
        for (int i = 0; i < 2 * per; i++)
            sc[i / 2][i % 2] = few_scale_at(
                groups + (uint32_t)(((stage * 4 * FEW_WG + tid / 32) * per * 2 + i) * FEW_GROUP),
                tid % 32 / 4, a.zero != NULL, a.middle);
        if constexpr (!FINE)
            few_units<NT>(d, unit, sc[0]);
    }
    few_decode<S, FINE>(op, w, sc);
    wgmma_begin();
#pragma unroll
    for (int s = 0; s < 2 * blocks; s++)
        few_mma<NT>(d, op[s], b + (uint64_t)(2 * 8 * NT * s));
    wgmma_end();
    wgmma_wait<0>();
}

/* The slice of x into shared memory: unit u, token t at (8 NT u + t) * 16.  What is behind the end
 * of a row is zero; columns without a token repeat the last one and are not stored. */
template <int NT>
static __device__ __forceinline__ void few_stage(const cu_few &a, char *x, int from, int blocks)
{
    const int q = (int)threadIdx.x % 4, t8 = (int)threadIdx.x % 32 / 4;
    const int warps = FEW_THREADS / 32, n = blocks * NT,
              shift = (int)(blockIdx.x * 5 % 64) * n / 64;

#pragma unroll 8
    for (int j = (int)threadIdx.x / 32; j < n; j += warps) {
        /* each block begins elsewhere: not all at the same lines of L2 */
        const int i = j + shift < n ? j + shift : j + shift - n, t = i % NT * 8 + t8,
                  block = i / NT;
        const int64_t at = (int64_t)(from + block) * 64 + 16 * q;
        uint4 v = make_uint4(0, 0, 0, 0);

        if (at < a.x_bytes)
            v = *(const uint4 *)(a.x + min(t, a.M - 1) * a.x_bytes + at);
#pragma unroll
        for (int e = 0; e < 4; e++)
            *(uint32_t *)(x + ((4 * block + e) * 8 * NT + t) * 16 + 4 * q) = word_of(v, e);
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); /* wgmma reads it */
    __syncthreads();
}

template <int S, int FINE, int NT>
static __global__ void __launch_bounds__(FEW_THREADS, 1) few(const cu_few a)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    const int blocks = few_form<S>::blocks, bytes = few_form<S>::bytes;
    extern __shared__ __align__(128) char shared[];
    __shared__ uint64_t barriers[4];
    const uint32_t ring = shared_address(shared), groups = ring + a.at_groups;
    const int slice = (int)blockIdx.x % a.slices, team = (int)blockIdx.x / a.slices;
    const int n_teams = (int)gridDim.x / a.slices;
    const int from = (int)((int64_t)a.chunks * slice / a.slices);
    /* by way of a shuffle: the compiler then knows that it is the same for a warp */
    const int wg = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0);
    const few_share share = { from + wg, (int)((int64_t)a.chunks * (slice + 1) / a.slices), team,
                              n_teams };
    typename few_sum<bytes>::type d[NT][4];
    few_sums sums = { (float *)(shared + a.at_sums), shared_address(barriers),
                      shared_address(barriers + 2), 0, wg };
    float unit[2] = { 1, 1 };
    few_next next;
    int stage = 0;

    next.tile = share.from < share.to ? team : a.tiles;
    next.chunk = share.from;
    next.stage = 0;
    few_rows(next, a);
    if (threadIdx.x < 4) /* arrivals of threads; the first use is behind few_stage */
        barrier_make(shared_address(barriers + threadIdx.x), threadIdx.x < 2 ? FEW_THREADS : 128);
    for (int i = 0; i < FEW_RING; i++)
        few_load<S, FINE>(next, a, share, ring, groups);
    cu_wait();
    few_stage<NT>(a, shared + a.at_x, from * blocks, (share.to - from) * blocks);
    for (int tile = team; tile < a.tiles; tile += n_teams) {
#pragma unroll
        for (int j = 0; j < NT; j++)
            d[j][0] = d[j][1] = d[j][2] = d[j][3] = 0;
        for (int c = share.from; c < share.to; c += FEW_WG) {
            few_arrived<FEW_RING - 1>();
            if (few_form<S>::grouped) /* copied by other lanes */
                __syncwarp();
            few_multiply<S, FINE, NT>(
                d, unit, a, ring, groups, stage,
                few_operand<NT>(ring + a.at_x + (uint32_t)((c - from) * blocks * 64 * 8 * NT)));
            few_load<S, FINE>(next, a, share, ring, groups);
            stage = stage + 1 == FEW_RING ? 0 : stage + 1;
        }
        few_keep<S, FINE, NT>(a, d, unit, sums,
                              a.part + ((int64_t)tile * a.slices + slice) * 8 * NT * 64);
    }
    few_meet(a.arrived + team, a.slices);
    few_finish<bytes, NT>(a, team, n_teams, slice);
#endif
}

template <int S, int FINE, int NT>
static q_status few_launch(const cu_be *c, const cu_few *a, q_err *err)
{
    q_status st = Q_OK;

    CU_TRY(cudaFuncSetAttribute((few<S, FINE, NT>), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int)a->shared));
    CU_LAUNCH(c, (few<S, FINE, NT>), dim3((unsigned)a->blocks), dim3(FEW_THREADS), a->shared, *a);
out:
    return st;
}

/* *done 0: no plan fits, or the GPU is another one.  A matrix so large that the parts of all tokens
 * have no room is read twice, each time for half of them. */
template <int S, int FINE> static q_status few_run(const cu_be *c, cu_few *a, int *done, q_err *err)
{
    q_status st = Q_OK;
    const int M = a->M, f32 = a->epi == RT_EPI_F32 || a->epi == RT_EPI_ADD;
    const int64_t cols = a->epi == RT_EPI_SILU_MUL ? a->N / 2 : a->N;
    const int groups = !few_form<S>::grouped ? 0 : FINE ? few_form<S>::blocks : 1;

    *done = cu_few_plan(c, a, few_form<S>::blocks, groups);
    if (!*done && M > 32) {
        a->M = 32;
        *done = cu_few_plan(c, a, few_form<S>::blocks, groups);
    }
    if (*done && a->M <= 16)
        Q_TRY((few_launch<S, FINE, 2>(c, a, err)));
    else if (*done && a->M <= 32)
        Q_TRY((few_launch<S, FINE, 4>(c, a, err)));
    else if (*done)
        Q_TRY((few_launch<S, FINE, 8>(c, a, err)));
    if (*done && a->M < M) {
        a->x += 32 * a->x_bytes;
        a->xs = a->xs ? a->xs + 32 : NULL;
        a->y = (char *)a->y + 32 * cols * (f32 ? 4 : 2);
        a->M = M - 32;
        Q_TRY((few_launch<S, FINE, 4>(c, a, err)));
    }
out:
    return st;
}

/* The product of a cu_gemv: this kernel where it has a plan, else gemv.cuh. */
template <int S, int FINE> static q_status few_or_gemv(const cu_be *c, const cu_gemv *g, q_err *err)
{
    q_status st = Q_OK;
    int done;
    cu_few a;

    memset(&a, 0, sizeof a);
    a.x = (const char *)g->x;
    a.w = (const char *)g->w;
    a.scale = g->scale;
    a.bias = g->bias;
    a.scale16 = g->scale16;
    a.zero = g->zero;
    a.y = g->y;
    a.N = g->N;
    a.K = g->K;
    a.row_bytes = g->row_bytes;
    a.x_bytes = 2 * g->K;
    a.middle = g->middle;
    a.M = g->M;
    a.epi = (int)g->epi;
    a.shift = g->shift;
    a.G = g->G;
    Q_TRY((few_run<S, FINE>(c, &a, &done, err)));
    if (!done)
        st = gemv_choose<S, FINE>(c, g, err);
out:
    return st;
}

#endif
