/* Loading: for each layer and role qnt_load -> prep.  No string is looked up after this. */
#include "runtime/model.h"

#include <stdio.h>
#include <string.h>

#include "quant/load.h"

/* --weight-only names, as the reference spells them */
static const struct {
    const char *option, *scheme;
} weight_only_rows[] = { { "int8", "w8" }, { "int4", "w4" } };

static q_status choose(qnt_load_opts *out, const rt_model_opts *o, q_err *err)
{
    const char *weight_only = o->weight_only;

    *out = (qnt_load_opts){ 0 };
    if (o->smooth_quant && weight_only)
        return q_fail(err, Q_EARG, "--use-smooth-quant and --weight-only exclude each other");
    if (o->smooth_quant)
        *out = (qnt_load_opts){ .scheme = qnt_scheme_find("w8a8"),
                                .per_tensor = !o->per_channel,
                                .static_x = !o->per_token };
    if (!weight_only)
        return Q_OK;
    for (size_t i = 0; i < sizeof weight_only_rows / sizeof weight_only_rows[0]; i++)
        if (strcmp(weight_only_rows[i].option, weight_only) == 0) {
            out->scheme = qnt_scheme_find(weight_only_rows[i].scheme);
            return Q_OK;
        }
    return q_fail(err, Q_EARG, "--weight-only '%s': wanted int8 or int4", weight_only);
}

static q_status load_weight(rt_model *m, rt_weight *w, const fmt_src *src, fmt_role role,
                            int64_t layer, const qnt_load_opts *how, q_err *err)
{
    q_status st = Q_OK;
    qnt_tensor t = { 0 };

    Q_TRY(qnt_load_as(&t, src, role, layer, how, err));
    Q_TRY(m->be->ops->prep(m->be, &t, w, err));
    if (role != FMT_TOK_EMBD)
        m->decode_bytes += (uint64_t)w->N * (qnt_row_bytes(w->scheme, w->K) + (w->scale ? 4 : 0));
out:
    qnt_tensor_free(&t);
    return st;
}

#define HEAD_STRIP 256 /* rows rounded at a time */

/* Float rows to int8, nearest, a scale for each. */
static q_status round_head(qnt_tensor *t, q_err *err)
{
    q_status st = Q_OK;
    qnt_tensor r = { .scheme = qnt_scheme_find("w8"), .N = t->N, .K = t->K };
    const size_t in = qnt_row_bytes(t->scheme, t->K), out = qnt_row_bytes(r.scheme, t->K);
    float *wide = q_malloc(HEAD_STRIP * (size_t)t->K * sizeof *wide);
    int64_t bad = -1;

    r.codes = q_malloc((size_t)t->N * out);
    r.scale = q_malloc((size_t)t->N * sizeof *r.scale);
    if (!wide || !r.codes || !r.scale)
        Q_FAIL(err, Q_ENOMEM, "no memory to round the head of %lld rows", (long long)t->N);
    for (int64_t n0 = 0; n0 < t->N; n0 += HEAD_STRIP) {
        const int64_t n = t->N - n0 < HEAD_STRIP ? t->N - n0 : HEAD_STRIP;

#pragma omp parallel for schedule(static) reduction(max : bad)
        for (int64_t i = 0; i < n; i++) {
            const size_t at = (size_t)(n0 + i);
            float *row = wide + i * t->K, sum = 0;

            t->scheme->dequantize_row(row, (const char *)t->codes + at * in, 1, t->K);
            for (int64_t k = 0; k < t->K; k++)
                sum += row[k] - row[k]; /* 0 for a finite value, NaN otherwise */
            if (sum != 0)
                bad = n0 + i;
            r.scheme->quantize_row((char *)r.codes + at * out, &r.scale[at], row, t->K);
        }
    }
    if (bad >= 0)
        Q_FAIL(err, Q_EFORMAT,
               "head: row %lld holds a value that is not finite: --head int8 "
               "cannot round it",
               (long long)bad);
    r.bias = t->bias;
    t->bias = NULL;
    qnt_tensor_free(t);
    *t = r;
    r = (qnt_tensor){ 0 };
out:
    q_free(wide);
    qnt_tensor_free(&r);
    return st;
}

/* The embedding again where the model has no head of its own. */
static q_status load_head(rt_model *m, const fmt_src *src, const rt_model_opts *o, q_err *err)
{
    q_status st = Q_OK;
    qnt_tensor t = { 0 };

    if (m->desc.tied && !o->head) {
        m->head = m->embd;
    } else {
        Q_TRY(qnt_load_as(&t, src, m->desc.tied ? FMT_TOK_EMBD : FMT_LM_HEAD, 0,
                          &(qnt_load_opts){ 0 }, err));
        if (o->head && !t.scheme->quantize_row)
            Q_TRY(round_head(&t, err));
        Q_TRY(m->be->ops->prep(m->be, &t, &m->head, err));
    }
    m->decode_bytes +=
        (uint64_t)m->head.N * (qnt_row_bytes(m->head.scheme, m->head.K) + (m->head.scale ? 4 : 0));
out:
    qnt_tensor_free(&t);
    return st;
}

/* *out stays NULL when the family has no such role */
static q_status load_vector(rt_model *m, float **out, const fmt_src *src, fmt_role role,
                            int64_t layer, q_err *err)
{
    q_status st = Q_OK;
    const fmt_ref ref = { role, layer, FMT_WEIGHT };
    const int64_t n = fmt_role_rows(fmt_role_get(role), &m->desc);
    const size_t bytes = (size_t)n * sizeof(float);
    float *host = NULL;
    void *dev = NULL;

    if (!fmt_src_has(src, ref))
        return Q_OK;
    Q_TRY(qnt_load_f32(&host, src, ref, n, err));
    Q_TRY(m->be->ops->alloc(m->be, bytes, &dev, err));
    *out = dev;
    Q_TRY(m->be->ops->copy(m->be, dev, host, bytes, RT_TO_DEVICE, err));
    m->decode_bytes += bytes;
out:
    q_free(host);
    return st;
}

/* Layer i of the source into m->layer[at]. */
static q_status load_layer(rt_model *m, int64_t at, const fmt_src *src, int64_t i,
                           const qnt_load_opts *how, q_err *err)
{
    q_status st = Q_OK;
    rt_layer *l = &m->layer[at];

    for (int r = 0; r < FMT_ROLES; r++)
        if (fmt_role_get((fmt_role)r)->quant)
            Q_TRY(load_weight(m, &l->w[r], src, (fmt_role)r, i, how, err));
    Q_TRY(load_vector(m, &l->norm1, src, FMT_ATTN_NORM, i, err));
    Q_TRY(load_vector(m, &l->norm2, src, FMT_FFN_NORM, i, err));
    Q_TRY(load_vector(m, &l->q_norm, src, FMT_Q_NORM, i, err));
    Q_TRY(load_vector(m, &l->k_norm, src, FMT_K_NORM, i, err));
out:
    return st;
}

q_status rt_model_open(rt_model **out, const fmt_src *src, rt_backend *be, const rt_model_opts *o,
                       q_err *err)
{
    q_status st = Q_OK;
    const qnt_load_opts stored = { 0 };
    qnt_load_opts how;
    q_progress *progress = NULL;
    rt_model *m = q_calloc(1, sizeof *m);

    if (!m)
        Q_FAIL(err, Q_ENOMEM, "no memory for the model");
    m->be = be;
    m->desc = *fmt_src_model(src);
    if (o->head && strcmp(o->head, "int8") != 0)
        Q_FAIL(err, Q_EARG, "--head '%s': wanted int8", o->head);
    Q_TRY(choose(&how, o, err));
    if (!(m->layer = q_calloc((size_t)m->desc.layers, sizeof *m->layer)))
        Q_FAIL(err, Q_ENOMEM, "no memory for %lld layers", (long long)m->desc.layers);
    progress = q_progress_open(o->log, "loading", (uint64_t)m->desc.layers, "layers");
    Q_TRY(load_weight(m, &m->embd, src, FMT_TOK_EMBD, 0, &stored, err));
    for (int64_t i = 0; i < m->desc.layers; i++) {
        Q_TRY(load_layer(m, i, src, i, &how, err));
        q_progress_add(progress, 1);
    }
    Q_TRY(load_vector(m, &m->out_norm, src, FMT_OUT_NORM, 0, err));
    Q_TRY(load_head(m, src, o, err));
    if (fmt_src_has(src, (fmt_ref){ FMT_ATTN_QKV, 0, FMT_K_SCALE }))
        Q_TRY(qnt_load_kv_scales(&m->k_scale, &m->v_scale, src, err));
    snprintf(m->scheme, sizeof m->scheme, "%s", m->layer[0].w[FMT_ATTN_QKV].scheme->name);
    *out = m;
    m = NULL;
out:
    q_progress_close(progress);
    rt_model_close(m);
    return st;
}

q_status rt_model_open_layer(rt_model **out, const fmt_src *src, rt_backend *be, int64_t layer,
                             q_err *err)
{
    q_status st = Q_OK;
    rt_model *m = q_calloc(1, sizeof *m);

    if (!m)
        Q_FAIL(err, Q_ENOMEM, "no memory for the model");
    m->be = be;
    m->desc = *fmt_src_model(src);
    m->desc.layers = 1;
    if (!(m->layer = q_calloc(1, sizeof *m->layer)))
        Q_FAIL(err, Q_ENOMEM, "no memory for a layer");
    Q_TRY(load_layer(m, 0, src, layer, &(qnt_load_opts){ 0 }, err));
    *out = m;
    m = NULL;
out:
    rt_model_close(m);
    return st;
}

void rt_model_close(rt_model *m)
{
    const rt_backend_ops *ops;

    if (!m)
        return;
    ops = m->be->ops;
    for (int64_t i = 0; m->layer && i < m->desc.layers; i++) {
        rt_layer *l = &m->layer[i];

        for (int r = 0; r < FMT_ROLES; r++)
            ops->unprep(m->be, &l->w[r]);
        ops->free(m->be, l->norm1);
        ops->free(m->be, l->norm2);
        ops->free(m->be, l->q_norm);
        ops->free(m->be, l->k_norm);
    }
    if (m->head.data != m->embd.data)
        ops->unprep(m->be, &m->head);
    ops->unprep(m->be, &m->embd);
    ops->free(m->be, m->out_norm);
    q_free(m->k_scale);
    q_free(m->v_scale);
    q_free(m->layer);
    q_free(m);
}
