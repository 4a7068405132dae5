/* qwen-calibrate-kv: the scales of an int8 key/value cache, and the FT directory that carries them.
 *
 * Two phases.  The calibration is long and can be continued (OUT.job); writing the directory is
 * short and starts anew.  A signal ends either between two steps. */
#if defined(_OPENMP)
#include <omp.h>
#endif
#include <stdio.h>
#include <string.h>

#include "calibrate/cal_cli.h"
#include "calibrate/kv_gate.h"
#include "calibrate/range_report.h"
#include "calibrate/report_parts.h"
#include "convert/convert_cli.h"
#include "convert/exec.h"
#include "convert/pool.h"
#include "formats/json_cli.h"

enum { KEY_DRY_RUN = 0x100, KEY_ASSERT, KEY_TEXT };

static struct opts {
    cal_cli_opts cal;
    q_cli cli;
    const char *model, *output, *text;
    fmt_dtype store;
    int ranks, force, dry_run, has_gate;
    cal_gate gate;
} o = { .store = FMT_F16, .ranks = 1 };

static const struct argp_option options[] = {
    { "model", 'm', "DIR", 0, "Hugging Face directory, or FT directory of qwen-convert", 0 },
    { "output", 'o', "DIR", 0, "Directory that gets <N>-gpu with the scales", 0 },
    { "storage-type", 't', "TYPE", 0, "float16 (default), bfloat16 or float32", 0 },
    { "tensor-parallelism", 'p', "N", 0, "Cut the model for N ranks (default 1)", 0 },
    { "dry-run", KEY_DRY_RUN, 0, 0, "Print the plan, memory and disk, and do nothing", 0 },
    { "force", 'f', 0, 0, "Replace what is there", 0 },
    { "text", KEY_TEXT, "FILE", 0, "Compare perplexities on FILE: int8 cache against float", 1 },
    { "assert", KEY_ASSERT, "CHECK", 0,
      "After --text, end with 2 unless CHECK holds, as in 'ppl_delta<0.01'; also ppl, ppl_ratio, "
      "kld_mean, top1",
      1 },
    { 0 },
};

static const char doc[] =
    "Find the ranges of keys and values on calibration texts, and write an FT directory that runs "
    "with --kv-cache int8."
    "\v"
    "Examples:\n"
    "  qwen-calibrate-kv -m Qwen-7B-Chat -o ft --calib-data cnn.jsonl\n"
    "  qwen-calibrate-kv -m M -o ft --stats s.h5 --text wiki.txt \\\n"
    "                    --assert 'ppl_delta<0.01'\n\n"
    "Keys are measured after the rotary embedding, one scale for each layer and key/value head.\n"
    "A stopped run is continued by the same command.\n\n"
    "Exit codes: 0 done; 2 --assert failed; 64 usage; 65 bad data; 66 input missing; 69 no such "
    "device; 71 memory; 73 the output exists; 74 read or write failed; 75 stopped, can be "
    "continued; 78 not supported, or another job.";

static error_t parse(int key, char *arg, struct argp_state *state)
{
    q_err err = { 0 };

    switch (key) {
    case ARGP_KEY_INIT:
        cal_cli_init(&o.cal);
        state->child_inputs[0] = &o.cal;
        state->child_inputs[1] = &o.cli;
        return 0;
    case 'm':
        o.model = arg;
        return 0;
    case 'o':
        o.output = arg;
        return 0;
    case 't':
        if (!fmt_dtype_from_name(arg, &o.store) || !fmt_dtype_is_float(o.store))
            q_cli_bad(state, "--storage-type", arg, "float16, bfloat16 or float32");
        return 0;
    case 'p':
        o.ranks = (int)q_cli_int(state, "--tensor-parallelism", arg, 1, 64);
        return 0;
    case 'f':
        o.force = 1;
        return 0;
    case KEY_DRY_RUN:
        o.dry_run = 1;
        return 0;
    case KEY_TEXT:
        o.text = arg;
        return 0;
    case KEY_ASSERT:
        if (cal_gate_parse(&o.gate, arg, &err) != Q_OK)
            argp_error(state, "--assert: %s", err.msg);
        o.has_gate = 1;
        return 0;
    case ARGP_KEY_END:
        if (!o.model || !o.output)
            argp_error(state, "--%s is missing", o.model ? "output" : "model");
        if (!o.cal.stats && !o.cal.run.data.path)
            argp_error(state, "give one of --calib-data and --stats");
        if (o.has_gate && !o.text)
            argp_error(state, "--assert needs --text");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = { { &cal_argp, 0, "Calibration:", 2 },
                                              { &q_cli_argp, 0, "Common options:", 90 },
                                              { 0 } };
static const struct argp argp = {
    .options = options, .parser = parse, .doc = doc, .children = children
};

static q_status write_report(const cvt_plan *p, const cvt_result *r, const cal_kv_report *gate,
                             q_err *err)
{
    if (o.cal.no_report)
        return Q_OK;
    return cal_range_report_write(&(cal_range_report){ .input = o.model,
                                                       .output = r->path,
                                                       .src = p->src,
                                                       .ranges = p->ranges,
                                                       .kv = 1,
                                                       .stats = o.cal.stats,
                                                       .data = o.cal.run.data.path,
                                                       .bytes = r->bytes,
                                                       .root_sha256 = r->root_sha256,
                                                       .gate = gate },
                                  err);
}

/* What was written, and with --text what the int8 cache costs. */
static q_status report(const cvt_plan *p, const cvt_result *done, q_err *err)
{
    q_status st = Q_OK;
    cal_kv_report r = { 0 };
    fmt_json *v = NULL;
    char *path = o.cal.no_report ? NULL : cal_report_path(done->path, "html");

    if (o.text)
        Q_TRY(cal_kv_compare(&r, done->path, o.text, &o.cal.run, err));
    Q_TRY(write_report(p, done, o.text ? &r : NULL, err));
    if (o.cli.json) {
        Q_TRY(fmt_json_new(&v, err));
        Q_TRY(cvt_result_json(v, done, err));
        if (path)
            Q_TRY(fmt_json_put_str(v, "report", path, err));
        if (o.text) {
            Q_TRY(fmt_json_put_real(v, "ppl", r.ppl, err));
            Q_TRY(fmt_json_put_real(v, "ppl_float", r.ppl_float, err));
            Q_TRY(fmt_json_put_real(v, "ppl_delta", r.ppl_delta, err));
            Q_TRY(fmt_json_put_real(v, "kld_mean", r.kld_mean, err));
            Q_TRY(fmt_json_put_real(v, "top1", r.top1, err));
        }
        Q_TRY(fmt_json_cli_line(v, err));
    } else {
        printf("%s: %zu files with scales of the key/value cache\n", done->path, done->files);
        if (o.text)
            printf("perplexity %.4f, with an int8 cache %.4f (%+.4f), KL %.6f, top-1 %.3f %%\n",
                   r.ppl_float, r.ppl, r.ppl_delta, r.kld_mean, 100 * r.top1);
        if (path)
            printf("report: %s\n", path);
    }
    if (o.text)
        Q_TRY(cal_kv_check(&r, o.has_gate ? &o.gate : NULL, err));
out:
    q_free(path);
    fmt_json_free(v);
    return st;
}

static q_status run_plan(cvt_plan *p, const volatile sig_atomic_t *stop, q_err *err)
{
    q_status st = Q_OK;
    const cvt_run_opts ro = { .out = o.output, .force = o.force, .stop = stop, .log = &o.cli.log };
    qnt_ranges *ranges = NULL;
    cvt_result r = { 0 };

    Q_TRY(cvt_run_check(p, &ro, err));
    Q_TRY(cal_cli_ranges(&ranges, &o.cal, &o.cli, p->src, o.output, stop, o.force, err));
    Q_TRY(cvt_plan_set_ranges(p, ranges, err));
    Q_TRY(cvt_run(&r, p, &ro, err));
    if (!o.cal.stats)
        Q_TRY(cal_cli_done(o.output, err));
    Q_TRY(report(p, &r, err));
out:
    cal_stats_free(ranges, fmt_src_model(p->src));
    cvt_result_free(&r);
    return st;
}

static q_status run(const volatile sig_atomic_t *stop, q_err *err)
{
    q_status st = Q_OK;
    fmt_src *src = NULL;
    cvt_plan *p = NULL;
    fmt_json *cal = NULL;

    Q_TRY(fmt_src_open(&src, o.model, err));
    Q_TRY(cvt_plan_takes(src, err));
    Q_TRY(cvt_plan_build(&p, src,
                         &(cvt_plan_opts){ .ranks = o.ranks,
                                           .store = o.store,
                                           .threads = cvt_pool_threads(o.cli.threads),
                                           .tool = "qwenkit " Q_VERSION,
                                           .kv_scales = 1 },
                         err));
    if (o.dry_run)
        Q_TRY(cal_cli_dry_run(&cal, &o.cal, &o.cli, src, o.output, err));
    Q_TRY(o.dry_run ? cvt_cli_print_plan(p, cal, o.cli.json, err) : run_plan(p, stop, err));
out:
    fmt_json_free(cal);
    cvt_plan_free(p);
    fmt_src_close(src);
    return st;
}

int main(int argc, char **argv)
{
    q_err err = { 0 };
    q_status st = q_cli_parse(&o.cli, &argp, argc, argv, &o, &err);
    const volatile sig_atomic_t *stop = q_cli_catch_signals();

#if defined(_OPENMP)
    if (o.cli.threads > 0)
        omp_set_num_threads(o.cli.threads);
#endif
    if (st == Q_OK)
        st = run(stop, &err);
    if (st == Q_ECANCEL)
        q_log_warn(&o.cli.log, "continue with the same command: %s.job keeps what is done",
                   o.output);
    return q_cli_exit(&o.cli, st, &err);
}
