/* Options and wiring of programs that quantize: what --dry-run prints, or the run, its report and
 * its last line. */
#include "calibrate/quant_cli.h"

#if defined(_OPENMP)
#include <omp.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate/quant_job.h"
#include "calibrate/quant_report.h"
#include "calibrate/ranks_cli.h"
#include "calibrate/report_parts.h"
#include "formats/json_cli.h"

enum { KEY_BITS = 0x800, KEY_GROUP, KEY_SYM, KEY_ASYM, KEY_DRY_RUN, KEY_NO_REPORT, KEY_COMPRESS };

static const struct argp_option options[] = {
    { "input", 'i', "DIR", 0, "Float model to read: a Hugging Face or FT directory", 0 },
    { "output", 'o', "FILE", 0, "Archive to write, model.h5 say", 0 },
    { "bits", KEY_BITS, "N", 0, "4 (default) or 8", 0 },
    { "group-size", KEY_GROUP, "N", 0,
      "Columns that share a scale: 128 (default), 64, 32, or -1 for whole rows", 0 },
    { "sym", KEY_SYM, 0, 0, "Codes around zero, one scale for each group", 0 },
    { "asym", KEY_ASYM, 0, 0, "A scale and a zero for each group", 0 },
    { "tensor-parallelism", 'p', "N", 0, "Refuse groups that N ranks could not share (default 1)",
      0 },
    { "dry-run", KEY_DRY_RUN, 0, 0, "Print size, memory, disk and time, and do nothing", 0 },
    { "force", 'f', 0, 0, "Replace the output", 0 },
    { "compress", KEY_COMPRESS, 0, 0,
      "Compress the archive: a few percent smaller, slower to write and to load", 0 },
    { "no-report", KEY_NO_REPORT, 0, 0, "No FILE.report.html and .json beside the output", 0 },
    { 0 },
};

void cal_quant_cli_init(cal_quant_cli *o)
{
    memset(o, 0, sizeof *o);
    o->run.device = "auto";
    o->run.data.prompt = CAL_WINDOWS;
    o->quant = (cal_quant_opts){ .bits = 4, .group = 128 };
    o->ranks = 1;
}

static int64_t parse_group(const struct argp_state *state, const char *text)
{
    static const char *const sizes[] = { "128", "64", "32", "-1" };

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (strcmp(sizes[i], text) == 0)
            return atoi(text);
    q_cli_bad(state, "--group-size", text, "128, 64, 32 or -1");
    return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    cal_quant_cli *o = state->input;

    switch (key) {
    case 'i':
        o->input = arg;
        return 0;
    case 'o':
        o->output = arg;
        return 0;
    case KEY_BITS:
        if (strcmp(arg, "4") != 0 && strcmp(arg, "8") != 0)
            q_cli_bad(state, "--bits", arg, "4 or 8");
        o->quant.bits = *arg - '0';
        return 0;
    case KEY_GROUP:
        o->quant.group = parse_group(state, arg);
        return 0;
    case KEY_SYM:
        o->quant.sym = 1;
        return 0;
    case KEY_ASYM:
        o->quant.sym = 0;
        return 0;
    case 'p':
        o->ranks = (int)q_cli_int(state, "--tensor-parallelism", arg, 1, 64);
        return 0;
    case KEY_DRY_RUN:
        o->dry_run = 1;
        return 0;
    case KEY_NO_REPORT:
        o->no_report = 1;
        return 0;
    case KEY_COMPRESS:
        o->compress = 1;
        return 0;
    case 'f':
        o->force = 1;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp own = { .options = options, .parser = parse };
const struct argp_child cal_quant_children[] = { { &own, 0, NULL, 0 },
                                                 { &cal_run_argp, 0, "Calibration:", 2 },
                                                 { &q_cli_argp, 0, "Common options:", 90 },
                                                 { 0 } };

void cal_quant_cli_check(const cal_quant_cli *o, const struct argp_state *state)
{
    const int no_input = !o->input || !*o->input;

    if (no_input || !o->output || !*o->output)
        argp_error(state, "--%s is missing", no_input ? "input" : "output");
    if (!o->rtn && !o->run.data.path)
        argp_error(state, "--calib-data FILE is missing: texts like those the model will see");
}

/* ---- results --------------------------------------------------------------------------------- */

static q_status print_result(const cal_quant_job *j, const qnt_archive_result *w, double seconds,
                             int json, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *v = NULL;
    char *report = NULL;
    q_buf times = { 0 };

    if (!j->o->no_report && !(report = cal_report_path(j->o->output, "html")))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", j->o->output);
    if (!json) {
        printf("%s -> %s, %llu linears, %llu bytes, %.1f s", j->o->input, j->o->output,
               (unsigned long long)w->modules, (unsigned long long)w->bytes, seconds);
        if (!j->o->rtn)
            printf(", output error %.5f, rounded to nearest %.5f", j->error, j->nearest);
        Q_TRY(cal_stages_text(&times, &j->stages, err));
        printf("\n%s\n", times.data);
        if (report)
            printf("report: %s\n", report);
        goto out;
    }
    Q_TRY(fmt_json_new(&v, err));
    Q_TRY(fmt_json_put_str(v, "input", j->o->input, err));
    Q_TRY(fmt_json_put_str(v, "output", j->o->output, err));
    Q_TRY(cal_quant_job_json(v, j, err));
    Q_TRY(fmt_json_put_int(v, "bytes", (int64_t)w->bytes, err));
    Q_TRY(fmt_json_put_str(v, "root_sha256", w->root_sha256, err));
    Q_TRY(fmt_json_put_real(v, "seconds", seconds, err));
    Q_TRY(cal_stages_json(v, &j->stages, err));
    if (report)
        Q_TRY(fmt_json_put_str(v, "report", report, err));
    Q_TRY(fmt_json_cli_line(v, err));
out:
    fmt_json_free(v);
    q_buf_free(&times);
    q_free(report);
    return st;
}

static q_status write_report(const cal_quant_job *j, const qnt_archive_result *w, double seconds,
                             q_err *err)
{
    const cal_quant_cli *o = j->o;
    const char *method = o->rtn             ? "rounding to nearest"
                         : !o->quant.gptq   ? "awq"
                         : o->quant.factors ? "gptq with factors of awq"
                                            : "gptq";

    if (o->no_report)
        return Q_OK;
    return cal_quant_report_write(&(cal_quant_report){ .method = method,
                                                       .input = o->input,
                                                       .output = o->output,
                                                       .src = j->src,
                                                       .quant = &o->quant,
                                                       .result = o->rtn ? NULL : &j->quant,
                                                       .info = o->rtn ? NULL : &j->run.info,
                                                       .seed = o->run.data.seed,
                                                       .bytes = w->bytes,
                                                       .root_sha256 = w->root_sha256,
                                                       .seconds = seconds,
                                                       .stages = &j->stages },
                                  err);
}

static q_status dry_run(cal_quant_cli *o, const q_cli *cli, q_err *err)
{
    q_status st = Q_OK;
    q_buf text = { 0 };
    fmt_json *v = NULL;

    if (cli->json)
        Q_TRY(fmt_json_new(&v, err));
    Q_TRY(cal_quant_job_plan(&text, v, o, cli, err));
    if (v)
        Q_TRY(fmt_json_cli_line(v, err));
    else
        fputs(text.data, stdout);
out:
    fmt_json_free(v);
    q_buf_free(&text);
    return st;
}

static q_status run(cal_quant_cli *o, const q_cli *cli, const volatile sig_atomic_t *stop,
                    cal_archive_fn write, q_err *err)
{
    q_status st = Q_OK;
    const double start = q_now();
    cal_quant_job j = { 0 };
    qnt_archive_result w = { 0 };
    fmt_json *how = NULL;
    double seconds;

    Q_TRY(cal_quant_job_run(&j, o, cli, stop, err));
    if (rt_comm_rank(o->run.comm) > 0) /* the first one writes */
        goto out;
    Q_TRY(fmt_json_new(&how, err));
    Q_TRY(cal_quant_job_json(how, &j, err));
    cal_stage_begin(&j.stages, CAL_T_PACK);
    Q_TRY(write(&w,
                &(qnt_archive_opts){ .src = j.src,
                                     .path = o->output,
                                     .force = o->force,
                                     .compress = o->compress,
                                     .tool = "qwenkit " Q_VERSION,
                                     /* of the format; what is only rounded has that of GPTQ */
                                     .method = o->rtn || o->quant.gptq ? "gptq" : "awq",
                                     .bits = o->quant.bits,
                                     .sym = o->quant.sym,
                                     .group = o->quant.group,
                                     .provenance = how,
                                     .weight = cal_quant_job_weight,
                                     .vector = cal_quant_job_vector,
                                     .factors = cal_quant_job_factors,
                                     .stats = o->rtn ? NULL : cal_quant_job_stats,
                                     .loss = o->rtn ? NULL : cal_quant_job_loss,
                                     .k_scale = j.k_scale,
                                     .v_scale = j.v_scale,
                                     .self = &j,
                                     .stop = stop,
                                     .log = &cli->log },
                err));
    cal_stage_begin(&j.stages, CAL_T_PACK);
    cal_stage_move(&j.stages, CAL_T_CHECK, w.check_seconds);
    cal_stage_begin(&j.stages, CAL_T_DISK);
    Q_TRY(cal_quant_job_finish(&j, err));
    cal_stage_begin(&j.stages, CAL_T_START);
    seconds = q_now() - start;
    Q_TRY(write_report(&j, &w, seconds, err));
    Q_TRY(print_result(&j, &w, seconds, cli->json, err));
out:
    fmt_json_free(how);
    cal_quant_job_close(&j);
    return st;
}

int cal_quant_main(cal_quant_cli *o, q_cli *cli, const struct argp *argp, int argc, char **argv,
                   cal_archive_fn write)
{
    q_err err = { 0 };
    q_status st;
    const volatile sig_atomic_t *stop;

    cli->several = 1;
    st = q_cli_parse(cli, argp, argc, argv, NULL, &err);
    stop = q_cli_catch_signals();
    if (st == Q_OK)
        st = cal_ranks_open(&o->run.comm, cli, &err);
#if defined(_OPENMP)
    if (cli->threads > 0)
        omp_set_num_threads(cli->threads);
#endif
    if (st == Q_OK && cal_ranks_work(o->run.comm, !o->rtn && !o->dry_run))
        st = o->dry_run ? dry_run(o, cli, &err) : run(o, cli, stop, write, &err);
    if (st == Q_ECANCEL)
        q_cli_tell_resume(cli, o->output);
    return cal_ranks_exit(o->run.comm, cli, st, &err);
}
