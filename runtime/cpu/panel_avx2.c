/* Products of x with panels of weights, for AVX2 with FMA and F16C.  As panel_avx512.c explains,
 * with two vectors of 8 for the 16 rows of a panel and 16 registers: at most 6 tokens x 2 vectors.
 *
 * w4: a mask takes the low nibble of each word, which becomes a float and loses the 8 of the code;
 * a shift by 4 brings the next k. */
#include <immintrin.h>

#include "runtime/cpu/cpu.h"

#define INLINE static inline __attribute__((always_inline))

typedef enum kind { F32, F16, BF16, W8, W4 } kind;

#define STEP  8 /* k of one iteration: what a 64-byte block of w4 holds */
#define LANES 8
#define MOST  6 /* tokens of one tile */

/* 8 weights at p */
INLINE __m256 load_w(kind type, const char *p)
{
    if (type == F32)
        return _mm256_loadu_ps((const void *)p);
    if (type == F16)
        return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
    if (type == BF16)
        return _mm256_castsi256_ps(
            _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)));
}

/* bytes of 8 weights */
INLINE int64_t half_panel(kind type)
{
    return type == F32 ? 32 : type == W8 ? 8 : type == W4 ? 32 : 16;
}

INLINE __m256 w4_value(__m256i words)
{
    const __m256i code = _mm256_and_si256(words, _mm256_set1_epi32(15));

    return _mm256_cvtepi32_ps(_mm256_sub_epi32(code, _mm256_set1_epi32(8)));
}

/* acc += the products of n successive k.  n is STEP, or less at the end of a row. */
INLINE void step(kind type, int P, int M, __m256 acc[], const char *const w[], int64_t k_bytes,
                 const float *x, int64_t ldx, int n)
{
    __m256i c[8];
    __m256 v[8];

    for (int i = 0; i < 2 * P && type == W4; i++)
        c[i] = _mm256_loadu_si256((const void *)(w[i / 2] + i % 2 * half_panel(type)));
#pragma GCC unroll 8
    for (int j = 0; j < n; j++) {
        for (int i = 0; i < 2 * P; i++) {
            v[i] = type == W4 ? w4_value(c[i])
                              : load_w(type, w[i / 2] + j * k_bytes + i % 2 * half_panel(type));
            if (type == W4)
                c[i] = _mm256_srli_epi32(c[i], 4);
        }
        for (int m = 0; m < M; m++) {
            const __m256 b = _mm256_broadcast_ss(x + m * ldx + j);

            for (int i = 0; i < 2 * P; i++)
                acc[m * 2 * P + i] = _mm256_fmadd_ps(v[i], b, acc[m * 2 * P + i]);
        }
    }
}

/* panels first .. first + P - 1, tokens m0 .. m0 + M - 1 */
INLINE void tile(kind type, int P, int M, const cpu_mul *a, int first, int m0)
{
    const float *x = a->x + m0 * a->ldx;
    const char *w[4];

    for (int p = 0; p < P; p++)
        w[p] = a->w + (first + p) * a->panel_bytes;
    for (int64_t k = 0, end; k < a->n; k = end) {
        __m256 acc[2 * MOST];

        end = a->n - k < CPU_TILE_K ? a->n : k + CPU_TILE_K;
        for (int i = 0; i < M * 2 * P; i++)
            acc[i] = _mm256_setzero_ps();
        for (; k + STEP <= end; k += STEP) {
            step(type, P, M, acc, w, a->k_bytes, x + k, a->ldx, STEP);
            for (int p = 0; p < P; p++)
                w[p] += STEP * a->k_bytes;
        }
        if (k < end)
            step(type, P, M, acc, w, a->k_bytes, x + k, a->ldx, (int)(end - k));
        for (int m = 0; m < M; m++)
            for (int i = 0; i < 2 * P; i++) {
                float *out = a->out + (m0 + m) * CPU_BLOCK_N + first * CPU_PANEL + i * LANES;

                _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(out), acc[m * 2 * P + i]));
            }
    }
}

/* P panels at a time, what remains alone */
INLINE void tiles(kind type, int P, int M, const cpu_mul *a, int m0)
{
    int p = 0;

    for (; p + P <= a->panels; p += P)
        tile(type, P, M, a, p, m0);
    for (; P > 1 && p < a->panels; p++)
        tile(type, 1, M, a, p, m0);
}

/* Six tokens at a time; the next six find the codes in the cache.  w4 takes four registers a panel,
 * so fewer panels fit. */
INLINE void kernel(kind type, const cpu_mul *a)
{
    for (int m0 = 0; m0 < a->m; m0 += MOST)
        switch (a->m - m0) {
        case 1:
            tiles(type, type == W4 ? 2 : 4, 1, a, m0);
            break;
        case 2:
            tiles(type, type == W4 ? 1 : 2, 2, a, m0);
            break;
        case 3:
            tiles(type, 1, 3, a, m0);
            break;
        case 4:
            tiles(type, 1, 4, a, m0);
            break;
        case 5:
            tiles(type, 1, 5, a, m0);
            break;
        default:
            tiles(type, 1, MOST, a, m0);
        }
}

#define KERNEL(name, type)                                                                         \
    void name(const cpu_mul *a)                                                                    \
    {                                                                                              \
        kernel(type, a);                                                                           \
    }

KERNEL(cpu_panel_f32_avx2, F32)
KERNEL(cpu_panel_f16_avx2, F16)
KERNEL(cpu_panel_bf16_avx2, BF16)
KERNEL(cpu_panel_w8_avx2, W8)
/* With two tiles of tokens it pays to turn a panel of codes into floats first: four instructions a
 * vector instead of four a vector and tile (80 against 49 GFLOP/s at 12 tokens). */
void cpu_panel_w4_avx2(const cpu_mul *a)
{
    float panel[CPU_TILE_K * CPU_PANEL];

    if (a->m <= MOST) {
        kernel(W4, a);
        return;
    }
    for (int p = 0; p < a->panels; p++) {
        const char *w = a->w + p * a->panel_bytes;
        cpu_mul one = *a;

        for (int64_t k = 0; k < a->n; k += STEP, w += STEP * a->k_bytes)
            for (int h = 0; h < 2; h++) {
                __m256i c = _mm256_loadu_si256((const void *)(w + h * half_panel(W4)));

                for (int j = 0; j < STEP; j++, c = _mm256_srli_epi32(c, 4))
                    _mm256_storeu_ps(panel + (k + j) * CPU_PANEL + h * LANES, w4_value(c));
            }
        one.w = (const char *)panel;
        one.k_bytes = CPU_PANEL * (int64_t)sizeof *panel;
        one.panels = 1;
        one.out = a->out + p * CPU_PANEL;
        kernel(F32, &one);
    }
}
