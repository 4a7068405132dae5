/* The search works on a sample of rows, copied together: errors of an a differ by parts of a
 * hundred, and rows enough to see that are few.  Powers are taken in double on the host; the rest
 * is the arithmetic of a device (device.h).
 *
 * What several a lose lies in one matrix, [batch M, K], for one product with H: M rows alone leave
 * half of a GPU, or all but four threads of a host, idle.  Sums of a row do not depend on the
 * others: on a host because M is a multiple of the rows that qnt_quadratic takes at a time. */
#include "quant/awq.h"

#include <math.h>

#include "formats/base/q_mem.h"

#define ROWS       256 /* scored */
#define BATCH      8   /* a's of one product */
#define MIN_FACTOR 1e-4

typedef struct sample {
    const qnt_dev *d;
    int64_t M, K, batch;
    float *W;       /* [M, K] device */
    float *E, *tmp; /* [batch M, K] device */
    double *sum;    /* [batch M] */
} sample;

static void sample_free(sample *s)
{
    s->d->ops->free(s->d, s->W);
    s->d->ops->free(s->d, s->E);
    s->d->ops->free(s->d, s->tmp);
    q_free(s->sum);
}

/* M rows of W [N, K], evenly spread */
static q_status take_rows(const sample *s, float *to, const float *W, int64_t N, q_err *err)
{
    q_status st = Q_OK;
    const int64_t M = s->M, K = s->K;

    for (int64_t i = 0, n; i < M; i += n) {
        n = N == M ? M : 1; /* all of them at once */
        Q_TRY(
            s->d->ops->copy(s->d, to + i * K, W + i * N / M * K, (size_t)(n * K) * sizeof *W, err));
    }
out:
    return st;
}

static q_status sample_make(sample *s, const qnt_dev *d, const float *W, int64_t N, int64_t K,
                            int64_t batch, q_err *err)
{
    q_status st = Q_OK;
    const int64_t M = N < ROWS ? N : ROWS;

    *s = (sample){ .d = d, .M = M, .K = K, .batch = batch };
    Q_TRY(qnt_dev_alloc(d, M, K, sizeof *s->W, &s->W, "scored rows", err));
    Q_TRY(qnt_dev_alloc(d, batch * M, K, sizeof *s->E, &s->E, "scored rows", err));
    Q_TRY(qnt_dev_alloc(d, batch * M, K, sizeof *s->tmp, &s->tmp, "scored rows", err));
    if (!(s->sum = q_malloc((size_t)(batch * M) * sizeof *s->sum)))
        Q_FAIL(err, Q_ENOMEM, "no memory to score %lld rows", (long long)(batch * M));
    Q_TRY(take_rows(s, s->W, W, N, err));
out:
    return st;
}

/* sum[i] = tr(E_i H E_i') of n matrices [M, K], one behind the other */
static q_status energies(double *sum, const sample *s, const float *E, int n, const float *H,
                         q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(s->d->ops->quadratic(s->d, s->sum, E, n * s->M, H, s->K, s->tmp, err));
    for (int i = 0; i < n; i++) {
        sum[i] = 0;
        for (int64_t r = 0; r < s->M; r++)
            sum[i] += s->sum[i * s->M + r];
    }
out:
    return st;
}

static double part(double error, double all)
{
    return error == 0 ? 0 : error / all;
}

q_status qnt_output_error(const qnt_dev *d, double *error, const float *V, const float *W,
                          const float *H, int64_t N, int64_t K, q_err *err)
{
    q_status st = Q_OK;
    sample s = { 0 };
    double lost, all;

    Q_TRY(sample_make(&s, d, W, N, K, 1, err));
    Q_TRY(take_rows(&s, s.E, V, N, err));
    Q_TRY(d->ops->subtract(d, s.E, s.W, s.M * K, err));
    Q_TRY(energies(&lost, &s, s.E, 1, H, err));
    Q_TRY(energies(&all, &s, s.W, 1, H, err));
    *error = part(lost, all);
out:
    sample_free(&s);
    return st;
}

q_status qnt_nearest_error(const qnt_dev *d, double *error, const float *W, const float *H,
                           int64_t N, int64_t K, const qnt_round_opts *o, q_err *err)
{
    q_status st = Q_OK;
    sample s = { 0 };
    qnt_tensor t = { 0 };
    double lost, all;

    Q_TRY(sample_make(&s, d, W, N, K, 1, err));
    Q_TRY(qnt_dev_tensor(d, &t, o->bits, s.M, K, o->group, err));
    Q_TRY(d->ops->scaled_error(d, s.E, s.W, &t, NULL, o->sym, err));
    Q_TRY(energies(&lost, &s, s.E, 1, H, err));
    Q_TRY(energies(&all, &s, s.W, 1, H, err));
    *error = part(lost, all);
out:
    qnt_dev_tensor_free(d, &t);
    sample_free(&s);
    return st;
}

/* ---- factors --------------------------------------------------------------------------------- */

static void factors(double *s, const double *x, const double *w, int64_t K, double alpha,
                    int by_weight)
{
    double min = INFINITY, max = 0, middle;

    for (int64_t k = 0; k < K; k++) {
        s[k] = pow(x[k], alpha);
        if (by_weight)
            s[k] /= pow(w[k] > 0 ? w[k] : 1, 1 - alpha);
        s[k] = s[k] > MIN_FACTOR ? s[k] : MIN_FACTOR;
        min = s[k] < min ? s[k] : min;
        max = s[k] > max ? s[k] : max;
    }
    middle = sqrt(min * max);
    for (int64_t k = 0; k < K; k++)
        s[k] /= middle;
}

/* a's of one product: what they need stays inside what GPTQ's U would, [K, K]. */
static int64_t batch_of(int64_t N, int64_t K)
{
    const int64_t n = N < ROWS ? 1 : K / (2 * ROWS);

    return n < 1 ? 1 : n > BATCH ? BATCH : n;
}

/* The i-th choice. */
static void choose(double *s, const double *x, const double *w, int64_t K, int i)
{
    factors(s, x, w, K, (double)(i % QNT_AWQ_STEPS) / QNT_AWQ_STEPS, i >= QNT_AWQ_STEPS);
}

q_status qnt_awq_search(const qnt_dev *d, double *s, const float *W, const double *x,
                        const double *w, const float *H, int64_t N, int64_t K,
                        const qnt_round_opts *o, qnt_awq_result *r, q_err *err)
{
    enum { CHOICES = 2 * QNT_AWQ_STEPS };
    q_status st = Q_OK;
    sample m = { 0 };
    qnt_tensor t = { 0 };
    double all, error[CHOICES], least = INFINITY;
    int best = 0;

    *r = (qnt_awq_result){ 0 };
    Q_TRY(sample_make(&m, d, W, N, K, batch_of(N, K), err));
    Q_TRY(qnt_dev_tensor(d, &t, o->bits, m.M, K, o->group, err));
    Q_TRY(energies(&all, &m, m.W, 1, H, err));
    for (int i = 0, n; i < CHOICES; i += n) {
        n = CHOICES - i < m.batch ? CHOICES - i : (int)m.batch;
        for (int j = 0; j < n; j++) {
            choose(s, x, w, K, i + j);
            Q_TRY(d->ops->scaled_error(d, m.E + j * m.M * K, m.W, &t, s, o->sym, err));
        }
        Q_TRY(energies(error + i, &m, m.E, n, H, err));
    }
    for (int i = 0; i < CHOICES; i++) {
        r->curve[i / QNT_AWQ_STEPS][i % QNT_AWQ_STEPS] = part(error[i], all);
        if (error[i] < least) { /* never for a NaN */
            least = error[i];
            best = i;
        }
    }
    r->alpha = (double)(best % QNT_AWQ_STEPS) / QNT_AWQ_STEPS;
    r->by_weight = best >= QNT_AWQ_STEPS;
    r->nearest = r->curve[0][0];
    r->error = part(least, all);
    choose(s, x, w, K, best);
out:
    qnt_dev_tensor_free(d, &t);
    sample_free(&m);
    return st;
}

q_status qnt_round_groups(const qnt_dev *d, qnt_tensor *t, const float *W, const float *H,
                          float *means, int64_t N, int64_t K, const qnt_round_opts *o, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(qnt_dev_tensor(d, t, o->bits, N, K, o->group, err));
    Q_TRY(d->ops->fit(d, t, W, &(qnt_group_opts){ .sym = o->sym }, err));
    if (o->clip)
        Q_TRY(d->ops->clip(d, t, W, H, o->sym, err));
    Q_TRY(d->ops->round(d, t, W, err));
    if (means)
        Q_TRY(d->ops->means(d, means, t, err));
    Q_TRY(qnt_dev_tensor_fetch(d, t, o->name, err));
out:
    if (st != Q_OK)
        qnt_dev_tensor_free(d, t);
    return st;
}
