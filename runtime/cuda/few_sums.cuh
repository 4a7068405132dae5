/* From the sums of a warpgroup to y, for gemm_few.cuh, in three steps that keep one order:
 *
 *   few_keep    the warpgroups of a block leave their sums of a tile in shared memory, and one of
 *               them, in turns, writes what they add up to: the block's part
 *   few_meet    the blocks of a team wait until all parts are in memory
 *   few_finish  each adds up the parts of its share of y, and applies scale, bias and epilogue
 *
 * Parts are [tile][slice][token][64 rows], sums of f32, or of int32 in the same places. */
#ifndef FEW_SUMS_CUH
#define FEW_SUMS_CUH

#include "runtime/cuda/cu_few.h"
#include "runtime/cuda/wgmma_few.cuh"

template <int S> struct few_form {
    static const int grouped = S == CU_W4G || S == CU_W8G, bytes = S == CU_W8A8;
    /* blocks of 64 bytes of x of a chunk, 4 units of 16 each */
    static const int blocks = S == CU_F16 || S == CU_W8A8 ? 1 : S == CU_W8 || S == CU_W8G ? 2 : 4;
};

template <int BYTES> struct few_sum {
    typedef float type;
};
template <> struct few_sum<1> {
    typedef int32_t type;
};

/* Columns n .. n + 3 of y of token t from their sums: v[0], or gate v[0] and up v[1]. */
template <int BYTES>
static __device__ __forceinline__ void few_put(const cu_few &a, int64_t n, int t,
                                               const typename few_sum<BYTES>::type sum[2][4])
{
    const int silu = a.epi == RT_EPI_SILU_MUL;
    const int64_t n_cols = silu ? a.N / 2 : a.N;

#pragma unroll
    for (int e = 0; e < 4; e++) {
        float v[2] = { 0, 0 };

        if (n + e >= n_cols)
            break;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int64_t at = n + e + h * n_cols;

            if (h && !silu)
                break;
            const float scale = a.scale ? a.scale[at] : 1.0f, bias = a.bias ? a.bias[at] : 0.0f;

            v[h] = BYTES ? __fadd_rn(__fmul_rn((float)sum[h][e], __fmul_rn(scale, a.xs[t])), bias)
                         : (float)sum[h][e] * scale + bias;
        }
        if (a.epi == RT_EPI_F32)
            ((float *)a.y)[t * n_cols + n + e] = v[0];
        else if (a.epi == RT_EPI_ADD) /* past L1: another block's share of the line changes */
            ((float *)a.y)[t * n_cols + n + e] =
                __ldcg((const float *)a.y + t * n_cols + n + e) + v[0];
        else
            ((__half *)a.y)[t * n_cols + n + e] =
                cu_half(silu ? v[0] / (1.0f + __expf(-v[0])) * v[1] : v[0]);
    }
}

/* 4 neighbours of the sums, wherever they are */
static __device__ __forceinline__ void few_add4(float v[4], const float4 &u)
{
    v[0] += u.x;
    v[1] += u.y;
    v[2] += u.z;
    v[3] += u.w;
}

static __device__ __forceinline__ void few_add4(int32_t v[4], const float4 &u)
{
    v[0] += __float_as_int(u.x);
    v[1] += __float_as_int(u.y);
    v[2] += __float_as_int(u.z);
    v[3] += __float_as_int(u.w);
}

static __device__ __forceinline__ float4 few_four(const float v[4])
{
    return make_float4(v[0], v[1], v[2], v[3]);
}

static __device__ __forceinline__ float4 few_four(const int32_t v[4])
{
    return make_float4(__int_as_float(v[0]), __int_as_float(v[1]), __int_as_float(v[2]),
                       __int_as_float(v[3]));
}

/* The sums of the warpgroups of a tile, or of 32 tokens of it, on their way to become one: buffers
 * in shared memory, in turns, and who may touch them.  full: all have written; empty: the one that
 * adds up has read.  Nobody else waits for that one. */
typedef struct few_sums {
    float *at;
    uint32_t full, empty; /* barriers, 8 bytes for each buffer */
    int n, wg;            /* n: pieces so far, this warpgroup */
} few_sums;

/* By every thread: one of a warp would do, but then a race checker does not see what the others
 * wrote or read before, and it costs little (int4, 16 to 64 tokens: at most 1.1 % of a step). */
static __device__ __forceinline__ void few_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* After a tile: the sums of the warpgroups, in order, to part [tokens][64].  Warpgroups take turns
 * in adding up. */
template <int S, int FINE, int NT>
static __device__ __forceinline__ void few_keep(const cu_few &a,
                                                const typename few_sum<S == CU_W8A8>::type d[NT][4],
                                                const float unit[2], few_sums &k, float *part)
{
    typedef typename few_sum<S == CU_W8A8>::type sum_t;
    const int per = NT > 4 ? 4 : NT, ld = 8 * per * FEW_LD, buffers = FEW_BUFFERS(NT);
    const int tid = (int)threadIdx.x, row = tid % 128 / 32 * 16 + tid % 32 / 4;

#pragma unroll
    for (int j0 = 0; j0 < NT; j0 += per, k.n++) {
        const int buffer = k.n % buffers, turn = k.n / buffers;
        float *sums = k.at + buffer * FEW_WG * ld;
        sum_t *const mine = (sum_t *)sums + k.wg * ld + tid % 4 * 2 * FEW_LD + row;

        if (turn > 0)
            barrier_wait(k.empty + 8 * (uint32_t)buffer, (uint32_t)(turn - 1) & 1);
#pragma unroll
        for (int j = 0; j < per; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                mine[(8 * j + i % 2) * FEW_LD + i / 2 * 8] =
                    few_form<S>::grouped && !FINE ? d[j0 + j][i] * unit[i / 2] : d[j0 + j][i];
        few_arrive(k.full + 8 * (uint32_t)buffer);
        if (k.n % FEW_WG != k.wg)
            continue;
        barrier_wait(k.full + 8 * (uint32_t)buffer, (uint32_t)turn & 1);
        for (int i = tid % 128; i < 16 * min(8 * per, a.M - 8 * j0); i += 128) {
            sum_t v[4] = { 0, 0, 0, 0 };

#pragma unroll
            for (int w = 0; w < FEW_WG; w++)
                few_add4(v, *(const float4 *)(sums + w * ld + i / 16 * FEW_LD + i % 16 * 4));
            __stcg((float4 *)(part + (8 * j0 + i / 16) * 64 + i % 16 * 4), few_four(v));
        }
        few_arrive(k.empty + 8 * (uint32_t)buffer);
    }
}

/* Until all blocks of the team have their sums in memory.  The last to leave makes the count zero.
 */
static __device__ __forceinline__ void few_meet(int32_t *arrived, int slices)
{
    __syncthreads();
    if (threadIdx.x == 0 && slices > 1) { /* all that the block wrote is seen before the count */
        int32_t n;

        asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(arrived) : "memory");
        do
            asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(n) : "l"(arrived) : "memory");
        while (n < slices);
    }
    __syncthreads();
    if (threadIdx.x == FEW_THREADS - 1 && slices > 1)
        if (atomicAdd(arrived, 1) == 2 * slices - 1)
            *arrived = 0;
}

/* The block's share of what its team has: sums of the slices, in order, to y. */
template <int BYTES, int NT>
static __device__ __forceinline__ void few_finish(const cu_few &a, int team, int n_teams, int slice)
{
    typedef typename few_sum<BYTES>::type sum_t;
    const int silu = a.epi == RT_EPI_SILU_MUL, fours = silu ? 8 : 16;
    const int n_tiles = (a.tiles - team + n_teams - 1) / n_teams;

    for (int i = slice * FEW_THREADS + (int)threadIdx.x; i < n_tiles * a.M * fours;
         i += a.slices * FEW_THREADS) {
        const int col = i % fours * 4, t = i / fours % a.M, tile = team + i / fours / a.M * n_teams;
        const int row = silu ? col / 8 * 16 + col % 8 : col;
        const float *from = a.part + ((int64_t)tile * a.slices * 8 * NT + t) * 64 + row;
        sum_t v[2][4] = { { 0, 0, 0, 0 }, { 0, 0, 0, 0 } };

#pragma unroll 4
        for (int s = 0; s < a.slices; s++, from += 8 * NT * 64) {
            few_add4(v[0], __ldcg((const float4 *)from));
            if (silu)
                few_add4(v[1], __ldcg((const float4 *)(from + 8)));
        }
        few_put<BYTES>(a, (int64_t)tile * fours * 4 + col, t, v);
    }
}

#endif
