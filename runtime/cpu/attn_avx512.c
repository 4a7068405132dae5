/* Kernels of attention for AVX-512: softmax of a row of scores, dot products with the keys of a
 * page and the weighted sum of its values. */
#include <immintrin.h>
#include <math.h>

#include "runtime/cpu/cpu.h"
#include "runtime/cpu/cpu_math.h"

#define INLINE static inline __attribute__((always_inline))
#define LANES  16

INLINE __mmask16 mask_of(int left) /* of LANES elements, how many exist */
{
    const unsigned mask = left >= LANES ? 0xffffu : left <= 0 ? 0u : (1u << left) - 1u;

    return (__mmask16)mask;
}

INLINE int64_t bytes_of(fmt_dtype type)
{
    return type == FMT_F32 ? 4 : type == FMT_I8 ? 1 : 2;
}

INLINE __m512 load(fmt_dtype type, const char *p, int64_t i)
{
    if (type == FMT_F32)
        return _mm512_loadu_ps((const void *)(p + 4 * i));
    if (type == FMT_F16)
        return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(p + 2 * i)));
    if (type == FMT_I8)
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(p + i))));
    return _mm512_castsi512_ps(_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(p + 2 * i))), 16));
}

/* Four keys at a time, so that four sums are under way. */
INLINE void dots_of(fmt_dtype type, float *s, const float *q, const char *k, int n, int64_t hd)
{
    const int64_t row = hd * bytes_of(type);

    for (int j = 0; j < n; j += 4) {
        const int last = n - 1;
        const char *p[4];
        __m512 acc[4];

        for (int l = 0; l < 4; l++) { /* past the end: the last key again */
            p[l] = k + row * (j + l < n ? j + l : last);
            acc[l] = _mm512_setzero_ps();
        }
        for (int64_t i = 0; i < hd; i += LANES) {
            const __m512 x = _mm512_loadu_ps(q + i);

            for (int l = 0; l < 4; l++)
                acc[l] = _mm512_fmadd_ps(x, load(type, p[l], i), acc[l]);
        }
        for (int l = 0; l < 4 && j + l < n; l++)
            s[j + l] = _mm512_reduce_add_ps(acc[l]);
    }
}

/* columns c .. c + 16 V - 1 of o */
INLINE void axpy_part(fmt_dtype type, int V, float *o, const float *p, const char *v, int n,
                      int64_t row)
{
    __m512 acc[8];

    for (int i = 0; i < V; i++)
        acc[i] = _mm512_loadu_ps(o + LANES * i);
    for (int j = 0; j < n; j++) {
        const __m512 b = _mm512_set1_ps(p[j]);

        for (int i = 0; i < V; i++)
            acc[i] = _mm512_fmadd_ps(b, load(type, v + j * row, LANES * i), acc[i]);
    }
    for (int i = 0; i < V; i++)
        _mm512_storeu_ps(o + LANES * i, acc[i]);
}

INLINE void axpy_of(fmt_dtype type, float *o, const float *p, const char *v, int n, int64_t hd,
                    int64_t width)
{
    const int64_t bytes = bytes_of(type);
    int64_t i = 0;

    for (; i + 8 * LANES <= width; i += 8 * LANES)
        axpy_part(type, 8, o + i, p, v + i * bytes, n, hd * bytes);
    for (; i + 4 * LANES <= width; i += 4 * LANES)
        axpy_part(type, 4, o + i, p, v + i * bytes, n, hd * bytes);
    for (; i < width; i += LANES)
        axpy_part(type, 1, o + i, p, v + i * bytes, n, hd * bytes);
}

/* ---- softmax -------------------------------------------------------------------------------- */

/* cpu_exp for arguments that are not above 0 */
INLINE __m512 exp_neg(__m512 x)
{
    const __m512 big = _mm512_set1_ps(CPU_EXP_BIG);
    __m512 t, n, r, p;

    x = _mm512_max_ps(_mm512_set1_ps(CPU_EXP_MIN), x); /* NaN is taken from the second */
    t = _mm512_fmadd_ps(x, _mm512_set1_ps(CPU_LOG2E), big);
    n = _mm512_sub_ps(t, big);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(CPU_LN2_HI), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(CPU_LN2_LO), r);
    p = _mm512_set1_ps(1.0f / 5040);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(t), 23)));
}

static float softmax(float *p, const float *s, int n, float *max, float *sum)
{
    const __m512 none = _mm512_set1_ps(-INFINITY);
    __m512 v[RT_PAGE / LANES], best = none, total = _mm512_setzero_ps();
    const float before = *max;
    float shrink;

    for (int i = 0; i < RT_PAGE / LANES; i++) {
        v[i] = _mm512_mask_loadu_ps(none, mask_of(n - LANES * i), s + LANES * i);
        best = _mm512_max_ps(best, v[i]);
    }
    *max = _mm512_reduce_max_ps(best);
    *max = *max > before ? *max : before;
    for (int i = 0; i < RT_PAGE / LANES; i++) {
        const __m512 e = _mm512_maskz_mov_ps(mask_of(n - LANES * i),
                                             exp_neg(_mm512_sub_ps(v[i], _mm512_set1_ps(*max))));

        total = _mm512_add_ps(total, e);
        _mm512_storeu_ps(p + LANES * i, e);
    }
    shrink = before > -INFINITY ? cpu_exp(before - *max) : 0.0f;
    *sum = *sum * shrink + _mm512_reduce_add_ps(total);
    return shrink;
}

static void dots(float *s, const float *q, const void *k, fmt_dtype type, int n, int64_t hd)
{
    if (type == FMT_F32)
        dots_of(FMT_F32, s, q, k, n, hd);
    else if (type == FMT_F16)
        dots_of(FMT_F16, s, q, k, n, hd);
    else if (type == FMT_I8)
        dots_of(FMT_I8, s, q, k, n, hd);
    else
        dots_of(FMT_BF16, s, q, k, n, hd);
}

static void axpy(float *o, const float *p, const void *v, fmt_dtype type, int n, int64_t hd,
                 int64_t width)
{
    if (type == FMT_F32)
        axpy_of(FMT_F32, o, p, v, n, hd, width);
    else if (type == FMT_F16)
        axpy_of(FMT_F16, o, p, v, n, hd, width);
    else if (type == FMT_I8)
        axpy_of(FMT_I8, o, p, v, n, hd, width);
    else
        axpy_of(FMT_BF16, o, p, v, n, hd, width);
}

const cpu_attn_kernels cpu_attn_avx512 = {
    .isa = CPU_AVX512,
    .panel = { [FMT_F32] = cpu_panel_f32_avx512,
               [FMT_F16] = cpu_panel_f16_avx512,
               [FMT_BF16] = cpu_panel_bf16_avx512,
               [FMT_I8] = cpu_panel_w8_avx512 },
    .softmax = softmax,
    .turn = cpu_attn_turn_avx2,
    .dots = dots,
    .axpy = axpy,
};
