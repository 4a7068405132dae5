/* Loading: for each layer and role qnt_load -> prep.  No string is looked up after this. */
#include "runtime/model.h"

#include <stdio.h>
#include <string.h>

#include "quant/load.h"

/* Weight-only names as the reference spells them: of --weight-only and --head.  NULL: as stored. */
static q_status find_weight_only(const qnt_scheme **out, const char *option, const char *name,
                                 q_err *err)
{
    *out = NULL;
    if (!name)
        return Q_OK;
    if (strcmp(name, "int8") == 0)
        *out = qnt_scheme_find("w8");
    else if (strcmp(name, "int4") == 0)
        *out = qnt_scheme_find("w4");
    return *out ? Q_OK : q_fail(err, Q_EARG, "%s '%s': wanted int8 or int4", option, name);
}

static q_status choose(qnt_load_opts *out, const rt_model_opts *o, q_err *err)
{
    *out = (qnt_load_opts){ 0 };
    if (o->smooth_quant && o->weight_only)
        return q_fail(err, Q_EARG, "--use-smooth-quant and --weight-only exclude each other");
    if (!o->smooth_quant)
        return find_weight_only(&out->scheme, "--weight-only", o->weight_only, err);
    *out = (qnt_load_opts){ .scheme = qnt_scheme_find("w8a8"),
                            .per_tensor = !o->per_channel,
                            .static_x = !o->per_token };
    return Q_OK;
}

uint64_t rt_weight_bytes(const rt_weight *w)
{
    const uint64_t groups = (uint64_t)qnt_n_groups(w->scheme, w->K, w->group);

    return (uint64_t)w->N * (qnt_row_bytes(w->scheme, w->K) +
                             groups * (w->scheme->grouped ? (uint64_t)w->group_bytes : 4));
}

static q_status load_weight(rt_model *m, rt_weight *w, const fmt_src *src, fmt_role role,
                            int64_t layer, const qnt_load_opts *how, q_err *err)
{
    q_status st = Q_OK;
    qnt_tensor t = { 0 };

    Q_TRY(qnt_load(&t, src, role, layer, how, err));
    Q_TRY(m->be->ops->prep(m->be, &t, w, err));
out:
    qnt_tensor_free(&t);
    return st;
}

static void count_weight(rt_model *m, const rt_weight *w)
{
    m->decode_bytes += rt_weight_bytes(w);
}

/* A tied head is the embedding, or the embedding once more in another scheme. */
static q_status load_head(rt_model *m, const fmt_src *src, const qnt_scheme *scheme, q_err *err)
{
    q_status st = Q_OK;

    if (m->desc.tied && !scheme)
        m->head = m->embd;
    else
        Q_TRY(load_weight(m, &m->head, src, m->desc.tied ? FMT_TOK_EMBD : FMT_LM_HEAD, 0,
                          &(qnt_load_opts){ .scheme = scheme }, err));
    count_weight(m, &m->head);
out:
    return st;
}

static q_status put_vector(rt_model *m, float **out, const float *v, fmt_role role, q_err *err)
{
    q_status st = Q_OK;
    const size_t bytes = (size_t)fmt_role_rows(fmt_role_get(role), &m->desc) * sizeof *v;
    void *dev = NULL;

    if (!v)
        return Q_OK;
    Q_TRY(m->be->ops->alloc(m->be, bytes, &dev, err));
    *out = dev;
    Q_TRY(m->be->ops->copy(m->be, dev, v, bytes, RT_TO_DEVICE, err));
    m->decode_bytes += bytes;
out:
    return st;
}

/* *out stays NULL when the family has no such role */
static q_status read_vector(float **out, const fmt_src *src, fmt_role role, int64_t layer,
                            q_err *err)
{
    const fmt_ref ref = { role, layer, FMT_WEIGHT };
    const int64_t n = fmt_role_rows(fmt_role_get(role), fmt_src_model(src));

    return fmt_src_has(src, ref) ? qnt_load_f32(out, src, ref, n, err) : Q_OK;
}

static q_status load_vector(rt_model *m, float **out, const fmt_src *src, fmt_role role, q_err *err)
{
    q_status st = Q_OK;
    float *v = NULL;

    Q_TRY(read_vector(&v, src, role, 0, err));
    Q_TRY(put_vector(m, out, v, role, err));
out:
    q_free(v);
    return st;
}

/* ---- layers --------------------------------------------------------------------------------- */

static const fmt_role norms[] = { FMT_ATTN_NORM, FMT_FFN_NORM, FMT_Q_NORM, FMT_K_NORM };
enum { N_NORMS = sizeof norms / sizeof norms[0] };

static q_status read_layer(rt_layer_data *d, const fmt_src *src, int64_t layer,
                           const qnt_load_opts *how, q_err *err)
{
    q_status st = Q_OK;

    memset(d, 0, sizeof *d);
    for (int r = 0; r < FMT_ROLES; r++)
        if (fmt_role_get((fmt_role)r)->quant)
            Q_TRY(qnt_load(&d->w[r], src, (fmt_role)r, layer, how, err));
    for (int i = 0; i < N_NORMS; i++)
        Q_TRY(read_vector(&d->v[norms[i]], src, norms[i], layer, err));
out:
    if (st != Q_OK)
        rt_layer_data_free(d);
    return st;
}

q_status rt_layer_read(rt_layer_data *d, const fmt_src *src, int64_t layer, q_err *err)
{
    return read_layer(d, src, layer, &(qnt_load_opts){ 0 }, err);
}

void rt_layer_data_free(rt_layer_data *d)
{
    for (int r = 0; r < FMT_ROLES; r++) {
        qnt_tensor_free(&d->w[r]);
        q_free(d->v[r]);
    }
    memset(d, 0, sizeof *d);
}

/* Into m->layer[at]; arrays are freed as they arrive. */
static q_status put_layer(rt_model *m, int64_t at, rt_layer_data *d, q_err *err)
{
    q_status st = Q_OK;
    rt_layer *l = &m->layer[at];
    float **to[] = { &l->norm1, &l->norm2, &l->q_norm, &l->k_norm };

    for (int r = 0; r < FMT_ROLES; r++)
        if (d->w[r].codes) {
            Q_TRY(m->be->ops->prep(m->be, &d->w[r], &l->w[r], err));
            count_weight(m, &l->w[r]);
        }
    for (int i = 0; i < N_NORMS; i++)
        Q_TRY(put_vector(m, to[i], d->v[norms[i]], norms[i], err));
out:
    rt_layer_data_free(d);
    return st;
}

q_status rt_model_open(rt_model **out, const fmt_src *src, rt_backend *be, const rt_model_opts *o,
                       q_err *err)
{
    q_status st = Q_OK;
    const qnt_scheme *head;
    qnt_load_opts how;
    rt_layer_data data;
    q_progress *progress = NULL;
    rt_model *m = q_calloc(1, sizeof *m);

    if (!m)
        Q_FAIL(err, Q_ENOMEM, "no memory for the model");
    m->be = be;
    m->desc = *fmt_src_model(src);
    Q_TRY(find_weight_only(&head, "--head", o->head, err));
    Q_TRY(choose(&how, o, err));
    if (!(m->layer = q_calloc((size_t)m->desc.layers, sizeof *m->layer)))
        Q_FAIL(err, Q_ENOMEM, "no memory for %lld layers", (long long)m->desc.layers);
    progress = q_progress_open(o->log, "loading", (uint64_t)m->desc.layers, "layers");
    Q_TRY(load_weight(m, &m->embd, src, FMT_TOK_EMBD, 0, &(qnt_load_opts){ 0 }, err));
    for (int64_t i = 0; i < m->desc.layers; i++) {
        Q_TRY(read_layer(&data, src, i, &how, err));
        Q_TRY(put_layer(m, i, &data, err));
        q_progress_add(progress, 1);
    }
    Q_TRY(load_vector(m, &m->out_norm, src, FMT_OUT_NORM, err));
    Q_TRY(load_head(m, src, head, err));
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

q_status rt_model_open_layer(rt_model **out, const fmt_model *desc, rt_backend *be,
                             rt_layer_data *d, q_err *err)
{
    q_status st = Q_OK;
    rt_model *m = q_calloc(1, sizeof *m);

    if (!m)
        Q_FAIL(err, Q_ENOMEM, "no memory for the model");
    m->be = be;
    m->desc = *desc;
    m->desc.layers = 1;
    if (!(m->layer = q_calloc(1, sizeof *m->layer)))
        Q_FAIL(err, Q_ENOMEM, "no memory for a layer");
    Q_TRY(put_layer(m, 0, d, err));
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
