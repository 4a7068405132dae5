/* Kernels of attention for AVX2 with FMA and F16C: softmax of a row of scores (plain loops, widened
 * here by the compiler), dot products with the keys of a page and the weighted sum of its values.
 */
#include <immintrin.h>
#include <math.h>

#include "runtime/cpu/cpu.h"
#include "runtime/cpu/cpu_math.h"

#define INLINE static inline __attribute__((always_inline))
#define LANES  8

INLINE __m256 mask_of(int left) /* of LANES elements, how many exist */
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);

    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(left), lane));
}

INLINE float sum8(__m256 v)
{
    const __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 b = _mm_add_ps(a, _mm_movehl_ps(a, a));

    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

INLINE float max8(__m256 v)
{
    const __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 b = _mm_max_ps(a, _mm_movehl_ps(a, a));

    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

INLINE int64_t bytes_of(fmt_dtype type)
{
    return type == FMT_F32 ? 4 : type == FMT_I8 ? 1 : 2;
}

INLINE __m256 load(fmt_dtype type, const char *p, int64_t i)
{
    if (type == FMT_F32)
        return _mm256_loadu_ps((const void *)(p + 4 * i));
    if (type == FMT_F16)
        return _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p + 2 * i)));
    if (type == FMT_I8)
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(p + i))));
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(p + 2 * i))), 16));
}

/* Four keys at a time, so that four sums are under way. */
INLINE void dots_of(fmt_dtype type, float *s, const float *q, const char *k, int n, int64_t hd)
{
    const int64_t row = hd * bytes_of(type);

    for (int j = 0; j < n; j += 4) {
        const int last = n - 1;
        const char *p[4];
        __m256 acc[4];

        for (int l = 0; l < 4; l++) { /* past the end: the last key again */
            p[l] = k + row * (j + l < n ? j + l : last);
            acc[l] = _mm256_setzero_ps();
        }
        for (int64_t i = 0; i < hd; i += LANES) {
            const __m256 x = _mm256_loadu_ps(q + i);

            for (int l = 0; l < 4; l++)
                acc[l] = _mm256_fmadd_ps(x, load(type, p[l], i), acc[l]);
        }
        for (int l = 0; l < 4 && j + l < n; l++)
            s[j + l] = sum8(acc[l]);
    }
}

/* columns c .. c + 16 V - 1 of o */
INLINE void axpy_part(fmt_dtype type, int V, float *o, const float *p, const char *v, int n,
                      int64_t row)
{
    __m256 acc[8];

    for (int i = 0; i < V; i++)
        acc[i] = _mm256_loadu_ps(o + LANES * i);
    for (int j = 0; j < n; j++) {
        const __m256 b = _mm256_set1_ps(p[j]);

        for (int i = 0; i < V; i++)
            acc[i] = _mm256_fmadd_ps(b, load(type, v + j * row, LANES * i), acc[i]);
    }
    for (int i = 0; i < V; i++)
        _mm256_storeu_ps(o + LANES * i, acc[i]);
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
INLINE __m256 exp_neg(__m256 x)
{
    const __m256 big = _mm256_set1_ps(CPU_EXP_BIG);
    __m256 t, n, r, p;

    x = _mm256_max_ps(_mm256_set1_ps(CPU_EXP_MIN), x); /* NaN is taken from the second */
    t = _mm256_fmadd_ps(x, _mm256_set1_ps(CPU_LOG2E), big);
    n = _mm256_sub_ps(t, big);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(CPU_LN2_HI), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(CPU_LN2_LO), r);
    p = _mm256_set1_ps(1.0f / 5040);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 720));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(t), 23)));
}

static float softmax(float *p, const float *s, int n, float *max, float *sum)
{
    const __m256 none = _mm256_set1_ps(-INFINITY);
    __m256 v[RT_PAGE / LANES], best = none, total = _mm256_setzero_ps();
    const float before = *max;
    float shrink;

    for (int i = 0; i < RT_PAGE / LANES; i++) {
        v[i] = _mm256_blendv_ps(none, _mm256_loadu_ps(s + LANES * i), mask_of(n - LANES * i));
        best = _mm256_max_ps(best, v[i]);
    }
    *max = max8(best);
    *max = *max > before ? *max : before;
    for (int i = 0; i < RT_PAGE / LANES; i++) {
        const __m256 e = _mm256_and_ps(mask_of(n - LANES * i),
                                       exp_neg(_mm256_sub_ps(v[i], _mm256_set1_ps(*max))));

        total = _mm256_add_ps(total, e);
        _mm256_storeu_ps(p + LANES * i, e);
    }
    shrink = before > -INFINITY ? cpu_exp(before - *max) : 0.0f;
    *sum = *sum * shrink + sum8(total);
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

/* ---- keys into panels ----------------------------------------------------------------------- */

/* Two rows of 16 bytes side by side, as the halves of a register. */
INLINE __m256i two_rows(const char *low, const char *high)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const void *)low)),
                                   _mm_loadu_si128((const void *)high), 1);
}

INLINE void store(char *p, __m256i v)
{
    _mm256_storeu_si256((void *)p, v);
}

/* 16 rows of 8 elements of 16 bits -> 8 rows of 16: rows 0..7 travel in the low halves of the
 * registers and rows 8..15 in the high ones, so three rounds of unpacking transpose both. */
INLINE void turn_16x8(char *to, const char *const row[16], int64_t at)
{
    __m256i a[8], b[8];

    for (int i = 0; i < 8; i++)
        a[i] = two_rows(row[i] + at, row[i + 8] + at);
    for (int i = 0; i < 4; i++) {
        b[2 * i] = _mm256_unpacklo_epi16(a[i], a[i + 4]);
        b[2 * i + 1] = _mm256_unpackhi_epi16(a[i], a[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm256_unpacklo_epi16(b[i], b[i + 4]);
        a[2 * i + 1] = _mm256_unpackhi_epi16(b[i], b[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
        store(to + 64 * i, _mm256_unpacklo_epi16(a[i], a[i + 4]));
        store(to + 64 * i + 32, _mm256_unpackhi_epi16(a[i], a[i + 4]));
    }
}

/* the same for elements of 32 bits: 16 rows of 4 -> 4 rows of 16, eight keys per register */
INLINE void turn_16x4(char *to, const char *const row[16], int64_t at)
{
    for (int h = 0; h < 2; h++) {
        const char *const *r = row + 8 * h;
        const __m256i a0 = two_rows(r[0] + at, r[4] + at), a1 = two_rows(r[1] + at, r[5] + at);
        const __m256i a2 = two_rows(r[2] + at, r[6] + at), a3 = two_rows(r[3] + at, r[7] + at);
        const __m256i b0 = _mm256_unpacklo_epi32(a0, a2), b1 = _mm256_unpackhi_epi32(a0, a2);
        const __m256i b2 = _mm256_unpacklo_epi32(a1, a3), b3 = _mm256_unpackhi_epi32(a1, a3);

        store(to + 32 * h, _mm256_unpacklo_epi32(b0, b2));
        store(to + 32 * h + 64, _mm256_unpackhi_epi32(b0, b2));
        store(to + 32 * h + 128, _mm256_unpacklo_epi32(b1, b3));
        store(to + 32 * h + 192, _mm256_unpackhi_epi32(b1, b3));
    }
}

/* and of 8 bits: 16 rows of 16 -> 16 rows of 16; the last step joins the halves of a row */
INLINE void turn_16x16(char *to, const char *const row[16], int64_t at)
{
    __m256i a[8], b[8];

    for (int i = 0; i < 8; i++)
        a[i] = two_rows(row[i] + at, row[i + 8] + at);
    for (int i = 0; i < 4; i++) {
        b[2 * i] = _mm256_unpacklo_epi8(a[i], a[i + 4]);
        b[2 * i + 1] = _mm256_unpackhi_epi8(a[i], a[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm256_unpacklo_epi8(b[i], b[i + 4]);
        a[2 * i + 1] = _mm256_unpackhi_epi8(b[i], b[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
        const __m256i lo = _mm256_unpacklo_epi8(a[i], a[i + 4]);
        const __m256i hi = _mm256_unpackhi_epi8(a[i], a[i + 4]);

        store(to + 64 * i, _mm256_permute4x64_epi64(lo, 0xd8));
        store(to + 64 * i + 32, _mm256_permute4x64_epi64(hi, 0xd8));
    }
}

void cpu_attn_turn_avx2(void *panels, const void *k, fmt_dtype type, int n, int64_t hd)
{
    const int64_t bytes = hd * bytes_of(type);
    char *to = panels;

    for (int j = 0; j < n; j += 16) {
        const char *row[16];

        for (int i = 0; i < 16; i++) /* past the end: the last key again */
            row[i] = (const char *)k + bytes * (j + i < n ? j + i : n - 1);
        for (int64_t at = 0; at < bytes; at += 16, to += 256)
            if (type == FMT_F32)
                turn_16x4(to, row, at);
            else if (type == FMT_I8)
                turn_16x16(to, row, at);
            else
                turn_16x8(to, row, at);
    }
}

const cpu_attn_kernels cpu_attn_avx2 = {
    .isa = CPU_AVX2,
    .panel = { [FMT_F32] = cpu_panel_f32_avx2,
               [FMT_F16] = cpu_panel_f16_avx2,
               [FMT_BF16] = cpu_panel_bf16_avx2,
               [FMT_I8] = cpu_panel_w8_avx2 },
    .softmax = softmax,
    .turn = cpu_attn_turn_avx2,
    .dots = dots,
    .axpy = axpy,
};
