/* Numbers of w8a8: int8 weights and int8 activations, both symmetric.
 *
 *     qnt_w8a8_codes(codes, row, K, qnt_absmax(row, K));        w ~ code * qnt_w8a8_scale(absmax)
 *
 *   scale = absmax / 127 in f32        code = round_half_even(w * 127 / absmax), -127 .. 127
 *
 * The quotient is the exact one, rounded once: no order of operations enters into a code.  absmax
 * belongs to a row (per channel) or to a whole piece (per tensor; q, k and v apart).  One below
 * QNT_W8A8_MIN stands for zero: scale 1, codes 0.  Source: reference-behaviour 2.4, which forms
 * some products in f16 and so may differ by one.  Threads: pure functions. */
#ifndef QNT_W8A8_H
#define QNT_W8A8_H

#include <stdint.h>

#define QNT_W8A8_MAX 127
#define QNT_W8A8_MIN 1e-30f /* far below what f16 and any activation can tell from zero */

/* What one step of a code is worth; not finite when absmax is not. */
float qnt_w8a8_scale(float absmax);
/*   codes  [n] out, must not alias v
 *   v      [n] magnitudes up to absmax
 * absmax not finite: codes 0 (the scale tells). */
void qnt_w8a8_codes(int8_t *codes, const float *v, int64_t n, float absmax);
/* A row by its own maximum, as qnt_scheme wants it: codes [K] int8, *scale one f32. */
void qnt_rtn_w8a8(void *codes, float *scale, const float *row, int64_t K);

#endif
