/* Options of qwen-calibrate-kv, besides those of every calibration, and its results. */
#include "calibrate/kv_cli.h"

#include <stdio.h>
#include <string.h>

#include "calibrate/report_parts.h"
#include "formats/json_cli.h"

enum { KEY_DRY_RUN = 0x100, KEY_ASSERT, KEY_TEXT };

static const struct argp_option options[] = {
    { "model", 'm', "MODEL", 0, "Hugging Face or FT directory, or archive (.h5)", 0 },
    { "output", 'o', "PATH", 0,
      "Directory that gets <N>-gpu with the scales; of a model with int4 or int8 groups the "
      "archive "
      "to write",
      0 },
    { "dry-run", KEY_DRY_RUN, 0, 0, "Print the plan, memory and disk, and do nothing", 0 },
    { "force", 'f', 0, 0, "Replace what is there", 0 },
    { "text", KEY_TEXT, "FILE", 0, "Compare perplexities on FILE: int8 cache against float", 1 },
    { "assert", KEY_ASSERT, "CHECK", 0,
      "After --text, end with 2 unless CHECK holds, as in 'ppl_delta<0.01'; also ppl, ppl_float, "
      "ppl_ratio, kld_mean, top1. The output stays, so that it can be looked at",
      1 },
    { 0 },
};

void cal_kv_cli_init(cal_kv_cli *o)
{
    *o = (cal_kv_cli){ 0 };
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    cal_kv_cli *o = state->input;
    q_err err = { 0 };

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->ft;
        return 0;
    case 'm':
        o->model = arg;
        return 0;
    case 'o':
        o->output = arg;
        return 0;
    case 'f':
        o->force = 1;
        return 0;
    case KEY_DRY_RUN:
        o->dry_run = 1;
        return 0;
    case KEY_TEXT:
        o->text = arg;
        return 0;
    case KEY_ASSERT:
        if (cal_gate_parse(&o->gate, arg, &err) != Q_OK)
            argp_error(state, "--assert: %s", err.msg);
        if (cal_kv_check(&(cal_kv_report){ 0 }, &o->gate, &err) == Q_EARG)
            argp_error(state, "%s", err.msg);
        o->has_gate = 1;
        return 0;
    case ARGP_KEY_END:
        if (!o->model || !o->output)
            argp_error(state, "--%s is missing", o->model ? "output" : "model");
        if (o->has_gate && !o->text)
            argp_error(state, "--assert needs --text");
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = { { &fmt_ft_argp, 0, NULL, 0 }, { 0 } };
const struct argp cal_kv_argp = { .options = options, .parser = parse, .children = children };

/* ---- results --------------------------------------------------------------------------------- */

static void print_lines(const cal_range_report *r, const char *report)
{
    const cal_kv_report *g = r->gate;

    printf("%s: with scales of the key/value cache, %llu bytes\n", r->output,
           (unsigned long long)r->bytes);
    if (g)
        printf("perplexity %.4f, with an int8 cache %.4f (%+.4f), KL %.6f, top-1 %.3f %%\n",
               g->ppl_float, g->ppl, g->ppl_delta, g->kld_mean, 100 * g->top1);
    if (report)
        printf("report: %s\n", report);
}

static q_status print_json(fmt_json *v, const cal_range_report *r, const char *report, q_err *err)
{
    q_status st = Q_OK;

    if (!fmt_json_get(v, "output")) { /* an archive */
        Q_TRY(fmt_json_put_str(v, "output", r->output, err));
        Q_TRY(fmt_json_put_int(v, "bytes", (int64_t)r->bytes, err));
        Q_TRY(fmt_json_put_str(v, "root_sha256", r->root_sha256, err));
    }
    if (report)
        Q_TRY(fmt_json_put_str(v, "report", report, err));
    if (r->gate)
        Q_TRY(cal_kv_json(v, r->gate, err));
    Q_TRY(fmt_json_cli_line(v, err));
out:
    return st;
}

q_status cal_kv_cli_result(const cal_kv_cli *o, const cal_cli_opts *cal, const cal_range_report *r,
                           fmt_json *v, q_err *err)
{
    q_status st = Q_OK;
    cal_kv_report cost;
    cal_range_report all = *r;
    char *report = NULL;
    q_err why = { 0 };

    if (o->text) {
        Q_TRY(cal_kv_compare(&cost, r->output, o->text, &cal->run, err));
        all.gate = &cost;
    }
    if (!cal->no_report) {
        if (!(report = cal_report_path(r->output, "html")))
            Q_FAIL(err, Q_ENOMEM, "%s: no memory", r->output);
        Q_TRY(cal_range_report_write(&all, err));
    }
    if (v)
        Q_TRY(print_json(v, &all, report, err));
    else
        print_lines(&all, report);
    if (all.gate && o->has_gate && cal_kv_check(all.gate, &o->gate, &why) != Q_OK)
        Q_FAIL(err, Q_EGATE, "%s: %s: it stays there, remove it or do not use it", r->output,
               why.msg);
out:
    q_free(report);
    return st;
}
