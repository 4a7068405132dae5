/* The weights of one layer in f32, for what is computed on them during calibration.
 *
 *     qnt_layer l = { 0 };
 *     Q_TRY(cal_layer_load(&l, src, layer, err));      ... out: cal_layer_free(&l);
 *
 * Threads: one. */
#ifndef CAL_LAYER_F32_H
#define CAL_LAYER_F32_H

#include "formats/source.h"
#include "quant/fold.h"

/* The four linears with their biases, and the two norms before them.  *l is zeroed or freed.
 * Errors: those of qnt_load, Q_EFORMAT (a weight that is not finite: tensor and row are named). */
q_status cal_layer_load(qnt_layer *l, const fmt_src *src, int64_t layer, q_err *err);
/* The biases and norms alone. */
q_status cal_layer_load_vectors(qnt_layer *l, const fmt_src *src, int64_t layer, q_err *err);
void cal_layer_free(qnt_layer *l);

/* W [N, K] of one role, likewise.  Owned by the caller. */
q_status cal_load_f32(float **W, const fmt_src *src, fmt_role role, int64_t layer, q_err *err);

#endif
