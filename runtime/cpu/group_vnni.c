/* Products of tokens in spans with panels of groups, for AVX-512 with VNNI (group.h).
 *
 * A line is 4 codes of 16 rows a panel, or 8 of int4 in low and high nibbles: VPDPBUSD multiplies
 * it with 4 codes of a token, broadcast.  After a part one VPDPWSSD takes off what the zeros are
 * worth, and the sums become floats, are scaled and added to out.  Tiles as in dot_vnni.c: 12
 * tokens x 2 panels keep 24 sums in registers; one or two tokens take four panels, because a sum
 * takes four cycles.
 *
 * gcc 12 keeps full tiles in registers only when a part is a function of its own, its loop runs at
 * least once, and sums have the type of their elements; else it moves them to memory and back, at
 * 0.65 of the speed. */
#include <immintrin.h>
#include <stddef.h>
#include <string.h>

#include "runtime/cpu/group.h"

#define INLINE static inline __attribute__((always_inline))
#define VECTOR 64 /* bytes: a panel's part of a line */

typedef int32_t sums __attribute__((vector_size(64))); /* of 16 rows */

INLINE __m512i four(const void *p) /* 4 bytes, in every lane */
{
    int32_t v;

    memcpy(&v, p, sizeof v);
    return _mm512_set1_epi32(v);
}

/* acc += 4 codes of M tokens times vectors w */
INLINE void dots(int P, int M, sums acc[24], const __m512i w[], const int8_t *q, int64_t ld)
{
    for (int m = 0; m < M; m++) {
        const __m512i b = four(q + m * ld);

        for (int p = 0; p < P; p++)
            acc[m * P + p] = (sums)_mm512_dpbusd_epi32((__m512i)acc[m * P + p], w[p], b);
    }
}

/* out [M, P] += a part; w: its first line; head: that of its span */
INLINE void part(int bits, int P, int M, float *out, const char *head, const char *w,
                 const int8_t *q, const char *s, int64_t ld, int blocks)
{
    const __m512i low = _mm512_set1_epi8(15), byte = _mm512_set1_epi32(255);
    const char *end = w + CPU_LINE * bits * blocks;
    __m512i line[4], high[4];
    sums acc[24];

    for (int i = 0; i < M * P; i++)
        acc[i] = (sums)_mm512_setzero_si512();
    do {
        for (int p = 0; p < P; p++) {
            line[p] = _mm512_loadu_si512(w + VECTOR * p);
            if (bits == 4) {
                high[p] = _mm512_and_si512(_mm512_srli_epi16(line[p], 4), low);
                line[p] = _mm512_and_si512(line[p], low);
            }
        }
        dots(P, M, acc, line, q, ld);
        if (bits == 4)
            dots(P, M, acc, high, q + 4, ld);
        w += CPU_LINE;
        q += 32 / bits;
    } while (w < end);
    for (int p = 0; p < P; p++) {
        const __m512i h = _mm512_loadu_si512(head + VECTOR * p), zero = _mm512_and_si512(h, byte);
        const __m512 scale = _mm512_castsi512_ps(_mm512_andnot_si512(byte, h));

        for (int m = 0; m < M; m++) {
            const char *of = s + m * ld;
            float *y = out + m * CPU_BLOCK_N + p * CPU_PANEL;
            const __m512i less = four(of + offsetof(cpu_group_scale, less));
            const __m512 v =
                _mm512_cvtepi32_ps(_mm512_dpwssd_epi32((__m512i)acc[m * P + p], zero, less));

            _mm512_storeu_ps(y,
                             _mm512_fmadd_ps(scale, _mm512_mul_ps(v, _mm512_castsi512_ps(four(of))),
                                             _mm512_loadu_ps(y)));
        }
    }
}

typedef void part_fn(float *out, const char *head, const char *w, const int8_t *q, const char *s,
                     int64_t ld, int blocks);

INLINE void tile(int bits, int P, int M, part_fn *add, const cpu_group *a, int first)
{
    const char *s = a->s, *w = a->w + VECTOR * first;
    const int8_t *q = a->q;
    float *out = a->out + first * CPU_PANEL;

    for (int64_t i = 0; i < a->spans; i++) {
        const char *head = w;

        w += CPU_LINE;
        for (int b = 0; b < a->blocks; b += CPU_PART, s += sizeof(cpu_group_scale)) {
            const int n = a->blocks - b < CPU_PART ? a->blocks - b : CPU_PART;

            if (M <= 2)
                part(bits, P, M, out, head, w, q, s, a->ld, n);
            else
                add(out, head, w, q, s, a->ld, n);
            w += CPU_LINE * bits * n;
            q += CPU_BLOCK * n;
        }
    }
}

/* P panels at a time, what remains alone */
INLINE void tiles(int bits, int P, int M, part_fn *add, part_fn *alone, const cpu_group *a)
{
    int p = 0;

    for (; p + P <= a->panels; p += P)
        tile(bits, P, M, add, a, p);
    for (; p < a->panels; p++)
        tile(bits, 1, M, alone, a, p);
}

#define PART(bits, P, M)                                                                           \
    static __attribute__((noinline)) void part##bits##_##P##_##M(                                  \
        float *out, const char *head, const char *w, const int8_t *q, const char *s, int64_t ld,   \
        int blocks)                                                                                \
    {                                                                                              \
        part(bits, P, M, out, head, w, q, s, ld, blocks);                                          \
    }

#define BOTH(bits, P, M)                                                                           \
    PART(bits, P, M)                                                                               \
    PART(bits, 1, M)

#define CASE(bits, P, M)                                                                           \
    case M:                                                                                        \
        tiles(bits, P, M, part##bits##_##P##_##M, part##bits##_1_##M, a);                          \
        break;

#define SIZES(DO, bits)                                                                            \
    DO(bits, 4, 1)                                                                                 \
    DO(bits, 4, 2)                                                                                 \
    DO(bits, 2, 3)                                                                                 \
    DO(bits, 2, 4)                                                                                 \
    DO(bits, 2, 5)                                                                                 \
    DO(bits, 2, 6)                                                                                 \
    DO(bits, 2, 7)                                                                                 \
    DO(bits, 2, 8)                                                                                 \
    DO(bits, 2, 9)                                                                                 \
    DO(bits, 2, 10)                                                                                \
    DO(bits, 2, 11)                                                                                \
    DO(bits, 2, 12)

#define KERNEL(name, bits)                                                                         \
    SIZES(BOTH, bits)                                                                              \
    void name(const cpu_group *a)                                                                  \
    {                                                                                              \
        switch (a->m) {                                                                            \
            SIZES(CASE, bits)                                                                      \
        }                                                                                          \
    }

KERNEL(cpu_group4_vnni, 4)
KERNEL(cpu_group8_vnni, 8)
