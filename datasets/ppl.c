/* Negative log likelihoods and their mean.
 *
 *   nll = log(sum_i exp(x_i - m)) - (x_t - m),   m = max_i x_i
 *
 * One of the exponentials is exp(0) = 1, so the logarithm is of a number in [1, n_vocab]: no
 * overflow and no loss.  150 000 positive doubles added in order are off by 1e-11 relative at
 * worst, far below the float logits, so a plain sum serves inside a row; across the 300 000
 * positions of a text the compensated ds_sum is used. */
#include "datasets/ppl.h"

#include <assert.h>
#include <math.h>

double ds_nll(const float *logits, int64_t n_vocab, int32_t target)
{
    double max, sum = 0;

    assert(n_vocab > 0 && target >= 0 && target < n_vocab);
    max = (double)logits[0];
    for (int64_t i = 1; i < n_vocab; i++)
        if ((double)logits[i] > max)
            max = (double)logits[i];
    for (int64_t i = 0; i < n_vocab; i++)
        sum += exp((double)logits[i] - max);
    return log(sum) - ((double)logits[target] - max);
}

void ds_ppl_add(ds_ppl *p, double nll)
{
    ds_sum_add(&p->nll, nll);
    p->n++;
    p->n_not_finite += !isfinite(nll);
}

double ds_ppl_mean(const ds_ppl *p)
{
    return p->n == 0 ? (double)NAN : ds_sum_value(&p->nll) / (double)p->n;
}

double ds_ppl_value(const ds_ppl *p)
{
    return exp(ds_ppl_mean(p));
}

q_status ds_ppl_windows(ds_windows *out, int64_t n_tok, int64_t len, q_err *err)
{
    if (len < 2)
        return q_fail(err, Q_EARG, "window of %lld tokens, wanted 2 or more", (long long)len);
    if (n_tok < len)
        return q_fail(
            err, Q_ESHAPE,
            "text has %lld tokens, one window needs %lld: take a longer text or a smaller "
            "window",
            (long long)n_tok, (long long)len);
    *out = (ds_windows){
        .len = len, .n = n_tok / len, .n_pred = n_tok / len * (len - 1), .n_rest = n_tok % len
    };
    return Q_OK;
}
