/* Sums over rows go in the order of the rows, so the choice does not depend on threads. */
#include "quant/smooth_search.h"

#include <math.h>
#include <string.h>

#include "quant/w8a8.h"

enum { STEPS = 20, ROWS = 256 };

typedef struct scored {
    int64_t R, K;
    const qnt_dev *d;
    float *W, *D;     /* [R, K] rows of the weight, and what they lose */
    float *on, *tmp;  /* the same as D, and scratch; device */
    double *s, *quad; /* [K], [R] */
} scored;

static void close_scored(scored *c)
{
    q_free(c->W);
    q_free(c->D);
    c->d->ops->free(c->d, c->on);
    c->d->ops->free(c->d, c->tmp);
    q_free(c->s);
    q_free(c->quad);
}

static q_status open_scored(scored *c, const qnt_dev *d, const float *W, int64_t N, int64_t K,
                            q_err *err)
{
    q_status st = Q_OK;
    const size_t n = (size_t)(N < ROWS ? N : ROWS) * (size_t)K;

    *c = (scored){ .d = d,
                   .R = N < ROWS ? N : ROWS,
                   .K = K,
                   .W = q_malloc(n * sizeof(float)),
                   .D = q_malloc(n * sizeof(float)),
                   .s = q_malloc((size_t)K * sizeof(double)),
                   .quad = q_malloc(ROWS * sizeof(double)) };
    if (!c->W || !c->D || !c->s || !c->quad)
        Q_FAIL(err, Q_ENOMEM, "no memory to search the exponent of %lld channels", (long long)K);
    Q_TRY(qnt_dev_alloc(d, c->R, K, sizeof *c->on, &c->on, "scored rows", err));
    Q_TRY(qnt_dev_alloc(d, c->R, K, sizeof *c->tmp, &c->tmp, "scored rows", err));
    for (int64_t i = 0; i < c->R; i++)
        memcpy(c->W + i * K, W + i * N / c->R * K, (size_t)K * sizeof *W);
out:
    return st;
}

/* D = Q(W s) / s - W */
static void weight_error(const scored *c)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < c->R; i++) {
        const float *w = c->W + i * c->K;
        float *d = c->D + i * c->K;
        double max = 0;

        for (int64_t k = 0; k < c->K; k++)
            max = fmax(max, fabs((double)w[k] * c->s[k]));
        for (int64_t k = 0; k < c->K; k++) {
            const double step = max > 0 ? max / QNT_W8A8_MAX : 1;

            d[k] =
                (float)(nearbyint((double)w[k] * c->s[k] / step) * step / c->s[k] - (double)w[k]);
        }
    }
}

/* Mean of step^2 over the tokens of the sample. */
static double mean_step(const scored *c, const float *x, int64_t n)
{
    double sum = 0;

    for (int64_t t = 0; t < n; t++) {
        double widest = 0;

        for (int64_t k = 0; k < c->K; k++)
            widest = fmax(widest, fabs((double)x[t * c->K + k]) / c->s[k]);
        sum += widest * widest;
    }
    return sum / (double)n / (QNT_W8A8_MAX * QNT_W8A8_MAX);
}

static q_status score(double *out, const scored *c, const qnt_smooth_inputs *in, fmt_role role,
                      q_err *err)
{
    q_status st = Q_OK;
    double weights = 0, gain = 0;

    weight_error(c);
    Q_TRY(c->d->ops->put(c->d, c->on, c->D, (size_t)(c->R * c->K) * sizeof *c->D, err));
    Q_TRY(c->d->ops->quadratic(c->d, c->quad, c->on, c->R, in->H[role], c->K, c->tmp, err));
    for (int64_t i = 0; i < c->R; i++)
        weights += c->quad[i];
    for (int64_t i = 0; i < c->R; i++)
        for (int64_t k = 0; k < c->K; k++) {
            const double w = (double)c->W[i * c->K + k] * c->s[k];

            gain += w * w;
        }
    *out = weights + (double)in->n * mean_step(c, in->x[role], in->n_x) / 12 * gain;
out:
    return st;
}

static q_status search_role(double *alpha, const qnt_layer *l, const qnt_ranges *r, fmt_role role,
                            const qnt_smooth_inputs *in, const fmt_model *m, q_err *err)
{
    q_status st = Q_OK;
    const fmt_role_row *row = fmt_role_get(role);
    scored c = { .d = &in->d };
    double least = INFINITY;

    Q_TRY(open_scored(&c, &in->d, l->w[role], fmt_role_rows(row, m), fmt_dim_size(row->cols, m),
                      err));
    *alpha = 0.5; /* of an input that was always zero, too */
    for (int i = 0; i <= STEPS; i++) {
        double e;

        Q_TRY(qnt_smooth_factors(c.s, l, r, role, m, (double)i / STEPS, err));
        Q_TRY(score(&e, &c, in, role, err));
        if (e < least && e > 0) {
            least = e;
            *alpha = (double)((float)i / STEPS); /* what a file keeps of it */
        }
    }
    Q_TRY(qnt_smooth_factors(c.s, l, r, role, m, *alpha, err));
    qnt_smooth_apply(l, r, role, c.s, m);
out:
    close_scored(&c);
    return st;
}

q_status qnt_smooth_search(qnt_ranges *r, const qnt_layer *l, const qnt_smooth_inputs *in,
                           const fmt_model *m, q_err *err)
{
    q_status st = Q_OK;
    qnt_ranges now = { 0 }; /* of the layer as far as it is smoothed */

    Q_TRY(qnt_ranges_alloc(&now, m, err));
    qnt_ranges_join(&now, r, m);
    for (int i = 0; i < QNT_SMOOTHED; i++) {
        const fmt_role role = qnt_smooth_order[i];

        Q_TRY(search_role(&r->alpha[role], l, &now, role, in, m, err));
    }
    r->searched = 1;
out:
    qnt_ranges_free(&now);
    return st;
}
