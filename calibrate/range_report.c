/* What calibration saw.  An int8 step is the largest magnitude over 127, so a map of magnitudes is
 * a map of steps: a bright cell is a coarse step for everything that shares it. */
#include "calibrate/range_report.h"

#include <math.h>
#include <stdio.h>

#include "calibrate/report_parts.h"
#include "quant/rtn.h"

q_status cal_ranges_make(qnt_ranges **out, const fmt_model *m, q_err *err)
{
    q_status st = Q_OK;
    qnt_ranges *r = q_calloc((size_t)m->layers, sizeof *r);

    if (!r)
        Q_FAIL(err, Q_ENOMEM, "no memory for the ranges of %lld layers", (long long)m->layers);
    for (int64_t i = 0; i < m->layers; i++)
        Q_TRY(qnt_ranges_alloc(&r[i], m, err));
    *out = r;
    r = NULL;
out:
    if (r)
        cal_stats_free(r, m);
    return st;
}

static q_status put_run(fmt_report *r, const cal_range_report *o, q_err *err)
{
    q_status st = Q_OK;
    const int chosen = o->after && o->alpha < 0;
    char *verify = cal_report_verify(o->output);

    if (!verify)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", o->output);
    Q_TRY(fmt_report_section(r, "How it was made", err));
    Q_TRY(fmt_report_facts(
        r, "run",
        (fmt_fact[]){
            { "input", "Model", FMT_VAL_TEXT, o->input, 0 },
            { "output", "Output", FMT_VAL_TEXT, o->output, 0 },
            { "smooth", "Smoothed", FMT_VAL_TEXT, o->after ? "yes" : "no", 0 },
            { "alpha", "Alpha", o->after && !chosen ? FMT_VAL_REAL : FMT_VAL_TEXT,
              chosen ? "chosen for each linear" : NULL, o->alpha },
            { "kv_cache", "Scales of an int8 key/value cache", FMT_VAL_TEXT, o->kv ? "yes" : "no",
              0 },
            { "stats", "Statistics taken from", FMT_VAL_TEXT, o->stats, 0 },
            { "data", "Calibrated on", FMT_VAL_TEXT, o->stats ? NULL : o->data, 0 },
            { "bytes_before", "Model, before", FMT_VAL_BYTES, NULL, (double)fmt_src_bytes(o->src) },
            { "bytes", "Output, all files", FMT_VAL_BYTES, NULL, (double)o->bytes },
            { "root_sha256", "SHA-256 of the output", FMT_VAL_CODE, o->root_sha256, 0 },
            { "verify", "Check it", FMT_VAL_CODE, verify, 0 },
        },
        11, err));
out:
    q_free(verify);
    return st;
}

static q_status put_gate(fmt_report *r, const cal_kv_report *g, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(fmt_report_section(r, "What an int8 cache costs", err));
    Q_TRY(fmt_report_facts(
        r, "kv_cost",
        (fmt_fact[]){
            { "ppl_float", "Perplexity, float cache", FMT_VAL_FIXED, NULL, g->ppl_float },
            { "ppl", "Perplexity, int8 cache", FMT_VAL_FIXED, NULL, g->ppl },
            { "ppl_delta", "Difference", FMT_VAL_REAL, NULL, g->ppl_delta },
            { "kld_mean", "KL divergence, mean", FMT_VAL_REAL, NULL, g->kld_mean },
            { "top1", "Same first choice", FMT_VAL_PERCENT, NULL, g->top1 },
        },
        5, err));
out:
    return st;
}

/* What --smoothquant auto chose, one curve for each linear. */
static q_status put_alphas(fmt_report *r, const cal_range_report *o, q_err *err)
{
    q_status st = Q_OK;
    const size_t layers = (size_t)fmt_src_model(o->src)->layers;
    double *v = q_malloc(QNT_SMOOTHED * layers * sizeof *v);
    fmt_series s[QNT_SMOOTHED];

    if (!v)
        Q_FAIL(err, Q_ENOMEM, "no memory for the exponents of %zu layers", layers);
    for (size_t i = 0; i < QNT_SMOOTHED; i++) {
        for (size_t l = 0; l < layers; l++)
            v[i * layers + l] = o->ranges[l].alpha[qnt_smooth_order[i]];
        s[i] = (fmt_series){ .name = cal_report_role(qnt_smooth_order[i]),
                             .y = v + i * layers,
                             .n = layers };
    }
    Q_TRY(fmt_report_section(r, "Exponents of smoothing", err));
    Q_TRY(fmt_report_lines(r,
                           &(fmt_chart){ .key = "alphas",
                                         .title = "alpha of each layer",
                                         .note = "chosen by the error of the int8 product",
                                         .x_label = "layer",
                                         .y_label = "alpha",
                                         .series = s,
                                         .n_series = QNT_SMOOTHED },
                           err));
out:
    q_free(v);
    return st;
}

/* ---- inputs of linears ----------------------------------------------------------------------- */

/* How far the largest channel of an input stands out: over the mean of the others' magnitudes. */
static double peak(const float *v, int64_t n)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += (double)v[i];
    return (double)qnt_absmax(v, n) * (double)n / sum; /* NaN: an input that was always zero */
}

static q_status put_peaks(fmt_report *r, const cal_range_report *o, fmt_role role, double *v,
                          q_err *err)
{
    const fmt_model *m = fmt_src_model(o->src);
    const size_t layers = (size_t)m->layers;
    const int64_t K = fmt_dim_size(fmt_role_get(role)->cols, m);
    const fmt_series s[] = { { .name = "before smoothing", .y = v, .n = layers },
                             { .name = "after smoothing", .y = v + layers, .n = layers } };
    char key[64];

    for (size_t l = 0; l < layers; l++) {
        v[l] = peak(o->ranges[l].in[role], K);
        v[layers + l] = o->after ? peak(o->after[l].in[role], K) : NAN;
    }
    snprintf(key, sizeof key, "peak_%s", fmt_role_get(role)->name);
    return fmt_report_bars(r,
                           &(fmt_chart){ .key = key,
                                         .title = cal_report_role(role),
                                         .x_label = "layer",
                                         .y_label = "largest / mean",
                                         .log_y = 1,
                                         .half = 1,
                                         .series = s,
                                         .n_series = o->after ? 2 : 1 },
                           err);
}

static void fill_input(float *out, size_t cols, const void *self, size_t map, int64_t layer,
                       fmt_role role)
{
    const cal_range_report *o = self;
    const int64_t K = fmt_dim_size(fmt_role_get(role)->cols, fmt_src_model(o->src));

    (void)cols;
    fmt_report_buckets(out, (map ? o->after : o->ranges)[layer].in[role], (size_t)K);
}

static q_status put_inputs(fmt_report *r, const cal_range_report *o, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = fmt_src_model(o->src);
    double *peaks = q_calloc((size_t)m->layers, 2 * sizeof *peaks);

    if (!peaks)
        Q_FAIL(err, Q_ENOMEM, "no memory for a report");
    Q_TRY(fmt_report_section(r, "How far channels stand out", err));
    Q_TRY(fmt_report_text(r,
                          "Range of the largest input channel over the mean range of all: one "
                          "int8 step serves all channels, so that many times coarser it is than "
                          "most of them need.",
                          err));
    for (int i = 0; i < FMT_ROLES; i++)
        if (fmt_role_get((fmt_role)i)->quant)
            Q_TRY(put_peaks(r, o, (fmt_role)i, peaks, err));
    Q_TRY(cal_report_inputs(r,
                            &(cal_input_maps){ .m = m,
                                               .name = { "before smoothing", "after smoothing" },
                                               .n = o->after ? 2 : 1,
                                               .fill = fill_input,
                                               .self = o },
                            err));
out:
    q_free(peaks);
    return st;
}

/* ---- keys and values ------------------------------------------------------------------------- */

/* As the cache will see them. */
static q_status put_cache(fmt_report *r, const cal_range_report *o, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = fmt_src_model(o->src);
    const qnt_ranges *ranges = o->after ? o->after : o->ranges;
    float *kv = q_calloc((size_t)(m->layers * m->n_kv), 2 * sizeof *kv);

    if (!kv)
        Q_FAIL(err, Q_ENOMEM, "no memory for a report");
    for (int64_t l = 0; l < m->layers; l++)
        qnt_ranges_heads(kv + 2 * l * m->n_kv, &ranges[l], m);
    Q_TRY(cal_report_cache(r, m, kv, err));
out:
    q_free(kv);
    return st;
}

q_status cal_range_report_write(const cal_range_report *o, q_err *err)
{
    q_status st = Q_OK;
    fmt_report *r = NULL;
    char *title = q_format("%s: %s%s%s", o->output, o->after ? "SmoothQuant" : "",
                           o->after && o->kv ? ", " : "", o->kv ? "int8 key/value cache" : "");

    if (!title)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", o->output);
    Q_TRY(fmt_report_new(&r, title, err));
    Q_TRY(put_run(r, o, err));
    if (o->after && o->alpha < 0)
        Q_TRY(put_alphas(r, o, err));
    if (o->gate)
        Q_TRY(put_gate(r, o->gate, err));
    if (o->kv)
        Q_TRY(put_cache(r, o, err));
    Q_TRY(put_inputs(r, o, err));
    Q_TRY(cal_report_cost(r, o->cost, fmt_src_model(o->src), o->seconds, o->stages, err));
    Q_TRY(cal_report_save(r, o->output, err));
out:
    q_free(title);
    fmt_report_free(r);
    return st;
}
