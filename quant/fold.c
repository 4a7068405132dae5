/* Folding.  A norm is stored in 16 bits, and norm / s rounds: the weight behind it is multiplied by
 * norm / stored instead of s, and the product is what it was.  Where a norm would leave the range
 * of its type, or is zero, s becomes 1. */
#include "quant/fold.h"

#include <assert.h>
#include <math.h>

void qnt_fold_columns(float *w, int64_t N, int64_t K, const double *s)
{
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++)
        for (int64_t k = 0; k < K; k++)
            w[n * K + k] = (float)((double)w[n * K + k] * s[k]);
}

void qnt_fold_rows(float *w, float *bias, int64_t n, int64_t K, const double *s)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        for (int64_t k = 0; k < K; k++)
            w[i * K + k] = (float)((double)w[i * K + k] / s[i]);
        if (bias)
            bias[i] = (float)((double)bias[i] / s[i]);
    }
}

/* Query heads of a group: channel c of head h * group + g reads channel c of v head h. */
void qnt_fold_tie(double *s, fmt_role role, const fmt_model *m)
{
    const int64_t group = m->n_head / m->n_kv;

    if (role != FMT_ATTN_OUT)
        return;
    for (int64_t i = 0; i < m->n_kv * m->hd; i++) {
        double *first = s + i / m->hd * group * m->hd + i % m->hd, mean = 0;

        for (int64_t g = 0; g < group; g++)
            mean += first[g * m->hd] / (double)group;
        for (int64_t g = 0; g < group; g++)
            first[g * m->hd] = mean;
    }
}

static void fold_norm(float *norm, double *s, int64_t n, fmt_dtype type)
{
    for (int64_t k = 0; k < n; k++) {
        const float want = (float)((double)norm[k] / s[k]);
        float is = want;
        char raw[sizeof(float)];

        fmt_convert(raw, type, &want, FMT_F32, 1, NULL);
        fmt_convert(&is, FMT_F32, raw, type, 1, NULL);
        if (is == 0 || !isfinite(is)) {
            s[k] = 1;
            continue;
        }
        s[k] = (double)norm[k] / (double)is;
        norm[k] = is;
    }
}

static void fold_bias(float *bias, int64_t n, const double *s)
{
    for (int64_t i = 0; bias && i < n; i++)
        bias[i] = (float)((double)bias[i] / s[i]);
}

/* v rows, one for each group of heads */
static q_status fold_v(const qnt_dev *d, qnt_layer *l, const double *s, const fmt_model *m,
                       q_err *err)
{
    q_status st = Q_OK;
    const int64_t group = m->n_head / m->n_kv, v0 = (m->n_head + m->n_kv) * m->hd;
    float *bias = l->bias[FMT_ATTN_QKV];

    for (int64_t h = 0; h < m->n_kv; h++) {
        const int64_t row = v0 + h * m->hd;

        Q_TRY(d->ops->divide_rows(d, l->w[FMT_ATTN_QKV] + row * m->hid, m->hd, m->hid,
                                  s + h * group * m->hd, err));
        fold_bias(bias ? bias + row : NULL, m->hd, s + h * group * m->hd);
    }
out:
    return st;
}

q_status qnt_fold(const qnt_dev *d, qnt_layer *l, fmt_role role, double *s, fmt_dtype norm,
                  const fmt_model *m, q_err *err)
{
    q_status st = Q_OK;
    const fmt_role_row *row = fmt_role_get(role);
    float *bias = l->bias[FMT_FFN_GATE_UP];

    switch (role) {
    case FMT_ATTN_QKV:
        fold_norm(l->w[FMT_ATTN_NORM], s, m->hid, norm);
        break;
    case FMT_FFN_GATE_UP:
        fold_norm(l->w[FMT_FFN_NORM], s, m->hid, norm);
        break;
    case FMT_ATTN_OUT:
        Q_TRY(fold_v(d, l, s, m, err));
        break;
    default:
        assert(role == FMT_FFN_DOWN);
        /* gate rows come first */
        Q_TRY(d->ops->divide_rows(d, l->w[FMT_FFN_GATE_UP] + m->ffn * m->hid, m->ffn, m->hid, s,
                                  err));
        fold_bias(bias ? bias + m->ffn : NULL, m->ffn, s);
    }
    Q_TRY(d->ops->scale_columns(d, l->w[role], fmt_role_rows(row, m), fmt_dim_size(row->cols, m), s,
                                err));
out:
    return st;
}
