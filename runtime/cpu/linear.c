/* y = x W' + b with an epilogue, for any scheme and any number of tokens.
 *
 * Few tokens: GEMV kernels, which stream the codes once for up to CPU_GEMV_M tokens.  Many tokens:
 * a tile of weight rows is dequantized into the scratch of a thread, where it stays in the cache,
 * and multiplied by all tokens.  The first row of the table that fits decides; the last one takes
 * anything.
 *
 * A piece is a fixed block of output columns, for SILU_MUL the same block of the gate and of the up
 * half, so that bias, sum and silu are applied while the values are hot. */
#include <math.h>
#include <string.h>

#include "quant/linalg.h"
#include "runtime/cpu/cpu.h"

/* Rows of a dequantized tile, and how much of K at a time: 256 KiB, half of a small L2. */
#define TILE_N 128
#define TILE_K 512

typedef struct linear_row {
    const char *scheme; /* NULL: any */
    int m_max;          /* tokens */
    cpu_isa isa;
    cpu_gemv_fn *gemv; /* NULL: dequantize a tile, then GEMM */
} linear_row;

static const linear_row rows[] = {
    { "f32", CPU_GEMV_M, CPU_AVX512, cpu_gemv_f32_avx512 },
    { "f16", CPU_GEMV_M, CPU_AVX512, cpu_gemv_f16_avx512 },
    { "bf16", CPU_GEMV_M, CPU_AVX512, cpu_gemv_bf16_avx512 },
    { "w8", CPU_GEMV_M, CPU_AVX512, cpu_gemv_w8_avx512 },
    { "w4", CPU_GEMV_M, CPU_AVX512, cpu_gemv_w4_avx512 },
    { "f32", CPU_GEMV_M, CPU_AVX2, cpu_gemv_f32_avx2 },
    { "f16", CPU_GEMV_M, CPU_AVX2, cpu_gemv_f16_avx2 },
    { "bf16", CPU_GEMV_M, CPU_AVX2, cpu_gemv_bf16_avx2 },
    { "w8", CPU_GEMV_M, CPU_AVX2, cpu_gemv_w8_avx2 },
    { "w4", CPU_GEMV_M, CPU_AVX2, cpu_gemv_w4_avx2 },
    { NULL, CPU_GEMV_M, CPU_REF, cpu_gemv_ref },
};

static cpu_gemv_fn *gemv_of(cpu_isa isa, const rt_weight *w, int64_t n_tok)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if ((!rows[i].scheme || strcmp(rows[i].scheme, w->scheme->name) == 0) &&
            n_tok <= rows[i].m_max && rows[i].isa == isa)
            return rows[i].gemv;
    return NULL;
}

cpu_deq_fn *cpu_deq_of(cpu_isa isa, const rt_weight *w)
{
    if (isa == CPU_REF || strcmp(w->scheme->name, "w4") != 0)
        return cpu_deq_ref;
    return isa == CPU_AVX512 ? cpu_deq_w4_avx512 : cpu_deq_w4_avx2;
}

static float silu(float v)
{
    return v / (1.0f + expf(-v));
}

static float bias_at(const rt_weight *w, int64_t n)
{
    return w->bias ? w->bias[n] : 0.0f;
}

/* One block of columns for all tokens: n0 .. n0 + n - 1 of y. */
static void gemv_block(const rt_linear_args *a, cpu_gemv_fn *gemv, int64_t n0, int n)
{
    const rt_weight *w = a->w;
    const int64_t half = w->N / 2, ldy = a->epi == RT_EPI_SILU_MUL ? half : w->N;
    float g[CPU_GEMV_M * CPU_GEMV_ROWS], u[CPU_GEMV_M * CPU_GEMV_ROWS];

    for (int64_t t = 0; t < a->n_tok; t += CPU_GEMV_M) {
        const int m = a->n_tok - t < CPU_GEMV_M ? (int)(a->n_tok - t) : CPU_GEMV_M;
        const float *x = (const float *)a->x + t * w->K;
        float *y = (float *)a->y + t * ldy + n0;

        gemv(g, w, n0, n, x, w->K, m);
        if (a->epi == RT_EPI_SILU_MUL)
            gemv(u, w, half + n0, n, x, w->K, m);
        for (int j = 0; j < m; j++, y += ldy)
            for (int i = 0; i < n; i++) {
                const float v = g[j * CPU_GEMV_ROWS + i] + bias_at(w, n0 + i);

                if (a->epi == RT_EPI_SILU_MUL)
                    y[i] = silu(v) * (u[j * CPU_GEMV_ROWS + i] + bias_at(w, half + n0 + i));
                else
                    y[i] = a->epi == RT_EPI_ADD ? y[i] + v : v;
            }
    }
}

/* out[, 0 .. n - 1] = or += x times rows n0 .. n0 + n - 1, bias added */
static void gemm_tile(const rt_linear_args *a, cpu_deq_fn *deq, float *tile, int64_t n0, int64_t n,
                      float *out, int64_t ldo, int add)
{
    const rt_weight *w = a->w;

    for (int64_t k0 = 0; k0 < w->K; k0 += TILE_K) {
        const int64_t k = w->K - k0 < TILE_K ? w->K - k0 : TILE_K;

        for (int64_t i = 0; i < n; i++)
            deq(tile + i * TILE_K, w, n0 + i, k0, k);
        qnt_gemm_nt(a->n_tok, n, k, (const float *)a->x + k0, w->K, tile, TILE_K,
                    add || k0 > 0 ? 1.0f : 0.0f, out, ldo);
    }
    if (w->bias)
        for (int64_t t = 0; t < a->n_tok; t++)
            for (int64_t i = 0; i < n; i++)
                out[t * ldo + i] += w->bias[n0 + i];
}

static void gemm_block(const rt_linear_args *a, cpu_deq_fn *deq, float *tile, int64_t n0, int64_t n)
{
    const int64_t N = a->w->N, half = N / 2;
    float *tmp = a->tmp, *y = a->y;

    if (a->epi != RT_EPI_SILU_MUL) {
        gemm_tile(a, deq, tile, n0, n, y + n0, N, a->epi == RT_EPI_ADD);
        return;
    }
    gemm_tile(a, deq, tile, n0, n, tmp + n0, N, 0);
    gemm_tile(a, deq, tile, half + n0, n, tmp + half + n0, N, 0);
    for (int64_t t = 0; t < a->n_tok; t++)
        for (int64_t i = n0; i < n0 + n; i++)
            y[t * half + i] = silu(tmp[t * N + i]) * tmp[t * N + half + i];
}

size_t cpu_linear_scratch(void)
{
    return (size_t)TILE_N * TILE_K * sizeof(float);
}

q_status cpu_linear(rt_backend *be, const rt_linear_args *a, q_err *err)
{
    const cpu_be *c = cpu_of(be);
    const rt_weight *w = a->w;
    const int64_t cols = a->epi == RT_EPI_SILU_MUL ? w->N / 2 : w->N;
    cpu_gemv_fn *gemv = gemv_of(c->isa, w, a->n_tok);
    cpu_deq_fn *deq = cpu_deq_of(c->isa, w);
    const int64_t step = gemv ? CPU_GEMV_ROWS : TILE_N, blocks = (cols + step - 1) / step;

    if (a->epi == RT_EPI_SILU_MUL && w->N % 2 != 0)
        return q_fail(err, Q_ESHAPE, "linear: %lld rows have no gate and up half", (long long)w->N);
    if (a->n_tok < 1)
        return Q_OK;
#pragma omp parallel for num_threads(c->threads) schedule(dynamic)
    for (int64_t i = 0; i < blocks; i++) {
        const int64_t n0 = i * step, n = cols - n0 < step ? cols - n0 : step;

        if (gemv)
            gemv_block(a, gemv, n0, (int)n);
        else
            gemm_block(a, deq, cpu_scratch(c), n0, n);
    }
    return Q_OK;
}
