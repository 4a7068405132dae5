/* The exponent of SmoothQuant for each linear of a layer, by the error of its int8 product.
 *
 *     Q_TRY(qnt_smooth_search(&ranges, &layer, &inputs, model, err));
 *     ... ranges.alpha[FMT_FFN_DOWN] ...
 *
 * alpha = 0, 1/20 .. 1.  With factors s the product is wrong by
 *
 *     weights       tr(D H D'), D = Q(W s) / s - W, a scale for each row, H = X'X of the n inputs
 *     activations   n step^2 / 12 * sum_k s_k^2 |W_k|^2, step_t = max_k (|x_tk| / s_k) / 127
 *
 * the second being the noise of rounding each token to the step of its own range, with the mean of
 * step^2 over a sample of tokens.  The smallest sum wins, the smaller alpha among equals; the model
 * is not run again.  At most 256 rows are scored, evenly spread.  Threads: one layer belongs to one
 * thread. */
#ifndef QNT_SMOOTH_SEARCH_H
#define QNT_SMOOTH_SEARCH_H

#include "quant/device.h"
#include "quant/smooth.h"

/* What is known of the input of each linear. */
typedef struct qnt_smooth_inputs {
    qnt_dev d;           /* where H is */
    float *H[FMT_ROLES]; /* [K, K] both triangles; device */
    int64_t n;           /* tokens in H */
    float *x[FMT_ROLES]; /* [n_x, K] some of them, n_x >= 1 */
    int64_t n_x;
} qnt_smooth_inputs;

/* Sets r->searched and r->alpha, and leaves everything else of *r as it was; *l is smoothed in the
 * end.  Errors: Q_ENOMEM. */
q_status qnt_smooth_search(qnt_ranges *r, const qnt_layer *l, const qnt_smooth_inputs *in,
                           const fmt_model *m, q_err *err);

#endif
