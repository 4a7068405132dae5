/* Rows of figures and their three forms.
 *
 * The column table says how a figure is called in JSON and CSV, and how the table for people shows
 * it: two lines of heading, a width, digits, and a divisor for large units.  Columns of width 0 are
 * left out there, so that a line stays within 120 characters.  A figure that was not measured is
 * "-" in the table, empty in CSV, null in JSON. */
#include "runtime/bench_report.h"

#include <assert.h>
#include <math.h>
#include <string.h>

typedef struct column {
    const char *key;
    const char *head[2];
    int width, digits;
    double unit; /* the table shows value / unit */
    int count;   /* 1: a whole number */
} column;

static const column columns[RT_BENCH_COLS] = {
    [RT_BENCH_BATCH] = { "batch", { "", "batch" }, 5, 0, 1, 1 },
    [RT_BENCH_REQUESTS] = { "requests", { "", "" }, 0, 0, 1, 1 },
    [RT_BENCH_PROMPT_TOKENS] = { "prompt_tokens", { "", "" }, 0, 0, 1, 1 },
    [RT_BENCH_NEW_TOKENS] = { "new_tokens", { "", "" }, 0, 0, 1, 1 },
    [RT_BENCH_ELAPSED_S] = { "elapsed_s", { "", "seconds" }, 8, 3, 1, 0 },
    [RT_BENCH_REQUESTS_S] = { "requests_s", { "requests", "/s" }, 8, 2, 1, 0 },
    [RT_BENCH_TOKENS_S] = { "tokens_s", { "tokens/s", "in + out" }, 9, 1, 1, 0 },
    [RT_BENCH_OUTPUT_TOKENS_S] = { "output_tokens_s", { "tokens/s", "out" }, 9, 1, 1, 0 },
    [RT_BENCH_PREFILL_TOK_S] = { "prefill_tok_s", { "prefill", "tokens/s" }, 9, 1, 1, 0 },
    [RT_BENCH_PREFILL_TFLOPS] = { "prefill_tflops", { "prefill", "TFLOP/s" }, 7, 2, 1, 0 },
    [RT_BENCH_PREFILL_PCT] = { "prefill_pct", { "% of", "peak" }, 5, 1, 1, 0 },
    [RT_BENCH_DECODE_TOK_S] = { "decode_tok_s", { "decode", "tokens/s" }, 9, 1, 1, 0 },
    [RT_BENCH_DECODE_MS] = { "decode_ms", { "decode", "ms/step" }, 8, 3, 1, 0 },
    [RT_BENCH_STEP_WEIGHTS] = { "step_weight_bytes", { "", "" }, 0, 0, 1, 1 },
    [RT_BENCH_STEP_KV] = { "step_kv_bytes", { "", "" }, 0, 0, 1, 0 },
    [RT_BENCH_GB_S] = { "gb_s", { "decode", "GB/s" }, 7, 2, 1, 0 },
    [RT_BENCH_BANDWIDTH_PCT] = { "bandwidth_pct", { "% of", "read" }, 5, 1, 1, 0 },
    [RT_BENCH_MEMORY] = { "memory_bytes", { "KV + work", "MB" }, 9, 1, 1e6, 1 },
    [RT_BENCH_USED] = { "used_bytes", { "memory", "MB" }, 8, 0, 1e6, 1 },
};

static double median_of(const rt_bench_run *run, size_t n, size_t at)
{
    double v[RT_BENCH_MAX_RUNS];

    for (size_t i = 0; i < n; i++)
        memcpy(&v[i], (const char *)&run[i] + at, sizeof v[i]);
    return rt_bench_median(v, n);
}

void rt_bench_fill(rt_bench_row *row, int batch, const rt_bench_run *run, size_t n_run,
                   const rt_bench_costs *costs)
{
    const rt_bench_run *r = &run[0]; /* the counts are the same in all */
    double *v = row->v;
    double elapsed, prefill, decode;

    assert(n_run >= 1 && n_run <= RT_BENCH_MAX_RUNS);
    elapsed = median_of(run, n_run, offsetof(rt_bench_run, elapsed_s));
    prefill = median_of(run, n_run, offsetof(rt_bench_run, prefill_s));
    decode = median_of(run, n_run, offsetof(rt_bench_run, decode_s));
    rt_bench_fill_error(row, batch, costs->memory, "");
    v[RT_BENCH_REQUESTS] = (double)r->requests;
    v[RT_BENCH_PROMPT_TOKENS] = (double)r->prompt_tokens;
    v[RT_BENCH_NEW_TOKENS] = (double)r->new_tokens;
    v[RT_BENCH_ELAPSED_S] = elapsed;
    v[RT_BENCH_REQUESTS_S] = (double)r->requests / elapsed;
    v[RT_BENCH_TOKENS_S] = (double)(r->prompt_tokens + r->new_tokens) / elapsed;
    v[RT_BENCH_OUTPUT_TOKENS_S] = (double)r->new_tokens / elapsed;
    v[RT_BENCH_STEP_WEIGHTS] = (double)costs->step_weights;
    v[RT_BENCH_USED] = (double)costs->used;
    if (r->prefill_tokens > 0) {
        const double flop_s = (double)r->prefill_tokens / prefill * costs->token_flop;

        v[RT_BENCH_PREFILL_TOK_S] = (double)r->prefill_tokens / prefill;
        v[RT_BENCH_PREFILL_TFLOPS] = flop_s / 1e12;
        if (costs->peak > 0)
            v[RT_BENCH_PREFILL_PCT] = 100 * flop_s / costs->peak;
    }
    if (r->decode_steps > 0) {
        const double steps = (double)r->decode_steps;
        const double kv = (double)r->kv_tokens * (double)costs->kv_token / steps;
        const double bytes_s = ((double)costs->step_weights + kv) * steps / decode;

        v[RT_BENCH_DECODE_TOK_S] = (double)r->decode_tokens / decode;
        v[RT_BENCH_DECODE_MS] = 1e3 * decode / steps;
        v[RT_BENCH_STEP_KV] = kv;
        v[RT_BENCH_GB_S] = bytes_s / 1e9;
        v[RT_BENCH_BANDWIDTH_PCT] = 100 * bytes_s / costs->bandwidth;
    }
}

void rt_bench_fill_error(rt_bench_row *row, int batch, uint64_t memory, const char *error)
{
    const size_t n = strnlen(error, sizeof row->error - 1);

    for (int c = 0; c < RT_BENCH_COLS; c++)
        row->v[c] = NAN;
    row->v[RT_BENCH_BATCH] = batch;
    row->v[RT_BENCH_MEMORY] = (double)memory;
    memcpy(row->error, error, n);
    row->error[n] = '\0';
}

void rt_bench_describe(rt_bench_info *info, const rt_session *s)
{
    *info = (rt_bench_info){ .scheme = s->model->scheme,
                             .head = s->model->head.scheme->name,
                             .kv_cache = s->kv_format,
                             .threads = s->be->threads,
                             .model_bytes = rt_bench_model_bytes(s->model),
                             .load_s = s->load_s };
}

/* What was measured; Markdown wants a line behind it to end the paragraph. */
static q_status heading(rt_bench_report *r, q_err *err)
{
    q_status st = Q_OK;
    const rt_bench_info *t = r->info;

    Q_TRY(q_buf_printf(&r->text, err,
                       "%s: linears %s, head %s, KV cache %s, %.1f MB of weights\n"
                       "%d thread%s, read bandwidth %.2f GB/s, ",
                       t->model, t->scheme, t->head, t->kv_cache, (double)t->model_bytes / 1e6,
                       t->threads, t->threads == 1 ? "" : "s", t->bandwidth / 1e9));
    if (t->dataset)
        Q_TRY(q_buf_printf(&r->text, err, "%zu prompts of %s, ", t->n_prompts, t->dataset));
    else
        Q_TRY(q_buf_printf(&r->text, err, "%lld + %lld tokens, ", (long long)t->n_in,
                           (long long)t->n_new));
    Q_TRY(q_buf_printf(&r->text, err, "greedy, median of %d run%s\n\n", t->runs,
                       t->runs == 1 ? "" : "s"));
out:
    return st;
}

static q_status table_begin(rt_bench_report *r, q_err *err)
{
    q_status st = Q_OK;
    const int markdown = r->form == RT_BENCH_MARKDOWN;

    Q_TRY(heading(r, err));
    for (int line = 0; line < 2 && !markdown; line++) {
        for (int c = 0; c < RT_BENCH_COLS; c++)
            if (columns[c].width > 0)
                Q_TRY(q_buf_printf(&r->text, err, "%s%*s", c ? " " : "", columns[c].width,
                                   columns[c].head[line]));
        Q_TRY(q_buf_puts(&r->text, "\n", err));
    }
    for (int c = 0; c < RT_BENCH_COLS && markdown; c++)
        if (columns[c].width > 0)
            Q_TRY(q_buf_printf(&r->text, err, "| %s%s%s ", columns[c].head[0],
                               *columns[c].head[0] ? " " : "", columns[c].head[1]));
    if (markdown)
        Q_TRY(q_buf_puts(&r->text, "|\n", err));
    for (int c = 0; c < RT_BENCH_COLS && markdown; c++)
        if (columns[c].width > 0)
            Q_TRY(q_buf_puts(&r->text, "|---:", err));
    if (markdown)
        Q_TRY(q_buf_puts(&r->text, "|\n", err));
out:
    return st;
}

static q_status table_row(rt_bench_report *r, const rt_bench_row *row, q_err *err)
{
    q_status st = Q_OK;
    const int markdown = r->form == RT_BENCH_MARKDOWN;
    const char *const lead = markdown ? "| " : "", *const end = markdown ? " |\n" : "\n";

    if (row->error[0])
        return q_buf_printf(&r->text, err, "%s%*.0f%s%s%s", lead,
                            markdown ? 0 : columns[RT_BENCH_BATCH].width, row->v[RT_BENCH_BATCH],
                            markdown ? " | " : " ", row->error, end);
    for (int c = 0; c < RT_BENCH_COLS; c++) {
        const column *k = &columns[c];
        const int width = markdown ? 0 : k->width;

        if (k->width == 0)
            continue;
        Q_TRY(q_buf_puts(&r->text, c == 0 ? lead : markdown ? " | " : " ", err));
        if (isnan(row->v[c]))
            Q_TRY(q_buf_printf(&r->text, err, "%*s", width, "-"));
        else
            Q_TRY(q_buf_printf(&r->text, err, "%*.*f", width, k->digits, row->v[c] / k->unit));
    }
    Q_TRY(q_buf_puts(&r->text, end, err));
out:
    return st;
}

/* A field in quotes, those inside doubled (RFC 4180); NULL is an empty field. */
static q_status csv_text(q_buf *out, const char *text, q_err *err)
{
    q_status st = Q_OK;

    if (!text || !*text)
        return Q_OK;
    Q_TRY(q_buf_puts(out, "\"", err));
    for (; *text; text++) {
        Q_TRY(q_buf_put(out, text, 1, err));
        if (*text == '"')
            Q_TRY(q_buf_puts(out, "\"", err));
    }
    Q_TRY(q_buf_puts(out, "\"", err));
out:
    return st;
}

static q_status csv_begin(rt_bench_report *r, q_err *err)
{
    q_status st = Q_OK;
    const rt_bench_info *t = r->info;
    const char *const names[] = { t->model, t->scheme, t->head, t->kv_cache, t->dataset };

    Q_TRY(q_buf_puts(&r->text,
                     "model,scheme,head,kv_cache,dataset,input_len,output_len,threads,runs,"
                     "bandwidth_gb_s,model_bytes,",
                     err));
    for (int c = 0; c < RT_BENCH_COLS; c++)
        Q_TRY(q_buf_printf(&r->text, err, "%s,", columns[c].key));
    Q_TRY(q_buf_puts(&r->text, "error\n", err));
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        Q_TRY(csv_text(&r->front, names[i], err));
        Q_TRY(q_buf_puts(&r->front, ",", err));
    }
    for (int i = 0; i < 2; i++) {
        const int64_t n = i == 0 ? t->n_in : t->n_new;

        if (n > 0)
            Q_TRY(q_buf_printf(&r->front, err, "%lld", (long long)n));
        Q_TRY(q_buf_puts(&r->front, ",", err));
    }
    Q_TRY(q_buf_printf(&r->front, err, "%d,%d,%.3f,%llu,", t->threads, t->runs, t->bandwidth / 1e9,
                       (unsigned long long)t->model_bytes));
out:
    return st;
}

static q_status csv_row(rt_bench_report *r, const rt_bench_row *row, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(q_buf_puts(&r->text, r->front.data, err));
    for (int c = 0; c < RT_BENCH_COLS; c++) {
        if (!isnan(row->v[c]))
            Q_TRY(q_buf_printf(&r->text, err, "%.*f", columns[c].count ? 0 : 6, row->v[c]));
        Q_TRY(q_buf_puts(&r->text, ",", err));
    }
    Q_TRY(csv_text(&r->text, row->error, err));
    Q_TRY(q_buf_puts(&r->text, "\n", err));
out:
    return st;
}

/* null instead of a text that is not there, and of 0 */
static q_status put_str(fmt_json *o, const char *key, const char *v, q_err *err)
{
    return v && *v ? fmt_json_put_str(o, key, v, err) : fmt_json_put_null(o, key, err);
}

static q_status put_len(fmt_json *o, const char *key, int64_t v, q_err *err)
{
    return v > 0 ? fmt_json_put_int(o, key, v, err) : fmt_json_put_null(o, key, err);
}

static q_status json_begin(rt_bench_report *r, q_err *err)
{
    q_status st = Q_OK;
    const rt_bench_info *t = r->info;

    Q_TRY(fmt_json_new(&r->doc, err));
    Q_TRY(put_str(r->doc, "model", t->model, err));
    Q_TRY(put_str(r->doc, "scheme", t->scheme, err));
    Q_TRY(put_str(r->doc, "head", t->head, err));
    Q_TRY(put_str(r->doc, "kv_cache", t->kv_cache, err));
    Q_TRY(put_str(r->doc, "dataset", t->dataset, err));
    Q_TRY(put_len(r->doc, "input_len", t->n_in, err));
    Q_TRY(put_len(r->doc, "output_len", t->n_new, err));
    Q_TRY(fmt_json_put_int(r->doc, "threads", t->threads, err));
    Q_TRY(fmt_json_put_int(r->doc, "runs", t->runs, err));
    Q_TRY(fmt_json_put_int(r->doc, "seed", (int64_t)t->seed, err));
    Q_TRY(fmt_json_put_real(r->doc, "bandwidth_gb_s", t->bandwidth / 1e9, err));
    Q_TRY(fmt_json_put_int(r->doc, "model_bytes", (int64_t)t->model_bytes, err));
    Q_TRY(fmt_json_put_real(r->doc, "load_s", t->load_s, err));
    Q_TRY(fmt_json_put_arr(&r->results, r->doc, "results", err));
out:
    return st;
}

static q_status json_row(rt_bench_report *r, const rt_bench_row *row, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *o = NULL;

    Q_TRY(fmt_json_put_obj(&o, r->results, NULL, err));
    for (int c = 0; c < RT_BENCH_COLS; c++) {
        const double x = row->v[c];

        if (isnan(x))
            Q_TRY(fmt_json_put_null(o, columns[c].key, err));
        else if (columns[c].count)
            Q_TRY(fmt_json_put_int(o, columns[c].key, (int64_t)x, err));
        else
            Q_TRY(fmt_json_put_real(o, columns[c].key, x, err));
    }
    Q_TRY(put_str(o, "error", row->error, err));
out:
    return st;
}

q_status rt_bench_report_begin(rt_bench_report *r, rt_bench_form form, const rt_bench_info *info,
                               q_err *err)
{
    *r = (rt_bench_report){ .form = form, .info = info };
    return form == RT_BENCH_CSV    ? csv_begin(r, err)
           : form == RT_BENCH_JSON ? json_begin(r, err)
                                   : table_begin(r, err);
}

q_status rt_bench_report_row(rt_bench_report *r, const rt_bench_row *row, q_err *err)
{
    return r->form == RT_BENCH_CSV    ? csv_row(r, row, err)
           : r->form == RT_BENCH_JSON ? json_row(r, row, err)
                                      : table_row(r, row, err);
}

q_status rt_bench_report_end(rt_bench_report *r, q_err *err)
{
    q_status st = Q_OK;

    if (r->form != RT_BENCH_JSON)
        return Q_OK;
    Q_TRY(fmt_json_print(&r->text, r->doc, 0, err));
    Q_TRY(q_buf_puts(&r->text, "\n", err));
out:
    return st;
}

void rt_bench_report_free(rt_bench_report *r)
{
    q_buf_free(&r->text);
    q_buf_free(&r->front);
    fmt_json_free(r->doc);
    memset(r, 0, sizeof *r);
}
