/* Weights in groups (w4g, w8g) with the kernels of float32: a stretch of CPU_TILE_K columns of the
 * piece's rows is dequantized into panels, 256 KiB that stay in L2, and multiplied from there while
 * the tokens pass.  Any group size and any order of groups: the scheme's own function reads the
 * rows.  A result is that of a float32 weight with the same values, bit for bit, so it does not
 * depend on how many tokens are computed together. */
#include <string.h>

#include "runtime/cpu/cpu.h"

/* rows n0 .. n0 + n - 1 and columns k0 .. k0 + size - 1 as panels [size][16]; no row: zeros */
static void make_panels(float *out, const rt_weight *w, int64_t n0, int n, int64_t k0, int64_t size)
{
    float rows[CPU_PANEL][CPU_TILE_K];

    for (int p = 0; p < n; p += CPU_PANEL, out += size * CPU_PANEL) {
        for (int i = 0; i < CPU_PANEL; i++) {
            if (p + i < n) {
                const qnt_row r = cpu_row(w, n0 + p + i);

                w->scheme->dequantize(rows[i], &r, k0, size);
            } else {
                memset(rows[i], 0, (size_t)size * sizeof rows[i][0]);
            }
        }
        for (int64_t k = 0; k < size; k++)
            for (int i = 0; i < CPU_PANEL; i++)
                out[k * CPU_PANEL + i] = rows[i][k];
    }
}

static void copy_x(float *tile, const cpu_job *j, int t, int m, int64_t k, int64_t n)
{
    for (int i = 0; i < m; i++)
        memcpy(tile + i * CPU_LDX, j->x + (t + i) * j->w->K + k, (size_t)n * sizeof *tile);
}

void cpu_mul_grouped(const cpu_job *j)
{
    const int64_t K = j->w->K;
    const int few = j->m <= CPU_FEW, columns = (int)cpu_round_up(j->n, CPU_PANEL);
    float *tile = j->tmp + CPU_BLOCK_N * CPU_TILE_K;

    for (int t = 0; t < j->m; t++)
        memset(j->out + t * CPU_BLOCK_N, 0, (size_t)columns * sizeof *j->out);
    for (int64_t k = 0; k < K; k += CPU_TILE_K) {
        cpu_mul a = { .n = K - k < CPU_TILE_K ? K - k : CPU_TILE_K,
                      .w = (const char *)j->tmp,
                      .k_bytes = CPU_PANEL * sizeof(float),
                      .panels = columns / CPU_PANEL };

        a.panel_bytes = a.n * a.k_bytes;
        make_panels(j->tmp, j->w, j->n0, j->n, k, a.n);
        for (int t = 0; t < j->m; t += CPU_TILE_M) {
            a.m = j->m - t < CPU_TILE_M ? j->m - t : CPU_TILE_M;
            a.x = few ? j->x + k : tile;
            a.ldx = few ? K : CPU_LDX;
            a.out = j->out + t * CPU_BLOCK_N;
            if (!few)
                copy_x(tile, j, t, a.m, k, a.n);
            j->panel(&a);
        }
    }
}
