/* Factors that move from the input of a linear into its weight, without changing the layer.
 *
 *     for k: s[k] = ...                           one factor for each input channel of the role
 *     qnt_fold_tie(s, FMT_ATTN_OUT, model);       where several channels come from one place
 *     Q_TRY(qnt_fold(&dev, &layer, FMT_ATTN_OUT, s, FMT_F16, model, err));
 *
 * Columns of the weight are multiplied by s, and what makes the input is divided by it, so nothing
 * is left to do at run time:
 *
 *      norm1 --> [ q ]                                norm2 --> [ gate ]
 *       1/s      [ k ]    --> attention --> out         1/s     [ up   ] --> * silu --> down
 *                [ v ] 1/s                   s                     1/s                   s
 *
 * for attn_out the v rows, weight and bias; for ffn_down the up rows; for attn_qkv and ffn_gate_up
 * the norm before them.  With grouped queries the heads of a group read one v row and share its s.
 * Fold attn_out and ffn_down first: they change weights that the other two hold.
 * Factors are doubles, and each product is rounded once.  Threads: one layer belongs to one. */
#ifndef QNT_FOLD_H
#define QNT_FOLD_H

#include "formats/dtype.h"
#include "formats/family.h"
#include "quant/device.h"

/* The tensors of a layer in f32, each owned by the caller. */
typedef struct qnt_layer {
    float *w[FMT_ROLES];    /* [N, K] of the four linears, [hid] of the two norms */
    float *bias[FMT_ROLES]; /* [N] of linears that have one, else NULL */
} qnt_layer;

/* column k of w [N, K] times s[k]; row i of w [n, K], and of bias where there is one, over s[i] */
void qnt_fold_columns(float *w, int64_t N, int64_t K, const double *s);
void qnt_fold_rows(float *w, float *bias, int64_t n, int64_t K, const double *s);

/* The mean of s over channels that share a factor; nothing for all roles but attn_out. */
void qnt_fold_tie(double *s, fmt_role role, const fmt_model *m);

/* Weights of linears are memory of the device, norms and biases host memory.  s [K] is positive and
 * tied.  norm: the type in which norms will be stored: they are rounded to it, and s becomes what
 * was divided by in truth, so that the fold stays exact.  In the end s holds the factors as used.
 */
q_status qnt_fold(const qnt_dev *d, qnt_layer *l, fmt_role role, double *s, fmt_dtype norm,
                  const fmt_model *m, q_err *err);

#endif
