/* Parts of reports.  Maps of inputs, and of keys and values, stand in two kinds of report: of a run
 * that quantizes and of one that only looks at ranges; what they have in common is drawn here,
 * where the numbers come from is the report's business. */
#include "calibrate/report_parts.h"

#include <stdio.h>
#include <string.h>

char *cal_report_path(const char *output, const char *ext)
{
    size_t n = strlen(output);

    if (n > 3 && strcmp(output + n - 3, ".h5") == 0)
        n -= 3;
    return q_format("%.*s.report.%s", (int)n, output, ext);
}

q_status cal_report_save(const fmt_report *r, const char *output, q_err *err)
{
    q_status st = Q_OK;
    char *html = cal_report_path(output, "html"), *json = cal_report_path(output, "json");

    if (!html || !json)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", output);
    Q_TRY(fmt_report_write(r, html, json, 1, err));
out:
    q_free(html);
    q_free(json);
    return st;
}

const char *cal_report_role(fmt_role role)
{
    static const char *const names[FMT_ROLES] = { [FMT_ATTN_QKV] = "q, k, v",
                                                  [FMT_ATTN_OUT] = "attention output",
                                                  [FMT_FFN_GATE_UP] = "gate and up",
                                                  [FMT_FFN_DOWN] = "down" };

    return names[role] ? names[role] : fmt_role_get(role)->name;
}

/* path between quotes where a shell needs them */
static char *quoted(const char *path)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "._-/+:@%,";
    q_buf out = { 0 };
    q_status st;

    if (*path && *path != '-' && !path[strspn(path, plain)])
        return q_strdup(path);
    st = q_buf_puts(&out, *path == '-' ? "'./" : "'", NULL);
    for (; st == Q_OK && *path; path++)
        st = *path == '\'' ? q_buf_puts(&out, "'\\''", NULL) : q_buf_put(&out, path, 1, NULL);
    if (st == Q_OK && q_buf_puts(&out, "'", NULL) == Q_OK)
        return out.data;
    q_buf_free(&out);
    return NULL;
}

char *cal_report_verify(const char *output)
{
    char *path = quoted(output);
    char *command = path ? q_format("qwen-convert --verify %s", path) : NULL;

    q_free(path);
    return command;
}

/* v: room for the maps of one role, one behind the other */
static q_status put_input(fmt_report *r, const cal_input_maps *in, fmt_role role, float *v,
                          q_err *err)
{
    const size_t layers = (size_t)in->m->layers;
    const int64_t K = fmt_dim_size(fmt_role_get(role)->cols, in->m);
    const size_t cols = (size_t)(K < FMT_MAP_COLS ? K : FMT_MAP_COLS);
    fmt_map map[CAL_INPUT_MAPS];
    char key[64], title[96];

    for (size_t i = 0; i < in->n; i++) {
        float *v_i = v + i * layers * cols;

        for (size_t l = 0; l < layers; l++)
            in->fill(v_i + l * cols, cols, in->self, i, (int64_t)l, role);
        map[i] = (fmt_map){ in->name[i], v_i };
    }
    snprintf(key, sizeof key, "input_%s", fmt_role_get(role)->name);
    snprintf(title, sizeof title, "input of %s", cal_report_role(role));
    return fmt_report_maps(r,
                           &(fmt_maps){ .key = key,
                                        .title = title,
                                        .row_label = "layer",
                                        .col_label = "channel",
                                        .rows = layers,
                                        .cols = cols,
                                        .n_channels = K,
                                        .log = 1,
                                        .map = map,
                                        .n = in->n },
                           err);
}

q_status cal_report_inputs(fmt_report *r, const cal_input_maps *in, q_err *err)
{
    q_status st = Q_OK;
    float *v = q_calloc((size_t)in->m->layers, CAL_INPUT_MAPS * FMT_MAP_COLS * sizeof *v);

    if (!v)
        Q_FAIL(err, Q_ENOMEM, "no memory for a report");
    Q_TRY(fmt_report_section(r, "Inputs of the linears", err));
    Q_TRY(fmt_report_text(r,
                          "Largest magnitude of every channel, or of a few neighbours where there "
                          "are more than 256. Bright columns are outlier channels.",
                          err));
    for (int i = 0; i < FMT_ROLES; i++)
        if (fmt_role_get((fmt_role)i)->quant)
            Q_TRY(put_input(r, in, (fmt_role)i, v, err));
out:
    q_free(v);
    return st;
}

/* ---- keys and values ------------------------------------------------------------------------- */

static q_status put_heads(fmt_report *r, const fmt_model *m, const float *kv, int values,
                          float *map, q_err *err)
{
    const size_t heads = (size_t)m->n_kv, cols = heads < FMT_MAP_COLS ? heads : FMT_MAP_COLS;
    const char *name = values ? "values" : "keys";

    for (size_t l = 0; l < (size_t)m->layers; l++)
        fmt_report_buckets(map + l * cols, kv + (2 * l + (size_t)values) * heads, heads);
    return fmt_report_maps(r,
                           &(fmt_maps){ .key = name,
                                        .title = name,
                                        .row_label = "layer",
                                        .col_label = "head",
                                        .rows = (size_t)m->layers,
                                        .cols = cols,
                                        .n_channels = m->n_kv,
                                        .log = 1,
                                        .half = 1,
                                        .map = &(fmt_map){ name, map },
                                        .n = 1 },
                           err);
}

q_status cal_report_cache(fmt_report *r, const fmt_model *m, const float *kv, q_err *err)
{
    q_status st = Q_OK;
    float *map = q_calloc((size_t)(m->layers * m->n_kv), sizeof *map);

    if (!map)
        Q_FAIL(err, Q_ENOMEM, "no memory for a report");
    Q_TRY(fmt_report_section(r, "Keys and values", err));
    Q_TRY(fmt_report_text(r,
                          "Largest magnitude per layer and key/value head, keys behind the rotary "
                          "embedding. The int8 step of a head is 1/127 of it.",
                          err));
    Q_TRY(put_heads(r, m, kv, 0, map, err));
    Q_TRY(put_heads(r, m, kv, 1, map, err));
out:
    q_free(map);
    return st;
}

/* ---- cost ------------------------------------------------------------------------------------ */

q_status cal_report_cost(fmt_report *r, const cal_cost *cost, const fmt_model *m, double seconds,
                         const cal_stages *stages, q_err *err)
{
    q_status st = Q_OK;
    fmt_fact facts[1 + CAL_STAGES_N] = { { "seconds", "This run, all that is written included",
                                           FMT_VAL_SECONDS, NULL, seconds } };
    size_t n = 1;
    const size_t layers = (size_t)m->layers;
    double *v = q_calloc(2 * layers, sizeof *v);
    const fmt_series time = { .name = "time", .y = v, .n = layers };
    const fmt_series memory = { .name = "memory", .y = v + layers, .n = layers };

    if (!v)
        Q_FAIL(err, Q_ENOMEM, "no memory for a report");
    for (size_t l = 0; cost && l < layers; l++) {
        v[l] = cost[l].seconds;
        v[layers + l] = cost[l].memory / 1e9;
    }
    Q_TRY(fmt_report_section(r, "Cost of this run", err));
    Q_TRY(fmt_report_text(r, "Differs from run to run; nothing of it is in the output.", err));
    for (int s = 0; s < CAL_STAGES_N; s++)
        if (stages->seconds[s] > 0)
            facts[n++] = (fmt_fact){ cal_stage_name((cal_stage)s), cal_stage_about((cal_stage)s),
                                     FMT_VAL_SECONDS, NULL, stages->seconds[s] };
    Q_TRY(fmt_report_facts(r, "cost", facts, n, err));
    if (!cost)
        goto out;
    Q_TRY(fmt_report_bars(r,
                          &(fmt_chart){ .key = "layer_seconds",
                                        .title = "Time of a layer",
                                        .x_label = "layer",
                                        .y_label = "seconds",
                                        .half = 1,
                                        .series = &time,
                                        .n_series = 1 },
                          err));
    Q_TRY(fmt_report_lines(r,
                           &(fmt_chart){ .key = "layer_memory",
                                         .title = "Memory of the process, the most so far",
                                         .x_label = "layer",
                                         .y_label = "GB",
                                         .half = 1,
                                         .series = &memory,
                                         .n_series = 1 },
                           err));
out:
    q_free(v);
    return st;
}
