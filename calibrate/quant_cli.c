/* Options and wiring of programs that quantize. */
#include "calibrate/quant_cli.h"

#include <stdio.h>
#include <string.h>

#include "calibrate/quant_report.h"
#include "formats/base/q_file.h"
#include "quant/awq.h"
#include "quant/linalg.h"

enum { KEY_BITS = 0x800, KEY_GROUP, KEY_SYM, KEY_ASYM, KEY_DRY_RUN, KEY_NO_REPORT };

static const struct argp_option options[] = {
    { "input", 'i', "DIR", 0, "Float model to read: a Hugging Face directory", 0 },
    { "output", 'o', "FILE", 0, "Archive to write, model.h5 say", 0 },
    { "bits", KEY_BITS, "N", 0, "4 (default) or 8", 0 },
    { "group-size", KEY_GROUP, "N", 0,
      "Columns that share a scale: 128 (default), 64, 32, or -1 for whole rows", 0 },
    { "sym", KEY_SYM, 0, 0, "Codes around zero, one scale for each group", 0 },
    { "asym", KEY_ASYM, 0, 0, "A scale and a zero for each group", 0 },
    { "dry-run", KEY_DRY_RUN, 0, 0, "Print size, memory, disk and time, and do nothing", 0 },
    { "force", 'f', 0, 0, "Replace the output", 0 },
    { "no-report", KEY_NO_REPORT, 0, 0, "No FILE.report.html and .json beside the output", 0 },
    { 0 },
};

void cal_quant_cli_init(cal_quant_cli *o)
{
    memset(o, 0, sizeof *o);
    o->run.device = "auto";
    o->run.data.prompt = CAL_WINDOWS;
    o->quant = (cal_quant_opts){ .bits = 4, .group = 128 };
}

static int64_t parse_group(const struct argp_state *state, const char *text)
{
    static const int64_t sizes[] = { 128, 64, 32, -1 };
    const int64_t n = q_cli_int(state, "--group-size", text, -1, 128);

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (sizes[i] == n)
            return n;
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
        o->quant.bits = (int)q_cli_int(state, "--bits", arg, 4, 8);
        if (o->quant.bits != 4 && o->quant.bits != 8)
            q_cli_bad(state, "--bits", arg, "4 or 8");
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
    case KEY_DRY_RUN:
        o->dry_run = 1;
        return 0;
    case KEY_NO_REPORT:
        o->no_report = 1;
        return 0;
    case 'f':
        o->force = 1;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp cal_quant_argp = { .options = options, .parser = parse };

void cal_quant_cli_check(const cal_quant_cli *o, const struct argp_state *state)
{
    if (!o->input || !o->output)
        argp_error(state, "--%s is missing", o->input ? "output" : "input");
    if (!o->rtn && !o->run.data.path)
        argp_error(state, "--calib-data FILE is missing: texts like those the model will see");
}

/* ---- the run --------------------------------------------------------------------------------- */

static q_status check_paths(const cal_quant_cli *o, q_err *err)
{
    if (q_path_is_dir(o->output))
        return q_fail(err, Q_ECREATE, "%s: is a directory, wanted the name of an archive",
                      o->output);
    if (q_path_exists(o->output) && !o->force)
        return q_fail(err, Q_ECREATE, "%s: exists; --force replaces it", o->output);
    return Q_OK;
}

/* Everything that changes a code, as one text: a job with another is not continued. */
static char *recipe_of(const cal_quant_cli *o)
{
    const cal_quant_opts *q = &o->quant;
    const char *how = q->gptq ? "gptq" : "nearest";
    char *text,
        *damp = q->gptq ? q_format(", damp %g", q->damp > 0 ? q->damp : 0.01) : q_strdup("");

    if (!damp)
        return NULL;
    text = q_format("%s%s, %d bits, group %lld, %s%s%s%s%s", q->factors ? "awq factors, " : "", how,
                    q->bits, (long long)q->group, q->sym ? "sym" : "asym", damp,
                    q->act_order ? ", act-order" : "", q->clip ? ", clip" : "",
                    q->sequential ? ", true-sequential" : "");
    q_free(damp);
    return text;
}

/* Means over the linears. */
static void sum_up(cal_quant_job *j)
{
    const int64_t n = fmt_src_model(j->src)->layers * FMT_ROLES;
    int64_t linears = 0;

    for (int64_t i = 0; i < n; i++) {
        const cal_quant_stat *s = &j->quant.stat[i];

        if (!fmt_role_get((fmt_role)(i % FMT_ROLES))->quant)
            continue;
        linears++;
        j->error += s->error;
        j->nearest += s->nearest;
        j->dead += s->dead;
        j->damp_max = s->damp > j->damp_max ? s->damp : j->damp_max;
    }
    j->error /= (double)linears;
    j->nearest /= (double)linears;
}

static void set_run(cal_quant_job *j, cal_quant_cli *o, const q_cli *cli,
                    const volatile sig_atomic_t *stop)
{
    o->run.threads = cli->threads;
    o->run.data.seed = cli->seed;
    o->run.tool = "qwenkit " Q_VERSION;
    o->run.stop = o->quant.stop = stop;
    o->run.log = o->quant.log = &cli->log;
    o->run.job_dir = j->dir;
    o->run.recipe = j->recipe;
}

q_status cal_quant_job_open(cal_quant_job *j, cal_quant_cli *o, const q_cli *cli,
                            const volatile sig_atomic_t *stop, q_err *err)
{
    q_status st = Q_OK;

    memset(j, 0, sizeof *j);
    j->o = o;
    Q_TRY(check_paths(o, err));
    Q_TRY(fmt_src_open(&j->src, o->input, err));
    j->dir = q_format("%s.job", o->output);
    j->recipe = recipe_of(o);
    if (!j->dir || !j->recipe)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", o->output);
    set_run(j, o, cli, stop);
    qnt_linalg_init();
out:
    return st;
}

q_status cal_quant_job_run(cal_quant_job *j, cal_quant_cli *o, const q_cli *cli,
                           const volatile sig_atomic_t *stop, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(cal_quant_job_open(j, o, cli, stop, err));
    if (o->rtn)
        goto out;
    Q_TRY(cal_run_open(&j->run, j->src, &o->run, err));
    Q_TRY(cal_quant_open(&j->quant, j->src, &o->quant, err));
    Q_TRY(cal_run_loop(&j->run, &j->quant.client, err));
    sum_up(j);
out:
    if (st != Q_OK)
        cal_quant_job_close(j);
    return st;
}

q_status cal_quant_job_finish(cal_quant_job *j, q_err *err)
{
    return j->o->rtn ? Q_OK : cal_job_remove(j->dir, err);
}

void cal_quant_job_close(cal_quant_job *j)
{
    if (j->run.src)
        cal_run_close(&j->run);
    cal_quant_close(&j->quant);
    fmt_src_close(j->src);
    q_free(j->dir);
    q_free(j->recipe);
    memset(j, 0, sizeof *j);
}

/* ---- for the archive ------------------------------------------------------------------------- */

static q_status round_weight(const cal_quant_job *j, fmt_role role, int64_t layer, qnt_tensor *out,
                             q_err *err)
{
    q_status st = Q_OK;
    const fmt_ref ref = { role, layer, FMT_WEIGHT };
    const fmt_box box = fmt_src_shape(j->src, ref);
    const qnt_round_opts o = { .name = fmt_src_name(j->src, ref, 0),
                               .bits = j->o->quant.bits,
                               .group = j->o->quant.group,
                               .sym = j->o->quant.sym };
    float *w = NULL;

    Q_TRY(cal_load_f32(&w, j->src, role, layer, err));
    Q_TRY(qnt_round_groups(out, w, NULL, box.n1, box.k1, &o, err));
out:
    q_free(w);
    return st;
}

q_status cal_quant_job_weight(void *self, fmt_role role, int64_t layer, qnt_tensor *out, q_err *err)
{
    q_status st = Q_OK;
    const cal_quant_job *j = self;
    char *path = NULL;

    if (j->o->rtn)
        return round_weight(j, role, layer, out, err);
    if (!(path = cal_job_layer_path(j->run.job, layer)))
        Q_FAIL(err, Q_ENOMEM, "no memory for a file name");
    Q_TRY(cal_quant_read_weight(out, path, role, fmt_src_model(j->src), err));
out:
    q_free(path);
    return st;
}

q_status cal_quant_job_vector(void *self, fmt_ref ref, float **out, q_err *err)
{
    q_status st = Q_OK;
    const cal_quant_job *j = self;
    char *path = NULL;

    *out = NULL;
    if (j->o->rtn || !j->o->quant.factors || !fmt_role_get(ref.role)->per_layer)
        return Q_OK;
    if (!(path = cal_job_layer_path(j->run.job, ref.layer)))
        Q_FAIL(err, Q_ENOMEM, "no memory for a file name");
    Q_TRY(cal_quant_read_vector(out, path, ref.role, fmt_src_model(j->src), err));
out:
    q_free(path);
    return st;
}

static q_status put_linear(fmt_json *list, int64_t layer, fmt_role role, const cal_quant_stat *s,
                           q_err *err)
{
    q_status st = Q_OK;
    fmt_json *v;

    Q_TRY(fmt_json_put_obj(&v, list, NULL, err));
    Q_TRY(fmt_json_put_int(v, "layer", layer, err));
    Q_TRY(fmt_json_put_str(v, "role", fmt_role_get(role)->name, err));
    Q_TRY(fmt_json_put_real(v, "error", s->error, err));
    Q_TRY(fmt_json_put_real(v, "error_nearest", s->nearest, err));
    if (s->damp > 0)
        Q_TRY(fmt_json_put_real(v, "damp", s->damp, err));
    if (s->dead > 0)
        Q_TRY(fmt_json_put_int(v, "dead_inputs", s->dead, err));
    if (s->alpha > 0)
        Q_TRY(fmt_json_put_real(v, "alpha", s->alpha, err));
out:
    return st;
}

q_status cal_quant_job_json(fmt_json *v, const cal_quant_job *j, q_err *err)
{
    q_status st = Q_OK;
    const int64_t layers = fmt_src_model(j->src)->layers;
    fmt_json *list;

    Q_TRY(fmt_json_put_str(v, "recipe", j->recipe, err));
    if (j->o->rtn)
        goto out;
    Q_TRY(fmt_json_put_str(v, "prompt", j->run.info.prompt, err));
    Q_TRY(fmt_json_put_int(v, "samples", j->run.info.samples, err));
    Q_TRY(fmt_json_put_int(v, "tokens", j->run.info.tokens, err));
    Q_TRY(fmt_json_put_str(v, "data_sha256", j->run.info.data_sha256, err));
    Q_TRY(fmt_json_put_str(v, "model_sha256", j->run.info.model_sha256, err));
    Q_TRY(fmt_json_put_real(v, "error", j->error, err));
    Q_TRY(fmt_json_put_real(v, "error_nearest", j->nearest, err));
    Q_TRY(fmt_json_put_arr(&list, v, "linears", err));
    for (int64_t l = 0; l < layers; l++)
        for (int r = 0; r < FMT_ROLES; r++)
            if (fmt_role_get((fmt_role)r)->quant)
                Q_TRY(put_linear(list, l, (fmt_role)r, &j->quant.stat[l * FMT_ROLES + r], err));
out:
    return st;
}

/* ---- the last line --------------------------------------------------------------------------- */

q_status cal_quant_job_print(const cal_quant_job *j, const cal_quant_written *w, int json,
                             q_err *err)
{
    q_status st = Q_OK;
    fmt_json *v = NULL;
    char *report = NULL;
    q_buf line = { 0 };

    if (!j->o->no_report && !(report = cal_report_path(j->o->output, "html")))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", j->o->output);
    if (!json) {
        printf("%s -> %s, %llu linears, %llu bytes, %.1f s", j->o->input, j->o->output,
               (unsigned long long)w->modules, (unsigned long long)w->bytes, w->seconds);
        if (!j->o->rtn)
            printf(", output error %.5f, rounded to nearest %.5f", j->error, j->nearest);
        puts("");
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
    Q_TRY(fmt_json_put_real(v, "seconds", w->seconds, err));
    if (report)
        Q_TRY(fmt_json_put_str(v, "report", report, err));
    Q_TRY(fmt_json_print(&line, v, 0, err));
    puts(line.data);
out:
    fmt_json_free(v);
    q_free(report);
    q_buf_free(&line);
    return st;
}

q_status cal_quant_job_report(const cal_quant_job *j, const cal_quant_written *w, q_err *err)
{
    const cal_quant_cli *o = j->o;
    const int factors = o->quant.factors;

    if (o->no_report)
        return Q_OK;
    return cal_quant_report_write(&(cal_quant_report){ .method = o->rtn ? "rounding to nearest"
                                                                 : !o->quant.gptq ? "awq"
                                                                 : factors
                                                                     ? "gptq with factors of awq"
                                                                     : "gptq",
                                                       .input = o->input,
                                                       .output = o->output,
                                                       .src = j->src,
                                                       .quant = &o->quant,
                                                       .result = o->rtn ? NULL : &j->quant,
                                                       .info = o->rtn ? NULL : &j->run.info,
                                                       .seed = o->run.data.seed,
                                                       .bytes = w->bytes,
                                                       .root_sha256 = w->root_sha256,
                                                       .seconds = w->seconds },
                                  err);
}

q_status cal_quant_job_dry_run(cal_quant_cli *o, const q_cli *cli, q_err *err)
{
    q_buf text = { 0 };
    const q_status st = cal_quant_job_plan(&text, o, cli, err);

    if (st == Q_OK)
        fputs(text.data, stdout);
    q_buf_free(&text);
    return st;
}
