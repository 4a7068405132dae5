/* Client of the calibration loop: largest magnitude per channel of every linear's input and output
 * and of the cached keys.
 *
 *     cal_ranges r;
 *     Q_TRY(cal_ranges_open(&r, model, err));
 *     o.client = &r.client;  Q_TRY(cal_loop_run(&o, err));
 *     ... r.layer[i].in[FMT_FFN_DOWN] ...      ... out: cal_ranges_close(&r);
 *
 * Threads: one; the sums of a view are shared among OpenMP's threads. */
#ifndef CAL_OBS_RANGE_H
#define CAL_OBS_RANGE_H

#include "calibrate/layer_loop.h"
#include "quant/ranges.h"

typedef struct cal_ranges {
    cal_client client;
    const fmt_model *m;
    qnt_ranges *layer; /* [m->layers] */
} cal_ranges;

q_status cal_ranges_open(cal_ranges *r, const fmt_model *m, q_err *err);
void cal_ranges_close(cal_ranges *r);

#endif
