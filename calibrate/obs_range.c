/* Ranges, taken where the activations are.  A maximum does not depend on the order in which it is
 * taken.  One that is not finite ends the run behind its layer, with the place. */
#include "calibrate/obs_range.h"

#include <math.h>
#include <string.h>

#include "calibrate/layer_f32.h"
#include "calibrate/stats_file.h"
#include "formats/base/q_half.h"
#include "quant/smooth_search.h"

/* points of linears; the others are keys */
static const struct {
    cal_point point;
    fmt_role role;
    int is_input;
    const char *text;
} rows[] = {
    { CAL_ATTN_IN, FMT_ATTN_QKV, 1, "input of q, k, v" },
    { CAL_QKV, FMT_ATTN_QKV, 0, "q, k, v" },
    { CAL_ATTN_OUT, FMT_ATTN_OUT, 1, "input of the output projection" },
    { CAL_ATTN_RESULT, FMT_ATTN_OUT, 0, "attention output" },
    { CAL_FFN_IN, FMT_FFN_GATE_UP, 1, "input of gate and up" },
    { CAL_GATE_UP, FMT_FFN_GATE_UP, 0, "gate and up" },
    { CAL_FFN_MID, FMT_FFN_DOWN, 1, "input of down" },
    { CAL_DOWN, FMT_FFN_DOWN, 0, "MLP output" },
};
enum { N_ROWS = (int)(sizeof rows / sizeof rows[0]) };

static int64_t width_of(const fmt_model *m, int i)
{
    const fmt_role_row *row = fmt_role_get(rows[i].role);

    return rows[i].is_input ? fmt_dim_size(row->cols, m) : fmt_role_rows(row, m);
}

/* What is seen at a point: channels, where their maxima go, and its name. */
static int64_t place_of(const cal_ranges *r, int point, int64_t layer, float **max,
                        const char **text)
{
    const qnt_ranges *l = &r->layer[layer];

    for (int i = 0; i < N_ROWS; i++)
        if ((int)rows[i].point == point) {
            *max = rows[i].is_input ? l->in[rows[i].role] : l->out[rows[i].role];
            *text = rows[i].text;
            return width_of(r->m, i);
        }
    *max = l->k;
    *text = "keys";
    return r->m->n_kv * r->m->hd;
}

static int64_t sample_rows(const cal_ranges *r)
{
    return r->search < CAL_RANGE_SAMPLE ? r->search : CAL_RANGE_SAMPLE;
}

/* Row i of the sample is token i * search / n. */
static q_status keep_sample(cal_ranges *r, const cal_view *v, q_err *err)
{
    q_status st = Q_OK;
    const fmt_role role = cal_input_role(v->point);
    const int64_t n = sample_rows(r), from = v->row;
    const size_t bytes = (size_t)v->dim * fmt_dtype_bytes(v->type);

    for (int64_t i = 0; i < n; i++) {
        const int64_t at = i * r->search / n - from;

        if (at < 0 || at >= v->n)
            continue;
        Q_TRY(r->d.ops->get(&r->d, r->row, (const char *)v->x + (size_t)at * bytes, bytes, err));
        fmt_convert(r->sample[role] + i * v->dim, FMT_F32, r->row, v->type, (size_t)v->dim, NULL);
    }
out:
    return st;
}

static q_status observe(void *self, const cal_view *v, q_err *err)
{
    q_status st = Q_OK;
    cal_ranges *r = self;

    Q_TRY(r->d.ops->columns(&r->d, NULL, r->max[v->point], v->x, v->type, v->n, v->dim, err));
    if (r->search && (CAL_BIT(v->point) & CAL_INPUTS)) {
        Q_TRY(keep_sample(r, v, err));
        Q_TRY(cal_gram_see(&r->gram, v, err));
    }
out:
    return st;
}

static q_status share(void *self, uint32_t points, int done, int shares, q_err *err)
{
    cal_ranges *r = self;

    return r->search ? cal_gram_share(&r->gram, points, done, shares, err) : Q_OK;
}

/* Maxima of a layer leave the device, which forgets them. */
static q_status take_ranges(cal_ranges *r, int64_t layer, q_err *err)
{
    q_status st = Q_OK;

    for (int p = 0; p < CAL_POINTS; p++) {
        float *max;
        const char *text;
        const int64_t dim = place_of(r, p, layer, &max, &text);
        const size_t bytes = (size_t)dim * sizeof *max;

        Q_TRY(r->d.ops->get(&r->d, max, r->max[p], bytes, err));
        Q_TRY(rt_comm_reduce(r->comm, max, dim, RT_MAX_U32, err)); /* as their bits order */
        for (int64_t k = 0; k < dim; k++)
            if (!isfinite(max[k]))
                Q_FAIL(err, Q_EFORMAT,
                       "layer %lld: channel %lld of the %s is not finite: is the model damaged?",
                       (long long)layer, (long long)k, text);
        Q_TRY(r->d.ops->clear(&r->d, r->max[p], bytes, err));
    }
out:
    return st;
}

/* A row of the sample is of one rank, and zeros in the others: the largest bits are its own. */
static q_status join_samples(cal_ranges *r, q_err *err)
{
    q_status st = Q_OK;

    for (int i = 0; i < FMT_ROLES; i++)
        if (r->sample[i])
            Q_TRY(
                rt_comm_reduce(r->comm, r->sample[i],
                               sample_rows(r) * fmt_dim_size(fmt_role_get((fmt_role)i)->cols, r->m),
                               RT_MAX_U32, err));
out:
    return st;
}

static void forget_samples(cal_ranges *r)
{
    for (int i = 0; i < FMT_ROLES; i++)
        if (r->sample[i])
            memset(r->sample[i], 0,
                   CAL_RANGE_SAMPLE * sizeof(float) *
                       (size_t)fmt_dim_size(fmt_role_get((fmt_role)i)->cols, r->m));
}

static q_status search_layer(cal_ranges *r, int64_t layer, q_err *err)
{
    q_status st = Q_OK;
    qnt_layer l = { 0 };
    qnt_smooth_inputs in = { .d = r->d, .n_x = sample_rows(r) };

    Q_TRY(cal_gram_end(&r->gram, CAL_INPUTS, layer, err));
    Q_TRY(join_samples(r, err));
    in.n = r->gram.n[FMT_ATTN_QKV];
    memcpy(in.H, r->gram.H, sizeof in.H);
    memcpy(in.x, r->sample, sizeof in.x);
    Q_TRY(cal_layer_load(&l, r->src, layer, err));
    Q_TRY(qnt_smooth_search(&r->layer[layer], &l, &in, r->m, err));
    Q_TRY(cal_gram_begin(&r->gram, CAL_INPUTS, err));
    forget_samples(r);
out:
    cal_layer_free(&l);
    return st;
}

static q_status done(void *self, rt_model *one, int64_t layer, void **result, q_err *err)
{
    q_status st = Q_OK;
    cal_ranges *r = self;

    (void)one;
    Q_TRY(take_ranges(r, layer, err));
    if (r->search)
        Q_TRY(search_layer(r, layer, err));
    r->cost[layer] = cal_cost_since(r->since);
    r->since = q_now();
    *result = &r->layer[layer];
out:
    return st;
}

static q_status store(void *self, int64_t layer, const void *result, const char *path, q_err *err)
{
    const cal_ranges *r = self;

    return cal_stats_write_layer(path, r->m, result, &r->cost[layer], err);
}

static q_status load(void *self, int64_t layer, const char *path, q_err *err)
{
    cal_ranges *r = self;

    r->since = q_now();
    return cal_stats_read_layer(path, r->m, &r->layer[layer], &r->cost[layer], err);
}

uint64_t cal_ranges_bytes(const fmt_model *m, int search, uint64_t *device)
{
    uint64_t bytes = 0;

    *device = (uint64_t)(m->n_kv * m->hd) * sizeof(float);
    for (int i = 0; i < N_ROWS; i++)
        *device += (uint64_t)width_of(m, i) * sizeof(float);
    if (!search)
        return *device;
    *device += cal_gram_bytes(m) + cal_gram_waiting_bytes(m);
    for (int i = 0; i < FMT_ROLES; i++) {
        const fmt_role_row *row = fmt_role_get((fmt_role)i);

        if (row->quant)
            bytes += (uint64_t)(fmt_role_rows(row, m) + CAL_RANGE_SAMPLE) *
                     (uint64_t)fmt_dim_size(row->cols, m) * sizeof(float);
    }
    return *device + bytes;
}

/* Inputs of linears, to choose exponents by. */
static q_status open_search(cal_ranges *r, q_err *err)
{
    q_status st = Q_OK;
    int64_t widest = 0;

    for (int i = 0; i < FMT_ROLES; i++) {
        const fmt_role_row *row = fmt_role_get((fmt_role)i);
        const int64_t K = fmt_dim_size(row->cols, r->m);

        if (!row->quant)
            continue;
        widest = K > widest ? K : widest;
        if (!(r->sample[i] = q_calloc(CAL_RANGE_SAMPLE * (size_t)K, sizeof(float))))
            Q_FAIL(err, Q_ENOMEM, "no memory for a sample of %lld inputs", (long long)K);
    }
    if (!(r->row = q_malloc((size_t)widest * sizeof(float))))
        Q_FAIL(err, Q_ENOMEM, "no memory for %lld inputs", (long long)widest);
    Q_TRY(cal_gram_open(&r->gram, r->m, r->d, r->comm, err));
out:
    return st;
}

static q_status begin(void *self, rt_backend *be, rt_comm *comm, q_err *err)
{
    q_status st = Q_OK;
    cal_ranges *r = self;

    r->since = q_now();
    r->d = qnt_dev_host();
    r->comm = comm;
    if (be->ops->math)
        Q_TRY(be->ops->math(be, &r->d, err));
    for (int p = 0; p < CAL_POINTS; p++) {
        float *max;
        const char *text;
        const int64_t dim = place_of(r, p, 0, &max, &text);

        Q_TRY(qnt_dev_alloc(&r->d, dim, 1, sizeof *max, &r->max[p], "ranges", err));
        Q_TRY(r->d.ops->clear(&r->d, r->max[p], (size_t)dim * sizeof *max, err));
    }
    if (r->search)
        Q_TRY(open_search(r, err));
out:
    return st;
}

static void end(void *self)
{
    cal_ranges *r = self;

    if (!r->d.ops)
        return;
    cal_gram_close(&r->gram);
    for (int p = 0; p < CAL_POINTS; p++) {
        r->d.ops->free(&r->d, r->max[p]);
        r->max[p] = NULL;
    }
    for (int i = 0; i < FMT_ROLES; i++) {
        q_free(r->sample[i]);
        r->sample[i] = NULL;
    }
    q_free(r->row);
    r->row = NULL;
    r->d.ops->close(&r->d);
}

q_status cal_ranges_open(cal_ranges *r, const fmt_src *src, int64_t search, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = fmt_src_model(src);

    memset(r, 0, sizeof *r);
    r->src = src;
    r->m = m;
    r->search = search;
    r->client = (cal_client){ .points = CAL_BIT(CAL_POINTS) - 1,
                              .self = r,
                              .begin = begin,
                              .end = end,
                              .observe = observe,
                              .share = share,
                              .done = done,
                              .store = store,
                              .load = load };
    if (!(r->layer = q_calloc((size_t)m->layers, sizeof *r->layer)) ||
        !(r->cost = q_calloc((size_t)m->layers, sizeof *r->cost)))
        Q_FAIL(err, Q_ENOMEM, "no memory for %lld layers", (long long)m->layers);
    for (int64_t i = 0; i < m->layers; i++)
        Q_TRY(qnt_ranges_alloc(&r->layer[i], m, err));
    r->client.bytes = cal_ranges_bytes(m, search != 0, &r->client.device_bytes);
out:
    if (st != Q_OK)
        cal_ranges_close(r);
    return st;
}

void cal_ranges_close(cal_ranges *r)
{
    for (int64_t i = 0; r->layer && i < r->m->layers; i++)
        qnt_ranges_free(&r->layer[i]);
    q_free(r->layer);
    q_free(r->cost);
    memset(r, 0, sizeof *r);
}
