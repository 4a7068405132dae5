/* What a quantization would need: --dry-run of qwen-gptq and qwen-awq. */
#include "calibrate/loop_time.h"
#include "calibrate/quant_job.h"

/* Operations of a whole run, and bytes of codes and scales of all linears. */
static cal_work work_of(const cal_quant_cli *o, const fmt_model *m, double tokens, double *bytes)
{
    const double passes = o->quant.sequential ? 5 : 1, factors = o->quant.factors ? 40 : 0;
    cal_work w = { 0 };

    *bytes = 0;
    for (int r = 0; r < FMT_ROLES; r++) {
        const fmt_role_row *row = fmt_role_get((fmt_role)r);
        const double N = (double)fmt_role_rows(row, m), K = (double)fmt_dim_size(row->cols, m);
        const double group = o->quant.group < 0 ? K : (double)o->quant.group;
        const double scored = N < 256 ? N : 256;

        if (!row->quant)
            continue;
        w.forward += 2 * passes * N * K * tokens;
        w.client += K * K * tokens + K * K * K + N * K * K + 2 * (factors + 3) * scored * K * K;
        *bytes += N * K * o->quant.bits / 8 + N * (K / group) * (2 + o->quant.bits / 8.0);
    }
    *bytes *= (double)m->layers;
    w.forward *= (double)m->layers;
    w.client *= (double)m->layers;
    return w;
}

static uint64_t float_bytes(const fmt_src *src)
{
    const fmt_model *m = fmt_src_model(src);
    uint64_t linears = 0;

    for (int r = 0; r < FMT_ROLES; r++) {
        const fmt_role_row *row = fmt_role_get((fmt_role)r);

        if (row->quant)
            linears += (uint64_t)(m->layers * fmt_role_rows(row, m) * fmt_dim_size(row->cols, m)) *
                       fmt_dtype_bytes(fmt_src_dtype(src, (fmt_ref){ (fmt_role)r, 0, FMT_WEIGHT }));
    }
    return fmt_src_bytes(src) - linears;
}

typedef struct quant_plan {
    double codes; /* bytes of codes and scales */
    double output, seconds;
    cal_plan run; /* zeros with rtn */
} quant_plan;

static q_status make_plan(quant_plan *p, cal_quant_job *j, cal_quant_cli *o, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = fmt_src_model(j->src);
    cal_client client = { 0 };
    cal_work w;

    if (!o->rtn) {
        Q_TRY(cal_quant_job_data(j, err));
        client.bytes = cal_quant_bytes(m, &client.device_bytes);
        Q_TRY(cal_run_plan(&p->run, &j->run, &client, err));
    }
    w = work_of(o, m, (double)p->run.tokens, &p->codes);
    p->output = (double)float_bytes(j->src) + p->codes;
    p->run.disk += (uint64_t)p->codes;
    if (!o->rtn)
        p->seconds = cal_work_seconds(&w, j->run.be);
out:
    return st;
}

static q_status put_text(q_buf *out, const quant_plan *p, const cal_quant_job *j, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(q_buf_printf(out, err,
                       "%s -> %s: %s\noutput: %.3f GB, of it %.3f GB for %lld layers of linears\n",
                       j->o->input, j->o->output, j->recipe, p->output * 1e-9, p->codes * 1e-9,
                       (long long)fmt_src_model(j->src)->layers));
    if (j->o->rtn)
        Q_TRY(q_buf_puts(out, "no calibration: weights are rounded as they are written\n", err));
    else
        Q_TRY(cal_plan_text(out, &p->run, p->seconds, err));
out:
    return st;
}

static q_status put_json(fmt_json *v, const quant_plan *p, const cal_quant_job *j, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *run;

    Q_TRY(fmt_json_put_str(v, "input", j->o->input, err));
    Q_TRY(fmt_json_put_str(v, "output", j->o->output, err));
    Q_TRY(fmt_json_put_str(v, "recipe", j->recipe, err));
    Q_TRY(fmt_json_put_int(v, "layers", fmt_src_model(j->src)->layers, err));
    Q_TRY(fmt_json_put_int(v, "bytes", (int64_t)p->output, err));
    Q_TRY(fmt_json_put_int(v, "bytes_of_linears", (int64_t)p->codes, err));
    if (j->o->rtn)
        goto out;
    Q_TRY(fmt_json_put_obj(&run, v, "calibration", err));
    Q_TRY(cal_plan_json(run, &p->run, p->seconds, err));
out:
    return st;
}

q_status cal_quant_job_plan(q_buf *out, fmt_json *v, cal_quant_cli *o, const q_cli *cli, q_err *err)
{
    q_status st = Q_OK;
    cal_quant_job j;
    quant_plan p = { 0 };

    Q_TRY(cal_quant_job_open(&j, o, cli, NULL, err));
    Q_TRY(make_plan(&p, &j, o, err));
    Q_TRY(v ? put_json(v, &p, &j, err) : put_text(out, &p, &j, err));
out:
    cal_quant_job_close(&j);
    return st;
}
