/* Mean of ROUGE scores and its bootstrap interval.
 *
 * rouge_score prints the middle of a random bootstrap, which changes from run to run.  Here the
 * plain mean is the headline and the interval comes from a generator with a seed: scores are drawn
 * with replacement DS_ROUGE_RESAMPLES times, each time as many as there are, and the percentiles of
 * the 1000 means give the interval.  All twelve numbers of a score are taken with one draw, so that
 * P, R and F of an interval belong together. */
#include "datasets/rouge.h"

#include <string.h>

#include "datasets/stats.h"
#include "formats/base/q_mem.h"

#define N_VALUES (DS_ROUGE_TYPES * DS_ROUGE_PARTS)

static double *value(ds_rouge *s, int k)
{
    return &s->v[k / DS_ROUGE_PARTS][k % DS_ROUGE_PARTS];
}

static void add_scores(double *sum, const ds_rouge *s)
{
    for (int k = 0; k < N_VALUES; k++)
        sum[k] += s->v[k / DS_ROUGE_PARTS][k % DS_ROUGE_PARTS];
}

q_status ds_rouge_aggregate(ds_rouge_mean *out, const ds_rouge *scores, size_t n, uint64_t seed,
                            q_err *err)
{
    q_status st = Q_OK;
    ds_rng rng = { seed };
    double sum[N_VALUES] = { 0 }, *means = NULL; /* means [N_VALUES, DS_ROUGE_RESAMPLES] */

    if (n == 0)
        Q_FAIL(err, Q_EARG, "ROUGE: no scores to average");
    if (!(means = q_calloc(N_VALUES * DS_ROUGE_RESAMPLES, sizeof *means)))
        Q_FAIL(err, Q_ENOMEM, "ROUGE: no memory for the bootstrap");
    for (size_t i = 0; i < n; i++)
        add_scores(sum, &scores[i]);
    for (int k = 0; k < N_VALUES; k++)
        *value(&out->mean, k) = sum[k] / (double)n;
    for (int b = 0; b < DS_ROUGE_RESAMPLES; b++) {
        memset(sum, 0, sizeof sum);
        for (size_t i = 0; i < n; i++)
            add_scores(sum, &scores[ds_rng_below(&rng, n)]);
        for (int k = 0; k < N_VALUES; k++)
            means[k * DS_ROUGE_RESAMPLES + b] = sum[k] / (double)n;
    }
    for (int k = 0; k < N_VALUES; k++) {
        double *m = means + k * DS_ROUGE_RESAMPLES;

        ds_sort(m, DS_ROUGE_RESAMPLES);
        *value(&out->low, k) = ds_quantile(m, DS_ROUGE_RESAMPLES, 0.025);
        *value(&out->mid, k) = ds_quantile(m, DS_ROUGE_RESAMPLES, 0.5);
        *value(&out->high, k) = ds_quantile(m, DS_ROUGE_RESAMPLES, 0.975);
    }
out:
    q_free(means);
    return st;
}
