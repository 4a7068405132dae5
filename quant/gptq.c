/* The solver: what the columns are and how they are ordered, damped and factored.  The arithmetic
 * is that of a device (device.h): columns_host.c, runtime/cuda/quant_columns.cu. */
#include "quant/gptq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_mem.h"

#define DAMP     0.01
#define DAMP_MAX 10.0

typedef struct solver {
    const qnt_dev *d;
    const qnt_gptq_opts *o;
    int64_t N, K;
    float *W;       /* device */
    float *U;       /* [K, K] in the order of the columns; device */
    float *diag;    /* [K] of H, natural order */
    float *damped;  /* [K] in the order of the columns */
    int32_t *order; /* [K] natural column at each place */
} solver;

/* ---- the order and U ------------------------------------------------------------------------- */

typedef struct place {
    float moment;
    int32_t k;
} place;

static int by_moment(const void *a, const void *b)
{
    const place *x = a, *y = b;

    if (x->moment != y->moment)
        return x->moment < y->moment ? 1 : -1;
    return x->k < y->k ? -1 : 1;
}

static q_status make_order(solver *s, q_err *err)
{
    place *p = q_malloc((size_t)s->K * sizeof *p);

    if (!p)
        return q_fail(err, Q_ENOMEM, "%s: no memory for %lld columns", s->o->name, (long long)s->K);
    for (int64_t k = 0; k < s->K; k++)
        p[k] = (place){ s->diag[k], (int32_t)k };
    if (s->o->act_order)
        qsort(p, (size_t)s->K, sizeof *p, by_moment);
    for (int64_t k = 0; k < s->K; k++)
        s->order[k] = p[k].k;
    q_free(p);
    return Q_OK;
}

/* U = the damped H in the order of the columns; dead columns get a diagonal of 1. */
static q_status fill(const solver *s, const float *H, double damp, q_err *err)
{
    double mean = 0;

    for (int64_t k = 0; k < s->K; k++)
        mean += (s->diag[k] == 0 ? 1 : (double)s->diag[k]) / (double)s->K;
    for (int64_t i = 0; i < s->K; i++) {
        const float own = s->diag[s->order[i]];

        s->damped[i] = (float)((own == 0 ? 1 : (double)own) + damp * mean);
    }
    return s->d->ops->arrange(s->d, s->U, H, s->K, s->order, s->damped, err);
}

static q_status factor(const solver *s, const float *H, qnt_gptq_result *r, q_err *err)
{
    q_status st = Q_OK;
    int ok = 0;

    for (r->damp = s->o->damp > 0 ? s->o->damp : DAMP; r->damp <= DAMP_MAX * 1.001; r->damp *= 10) {
        Q_TRY(fill(s, H, r->damp, err));
        Q_TRY(s->d->ops->factor(s->d, s->U, s->K, &ok, err));
        if (ok)
            goto out;
    }
    Q_FAIL(err, Q_EFAIL,
           "%s: the second moments of its %lld inputs cannot be factored, even damped by %g of "
           "their mean: calibrate on more text",
           s->o->name, (long long)s->K, DAMP_MAX);
out:
    return st;
}

/* The diagonal; weights of dead columns become zero. */
static q_status look_at(const solver *s, const float *H, int64_t *dead, q_err *err)
{
    q_status st = Q_OK;
    double *live = q_malloc((size_t)s->K * sizeof *live);

    if (!live)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %lld columns", s->o->name, (long long)s->K);
    Q_TRY(s->d->ops->diagonal(s->d, s->diag, H, s->K, err));
    for (int64_t k = 0; k < s->K; k++) {
        if (!isfinite(s->diag[k]) || s->diag[k] < 0)
            Q_FAIL(err, Q_EFORMAT,
                   "%s: the second moment of input %lld is %g: is the model damaged?", s->o->name,
                   (long long)k, (double)s->diag[k]);
        live[k] = s->diag[k] != 0;
        *dead += s->diag[k] == 0;
    }
    if (*dead > 0)
        Q_TRY(s->d->ops->scale_columns(s->d, s->W, s->N, s->K, live, err));
out:
    q_free(live);
    return st;
}

static q_status alloc_solver(solver *s, q_err *err)
{
    q_status st = Q_OK;
    const size_t K = (size_t)s->K;

    s->diag = q_malloc(K * sizeof *s->diag);
    s->damped = q_malloc(K * sizeof *s->damped);
    s->order = q_malloc(K * sizeof *s->order);
    if (!s->diag || !s->damped || !s->order)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %zu columns", s->o->name, K);
    Q_TRY(qnt_dev_alloc(s->d, s->K, s->K, sizeof *s->U, &s->U, "an inverse", err));
out:
    return st;
}

q_status qnt_gptq_solve(const qnt_dev *d, qnt_tensor *t, float *W, const float *H, int64_t N,
                        int64_t K, const qnt_gptq_opts *o, qnt_gptq_result *r, q_err *err)
{
    q_status st = Q_OK;
    solver s = { .d = d, .o = o, .N = N, .K = K, .W = W };

    *r = (qnt_gptq_result){ 0 };
    Q_TRY(qnt_dev_tensor(d, t, o->bits, N, K, o->group, err));
    Q_TRY(alloc_solver(&s, err));
    Q_TRY(look_at(&s, H, &r->dead, err));
    Q_TRY(make_order(&s, err));
    Q_TRY(factor(&s, H, r, err));
    Q_TRY(d->ops->solve(d,
                        &(qnt_columns){ .t = t,
                                        .W = W,
                                        .U = s.U,
                                        .order = s.order,
                                        .diag = s.diag,
                                        .sym = o->sym,
                                        .plain_scale = o->plain_scale,
                                        .is_static = o->act_order || o->static_scale,
                                        .stop = o->stop },
                        err));
    if (o->stop && *o->stop)
        Q_FAIL(err, Q_ECANCEL, "stopped by a signal");
    Q_TRY(qnt_dev_tensor_fetch(d, t, o->name, err));
out:
    q_free(s.diag);
    q_free(s.damped);
    q_free(s.order);
    d->ops->free(d, s.U);
    if (st != Q_OK)
        qnt_dev_tensor_free(d, t);
    return st;
}
