/* Products of x with panels of weights, for AVX-512 (F, BW, VL, DQ).
 *
 * A panel is 16 rows of W stored k by k (cpu.h), so a vector is the 16 weights of one k: it is
 * loaded, widened to f32 and multiplied by x[m][k], broadcast, for each of M tokens.  Nothing is
 * summed across a vector, the codes are read as long forward streams, and one kernel serves a
 * single token (bound by memory) as well as full tiles of CPU_TILE_M tokens x 2 panels (bound by
 * FMA: 24 sums in registers, 2 widened vectors per 24 FMA).
 *
 * An FMA takes four cycles, so a tile needs four sums or more: with one or two tokens it takes four
 * panels.  P and M are constants after inlining.
 *
 * w4: the index of VPERMPS is the low 4 bits of each word, so one permutation of the 16 values
 * turns 16 codes into 16 floats, and a shift by 4 brings the next k. */
#include <immintrin.h>

#include "runtime/cpu/cpu.h"

#define INLINE static inline __attribute__((always_inline))

typedef enum kind { F32, F16, BF16, W8, W4 } kind;

#define STEP 8 /* k of one iteration: what a 64-byte block of w4 holds */

/* the 16 weights at p */
INLINE __m512 load_w(kind type, const char *p)
{
    if (type == F32)
        return _mm512_loadu_ps((const void *)p);
    if (type == F16)
        return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
    if (type == BF16)
        return _mm512_castsi512_ps(
            _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
}

/* acc += the products of one k; c: what is left of the words of w4 */
INLINE void one(kind type, int P, int M, __m512 acc[], const char *const w[], __m512i c[4],
                int64_t offset, const float *x, int64_t ldx)
{
    const __m512 values = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    __m512 v[4];

    for (int p = 0; p < P; p++) {
        v[p] = type == W4 ? _mm512_permutexvar_ps(c[p], values) : load_w(type, w[p] + offset);
        if (type == W4)
            c[p] = _mm512_srli_epi32(c[p], 4);
    }
    for (int m = 0; m < M; m++) {
        const __m512 b = _mm512_set1_ps(x[m * ldx]);

        for (int p = 0; p < P; p++)
            acc[m * P + p] = _mm512_fmadd_ps(v[p], b, acc[m * P + p]);
    }
}

/* acc += the products of n successive k.  n is STEP, or less at the end of a row.  A loop around a
 * single token costs as much as its work: int8 from memory 20 GB/s, unrolled 24. */
INLINE void step(kind type, int P, int M, __m512 acc[], const char *const w[], int64_t k_bytes,
                 const float *x, int64_t ldx, int n)
{
    __m512i c[4];

    for (int p = 0; p < P && type == W4; p++)
        c[p] = _mm512_loadu_si512(w[p]);
    if (M <= 2) {
#pragma GCC unroll 8
        for (int j = 0; j < n; j++)
            one(type, P, M, acc, w, c, j * k_bytes, x + j, ldx);
    } else {
#pragma GCC unroll 2
        for (int j = 0; j < n; j++)
            one(type, P, M, acc, w, c, j * k_bytes, x + j, ldx);
    }
}

INLINE void tile(kind type, int P, int M, const cpu_mul *a, int first)
{
    const int64_t ldx = M > CPU_FEW ? CPU_LDX : a->ldx; /* a constant where it matters */
    const char *w[4];

    for (int p = 0; p < P; p++)
        w[p] = a->w + (first + p) * a->panel_bytes;
    for (int64_t k = 0, end; k < a->n; k = end) {
        __m512 acc[24];

        end = a->n - k < CPU_TILE_K ? a->n : k + CPU_TILE_K;
        for (int i = 0; i < M * P; i++)
            acc[i] = _mm512_setzero_ps();
        for (; k + STEP <= end; k += STEP) {
            step(type, P, M, acc, w, a->k_bytes, a->x + k, ldx, STEP);
            for (int p = 0; p < P; p++)
                w[p] += STEP * a->k_bytes;
        }
        if (k < end)
            step(type, P, M, acc, w, a->k_bytes, a->x + k, ldx, (int)(end - k));
        for (int m = 0; m < M; m++)
            for (int p = 0; p < P; p++) {
                float *out = a->out + m * CPU_BLOCK_N + (first + p) * CPU_PANEL;

                _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(out), acc[m * P + p]));
            }
    }
}

/* P panels at a time, what remains alone */
INLINE void tiles(kind type, int P, int M, const cpu_mul *a)
{
    int p = 0;

    for (; p + P <= a->panels; p += P)
        tile(type, P, M, a, p);
    for (; P > 1 && p < a->panels; p++)
        tile(type, 1, M, a, p);
}

#define CASE(type, P, M)                                                                           \
    case M:                                                                                        \
        tiles(type, P, M, a);                                                                      \
        break;

#define KERNEL(name, type)                                                                         \
    void name(const cpu_mul *a)                                                                    \
    {                                                                                              \
        switch (a->m) {                                                                            \
            CASE(type, 4, 1)                                                                       \
            CASE(type, 4, 2)                                                                       \
            CASE(type, 2, 3)                                                                       \
            CASE(type, 2, 4)                                                                       \
            CASE(type, 2, 5)                                                                       \
            CASE(type, 2, 6)                                                                       \
            CASE(type, 2, 7)                                                                       \
            CASE(type, 2, 8)                                                                       \
            CASE(type, 2, 9)                                                                       \
            CASE(type, 2, 10)                                                                      \
            CASE(type, 2, 11)                                                                      \
            CASE(type, 2, 12)                                                                      \
        }                                                                                          \
    }

KERNEL(cpu_panel_f32_avx512, F32)
KERNEL(cpu_panel_f16_avx512, F16)
KERNEL(cpu_panel_bf16_avx512, BF16)
KERNEL(cpu_panel_w8_avx512, W8)
KERNEL(cpu_panel_w4_avx512, W4)
