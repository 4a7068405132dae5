/* The search works on a sample of rows, copied together: errors of an a differ by parts of a
 * hundred, and rows enough to see that are few.  Powers are taken in double; sums over rows have a
 * fixed order, so the choice does not depend on the number of threads. */
#include "quant/awq.h"

#include <math.h>
#include <string.h>

#include "formats/base/q_mem.h"
#include "quant/linalg.h"
#include "quant/rtn.h"
#include "quant/rtn_group.h"

#define ROWS       256 /* scored */
#define MIN_FACTOR 1e-4
#define CLIP_STEPS 20
#define CLIP_MIN   0.5f
#define STRIP      64 /* rows of one thread's turn */

typedef struct sample {
    int64_t M, K;
    float *W, *E, *tmp; /* [M, K] */
    double *sum;        /* [M] */
} sample;

static void sample_free(sample *s)
{
    q_free(s->W);
    q_free(s->E);
    q_free(s->tmp);
    q_free(s->sum);
}

static int64_t sampled(int64_t i, int64_t M, int64_t N)
{
    return i * N / M;
}

static q_status sample_make(sample *s, const float *W, int64_t N, int64_t K, q_err *err)
{
    size_t n;

    *s = (sample){ .M = N < ROWS ? N : ROWS, .K = K };
    if (!q_mul_ok((size_t)s->M, (size_t)K * sizeof(float), &n) || !(s->W = q_malloc(n)) ||
        !(s->E = q_malloc(n)) || !(s->tmp = q_malloc(n)) ||
        !(s->sum = q_malloc((size_t)s->M * sizeof *s->sum)))
        return q_fail(err, Q_ENOMEM, "no memory to score %lld rows of %lld columns",
                      (long long)s->M, (long long)K);
    for (int64_t i = 0; i < s->M; i++)
        memcpy(s->W + i * K, W + sampled(i, s->M, N) * K, (size_t)K * sizeof *W);
    return Q_OK;
}

/* tr(E H E') */
static double energy(const sample *s, const float *E, const float *H)
{
    double sum = 0;

    qnt_quadratic(s->sum, E, s->M, H, s->K, s->tmp);
    for (int64_t i = 0; i < s->M; i++)
        sum += s->sum[i];
    return sum;
}

static double part(double error, double all)
{
    return error == 0 ? 0 : error / all;
}

q_status qnt_output_error(double *error, const float *V, const float *W, const float *H, int64_t N,
                          int64_t K, q_err *err)
{
    q_status st = Q_OK;
    sample s = { 0 };

    Q_TRY(sample_make(&s, W, N, K, err));
    for (int64_t i = 0; i < s.M; i++)
        for (int64_t k = 0; k < K; k++)
            s.E[i * K + k] = V[sampled(i, s.M, N) * K + k] - s.W[i * K + k];
    *error = part(energy(&s, s.E, H), energy(&s, s.W, H));
out:
    sample_free(&s);
    return st;
}

/* ---- factors --------------------------------------------------------------------------------- */

q_status qnt_awq_weight_mean(double *w, const float *W, int64_t N, int64_t K, int64_t group,
                             q_err *err)
{
    const int64_t size = group < 1 || group > K ? K : group;
    float *max = q_malloc((size_t)N * sizeof *max);

    if (!max)
        return q_fail(err, Q_ENOMEM, "no memory for %lld rows", (long long)N);
    for (int64_t k0 = 0; k0 < K; k0 += size) {
        const int64_t end = K - k0 < size ? K : k0 + size;

        for (int64_t n = 0; n < N; n++)
            max[n] = qnt_absmax(W + n * K + k0, end - k0);
        for (int64_t k = k0; k < end; k++)
            w[k] = 0;
        for (int64_t n = 0; n < N; n++)
            for (int64_t k = k0; k < end && max[n] > 0; k++)
                w[k] += fabs((double)W[n * K + k]) / ((double)max[n] * (double)N);
    }
    q_free(max);
    return Q_OK;
}

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

/* E = Q(W s) / s - W */
static q_status scaled_error(const sample *m, const double *s, const qnt_round_opts *o, q_err *err)
{
    q_status st = Q_OK;
    const int64_t K = m->K;
    qnt_tensor t = { 0 };

    Q_TRY(qnt_group_alloc(&t, o->bits, m->M, K, o->group, err));
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < m->M; i++) {
        float *e = m->E + i * K;
        const float *w = m->W + i * K;
        const qnt_row row = qnt_tensor_row(&t, i);

        for (int64_t k = 0; k < K; k++)
            e[k] = (float)((double)w[k] * s[k]);
        qnt_rtn_group(&t, i, e, o->sym);
        t.scheme->dequantize(e, &row, 0, K);
        for (int64_t k = 0; k < K; k++)
            e[k] = (float)((double)e[k] / s[k]) - w[k];
    }
out:
    qnt_tensor_free(&t);
    return st;
}

q_status qnt_awq_search(double *s, const float *W, const double *x, const double *w, const float *H,
                        int64_t N, int64_t K, const qnt_round_opts *o, qnt_awq_result *r,
                        q_err *err)
{
    q_status st = Q_OK;
    sample m = { 0 };
    double all, least = INFINITY;

    *r = (qnt_awq_result){ 0 };
    Q_TRY(sample_make(&m, W, N, K, err));
    all = energy(&m, m.W, H);
    for (int i = 0; i < 2 * QNT_AWQ_STEPS; i++) {
        const double alpha = (double)(i % QNT_AWQ_STEPS) / QNT_AWQ_STEPS;
        double error;

        factors(s, x, w, K, alpha, i >= QNT_AWQ_STEPS);
        Q_TRY(scaled_error(&m, s, o, err));
        error = energy(&m, m.E, H);
        r->curve[i / QNT_AWQ_STEPS][i % QNT_AWQ_STEPS] = part(error, all);
        if (error < least) { /* never for a NaN */
            least = error;
            r->alpha = alpha;
            r->by_weight = i >= QNT_AWQ_STEPS;
        }
    }
    r->nearest = r->curve[0][0];
    r->error = part(least, all);
    factors(s, x, w, K, r->alpha, r->by_weight);
out:
    sample_free(&m);
    return st;
}

/* ---- ranges of groups ------------------------------------------------------------------------ */

typedef struct clip_strip {
    float *e, *tmp; /* [STRIP, group] */
    double sum[STRIP], least[STRIP];
} clip_strip;

/* Rows n0 .. n0 + n - 1 of one group: every ratio, the best is kept. */
static void clip_group(qnt_tensor *t, const float *W, const float *H, int64_t n0, int64_t n,
                       int64_t g, int sym, clip_strip *p)
{
    const int64_t K = t->K, k0 = g * t->group, groups = qnt_n_groups(t->scheme, K, t->group);
    const int64_t size = K - k0 < t->group ? K - k0 : t->group;

    for (int64_t r = 0; r < n; r++)
        p->least[r] = INFINITY;
    for (int i = 0; i < CLIP_STEPS; i++) {
        const float ratio = 1 - (1 - CLIP_MIN) * (float)i / CLIP_STEPS;
        float scale[STRIP];
        uint8_t zero[STRIP];

        for (int64_t r = 0; r < n; r++) {
            const float *w = W + (n0 + r) * K + k0;

            qnt_group_fit(&scale[r], &zero[r], w, size, t->scheme->bits, sym, ratio);
            qnt_group_error(p->e + r * size, w, size, scale[r], zero[r], t->scheme->bits);
        }
        /* H of this group only: rows K apart */
        qnt_gemm_nt(n, size, size, p->e, size, H + k0 * K + k0, K, 0, p->tmp, size);
        for (int64_t r = 0; r < n; r++) {
            double sum = 0;

            for (int64_t k = 0; k < size; k++)
                sum += (double)p->e[r * size + k] * (double)p->tmp[r * size + k];
            if (sum < p->least[r]) {
                p->least[r] = sum;
                t->scale[(n0 + r) * groups + g] = scale[r];
                t->zero[(n0 + r) * groups + g] = zero[r];
            }
        }
    }
}

/* 0: out of memory */
static int clip_all(qnt_tensor *t, const float *W, const float *H, int sym)
{
    const int64_t groups = qnt_n_groups(t->scheme, t->K, t->group);
    int ok = 1;

#pragma omp parallel reduction(&& : ok)
    {
        clip_strip p = { .e = q_malloc((size_t)(STRIP * t->group) * sizeof *p.e),
                         .tmp = q_malloc((size_t)(STRIP * t->group) * sizeof *p.tmp) };

        ok = p.e && p.tmp;
#pragma omp for schedule(dynamic, 1)
        for (int64_t n0 = 0; n0 < t->N; n0 += STRIP)
            for (int64_t g = 0; ok && g < groups; g++)
                clip_group(t, W, H, n0, t->N - n0 < STRIP ? t->N - n0 : STRIP, g, sym, &p);
        q_free(p.e);
        q_free(p.tmp);
    }
    return ok;
}

q_status qnt_round_groups(qnt_tensor *t, const float *W, const float *H, int64_t N, int64_t K,
                          const qnt_round_opts *o, q_err *err)
{
    q_status st = Q_OK;
    int64_t bad;

    Q_TRY(qnt_group_alloc(t, o->bits, N, K, o->group, err));
    qnt_group_fit_all(t, W, NULL, o->sym);
    bad = qnt_group_bad_row(t);
    if (bad >= 0)
        Q_FAIL(err, Q_EFORMAT, "%s: row %lld needs a scale outside the range of f16", o->name,
               (long long)bad);
    if (o->clip && !clip_all(t, W, H, o->sym))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for ranges of groups", o->name);
    qnt_group_round_all(t, W);
out:
    if (st != Q_OK)
        qnt_tensor_free(t);
    return st;
}
