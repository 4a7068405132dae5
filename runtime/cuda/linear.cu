/* y = x W' + b with an epilogue: which product takes a shape, and the ones that are not fast.
 *
 * The first row of the table whose conditions fit does it:
 *
 *   w8a8                            activations to codes, then gemm_w8a8.cu, or up to 64 tokens
 *                                   gemm_w8a8_few.cu, which from 9 on may choose gemm_few.cuh
 *   up to 64 tokens, K % 8 == 0     matrix-vector kernel of the scheme (gemv.cuh), on Hopper from 9
 *                                   tokens on mostly gemm_few.cuh; w4g and w8g if
 *                                   their groups are whole rows, or 32, 64, 128 .. columns and at
 *                                   most CU_GROUPS of a row, and gate and up start at multiples of
 *                                   8; columns in the order of groups: x is gathered that way first
 *   more, f16                       cuBLASLt
 *   more, quantized; odd groups     dequantize a strip of rows of at most CU_TILE bytes, then
 *                                   cuBLASLt; strip by strip.  Strips that stay in L2 are slower:
 *                                   every product ends with a wave that leaves multiprocessors idle
 *   no cuBLASLt, or no kernel in it the matrix-vector kernel, 64 tokens at a time
 *   anything                        one warp per output, in plain code
 *
 * Numbers: f16 products, f32 sums; the strip rounds a weight to f16 once, the other products
 * apply scales to sums; w8a8 sums are exact.  CPU twin: runtime/cpu/linear.c. */
#include "runtime/cuda/cu_w8a8.h"
#include "runtime/cuda/cu_weight.cuh"

/* ---- plain -------------------------------------------------------------------------------- */

#define PLAIN_WARPS 8

/* One warp per (token, column); SILU_MUL: it makes both products. */
static __global__ void plain(const __half *x, const cu_table w, const float *bias, void *y,
                             int64_t N, int64_t K, int epi)
{
    const int64_t n_cols = epi == RT_EPI_SILU_MUL ? N / 2 : N;
    const int64_t n = (int64_t)blockIdx.x * PLAIN_WARPS + threadIdx.y, t = blockIdx.y;
    float v[2] = { 0, 0 };

    cu_wait();
    if (n >= n_cols)
        return;
    for (int h = 0; h < (epi == RT_EPI_SILU_MUL ? 2 : 1); h++) {
        const int64_t row = n + h * n_cols;

        for (int64_t k = threadIdx.x; k < K; k += 32)
            v[h] += __half2float(x[t * K + k]) * cu_weight_at(w, row, k);
        v[h] = cu_warp_sum(v[h]) + (bias ? bias[row] : 0.0f);
    }
    if (threadIdx.x != 0)
        return;
    if (epi == RT_EPI_F32)
        ((float *)y)[t * n_cols + n] = v[0];
    else if (epi == RT_EPI_ADD)
        ((float *)y)[t * n_cols + n] += v[0];
    else
        ((__half *)y)[t * n_cols + n] =
            cu_half(epi == RT_EPI_SILU_MUL ? v[0] / (1.0f + __expf(-v[0])) * v[1] : v[0]);
}

static q_status run_plain(const cu_be *c, const rt_linear_args *a, int *done, q_err *err)
{
    q_status st = Q_OK;
    const rt_weight *w = a->w;
    const int64_t cols = a->epi == RT_EPI_SILU_MUL ? w->N / 2 : w->N;
    const int64_t wide = a->epi == RT_EPI_F32 || a->epi == RT_EPI_ADD ? 4 : 2;

    for (int64_t t = 0; t < a->n_tok; t += 65535) { /* the height of a grid */
        const int64_t m = a->n_tok - t < 65535 ? a->n_tok - t : 65535;

        CU_LAUNCH(c, plain, dim3((unsigned)((cols + PLAIN_WARPS - 1) / PLAIN_WARPS), (unsigned)m),
                  dim3(32, PLAIN_WARPS), 0, (const __half *)a->x + t * w->K, cu_table_of(w),
                  w->bias, (void *)((char *)a->y + t * cols * wide), w->N, w->K, (int)a->epi);
    }
    *done = 1;
out:
    return st;
}

/* ---- matrix-vector ------------------------------------------------------------------------- */

/* 0: the kernels do not take these groups */
static int set_groups(cu_gemv *g, const rt_weight *w, rt_epi epi)
{
    g->G = 0;
    g->shift = 31;
    if (!w->scheme->grouped)
        return 1;
    if (w->group < w->K) {
        for (g->shift = 5; g->shift < 30 && (int64_t)1 << g->shift < w->group;)
            g->shift++;
        if ((int64_t)1 << g->shift != w->group)
            return 0;
    }
    g->G = (int)qnt_n_groups(w->scheme, w->K, w->group);
    g->scale16 = w->scale;
    g->zero = w->zero;
    g->middle = w->scheme->bits == 4 ? 0x08080808u : 0x80808080u;
    return g->G <= CU_GROUPS && !(epi == RT_EPI_SILU_MUL && w->N % 16 != 0) &&
           !(w->g_idx && (size_t)w->K * CU_ROWS * 2 > CU_CODES);
}

static q_status gemv_of(const cu_be *c, const rt_weight *w, const cu_gemv *g, int *done, q_err *err)
{
    *done = 1;
    switch (cu_scheme_of(w)) {
    case CU_F16:
        return cu_gemv_f16(c, g, err);
    case CU_W8:
        return cu_gemv_w8(c, g, err);
    case CU_W4:
        return cu_gemv_w4(c, g, err);
    case CU_W8G:
        return cu_gemv_w8g(c, g, err);
    case CU_W4G:
        return cu_gemv_w4g(c, g, err);
    case CU_W8A8: /* has kernels of its own */
        break;
    }
    *done = 0;
    return Q_OK;
}

static q_status run_gemv(const cu_be *c, const rt_linear_args *a, int *done, q_err *err)
{
    q_status st = Q_OK;
    const rt_weight *w = a->w;
    const int64_t cols = a->epi == RT_EPI_SILU_MUL ? w->N / 2 : w->N;
    const int64_t wide = a->epi == RT_EPI_F32 || a->epi == RT_EPI_ADD ? 4 : 2;
    cu_gemv g;

    memset(&g, 0, sizeof g);
    *done = 0;
    if (w->K % 8 != 0 || w->row_bytes > INT32_MAX / 2 || !set_groups(&g, w, a->epi))
        return Q_OK;
    g.w = w->data;
    g.scale = w->scheme->grouped ? NULL : w->scale;
    g.bias = w->bias;
    g.N = w->N;
    g.K = w->K;
    g.row_bytes = w->row_bytes;
    g.epi = a->epi;
    for (int64_t t = 0; t < a->n_tok; t += CU_ROWS) {
        g.M = (int)(a->n_tok - t < CU_ROWS ? a->n_tok - t : CU_ROWS);
        g.x = (const __half *)a->x + t * w->K;
        g.y = (char *)a->y + t * cols * wide;
        if (w->g_idx) {
            Q_TRY(cu_gather(c, w, g.x, g.M, c->tile, err));
            g.x = c->tile;
        }
        Q_TRY(gemv_of(c, w, &g, done, err));
        if (!*done)
            break;
    }
out:
    return st;
}

/* ---- cuBLASLt ------------------------------------------------------------------------------ */

#define SILU_THREADS 128

/* Values of 8 columns, zeros from half on. */
static __device__ __forceinline__ void load8(__half v[8], const __half *from, int64_t k,
                                             int64_t half)
{
    if (half % 8 == 0) {
        *(uint4 *)v = *(const uint4 *)(from + k);
        return;
    }
#pragma unroll
    for (int e = 0; e < 8; e++)
        v[e] = k + e < half ? from[k + e] : __ushort_as_half(0);
}

/* h [M, half] = silu(g) * u of z [M, 2 half]: a token a block of x, 8 columns a thread */
static __global__ void __launch_bounds__(SILU_THREADS)
    silu_mul(const __half *z, __half *h, int64_t half)
{
    const int64_t k = 8 * ((int64_t)blockIdx.y * SILU_THREADS + threadIdx.x);
    __align__(16) __half g[8], u[8];

    cu_wait();
    if (k >= half)
        return;
    z += 2 * half * blockIdx.x;
    h += half * blockIdx.x;
    load8(g, z, k, half);
    load8(u, z + half, k, half);
#pragma unroll
    for (int e = 0; e < 8; e++) {
        const float v = __half2float(g[e]);

        g[e] = cu_half(v / (1.0f + __expf(-v)) * __half2float(u[e]));
    }
    if (half % 8 == 0)
        *(uint4 *)(h + k) = *(const uint4 *)g;
    else
        for (int e = 0; e < 8 && k + e < half; e++)
            h[k + e] = g[e];
}

static q_status product(const cu_be *c, const rt_linear_args *a, void *d, int *done, q_err *err)
{
    q_status st = Q_OK;
    const rt_weight *w = a->w;
    const int f32 = a->epi == RT_EPI_F32 || a->epi == RT_EPI_ADD, quantized = w->scale != NULL;
    const int64_t ld = (w->K + 7) / 8 * 8;
    const int64_t fit = (int64_t)CU_TILE / (2 * ld) / 64 * 64;
    const int64_t strip = quantized ? fit : w->N;
    const char *bias16 = (const char *)w->bias + (w->N * 4 + 15) / 16 * 16;
    cu_lt_args l;

    memset(&l, 0, sizeof l);
    *done = 0;
    if (strip < 1 || (quantized && w->K % 8 != 0))
        return Q_OK;
    for (int64_t n0 = 0; n0 < w->N; n0 += strip) {
        const int64_t n = w->N - n0 < strip ? w->N - n0 : strip;

        if (quantized)
            Q_TRY(cu_dequantize(c, w, n0, n, c->tile, ld, err));
        l.x = a->x;
        l.w = quantized ? c->tile : (const char *)w->data;
        l.bias = !w->bias ? NULL : f32 ? (const void *)(w->bias + n0) : bias16 + 2 * n0;
        l.d = (char *)d + n0 * (f32 ? 4 : 2);
        l.M = a->n_tok;
        l.N = n;
        l.K = w->K;
        l.ldw = quantized ? ld : w->row_bytes / 2;
        l.ldd = w->N;
        l.d_f32 = f32;
        l.add = a->epi == RT_EPI_ADD;
        Q_TRY(cu_lt_matmul(c, &l, done, err));
        if (!*done && n0 > 0 && l.add) /* a part was added: starting over would add it twice */
            Q_FAIL(err, Q_EBUG, "linear: [%lld, %lld]: no kernel for the last strip",
                   (long long)w->N, (long long)w->K);
        if (!*done)
            return Q_OK;
    }
out:
    return st;
}

static q_status run_lt(const cu_be *c, const rt_linear_args *a, int *done, q_err *err)
{
    q_status st = Q_OK;
    const int64_t half = a->w->N / 2, blocks = (half + 8 * SILU_THREADS - 1) / (8 * SILU_THREADS);

    if (a->epi != RT_EPI_SILU_MUL)
        return product(c, a, a->y, done, err);
    if (a->n_tok > INT32_MAX || blocks > 65535) /* of a grid */
        return Q_OK;
    Q_TRY(product(c, a, a->tmp, done, err));
    if (*done)
        CU_LAUNCH(c, silu_mul, dim3((unsigned)a->n_tok, (unsigned)blocks), dim3(SILU_THREADS), 0,
                  (const __half *)a->tmp, (__half *)a->y, half);
out:
    return st;
}

/* ---- w8a8 ---------------------------------------------------------------------------------- */

/* As many tokens at a time as have room for their codes.  Up to 64 of them, or on a GPU without
 * wgmma any number 64 at a time: the kernel for few. */
static q_status run_w8a8(const cu_be *c, const rt_linear_args *a, int *done, q_err *err)
{
    q_status st = Q_OK;
    const rt_weight *w = a->w;
    const int64_t cols = a->epi == RT_EPI_SILU_MUL ? w->N / 2 : w->N;
    const int64_t wide = a->epi == RT_EPI_F32 || a->epi == RT_EPI_ADD ? 4 : 2;
    const int64_t fit = cu_codes_tokens(w->K);
    cu_w8a8 g;

    *done = 0;
    if (cu_scheme_of(w) != CU_W8A8)
        return Q_OK;
    g.w = (const int8_t *)w->data;
    g.scale = w->scale;
    g.bias = w->bias;
    g.N = w->N;
    g.ld = w->row_bytes;
    g.epi = a->epi;
    for (int64_t t0 = 0; t0 < a->n_tok; t0 += fit) {
        const int64_t m = a->n_tok - t0 < fit ? a->n_tok - t0 : fit;
        const int64_t step = m > CU_ROWS && c->cc == 90 && w->N <= CU_W8A8_GEMM_N ? m : CU_ROWS;

        if (!(a->coded && a->n_tok <= fit))
            Q_TRY(cu_quant_rows(c, (const __half *)a->x + t0 * w->K, m, w->K, w->x_scale, err));
        for (int64_t t = 0; t < m; t += step) {
            g.M = m - t < step ? m - t : step;
            g.x = cu_codes(c) + t * g.ld;
            g.xs = cu_codes_scale(c) + t;
            g.y = (char *)a->y + (t0 + t) * cols * wide;
            Q_TRY(step > CU_ROWS ? cu_w8a8_gemm(c, &g, err) : cu_w8a8_few(c, &g, err));
        }
    }
    *done = 1;
out:
    return st;
}

/* ---- the table ----------------------------------------------------------------------------- */

typedef q_status (*linear_fn)(const cu_be *c, const rt_linear_args *a, int *done, q_err *err);

typedef struct linear_row {
    int64_t m_max; /* tokens */
    linear_fn run; /* *done 0: not for this shape, try the next row */
} linear_row;

static const linear_row rows[] = {
    { INT64_MAX, run_w8a8 }, { CU_ROWS, run_gemv },    { INT64_MAX, run_lt },
    { INT64_MAX, run_gemv }, { INT64_MAX, run_plain },
};

extern "C" q_status cu_linear(rt_backend *be, const rt_linear_args *a, q_err *err)
{
    q_status st = Q_OK;
    int done = a->n_tok == 0;

    if (a->epi == RT_EPI_SILU_MUL && a->w->N % 2 != 0)
        Q_FAIL(err, Q_ESHAPE, "linear: %lld rows have no gate and up half", (long long)a->w->N);
    for (const linear_row *r = rows; !done; r++)
        if (a->n_tok <= r->m_max)
            Q_TRY(r->run(cu_of(be), a, &done, err));
out:
    return st;
}
