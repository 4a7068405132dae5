/* Round to nearest, one scale per row: the weight-only schemes w8 and w4.
 *
 *     qnt_rtn_w8(codes, &scale, row, K);
 *
 * With q = 128 (w8) or 8 (w4), all in float32:
 *   s = max|row| / q          code = clamp(round_half_away(row / s), -q, q - 1)
 *   *scale = s rounded to f16 and widened again (what a file stores, what dequantization uses)
 * A row of zeros gets codes 0 and scale 1.  A row that cannot be kept (a NaN, an infinity, a scale
 * above 65504) gets a scale that is not finite: callers check it and name the tensor.
 * Source: reference-behaviour section 6 (CUTLASS weight-only quantization of the reference).
 * Threads: pure functions. */
#ifndef QNT_RTN_H
#define QNT_RTN_H

#include <stdint.h>

/*   row    [K] f32
 *   codes  [K] int8 (w8); [(K + 1) / 2] bytes, even k in the low nibble, code + 8 (w4; an odd K
 *          leaves 8, the code of zero, in the last high nibble)
 * codes must not alias row. */
void qnt_rtn_w8(void *codes, float *scale, const float *row, int64_t K);
void qnt_rtn_w4(void *codes, float *scale, const float *row, int64_t K);

/* Largest magnitude of n values; NaN when one of them is. */
float qnt_absmax(const float *v, int64_t n);

#endif
