/* y = x W' for 1 .. 64 tokens at the speed of memory: one kernel template for f16, w8 and w4.
 *
 * Tensor cores do the arithmetic even for one token: the weights are the 16 x 16 operand, tokens
 * the 8 columns of the other, so the work per weight is the same for 1 or 8 tokens and far below
 * what memory delivers.  Sums are f32; a token's sum does not depend on its neighbours.
 *
 * Layout.  A block owns 16 MT rows of W; its 8 warps take chunks of KC elements of K in turn, so
 * the block reads 8 KC neighbours of each row at a time.  Which k goes to which lane is free as
 * long as W and x agree: lane l, with q = l % 4, has the k of k0 + 32 j + 8 q .. + 7, j = 0 .. KC /
 * 32 - 1.  So 4 lanes read 64 neighbouring bytes of x, and W is stored (f16: lies by itself) so
 * that a lane's codes of a chunk are 16 neighbouring bytes:
 *
 *   f16  KC 64   two loads a row        w8  KC 64   one        w4  KC 128  one
 *
 * Each 8 k of a lane feed two products of depth 16.  Codes become halves by bit tricks: a byte
 * below 0x64 is 1024 + u as a half, so code = that - 1152 (w8) or - 1032 (w4); the upper nibble of
 * a pair stands 16 times as high and is brought down by one FMA.  All of these are exact, and the
 * row's scale is applied to the sum.
 *
 * SILU_MUL: rows 0 .. 7 of a tile are gate rows and 8 .. 15 the same up rows, so that a lane ends
 * up with both.  The first chunks are loaded before cu_wait(), and the next ones fetched into L2:
 * the kernel before is still running then, often one that leaves memory idle.  The parts of the 8
 * warps are added in order.  Ref: reading the operand as the tensor core wants it is an idea of
 * Marlin (Frantar et al. 2024). */
#ifndef GEMV_CUH
#define GEMV_CUH

#include "runtime/cuda/cu_device.cuh"

#define GEMV_WARPS 8

/* 4 codes of one row and step -> halves k, k + 1 (lo) and k + 2, k + 3 (hi) */
static __device__ __forceinline__ void decode_w8(uint32_t v, uint32_t *lo, uint32_t *hi)
{
    const __half2 bias = cu_as_half2(0x64806480u); /* 1152 */

    *lo = cu_as_u32(__hsub2(cu_as_half2(__byte_perm(v, 0x64646464u, 0x4140)), bias));
    *hi = cu_as_u32(__hsub2(cu_as_half2(__byte_perm(v, 0x64646464u, 0x4342)), bias));
}

static __device__ __forceinline__ void decode_w4(uint32_t v, uint32_t *lo, uint32_t *hi)
{
    const __half2 bias = cu_as_half2(0x64086408u);                                 /* 1032 */
    const __half2 down = cu_as_half2(0x2c002c00u), off = cu_as_half2(0xd480d480u); /* 1/16, -72 */

    *lo = cu_as_u32(__hsub2(cu_as_half2((v & 0x000f000fu) | 0x64006400u), bias));
    *hi = cu_as_u32(__hfma2(cu_as_half2((v & 0x00f000f0u) | 0x64006400u), down, off));
}

template <int S> struct gemv_form; /* chunk, loads of 16 bytes per row and chunk, bits */
template <> struct gemv_form<CU_F16> {
    static const int chunk = 64, loads = 2;
};
template <> struct gemv_form<CU_W8> {
    static const int chunk = 64, loads = 1;
};
template <> struct gemv_form<CU_W4> {
    static const int chunk = 128, loads = 1;
};

static __device__ __forceinline__ uint32_t word_of(const uint4 &v, int i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* the operand of step s of a chunk, for one row */
template <int S>
static __device__ __forceinline__ void gemv_operand(const uint4 *w, int s, uint32_t *lo,
                                                    uint32_t *hi)
{
    if (S == CU_F16) {
        *lo = word_of(w[s / 2], s % 2 * 2);
        *hi = word_of(w[s / 2], s % 2 * 2 + 1);
    } else if (S == CU_W8) {
        decode_w8(word_of(w[0], s), lo, hi);
    } else {
        decode_w4(word_of(w[0], s / 2) >> (s % 2 * 8), lo, hi);
    }
}

/* A chunk of the warp's rows; rows are padded to whole chunks. */
template <int S, int MT>
static __device__ __forceinline__ void gemv_load(uint4 w[MT][2][gemv_form<S>::loads],
                                                 const char *const row[MT][2], int at)
{
#pragma unroll
    for (int t = 0; t < MT; t++)
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int i = 0; i < gemv_form<S>::loads; i++)
                w[t][h][i] = cu_load_once(row[t][h] + at + 64 * i);
}

/* d += a chunk of W times x.  x[j]: this lane's token of column tile j, at the lane's first k of
 * the chunk; left: values of x from there on.  Only the last chunk has to look (TAIL): conditions
 * around loads cost more than the arithmetic. */
template <int S, int MT, int NT, int TAIL>
static __device__ __forceinline__ void gemv_step(float d[MT][NT][4],
                                                 const uint4 w[MT][2][gemv_form<S>::loads],
                                                 const __half *const x[NT], int at, int left)
{
#pragma unroll
    for (int i = 0; i < gemv_form<S>::chunk / 32; i++) {
        uint4 b[NT];

#pragma unroll
        for (int j = 0; j < NT; j++) {
            if (TAIL && 32 * i >= left)
                b[j] = make_uint4(0, 0, 0, 0);
            else
                b[j] = *(const uint4 *)(x[j] + at + 32 * i);
        }
#pragma unroll
        for (int s = 0; s < 2; s++)
#pragma unroll
            for (int t = 0; t < MT; t++) {
                uint32_t a0, a1, a2, a3;

                gemv_operand<S>(w[t][0], 2 * i + s, &a0, &a2);
                gemv_operand<S>(w[t][1], 2 * i + s, &a1, &a3);
#pragma unroll
                for (int j = 0; j < NT; j++)
                    cu_mma(d[t][j], a0, a1, a2, a3, word_of(b[j], 2 * s), word_of(b[j], 2 * s + 1));
            }
    }
}

/* Token t of the block's rows: sums in order of the warps, scale, bias, and what y wants. */
template <int MT, int NT>
static __device__ __forceinline__ void gemv_store(const cu_gemv &a, const float *sum, int64_t tile)
{
    const int rows = 16 * MT, ld = 8 * NT + 1, silu = a.epi == RT_EPI_SILU_MUL;
    const int cols = silu ? rows / 2 : rows;
    const int64_t n_cols = silu ? a.N / 2 : a.N;

    for (int i = (int)threadIdx.x; i < cols * a.M; i += 32 * GEMV_WARPS) {
        const int t = i / cols, col = i % cols;
        const int64_t n = tile * cols + col;
        float v[2] = { 0, 0 };

        if (n >= n_cols)
            continue;
        for (int h = 0; h < (silu ? 2 : 1); h++) {
            const int r = silu ? col / 8 * 16 + col % 8 + 8 * h : col;
            const int64_t at = n + h * n_cols;

            for (int w = 0; w < GEMV_WARPS; w++)
                v[h] += sum[(w * rows + r) * ld + t];
            v[h] = v[h] * (a.scale ? a.scale[at] : 1.0f) + (a.bias ? a.bias[at] : 0.0f);
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
template <int S, int MT, int NT, int A, int B>
static __global__ void __launch_bounds__(32 * GEMV_WARPS, B) gemv(const cu_gemv a)
{
    const int kc = gemv_form<S>::chunk, loads = gemv_form<S>::loads;
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, g = lane / 4,
              q = lane % 4;
    const int64_t tile = blockIdx.x, half = a.N / 2;
    const int chunk_bytes = S == CU_F16 ? 2 * kc : S == CU_W8 ? kc : kc / 2;
    const int K = (int)a.K, n_chunks = (K + kc - 1) / kc, whole = K / kc;
    extern __shared__ float sum[]; /* [GEMV_WARPS][16 MT][8 NT + 1] */
    const char *row[MT][2];
    const __half *x[NT]; /* columns without a token repeat the last one and are not stored */
    uint4 w[A][MT][2][loads];
    float d[MT][NT][4];

#pragma unroll
    for (int t = 0; t < MT; t++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int64_t n = a.epi == RT_EPI_SILU_MUL ? tile * 8 * MT + 8 * t + g
                                                 : tile * 16 * MT + 16 * t + 8 * h + g;
            const int64_t end = a.epi == RT_EPI_SILU_MUL ? half : a.N;

            n = n < end ? n : end - 1; /* a row too much is computed and not stored */
            if (a.epi == RT_EPI_SILU_MUL)
                n += h * half;
            row[t][h] = (const char *)a.w + n * a.row_bytes + 16 * q;
        }
#pragma unroll
    for (int i = 0; i < A; i++)
        if (warp + i * GEMV_WARPS < n_chunks)
            gemv_load<S, MT>(w[i], row, (warp + i * GEMV_WARPS) * chunk_bytes);
#pragma unroll
    for (int i = A; i < 2 * A && S == CU_F16; i++)
#pragma unroll
        for (int t = 0; t < MT; t++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                if (q == 0 && B < 3 && warp + i * GEMV_WARPS < n_chunks)
                    asm volatile("prefetch.global.L2 [%0];" ::"l"(
                        row[t][h] + (warp + i * GEMV_WARPS) * chunk_bytes));
#pragma unroll
    for (int j = 0; j < NT; j++)
        x[j] = (const __half *)a.x + min(8 * j + g, a.M - 1) * a.K + 8 * q;
#pragma unroll
    for (int t = 0; t < MT; t++)
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                d[t][j][i] = 0;
    cu_wait();
    for (int c0 = warp; c0 < n_chunks; c0 += A * GEMV_WARPS) {
#pragma unroll
        for (int ahead = 0; ahead < A; ahead++) {
            const int c = c0 + ahead * GEMV_WARPS, next = c + A * GEMV_WARPS;

            if (c >= n_chunks)
                break;
            if (c < whole)
                gemv_step<S, MT, NT, 0>(d, w[ahead], x, c * kc, kc);
            else
                gemv_step<S, MT, NT, 1>(d, w[ahead], x, c * kc, K - c * kc - 8 * q);
            if (next < n_chunks)
                gemv_load<S, MT>(w[ahead], row, next * chunk_bytes);
        }
    }
#pragma unroll
    for (int t = 0; t < MT; t++)
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int r = warp * 16 * MT + 16 * t + 8 * (i / 2) + g;

                sum[r * (8 * NT + 1) + 8 * j + 2 * q + i % 2] = d[t][j][i];
            }
    __syncthreads();
    gemv_store<MT, NT>(a, sum, tile);
}

template <int S, int MT, int NT, int A, int B>
static q_status gemv_launch(const cu_be *c, const cu_gemv *a, q_err *err)
{
    q_status st = Q_OK;
    const int cols = a->epi == RT_EPI_SILU_MUL ? 8 * MT : 16 * MT;
    const int64_t n = a->epi == RT_EPI_SILU_MUL ? a->N / 2 : a->N;
    const size_t shared = sizeof(float) * GEMV_WARPS * 16 * MT * (8 * NT + 1);

    if (shared > 48 * 1024)
        CU_TRY(cudaFuncSetAttribute((gemv<S, MT, NT, A, B>),
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    CU_LAUNCH(c, (gemv<S, MT, NT, A, B>), dim3((unsigned)((n + cols - 1) / cols)),
              dim3(32 * GEMV_WARPS), shared, *a);
out:
    return st;
}

/* How much runs at once, by what was measured on an H200 with the shapes of Qwen-7B, TB/s of codes.
 * Wide weights want warps (up to 8 tokens: 4 blocks on an SM 4.0, 3 blocks 3.9, 2 blocks with twice
 * the loads each 3.4); where there are no more than two blocks for each SM anyway, they fetch
 * further ahead (3.5, before 3.1).  From 9 tokens on two tiles of rows share what is read of x,
 * which else exceeds the weights. */
template <int S> static q_status gemv_choose(const cu_be *c, const cu_gemv *a, q_err *err)
{
    const int narrow = a->N <= 32 * (int64_t)c->sms;
    /* a chunk of f16 is twice as many loads */
    const int f16 = S == CU_F16, few = f16 ? 1 : 2, more = f16 ? 2 : 4;
    const int deep = f16 ? 4 : 2, blocks = f16 ? 2 : 4;

    if (a->M <= 8)
        return narrow ? gemv_launch<S, 1, 1, deep, blocks>(c, a, err)
                      : gemv_launch<S, 1, 1, few, 4>(c, a, err);
    if (a->M <= 16)
        return narrow ? gemv_launch<S, 2, 2, more, 2>(c, a, err)
                      : gemv_launch<S, 2, 2, few, 3>(c, a, err);
    if (a->M <= 32)
        return gemv_launch<S, 2, 4, few, 2>(c, a, err);
    return gemv_launch<S, 2, 8, few, 1>(c, a, err);
}

#endif
