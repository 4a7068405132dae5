/* y = x W' for 1 .. 64 tokens at the speed of memory: one kernel template for f16, w8, w4 and the
 * grouped w8g, w4g.  On Hopper gemm_few.cuh takes more than 8 or 16 tokens.
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
 * Each 8 k of a lane feed two products of depth 16.  Codes become halves exactly (cu_weight.cuh),
 * and the row's scale is applied to the sum.
 *
 * Groups: a block brings scales and zeros of its rows into shared memory while its first codes are
 * on their way, each pair as {scale, 1024 + zero}.  The zero is what decoding subtracts.  Sums are
 * kept in units of the scale of their last group and brought to the next one's by a factor: sums
 * of each group beside them would take as many registers again.  A lane's sums belong to the two
 * rows whose codes it reads.  FINE: groups may end inside a chunk, at multiples of 32.
 *
 * SILU_MUL: rows 0 .. 7 of a tile are gate rows and 8 .. 15 the same up rows, so that a lane ends
 * up with both.  The first chunks are loaded before cu_wait(), and the next ones fetched into L2:
 * the kernel before is still running then, often one that leaves memory idle.  The parts of the 8
 * warps are added in order.  Ref: reading the operand as the tensor core wants it is an idea of
 * Marlin (Frantar et al. 2024). */
#ifndef GEMV_CUH
#define GEMV_CUH

#include "runtime/cuda/cu_weight.cuh"

#define GEMV_WARPS 8

/* chunk, loads of 16 bytes per row and chunk */
template <int S> struct gemv_form {
    static const int grouped = S == CU_W4G || S == CU_W8G;
    static const int bits = S == CU_F16 ? 16 : S == CU_W8 || S == CU_W8G ? 8 : 4;
    static const int chunk = bits == 4 ? 128 : 64, loads = bits == 16 ? 2 : 1;
};

/* the operand of step s of a chunk, for one row; z as its codes want it */
template <int S>
static __device__ __forceinline__ void gemv_operand(const uint4 *w, int s, const cu_zero &z,
                                                    uint32_t *lo, uint32_t *hi)
{
    if (gemv_form<S>::bits == 16) {
        *lo = word_of(w[s / 2], s % 2 * 2);
        *hi = word_of(w[s / 2], s % 2 * 2 + 1);
    } else if (gemv_form<S>::bits == 8) {
        cu_decode8(word_of(w[0], s), z, lo, hi);
    } else {
        cu_decode4(word_of(w[0], s / 2) >> (s % 2 * 8), z, lo, hi);
    }
}

/* the same of schemes without groups */
template <int S>
static __device__ __forceinline__ void gemv_operand(const uint4 *w, int s, uint32_t *lo,
                                                    uint32_t *hi)
{
    gemv_operand<S>(w, s, cu_zero_middle<gemv_form<S>::bits>(), lo, hi);
}

/* Scales and zeros of the block's rows to[2 MT][G][8]: slab 2 t + h are the 8 rows of half h of
 * tile t, which lie together in memory as well (cu.h). */
template <int MT>
static __device__ __forceinline__ void gemv_stage(const cu_gemv &a, int64_t tile, uint32_t *to)
{
    const int64_t last = (a.N - 1) / 8;

    for (int i = (int)threadIdx.x; i < 2 * MT * a.G; i += 32 * GEMV_WARPS) {
        const int slab = i / a.G;
        const int64_t n8 = a.epi == RT_EPI_SILU_MUL ? slab % 2 * (a.N / 16) + tile * MT + slab / 2
                                                    : tile * 2 * MT + slab;
        const int64_t at = (n8 < last ? n8 : last) * a.G + i % a.G;
        const uint4 s = __ldg((const uint4 *)a.scale16 + at);
        const uint2 z = a.zero ? __ldg((const uint2 *)a.zero + at) : make_uint2(a.middle, a.middle);

#pragma unroll
        for (int e = 0; e < 4; e++) { /* 2 rows a time: {scale, 0x6400 + zero} */
            const uint32_t two = word_of(s, e), zz = (e < 2 ? z.x : z.y) >> (e % 2 * 16);
            const uint32_t lo = two & 0xffff, hi = two >> 16;

            /* sums are divided by scales: the least half stands for a zero */
            to[8 * i + 2 * e] = (lo & 0x7fff ? lo : 1) | (0x6400u + (zz & 255)) << 16;
            to[8 * i + 2 * e + 1] = (hi & 0x7fff ? hi : 1) | (0x6400u + (zz >> 8 & 255)) << 16;
        }
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

/* What a lane needs to know of groups: {scale, 1024 + zero} of its row of slab i, group g are
 * at[(i G + g) * 8]. */
typedef struct gemv_groups {
    const uint32_t *at;
    int shift, G;
} gemv_groups;

/* To the group of column k: its zeros, and sums in units of its scales. */
template <int MT, int NT>
static __device__ __forceinline__ void gemv_group(const gemv_groups &g, int k, float d[MT][NT][4],
                                                  float unit[MT][2], cu_zero zero[MT][2])
{
    const int at = min(k >> g.shift, g.G - 1); /* padding behind K is of no group */

#pragma unroll
    for (int i = 0; i < 2 * MT; i++) {
        const __half2 v = cu_as_half2(g.at[(i * g.G + at) * 8]);
        const float scale = __low2float(v), factor = __fdividef(unit[i / 2][i % 2], scale);

        unit[i / 2][i % 2] = scale;
        zero[i / 2][i % 2] = cu_zero_of(__high2half2(v));
#pragma unroll
        for (int j = 0; j < NT; j++) {
            d[i / 2][j][i % 2 * 2] *= factor;
            d[i / 2][j][i % 2 * 2 + 1] *= factor;
        }
    }
}

/* d += a chunk of W times x.  x[j]: this lane's token of column tile j, at the lane's first k of
 * the chunk, which is column `at`; left: values of x from there on.  Only the last chunk has to
 * look (TAIL): conditions around loads cost more than the arithmetic. */
template <int S, int MT, int NT, int FINE, int TAIL>
static __device__ __forceinline__ void gemv_step(float d[MT][NT][4], float unit[MT][2],
                                                 const uint4 w[MT][2][gemv_form<S>::loads],
                                                 const __half *const x[NT], const gemv_groups &g,
                                                 int at, int left)
{
    cu_zero zero[MT][2];

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
        if (gemv_form<S>::grouped && (FINE || i == 0))
            gemv_group<MT, NT>(g, at + 32 * i, d, unit, zero);
#pragma unroll
        for (int s = 0; s < 2; s++)
#pragma unroll
            for (int t = 0; t < MT; t++) {
                uint32_t a0, a1, a2, a3;

                if (gemv_form<S>::grouped) {
                    gemv_operand<S>(w[t][0], 2 * i + s, zero[t][0], &a0, &a2);
                    gemv_operand<S>(w[t][1], 2 * i + s, zero[t][1], &a1, &a3);
                } else {
                    gemv_operand<S>(w[t][0], 2 * i + s, &a0, &a2);
                    gemv_operand<S>(w[t][1], 2 * i + s, &a1, &a3);
                }
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
template <int S, int FINE, int MT, int NT, int A, int B>
static __global__ void __launch_bounds__(32 * GEMV_WARPS, B) gemv(const cu_gemv a)
{
    const int kc = gemv_form<S>::chunk, loads = gemv_form<S>::loads;
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, g = lane / 4,
              q = lane % 4;
    const int64_t tile = blockIdx.x, half = a.N / 2;
    const int chunk_bytes = kc * gemv_form<S>::bits / 8, grouped = gemv_form<S>::grouped;
    const int K = (int)a.K, n_chunks = (K + kc - 1) / kc, whole = K / kc;
    extern __shared__ __align__(16) float sum[]; /* [GEMV_WARPS][16 MT][8 NT + 1]; before: groups */
    const gemv_groups groups = { (const uint32_t *)sum + g, a.shift, a.G };
    const char *row[MT][2];
    const __half *x[NT]; /* columns without a token repeat the last one and are not stored */
    uint4 w[A][MT][2][loads];
    float d[MT][NT][4], unit[MT][2]; /* of the rows' sums; groups change it */

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
            unit[t][h] = 1;
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
    if (grouped)
        gemv_stage<MT>(a, tile, (uint32_t *)sum);
    cu_wait();
    if (grouped)
        __syncthreads();
    for (int c0 = warp; c0 < n_chunks; c0 += A * GEMV_WARPS) {
#pragma unroll
        for (int ahead = 0; ahead < A; ahead++) {
            const int c = c0 + ahead * GEMV_WARPS, next = c + A * GEMV_WARPS;

            if (c >= n_chunks)
                break;
            if (c < whole)
                gemv_step<S, MT, NT, FINE, 0>(d, unit, w[ahead], x, groups, c * kc, kc);
            else
                gemv_step<S, MT, NT, FINE, 1>(d, unit, w[ahead], x, groups, c * kc,
                                              K - c * kc - 8 * q);
            if (next < n_chunks)
                gemv_load<S, MT>(w[ahead], row, next * chunk_bytes);
        }
    }
    if (grouped) /* sums take the place of the groups */
        __syncthreads();
#pragma unroll
    for (int t = 0; t < MT; t++)
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int r = warp * 16 * MT + 16 * t + 8 * (i / 2) + g;

                sum[r * (8 * NT + 1) + 8 * j + 2 * q + i % 2] =
                    grouped ? d[t][j][i] * unit[t][i / 2] : d[t][j][i];
            }
    __syncthreads();
    gemv_store<MT, NT>(a, sum, tile);
}

template <int S, int FINE, int MT, int NT, int A, int B>
static q_status gemv_launch(const cu_be *c, const cu_gemv *a, q_err *err)
{
    q_status st = Q_OK;
    const int cols = a->epi == RT_EPI_SILU_MUL ? 8 * MT : 16 * MT;
    const int64_t n = a->epi == RT_EPI_SILU_MUL ? a->N / 2 : a->N;
    const size_t sums = sizeof(float) * GEMV_WARPS * 16 * MT * (8 * NT + 1);
    const size_t groups = gemv_form<S>::grouped ? sizeof(uint32_t) * 16 * MT * (size_t)a->G : 0;
    const size_t shared = sums > groups ? sums : groups;

    if (shared > 48 * 1024)
        CU_TRY(cudaFuncSetAttribute((gemv<S, FINE, MT, NT, A, B>),
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    CU_LAUNCH(c, (gemv<S, FINE, MT, NT, A, B>), dim3((unsigned)((n + cols - 1) / cols)),
              dim3(32 * GEMV_WARPS), shared, *a);
out:
    return st;
}

/* How much runs at once, by what was measured on an H200 with the shapes of Qwen-7B.  Codes: two
 * tiles of rows share what is read of x, which from 9 tokens on exceeds the weights, and one chunk
 * ahead leaves registers for 3 blocks on an SM (16 tokens, w4, qkv 13.7 us; two ahead 15.9).  Where
 * there are no more than two blocks for each SM, one tile and more blocks, or further ahead (down,
 * 1 token: 11.9 us, with two tiles 14.0).  64 tokens: 4 tiles take 1.7 times as long as 2, so what
 * counts is how many rounds of blocks there are (gate_up 73 us, before 83).  Only Hopper has the
 * shared memory of 4 tiles (130 KB, with CU_GROUPS of a row 192); that of 2 is at most 96 KB and
 * fits every device from 8.0 on. */
template <int S, int FINE> static q_status gemv_choose(const cu_be *c, const cu_gemv *a, q_err *err)
{
    const int f16 = S == CU_F16, deep = f16 ? 4 : S == CU_W4G ? 1 : 2;
    const int narrow = a->N <= 32 * (int64_t)c->sms;
    const int64_t rounds2 = (a->N + 32 * c->sms - 1) / (32 * c->sms);
    const int64_t rounds4 = (a->N + 64 * c->sms - 1) / (64 * c->sms);

    if (a->M <= 8 && narrow)
        return gemv_launch < S, FINE, 1, 1, deep, f16 ? 2 : 4 > (c, a, err);
    if (a->M <= 8)
        return gemv_launch < S, FINE, f16 ? 1 : 2, 1, 1, f16 ? 4 : 3 > (c, a, err);
    if (a->M <= 16 && narrow)
        return gemv_launch < S, FINE, f16 ? 2 : 1, 2, f16 ? 2 : 1, f16 ? 2 : 4 > (c, a, err);
    if (a->M <= 16)
        return gemv_launch<S, FINE, 2, 2, 1, 3>(c, a, err);
    if (a->M <= 32)
        return gemv_launch<S, FINE, 2, 4, 1, 2>(c, a, err);
    if (!f16 && c->cc / 10 == 9 && 17 * rounds4 < 10 * rounds2)
        return gemv_launch < S, FINE, f16 ? 2 : 4, 8, 1, 1 > (c, a, err);
    return gemv_launch<S, FINE, 2, 8, 1, 1>(c, a, err);
}

#endif
