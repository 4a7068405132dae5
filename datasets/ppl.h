/* Perplexity: negative log likelihoods of tokens, summed in a fixed order.
 *
 *     ds_windows w;
 *     ds_ppl p = { 0 };
 *     Q_TRY(ds_ppl_windows(&w, n_tok, 2048, err));
 *     for (int64_t i = 0; i < w.n; i++)                   tokens [i * w.len, (i + 1) * w.len)
 *         for (int64_t t = 0; t + 1 < w.len; t++)         row t predicts token t + 1
 *             ds_ppl_add(&p, ds_nll(row(i, t), n_vocab, ids[i * w.len + t + 1]));
 *     double ppl = ds_ppl_value(&p);
 *
 * Convention of the GPTQ paper (Frantar et al. 2022): the text is tokenized once and cut into
 * windows that do not overlap; each is run on its own, gives len - 1 predictions, and the rest of
 * the text behind the last full window is dropped.  Perplexity = exp(mean over all predictions).
 * Threads: ds_nll is pure; a ds_ppl belongs to one thread, and values are added in text order. */
#ifndef DS_PPL_H
#define DS_PPL_H

#include <stdint.h>

#include "datasets/stats.h"
#include "formats/base/q_err.h"

/* -log softmax(logits)[target], in nats.
 *
 *   logits  [n_vocab] f32, finite or -infinity
 *   target  0 .. n_vocab - 1
 *
 * The largest logit is taken out first, so nothing overflows; exponentials and their sum (in index
 * order) are double.  NaN when a logit is NaN or +infinity, or all are -infinity; +infinity when
 * only the target's is.  About n_vocab exp calls: run positions in parallel, add them in order. */
double ds_nll(const float *logits, int64_t n_vocab, int32_t target);

typedef struct ds_ppl {
    ds_sum nll;
    int64_t n;            /* predictions added */
    int64_t n_not_finite; /* of them NaN or infinite: the result is then NaN or infinite as well */
} ds_ppl;

void ds_ppl_add(ds_ppl *p, double nll);
double ds_ppl_mean(const ds_ppl *p);  /* mean NLL in nats; NaN when nothing was added */
double ds_ppl_value(const ds_ppl *p); /* exp of it */

typedef struct ds_windows {
    int64_t len;    /* tokens of a window */
    int64_t n;      /* full windows */
    int64_t n_pred; /* n * (len - 1) */
    int64_t n_rest; /* tokens dropped at the end */
} ds_windows;

/* Errors: Q_EARG (len < 2), Q_ESHAPE (n_tok < len: not one window). */
q_status ds_ppl_windows(ds_windows *out, int64_t n_tok, int64_t len, q_err *err);

#endif
