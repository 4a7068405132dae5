/* What a quantizing run shows.  Every section is one function over the numbers of the run; those of
 * a layer that was taken from a job are the ones it had when it was made. */
#include "calibrate/quant_report.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "calibrate/report_parts.h"

/* ---- the run --------------------------------------------------------------------------------- */

static const char *yes(int v)
{
    return v ? "yes" : "no";
}

static q_status put_run(fmt_report *r, const cal_quant_report *o, q_err *err)
{
    q_status st = Q_OK;
    const cal_stats_info *info = o->info;
    const cal_quant_opts *q = o->quant;
    const fmt_val_kind counted = info ? FMT_VAL_INT : FMT_VAL_TEXT;
    char *verify = cal_report_verify(o->output);
    const fmt_fact fact[] = {
        { "input", "Model", FMT_VAL_TEXT, o->input, 0 },
        { "output", "Archive", FMT_VAL_TEXT, o->output, 0 },
        { "method", "Method", FMT_VAL_TEXT, o->method, 0 },
        { "bits", "Bits", FMT_VAL_INT, NULL, q->bits },
        { "group", q->group < 0 ? "Group (-1: whole rows)" : "Group", FMT_VAL_INT, NULL,
          (double)q->group },
        { "symmetric", "Symmetric", FMT_VAL_TEXT, yes(q->sym), 0 },
        { "act_order", "Columns by input (act-order)", FMT_VAL_TEXT,
          q->gptq ? yes(q->act_order) : NULL, 0 },
        { "sequential", "Linear by linear (true-sequential)", FMT_VAL_TEXT,
          q->gptq ? yes(q->sequential) : NULL, 0 },
        { "factors", "Factors of AWQ", FMT_VAL_TEXT, info ? yes(q->factors) : NULL, 0 },
        { "clip", "Narrowed ranges", FMT_VAL_TEXT, info && !q->gptq ? yes(q->clip) : NULL, 0 },
        { "prompt", "Calibration", FMT_VAL_TEXT, info ? info->prompt : "none", 0 },
        { "samples", "Samples", counted, NULL, info ? (double)info->samples : 0 },
        { "tokens", "Tokens", counted, NULL, info ? (double)info->tokens : 0 },
        { "seed", "Seed", counted, NULL, (double)o->seed },
        { "data_sha256", "SHA-256 of the samples", FMT_VAL_CODE, info ? info->data_sha256 : NULL,
          0 },
        { "model_sha256", "Fingerprint of the model", FMT_VAL_CODE,
          info ? info->model_sha256 : NULL, 0 },
        { "root_sha256", "SHA-256 of the archive", FMT_VAL_CODE, o->root_sha256, 0 },
        { "verify", "Check it", FMT_VAL_CODE, verify, 0 },
    };

    if (!verify)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", o->output);
    Q_TRY(fmt_report_section(r, "How it was made", err));
    Q_TRY(fmt_report_facts(r, "run", fact, sizeof fact / sizeof fact[0], err));
out:
    q_free(verify);
    return st;
}

/* ---- sizes ----------------------------------------------------------------------------------- */

static q_status put_sizes(fmt_report *r, const cal_quant_report *o, q_err *err)
{
    static const fmt_col col[] = { { "Tensors", FMT_VAL_TEXT },
                                   { "Parameters", FMT_VAL_INT },
                                   { "Before", FMT_VAL_BYTES },
                                   { "After", FMT_VAL_BYTES },
                                   { "Bits each", FMT_VAL_REAL } };
    enum { COLS = sizeof col / sizeof col[0] };
    const fmt_model *m = fmt_src_model(o->src);
    fmt_cell cell[(FMT_ROLES + 2) * COLS] = { 0 };
    const double all = (double)fmt_src_bytes(o->src), params = (double)fmt_model_params(m);
    double before = 0, after = 0, sum = 0;
    size_t n = 0;

    for (int i = 0; i < FMT_ROLES; i++) {
        const fmt_role_row *row = fmt_role_get((fmt_role)i);
        const double N = (double)fmt_role_rows(row, m), K = (double)fmt_dim_size(row->cols, m);
        const double group = o->quant->group < 0 ? K : (double)o->quant->group;
        const double count = N * K * (double)m->layers, bits = o->quant->bits;
        const double codes = count * bits / 8 + count / K * ceil(K / group) * (2 + bits / 8);
        const fmt_ref ref = { (fmt_role)i, 0, FMT_WEIGHT };

        if (!row->quant)
            continue;
        cell[n].text = cal_report_role((fmt_role)i);
        cell[n + 1].v = count;
        cell[n + 2].v = count * (double)fmt_dtype_bytes(fmt_src_dtype(o->src, ref));
        cell[n + 3].v = codes;
        cell[n + 4].v = codes * 8 / count;
        sum += count;
        before += cell[n + 2].v;
        after += codes;
        n += COLS;
    }
    cell[n] = (fmt_cell){ .text = "embedding, output layer, norms, biases" };
    cell[n + 1].v = params - sum;
    cell[n + 2].v = cell[n + 3].v = all - before;
    cell[n + 4].v = (all - before) * 8 / (params - sum);
    n += COLS;
    cell[n] = (fmt_cell){ .text = "all; after: the archive as it is, with tokenizer" };
    cell[n + 1].v = params;
    cell[n + 2].v = all;
    cell[n + 3].v = (double)o->bytes;
    cell[n + 4].v = (double)o->bytes * 8 / params;
    n += COLS;
    return fmt_report_table(r, "sizes", "Sizes", col, COLS, cell, n / COLS, err);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static const cal_quant_stat *stat_of(const cal_quant_report *o, int64_t layer, fmt_role role)
{
    return &o->result->stat[layer * FMT_ROLES + role];
}

static q_status put_errors(fmt_report *r, const cal_quant_report *o, q_err *err)
{
    q_status st = Q_OK;
    const size_t layers = (size_t)fmt_src_model(o->src)->layers;
    double *v = q_calloc(2 * layers, sizeof *v);

    if (!v)
        Q_FAIL(err, Q_ENOMEM, "no memory for a report");
    Q_TRY(fmt_report_section(r, "What the outputs lose", err));
    Q_TRY(fmt_report_text(r,
                          "Error of the output of a linear in relation to the output, "
                          "|(W - W')X|^2 / |WX|^2 over the calibration data, with all layers "
                          "before it quantized. Less is better.",
                          err));
    for (int i = 0; i < FMT_ROLES; i++) {
        const fmt_series s[] = { { .name = "rounded to nearest", .y = v, .n = layers },
                                 { .name = o->method, .y = v + layers, .n = layers } };
        char key[64];

        if (!fmt_role_get((fmt_role)i)->quant)
            continue;
        for (size_t l = 0; l < layers; l++) {
            v[l] = stat_of(o, (int64_t)l, (fmt_role)i)->nearest;
            v[layers + l] = stat_of(o, (int64_t)l, (fmt_role)i)->error;
        }
        snprintf(key, sizeof key, "error_%s", fmt_role_get((fmt_role)i)->name);
        Q_TRY(fmt_report_bars(r,
                              &(fmt_chart){ .key = key,
                                            .title = cal_report_role((fmt_role)i),
                                            .x_label = "layer",
                                            .y_label = "relative error",
                                            .log_y = 1,
                                            .half = 1,
                                            .series = s,
                                            .n_series = 2 },
                              err));
    }
out:
    q_free(v);
    return st;
}

#define WORST 10

/* The linears with the largest errors, as indices of stat; returns how many. */
static size_t find_worst(const cal_quant_report *o, int64_t worst[WORST])
{
    const int64_t n = fmt_src_model(o->src)->layers * FMT_ROLES;
    const cal_quant_stat *s = o->result->stat;
    size_t found = 0;

    for (int64_t i = 0; i < n; i++) {
        size_t at = found;

        if (!fmt_role_get((fmt_role)(i % FMT_ROLES))->quant)
            continue;
        while (at > 0 && s[worst[at - 1]].error < s[i].error)
            at--;
        if (at == WORST)
            continue;
        found += found < WORST;
        memmove(worst + at + 1, worst + at, (found - at - 1) * sizeof *worst);
        worst[at] = i;
    }
    return found;
}

static const fmt_col linear_col[] = {
    { "Layer", FMT_VAL_INT },       { "Linear", FMT_VAL_TEXT },     { "Error", FMT_VAL_REAL },
    { "To nearest", FMT_VAL_REAL }, { "Ratio", FMT_VAL_REAL },      { "Damping", FMT_VAL_REAL },
    { "In f64", FMT_VAL_TEXT },     { "Dead inputs", FMT_VAL_INT }, { "Alpha", FMT_VAL_REAL },
};
enum { LINEAR_COLS = sizeof linear_col / sizeof linear_col[0] };

/* c [LINEAR_COLS]: the linear with index i of stat */
static void put_linear(fmt_cell *c, const cal_quant_report *o, int64_t i)
{
    const cal_quant_stat *s = &o->result->stat[i];

    c[0].v = (double)(i / FMT_ROLES);
    c[1].text = cal_report_role((fmt_role)(i % FMT_ROLES));
    c[2].v = s->error;
    c[3].v = s->nearest;
    c[4].v = s->error / s->nearest;
    c[5].v = o->quant->gptq ? s->damp : NAN;
    c[6].text = o->quant->gptq ? yes(s->f64 != 0) : NULL;
    c[7].v = o->quant->gptq ? (double)s->dead : NAN;
    c[8].v = o->quant->factors && !o->quant->given ? s->alpha : NAN;
}

static q_status put_worst(fmt_report *r, const cal_quant_report *o, q_err *err)
{
    fmt_cell cell[WORST * LINEAR_COLS] = { 0 };
    int64_t worst[WORST];
    const size_t n = find_worst(o, worst);

    for (size_t i = 0; i < n; i++)
        put_linear(cell + i * LINEAR_COLS, o, worst[i]);
    return fmt_report_table(r, "worst", "The linears with the largest errors", linear_col,
                            LINEAR_COLS, cell, n, err);
}

/* ---- codes ----------------------------------------------------------------------------------- */

/* Means over the layers. */
static q_status put_codes(fmt_report *r, const cal_quant_report *o, q_err *err)
{
    const int64_t layers = fmt_src_model(o->src)->layers;
    double v[FMT_ROLES][CAL_CODE_BINS] = { 0 }, ends = 0;
    fmt_series s[FMT_ROLES];
    char label[CAL_CODE_BINS][16], note[128];
    const char *labels[CAL_CODE_BINS];
    size_t n = 0;

    for (int i = 0; i < FMT_ROLES; i++) {
        if (!fmt_role_get((fmt_role)i)->quant)
            continue;
        for (int64_t l = 0; l < layers; l++) {
            ends += (double)stat_of(o, l, (fmt_role)i)->ends / (double)layers;
            for (int c = 0; c < CAL_CODE_BINS; c++)
                v[n][c] += (double)stat_of(o, l, (fmt_role)i)->codes[c] / (double)layers;
        }
        s[n] = (fmt_series){ .name = cal_report_role((fmt_role)i), .y = v[n], .n = CAL_CODE_BINS };
        n++;
    }
    for (int c = 0; c < CAL_CODE_BINS; c++) {
        snprintf(label[c], sizeof label[c], o->quant->bits == 8 ? "%d.." : "%d",
                 o->quant->bits == 8 ? c * CAL_CODE_BINS : c);
        labels[c] = label[c];
    }
    snprintf(note, sizeof note, "share of all; %.2f %% are the smallest or the largest code",
             100 * ends / (double)n);
    return fmt_report_bars(r,
                           &(fmt_chart){ .key = "codes",
                                         .title = "Codes",
                                         .note = note,
                                         .y_label = "share",
                                         .series = s,
                                         .n_series = n,
                                         .labels = labels },
                           err);
}

/* ---- solver ---------------------------------------------------------------------------------- */

static double damp_asked(const cal_quant_report *o)
{
    return o->quant->damp > 0 ? o->quant->damp : 0.01;
}

static int is_raised(const cal_quant_report *o, const cal_quant_stat *s)
{
    return s->damp > 1.001 * damp_asked(o);
}

#define ODD 20

/* The first linears that needed more damping than was asked for, or f64, or have inputs that never
 * were. */
static q_status put_odd(fmt_report *r, const cal_quant_report *o, q_err *err)
{
    fmt_cell cell[ODD * LINEAR_COLS] = { 0 };
    const int64_t n = fmt_src_model(o->src)->layers * FMT_ROLES;
    const cal_quant_stat *s = o->result->stat;
    size_t found = 0;

    for (int64_t i = 0; i < n && found < ODD; i++)
        if (is_raised(o, &s[i]) || s[i].f64 || s[i].dead > 0)
            put_linear(cell + found++ * LINEAR_COLS, o, i);
    if (found == 0)
        return Q_OK;
    return fmt_report_table(r, "odd", "Linears with more damping, in f64, or with dead inputs",
                            linear_col, LINEAR_COLS, cell, found, err);
}

static q_status put_solver(fmt_report *r, const cal_quant_report *o, q_err *err)
{
    q_status st = Q_OK;
    const int64_t n = fmt_src_model(o->src)->layers * FMT_ROLES;
    double most = 0, dead = 0, raised = 0, wide = 0;

    if (!o->quant->gptq)
        return Q_OK;
    for (int64_t i = 0; i < n; i++) {
        const cal_quant_stat *s = &o->result->stat[i];

        most = s->damp > most ? s->damp : most;
        raised += is_raised(o, s);
        wide += (double)s->f64;
        dead += (double)s->dead;
    }
    Q_TRY(fmt_report_facts(r, "solver",
                           (fmt_fact[]){
                               { "damp", "Damping asked for", FMT_VAL_REAL, NULL, damp_asked(o) },
                               { "damp_most", "Most that was used", FMT_VAL_REAL, NULL, most },
                               { "raised", "Linears that needed more", FMT_VAL_INT, NULL, raised },
                               { "f64", "Linears that needed f64", FMT_VAL_INT, NULL, wide },
                               { "dead", "Inputs that were always zero", FMT_VAL_INT, NULL, dead },
                           },
                           5, err));
    Q_TRY(put_odd(r, o, err));
out:
    return st;
}

/* ---- factors --------------------------------------------------------------------------------- */

static q_status put_curves(fmt_report *r, const cal_quant_report *o, fmt_role role, double *v,
                           fmt_series *s, char (*name)[48], q_err *err)
{
    const size_t layers = (size_t)fmt_src_model(o->src)->layers;
    double *x = v + layers * QNT_AWQ_STEPS;
    char key[64];

    for (int a = 0; a < QNT_AWQ_STEPS; a++)
        x[a] = (double)a / QNT_AWQ_STEPS;
    for (size_t l = 0; l < layers; l++) {
        const cal_quant_stat *stat = stat_of(o, (int64_t)l, role);
        double *y = v + l * QNT_AWQ_STEPS;

        for (int a = 0; a < QNT_AWQ_STEPS; a++)
            y[a] = (double)stat->curve[stat->by_weight != 0][a] / stat->nearest;
        snprintf(name[l], sizeof name[l], "layer %zu%s", l, stat->by_weight ? ", by weight" : "");
        s[l] = (fmt_series){ .name = name[l], .x = x, .y = y, .n = QNT_AWQ_STEPS };
    }
    snprintf(key, sizeof key, "alpha_%s", fmt_role_get(role)->name);
    return fmt_report_lines(r,
                            &(fmt_chart){ .key = key,
                                          .title = cal_report_role(role),
                                          .x_label = "alpha",
                                          .y_label = "error / nearest",
                                          .half = 1,
                                          .series = s,
                                          .n_series = layers },
                            err);
}

static q_status put_factors(fmt_report *r, const cal_quant_report *o, q_err *err)
{
    q_status st = Q_OK;
    const size_t layers = (size_t)fmt_src_model(o->src)->layers;
    double *v = q_calloc((layers + 1) * QNT_AWQ_STEPS + layers * FMT_ROLES, sizeof *v);
    double *alpha = v ? v + (layers + 1) * QNT_AWQ_STEPS : NULL;
    fmt_series *s = q_calloc(layers, sizeof *s);
    char(*name)[48] = q_calloc(layers, sizeof *name);
    size_t n = 0;

    if (!v || !s || !name)
        Q_FAIL(err, Q_ENOMEM, "no memory for a report");
    for (size_t i = 0; i < layers * FMT_ROLES; i++)
        if (fmt_role_get((fmt_role)(i % FMT_ROLES))->quant)
            alpha[n++] = o->result->stat[i].alpha;
    Q_TRY(fmt_report_section(r, "Factors", err));
    Q_TRY(fmt_report_text(r,
                          "Channels are scaled by x^alpha, or by x^alpha / w^(1 - alpha), before "
                          "they are rounded; the alpha with the least error is taken. Curves "
                          "show the kind that was chosen, a line for each layer from dark (first) "
                          "to light (last).",
                          err));
    Q_TRY(fmt_report_hist(r,
                          &(fmt_chart){ .key = "alphas",
                                        .title = "Alphas that were chosen",
                                        .x_label = "alpha",
                                        .y_label = "linears" },
                          alpha, n, 0, 1, QNT_AWQ_STEPS, err));
    for (int i = 0; i < FMT_ROLES; i++)
        if (fmt_role_get((fmt_role)i)->quant)
            Q_TRY(put_curves(r, o, (fmt_role)i, v, s, name, err));
out:
    q_free(v);
    q_free(s);
    q_free(name);
    return st;
}

/* ---- inputs ---------------------------------------------------------------------------------- */

/* With factors: map 0 before them, map 1 as it was rounded for. */
static void fill_input(float *out, size_t cols, const void *self, size_t map, int64_t layer,
                       fmt_role role)
{
    const cal_quant_report *o = self;
    const cal_quant_stat *s = stat_of(o, layer, role);

    memcpy(out, map == 0 && o->quant->factors ? s->input_raw : s->input, cols * sizeof *out);
}

q_status cal_quant_report_write(const cal_quant_report *o, q_err *err)
{
    q_status st = Q_OK;
    fmt_report *r = NULL;
    char *title = q_format("%s: %d bits by %s", o->output, o->quant->bits, o->method);

    assert(!o->result == !o->info);
    if (!title)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", o->output);
    Q_TRY(fmt_report_new(&r, title, err));
    Q_TRY(put_run(r, o, err));
    Q_TRY(put_sizes(r, o, err));
    if (o->result) {
        Q_TRY(put_errors(r, o, err));
        Q_TRY(put_worst(r, o, err));
        Q_TRY(put_solver(r, o, err));
        Q_TRY(put_codes(r, o, err));
        if (o->quant->factors && !o->quant->given)
            Q_TRY(put_factors(r, o, err));
        Q_TRY(
            cal_report_inputs(r,
                              &(cal_input_maps){ .m = fmt_src_model(o->src),
                                                 .name = { "as the model has it", "with factors" },
                                                 .n = o->quant->factors ? 2 : 1,
                                                 .fill = fill_input,
                                                 .self = o },
                              err));
        Q_TRY(cal_report_cache(r, fmt_src_model(o->src), o->result->kv, err));
    }
    Q_TRY(cal_report_cost(r, o->result ? o->result->cost : NULL, fmt_src_model(o->src), o->seconds,
                          o->stages, err));
    Q_TRY(cal_report_save(r, o->output, err));
out:
    q_free(title);
    fmt_report_free(r);
    return st;
}
