/* Sums of products of bytes with panels of weights, for AVX-512 with VNNI.
 *
 * A vector of a panel is 4 successive codes of 16 rows (cpu.h): VPDPBUSD multiplies it with the
 * same 4 codes of a token, broadcast, and adds the 4 products of each row into that row's lane of
 * 32 bits.  Its first operand has no sign: that is the weight, stored plus 128.  Products of 16
 * bits are added in 32: nothing saturates.
 *
 * Tiles as in panel_avx512.c: up to 12 tokens x 2 panels, 24 sums in registers; with one or two
 * tokens four panels, because a sum takes four cycles. */
#include <immintrin.h>
#include <string.h>

#include "runtime/cpu/cpu.h"

#define INLINE static inline __attribute__((always_inline))

INLINE __m512i four(const int8_t *q) /* 4 codes, in every lane */
{
    int32_t v;

    memcpy(&v, q, sizeof v);
    return _mm512_set1_epi32(v);
}

INLINE void tile(int P, int M, const cpu_dot *a, int first)
{
    const uint8_t *w = a->w + 4 * CPU_PANEL * first;
    __m512i acc[24];

    for (int i = 0; i < M * P; i++)
        acc[i] = _mm512_setzero_si512();
    for (int64_t i = 0; i < a->words; i++, w += 4 * CPU_QUAD) {
        __m512i v[4];

        for (int p = 0; p < P; p++)
            v[p] = _mm512_loadu_si512(w + 4 * CPU_PANEL * p);
        for (int m = 0; m < M; m++) {
            const __m512i b = four(a->q + m * a->ld + 4 * i);

            for (int p = 0; p < P; p++)
                acc[m * P + p] = _mm512_dpbusd_epi32(acc[m * P + p], v[p], b);
        }
    }
    for (int m = 0; m < M; m++)
        for (int p = 0; p < P; p++) {
            int32_t *out = a->out + m * CPU_BLOCK_N + (first + p) * CPU_PANEL;

            _mm512_storeu_si512(out, _mm512_add_epi32(_mm512_loadu_si512(out), acc[m * P + p]));
        }
}

/* P panels at a time, what remains alone */
INLINE void tiles(int P, int M, const cpu_dot *a)
{
    int p = 0;

    for (; p + P <= a->panels; p += P)
        tile(P, M, a, p);
    for (; P > 1 && p < a->panels; p++)
        tile(1, M, a, p);
}

#define CASE(P, M)                                                                                 \
    case M:                                                                                        \
        tiles(P, M, a);                                                                            \
        break;

void cpu_dot_vnni(const cpu_dot *a)
{
    switch (a->m) {
        CASE(4, 1)
        CASE(4, 2)
        CASE(2, 3)
        CASE(2, 4)
        CASE(2, 5)
        CASE(2, 6)
        CASE(2, 7)
        CASE(2, 8)
        CASE(2, 9)
        CASE(2, 10)
        CASE(2, 11)
        CASE(2, 12)
    }
}
