/* Ranges.  A maximum does not depend on the order in which it is taken, so threads and steps may
 * divide the rows as they like.  A value that is not finite would hide in a maximum: it ends the
 * run with the layer and the place. */
#include "calibrate/obs_range.h"

#include <math.h>
#include <string.h>

#include "calibrate/stats_file.h"
#include "formats/base/q_half.h"

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
    return Q_OK;
}

static q_status done(void *self, int64_t layer, const char *path, q_err *err)
{
    cal_ranges *r = self;

    return path ? cal_stats_write_layer(path, r->m, &r->layer[layer], err) : Q_OK;
}

static q_status load(void *self, int64_t layer, const char *path, q_err *err)
{
    cal_ranges *r = self;

    return cal_stats_read_layer(path, r->m, &r->layer[layer], err);
}

q_status cal_ranges_open(cal_ranges *r, const fmt_model *m, q_err *err)
{
    q_status st = Q_OK;

    memset(r, 0, sizeof *r);
    r->m = m;
    r->client = (cal_client){
        .points = CAL_BIT(CAL_POINTS) - 1, .self = r, .observe = observe, .done = done, .load = load
    };
    if (!(r->layer = q_calloc((size_t)m->layers, sizeof *r->layer)))
        Q_FAIL(err, Q_ENOMEM, "no memory for %lld layers", (long long)m->layers);
    for (int64_t i = 0; i < m->layers; i++)
        Q_TRY(qnt_ranges_alloc(&r->layer[i], m, err));
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
    memset(r, 0, sizeof *r);
}
