/* qwen-calibrate-kv: the scales of an int8 key/value cache, and what carries them: an FT directory,
 * or for a model that is quantized by groups an archive.
 *
 * Calibration is long and can be continued (OUT.job); writing is short and starts anew. */
#if defined(_OPENMP)
#include <omp.h>
#endif
#include <stdio.h>
#include <string.h>

#include "calibrate/kv_cli.h"
#include "calibrate/ranks_cli.h"
#include "convert/archive.h"
#include "convert/convert_cli.h"
#include "convert/exec.h"
#include "convert/pool.h"
#include "formats/json_cli.h"

static struct opts {
    cal_kv_cli kv;
    cal_cli_opts cal;
    q_cli cli;
    double start;
} o = { .cli.several = 1 };

static const char doc[] =
    "Find the ranges of keys and values on calibration texts, and write an FT directory, or an "
    "archive, that runs with --kv-cache int8."
    "\v"
    "Examples:\n"
    "  qwen-calibrate-kv -m Qwen-7B-Chat -o ft --calib-data cnn.jsonl\n"
    "  qwen-calibrate-kv -m M -o ft --stats s.h5 --text w.txt --assert 'ppl<9'\n"
    "  qwen-calibrate-kv -m Qwen-7B-Chat-Int4 -o int4.h5 --calib-data cnn.jsonl\n\n"
    "Archives of qwen-gptq and qwen-awq have such scales already, but those of --rtn. "
    "Keys are measured after the rotary embedding, one scale for each layer and key/value head. "
    "A stopped run is continued by the same command.\n\n"
    "Exit codes: 0 done; 2 --assert failed; 64 usage; 65 bad data; 66 input missing; 69 no such "
    "device; 71 memory; 73 the output exists; 74 read or write failed; 75 stopped, can be "
    "continued; 77 permission; 78 not supported, or another job.";

static error_t parse(int key, char *arg, struct argp_state *state)
{
    (void)arg;
    switch (key) {
    case ARGP_KEY_INIT:
        cal_kv_cli_init(&o.kv);
        cal_cli_init(&o.cal);
        state->child_inputs[0] = &o.kv;
        state->child_inputs[1] = &o.cal;
        state->child_inputs[2] = &o.cli;
        return 0;
    case ARGP_KEY_END:
        if (!o.cal.stats && !o.cal.run.data.path)
            argp_error(state, "give one of --calib-data and --stats");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = { { &cal_kv_argp, 0, NULL, 0 },
                                              { &cal_argp, 0, "Calibration:", 2 },
                                              { &q_cli_argp, 0, "Common options:", 90 },
                                              { 0 } };
static const struct argp argp = { NULL, parse, NULL, doc, children, NULL, NULL };

/* What was written; see cal_kv_cli_result. */
static q_status report(const fmt_src *src, const qnt_ranges *ranges, const cvt_result *done,
                       q_err *err)
{
    q_status st = Q_OK;
    const cal_range_report r = { .input = o.kv.model,
                                 .output = done->path,
                                 .src = src,
                                 .ranges = ranges,
                                 .kv = 1,
                                 .stats = o.cal.stats,
                                 .data = o.cal.run.data.path,
                                 .cost = o.cal.cost,
                                 .seconds = q_now() - o.start,
                                 .stages = &o.cal.stages,
                                 .bytes = done->bytes,
                                 .root_sha256 = done->root_sha256 };
    fmt_json *v = NULL;

    if (o.cli.json) {
        Q_TRY(fmt_json_new(&v, err));
        if (done->ranks)
            Q_TRY(cvt_result_json(v, done, err));
    }
    Q_TRY(cal_kv_cli_result(&o.kv, &o.cal, &r, v, err));
out:
    fmt_json_free(v);
    return st;
}

/* plan: of the directory, NULL for an archive. */
static q_status dry_run(const cvt_plan *plan, const fmt_src *src, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *cal = NULL;

    Q_TRY(cal_cli_dry_run(&cal, &o.cal, &o.cli, src, o.kv.output, err));
    if (plan)
        Q_TRY(cvt_cli_print_plan(plan, cal, o.cli.json, err));
    else if (cal)
        Q_TRY(fmt_json_cli_line(cal, err));
out:
    fmt_json_free(cal);
    return st;
}

static q_status run_plan(cvt_plan *p, const volatile sig_atomic_t *stop, q_err *err)
{
    q_status st = Q_OK;
    const cvt_run_opts ro = {
        .out = o.kv.output, .force = o.kv.force, .stop = stop, .log = &o.cli.log
    };
    qnt_ranges *ranges = NULL;
    cvt_result r = { 0 };

    if (rt_comm_rank(o.cal.run.comm) == 0)
        Q_TRY(cvt_run_check(p, &ro, err));
    Q_TRY(cal_cli_ranges(&ranges, &o.cal, &o.cli, p->src, o.kv.output, stop, o.kv.force, err));
    if (rt_comm_rank(o.cal.run.comm) > 0) /* the first one writes */
        goto out;
    Q_TRY(cvt_plan_set_ranges(p, ranges, err));
    Q_TRY(cvt_run(&r, p, &ro, err));
    if (!o.cal.stats)
        Q_TRY(cal_cli_done(o.kv.output, err));
    Q_TRY(report(p->src, ranges, &r, err));
out:
    cal_stats_free(ranges, fmt_src_model(p->src));
    cvt_result_free(&r);
    return st;
}

static q_status write_archive(cvt_result *r, const fmt_src *src, const qnt_ranges *ranges,
                              const volatile sig_atomic_t *stop, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = fmt_src_model(src);
    float *steps = NULL;
    qnt_archive_opts a = { .src = src,
                           .path = o.kv.output,
                           .force = o.kv.force,
                           .tool = "qwenkit " Q_VERSION,
                           .stop = stop,
                           .log = &o.cli.log };
    qnt_archive_result done;

    if (!(r->path = q_strdup(o.kv.output)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", o.kv.output);
    Q_TRY(qnt_ranges_steps(&steps, ranges, m, err));
    a.k_scale = steps;
    a.v_scale = steps + m->layers * m->n_kv;
    Q_TRY(cvt_archive_write(&done, &a, err));
    r->bytes = done.bytes;
    memcpy(r->root_sha256, done.root_sha256, sizeof r->root_sha256);
out:
    q_free(steps);
    return st;
}

/* Of groups: its own keys and values are measured; the float model may have had other v rows. */
static q_status run_archive(const fmt_src *src, const volatile sig_atomic_t *stop, q_err *err)
{
    q_status st = Q_OK;
    qnt_ranges *ranges = NULL;
    cvt_result r = { 0 };

    if (o.kv.ft.given || o.cal.stats)
        Q_FAIL(err, Q_EARG,
               "%s: is quantized by groups: --storage-type and --tensor-parallelism are of FT "
               "directories, --stats of float models",
               o.kv.model);
    Q_TRY(cvt_archive_check(src, o.kv.output, o.kv.force, err));
    if (o.kv.dry_run) {
        Q_TRY(dry_run(NULL, src, err));
        goto out;
    }
    Q_TRY(cal_cli_ranges(&ranges, &o.cal, &o.cli, src, o.kv.output, stop, o.kv.force, err));
    if (rt_comm_rank(o.cal.run.comm) > 0) /* the first one writes */
        goto out;
    Q_TRY(write_archive(&r, src, ranges, stop, err));
    Q_TRY(cal_cli_done(o.kv.output, err));
    Q_TRY(report(src, ranges, &r, err));
out:
    cal_stats_free(ranges, fmt_src_model(src));
    cvt_result_free(&r);
    return st;
}

static q_status run_dir(const fmt_src *src, const volatile sig_atomic_t *stop, q_err *err)
{
    q_status st = Q_OK;
    cvt_plan *p = NULL;

    Q_TRY(cvt_plan_build(&p, src,
                         &(cvt_plan_opts){ .ranks = o.kv.ft.ranks,
                                           .store = o.kv.ft.store,
                                           .threads = cvt_pool_threads(o.cli.threads),
                                           .tool = "qwenkit " Q_VERSION,
                                           .kv_scales = 1,
                                           .max_ram = o.cal.run.max_ram },
                         err));
    Q_TRY(o.kv.dry_run ? dry_run(p, src, err) : run_plan(p, stop, err));
out:
    cvt_plan_free(p);
    return st;
}

static q_status run(const volatile sig_atomic_t *stop, q_err *err)
{
    q_status st = Q_OK;
    fmt_src *src = NULL;

    o.start = q_now();
    if (o.kv.text) /* hours before it is needed */
        Q_TRY(cal_kv_check_text(o.kv.text, err));
    Q_TRY(fmt_src_open(&src, o.kv.model, err));
    Q_TRY(fmt_src_packing(src) ? run_archive(src, stop, err) : run_dir(src, stop, err));
out:
    q_free(o.cal.cost);
    fmt_src_close(src);
    return st;
}

int main(int argc, char **argv)
{
    q_err err = { 0 };
    q_status st = q_cli_parse(&o.cli, &argp, argc, argv, &o, &err);
    const volatile sig_atomic_t *stop = q_cli_catch_signals();

    if (st == Q_OK)
        st = cal_ranks_open(&o.cal.run.comm, &o.cli, &err);
#if defined(_OPENMP)
    if (o.cli.threads > 0)
        omp_set_num_threads(o.cli.threads);
#endif
    if (st == Q_OK && cal_ranks_work(o.cal.run.comm, !o.cal.stats && !o.kv.dry_run))
        st = run(stop, &err);
    if (st == Q_ECANCEL)
        q_cli_tell_resume(&o.cli, o.kv.output);
    return cal_ranks_exit(o.cal.run.comm, &o.cli, st, &err);
}
