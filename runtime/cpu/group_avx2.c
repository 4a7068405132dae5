/* Products of tokens in spans with panels of groups, for AVX2 with FMA (group.h).
 *
 * A vector is 4 codes of 8 rows.  int4: VPMADDUBSW multiplies codes 0 .. 15 with a token's and adds
 * pairs in 16 bits; eight of them, a block, stay below 2^15 (8 * 2 * 15 * 127 = 30480), then
 * VPMADDWD with ones adds the two pairs of a row.  int8 would saturate: as in dot_avx2.c bytes
 * become 16 bits, codes 0 and 2 by a mask, 1 and 3 by a shift, and VPMADDWD adds in 32.
 *
 * Sums of a tile take at most 8 of the 16 registers: 4 tokens x a panel, 2 halves of 8 rows. */
#include <immintrin.h>
#include <stddef.h>
#include <string.h>

#include "runtime/cpu/group.h"

#define INLINE static inline __attribute__((always_inline))
#define MOST   4 /* tokens of one tile */
#define LANES  8
#define HALF   32 /* bytes of 8 rows: half a panel's part of a line */

INLINE __m256i four(const void *p) /* 4 bytes, in every lane */
{
    int32_t v;

    memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
}

INLINE __m256i load(const char *p)
{
    return _mm256_loadu_si256((const void *)p);
}

/* a block of int4: sums of 16 bits, two a row, into those of 32 */
INLINE void block4(int M, __m256i acc[2 * MOST], const char *w, const int8_t *q, int64_t ld)
{
    const __m256i low = _mm256_set1_epi8(15);
    __m256i pairs[2 * MOST];

    for (int i = 0; i < 2 * M; i++)
        pairs[i] = _mm256_setzero_si256();
    for (int l = 0; l < 4; l++, w += CPU_LINE, q += 8)
        for (int h = 0; h < 2; h++) {
            const __m256i line = load(w + HALF * h), a = _mm256_and_si256(line, low);
            const __m256i b = _mm256_and_si256(_mm256_srli_epi16(line, 4), low);

            for (int m = 0; m < M; m++) {
                __m256i *s = &pairs[2 * m + h];

                *s = _mm256_add_epi16(*s, _mm256_maddubs_epi16(a, four(q + m * ld)));
                *s = _mm256_add_epi16(*s, _mm256_maddubs_epi16(b, four(q + m * ld + 4)));
            }
        }
    for (int i = 0; i < 2 * M; i++)
        acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(pairs[i], _mm256_set1_epi16(1)));
}

INLINE void block8(int M, __m256i acc[2 * MOST], const char *w, const int8_t *q, int64_t ld)
{
    for (int l = 0; l < 8; l++, w += CPU_LINE, q += 4) {
        __m256i even[2], odd[2];

        for (int h = 0; h < 2; h++) {
            const __m256i line = load(w + HALF * h);

            even[h] = _mm256_and_si256(line, _mm256_set1_epi16(0xff));
            odd[h] = _mm256_srli_epi16(line, 8);
        }
        for (int m = 0; m < M; m++) {
            const __m256i b = four(q + m * ld), b_odd = _mm256_srai_epi16(b, 8);
            const __m256i b_even = _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8);

            for (int h = 0; h < 2; h++) {
                __m256i *s = &acc[2 * m + h];

                *s = _mm256_add_epi32(*s, _mm256_madd_epi16(even[h], b_even));
                *s = _mm256_add_epi32(*s, _mm256_madd_epi16(odd[h], b_odd));
            }
        }
    }
}

/* a part, to one panel of M tokens; w: its first line; head: that of its span */
INLINE void part(int bits, int M, float *out, const __m256i head[2], const char *w, const int8_t *q,
                 const char *s, int64_t ld, int blocks)
{
    const __m256i byte = _mm256_set1_epi32(255);
    __m256i acc[2 * MOST];

    for (int j = 0; j < 2 * M; j++) /* halves of 16 bits: zero and 0, times less and its sign */
        acc[j] = _mm256_madd_epi16(_mm256_and_si256(head[j % 2], byte),
                                   four(s + j / 2 * ld + offsetof(cpu_group_scale, less)));
    for (int b = 0; b < blocks; b++, q += CPU_BLOCK, w += CPU_LINE * bits)
        if (bits == 4)
            block4(M, acc, w, q, ld);
        else
            block8(M, acc, w, q, ld);
    for (int j = 0; j < 2 * M; j++) {
        const __m256 of = _mm256_castsi256_ps(four(s + j / 2 * ld));
        const __m256 scale = _mm256_castsi256_ps(_mm256_andnot_si256(byte, head[j % 2]));
        float *y = out + j / 2 * CPU_BLOCK_N + j % 2 * LANES;

        _mm256_storeu_ps(y, _mm256_fmadd_ps(scale, _mm256_mul_ps(_mm256_cvtepi32_ps(acc[j]), of),
                                            _mm256_loadu_ps(y)));
    }
}

/* one panel, tokens m0 .. m0 + M - 1 */
INLINE void tile(int bits, int M, const cpu_group *a, int panel, int m0)
{
    const int8_t *q = a->q + m0 * a->ld;
    const char *s = a->s + m0 * a->ld, *w = a->w + 2 * HALF * panel;
    float *out = a->out + m0 * CPU_BLOCK_N + panel * CPU_PANEL;

    for (int64_t i = 0; i < a->spans; i++) {
        const __m256i head[2] = { load(w), load(w + HALF) };

        w += CPU_LINE;
        for (int b = 0; b < a->blocks; b += CPU_PART, s += sizeof(cpu_group_scale)) {
            const int n = a->blocks - b < CPU_PART ? a->blocks - b : CPU_PART;

            part(bits, M, out, head, w, q, s, a->ld, n);
            w += CPU_LINE * bits * n;
            q += CPU_BLOCK * n;
        }
    }
}

INLINE void kernel(int bits, const cpu_group *a)
{
    for (int m0 = 0; m0 < a->m; m0 += MOST)
        for (int p = 0; p < a->panels; p++)
            switch (a->m - m0) {
            case 1:
                tile(bits, 1, a, p, m0);
                break;
            case 2:
                tile(bits, 2, a, p, m0);
                break;
            case 3:
                tile(bits, 3, a, p, m0);
                break;
            default:
                tile(bits, MOST, a, p, m0);
            }
}

void cpu_group4_avx2(const cpu_group *a)
{
    kernel(4, a);
}

void cpu_group8_avx2(const cpu_group *a)
{
    kernel(8, a);
}
