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
INLINE void step(kind type, int M, int U, __m256 acc[], const char *w, int64_t k_bytes,
                 const float *x, int64_t ldx, int n)
{
    __m256i c[2];
    __m256 v[2];

    for (int h = 0; h < 2 && type == W4; h++)
        c[h] = _mm256_loadu_si256((const void *)(w + h * half_panel(type)));
#pragma GCC unroll 8
    for (int j = 0; j < n; j++) {
        __m256 *sum = acc + (n == STEP ? j % U : 0) * M * 2;

        for (int h = 0; h < 2; h++) {
            v[h] =
                type == W4 ? w4_value(c[h]) : load_w(type, w + j * k_bytes + h * half_panel(type));
            if (type == W4)
                c[h] = _mm256_srli_epi32(c[h], 4);
        }
        for (int m = 0; m < M; m++) {
            const __m256 b = _mm256_broadcast_ss(x + m * ldx + j);

            for (int h = 0; h < 2; h++)
                sum[m * 2 + h] = _mm256_fmadd_ps(v[h], b, sum[m * 2 + h]);
        }
    }
}

INLINE void tile(kind type, int M, int U, const cpu_mul *a, int panel, int m0)
{
    const int64_t k_bytes = type == W4 ? 64 / STEP : a->k_bytes;
    const char *w = a->w + panel * a->panel_bytes;
    const float *x = a->x + m0 * a->ldx;
    __m256 acc[2 * MOST];
    int64_t k = 0;

    for (int i = 0; i < U * M * 2; i++)
        acc[i] = _mm256_setzero_ps();
    for (; k + STEP <= a->n; k += STEP, w += STEP * k_bytes)
        step(type, M, U, acc, w, k_bytes, x + k, a->ldx, STEP);
    if (k < a->n)
        step(type, M, U, acc, w, k_bytes, x + k, a->ldx, (int)(a->n - k));
    for (int m = 0; m < M; m++)
        for (int h = 0; h < 2; h++) {
            float *out = a->out + (m0 + m) * CPU_BLOCK_N + panel * CPU_PANEL + h * LANES;
            __m256 s = acc[m * 2 + h];

            for (int u = 1; u < U; u++)
                s = _mm256_add_ps(s, acc[(u * M + m) * 2 + h]);
            _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(out), s));
        }
}

/* one panel, all tokens; the second half of them finds the codes in the cache */
INLINE void panel(kind type, const cpu_mul *a, int p)
{
    for (int m0 = 0; m0 < a->m; m0 += MOST)
        switch (a->m - m0) {
        case 1:
            tile(type, 1, 4, a, p, m0);
            break;
        case 2:
            tile(type, 2, 2, a, p, m0);
            break;
        case 3:
            tile(type, 3, 2, a, p, m0);
            break;
        case 4:
            tile(type, 4, 1, a, p, m0);
            break;
        case 5:
            tile(type, 5, 1, a, p, m0);
            break;
        default:
            tile(type, MOST, 1, a, p, m0);
        }
}

#define KERNEL(name, type)                                                                         \
    void name(const cpu_mul *a)                                                                    \
    {                                                                                              \
        for (int p = 0; p < a->panels; p++)                                                        \
            panel(type, a, p);                                                                     \
    }

KERNEL(cpu_panel_f32_avx2, F32)
KERNEL(cpu_panel_f16_avx2, F16)
KERNEL(cpu_panel_bf16_avx2, BF16)
KERNEL(cpu_panel_w8_avx2, W8)
KERNEL(cpu_panel_w4_avx2, W4)
