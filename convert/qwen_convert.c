/* qwen-convert: a Hugging Face checkpoint becomes an FT directory, one file per tensor and rank; an
 * FT directory is cut again for another number of ranks; a model with group-quantized linears moves
 * from one container into another; --verify checks a directory against its manifest, or an archive.
 *
 * A first SIGINT, SIGTERM or SIGHUP stops before the next file, removes what was written and ends
 * with 75; a second one ends at once with 128 + its number and leaves the hidden temporary to the
 * next run. */
#if defined(_OPENMP)
#include <omp.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate/cal_cli.h"
#include "calibrate/range_report.h"
#include "calibrate/ranks_cli.h"
#include "calibrate/report_parts.h"
#include "convert/convert_cli.h"
#include "convert/exec.h"
#include "convert/pool.h"
#include "convert/rewrite_cli.h"
#include "formats/json_cli.h"

static struct opts {
    q_cli cli;
    cvt_cli_opts cvt;
    cal_cli_opts cal;
} o = { .cli.several = 1 };

static const volatile sig_atomic_t *stop;

static const char doc[] =
    "Convert a Qwen checkpoint to an FT directory: raw little-endian arrays that this toolkit and "
    "FasterTransformer loaders read.  Move GPTQ and AWQ models between containers, code by code."
    "\v"
    "Examples:\n"
    "  qwen-convert -i Qwen-1_8B-Chat -o ft          writes ft/1-gpu\n"
    "  qwen-convert -i Qwen-7B -o ft -p 2 --dry-run  shows ft/2-gpu\n"
    "  qwen-convert -i Qwen-7B-Chat -o sq --smoothquant 0.5 --calib-data cnn.jsonl\n"
    "                                                float and int8 weights\n"
    "  qwen-convert -i Qwen-7B-Chat-Int4 -o q7.h5 --to h5\n"
    "  qwen-convert -i q7.h5 -o q7-awq --to hf-awq   for other programs\n"
    "  qwen-convert --verify ft/1-gpu                checks every byte\n"
    "\n"
    "The output appears whole or not at all. The input is never changed.\n"
    "\n"
    "Exit codes: 0 done; 64 usage, or the output is the input; 65 bad data; 66 input missing; 69 "
    "no such device; 71 out of memory; 73 the output exists, is being written or cannot be "
    "created; 74 read or write failed, disk full; 75 stopped by a signal (a calibration can be "
    "continued); 77 permission; 78 model or configuration not supported.";

static error_t parse(int key, char *arg, struct argp_state *state)
{
    const int given = o.cal.stats || o.cal.run.data.path;

    (void)arg;
    switch (key) {
    case ARGP_KEY_INIT:
        cvt_cli_init(&o.cvt);
        cal_cli_init(&o.cal);
        state->child_inputs[0] = &o.cvt;
        state->child_inputs[1] = &o.cal;
        state->child_inputs[2] = &o.cli;
        return 0;
    case ARGP_KEY_END:
        if ((o.cvt.smooth || o.cvt.kv_scales) && !given && !o.cvt.dry_run)
            argp_error(state, "--%s needs --calib-data FILE or --stats FILE",
                       o.cvt.smooth ? "smoothquant" : "calibrate-kv-cache");
        if ((o.cal.stats || o.cal.save || o.cal.run.given) && !o.cvt.smooth && !o.cvt.kv_scales)
            argp_error(state, "calibration is for --smoothquant and --calibrate-kv-cache");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = { { &cvt_argp, 0, NULL, 0 },
                                              { &cal_argp, 0, "Calibration:", 10 },
                                              { &q_cli_argp, 0, "Common options:", 90 },
                                              { 0 } };
static const struct argp argp = { NULL, parse, NULL, doc, children, NULL, NULL };

static q_status print_result(const cvt_result *r, int with_report, double seconds, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *v = NULL;
    char *path = with_report ? cal_report_path(r->path, "html") : NULL;

    if (!o.cli.json) {
        printf("%s -> %s, %llu files, %llu bytes, %.2f s, %.0f MB/s\n", o.cvt.input, r->path,
               (unsigned long long)r->files, (unsigned long long)r->bytes, seconds,
               seconds > 0 ? (double)r->bytes / 1e6 / seconds : 0);
        if (path)
            printf("report: %s\n", path);
        goto out;
    }
    Q_TRY(fmt_json_new(&v, err));
    Q_TRY(fmt_json_put_str(v, "input", o.cvt.input, err));
    Q_TRY(cvt_result_json(v, r, err));
    Q_TRY(fmt_json_put_real(v, "seconds", seconds, err));
    if (path)
        Q_TRY(fmt_json_put_str(v, "report", path, err));
    Q_TRY(fmt_json_cli_line(v, err));
out:
    q_free(path);
    fmt_json_free(v);
    return st;
}

/* Ranges for the plan, and room for those of the smoothed layers when there is to be a report. */
static q_status calibrate(cvt_plan *p, qnt_ranges **ranges, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(cal_cli_ranges(ranges, &o.cal, &o.cli, p->src, o.cvt.output, stop, o.cvt.force, err));
    Q_TRY(cvt_plan_set_ranges(p, *ranges, err));
    if (!o.cal.no_report && o.cvt.smooth)
        Q_TRY(cal_ranges_make(&p->after, fmt_src_model(p->src), err));
out:
    return st;
}

static q_status report(const cvt_plan *p, const cvt_result *r, double start, q_err *err)
{
    return cal_range_report_write(&(cal_range_report){ .input = o.cvt.input,
                                                       .output = r->path,
                                                       .src = p->src,
                                                       .ranges = p->ranges,
                                                       .after = p->after,
                                                       .alpha = o.cvt.alpha,
                                                       .kv = o.cvt.kv_scales,
                                                       .stats = o.cal.stats,
                                                       .data = o.cal.run.data.path,
                                                       .cost = o.cal.cost,
                                                       .seconds = q_now() - start,
                                                       .stages = &o.cal.stages,
                                                       .bytes = r->bytes,
                                                       .root_sha256 = r->root_sha256 },
                                  err);
}

/* Calibrates where the plan needs it, after everything that can be refused was. */
static q_status run_plan(cvt_plan *p, double start, q_err *err)
{
    q_status st = Q_OK;
    const cvt_run_opts ro = { .out = o.cvt.output,
                              .force = o.cvt.force,
                              .strict = o.cvt.strict,
                              .stop = stop,
                              .log = &o.cli.log };
    qnt_ranges *ranges = NULL;
    cvt_result r = { 0 };
    const int first = rt_comm_rank(o.cal.run.comm) == 0; /* it writes */

    if (first)
        Q_TRY(cvt_run_check(p, &ro, err));
    if (cvt_plan_makes(p))
        Q_TRY(calibrate(p, &ranges, err));
    if (!first)
        goto out;
    Q_TRY(cvt_run(&r, p, &ro, err));
    if (ranges && !o.cal.no_report)
        Q_TRY(report(p, &r, start, err));
    if (ranges && !o.cal.stats)
        Q_TRY(cal_cli_done(o.cvt.output, err));
    Q_TRY(print_result(&r, ranges && !o.cal.no_report, q_now() - start, err));
out:
    q_free(o.cal.cost);
    cvt_result_free(&r);
    cal_stats_free(ranges, fmt_src_model(p->src));
    cal_stats_free(p->after, fmt_src_model(p->src));
    p->after = NULL;
    return st;
}

static q_status convert(q_err *err)
{
    q_status st = Q_OK;
    const double start = q_now();
    fmt_src *src = NULL;
    cvt_plan *p = NULL;
    fmt_json *cal = NULL;

    o.cal.run.search = o.cvt.smooth && o.cvt.alpha == CVT_ALPHA_AUTO;
    Q_TRY(fmt_src_open(&src, o.cvt.input, err));
    Q_TRY(cvt_plan_takes(src, err));
    Q_TRY(cvt_plan_build(&p, src,
                         &(cvt_plan_opts){ .ranks = o.cvt.ft.ranks,
                                           .store = o.cvt.ft.store,
                                           .threads = cvt_pool_threads(o.cli.threads),
                                           .tool = "qwenkit " Q_VERSION,
                                           .smooth = o.cvt.smooth,
                                           .alpha = o.cvt.alpha,
                                           .kv_scales = o.cvt.kv_scales,
                                           .max_ram = o.cal.run.max_ram },
                         err));
    if (o.cvt.dry_run)
        Q_TRY(cal_cli_dry_run(&cal, &o.cal, &o.cli, src, o.cvt.output, err));
    Q_TRY(o.cvt.dry_run ? cvt_cli_print_plan(p, cal, o.cli.json, err) : run_plan(p, start, err));
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
    const int makes = o.cvt.smooth || o.cvt.kv_scales;
    const int shared = makes && !o.cvt.verify && !o.cvt.dry_run && !o.cal.stats;

    if (st == Q_OK)
        st = cal_ranks_open(&o.cal.run.comm, &o.cli, &err);
#if defined(_OPENMP)
    const int loops = makes || o.cvt.to != CVT_TO_FT; /* of OpenMP */

    if (loops && o.cli.threads > 0)
        omp_set_num_threads(o.cli.threads);
#endif
    stop = q_cli_catch_signals();
    if (st == Q_OK && cal_ranks_work(o.cal.run.comm, shared))
        st = o.cvt.verify            ? cvt_verify_cli(o.cvt.verify, &o.cli, stop, &err)
             : o.cvt.to == CVT_TO_FT ? convert(&err)
                                     : cvt_rewrite_cli(&o.cvt, &o.cli, stop, &err);
    if (st == Q_ECANCEL && makes)
        q_cli_tell_resume(&o.cli, o.cvt.output);
    return cal_ranks_exit(o.cal.run.comm, &o.cli, st, &err);
}
