/* KL divergence over one row of logits, and statistics over positions.
 *
 * With d = x - max(x) and Z = sum exp(d) for each row,
 *
 *   KL = sum_i exp(b_i)/Z_b * (b_i - o_i)  -  log Z_b  +  log Z_o
 *
 * which needs one pass of two exponentials and is exactly 0 for equal rows.  Rounding can leave a
 * value like -1e-16 for almost equal rows: that is set to 0, KL is never negative.  A token that
 * base rules out (-infinity) adds nothing whatever other says (0 log 0 = 0). */
#include "datasets/kld.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "formats/base/q_mem.h"

static int64_t top1(const float *x, int64_t n)
{
    int64_t best = 0;

    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

static double row_kl(const float *base, const float *other, int64_t n_vocab, double max_b,
                     double max_o)
{
    double zb = 0, zo = 0, cross = 0, kl;

    for (int64_t i = 0; i < n_vocab; i++) {
        const double b = (double)base[i] - max_b, o = (double)other[i] - max_o, e = exp(b);

        zb += e;
        zo += exp(o);
        if (e != 0)
            cross += e * (b - o);
    }
    kl = cross / zb - log(zb) + log(zo);
    return kl < 0 ? 0 : kl; /* keeps NaN */
}

double ds_kld_row(const float *base, const float *other, int64_t n_vocab)
{
    assert(n_vocab > 0);
    return row_kl(base, other, n_vocab, (double)base[top1(base, n_vocab)],
                  (double)other[top1(other, n_vocab)]);
}

static q_status grow(ds_kld *k, q_err *err)
{
    size_t cap = k->cap ? k->cap : 512, bytes;
    float *v;

    if (!q_mul_ok(cap, 2, &cap) || !q_mul_ok(cap, sizeof *v, &bytes) || !(v = q_malloc(bytes)))
        return q_fail(err, Q_ENOMEM, "KL divergence: no memory for %zu positions", cap);
    if (k->n)
        memcpy(v, k->v, k->n * sizeof *v);
    q_free(k->v);
    k->v = v;
    k->cap = cap;
    return Q_OK;
}

q_status ds_kld_add(ds_kld *k, const float *base, const float *other, int64_t n_vocab, q_err *err)
{
    const int64_t tb = top1(base, n_vocab), to = top1(other, n_vocab);
    const double kl = row_kl(base, other, n_vocab, (double)base[tb], (double)other[to]);
    q_status st = Q_OK;

    if (isnan(kl))
        Q_FAIL(err, Q_EFORMAT,
               "KL divergence at position %zu is not a number: logits hold NaN or infinity", k->n);
    if (k->n == k->cap)
        Q_TRY(grow(k, err));
    k->v[k->n++] = (float)kl;
    k->n_same += tb == to;
    ds_sum_add(&k->sum, kl);
out:
    return st;
}

q_status ds_kld_summary(ds_kld_stats *out, const ds_kld *k, q_err *err)
{
    q_status st = Q_OK;
    double *v = NULL;
    size_t bytes;

    if (k->n == 0)
        Q_FAIL(err, Q_EARG, "KL divergence: no positions were added");
    if (!q_mul_ok(k->n, sizeof *v, &bytes) || !(v = q_malloc(bytes)))
        Q_FAIL(err, Q_ENOMEM, "KL divergence: no memory to sort %zu positions", k->n);
    for (size_t i = 0; i < k->n; i++)
        v[i] = (double)k->v[i];
    ds_sort(v, k->n);
    *out = (ds_kld_stats){ .n = k->n,
                           .mean = ds_sum_value(&k->sum) / (double)k->n,
                           .median = ds_quantile(v, k->n, 0.5),
                           .p90 = ds_quantile(v, k->n, 0.9),
                           .p99 = ds_quantile(v, k->n, 0.99),
                           .max = v[k->n - 1],
                           .same_top1 = (double)k->n_same / (double)k->n };
out:
    q_free(v);
    return st;
}

void ds_kld_free(ds_kld *k)
{
    q_free(k->v);
    memset(k, 0, sizeof *k);
}
