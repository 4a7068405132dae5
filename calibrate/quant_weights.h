/* Weights of the layer that is being quantized: in f32 on the device, and back into the layer that
 * runs.  A part of obs_quant.c, which alone includes it. */
#ifndef CAL_QUANT_WEIGHTS_H
#define CAL_QUANT_WEIGHTS_H

#include "calibrate/obs_quant.h"

enum { CAL_LINEARS = 4 };

/* The linears by falling distance of what their factors are folded into. */
extern const fmt_role cal_fold_order[CAL_LINEARS];

int64_t cal_quant_rows(const cal_quant *q, fmt_role role);
int64_t cal_quant_cols(const cal_quant *q, fmt_role role);
/* q->layer back to nothing: linears are memory of the device. */
void cal_weights_free(cal_quant *q);
/* q->layer.w[role] [rows, cols] in f32, unless it is there: what is resident in `one`, where the
 * device can give it, else the source. */
q_status cal_weights_load(cal_quant *q, rt_model *one, int64_t layer, fmt_role role, q_err *err);
/* *out: a copy of it on the device, which the caller frees. */
q_status cal_weights_copy(const cal_quant *q, float **out, fmt_role role, q_err *err);
/* *w [rows, cols] in f32 becomes the weight of a role in the resident layer, with the bias of
 * q->layer; *w is taken, NULL afterwards. */
q_status cal_weights_set(cal_quant *q, rt_model *one, fmt_role role, float **w, q_err *err);
/* *out, freed first, becomes a copy of v [n] on the host. */
q_status cal_copy_of(float **out, const float *v, int64_t n, q_err *err);

#endif
