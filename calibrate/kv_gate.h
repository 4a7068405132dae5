/* What an int8 key/value cache costs: perplexity with it and without, and a gate on the difference.
 *
 *     cal_kv_report r;
 *     Q_TRY(cal_kv_compare(&r, "ft/1-gpu", "wiki.txt", &run_opts, err));
 *     Q_TRY(cal_kv_check(&r, &gate, err));
 *
 * Convention of qwen-perplexity, windows of 512.  Errors: those of sessions and texts.
 * Threads: one. */
#ifndef CAL_KV_GATE_H
#define CAL_KV_GATE_H

#include "calibrate/calibrate.h"
#include "calibrate/gate.h"

typedef struct cal_kv_report {
    double ppl, ppl_float, ppl_delta, ppl_ratio, kld_mean, top1;
} cal_kv_report;

/* Whether text can be compared on, before what takes long. */
q_status cal_kv_check_text(const char *text, q_err *err);
/* model: an FT directory or an archive with scales; text: a plain text file. */
q_status cal_kv_compare(cal_kv_report *r, const char *model, const char *text,
                        const cal_run_opts *o, q_err *err);
q_status cal_kv_json(fmt_json *v, const cal_kv_report *r, q_err *err);
/* Errors: Q_EGATE, Q_EARG (no such figure, whatever r holds). */
q_status cal_kv_check(const cal_kv_report *r, const cal_gate *gate, q_err *err);

#endif
