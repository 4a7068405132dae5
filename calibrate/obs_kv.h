/* Ranges of keys and values for an int8 cache, seen by a client that is there for something else.
 *
 *     cal_kv_max kv;
 *     Q_TRY(cal_kv_open(&kv, model, device, ranks, err));
 *     Q_TRY(cal_kv_see(&kv, view, err));                  from observe, for the CAL_KV_POINTS
 *     Q_TRY(cal_kv_take(&kv, layer, s, max, err));        max [2, n_kv]: keys, then values
 *     ... out: cal_kv_close(&kv);
 *
 * Keys are seen as they are cached, behind norm and rotary embedding; values in the output of q, k
 * and v.  Of the model as it is in that pass: factors that are folded into the v rows behind it are
 * given to cal_kv_take.  Threads: one. */
#ifndef CAL_OBS_KV_H
#define CAL_OBS_KV_H

#include "calibrate/layer_loop.h"
#include "quant/device.h"

#define CAL_KV_POINTS (CAL_BIT(CAL_QKV) | CAL_BIT(CAL_K))

typedef struct cal_kv_max {
    const fmt_model *m;
    qnt_dev d;
    rt_comm *comm;  /* NULL: alone */
    float *k, *qkv; /* [n_kv hd], [(n_head + 2 n_kv) hd] largest magnitudes; device */
    float *row;     /* host: either of them */
} cal_kv_max;

/* d and comm are borrowed: closed after this. */
q_status cal_kv_open(cal_kv_max *kv, const fmt_model *m, qnt_dev d, rt_comm *comm, q_err *err);
void cal_kv_close(cal_kv_max *kv);
/* Other points are passed over. */
q_status cal_kv_see(cal_kv_max *kv, const cal_view *v, q_err *err);
/* Of all ranks, in all of them; forgets what was seen.  s [n_head hd]: factors of the inputs of the
 * output projection, by which values will be divided; NULL: by none.  Errors: Q_EFORMAT (not
 * finite: layer and head are named). */
q_status cal_kv_take(cal_kv_max *kv, int64_t layer, const float *s, float *max, q_err *err);

#endif
