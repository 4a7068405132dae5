/* Client of the calibration loop: largest magnitude per channel of every linear's input and output
 * and of the cached keys; and, if asked for, exponents of SmoothQuant for each linear.
 *
 *     cal_ranges r;
 *     Q_TRY(cal_ranges_open(&r, src, search, err));
 *     o.client = &r.client;  Q_TRY(cal_loop_run(&o, err));
 *     ... r.layer[i].in[FMT_FFN_DOWN] ...      ... out: cal_ranges_close(&r);
 *
 * Threads: one; the sums of a view are shared among OpenMP's threads. */
#ifndef CAL_OBS_RANGE_H
#define CAL_OBS_RANGE_H

#include "calibrate/cost.h"
#include "calibrate/obs_gram.h"
#include "quant/ranges.h"

typedef struct cal_ranges {
    cal_client client;
    const fmt_src *src;
    const fmt_model *m;
    qnt_ranges *layer; /* [m->layers] */
    cal_cost *cost;    /* likewise: what finding them cost */
    double since;      /* q_now at the begin of the layer */
    int64_t search;    /* tokens in all; 0: no exponents */
    /* while the loop runs: */
    qnt_dev d;
    rt_comm *comm;            /* NULL: alone */
    float *max[CAL_POINTS];   /* [dim] of the layer so far; device */
    cal_gram gram;            /* with search */
    float *sample[FMT_ROLES]; /* [CAL_RANGE_SAMPLE, K] of inputs */
    void *row;                /* one of them on its way */
} cal_ranges;

#define CAL_RANGE_SAMPLE 256

/* search: 0, or the number of tokens that will be seen: then exponents are chosen
 * (smooth_search.h), which takes the second moments of the inputs and a layer in f32. */
q_status cal_ranges_open(cal_ranges *r, const fmt_src *src, int64_t search, q_err *err);
uint64_t cal_ranges_bytes(const fmt_model *m, int search, uint64_t *device); /* as of cal_quant */
void cal_ranges_close(cal_ranges *r);

#endif
