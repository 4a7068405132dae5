/* The columns of GPTQ on the GPU.  CPU twin and mathematics: quant/columns_host.c, quant/gptq.h.
 *
 * Blocks of 128 columns from the first to the last; within one, rows are independent.  A warp has a
 * row: lane l holds its columns l, l + 32, l + 64 and l + 96, and the block of U lies in shared
 * memory.  Column by column the lane that has it finds the code and what is lost, tells the others,
 * and all make it good in what they hold; U is zero below its diagonal, so columns that are done
 * do not change what is written of them.  What the block lost goes through one product into the
 * columns behind it.
 *
 * Scales come from the current weights when a group starts (from the registers, or by one kernel
 * for groups larger than a block), or were made before from the weights given. */
#include "runtime/cuda/cu_group.cuh"
#include "runtime/cuda/cu_quant.h"

#define BLOCK 128
#define WARPS 8
#define EACH  (BLOCK / 32) /* columns of a lane */

typedef struct block_args {
    float *w;       /* [N, K] current weights in the order of the columns */
    float *means;   /* [N, K] natural order; may be w when the orders agree */
    float *lost;    /* [N, BLOCK] */
    uint8_t *codes; /* [N, K] natural order */
    float *scale;   /* [N, n_groups] */
    uint8_t *zero;
    const float *U, *h;   /* [K, K]; [K] weights of a search, NULL: the full range */
    const int32_t *order; /* [K] */
    int64_t N, K, group, n_groups, k0;
    int n, bits, sym; /* columns of this block */
    int fit;          /* groups start inside the block: first fit them */
} block_args;

/* The range of the group at columns c .. c + size - 1 of the block, from what lanes hold. */
static __device__ cu_range fit_held(const block_args &a, const float w[EACH], const float h[EACH],
                                    int c, int size)
{
    const int lane = (int)threadIdx.x;
    cu_extent e = { 0, 0, 0 };
    cu_range best;
    float least = INFINITY;

#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (lane + 32 * i >= c && lane + 32 * i < c + size)
            cu_extent_add(&e, w[i]);
    e = cu_extent_warp(e);
    best = cu_fit(e, a.bits, a.sym, 1);
    for (int s = 0; s < CU_SEARCH && a.h; s++) {
        const cu_range r =
            cu_fit(e, a.bits, a.sym, 1 - __fmul_rn(1 - CU_RATIO_MIN, (float)s) / CU_SEARCH);
        float sum = 0;

#pragma unroll
        for (int i = 0; i < EACH; i++)
            if (lane + 32 * i >= c && lane + 32 * i < c + size)
                sum += cu_weighted(w[i], h[i], r, a.bits);
        sum = cu_warp_sum(sum);
        if (sum < least) {
            least = sum;
            best = r;
        }
    }
    return best;
}

typedef struct held {
    float w[EACH], h[EACH], means[EACH], lost[EACH];
    cu_range r[EACH];
    int code[EACH];
    int next; /* column where the next group starts */
} held;

/* A group begins at column c: its range, for the lanes that have columns of it. */
static __device__ __forceinline__ void begin_group(const block_args &a, held &v, int64_t n, int c)
{
    const int lane = (int)threadIdx.x;
    const int size = a.n - c < a.group ? a.n - c : (int)a.group;
    const cu_range r = fit_held(a, v.w, v.h, c, size);
    const int64_t at = n * a.n_groups + (a.k0 + c) / a.group;

#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (lane + 32 * i >= c && lane + 32 * i < c + size)
            v.r[i] = r;
    v.next = c + size;
    if (lane == 0) {
        a.scale[at] = r.scale;
        a.zero[at] = (uint8_t)r.zero;
    }
}

/* Columns 32 I .. 32 I + 31 of the block. */
template <int I>
static __device__ __forceinline__ void some_columns(const block_args &a, held &v, int64_t n,
                                                    const float *u)
{
    const int lane = (int)threadIdx.x;

    for (int l = 0; l < 32; l++) {
        const int c = 32 * I + l;
        float means, e;
        int code;

        if (c >= a.n)
            return;
        if (c == v.next)
            begin_group(a, v, n, c);
        code = (int)cu_nearest(v.w[I], v.r[I], a.bits) + v.r[I].zero;
        means = __fmul_rn((float)(code - v.r[I].zero), v.r[I].scale);
        e = __fdiv_rn(v.w[I] - means, u[c * BLOCK + c]);
        if (lane == l) {
            v.code[I] = code;
            v.means[I] = means;
            v.lost[I] = e;
        }
        e = __shfl_sync(0xffffffffu, e, l);
#pragma unroll
        for (int i = I; i < EACH; i++)
            v.w[i] -= e * u[c * BLOCK + lane + 32 * i];
    }
}

static __device__ __forceinline__ void load_row(const block_args &a, held &v, int64_t n)
{
    const int lane = (int)threadIdx.x;

    v.next = a.fit ? 0 : BLOCK;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int64_t k = a.k0 + lane + 32 * i;
        const int there = lane + 32 * i < a.n;
        const int64_t at = there ? n * a.n_groups + a.order[k] / a.group : 0;

        v.w[i] = there ? a.w[n * a.K + k] : 0;
        v.h[i] = there && a.fit && a.h ? a.h[k] : 0;
        v.r[i].scale = there && !a.fit ? a.scale[at] : 1;
        v.r[i].zero = there && !a.fit ? a.zero[at] : 0;
    }
}

static __device__ __forceinline__ void store_row(const block_args &a, const held &v, int64_t n)
{
    const int lane = (int)threadIdx.x;

#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (lane + 32 * i < a.n) {
            const int64_t k = a.order[a.k0 + lane + 32 * i];

            a.means[n * a.K + k] = v.means[i];
            a.codes[n * a.K + k] = (uint8_t)v.code[i];
            a.lost[n * BLOCK + lane + 32 * i] = v.lost[i];
        }
}

static __global__ void __launch_bounds__(32 * WARPS, 3) columns(block_args a)
{
    extern __shared__ float u[]; /* [BLOCK][BLOCK] of U, zeros around it */
    const int t = (int)(threadIdx.y * 32 + threadIdx.x);

    for (int i = t; i < BLOCK * BLOCK; i += 32 * WARPS) {
        const int r = i / BLOCK, c = i % BLOCK;

        u[i] = r <= c && c < a.n ? a.U[(a.k0 + r) * a.K + a.k0 + c] : 0;
    }
    __syncthreads();
    for (int64_t n = (int64_t)blockIdx.x * WARPS + threadIdx.y; n < a.N;
         n += (int64_t)gridDim.x * WARPS) {
        held v;

        load_row(a, v, n);
        some_columns<0>(a, v, n, u);
        some_columns<1>(a, v, n, u);
        some_columns<2>(a, v, n, u);
        some_columns<3>(a, v, n, u);
        store_row(a, v, n);
    }
}

/* w[n, i] = W[n, order[i]] */
static __global__ void gather(float *w, const float *W, const int32_t *order, int64_t N, int64_t K)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;

    if (i < N * K)
        w[i] = W[i / K * K + order[i % K]];
}

/* ---- all blocks ------------------------------------------------------------------------------ */

static q_status do_block(const qnt_dev *d, const block_args *a, q_err *err)
{
    q_status st = Q_OK;
    const int sms = cu_of(((const cu_math *)d->self)->be)->sms;
    const int64_t blocks = (a->N + WARPS - 1) / WARPS, most = 3 * (int64_t)sms;
    const int shared = BLOCK * BLOCK * (int)sizeof(float);
    const int64_t k1 = a->k0 + a->n;
    cu_gemm_f32 g = {};

    CU_TRY(cudaFuncSetAttribute((const void *)columns, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                shared));
    columns<<<(unsigned)(blocks < most ? blocks : most), dim3(32, WARPS), shared,
              cu_stream_of(d)>>>(*a);
    CU_TRY(cudaGetLastError());
    g.A = a->lost;
    g.B = a->U + a->k0 * a->K + k1;
    g.C = a->w + k1;
    g.M = a->N;
    g.N = a->K - k1;
    g.K = a->n;
    g.lda = BLOCK;
    g.ldb = g.ldc = a->K;
    g.alpha = -1;
    g.beta = 1;
    Q_TRY(cu_gemm_run(d, &g, err));
out:
    return st;
}

static q_status all_blocks(const qnt_dev *d, const qnt_columns *c, block_args *a, const float *h,
                           q_err *err)
{
    q_status st = Q_OK;

    for (a->k0 = 0; a->k0 < a->K && !(c->stop && *c->stop); a->k0 += a->n) {
        a->n = (int)qnt_block_columns(c, a->k0);
        a->fit = !c->is_static && a->group <= BLOCK;
        if (!c->is_static && !a->fit && a->k0 % a->group == 0)
            Q_TRY(cu_q_fit_group(d, c->t, a->w, a->k0 / a->group, h, c->sym, c->plain_scale, err));
        Q_TRY(do_block(d, a, err));
    }
out:
    return st;
}

extern "C" q_status cu_q_solve(const qnt_dev *d, const qnt_columns *c, q_err *err)
{
    q_status st = Q_OK;
    const int64_t N = c->t->N, K = c->t->K;
    qnt_group_opts fit = {};
    block_args a = {};
    void *w = NULL, *lost = NULL, *codes = NULL, *h = NULL, *order = NULL;
    int sorted = 1;

    for (int64_t k = 0; k < K; k++)
        sorted = sorted && c->order[k] == k;
    Q_TRY(d->ops->alloc(d, (size_t)(N * BLOCK) * sizeof(float), &lost, err));
    Q_TRY(d->ops->alloc(d, (size_t)(N * K), &codes, err));
    if (!sorted)
        Q_TRY(d->ops->alloc(d, (size_t)(N * K) * sizeof(float), &w, err));
    fit.sym = c->sym;
    fit.h = c->plain_scale ? NULL : c->diag;
    if (c->is_static)
        Q_TRY(cu_q_fit(d, c->t, c->W, &fit, err));
    Q_TRY(cu_math_vec(d, 0, c->diag, (size_t)K * sizeof(float), &h, err));
    Q_TRY(cu_math_vec(d, 1, c->order, (size_t)K * sizeof *c->order, &order, err));
    if (!sorted)
        gather<<<(unsigned)((N * K + 255) / 256), 256, 0, cu_stream_of(d)>>>(
            (float *)w, c->W, (const int32_t *)order, N, K);
    CU_TRY(cudaGetLastError());
    a.w = sorted ? c->W : (float *)w;
    a.means = c->W;
    a.lost = (float *)lost;
    a.codes = (uint8_t *)codes;
    a.scale = c->t->scale;
    a.zero = c->t->zero;
    a.U = c->U;
    a.h = c->plain_scale ? NULL : (const float *)h;
    a.order = (const int32_t *)order;
    a.N = N;
    a.K = K;
    a.group = c->t->group;
    a.n_groups = qnt_n_groups(c->t->scheme, K, c->t->group);
    a.bits = c->t->scheme->bits;
    a.sym = c->sym;
    Q_TRY(all_blocks(d, c, &a, (const float *)h, err));
    Q_TRY(cu_q_pack(d, c->t, (const uint8_t *)codes, err));
out:
    d->ops->free(d, w);
    d->ops->free(d, lost);
    d->ops->free(d, codes);
    return st;
}
