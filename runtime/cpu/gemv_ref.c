/* The plain kernels: dequantize a stretch of a row, multiply.  Every scheme runs here, also one
 * that has no kernel of its own.  The 16 partial sums keep the rounding error of long rows small
 * and let any compiler use its vectors; their order is fixed. */
#include <string.h>

#include "runtime/cpu/cpu.h"

#define STRETCH 512 /* weights dequantized at a time: 2 KiB on the stack */
#define LANES   16

void cpu_deq_ref(float *dst, const rt_weight *w, int64_t row, int64_t k0, int64_t n)
{
    const char *codes = (const char *)w->data + row * w->row_bytes + k0 * w->scheme->bits / 8;

    w->scheme->dequantize_row(dst, codes, w->scale ? w->scale[row] : 1.0f, n);
}

static void dot_add(float acc[LANES], const float *a, const float *b, int64_t n)
{
    int64_t k = 0;

    for (; k + LANES <= n; k += LANES)
        for (int l = 0; l < LANES; l++)
            acc[l] += a[k + l] * b[k + l];
    for (int l = 0; k < n; k++, l++)
        acc[l] += a[k] * b[k];
}

void cpu_gemv_ref(float *out, const rt_weight *w, int64_t row, int rows, const float *x,
                  int64_t ldx, int m)
{
    float v[STRETCH];

    for (int i = 0; i < rows; i++) {
        float acc[CPU_GEMV_M][LANES] = { { 0 } };

        for (int64_t k0 = 0; k0 < w->K; k0 += STRETCH) {
            const int64_t n = w->K - k0 < STRETCH ? w->K - k0 : STRETCH;

            cpu_deq_ref(v, w, row + i, k0, n);
            for (int j = 0; j < m; j++)
                dot_add(acc[j], v, x + j * ldx + k0, n);
        }
        for (int j = 0; j < m; j++) {
            float s = 0;

            for (int l = 0; l < LANES; l++)
                s += acc[j][l];
            out[j * CPU_GEMV_ROWS + i] = s;
        }
    }
}
