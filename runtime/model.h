/* A loaded model: every weight on the device, bound once; immutable and shared by engines.
 *
 *     rt_model *m = NULL;
 *     rt_model_opts o = { .weight_only = "int8" };
 *     Q_TRY(rt_model_open(&m, src, be, &o, err));
 *     ... out: rt_model_close(m);
 *
 * The source may be closed after the open; the backend must outlive the model.
 * Threads: after open the model is read-only. */
#ifndef RT_MODEL_H
#define RT_MODEL_H

#include "formats/base/q_log.h"
#include "formats/source.h"
#include "runtime/backend.h"

typedef struct rt_model_opts {
    const char *weight_only; /* NULL: as stored; "int8", "int4": round to nearest per channel */
    const char *head; /* NULL: as stored; "int8", "int4": the output matrix rounded as well */
    int smooth_quant; /* 1: w8a8, the linears and their inputs in int8; not with weight_only */
    int per_token; /* w8a8: 1: activations by the maximum of each token; 0: by calibrated ranges */
    int per_channel;  /* w8a8: 1: a scale for each output channel; 0: for each piece */
    const q_log *log; /* progress; may be NULL */
} rt_model_opts;

struct rt_layer {
    float *norm1, *norm2;   /* [hid], backend memory */
    float *q_norm, *k_norm; /* [hd] or NULL */
    rt_weight w[FMT_ROLES]; /* the quantizable roles */
};

typedef struct rt_model {
    fmt_model desc;
    rt_backend *be;       /* borrowed */
    rt_layer *layer;      /* [layers] */
    rt_weight embd, head; /* head may alias embd */
    float *out_norm;
    float *k_scale, *v_scale; /* [layers, n_kv] of an int8 KV cache, host; NULL: not calibrated */
    char scheme[32];          /* of the linears: "f16", "w8" */
    uint64_t decode_bytes;    /* weights read by one decode step: linears, norms, head */
} rt_model;

uint64_t rt_weight_bytes(const rt_weight *w); /* codes, scales and zeros: what a product reads */

/* Errors: those of qnt_load; Q_EARG for an unknown weight_only; Q_ENOMEM. */
q_status rt_model_open(rt_model **out, const fmt_src *src, rt_backend *be, const rt_model_opts *o,
                       q_err *err);
/* A layer in host memory, on its way to a device. */
typedef struct rt_layer_data {
    qnt_tensor w[FMT_ROLES]; /* the quantizable roles, as stored */
    float *v[FMT_ROLES];     /* norms; NULL: the family has none */
} rt_layer_data;

/* Reads one layer.  No backend is touched: any thread may read while another one computes.
 * Errors: those of qnt_load. */
q_status rt_layer_read(rt_layer_data *d, const fmt_src *src, int64_t layer, q_err *err);
void rt_layer_data_free(rt_layer_data *d);
/* What was read as layer 0 of a model of one layer, without embedding and head: for
 * rt_layer_forward.  *d is left empty. */
q_status rt_model_open_layer(rt_model **out, const fmt_model *m, rt_backend *be, rt_layer_data *d,
                             q_err *err);
void rt_model_close(rt_model *m);

#endif
