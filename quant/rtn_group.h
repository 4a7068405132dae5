/* Round to nearest in groups of columns: what w4g and w8g hold, and the baseline of GPTQ and AWQ.
 *
 *     Q_TRY(qnt_group_alloc(&t, 4, N, K, 128, err));
 *     for (n = 0; n < N; n++)  qnt_rtn_group(&t, n, w + n * K, sym);
 *
 * With q = 2^bits - 1, everything in float32:
 *   symmetric    scale = 2 max|w| / q                             zero = (q + 1) / 2
 *   asymmetric   scale = (max - min) / q, both taken with 0       zero = clamp(-round(min / scale))
 *   code = clamp(round(w / scale) + zero, 0, q)                   w ~ (code - zero) * scale
 * The scale is rounded to f16 first and everything else uses that value, so a file loses nothing.
 * Rounding is half to even.  A group of zeros gets scale 1.  A group that cannot be kept (a NaN, an
 * infinity, a scale above 65504) gets a scale that is not finite: callers check it and name the
 * tensor.  Source: architecture section 4.3 and Frantar et al. 2022.  Threads: rows are
 * independent. */
#ifndef QNT_RTN_GROUP_H
#define QNT_RTN_GROUP_H

#include "quant/scheme.h"

/* Scheme and shape of w4g or w8g without arrays; group -1 is K.  Errors: Q_EARG (bits, group),
 * Q_ESHAPE. */
q_status qnt_group_shape(qnt_tensor *t, int bits, int64_t N, int64_t K, int64_t group, q_err *err);
/* The same with codes, scales and zeros, all zero.  Errors: also Q_ENOMEM. */
q_status qnt_group_alloc(qnt_tensor *t, int bits, int64_t N, int64_t K, int64_t group, q_err *err);

/* Scale and zero of n values; ratio <= 1 narrows their range. */
void qnt_group_fit(float *scale, uint8_t *zero, const float *w, int64_t n, int bits, int sym,
                   float ratio);
/* The same with the ratio, of a grid from 1 down, that gives the least sum of h (w' - w)^2.
 * h [n]: weights of the squares. */
void qnt_group_search(float *scale, uint8_t *zero, const float *w, const float *h, int64_t n,
                      int bits, int sym);

/* codes [n] = nearest codes of w, one byte each */
void qnt_group_codes(uint8_t *codes, const float *w, int64_t n, float scale, int zero, int bits);
/* e [n] = what those codes mean, less w */
void qnt_group_error(float *e, const float *w, int64_t n, float scale, int zero, int bits);
/* Row n of t from codes [K], one byte each. */
void qnt_group_pack(qnt_tensor *t, int64_t n, const uint8_t *codes);

/* Row n of t from row [K]: fit, round, pack. */
void qnt_rtn_group(qnt_tensor *t, int64_t n, const float *row, int sym);
/* The two halves of it for all rows of w [N, K], by OpenMP's threads: scales and zeros, with h [K]
 * from qnt_group_search; and codes by the scales that t has. */
void qnt_group_fit_all(qnt_tensor *t, const float *w, const float *h, int sym);
void qnt_group_round_all(qnt_tensor *t, const float *w);

/* A row with a scale that is not finite, -1: none. */
int64_t qnt_group_bad_row(const qnt_tensor *t);

#endif
