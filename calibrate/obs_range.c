/* Ranges.  A maximum does not depend on the order in which it is taken, so threads and steps may
 * divide the rows as they like.  A value that is not finite would hide in a maximum: it ends the
 * run with the layer and the place. */
#include "calibrate/obs_range.h"

#include <math.h>
#include <string.h>

#include "calibrate/layer_f32.h"
#include "calibrate/stats_file.h"
#include "formats/base/q_half.h"
#include "quant/smooth_search.h"

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
enum { N_ROWS = sizeof rows / sizeof rows[0] };

#define STRIPE 256 /* columns of one thread at a time */

/* max[k] = max(max[k], |x[., k]|).  Bit patterns of magnitudes order like the magnitudes, NaN last.
 */
static void column_max(float *max, const float *x, int64_t n, int64_t dim)
{
#pragma omp parallel for schedule(static)
    for (int64_t k0 = 0; k0 < dim; k0 += STRIPE) {
        const int64_t width = dim - k0 < STRIPE ? dim - k0 : STRIPE;
        uint32_t m[STRIPE];

        for (int64_t k = 0; k < width; k++)
            m[k] = q_f32_to_bits(max[k0 + k]);
        for (int64_t i = 0; i < n; i++) {
            const float *row = x + i * dim + k0;

            for (int64_t k = 0; k < width; k++) {
                const uint32_t a = q_f32_to_bits(row[k]) & 0x7fffffffu;

                m[k] = a > m[k] ? a : m[k];
            }
        }
        for (int64_t k = 0; k < width; k++)
            max[k0 + k] = q_bits_to_f32(m[k]);
    }
}

static int64_t sample_rows(const cal_ranges *r)
{
    return r->search < CAL_RANGE_SAMPLE ? r->search : CAL_RANGE_SAMPLE;
}

/* Row i of the sample is token i * search / n. */
static void keep_sample(cal_ranges *r, const cal_view *v)
{
    const fmt_role role = cal_input_role(v->point);
    const int64_t n = sample_rows(r), from = r->gram.n[role]; /* tokens before this view */

    for (int64_t i = 0; i < n; i++) {
        const int64_t at = i * r->search / n - from;

        if (at >= 0 && at < v->n)
            memcpy(r->sample[role] + i * v->dim, v->x + at * v->dim, (size_t)v->dim * sizeof *v->x);
    }
}

static q_status observe(void *self, const cal_view *v, q_err *err)
{
    cal_ranges *r = self;
    qnt_ranges *l = &r->layer[v->layer];
    float *max = l->k;
    const char *text = "keys";

    for (size_t i = 0; i < N_ROWS; i++)
        if (rows[i].point == v->point) {
            max = rows[i].is_input ? l->in[rows[i].role] : l->out[rows[i].role];
            text = rows[i].text;
        }
    column_max(max, v->x, v->n, v->dim);
    for (int64_t k = 0; k < v->dim; k++)
        if (!isfinite(max[k]))
            return q_fail(err, Q_EFORMAT,
                          "layer %lld: channel %lld of the %s is not finite: is the model damaged?",
                          (long long)v->layer, (long long)k, text);
    if (r->search && (CAL_BIT(v->point) & CAL_INPUTS)) {
        keep_sample(r, v);
        return cal_gram_see(&r->gram, v, err);
    }
    return Q_OK;
}

static q_status done(void *self, int64_t layer, const char *path, q_err *err)
{
    q_status st = Q_OK;
    cal_ranges *r = self;
    qnt_layer l = { 0 };

    if (r->search) {
        qnt_smooth_inputs in = { .n = r->gram.n[FMT_ATTN_QKV], .n_x = sample_rows(r) };

        cal_gram_end(&r->gram, CAL_INPUTS);
        memcpy(in.H, r->gram.H, sizeof in.H);
        memcpy(in.x, r->sample, sizeof in.x);
        Q_TRY(cal_layer_load(&l, r->src, layer, err));
        Q_TRY(qnt_smooth_search(&r->layer[layer], &l, &in, r->m, err));
        cal_gram_begin(&r->gram, CAL_INPUTS);
    }
    if (path)
        Q_TRY(cal_stats_write_layer(path, r->m, &r->layer[layer], err));
out:
    cal_layer_free(&l);
    return st;
}

static q_status load(void *self, int64_t layer, const char *path, q_err *err)
{
    cal_ranges *r = self;

    return cal_stats_read_layer(path, r->m, &r->layer[layer], err);
}

uint64_t cal_ranges_bytes(const fmt_model *m)
{
    uint64_t bytes = cal_gram_bytes(m);

    for (int i = 0; i < FMT_ROLES; i++) {
        const fmt_role_row *row = fmt_role_get((fmt_role)i);

        if (row->quant)
            bytes += (uint64_t)(fmt_role_rows(row, m) + CAL_RANGE_SAMPLE) *
                     (uint64_t)fmt_dim_size(row->cols, m) * sizeof(float);
    }
    return bytes;
}

static q_status open_search(cal_ranges *r, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(cal_gram_open(&r->gram, r->m, err));
    for (int i = 0; i < FMT_ROLES; i++) {
        const fmt_role_row *row = fmt_role_get((fmt_role)i);
        const size_t K = (size_t)fmt_dim_size(row->cols, r->m);

        if (row->quant && !(r->sample[i] = q_calloc(CAL_RANGE_SAMPLE * K, sizeof(float))))
            Q_FAIL(err, Q_ENOMEM, "no memory for a sample of %zu inputs", K);
    }
    r->client.bytes = cal_ranges_bytes(r->m);
out:
    return st;
}

q_status cal_ranges_open(cal_ranges *r, const fmt_src *src, int64_t search, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = fmt_src_model(src);

    memset(r, 0, sizeof *r);
    r->src = src;
    r->m = m;
    r->search = search;
    r->client = (cal_client){
        .points = CAL_BIT(CAL_POINTS) - 1, .self = r, .observe = observe, .done = done, .load = load
    };
    if (!(r->layer = q_calloc((size_t)m->layers, sizeof *r->layer)))
        Q_FAIL(err, Q_ENOMEM, "no memory for %lld layers", (long long)m->layers);
    for (int64_t i = 0; i < m->layers; i++)
        Q_TRY(qnt_ranges_alloc(&r->layer[i], m, err));
    if (search)
        Q_TRY(open_search(r, err));
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
    cal_gram_close(&r->gram);
    for (int i = 0; i < FMT_ROLES; i++)
        q_free(r->sample[i]);
    memset(r, 0, sizeof *r);
}
