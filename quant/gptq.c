/* The solver: what the columns are and how they are ordered, damped and factored.  The arithmetic
 * is that of a device (device.h): columns_host.c, runtime/cuda/quant_columns.cu.
 *
 * Factorization takes f32, which needs the least eigenvalue of the damped H to be about K / 2^24 of
 * the largest.  A few inputs with very large moments that go together leave less, and damping by
 * more of the mean would cost all other inputs accuracy: so f64 comes first, on the host for every
 * device, and more damping only where H is not positive definite at all. */
#include "quant/gptq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_mem.h"
#include "quant/linalg.h"

#define DAMP     0.01
#define DAMP_MAX 10.0
#define BAND     64 /* rows between a device and the host at a time */

typedef struct solver {
    const qnt_dev *d;
    const qnt_gptq_opts *o;
    int64_t N, K;
    float *W;       /* device */
    float *U;       /* [K, K] in the order of the columns; device */
    float *diag;    /* [K] of H, natural order */
    double *damped; /* [K] in the order of the columns */
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

/* s->damped; dead columns get a diagonal of 1. */
static void set_damped(const solver *s, double damp)
{
    double mean = 0;

    for (int64_t k = 0; k < s->K; k++)
        mean += (s->diag[k] == 0 ? 1 : (double)s->diag[k]) / (double)s->K;
    for (int64_t i = 0; i < s->K; i++) {
        const float own = s->diag[s->order[i]];

        s->damped[i] = (own == 0 ? 1 : (double)own) + damp * mean;
    }
}

/* U = the damped H in the order of the columns; diag [K] is scratch. */
static q_status fill(const solver *s, const float *H, float *diag, q_err *err)
{
    for (int64_t i = 0; i < s->K; i++)
        diag[i] = (float)s->damped[i];
    return s->d->ops->arrange(s->d, s->U, H, s->K, s->order, diag, err);
}

/* A = U in f64, from the host, band by band; the diagonal before it was rounded. */
static q_status widen(const solver *s, double *A, float *band, q_err *err)
{
    q_status st = Q_OK;
    const int64_t K = s->K;

    for (int64_t i0 = 0; i0 < K; i0 += BAND) {
        const int64_t n = K - i0 < BAND ? K - i0 : BAND;

        Q_TRY(s->d->ops->get(s->d, band, s->U + i0 * K, (size_t)(n * K) * sizeof *band, err));
        for (int64_t i = i0; i < i0 + n; i++) {
            for (int64_t j = i + 1; j < K; j++) {
                A[i * K + j] = (double)band[(i - i0) * K + j];
                if (!isfinite(A[i * K + j]))
                    Q_FAIL(err, Q_EFORMAT,
                           "%s: the second moment of inputs %d and %d is %g: is the model damaged?",
                           s->o->name, s->order[i], s->order[j], A[i * K + j]);
            }
            A[i * K + i] = s->damped[i];
        }
    }
out:
    return st;
}

/* U = A; *ok 0: what it has cannot be said in f32. */
static q_status narrow(const solver *s, const double *A, float *band, int *ok, q_err *err)
{
    q_status st = Q_OK;
    const int64_t K = s->K;

    for (int64_t i0 = 0; i0 < K; i0 += BAND) {
        const int64_t n = K - i0 < BAND ? K - i0 : BAND;

        for (int64_t i = i0; i < i0 + n; i++) {
            for (int64_t j = 0; j < K; j++)
                band[(i - i0) * K + j] = (float)A[i * K + j];
            *ok &= isfinite(band[(i - i0) * K + i]) && band[(i - i0) * K + i] > 0;
        }
        Q_TRY(s->d->ops->put(s->d, s->U + i0 * K, band, (size_t)(n * K) * sizeof *band, err));
    }
out:
    return st;
}

/* Where f32 has failed: the same matrix in f64, on the host.  It is rare, so its array is not kept,
 * and no device has a factorization of its own for it. */
static q_status factor_f64(const solver *s, const float *H, float *diag, int *ok, q_err *err)
{
    q_status st = Q_OK;
    const int64_t K = s->K;
    const qnt_dev host = qnt_dev_host();
    double *A = NULL;
    float *band = NULL;

    Q_TRY(qnt_dev_alloc(&host, K, K, sizeof *A, &A, "second moments in f64", err));
    Q_TRY(qnt_dev_alloc(&host, BAND, K, sizeof *band, &band, "rows of second moments", err));
    Q_TRY(fill(s, H, diag, err));
    Q_TRY(widen(s, A, band, err));
    Q_TRY(qnt_factor_f64(A, K, ok, err));
    if (*ok)
        Q_TRY(narrow(s, A, band, ok, err));
out:
    q_free(A);
    q_free(band);
    return st;
}

static q_status factor(const solver *s, const float *H, qnt_gptq_result *r, q_err *err)
{
    q_status st = Q_OK;
    float *diag = q_malloc((size_t)s->K * sizeof *diag);
    int ok = 0;

    if (!diag)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %lld columns", s->o->name, (long long)s->K);
    for (r->damp = s->o->damp > 0 ? s->o->damp : DAMP; r->damp <= DAMP_MAX * 1.001; r->damp *= 10) {
        if (s->o->stop && *s->o->stop)
            Q_FAIL(err, Q_ECANCEL, "stopped by a signal");
        set_damped(s, r->damp);
        Q_TRY(fill(s, H, diag, err));
        Q_TRY(s->d->ops->factor(s->d, s->U, s->K, &ok, err));
        r->f64 = !ok;
        if (!ok)
            Q_TRY(factor_f64(s, H, diag, &ok, err));
        if (ok)
            goto out;
    }
    Q_FAIL(err, Q_EFAIL,
           "%s: the second moments of its %lld inputs cannot be factored, even damped by %g of "
           "their mean: calibrate on more text",
           s->o->name, (long long)s->K, DAMP_MAX);
out:
    q_free(diag);
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
