/* Likelihoods, perplexity, windows, KL divergence, sums and quantiles: values by hand, extreme
 * logits, and long double on the logits of a small model. */
#include "datasets/ppl.h"

#include <math.h>
#include <string.h>

#include "datasets/kld.h"
#include "formats/base/q_mem.h"
#include "tests/t.h"

static const float inf = INFINITY;

static void t_nll(void)
{
    static const float even[4] = { 3, 3, 3, 3 }, two[2] = { 0, 1 },
                       big[3] = { 1e30f, 1e30f, -1e30f };
    static const float cut[3] = { 0, -INFINITY, 0 }, up[2] = { INFINITY, 0 }, bad[2] = { 0, NAN };
    static const float none[2] = { -INFINITY, -INFINITY };

    T_NEAR(ds_nll(even, 4, 2), log(4), 1e-15);
    T_NEAR(ds_nll(even, 1, 0), 0, 0);
    T_NEAR(ds_nll(two, 2, 0), 1.3132616875182228, 1e-15); /* log(1 + e) */
    T_NEAR(ds_nll(two, 2, 1), 0.3132616875182228, 1e-15);
    T_NEAR(ds_nll(big, 3, 1), log(2), 1e-15);
    T_NEAR(ds_nll(big, 3, 2), 2e30, 1e24);
    T_NEAR(ds_nll(cut, 3, 0), log(2), 1e-15);
    T_TRUE(ds_nll(cut, 3, 1) == (double)inf);
    T_TRUE(isnan(ds_nll(up, 2, 1)));
    T_TRUE(isnan(ds_nll(bad, 2, 0)));
    T_TRUE(isnan(ds_nll(none, 2, 0)));
}

/* the same in long double, straight from the definition */
static double nll_long(const float *x, int64_t n, int32_t target)
{
    long double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += expl((long double)x[i] - (long double)x[target]);
    return (double)logl(sum);
}

static double kl_long(const float *b, const float *o, int64_t n)
{
    long double zb = 0, zo = 0, kl = 0;

    for (int64_t i = 0; i < n; i++) {
        zb += expl((long double)b[i]);
        zo += expl((long double)o[i]);
    }
    for (int64_t i = 0; i < n; i++) {
        const long double lp = (long double)b[i] - logl(zb), lq = (long double)o[i] - logl(zo);

        kl += expl(lp) * (lp - lq);
    }
    return (double)kl;
}

static void t_real_logits(void)
{
    int64_t shape[2];
    float *x = t_npy_f32(T_SHARED("golden/qwen-tiny/logits_0.npy"), shape, 2);
    double worst = 0;

    T_INT(shape[0], 8);
    for (int64_t r = 0; r < shape[0]; r++) {
        const float *row = x + r * shape[1], *next = x + (r + 1) % shape[0] * shape[1];
        int32_t target = 0;

        for (; target < shape[1]; target += 997)
            worst =
                fmax(worst, fabs(ds_nll(row, shape[1], target) - nll_long(row, shape[1], target)));
        T_NEAR(ds_kld_row(row, next, shape[1]), kl_long(row, next, shape[1]), 1e-11);
        T_NEAR(ds_kld_row(row, row, shape[1]), 0, 0);
    }
    T_NEAR(worst, 0, 1e-12);
    q_free(x);
}

static void t_ppl(void)
{
    ds_ppl p = { 0 };

    T_TRUE(isnan(ds_ppl_value(&p)));
    ds_ppl_add(&p, log(2));
    ds_ppl_add(&p, log(8));
    T_INT(p.n, 2);
    T_NEAR(ds_ppl_mean(&p), log(4), 1e-15);
    T_NEAR(ds_ppl_value(&p), 4, 1e-14);
    ds_ppl_add(&p, (double)inf);
    T_INT(p.n_not_finite, 1);
    T_TRUE(ds_ppl_value(&p) == (double)inf);
    ds_ppl_add(&p, (double)NAN);
    T_INT(p.n_not_finite, 2);
    T_TRUE(isnan(ds_ppl_value(&p)));
}

static void t_windows(void)
{
    ds_windows w;
    q_err err = { 0 };

    T_OK(ds_ppl_windows(&w, 299078, 2048, &err), err); /* WikiText-2 test: data/text/README.md */
    T_INT(w.n, 146);
    T_INT(w.n_rest, 70);
    T_INT(w.n_pred, 146 * 2047);
    T_OK(ds_ppl_windows(&w, 4, 2, &err), err);
    T_INT(w.n, 2);
    T_INT(w.n_pred, 2);
    T_INT(w.n_rest, 0);
    T_OK(ds_ppl_windows(&w, INT64_MAX, INT64_MAX, &err), err);
    T_INT(w.n_pred, INT64_MAX - 1);
    T_ERR(ds_ppl_windows(&w, 100, 1, &err), err, Q_EARG, "window of 1 tokens, wanted 2 or more");
    T_ERR(ds_ppl_windows(&w, 511, 512, &err), err, Q_ESHAPE,
          "text has 511 tokens, one window needs 512");
    T_ERR(ds_ppl_windows(&w, 0, 2, &err), err, Q_ESHAPE, "text has 0 tokens");
}

static void t_sum(void)
{
    ds_sum s = { 0 };

    ds_sum_add(&s, 1);
    ds_sum_add(&s, 1e100);
    ds_sum_add(&s, 1);
    ds_sum_add(&s, -1e100);
    T_NEAR(ds_sum_value(&s), 2, 0);
    s = (ds_sum){ 0 };
    for (int i = 0; i < 1000000; i++)
        ds_sum_add(&s, 0.1);
    T_NEAR(ds_sum_value(&s), 100000, 1e-10); /* a plain sum is off by 1e-6 */
    ds_sum_add(&s, -(double)inf);
    ds_sum_add(&s, 1);
    T_TRUE(ds_sum_value(&s) == -(double)inf);
}

static void t_quantile(void)
{
    double v[5] = { 3, 1, 2, 5, 4 };

    ds_sort(v, 5);
    T_NEAR(v[0], 1, 0);
    T_NEAR(v[4], 5, 0);
    T_NEAR(ds_quantile(v, 5, 0), 1, 0);
    T_NEAR(ds_quantile(v, 5, 0.5), 3, 0);
    T_NEAR(ds_quantile(v, 5, 0.9), 4.6, 1e-15); /* position 3.6 */
    T_NEAR(ds_quantile(v, 5, 1), 5, 0);
    T_NEAR(ds_quantile(v, 1, 0.99), 1, 0);
    T_NEAR(ds_quantile(v, 4, 0.5), 2.5, 0);
    v[4] = (double)inf;
    T_NEAR(ds_quantile(v, 5, 0.75), 4, 0);
    T_TRUE(ds_quantile(v, 5, 0.99) == (double)inf);
}

static void t_kld_row(void)
{
    static const float half[2] = { 0, 0 }, third[2] = { 0, 0.6931471805599453f }; /* 1/3, 2/3 */
    static const float first[2] = { 0, -INFINITY }, shifted[2] = { 7, 7 };

    /* KL(1/2,1/2 || 1/3,2/3) = log(3/2)/2 + log(3/4)/2 */
    T_NEAR(ds_kld_row(half, third, 2), 0.5 * log(1.5) + 0.5 * log(0.75), 1e-8);
    T_NEAR(ds_kld_row(third, half, 2), log(2.0 / 3) / 3 + 2 * log(4.0 / 3) / 3, 1e-8);
    T_NEAR(ds_kld_row(half, shifted, 2), 0, 0);
    T_NEAR(ds_kld_row(first, half, 2), log(2), 1e-15);
    T_NEAR(ds_kld_row(first, first, 2), 0, 0);
    T_TRUE(ds_kld_row(half, first, 2) == (double)inf);
}

static void t_kld(void)
{
    ds_kld k = { 0 };
    ds_kld_stats s;
    q_err err = { 0 };
    float a[3] = { 0, 0, -1 }, b[3] = { 0, 0, -1 };
    const float nan_row[3] = { 0, NAN, 0 };
    double sum = 0, v[2000];

    T_ERR(ds_kld_summary(&s, &k, &err), err, Q_EARG, "no positions were added");
    for (int i = 0; i < 2000; i++) {
        b[1] = (float)i * 1e-3f; /* tie at 0: the lower token wins in both */
        v[i] = ds_kld_row(a, b, 3);
        sum += v[i];
        T_OK(ds_kld_add(&k, a, b, 3, &err), err);
    }
    T_ERR(ds_kld_add(&k, a, nan_row, 3, &err), err, Q_EFORMAT,
          "position 2000 is not a number: logits hold NaN or infinity");
    T_ERR(ds_kld_add(&k, nan_row, a, 3, &err), err, Q_EFORMAT, "position 2000");
    T_OK(ds_kld_summary(&s, &k, &err), err);
    T_INT(s.n, 2000);
    T_NEAR(s.mean, sum / 2000, 1e-15);
    T_NEAR(s.max, v[1999], 1e-7);
    T_NEAR(s.same_top1, 1.0 / 2000, 1e-15);
    /* v rises with i, so order statistics are known */
    T_NEAR(s.median, (v[999] + v[1000]) / 2, 1e-7);
    T_NEAR(s.p90, v[1799] + 0.1 * (v[1800] - v[1799]), 1e-7);
    T_NEAR(s.p99, v[1979] + 0.01 * (v[1980] - v[1979]), 1e-7);
    T_TRUE(k.v[0] == 0);
    ds_kld_free(&k);
    T_INT(k.n, 0);
}

static const t_case cases[] = { T(t_nll),      T(t_real_logits), T(t_ppl), T(t_windows), T(t_sum),
                                T(t_quantile), T(t_kld_row),     T(t_kld), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
