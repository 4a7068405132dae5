/* y = x W' + b with an epilogue: which product takes a shape, and the ones that are not fast.
 *
 * The first row of the table whose conditions fit does it:
 *
 *   w8a8                            activations to codes, then gemm_w8a8.cu, or up to 64 tokens
 *                                   gemm_w8a8_few.cu
 *   up to 64 tokens, K % 8 == 0     matrix-vector kernel of the scheme (gemv.cuh)
 *   more, f16                       cuBLASLt
 *   more, w8 and w4                 dequantize a strip of rows of at most CU_TILE bytes, which
 *                                   stays in L2, then cuBLASLt; strip by strip
 *   no cuBLASLt, or no kernel in it the matrix-vector kernel, 64 tokens at a time
 *   anything                        one warp per output, in plain code
 *
 * Numbers: f16 products, f32 sums; the strip rounds code * scale to f16 once, the other products
 * apply the scale to the sum; w8a8 sums are exact.  CPU twin: runtime/cpu/linear.c. */
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

static q_status run_gemv(const cu_be *c, const rt_linear_args *a, int *done, q_err *err)
{
    q_status st = Q_OK;
    const rt_weight *w = a->w;
    const int64_t cols = a->epi == RT_EPI_SILU_MUL ? w->N / 2 : w->N;
    const int64_t wide = a->epi == RT_EPI_F32 || a->epi == RT_EPI_ADD ? 4 : 2;
    cu_gemv g;

    if (w->K % 8 != 0 || w->row_bytes > INT32_MAX / 2)
        return Q_OK;
    g.w = w->data;
    g.scale = w->scale;
    g.bias = w->bias;
    g.N = w->N;
    g.K = w->K;
    g.row_bytes = w->row_bytes;
    g.epi = a->epi;
    for (int64_t t = 0; t < a->n_tok; t += CU_ROWS) {
        g.M = (int)(a->n_tok - t < CU_ROWS ? a->n_tok - t : CU_ROWS);
        g.x = (const __half *)a->x + t * w->K;
        g.y = (char *)a->y + t * cols * wide;
        switch (cu_scheme_of(w)) {
        case CU_F16:
            Q_TRY(cu_gemv_f16(c, &g, err));
            break;
        case CU_W8:
            Q_TRY(cu_gemv_w8(c, &g, err));
            break;
        case CU_W4:
            Q_TRY(cu_gemv_w4(c, &g, err));
            break;
        case CU_W8A8: /* has kernels of its own */
            return Q_OK;
        }
    }
    *done = 1;
out:
    return st;
}

/* ---- cuBLASLt ------------------------------------------------------------------------------ */

/* Rows n0 .. n0 + blockIdx.x of W as f16, rows ld apart: a block each. */
static __global__ void dequantize(const cu_table w, int64_t n0, int64_t K, __half *out, int64_t ld)
{
    const char *row = w.data + (n0 + blockIdx.x) * w.row_bytes;
    const float scale = w.scale[n0 + blockIdx.x];

    cu_wait(); /* the product before still reads the strip */
    out += blockIdx.x * ld;
    for (int64_t k = 8 * (int64_t)threadIdx.x; k < K; k += 8 * blockDim.x) {
        __align__(16) __half v[8];

        if (w.scheme == CU_W8) {
            const uint2 c = *(const uint2 *)(row + 8 * cu_unit(k / 8, 8));

            for (int i = 0; i < 8; i++)
                v[i] = cu_half((float)((int)((i < 4 ? c.x : c.y) >> (8 * (i % 4)) & 255) - 128) *
                               scale);
        } else {
            const uint32_t c = *(const uint32_t *)(row + 4 * cu_unit(k / 8, 16));

            for (int i = 0; i < 8; i++)
                v[i] = cu_half((float)((int)(c >> (4 * (i / 2) + 16 * (i % 2)) & 15) - 8) * scale);
        }
        *(uint4 *)(out + k) = *(const uint4 *)v;
    }
}

/* h [M, half] = silu(g) * u of z [M, 2 half], 2 columns a thread */
static __global__ void silu_mul(const __half *z, __half *h, int64_t half, int64_t n)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, t = i / half, k = i % half;

    cu_wait();
    if (i < n) {
        const float g = __half2float(z[2 * t * half + k]);

        h[i] = cu_half(g / (1.0f + __expf(-g)) * __half2float(z[2 * t * half + half + k]));
    }
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
            CU_LAUNCH(c, dequantize, dim3((unsigned)n), dim3(256), 0, cu_table_of(w), n0, w->K,
                      (__half *)c->tile, ld);
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
    const int64_t half = a->w->N / 2, n = a->n_tok * half;

    if (a->epi != RT_EPI_SILU_MUL)
        return product(c, a, a->y, done, err);
    Q_TRY(product(c, a, a->tmp, done, err));
    if (*done)
        CU_LAUNCH(c, silu_mul, dim3((unsigned)((n + 255) / 256)), dim3(256), 0,
                  (const __half *)a->tmp, (__half *)a->y, half, n);
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
