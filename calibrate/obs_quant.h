/* Client of the calibration loop that quantizes: GPTQ, AWQ, or both.
 *
 *     cal_quant q;
 *     Q_TRY(cal_quant_open(&q, src, &opts, err));
 *     o.client = &q.client;  Q_TRY(cal_loop_run(&o, err));
 *     ... q.stat[layer * FMT_ROLES + role] ...      ... out: cal_quant_close(&q);
 *
 * For every layer: second moments of the inputs of its linears (obs_gram.h); with `factors` those
 * of AWQ, folded into the layer; codes, by GPTQ or to the nearest; and the result becomes a file of
 * the job (quant_file.h).  What is looked at is the float model, in one pass: a code that another
 * order of summation rounds the other way then changes no later layer, so a CPU and a GPU end with
 * the same model (inputs of quantized layers are no better: README, "GPTQ and AWQ").  With
 * `sequential` the four linears of a layer are quantized in four passes, each seeing everything
 * before it quantized, and the layer is replaced by what the codes mean.
 *
 * The last pass sees keys and values, of the layer that the next one sees: their ranges make the
 * result ready for an int8 cache.  Memory: the f32 weights of one layer twice, and its second
 * moments.  Threads: one. */
#ifndef CAL_OBS_QUANT_H
#define CAL_OBS_QUANT_H

#include "calibrate/factor_file.h"
#include "calibrate/obs_gram.h"
#include "calibrate/obs_kv.h"
#include "calibrate/quant_file.h"
#include "calibrate/layer_f32.h"

typedef struct cal_quant_opts {
    int bits, sym;
    int64_t group;            /* -1: all of a row */
    int gptq;                 /* 0: to the nearest */
    int act_order;            /* gptq: columns by falling second moment */
    double damp;              /* gptq; 0: 0.01 */
    int factors;              /* AWQ's */
    const cal_factors *given; /* factors: these, instead of a search; may be NULL */
    int clip;                 /* not gptq: ranges of groups by their error */
    int sequential;           /* linears see everything before them quantized */
    const volatile sig_atomic_t *stop;
    const q_log *log;
} cal_quant_opts;

/* Seconds of a layer: passes over the samples, AWQ's factors, weights into f32, codes, their errors
 * and what becomes resident. */
typedef struct cal_quant_times {
    double passes, factors, weights, codes, errors;
    double at; /* q_now where the next part begins */
} cal_quant_times;

typedef struct cal_quant {
    cal_client client;
    const fmt_src *src;
    const fmt_model *m;
    cal_quant_opts o;
    qnt_dev d;            /* while the loop runs */
    cal_gram gram;        /* likewise */
    cal_kv_max ranges;    /* likewise */
    qnt_layer layer;      /* of the source, folded; in f32; linears in memory of the device */
    cal_quant_layer out;  /* of the current layer */
    cal_quant_stat *stat; /* [layers, FMT_ROLES] */
    cal_cost *cost;       /* [layers] */
    float *kv;            /* [layers, 2, n_kv] largest keys and values of every head */
    double since;         /* q_now at the begin of the layer */
    cal_quant_times times;
} cal_quant;

/* Whether all linears are floats.  Errors: Q_EUNSUPPORTED (they are quantized already). */
q_status cal_quant_takes(const fmt_src *src, q_err *err);
/* Errors: those of cal_quant_takes, Q_ENOMEM. */
q_status cal_quant_open(cal_quant *q, const fmt_src *src, const cal_quant_opts *o, q_err *err);
void cal_quant_close(cal_quant *q);
/* Of memory, beside that of the loop; *device: the part of it where the backend computes. */
uint64_t cal_quant_bytes(const fmt_model *m, uint64_t *device);

#endif
