/* Factors in double, each product rounded to f32 once: the folded layer differs from the given one
 * by half a unit in the last place of every weight.  Loops over rows or blocks of columns run in
 * parallel; maxima and element-wise products do not depend on how they are shared out. */
#include "quant/smooth.h"

#include <assert.h>
#include <math.h>

#include "formats/base/q_mem.h"

#define BLOCK 512 /* columns of one thread's turn: their maxima stay in the first-level cache */
#define MIN_W 1e-5
#define MIN_S 1e-5

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static q_status check_values(const float *v, int64_t n, const char *role, const char *what,
                             int64_t layer, q_err *err)
{
    for (int64_t i = 0; i < n; i++)
        if (!(v[i] >= 0 && isfinite(v[i])))
            return q_fail(err, Q_EFORMAT,
                          "ranges of layer %lld: %s of %s is %g in channel %lld, wanted a finite "
                          "magnitude: run the calibration again",
                          (long long)layer, what, role, (double)v[i], (long long)i);
    return Q_OK;
}

q_status qnt_smooth_check(const qnt_ranges *r, const fmt_model *m, int64_t layer, q_err *err)
{
    q_status st = Q_OK;

    for (int i = 0; i < FMT_ROLES; i++) {
        const fmt_role_row *role = fmt_role_get((fmt_role)i);

        if (!role->quant)
            continue;
        Q_TRY(check_values(r->in[i], fmt_dim_size(role->cols, m), role->name, "input", layer, err));
        Q_TRY(check_values(r->out[i], fmt_role_rows(role, m), role->name, "output", layer, err));
    }
    Q_TRY(check_values(r->k, m->n_kv * m->hd, "attention", "key", layer, err));
out:
    return st;
}

/* max [K] = largest magnitude of each column of w [N, K] */
static void column_absmax(float *max, const float *w, int64_t N, int64_t K)
{
#pragma omp parallel for schedule(static)
    for (int64_t k0 = 0; k0 < K; k0 += BLOCK) {
        const int64_t k1 = k0 + BLOCK < K ? k0 + BLOCK : K;

        for (int64_t k = k0; k < k1; k++)
            max[k] = 0;
        for (int64_t n = 0; n < N; n++)
            for (int64_t k = k0; k < k1; k++) {
                const float a = fabsf(w[n * K + k]);

                max[k] = a > max[k] ? a : max[k];
            }
    }
}

static double factor(double x, double w, double alpha)
{
    const double s = pow(x, alpha) / pow(w > MIN_W ? w : MIN_W, 1 - alpha);

    if (x <= 0) /* never used: nothing to smooth, and 0^0 would be 1 / w */
        return 1;
    return s > MIN_S ? s : MIN_S;
}

static float divided(float v, double s)
{
    return (float)((double)v / s);
}

/* ---- factors -------------------------------------------------------------------------------- */

const fmt_role qnt_smooth_order[QNT_SMOOTHED] = { FMT_ATTN_OUT, FMT_FFN_DOWN, FMT_ATTN_QKV,
                                                  FMT_FFN_GATE_UP };

/* One factor per key/value head and channel, for every head that reads it. */
static void attention_factors(double *s, const float *in, const float *max, const fmt_model *m,
                              double alpha)
{
    const int64_t group = m->n_head / m->n_kv;

    for (int64_t i = 0; i < m->n_kv * m->hd; i++) {
        const int64_t first = i / m->hd * group * m->hd + i % m->hd;
        float x = 0, w = 0;

        for (int64_t k = first; k < first + group * m->hd; k += m->hd) {
            x = in[k] > x ? in[k] : x;
            w = max[k] > w ? max[k] : w;
        }
        for (int64_t k = first; k < first + group * m->hd; k += m->hd)
            s[k] = factor((double)x, (double)w, alpha);
    }
}

q_status qnt_smooth_factors(double *s, const qnt_layer *l, const qnt_ranges *r, fmt_role role,
                            const fmt_model *m, double alpha, q_err *err)
{
    q_status st = Q_OK;
    const fmt_role_row *row = fmt_role_get(role);
    const int64_t N = fmt_role_rows(row, m), K = fmt_dim_size(row->cols, m);
    float *max = NULL;

    assert(alpha <= 1);
    for (int64_t k = 0; k < K; k++)
        s[k] = 1;
    if (alpha < 0)
        return Q_OK;
    if (!(max = q_malloc((size_t)K * sizeof *max)))
        Q_FAIL(err, Q_ENOMEM, "no memory to smooth %lld channels", (long long)K);
    column_absmax(max, l->w[role], N, K);
    if (role == FMT_ATTN_OUT)
        attention_factors(s, r->in[role], max, m, alpha);
    else
        for (int64_t k = 0; k < K; k++)
            s[k] = factor((double)r->in[role][k], (double)max[k], alpha);
out:
    q_free(max);
    return st;
}

/* ---- folding -------------------------------------------------------------------------------- */

/* row n0 + i, its bias and its output range divided by s[i] */
static void divide_rows(const qnt_layer *l, const qnt_ranges *r, fmt_role role, int64_t n0,
                        int64_t n, int64_t K, const double *s)
{
    float *bias = l->bias[role], *out = r->out[role];

    qnt_fold_rows(l->w[role] + n0 * K, bias ? bias + n0 : NULL, n, K, s);
    for (int64_t i = n0; i < n0 + n; i++)
        out[i] = divided(out[i], s[i - n0]);
}

/* The v rows of every key/value head, by the factors of the first head that reads it. */
static void divide_values(const qnt_layer *l, const qnt_ranges *r, const double *s,
                          const fmt_model *m)
{
    const int64_t group = m->n_head / m->n_kv, v0 = (m->n_head + m->n_kv) * m->hd;

    for (int64_t h = 0; h < m->n_kv; h++)
        divide_rows(l, r, FMT_ATTN_QKV, v0 + h * m->hd, m->hd, m->hid, s + h * group * m->hd);
}

static void divide_norm(float *w, int64_t n, const double *s)
{
    for (int64_t k = 0; k < n; k++)
        w[k] = divided(w[k], s[k]);
}

void qnt_smooth_apply(const qnt_layer *l, const qnt_ranges *r, fmt_role role, const double *s,
                      const fmt_model *m)
{
    const fmt_role_row *row = fmt_role_get(role);
    const int64_t K = fmt_dim_size(row->cols, m);

    qnt_fold_columns(l->w[role], fmt_role_rows(row, m), K, s);
    for (int64_t k = 0; k < K; k++)
        r->in[role][k] = divided(r->in[role][k], s[k]);
    if (role == FMT_ATTN_OUT)
        divide_values(l, r, s, m);
    else if (role == FMT_FFN_DOWN)
        divide_rows(l, r, FMT_FFN_GATE_UP, m->ffn, m->ffn, m->hid, s); /* gate rows come first */
    else
        divide_norm(l->w[role == FMT_ATTN_QKV ? FMT_ATTN_NORM : FMT_FFN_NORM], m->hid, s);
}

q_status qnt_smooth_layer(const qnt_layer *l, const qnt_ranges *r, const fmt_model *m,
                          const double alpha[FMT_ROLES], q_err *err)
{
    q_status st = Q_OK;
    const int64_t Q = m->n_head * m->hd;
    double *s = q_malloc((size_t)larger(larger(m->hid, m->ffn), Q) * sizeof *s);

    if (!s)
        Q_FAIL(err, Q_ENOMEM, "no memory to smooth a layer");
    for (int i = 0; i < QNT_SMOOTHED; i++) {
        const fmt_role role = qnt_smooth_order[i];

        Q_TRY(qnt_smooth_factors(s, l, r, role, m, alpha[role], err));
        qnt_smooth_apply(l, r, role, s, m);
    }
out:
    q_free(s);
    return st;
}
