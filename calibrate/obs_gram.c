/* Second moments.  A value that is not finite makes its diagonal so: that is looked at after every
 * step, before it hides among sums. */
#include "calibrate/obs_gram.h"

#include <math.h>
#include <string.h>

#include "quant/linalg.h"

#define STRIPE 256 /* columns of one thread at a time */

static const struct {
    cal_point point;
    fmt_role role;
} rows[] = {
    { CAL_ATTN_IN, FMT_ATTN_QKV },
    { CAL_ATTN_OUT, FMT_ATTN_OUT },
    { CAL_FFN_IN, FMT_FFN_GATE_UP },
    { CAL_FFN_MID, FMT_FFN_DOWN },
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

fmt_role cal_input_role(cal_point p)
{
    for (int i = 0; i < N_ROWS; i++)
        if (rows[i].point == p)
            return rows[i].role;
    return FMT_ROLES;
}

cal_point cal_input_point(int i)
{
    return rows[i].point;
}

static int64_t width(fmt_role role, const fmt_model *m)
{
    return fmt_dim_size(fmt_role_get(role)->cols, m);
}

uint64_t cal_gram_bytes(const fmt_model *m)
{
    uint64_t bytes = 0;

    for (int i = 0; i < N_ROWS; i++) {
        const uint64_t K = (uint64_t)width(rows[i].role, m);

        bytes += K * K * sizeof(float) + K * (sizeof(double) + sizeof(float));
    }
    return bytes;
}

q_status cal_gram_open(cal_gram *g, const fmt_model *m, q_err *err)
{
    q_status st = Q_OK;

    memset(g, 0, sizeof *g);
    g->m = m;
    for (int i = 0; i < N_ROWS; i++) {
        const fmt_role role = rows[i].role;
        const size_t K = (size_t)width(role, m);
        size_t n;

        if (!q_mul_ok(K, K, &n) || !(g->H[role] = q_calloc(n, sizeof *g->H[role])) ||
            !(g->x[role] = q_calloc(K, sizeof *g->x[role])) ||
            !(g->max[role] = q_calloc(K, sizeof *g->max[role])))
            Q_FAIL(err, Q_ENOMEM, "no memory for the second moments of %zu inputs of %s", K,
                   fmt_role_get(role)->name);
    }
out:
    if (st != Q_OK)
        cal_gram_close(g);
    return st;
}

void cal_gram_close(cal_gram *g)
{
    for (int i = 0; i < FMT_ROLES; i++) {
        q_free(g->H[i]);
        q_free(g->x[i]);
        q_free(g->max[i]);
    }
    memset(g, 0, sizeof *g);
}

void cal_gram_begin(cal_gram *g, uint32_t points)
{
    for (int i = 0; i < N_ROWS; i++) {
        const fmt_role role = rows[i].role;
        const size_t K = (size_t)width(role, g->m);

        if (!(points & CAL_BIT(rows[i].point)))
            continue;
        memset(g->H[role], 0, K * K * sizeof *g->H[role]);
        memset(g->x[role], 0, K * sizeof *g->x[role]);
        memset(g->max[role], 0, K * sizeof *g->max[role]);
        g->n[role] = 0;
    }
}

/* sum[k] += |x[., k]|, and max[k] likewise */
static void column_sums(double *sum, float *max, const float *x, int64_t n, int64_t dim)
{
#pragma omp parallel for schedule(static)
    for (int64_t k0 = 0; k0 < dim; k0 += STRIPE) {
        const int64_t end = dim - k0 < STRIPE ? dim : k0 + STRIPE;

        for (int64_t i = 0; i < n; i++)
            for (int64_t k = k0; k < end; k++) {
                const float a = fabsf(x[i * dim + k]);

                sum[k] += (double)a;
                max[k] = a > max[k] ? a : max[k];
            }
    }
}

q_status cal_gram_see(cal_gram *g, const cal_view *v, q_err *err)
{
    const fmt_role role = cal_input_role(v->point);

    qnt_gram(g->H[role], v->dim, v->x, v->n);
    column_sums(g->x[role], g->max[role], v->x, v->n, v->dim);
    g->n[role] += v->n;
    for (int64_t k = 0; k < v->dim; k++)
        if (!isfinite(g->H[role][k * v->dim + k]))
            return q_fail(err, Q_EFORMAT,
                          "layer %lld: channel %lld of the input of %s is not finite: is the model "
                          "damaged?",
                          (long long)v->layer, (long long)k, fmt_role_get(role)->name);
    return Q_OK;
}

void cal_gram_end(cal_gram *g, uint32_t points)
{
    for (int i = 0; i < N_ROWS; i++) {
        const fmt_role role = rows[i].role;
        const int64_t K = width(role, g->m);

        if (!(points & CAL_BIT(rows[i].point)))
            continue;
        qnt_mirror(g->H[role], K);
        for (int64_t k = 0; k < K; k++)
            g->x[role][k] /= (double)g->n[role];
    }
}

void cal_gram_divide(cal_gram *g, fmt_role role, const double *s)
{
    const int64_t K = width(role, g->m);
    float *H = g->H[role];

#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < K; i++) {
        for (int64_t j = 0; j < K; j++)
            H[i * K + j] = (float)((double)H[i * K + j] / (s[i] * s[j]));
        g->x[role][i] /= s[i];
        g->max[role][i] = (float)((double)g->max[role][i] / s[i]);
    }
}
