/* GEMV kernels for AVX2 with FMA and F16C.  Built like those of AVX-512 (gemv_avx512.c explains the
 * tiles) with vectors of 8 and 16 registers, so at most 8 sums.
 *
 * w4: a block (cpu.h) is two vectors of words, words 0..7 and 8..15; a mask takes the low nibble of
 * each word, which becomes a float and loses the 8 of the code. */
#include <immintrin.h>

#include "runtime/cpu/cpu.h"

#define INLINE static inline __attribute__((always_inline))

typedef enum kind { F32, F16, BF16, W8, W4 } kind;

#define LANES 8

/* 8 weights from element k of a row */
INLINE __m256 load_w(kind type, const char *row, int64_t k)
{
    if (type == F32)
        return _mm256_loadu_ps((const void *)(row + 4 * k));
    if (type == F16)
        return _mm256_cvtph_ps(_mm_loadu_si128((const void *)(row + 2 * k)));
    if (type == BF16)
        return _mm256_castsi256_ps(_mm256_slli_epi32(
            _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(row + 2 * k))), 16));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(row + k))));
}

INLINE __m256i mask_of(int64_t left) /* of LANES elements, how many exist */
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const int n = left >= LANES ? LANES : left <= 0 ? 0 : (int)left;

    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane);
}

INLINE __m256 load_x(const float *x, int64_t left)
{
    return left >= LANES ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, mask_of(left));
}

/* the code in the low nibble of each word, as a number */
INLINE __m256 w4_value(__m256i words)
{
    const __m256i code = _mm256_and_si256(words, _mm256_set1_epi32(15));

    return _mm256_cvtepi32_ps(_mm256_sub_epi32(code, _mm256_set1_epi32(8)));
}

/* acc += the LANES products at element k; left: elements that exist */
INLINE void step(kind type, int R, int M, __m256 acc[], const char *const row[], const float *x,
                 int64_t ldx, int64_t k, int64_t left)
{
    __m256 w[4];

    for (int r = 0; r < R; r++)
        w[r] = load_w(type, row[r], k);
    for (int m = 0; m < M; m++) {
        const __m256 v = load_x(x + m * ldx + k, left);

        for (int r = 0; r < R; r++)
            acc[m * R + r] = _mm256_fmadd_ps(w[r], v, acc[m * R + r]);
    }
}

/* the same for the half of a w4 block that starts at word `word` */
INLINE void step_w4(int R, int M, __m256 acc[], const char *const row[], const float *x,
                    int64_t ldx, int64_t k, int word, int64_t left)
{
    __m256i c[4];

    for (int r = 0; r < R; r++)
        c[r] = _mm256_loadu_si256((const void *)(row[r] + k / 2 + 4 * word));
#pragma GCC unroll 8
    for (int j = 0; j < CPU_W4_BLOCK / 16; j++) {
        __m256 w[4];

        for (int r = 0; r < R; r++) {
            w[r] = w4_value(c[r]);
            c[r] = _mm256_srli_epi32(c[r], 4);
        }
        for (int m = 0; m < M; m++) {
            const int at = 16 * j + word;
            const __m256 v = load_x(x + m * ldx + k + at, left - at);

            for (int r = 0; r < R; r++)
                acc[m * R + r] = _mm256_fmadd_ps(w[r], v, acc[m * R + r]);
        }
    }
}

INLINE float sum8(__m256 v)
{
    const __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 b = _mm_add_ps(a, _mm_movehl_ps(a, a));

    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

INLINE void tile(kind type, int R, int M, float *out, const rt_weight *w, int64_t n, const float *x,
                 int64_t ldx)
{
    const int64_t stride = type == W4 ? CPU_W4_BLOCK : LANES;
    const char *row[4];
    __m256 acc[8];
    int64_t k = 0;

    for (int r = 0; r < R; r++)
        row[r] = (const char *)w->data + (n + r) * w->row_bytes;
    for (int i = 0; i < R * M; i++)
        acc[i] = _mm256_setzero_ps();
    for (; k + stride <= w->K; k += stride)
        if (type == W4) {
            step_w4(R, M, acc, row, x, ldx, k, 0, stride);
            step_w4(R, M, acc, row, x, ldx, k, 8, stride);
        } else {
            step(type, R, M, acc, row, x, ldx, k, stride);
        }
    if (k < w->K) {
        if (type == W4) {
            step_w4(R, M, acc, row, x, ldx, k, 0, w->K - k);
            step_w4(R, M, acc, row, x, ldx, k, 8, w->K - k);
        } else {
            step(type, R, M, acc, row, x, ldx, k, w->K - k);
        }
    }
    for (int r = 0; r < R; r++)
        for (int m = 0; m < M; m++)
            out[m * CPU_GEMV_ROWS + r] = sum8(acc[m * R + r]) * (w->scale ? w->scale[n + r] : 1.0f);
}

INLINE void tiles(kind type, int R, int M, float *out, const rt_weight *w, int64_t n, int rows,
                  const float *x, int64_t ldx)
{
    int i = 0;

    for (; i + R <= rows; i += R)
        tile(type, R, M, out + i, w, n + i, x, ldx);
    for (; i < rows; i++)
        tile(type, 1, M, out + i, w, n + i, x, ldx);
}

/* Four rows for one or two tokens, else two rows; five and more tokens in two halves, the second of
 * which finds the codes in the cache. */
INLINE void kernel(kind type, float *out, const rt_weight *w, int64_t n, int rows, const float *x,
                   int64_t ldx, int m)
{
    switch (m) {
    case 1:
        tiles(type, 4, 1, out, w, n, rows, x, ldx);
        break;
    case 2:
        tiles(type, 4, 2, out, w, n, rows, x, ldx);
        break;
    case 3:
        tiles(type, 2, 3, out, w, n, rows, x, ldx);
        break;
    default:
        tiles(type, 2, 4, out, w, n, rows, x, ldx);
    }
}

#define KERNEL(name, type)                                                                         \
    static void name##_4(float *out, const rt_weight *w, int64_t n, int rows, const float *x,      \
                         int64_t ldx, int m)                                                       \
    {                                                                                              \
        kernel(type, out, w, n, rows, x, ldx, m);                                                  \
    }                                                                                              \
    void name(float *out, const rt_weight *w, int64_t n, int rows, const float *x, int64_t ldx,    \
              int m)                                                                               \
    {                                                                                              \
        name##_4(out, w, n, rows, x, ldx, m < 4 ? m : 4);                                          \
        if (m > 4)                                                                                 \
            name##_4(out + 4 * CPU_GEMV_ROWS, w, n, rows, x + 4 * ldx, ldx, m - 4);                \
    }

KERNEL(cpu_gemv_f32_avx2, F32)
KERNEL(cpu_gemv_f16_avx2, F16)
KERNEL(cpu_gemv_bf16_avx2, BF16)
KERNEL(cpu_gemv_w8_avx2, W8)
KERNEL(cpu_gemv_w4_avx2, W4)

void cpu_deq_w4_avx2(float *dst, const rt_weight *w, int64_t row, int64_t k0, int64_t n)
{
    const char *codes = (const char *)w->data + row * w->row_bytes + k0 / 2;
    const __m256 scale = _mm256_set1_ps(w->scale[row]);

    for (int64_t k = 0; k < n; k += CPU_W4_BLOCK, codes += CPU_W4_BLOCK / 2)
        for (int word = 0; word < 16; word += LANES) {
            __m256i c = _mm256_loadu_si256((const void *)(codes + 4 * word));

            for (int64_t j = k + word; j < k + CPU_W4_BLOCK; j += 16) {
                _mm256_maskstore_ps(dst + j, mask_of(n - j), _mm256_mul_ps(w4_value(c), scale));
                c = _mm256_srli_epi32(c, 4);
            }
        }
}
