/* Arrays of a qnt_ranges: one walk over their names serves alloc, join and free. */
#include "quant/ranges.h"

#include <string.h>

#include "formats/base/q_mem.h"
#include "quant/rtn.h"
#include "quant/w8a8.h"

static int64_t k_size(const fmt_model *m)
{
    return m->n_kv * m->hd;
}

q_status qnt_ranges_alloc(qnt_ranges *r, const fmt_model *m, q_err *err)
{
    q_status st = Q_OK;

    memset(r, 0, sizeof *r);
    for (int i = 0; i < FMT_ROLES; i++) {
        const fmt_role_row *role = fmt_role_get((fmt_role)i);

        if (!role->quant)
            continue;
        r->in[i] = q_calloc((size_t)fmt_dim_size(role->cols, m), sizeof(float));
        r->out[i] = q_calloc((size_t)fmt_role_rows(role, m), sizeof(float));
        if (!r->in[i] || !r->out[i])
            Q_FAIL(err, Q_ENOMEM, "no memory for the ranges of a layer");
    }
    if (!(r->k = q_calloc((size_t)k_size(m), sizeof(float))))
        Q_FAIL(err, Q_ENOMEM, "no memory for the ranges of a layer");
out:
    if (st != Q_OK)
        qnt_ranges_free(r);
    return st;
}

void qnt_ranges_free(qnt_ranges *r)
{
    for (int i = 0; i < FMT_ROLES; i++) {
        q_free(r->in[i]);
        q_free(r->out[i]);
    }
    q_free(r->k);
    memset(r, 0, sizeof *r);
}

static void join(float *into, const float *v, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        into[i] = v[i] > into[i] ? v[i] : into[i];
}

void qnt_ranges_join(qnt_ranges *into, const qnt_ranges *r, const fmt_model *m)
{
    for (int i = 0; i < FMT_ROLES; i++) {
        const fmt_role_row *role = fmt_role_get((fmt_role)i);

        if (!role->quant)
            continue;
        join(into->in[i], r->in[i], fmt_dim_size(role->cols, m));
        join(into->out[i], r->out[i], fmt_role_rows(role, m));
    }
    join(into->k, r->k, k_size(m));
    into->searched = r->searched;
    memcpy(into->alpha, r->alpha, sizeof r->alpha);
}

void qnt_ranges_heads(float *kv, const qnt_ranges *r, const fmt_model *m)
{
    const float *v = r->out[FMT_ATTN_QKV] + (m->n_head + m->n_kv) * m->hd;

    for (int64_t h = 0; h < m->n_kv; h++) {
        kv[h] = qnt_absmax(r->k + h * m->hd, m->hd);
        kv[m->n_kv + h] = qnt_absmax(v + h * m->hd, m->hd);
    }
}

void qnt_kv_steps(float *k, float *v, const float *kv, const fmt_model *m)
{
    for (int64_t l = 0; l < m->layers; l++, kv += 2 * m->n_kv)
        for (int64_t h = 0; h < m->n_kv; h++) {
            k[l * m->n_kv + h] = qnt_w8a8_scale(kv[h]);
            v[l * m->n_kv + h] = qnt_w8a8_scale(kv[m->n_kv + h]);
        }
}

q_status qnt_ranges_steps(float **out, const qnt_ranges *r, const fmt_model *m, q_err *err)
{
    q_status st = Q_OK;
    const size_t n = (size_t)(m->layers * m->n_kv);
    float *max = q_calloc(2 * n, sizeof *max), *steps = q_calloc(2 * n, sizeof *steps);

    if (!max || !steps)
        Q_FAIL(err, Q_ENOMEM, "no memory for the scales of %lld layers", (long long)m->layers);
    for (int64_t l = 0; l < m->layers; l++)
        qnt_ranges_heads(max + 2 * l * m->n_kv, &r[l], m);
    qnt_kv_steps(steps, steps + n, max, m);
    *out = steps;
    steps = NULL;
out:
    q_free(max);
    q_free(steps);
    return st;
}
