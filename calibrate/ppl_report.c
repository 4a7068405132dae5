/* Comparison of perplexity runs.  A run is the object that qwen-perplexity --json prints, whether
 * it was made just now or lies in a file: both are read by the same code. */
#include "calibrate/ppl_report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/q_file.h"
#include "formats/report.h"

#define MAX_RUNS  100
#define MAX_BYTES ((size_t)1 << 20) /* of a file with one result */
#define LABEL     48

typedef struct ppl_run {
    fmt_json *owned; /* NULL: the one of this call */
    const char *model, *scheme, *base, *text;
    int64_t window, bytes;
    double ppl, mean, median, p90, p99, max, top1; /* of KL divergence: NaN without a base */
    char label[LABEL];
} ppl_run;

typedef struct runs {
    ppl_run run[MAX_RUNS];
    size_t n;
} runs;

q_status cal_ppl_json(fmt_json *doc, const cal_ppl_about *a, const cal_ppl_result *r, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(fmt_json_put_str(doc, "model", a->model, err));
    Q_TRY(fmt_json_put_int(doc, "model_bytes", (int64_t)a->bytes, err));
    Q_TRY(fmt_json_put_real(doc, "ppl", r->ppl, err));
    Q_TRY(fmt_json_put_int(doc, "tokens", r->tokens, err));
    Q_TRY(fmt_json_put_int(doc, "scored", r->scored, err));
    Q_TRY(fmt_json_put_int(doc, "window", a->window, err));
    Q_TRY(fmt_json_put_real(doc, "seconds", r->seconds, err));
    Q_TRY(fmt_json_put_str(doc, "scheme", a->scheme, err));
    Q_TRY(fmt_json_put_str(doc, "text_sha256", a->text_sha256, err));
    if (!a->base)
        goto out;
    Q_TRY(fmt_json_put_str(doc, "base", a->base, err));
    Q_TRY(fmt_json_put_real(doc, "base_ppl", r->base_ppl, err));
    Q_TRY(fmt_json_put_real(doc, "kld_mean", r->kld.mean, err));
    Q_TRY(fmt_json_put_real(doc, "kld_median", r->kld.median, err));
    Q_TRY(fmt_json_put_real(doc, "kld_p90", r->kld.p90, err));
    Q_TRY(fmt_json_put_real(doc, "kld_p99", r->kld.p99, err));
    Q_TRY(fmt_json_put_real(doc, "kld_max", r->kld.max, err));
    Q_TRY(fmt_json_put_real(doc, "top1", r->kld.same_top1, err));
out:
    return st;
}

q_status cal_ppl_text(q_buf *out, const cal_ppl_about *a, const cal_ppl_result *r, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(q_buf_printf(out, err,
                       "perplexity  %.4f   (%lld predictions in windows of %lld, %lld tokens, %s, "
                       "float32 logits, no BOS)\ntext sha256 %s",
                       r->ppl, (long long)r->scored, (long long)a->window, (long long)r->tokens,
                       a->scheme, a->text_sha256));
    if (a->base)
        Q_TRY(q_buf_printf(out, err,
                           "\nbase        %.4f\n"
                           "KL(base || model)  mean %.6f  median %.6f  99 %% %.6f  max %.6f\n"
                           "top-1 agreement    %.3f %%",
                           r->base_ppl, r->kld.mean, r->kld.median, r->kld.p99, r->kld.max,
                           100 * r->kld.same_top1));
out:
    return st;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* The last two parts of a path: enough to tell runs apart. */
static const char *tail(const char *path)
{
    const char *from = path + strlen(path);

    for (int slashes = 0; from > path && slashes < 2; from--)
        slashes += from[-1] == '/';
    return from > path ? from + 1 : from;
}

static q_status read_run(ppl_run *r, const fmt_json *v, const char *name, q_err *err)
{
    q_status st = Q_OK;
    q_err why = { 0 };
    const struct {
        const char *key;
        double *to;
    } real[] = { { "ppl", &r->ppl },     { "kld_mean", &r->mean }, { "kld_median", &r->median },
                 { "kld_p90", &r->p90 }, { "kld_p99", &r->p99 },   { "kld_max", &r->max },
                 { "top1", &r->top1 } };

    r->model = r->scheme = r->text = NULL;
    for (size_t i = 0; i < sizeof real / sizeof real[0]; i++) {
        *real[i].to = NAN;
        Q_TRY(fmt_json_real_opt(v, real[i].key, 0, HUGE_VAL, real[i].to, &why));
    }
    Q_TRY(fmt_json_str_opt(v, "model", &r->model, &why));
    Q_TRY(fmt_json_str_opt(v, "scheme", &r->scheme, &why));
    Q_TRY(fmt_json_str_opt(v, "base", &r->base, &why));
    Q_TRY(fmt_json_str_opt(v, "text_sha256", &r->text, &why));
    Q_TRY(fmt_json_int(v, "window", 2, INT32_MAX, &r->window, &why));
    Q_TRY(fmt_json_int(v, "model_bytes", 0, INT64_MAX, &r->bytes, &why));
    if (!r->model || !r->scheme || !r->text || isnan(r->ppl))
        Q_FAIL(&why, Q_ECONFIG, "'%s' is missing",
               !r->model    ? "model"
               : !r->scheme ? "scheme"
               : !r->text   ? "text_sha256"
                            : "ppl");
    snprintf(r->label, sizeof r->label, "%.28s, %.16s", tail(r->model), r->scheme);
out:
    if (st != Q_OK)
        q_fail(err, st, "%s: %s: is it a result of qwen-perplexity --json?", name, why.msg);
    return st;
}

static q_status check_same(const ppl_run *a, const ppl_run *b, const char *name, q_err *err)
{
    if (strcmp(a->text, b->text) != 0)
        return q_fail(
            err, Q_ECONFIG,
            "%s: was measured on another text (sha256 %.12s, here %.12s): perplexities of "
            "different texts cannot be compared",
            name, b->text, a->text);
    if (a->window != b->window)
        return q_fail(err, Q_ECONFIG,
                      "%s: was measured in windows of %lld tokens, here %lld: use --window %lld",
                      name, (long long)b->window, (long long)a->window, (long long)b->window);
    return Q_OK;
}

static q_status read_others(runs *all, const char *others, q_err *err)
{
    q_status st = Q_OK;
    char *name = NULL;

    for (const char *at = others; at && *at; at += *at == ',') {
        const size_t n = strcspn(at, ",");
        ppl_run *r = &all->run[all->n];

        if (all->n == MAX_RUNS)
            Q_FAIL(err, Q_EARG, "--compare: more than %d results", MAX_RUNS - 1);
        q_free(name);
        if (!(name = q_strndup(at, n)))
            Q_FAIL(err, Q_ENOMEM, "no memory for a file name");
        Q_TRY(fmt_json_read(&r->owned, name, MAX_BYTES, err));
        all->n++; /* owned: freed with the others */
        Q_TRY(read_run(r, r->owned, name, err));
        if (all->n > 1)
            Q_TRY(check_same(&all->run[0], r, name, err));
        at += n;
    }
out:
    q_free(name);
    return st;
}

/* ---- the report ------------------------------------------------------------------------------ */

static q_status put_table(fmt_report *r, const runs *all, q_err *err)
{
    static const fmt_col col[] = {
        { "Model", FMT_VAL_TEXT },    { "Scheme", FMT_VAL_TEXT },
        { "On disk", FMT_VAL_BYTES }, { "Perplexity", FMT_VAL_FIXED },
        { "KLD mean", FMT_VAL_REAL }, { "median", FMT_VAL_REAL },
        { "90 %", FMT_VAL_REAL },     { "99 %", FMT_VAL_REAL },
        { "max", FMT_VAL_REAL },      { "Same first choice", FMT_VAL_PERCENT },
        { "Base", FMT_VAL_TEXT },
    };
    enum { COLS = sizeof col / sizeof col[0] };
    fmt_cell *cell = q_calloc(all->n, COLS * sizeof *cell);
    q_status st = Q_OK;

    if (!cell)
        Q_FAIL(err, Q_ENOMEM, "no memory for a report");
    for (size_t i = 0; i < all->n; i++) {
        const ppl_run *p = &all->run[i];
        const fmt_cell row[COLS] = { { .text = tail(p->model) },
                                     { .text = p->scheme },
                                     { .v = (double)p->bytes },
                                     { .v = p->ppl },
                                     { .v = p->mean },
                                     { .v = p->median },
                                     { .v = p->p90 },
                                     { .v = p->p99 },
                                     { .v = p->max },
                                     { .v = p->top1 },
                                     { .text = p->base ? tail(p->base) : NULL } };

        memcpy(cell + i * COLS, row, sizeof row);
    }
    Q_TRY(fmt_report_table(r, "runs", "Runs", col, COLS, cell, all->n, err));
out:
    q_free(cell);
    return st;
}

static q_status put_sizes(fmt_report *r, const runs *all, int kld, q_err *err)
{
    fmt_point p[MAX_RUNS];
    size_t n = 0;

    for (size_t i = 0; i < all->n; i++) {
        const ppl_run *run = &all->run[i];
        const double y = kld ? run->mean : run->ppl;

        if (isfinite(y))
            p[n++] = (fmt_point){ run->label, (double)run->bytes / 1e9, y };
    }
    if (n == 0)
        return Q_OK;
    return fmt_report_scatter(
        r,
        &(fmt_chart){ .key = kld ? "size_kld" : "size_ppl",
                      .title = kld ? "Size and KL divergence" : "Size and perplexity",
                      .note =
                          "less is better in both; blue and joined: no other run beats it in both",
                      .x_label = "GB on disk",
                      .y_label = kld ? "mean KLD" : "perplexity" },
        p, n, err);
}

/* Quantiles of the divergence, as many runs as there are colours. */
static q_status put_quantiles(fmt_report *r, const runs *all, q_err *err)
{
    enum { COLOURS = 6, QUANTILES = 5 };
    static const char *const label[] = { "median", "mean", "90 %", "99 %", "max" };
    double v[COLOURS][QUANTILES];
    fmt_series s[COLOURS];
    size_t n = 0;

    for (size_t i = 0; i < all->n && n < COLOURS; i++) {
        const ppl_run *p = &all->run[i];
        const double q[QUANTILES] = { p->median, p->mean, p->p90, p->p99, p->max };

        if (isnan(p->mean))
            continue;
        memcpy(v[n], q, sizeof q);
        s[n] = (fmt_series){ .name = p->label, .y = v[n], .n = QUANTILES };
        n++;
    }
    if (n == 0)
        return Q_OK;
    return fmt_report_bars(r,
                           &(fmt_chart){ .key = "kld",
                                         .title = "KL divergence from the base, per token",
                                         .y_label = "nats",
                                         .log_y = 1,
                                         .series = s,
                                         .n_series = n,
                                         .labels = label },
                           err);
}

static char *json_path(const char *html)
{
    size_t n = strlen(html);

    if (n > 5 && strcmp(html + n - 5, ".html") == 0)
        n -= 5;
    return q_format("%.*s.json", (int)n, html);
}

static void free_runs(runs *all)
{
    for (size_t i = 0; all && i < all->n; i++)
        fmt_json_free(all->run[i].owned);
    q_free(all);
}

q_status cal_ppl_compare_check(const char *html, const char *others, q_err *err)
{
    q_status st = Q_OK;
    char *json = json_path(html), *dir = q_path_dir(html);
    runs *all = q_calloc(1, sizeof *all);

    if (!json || !dir || !all)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", html);
    if (!*html)
        Q_FAIL(err, Q_EARG, "--report: the name of the file is missing");
    if (!q_path_is_dir(dir))
        Q_FAIL(err, Q_ECREATE, "%s: there is no directory '%s': make it first", html, dir);
    if (q_path_exists(html) || q_path_exists(json))
        Q_FAIL(err, Q_ECREATE, "%s: exists: remove it or choose another name",
               q_path_exists(html) ? html : json);
    Q_TRY(read_others(all, others, err));
out:
    free_runs(all);
    q_free(dir);
    q_free(json);
    return st;
}

static q_status write_report(const char *html, const runs *all, q_err *err)
{
    q_status st = Q_OK;
    fmt_report *r = NULL;
    char *json = json_path(html);

    if (!json)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", html);
    Q_TRY(fmt_report_new(&r, "Perplexity and size", err));
    Q_TRY(fmt_report_section(r, "Runs", err));
    Q_TRY(fmt_report_facts(
        r, "text",
        (fmt_fact[]){
            { "window", "Window, tokens", FMT_VAL_INT, NULL, (double)all->run[0].window },
            { "text_sha256", "SHA-256 of the text", FMT_VAL_CODE, all->run[0].text, 0 },
        },
        2, err));
    Q_TRY(put_table(r, all, err));
    Q_TRY(fmt_report_section(r, "Quality against size", err));
    Q_TRY(put_sizes(r, all, 0, err));
    Q_TRY(put_sizes(r, all, 1, err));
    Q_TRY(put_quantiles(r, all, err));
    Q_TRY(fmt_report_write(r, html, json, 0, err));
out:
    q_free(json);
    fmt_report_free(r);
    return st;
}

q_status cal_ppl_compare(const char *html, const fmt_json *doc, const char *others, q_err *err)
{
    q_status st = Q_OK;
    runs *all = q_calloc(1, sizeof *all);

    if (!all)
        Q_FAIL(err, Q_ENOMEM, "no memory for a report");
    Q_TRY(read_run(&all->run[all->n++], doc, "this run", err));
    Q_TRY(read_others(all, others, err));
    Q_TRY(write_report(html, all, err));
out:
    free_runs(all);
    return st;
}
