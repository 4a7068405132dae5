/* SmoothQuant on one layer: large input channels of the linears become smaller, the weights that
 * read them larger, and the layer computes what it computed before.
 *
 *     Q_TRY(qnt_smooth_check(&ranges, model, layer, err));
 *     Q_TRY(qnt_smooth_layer(&l, &ranges, model, alpha, err));        alpha[FMT_FFN_DOWN] = 0.5
 *
 * For a linear with input maxima X and column maxima W of its weight
 *
 *     s_j = max(X_j^a / max(W_j, 1e-5)^(1-a), 1e-5)      1 for a channel that was always zero
 *
 * columns are multiplied by s, and 1/s goes where the input comes from, so nothing is left to do at
 * run time: for attn_out into the v rows (weight and bias), for ffn_down into the up rows, for
 * attn_qkv and ffn_gate_up into the norm before them.  The first two come first, because they
 * change weights that the second two look at.  With grouped queries the heads of a group read one v
 * row, which gets one s from the maxima over those heads.  Source: Xiao et al. 2022; order and
 * folds of architecture section 6.  Threads: one layer belongs to one thread. */
#ifndef QNT_SMOOTH_H
#define QNT_SMOOTH_H

#include "quant/fold.h"
#include "quant/ranges.h"

/* Q_EFORMAT for a range that is negative or not finite; layer is for the message. */
q_status qnt_smooth_check(const qnt_ranges *r, const fmt_model *m, int64_t layer, q_err *err);

/* The linears in the order in which they are smoothed. */
#define QNT_SMOOTHED 4
extern const fmt_role qnt_smooth_order[QNT_SMOOTHED];

/* s [K] for one linear of the layer as it is now.  alpha: 0 .. 1; negative: all ones.
 * Errors: Q_ENOMEM. */
q_status qnt_smooth_factors(double *s, const qnt_layer *l, const qnt_ranges *r, fmt_role role,
                            const fmt_model *m, double alpha, q_err *err);
/* Changes *l in place, and *r to what the smoothed layer would have shown, by s of
 * qnt_smooth_factors. */
void qnt_smooth_apply(const qnt_layer *l, const qnt_ranges *r, fmt_role role, const double *s,
                      const fmt_model *m);
/* Both for the four linears.  Errors: Q_ENOMEM; some are smoothed then. */
q_status qnt_smooth_layer(const qnt_layer *l, const qnt_ranges *r, const fmt_model *m,
                          const double alpha[FMT_ROLES], q_err *err);

#endif
