/* SmoothQuant on one layer: large input channels of the linears become smaller, the weights that
 * read them larger, and the layer computes what it computed before.
 *
 *     Q_TRY(qnt_smooth_check(&ranges, model, layer, err));
 *     Q_TRY(qnt_smooth_layer(&l, &ranges, model, 0.5, err));
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

#include "quant/ranges.h"

/* The tensors of a layer in f32, each owned by the caller. */
typedef struct qnt_layer {
    float *w[FMT_ROLES];    /* [N, K] of the four linears, [hid] of the two norms */
    float *bias[FMT_ROLES]; /* [N] of linears that have one, else NULL */
} qnt_layer;

/* Q_EFORMAT for a range that is negative or not finite; layer is for the message. */
q_status qnt_smooth_check(const qnt_ranges *r, const fmt_model *m, int64_t layer, q_err *err);

/* Changes *l in place, and *r to what the smoothed layer would have shown.  alpha: 0 .. 1.
 * Errors: Q_ENOMEM, nothing is changed then. */
q_status qnt_smooth_layer(qnt_layer *l, qnt_ranges *r, const fmt_model *m, double alpha,
                          q_err *err);

#endif
