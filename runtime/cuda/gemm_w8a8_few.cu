/* y = x W' of int8 codes for 1 .. 64 tokens, at the speed of memory; and, 64 tokens at a time, for
 * any number on GPUs without wgmma.  On Hopper gemm_few.cuh takes what it has a plan for.
 *
 * The kernel of gemv.cuh with integer tensor cores: weights are the 16 x 32 operand, tokens the 8
 * columns of the other, sums are exact.  A block owns 16 MT rows of W; its 8 warps take chunks of
 * 64 bytes of K in turn.  Lane l, with q = l % 4, has bytes 16 q .. 16 q + 15 of a chunk: of its
 * rows of W and of its token alike, so that each 16-byte load is the operand of two products of
 * depth 32 and nothing is unpacked.  Rows are padded with zeros to 128 bytes, so there are no
 * tails.
 *
 * SILU_MUL: rows 0 .. 7 of a tile are gate rows and 8 .. 15 the same up rows.  The first chunks of
 * W are loaded before cu_wait(), while the kernel before still runs. */
#include "runtime/cuda/cu_w8a8.h"

#include "runtime/cuda/cu_device.cuh"
#include "runtime/cuda/gemm_few.cuh"

#define WARPS 8
#define CHUNK 64 /* bytes of K */

typedef struct few_args {
    const int8_t *x, *w; /* [M, ld], [N, ld] */
    const float *xs, *scale, *bias;
    void *y;
    int64_t N, ld;
    int M, epi;
} few_args;

template <int MT>
static __device__ __forceinline__ void load_chunk(uint4 w[MT][2], const int8_t *const row[MT][2],
                                                  int at)
{
#pragma unroll
    for (int t = 0; t < MT; t++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            w[t][h] = cu_load_once(row[t][h] + at);
}

/* x[j]: this lane's token of column tile j */
template <int MT, int NT>
static __device__ __forceinline__ void multiply(int32_t d[MT][NT][4], const uint4 w[MT][2],
                                                const int8_t *const x[NT], int at)
{
    uint4 b[NT];

#pragma unroll
    for (int j = 0; j < NT; j++)
        b[j] = *(const uint4 *)(x[j] + at);
#pragma unroll
    for (int t = 0; t < MT; t++)
#pragma unroll
        for (int j = 0; j < NT; j++) {
            cu_mma_s8(d[t][j], w[t][0].x, w[t][1].x, w[t][0].y, w[t][1].y, b[j].x, b[j].y);
            cu_mma_s8(d[t][j], w[t][0].z, w[t][1].z, w[t][0].w, w[t][1].w, b[j].z, b[j].w);
        }
}

/* Token t of the block's rows: sums of the warps, scales, bias, and what y wants. */
template <int MT, int NT>
static __device__ __forceinline__ void store(const few_args &a, const int32_t *sum, int64_t tile)
{
    const int rows = 16 * MT, ld = 8 * NT + 1, silu = a.epi == RT_EPI_SILU_MUL;
    const int cols = silu ? rows / 2 : rows;
    const int64_t n_cols = silu ? a.N / 2 : a.N;

    for (int i = (int)threadIdx.x; i < cols * a.M; i += 32 * WARPS) {
        const int t = i / cols, col = i % cols;
        const int64_t n = tile * cols + col;
        float v[2] = { 0, 0 };

        if (n >= n_cols)
            continue;
        for (int h = 0; h < (silu ? 2 : 1); h++) {
            const int r = silu ? col / 8 * 16 + col % 8 + 8 * h : col;
            const int64_t at = n + h * n_cols;
            int32_t s = 0;

            for (int w = 0; w < WARPS; w++)
                s += sum[(w * rows + r) * ld + t];
            v[h] = __fadd_rn(__fmul_rn((float)s, __fmul_rn(a.scale[at], a.xs[t])),
                             a.bias ? a.bias[at] : 0.0f);
        }
        if (a.epi == RT_EPI_F32)
            ((float *)a.y)[t * n_cols + n] = v[0];
        else if (a.epi == RT_EPI_ADD) /* past L1: another block's share of the line changes */
            ((float *)a.y)[t * n_cols + n] = __ldcg((const float *)a.y + t * n_cols + n) + v[0];
        else
            ((__half *)a.y)[t * n_cols + n] =
                cu_half(silu ? v[0] / (1.0f + __expf(-v[0])) * v[1] : v[0]);
    }
}

/* A: chunks in flight per warp; B: blocks on an SM */
template <int MT, int NT, int A, int B>
static __global__ void __launch_bounds__(32 * WARPS, B) w8a8_few(const few_args a)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, g = lane / 4,
              q = lane % 4, silu = a.epi == RT_EPI_SILU_MUL;
    const int64_t tile = blockIdx.x, half = a.N / 2;
    const int n_chunks = (int)(a.ld / CHUNK);
    extern __shared__ int32_t sums[]; /* [WARPS][16 MT][8 NT + 1] */
    const int8_t *row[MT][2], *x[NT]; /* columns without a token repeat the last one */
    uint4 w[A][MT][2];
    int32_t d[MT][NT][4];

#pragma unroll
    for (int t = 0; t < MT; t++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int64_t n = silu ? tile * 8 * MT + 8 * t + g : tile * 16 * MT + 16 * t + 8 * h + g;
            const int64_t end = silu ? half : a.N;

            n = n < end ? n : end - 1; /* a row too much is computed and not stored */
            if (silu)
                n += h * half;
            row[t][h] = a.w + n * a.ld + 16 * q;
        }
#pragma unroll
    for (int i = 0; i < A; i++)
        if (warp + i * WARPS < n_chunks)
            load_chunk<MT>(w[i], row, (warp + i * WARPS) * CHUNK);
#pragma unroll
    for (int j = 0; j < NT; j++)
        x[j] = a.x + min(8 * j + g, a.M - 1) * a.ld + 16 * q;
#pragma unroll
    for (int t = 0; t < MT; t++)
#pragma unroll
        for (int j = 0; j < NT; j++)
            d[t][j][0] = d[t][j][1] = d[t][j][2] = d[t][j][3] = 0;
    cu_wait();
    for (int c0 = warp; c0 < n_chunks; c0 += A * WARPS) {
#pragma unroll
        for (int ahead = 0; ahead < A; ahead++) {
            const int c = c0 + ahead * WARPS, next = c + A * WARPS;

            if (c >= n_chunks)
                break;
            multiply<MT, NT>(d, w[ahead], x, c * CHUNK);
            if (next < n_chunks)
                load_chunk<MT>(w[ahead], row, next * CHUNK);
        }
    }
#pragma unroll
    for (int t = 0; t < MT; t++)
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                sums[(warp * 16 * MT + 16 * t + 8 * (i / 2) + g) * (8 * NT + 1) + 8 * j + 2 * q +
                     i % 2] = d[t][j][i];
    __syncthreads();
    store<MT, NT>(a, sums, tile);
}

template <int MT, int NT, int A, int B>
static q_status launch(const cu_be *c, const few_args *a, q_err *err)
{
    q_status st = Q_OK;
    const int cols = a->epi == RT_EPI_SILU_MUL ? 8 * MT : 16 * MT;
    const int64_t n = a->epi == RT_EPI_SILU_MUL ? a->N / 2 : a->N;
    const size_t shared = sizeof(int32_t) * WARPS * 16 * MT * (8 * NT + 1);

    if (shared > 48 * 1024)
        CU_TRY(cudaFuncSetAttribute((w8a8_few<MT, NT, A, B>),
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    CU_LAUNCH(c, (w8a8_few<MT, NT, A, B>), dim3((unsigned)((n + cols - 1) / cols)),
              dim3(32 * WARPS), shared, *a);
out:
    return st;
}

/* How much runs at once: what was fastest for w8, whose bytes are the same, on an H200. */
extern "C" q_status cu_w8a8_few(const cu_be *c, const cu_w8a8 *g, q_err *err)
{
    const int narrow = g->N <= 32 * (int64_t)c->sms;
    q_status st = Q_OK;
    int done;
    few_args a;
    cu_few f;

    memset(&f, 0, sizeof f);
    f.x = (const char *)g->x;
    f.w = (const char *)g->w;
    f.xs = g->xs;
    f.scale = g->scale;
    f.bias = g->bias;
    f.y = g->y;
    f.N = g->N;
    f.K = g->ld;
    f.row_bytes = f.x_bytes = g->ld;
    f.M = (int)g->M;
    f.epi = (int)g->epi;
    Q_TRY((few_run<CU_W8A8, 0>(c, &f, &done, err)));
    if (done)
        return Q_OK;

    a.x = g->x;
    a.w = g->w;
    a.xs = g->xs;
    a.scale = g->scale;
    a.bias = g->bias;
    a.y = g->y;
    a.N = g->N;
    a.ld = g->ld;
    a.M = (int)g->M;
    a.epi = (int)g->epi;
    if (a.M <= 8)
        return launch<1, 1, 2, 4>(c, &a, err);
    if (a.M <= 16)
        return narrow ? launch<2, 2, 4, 2>(c, &a, err) : launch<2, 2, 2, 3>(c, &a, err);
    if (a.M <= 32)
        return launch<2, 4, 2, 2>(c, &a, err);
    return launch<2, 8, 2, 1>(c, &a, err);
out:
    return st;
}
