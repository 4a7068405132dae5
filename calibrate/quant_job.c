/* The run of qwen-gptq and qwen-awq: layers are quantized into OUT.job one by one, and given to the
 * archive writer when it asks for them.  Rounding to nearest has no job: a weight is rounded as it
 * is asked for, so nothing is ever held but one linear. */
#include "calibrate/quant_job.h"

#include <string.h>

#include "calibrate/quant_fit.h"
#include "formats/base/q_file.h"
#include "quant/awq.h"
#include "quant/linalg.h"
#include "quant/ranges.h"

/* The groups of some models are odd in number, which shows when it is too late. */
static void tell_ranks(const cal_quant_job *j, const q_log *log)
{
    const fmt_model *m = fmt_src_model(j->src);
    const int64_t group = j->o->quant.group, smaller = cal_quant_smaller_group(m, group, 2);

    if (j->o->ranks == 1 && smaller && !cal_quant_shares(m, group, 2))
        q_log_info(log, "groups of %lld cannot be shared by 2 ranks, groups of %lld can",
                   (long long)group, (long long)smaller);
}

/* Everything that changes a code, as one text: a job with another is not continued. */
static char *recipe_of(const cal_quant_cli *o)
{
    const cal_quant_opts *q = &o->quant;
    const char *how = q->gptq ? "gptq" : "nearest";
    char factors[64] = "", damp[32] = "";

    if (q->given)
        snprintf(factors, sizeof factors, "awq factors of %.16s, ", q->given->root_sha256);
    else if (q->factors)
        snprintf(factors, sizeof factors, "awq factors, ");
    if (q->gptq)
        snprintf(damp, sizeof damp, ", damp %g", q->damp > 0 ? q->damp : 0.01);
    return q_format("%s%s, %d bits, group %lld, %s%s%s%s%s", factors, how, q->bits,
                    (long long)q->group, q->sym ? "sym" : "asym", damp,
                    q->act_order ? ", act-order" : "", q->clip ? ", clip" : "",
                    q->sequential ? ", true-sequential" : ", float inputs");
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
    }
    j->error /= (double)linears;
    j->nearest /= (double)linears;
}

static q_status set_scales(cal_quant_job *j, q_err *err)
{
    const fmt_model *m = fmt_src_model(j->src);
    const size_t n = (size_t)(m->layers * m->n_kv);

    j->k_scale = q_calloc(n, sizeof *j->k_scale);
    j->v_scale = q_calloc(n, sizeof *j->v_scale);
    if (!j->k_scale || !j->v_scale)
        return q_fail(err, Q_ENOMEM, "no memory for the scales of %lld layers",
                      (long long)m->layers);
    qnt_kv_steps(j->k_scale, j->v_scale, j->quant.kv, m);
    return Q_OK;
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
    o->run.stages = &j->stages;
    o->run.recipe = j->recipe;
}

q_status cal_quant_job_open(cal_quant_job *j, cal_quant_cli *o, const q_cli *cli,
                            const volatile sig_atomic_t *stop, q_err *err)
{
    q_status st = Q_OK;

    memset(j, 0, sizeof *j);
    j->o = o;
    cal_stage_begin(&j->stages, CAL_T_START);
    Q_TRY(q_out_check(o->output, o->force, err));
    Q_TRY(q_out_apart(o->output, o->run.data.path, err));
    Q_TRY(q_out_apart(o->output, o->factors_of, err));
    Q_TRY(fmt_src_open(&j->src, o->input, err));
    Q_TRY(fmt_src_output_apart(j->src, o->output, err));
    Q_TRY(cal_quant_takes(j->src, err));
    Q_TRY(cal_quant_fit(j->src, o->quant.bits, o->quant.group, o->ranks, err));
    tell_ranks(j, &cli->log);
    if (o->factors_of) {
        Q_TRY(cal_factors_open(&j->given, o->factors_of, fmt_src_model(j->src), err));
        o->quant.given = &j->given;
    }
    j->dir = q_format("%s.job", o->output);
    j->recipe = recipe_of(o);
    if (!j->dir || !j->recipe)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", o->output);
    set_run(j, o, cli, stop);
    qnt_linalg_init();
out:
    return st;
}

q_status cal_quant_job_data(cal_quant_job *j, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(cal_run_open(&j->run, j->src, &j->o->run, err));
    if (j->o->quant.given)
        Q_TRY(cal_factors_check(&j->given, j->run.info.model_sha256, err));
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
    Q_TRY(cal_quant_job_data(j, err));
    Q_TRY(cal_quant_open(&j->quant, j->src, &o->quant, err));
    Q_TRY(cal_run_loop(&j->run, &j->quant.client, err));
    sum_up(j);
    Q_TRY(set_scales(j, err));
out:
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
    cal_factors_close(&j->given);
    fmt_src_close(j->src);
    q_free(j->dir);
    q_free(j->recipe);
    q_free(j->k_scale);
    q_free(j->v_scale);
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
    const qnt_dev d = qnt_dev_host();
    float *w = NULL;

    Q_TRY(cal_load_f32(&w, j->src, role, layer, err));
    Q_TRY(qnt_round_groups(&d, out, w, NULL, NULL, box.n1, box.k1, &o, err));
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

q_status cal_quant_job_factors(void *self, fmt_role role, int64_t layer, float **out, q_err *err)
{
    q_status st = Q_OK;
    const cal_quant_job *j = self;
    char *path = NULL;

    *out = NULL;
    if (j->o->rtn || !j->o->quant.factors)
        return Q_OK;
    if (!(path = cal_job_layer_path(j->run.job, layer)))
        Q_FAIL(err, Q_ENOMEM, "no memory for a file name");
    Q_TRY(cal_quant_read_factors(out, path, role, fmt_src_model(j->src), err));
out:
    q_free(path);
    return st;
}

/* Not with rtn. */
q_status cal_quant_job_stats(void *self, fmt_ref ref, float **out, q_err *err)
{
    q_status st = Q_OK;
    const cal_quant_job *j = self;
    const cal_quant_stat *s = &j->quant.stat[ref.layer * FMT_ROLES + ref.role];
    char *path = cal_job_layer_path(j->run.job, ref.layer);

    if (!path || (ref.part == FMT_STAT_LOSS && !(*out = q_malloc(2 * sizeof **out))))
        Q_FAIL(err, Q_ENOMEM, "no memory for the statistics of a layer");
    if (ref.part == FMT_STAT_LOSS) {
        (*out)[0] = (float)s->nearest;
        (*out)[1] = (float)s->error;
    } else {
        Q_TRY(cal_quant_read_seen(out, path, ref.role, ref.part, fmt_src_model(j->src), err));
    }
out:
    q_free(path);
    return st;
}

qnt_loss cal_quant_job_loss(void *self, fmt_role role, int64_t layer)
{
    const cal_quant_job *j = self;
    const cal_quant_stat *s = &j->quant.stat[layer * FMT_ROLES + role];

    return (qnt_loss){ .error = s->error, .damp = s->damp };
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
    if (s->f64)
        Q_TRY(fmt_json_put_bool(v, "f64", 1, err));
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
