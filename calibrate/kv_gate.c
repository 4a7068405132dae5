/* Two sessions over the same directory, the float cache as the base of the comparison. */
#include "calibrate/kv_gate.h"

#include <string.h>

#include "calibrate/eval_ppl.h"
#include "datasets/dset.h"

#define WINDOW 512

static q_status open_session(rt_session **s, const char *model, const char *kv,
                             const cal_run_opts *o, q_err *err)
{
    const rt_session_opts so = { .path = model,
                                 .kv_format = kv,
                                 .backend = o->device,
                                 .device_unasked = o->device && strcmp(o->device, "auto") == 0,
                                 .threads = o->threads };

    return rt_session_open(s, &so, o->log, err);
}

static q_status read_text(q_buf *bytes, const char *text, q_err *err)
{
    q_status st = Q_OK;
    ds_set *set = NULL;

    Q_TRY(ds_open(&set, text, NULL, err));
    Q_TRY(ds_join(set, NULL, "\n\n", bytes, err));
out:
    ds_close(set);
    return st;
}

q_status cal_kv_check_text(const char *text, q_err *err)
{
    q_buf bytes = { 0 };
    const q_status st = read_text(&bytes, text, err);

    q_buf_free(&bytes);
    return st;
}

q_status cal_kv_compare(cal_kv_report *r, const char *model, const char *text,
                        const cal_run_opts *o, q_err *err)
{
    q_status st = Q_OK;
    rt_session *with = NULL, *without = NULL;
    q_buf bytes = { 0 };
    q_ids ids = { 0 };
    cal_ppl_result p;

    Q_TRY(read_text(&bytes, text, err));
    Q_TRY(open_session(&with, model, "int8", o, err));
    Q_TRY(open_session(&without, model, NULL, o, err));
    Q_TRY(txt_encode(with->tok, bytes.data, bytes.size, 0, &ids, err));
    Q_TRY(cal_ppl_run(&p, with, without, ids.v, ids.n,
                      &(cal_ppl_opts){ .window = WINDOW, .log = o->log }, err));
    *r = (cal_kv_report){ .ppl = p.ppl,
                          .ppl_float = p.base_ppl,
                          .ppl_delta = p.ppl - p.base_ppl,
                          .ppl_ratio = p.ppl / p.base_ppl,
                          .kld_mean = p.kld.mean,
                          .top1 = p.kld.same_top1 };
out:
    rt_session_close(with);
    rt_session_close(without);
    q_buf_free(&bytes);
    q_ids_free(&ids);
    return st;
}

q_status cal_kv_json(fmt_json *v, const cal_kv_report *r, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(fmt_json_put_real(v, "ppl", r->ppl, err));
    Q_TRY(fmt_json_put_real(v, "ppl_float", r->ppl_float, err));
    Q_TRY(fmt_json_put_real(v, "ppl_delta", r->ppl_delta, err));
    Q_TRY(fmt_json_put_real(v, "kld_mean", r->kld_mean, err));
    Q_TRY(fmt_json_put_real(v, "top1", r->top1, err));
out:
    return st;
}

q_status cal_kv_check(const cal_kv_report *r, const cal_gate *gate, q_err *err)
{
    static const char *const names[] = { "ppl",       "ppl_float", "ppl_delta",
                                         "ppl_ratio", "kld_mean",  "top1" };
    const double values[] = {
        r->ppl, r->ppl_float, r->ppl_delta, r->ppl_ratio, r->kld_mean, r->top1
    };

    return cal_gate_check(gate, names, values, sizeof values / sizeof values[0], err);
}
