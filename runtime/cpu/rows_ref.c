/* Products with canonical rows, in plain C: the reference, and the way of a scheme that has no
 * kernel.  Few tokens: dequantize a stretch of a row, multiply; the 16 partial sums keep the
 * rounding error of long rows small, let any compiler use its vectors, and have a fixed order.
 * Many tokens: dequantize a tile of CPU_BLOCK_N x CPU_TILE_K weights (256 KiB, half of a small L2),
 * then GEMM. */
#include "quant/linalg.h"
#include "runtime/cpu/cpu.h"

#define STRETCH 512 /* weights dequantized at a time: 2 KiB on the stack */
#define LANES   16

qnt_row cpu_row(const rt_weight *w, int64_t n)
{
    const int64_t at = n * qnt_n_groups(w->scheme, w->K, w->group);

    return (qnt_row){ .codes = (const char *)w->data + n * w->row_bytes,
                      .scale = w->scale ? w->scale + at : NULL,
                      .zero = w->zero ? w->zero + at : NULL,
                      .g_idx = w->g_idx,
                      .group = w->group };
}

static void dequantize(float *dst, const rt_weight *w, int64_t row, int64_t k0, int64_t n)
{
    const qnt_row r = cpu_row(w, row);

    w->scheme->dequantize(dst, &r, k0, n);
}

static void dot_add(float acc[LANES], const float *a, const float *b, int64_t n)
{
    int64_t k = 0;

    for (; k + LANES <= n; k += LANES)
        for (int l = 0; l < LANES; l++)
            acc[l] += a[k + l] * b[k + l];
    for (int l = 0; k < n; k++, l++)
        acc[l] += a[k] * b[k];
}

void cpu_mul_rows(const cpu_job *j)
{
    const rt_weight *w = j->w;
    float v[STRETCH];

    for (int i = 0; i < j->n; i++) {
        float acc[CPU_TILE_M][LANES] = { { 0 } };

        for (int64_t k = 0; k < w->K; k += STRETCH) {
            const int64_t n = w->K - k < STRETCH ? w->K - k : STRETCH;

            dequantize(v, w, j->n0 + i, k, n);
            for (int t = 0; t < j->m; t++)
                dot_add(acc[t], v, j->x + t * w->K + k, n);
        }
        for (int t = 0; t < j->m; t++) {
            float s = 0;

            for (int l = 0; l < LANES; l++)
                s += acc[t][l];
            j->out[t * CPU_BLOCK_N + i] = s;
        }
    }
}

void cpu_mul_gemm(const cpu_job *j)
{
    const rt_weight *w = j->w;

    for (int64_t k = 0; k < w->K; k += CPU_TILE_K) {
        const int64_t n = w->K - k < CPU_TILE_K ? w->K - k : CPU_TILE_K;

        for (int i = 0; i < j->n; i++)
            dequantize(j->tmp + i * CPU_TILE_K, w, j->n0 + i, k, n);
        qnt_gemm_nt(j->m, j->n, n, j->x + k, w->K, j->tmp, CPU_TILE_K, k > 0 ? 1.0f : 0.0f, j->out,
                    CPU_BLOCK_N);
    }
}
