/* Sums of products of bytes with panels of weights, for AVX2.
 *
 * VPMADDUBSW would saturate (255 * 127 * 2 > 2^15), so bytes become 16 bits and VPMADDWD adds pairs
 * of products in 32, exactly.  A vector of 32 bytes is 4 successive codes of 8 rows; a mask leaves
 * codes 0 and 2 of each, a shift codes 1 and 3, and the codes of a token are split the same way, so
 * each lane of 32 bits stays one row and nothing is summed across a vector.
 *
 * Few tokens split their codes as they go; with more than one tile of tokens it is done once for
 * all panels (64 tokens: 138 against 129 GFLOP/s of one thread). */
#include <immintrin.h>
#include <string.h>

#include "runtime/cpu/cpu.h"

#define INLINE static inline __attribute__((always_inline))
#define MOST   4 /* tokens of one tile */

/* Codes of some tokens, split: word i of a row holds codes 4i and 4i + 2, or 4i + 1 and 4i + 3, as
 * two numbers of 16 bits. */
typedef struct wide {
    int32_t even[CPU_TILE_M][CPU_DOT_TILE_K / 4], odd[CPU_TILE_M][CPU_DOT_TILE_K / 4];
} wide;

INLINE __m256i even_of(__m256i v) /* bytes 0 and 2 of each lane */
{
    return _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8);
}

INLINE __m256i odd_of(__m256i v)
{
    return _mm256_srai_epi16(v, 8);
}

static void widen(wide *x, const cpu_dot *a)
{
    for (int m = 0; m < a->m; m++)
        for (int64_t i = 0; i < a->words; i += 8) { /* rows of codes end on a cache line */
            const __m256i v = _mm256_loadu_si256((const void *)(a->q + m * a->ld + 4 * i));

            _mm256_storeu_si256((void *)&x->even[m][i], even_of(v));
            _mm256_storeu_si256((void *)&x->odd[m][i], odd_of(v));
        }
}

/* panels first .. first + P - 1, tokens m0 .. m0 + M - 1; x: NULL, or their codes */
INLINE void tile(int P, int M, const cpu_dot *a, const wide *x, int first, int m0)
{
    const uint8_t *w = a->w + 4 * CPU_PANEL * first;
    __m256i acc[2 * MOST];

    for (int i = 0; i < 2 * M * P; i++)
        acc[i] = _mm256_setzero_si256();
    for (int64_t i = 0; i < a->words; i++, w += 4 * CPU_QUAD) {
        __m256i even[4], odd[4];

        for (int h = 0; h < 2 * P; h++) {
            const __m256i v = _mm256_loadu_si256((const void *)(w + 32 * h));

            even[h] = _mm256_and_si256(v, _mm256_set1_epi16(0xff));
            odd[h] = _mm256_srli_epi16(v, 8);
        }
        for (int m = 0; m < M; m++) {
            __m256i b_even, b_odd;

            if (x) {
                b_even = _mm256_set1_epi32(x->even[m0 + m][i]);
                b_odd = _mm256_set1_epi32(x->odd[m0 + m][i]);
            } else {
                int32_t v;

                memcpy(&v, a->q + (m0 + m) * a->ld + 4 * i, sizeof v);
                b_even = even_of(_mm256_set1_epi32(v));
                b_odd = odd_of(_mm256_set1_epi32(v));
            }
            for (int h = 0; h < 2 * P; h++) {
                __m256i *s = &acc[m * 2 * P + h];

                *s = _mm256_add_epi32(*s, _mm256_madd_epi16(even[h], b_even));
                *s = _mm256_add_epi32(*s, _mm256_madd_epi16(odd[h], b_odd));
            }
        }
    }
    for (int m = 0; m < M; m++)
        for (int h = 0; h < 2 * P; h++) {
            int32_t *out = a->out + (m0 + m) * CPU_BLOCK_N + first * CPU_PANEL + h * 8;

            _mm256_storeu_si256(
                (void *)out, _mm256_add_epi32(_mm256_loadu_si256((void *)out), acc[m * 2 * P + h]));
        }
}

/* P panels at a time, what remains alone */
INLINE void tiles(int P, int M, const cpu_dot *a, const wide *x, int m0)
{
    int p = 0;

    for (; p + P <= a->panels; p += P)
        tile(P, M, a, x, p, m0);
    for (; P > 1 && p < a->panels; p++)
        tile(1, M, a, x, p, m0);
}

INLINE void all(const cpu_dot *a, const wide *x)
{
    for (int m0 = 0; m0 < a->m; m0 += MOST)
        switch (a->m - m0) {
        case 1:
            tiles(2, 1, a, x, m0);
            break;
        case 2:
            tiles(2, 2, a, x, m0);
            break;
        case 3:
            tiles(1, 3, a, x, m0);
            break;
        default:
            tiles(1, MOST, a, x, m0);
        }
}

void cpu_dot_avx2(const cpu_dot *a)
{
    wide x;

    if (a->m <= CPU_FEW) {
        all(a, NULL);
        return;
    }
    widen(&x, a);
    all(a, &x);
}
