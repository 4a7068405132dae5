/* Products of tokens in blocks with panels of groups, for AVX-512 with VNNI (group.h).
 *
 * A line is 4 codes of 16 rows, or 8 of int4 in low and high nibbles: VPDPBUSD multiplies it with
 * 4 codes of a token, broadcast.  After a block the 32-bit sums become floats, are scaled and added
 * to v; after a span v is scaled and added to out.  Tiles as in dot_vnni.c: 12 tokens x 2 panels
 * keep 24 sums in registers, and v lies in L1; one or two tokens take four panels, because a sum
 * takes four cycles. */
#include <immintrin.h>
#include <string.h>

#include "runtime/cpu/group.h"

#define INLINE static inline __attribute__((always_inline))
#define MOST   24 /* sums of a tile */

INLINE __m512i four(const int8_t *q) /* 4 codes, in every lane */
{
    int32_t v;

    memcpy(&v, q, sizeof v);
    return _mm512_set1_epi32(v);
}

INLINE __m512 one(const char *p) /* a float, in every lane */
{
    float v;

    memcpy(&v, p, sizeof v);
    return _mm512_set1_ps(v);
}

/* acc += 4 codes of M tokens times vectors w */
INLINE void dots(int P, int M, __m512i acc[MOST], const __m512i w[], const int8_t *q, int64_t ld)
{
    for (int m = 0; m < M; m++) {
        const __m512i b = four(q + m * ld);

        for (int p = 0; p < P; p++)
            acc[m * P + p] = _mm512_dpbusd_epi32(acc[m * P + p], w[p], b);
    }
}

/* v [M, P] += a block of M tokens times P panels; w: its lines, panels apart */
INLINE void block(int bits, int P, int M, float *v, const char *w, int64_t apart, const int8_t *q,
                  const char *s, int64_t ld)
{
    const __m512i low = _mm512_set1_epi8(15);
    __m512i acc[MOST], line[4], high[4];

    for (int i = 0; i < M * P; i++)
        acc[i] = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int l = 0; l < bits; l++) {
        for (int p = 0; p < P; p++) {
            line[p] = _mm512_loadu_si512(w + p * apart + CPU_LINE * l);
            if (bits == 4) {
                high[p] = _mm512_and_si512(_mm512_srli_epi16(line[p], 4), low);
                line[p] = _mm512_and_si512(line[p], low);
            }
        }
        dots(P, M, acc, line, q + 32 / bits * l, ld);
        if (bits == 4)
            dots(P, M, acc, high, q + 8 * l + 4, ld);
    }
    for (int m = 0; m < M; m++)
        for (int p = 0; p < P; p++) {
            float *to = v + (m * P + p) * CPU_PANEL;

            _mm512_store_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[m * P + p]), one(s + m * ld),
                                                _mm512_load_ps(to)));
        }
}

typedef void block_fn(float *v, const char *w, int64_t apart, const int8_t *q, const char *s,
                      int64_t ld);

INLINE void tile(int bits, int P, int M, block_fn *add, const cpu_group *a, int first)
{
    const __m512i byte = _mm512_set1_epi32(255);
    const char *s = a->s, *nx = a->nx, *w = a->w + first * a->panel_bytes;
    const int8_t *q = a->q;
    _Alignas(CPU_LINE) float v[MOST * CPU_PANEL];

    for (int64_t i = 0; i < a->spans; i++, nx += 4) {
        const char *head = w;

        for (int p = 0; p < P; p++) {
            const __m512i h = _mm512_loadu_si512(head + p * a->panel_bytes);
            const __m512 zero = _mm512_cvtepi32_ps(_mm512_and_si512(h, byte));

            for (int m = 0; m < M; m++)
                _mm512_store_ps(v + (m * P + p) * CPU_PANEL,
                                _mm512_mul_ps(zero, one(nx + m * a->ld)));
        }
        w += CPU_LINE;
        for (int b = 0; b < a->blocks; b++, q += CPU_BLOCK, s += 4, w += CPU_LINE * bits)
            add(v, w, a->panel_bytes, q, s, a->ld);
        for (int p = 0; p < P; p++) {
            const __m512i h = _mm512_loadu_si512(head + p * a->panel_bytes);
            const __m512 scale = _mm512_castsi512_ps(_mm512_andnot_si512(byte, h));

            for (int m = 0; m < M; m++) {
                float *y = a->out + m * CPU_BLOCK_N + (first + p) * CPU_PANEL;

                _mm512_storeu_ps(y,
                                 _mm512_fmadd_ps(scale, _mm512_load_ps(v + (m * P + p) * CPU_PANEL),
                                                 _mm512_loadu_ps(y)));
            }
        }
    }
}

/* P panels at a time, what remains alone */
INLINE void tiles(int bits, int P, int M, block_fn *add, block_fn *alone, const cpu_group *a)
{
    int p = 0;

    for (; p + P <= a->panels; p += P)
        tile(bits, P, M, add, a, p);
    for (; p < a->panels; p++)
        tile(bits, 1, M, alone, a, p);
}

/* A function for each size of a block: inside the loops around it gcc moves the sums of full tiles
 * to memory and back, at half the speed. */
#define BLOCK(bits, P, M)                                                                          \
    static __attribute__((noinline)) void block##bits##_##P##_##M(                                 \
        float *v, const char *w, int64_t apart, const int8_t *q, const char *s, int64_t ld)        \
    {                                                                                              \
        block(bits, P, M, v, w, apart, q, s, ld);                                                  \
    }

#define BOTH(bits, P, M)                                                                           \
    BLOCK(bits, P, M)                                                                              \
    BLOCK(bits, 1, M)

#define CASE(bits, P, M)                                                                           \
    case M:                                                                                        \
        tiles(bits, P, M, block##bits##_##P##_##M, block##bits##_1_##M, a);                        \
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
