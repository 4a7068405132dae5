/* Products of int8 activations with int8 weights (w8a8): one piece, and the kernel in plain C.
 *
 * The kernels add up q * (code + 128) in 32 bits, without rounding or saturation, so the sums of
 * every instruction set, of any number of threads and of any batch are equal.  What the 128 adds is
 * taken off at the end, 128 times the sum of a token's codes; then
 *
 *     y = (float)sum * (scale of the row of W * scale of the token)
 *
 * Many tokens: the piece walks K in stretches of CPU_DOT_TILE_K; the codes of its rows stay in L2
 * while the tokens pass in tiles of up to CPU_TILE_M.  Few tokens: all of K at once, so that the
 * weights are long forward streams.  Beyond CPU_DOT_K elements 32 bits could overflow: sums of such
 * stretches are added in double, which holds them exactly. */
#include <string.h>

#include "runtime/cpu/cpu.h"

#define SUMS (CPU_GROUP_M * CPU_BLOCK_N)

_Static_assert(3 * SUMS <= CPU_JOB_TMP, "32-bit sums and doubles fit in the scratch of a job");

void cpu_dot_ref(const cpu_dot *a)
{
    for (int p = 0; p < a->panels; p++) {
        const uint8_t *w = a->w + 4 * CPU_PANEL * p;

        for (int64_t i = 0; i < a->words; i++, w += 4 * CPU_QUAD)
            for (int t = 0; t < a->m; t++) {
                const int8_t *q = a->q + t * a->ld + 4 * i;
                int32_t *out = a->out + t * CPU_BLOCK_N + p * CPU_PANEL;

                for (int r = 0; r < CPU_PANEL; r++)
                    out[r] += q[0] * w[4 * r] + q[1] * w[4 * r + 1] + q[2] * w[4 * r + 2] +
                              q[3] * w[4 * r + 3];
            }
    }
}

/* the most tokens of a tile such that all tiles are about equal */
static int tile_of(int m)
{
    const int tiles = (m + CPU_TILE_M - 1) / CPU_TILE_M;

    return (m + tiles - 1) / tiles;
}

/* all quads of a tile of tokens: codes at q, words of weights from k on */
static void tile(const cpu_job *j, int32_t *sum, const int8_t *q, int m, int64_t k, int64_t words)
{
    const uint8_t *w = (const uint8_t *)j->w->data + k * CPU_QUAD;

    for (int n = 0; n < j->n; n += CPU_QUAD)
        j->dot(&(cpu_dot){ .q = q,
                           .ld = j->codes->ld,
                           .m = m,
                           .words = words,
                           .w = w + (j->n0 + n) / CPU_QUAD * j->w->row_bytes,
                           .panels = cpu_panels(j->n - n),
                           .out = sum + n });
}

/* sum [m] rows CPU_BLOCK_N apart, of elements k0 .. k0 + n - 1 of K; both multiples of 4 */
static void dots(const cpu_job *j, int32_t *sum, int64_t k0, int64_t n)
{
    const int64_t k_step = j->m <= CPU_FEW ? n : CPU_DOT_TILE_K;
    const int step = tile_of(j->m), columns = (int)cpu_round_up(j->n, CPU_PANEL);

    for (int t = 0; t < j->m; t++)
        memset(sum + t * CPU_BLOCK_N, 0, (size_t)columns * sizeof *sum);
    for (int64_t k = k0; k < k0 + n; k += k_step)
        for (int t = 0; t < j->m; t += step) {
            const int64_t left = k0 + n - k < k_step ? k0 + n - k : k_step;

            tile(j, sum + t * CPU_BLOCK_N, j->codes->q + (j->t0 + t) * j->codes->ld + k,
                 j->m - t < step ? j->m - t : step, k, left / 4);
        }
}

/* K > CPU_DOT_K */
static void long_rows(const cpu_job *j, int32_t *sum, double *total)
{
    const int64_t K = cpu_round_up(j->w->K, 4);

    for (int64_t k = 0; k < K; k += CPU_DOT_K) {
        dots(j, sum, k, K - k < CPU_DOT_K ? K - k : CPU_DOT_K);
        for (int t = 0; t < j->m; t++)
            for (int i = t * CPU_BLOCK_N; i < t * CPU_BLOCK_N + j->n; i++)
                total[i] = (k > 0 ? total[i] : 0) + (double)sum[i];
    }
    for (int t = 0; t < j->m; t++)
        for (int i = t * CPU_BLOCK_N; i < t * CPU_BLOCK_N + j->n; i++)
            j->out[i] = (float)(total[i] - 128.0 * (double)j->codes->sum[j->t0 + t]);
}

void cpu_mul_dots(const cpu_job *j)
{
    int32_t *sum = (void *)j->tmp;
    double *total = (void *)(j->tmp + SUMS);
    const float *scale = j->w->scale + j->n0;
    const int is_long = j->w->K > CPU_DOT_K;

    if (is_long)
        long_rows(j, sum, total);
    else
        dots(j, sum, 0, cpu_round_up(j->w->K, 4));
    for (int t = 0; t < j->m; t++) {
        const float of_token = j->codes->scale[j->t0 + t];
        const int32_t extra = 128 * j->codes->sum[j->t0 + t];
        float *out = j->out + t * CPU_BLOCK_N;

        for (int i = 0; i < j->n; i++) {
            const float v = is_long ? out[i] : (float)(sum[t * CPU_BLOCK_N + i] - extra);

            out[i] = v * (scale[i] * of_token);
        }
    }
}
