/* KL divergence between the predictions of two models, position by position.
 *
 *     ds_kld k = { 0 };
 *     ds_kld_stats s;
 *     Q_TRY(ds_kld_add(&k, base_row, other_row, n_vocab, err));      (per position, in text order)
 *     Q_TRY(ds_kld_summary(&s, &k, err));
 *     ... out: ds_kld_free(&k);
 *
 * KL(base || other) = sum_i p_i (log p_i - log q_i) in nats, p the softmax of the base logits.
 * A percentile is ds_quantile of the stored values: position q * (n - 1) of the ascending list,
 * linear in between; the median is the 50 % one.  Four bytes are kept per position.
 * Threads: a ds_kld belongs to one thread. */
#ifndef DS_KLD_H
#define DS_KLD_H

#include <stddef.h>
#include <stdint.h>

#include "datasets/stats.h"
#include "formats/base/q_err.h"

typedef struct ds_kld {
    float *v; /* [n] divergence per position, in order */
    size_t n, cap;
    size_t n_same; /* positions where both models rank the same token first */
    ds_sum sum;    /* of the values before rounding to float */
} ds_kld;

typedef struct ds_kld_stats {
    size_t n;
    double mean, median, p90, p99, max;
    double same_top1; /* fraction, 0 to 1 */
} ds_kld_stats;

/* Divergence of one position without storing it.  base and other: [n_vocab] f32, may be the same
 * array.  0 for equal rows, never negative; +infinity when base allows a token that other gives
 * -infinity; NaN when a row holds NaN or +infinity or nothing but -infinity. */
double ds_kld_row(const float *base, const float *other, int64_t n_vocab);

/* Adds one position.  Ties of the largest logit go to the lower token in both rows.
 * Errors: Q_EFORMAT (divergence is NaN; the message has the position), Q_ENOMEM. */
q_status ds_kld_add(ds_kld *k, const float *base, const float *other, int64_t n_vocab, q_err *err);

/* Errors: Q_EARG (no positions), Q_ENOMEM (8 bytes per position while sorting). */
q_status ds_kld_summary(ds_kld_stats *out, const ds_kld *k, q_err *err);
void ds_kld_free(ds_kld *k); /* k is zero again */

#endif
