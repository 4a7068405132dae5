/* GEMV kernels for AVX-512 (F, BW, VL, DQ).
 *
 * A tile is R rows of W and M tokens: the codes of a row are loaded and widened to f32 once and
 * meet all M tokens, a stretch of x is loaded once and meets all R rows; R * M sums stay in
 * registers. R and M are constants after inlining.  Rows are padded with zeros to whole vectors
 * (be_cpu.c), so only x needs a mask at the end of a row.
 *
 * w4: the index of VPERMPS is the low 4 bits of each word, so one permutation of a table of the 16
 * values turns 16 codes into 16 floats, and a shift by 4 brings the next 16 (layout in cpu.h). */
#include <immintrin.h>

#include "runtime/cpu/cpu.h"

#define INLINE static inline __attribute__((always_inline))

typedef enum kind { F32, F16, BF16, W8, W4 } kind;

#define LANES 16

/* 16 weights from element k of a row */
INLINE __m512 load_w(kind type, const char *row, int64_t k)
{
    if (type == F32)
        return _mm512_loadu_ps((const void *)(row + 4 * k));
    if (type == F16)
        return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(row + 2 * k)));
    if (type == BF16)
        return _mm512_castsi512_ps(_mm512_slli_epi32(
            _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(row + 2 * k))), 16));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(row + k))));
}

INLINE __mmask16 mask_of(int64_t left) /* of LANES elements, how many exist */
{
    return left >= LANES ? (__mmask16)0xffff : left <= 0 ? 0 : (__mmask16)((1u << left) - 1);
}

INLINE __m512 w4_values(void)
{
    return _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
}

/* acc += the LANES products at element k */
INLINE void step(kind type, int R, int M, __m512 acc[], const char *const row[], const float *x,
                 int64_t ldx, int64_t k, __mmask16 mask)
{
    __m512 w[4];

    for (int r = 0; r < R; r++)
        w[r] = load_w(type, row[r], k);
    for (int m = 0; m < M; m++) {
        const __m512 v = mask == 0xffff ? _mm512_loadu_ps(x + m * ldx + k)
                                        : _mm512_maskz_loadu_ps(mask, x + m * ldx + k);

        for (int r = 0; r < R; r++)
            acc[m * R + r] = _mm512_fmadd_ps(w[r], v, acc[m * R + r]);
    }
}

/* the same for a block of w4; left: codes that exist */
INLINE void step_w4(int R, int M, __m512 acc[], const char *const row[], const float *x,
                    int64_t ldx, int64_t k, int64_t left)
{
    const __m512 values = w4_values();
    __m512i c[4];

    for (int r = 0; r < R; r++)
        c[r] = _mm512_loadu_si512(row[r] + k / 2);
#pragma GCC unroll 8
    for (int j = 0; j < CPU_W4_BLOCK / LANES; j++) {
        __m512 w[4];

        for (int r = 0; r < R; r++) {
            w[r] = _mm512_permutexvar_ps(c[r], values);
            c[r] = _mm512_srli_epi32(c[r], 4);
        }
        for (int m = 0; m < M; m++) {
            const float *p = x + m * ldx + k + j * LANES;
            const __m512 v = left >= CPU_W4_BLOCK
                                 ? _mm512_loadu_ps(p)
                                 : _mm512_maskz_loadu_ps(mask_of(left - j * LANES), p);

            for (int r = 0; r < R; r++)
                acc[m * R + r] = _mm512_fmadd_ps(w[r], v, acc[m * R + r]);
        }
    }
}

INLINE void tile(kind type, int R, int M, float *out, const rt_weight *w, int64_t n, const float *x,
                 int64_t ldx)
{
    const int64_t stride = type == W4 ? CPU_W4_BLOCK : LANES;
    const char *row[4];
    __m512 acc[16];
    int64_t k = 0;

    for (int r = 0; r < R; r++)
        row[r] = (const char *)w->data + (n + r) * w->row_bytes;
    for (int i = 0; i < R * M; i++)
        acc[i] = _mm512_setzero_ps();
    for (; k + stride <= w->K; k += stride)
        if (type == W4)
            step_w4(R, M, acc, row, x, ldx, k, stride);
        else
            step(type, R, M, acc, row, x, ldx, k, 0xffff);
    if (k < w->K) {
        if (type == W4)
            step_w4(R, M, acc, row, x, ldx, k, w->K - k);
        else
            step(type, R, M, acc, row, x, ldx, k, mask_of(w->K - k));
    }
    for (int r = 0; r < R; r++)
        for (int m = 0; m < M; m++)
            out[m * CPU_GEMV_ROWS + r] =
                _mm512_reduce_add_ps(acc[m * R + r]) * (w->scale ? w->scale[n + r] : 1.0f);
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

/* R * M sums of at most 16 registers */
#define KERNEL(name, type)                                                                         \
    void name(float *out, const rt_weight *w, int64_t n, int rows, const float *x, int64_t ldx,    \
              int m)                                                                               \
    {                                                                                              \
        switch (m) {                                                                               \
        case 1:                                                                                    \
            tiles(type, 4, 1, out, w, n, rows, x, ldx);                                            \
            break;                                                                                 \
        case 2:                                                                                    \
            tiles(type, 4, 2, out, w, n, rows, x, ldx);                                            \
            break;                                                                                 \
        case 3:                                                                                    \
            tiles(type, 4, 3, out, w, n, rows, x, ldx);                                            \
            break;                                                                                 \
        case 4:                                                                                    \
            tiles(type, 4, 4, out, w, n, rows, x, ldx);                                            \
            break;                                                                                 \
        case 5:                                                                                    \
            tiles(type, 2, 5, out, w, n, rows, x, ldx);                                            \
            break;                                                                                 \
        case 6:                                                                                    \
            tiles(type, 2, 6, out, w, n, rows, x, ldx);                                            \
            break;                                                                                 \
        case 7:                                                                                    \
            tiles(type, 2, 7, out, w, n, rows, x, ldx);                                            \
            break;                                                                                 \
        default:                                                                                   \
            tiles(type, 2, 8, out, w, n, rows, x, ldx);                                            \
        }                                                                                          \
    }

KERNEL(cpu_gemv_f32_avx512, F32)
KERNEL(cpu_gemv_f16_avx512, F16)
KERNEL(cpu_gemv_bf16_avx512, BF16)
KERNEL(cpu_gemv_w8_avx512, W8)
KERNEL(cpu_gemv_w4_avx512, W4)

void cpu_deq_w4_avx512(float *dst, const rt_weight *w, int64_t row, int64_t k0, int64_t n)
{
    const char *codes = (const char *)w->data + row * w->row_bytes + k0 / 2;
    const __m512 scale = _mm512_set1_ps(w->scale[row]), values = _mm512_mul_ps(w4_values(), scale);

    for (int64_t k = 0; k < n; k += CPU_W4_BLOCK, codes += CPU_W4_BLOCK / 2) {
        __m512i c = _mm512_loadu_si512(codes);

        for (int64_t j = k; j < k + CPU_W4_BLOCK && j < n; j += LANES) {
            _mm512_mask_storeu_ps(dst + j, mask_of(n - j), _mm512_permutexvar_ps(c, values));
            c = _mm512_srli_epi32(c, 4);
        }
    }
}
