/* What calibration finds about one layer: largest magnitudes, per channel.
 *
 *     qnt_ranges r;
 *     Q_TRY(qnt_ranges_alloc(&r, model, err));
 *     r.in[FMT_FFN_DOWN][k] ...       ... out: qnt_ranges_free(&r);
 *
 * Taken on the model as it is, before any smoothing: folding a factor into a weight or a norm
 * divides the range of that channel by the factor, so ranges of the smoothed model follow exactly.
 * Roles with quant == 0 have no arrays.  Threads: a plain value. */
#ifndef QNT_RANGES_H
#define QNT_RANGES_H

#include "formats/family.h"

typedef struct qnt_ranges {
    float *in[FMT_ROLES];  /* [K] of the input of a linear */
    float *out[FMT_ROLES]; /* [N] of its output, bias included; gate and up before silu */
    float *k;              /* [n_kv * hd] of K as it is cached: after its norm and RoPE */
    /* 1: alpha of each linear was chosen for this layer (smooth_search.h), 0 .. 1; negative: leave
     * its input as it is */
    int searched;
    double alpha[FMT_ROLES];
} qnt_ranges;

q_status qnt_ranges_alloc(qnt_ranges *r, const fmt_model *m, q_err *err); /* all zero */
void qnt_ranges_free(qnt_ranges *r);
/* into = the larger of both, element by element; alpha is that of r */
void qnt_ranges_join(qnt_ranges *into, const qnt_ranges *r, const fmt_model *m);
/* kv [2, n_kv]: the largest key, then the largest value of every head */
void qnt_ranges_heads(float *kv, const qnt_ranges *r, const fmt_model *m);
/* k, v [layers, n_kv]: what a step of an int8 cache is worth, of such maxima kv [layers, 2, n_kv]
 */
void qnt_kv_steps(float *k, float *v, const float *kv, const fmt_model *m);
/* The same of r [layers], in new memory [2, layers, n_kv] that the caller frees. */
q_status qnt_ranges_steps(float **out, const qnt_ranges *r, const fmt_model *m, q_err *err);

#endif
