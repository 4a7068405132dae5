/* The decoder body: one for all families; what differs is in the tables.
 *
 *     rt_work w;
 *     Q_TRY(rt_work_open(&w, model, max_tok, max_rows, err));
 *     Q_TRY(rt_forward(model, &w, batch, kv, err));                     hidden states of all tokens
 *     Q_TRY(rt_head(model, &w, rows, n_rows, err));                     w.logits [n_rows, vocab]
 *
 * Buffers are made once; a forward allocates nothing.  Threads: one rt_work per thread of calls. */
#ifndef RT_DECODER_H
#define RT_DECODER_H

#include "runtime/model.h"

/* Where calibration looks: the inputs of the four linears of a layer, and the fused projection. */
typedef enum rt_tap {
    RT_TAP_ATTN_IN,  /* [n_tok, hid] */
    RT_TAP_QKV,      /* [n_tok, (n_head + 2 n_kv) hd], bias added, before norms and RoPE */
    RT_TAP_ATTN_OUT, /* [n_tok, n_head * hd], input of the output projection */
    RT_TAP_FFN_IN,   /* [n_tok, hid] */
    RT_TAP_FFN_MID,  /* [n_tok, ffn], input of the down projection */
    RT_TAPS
} rt_tap;

/* x: backend memory in the type of activations, enqueued but not waited for; this call only. */
typedef q_status (*rt_tap_fn)(void *user, rt_tap at, const void *x, int64_t n_tok, q_err *err);

typedef struct rt_work {
    int64_t max_tok, max_rows;
    float *x;      /* [max_tok, hid] residual stream */
    void *xn;      /* [max_tok, hid] normalised */
    void *qkv;     /* [max_tok, max((n_head + 2 n_kv) hd, 2 ffn)]: also scratch of the MLP */
    void *q, *att; /* [max_tok, n_head * hd] */
    void *h;       /* [max_tok, ffn] */
    float *logits; /* [max_rows, vocab] */
    rt_tap_fn tap; /* NULL: nobody looks; set by the caller after rt_work_open */
    void *tap_user;
    int last_tap; /* 1 + the last one that matters: what is behind it is not computed; 0: all is */
} rt_work;

size_t rt_work_bytes(const rt_model *m, int64_t max_tok, int64_t max_rows);
q_status rt_work_open(rt_work *w, const rt_model *m, int64_t max_tok, int64_t max_rows, q_err *err);
void rt_work_close(rt_work *w, const rt_model *m);

/* Embeds b and runs all layers; w->x holds the residual stream.  b->n_tok <= max_tok. */
q_status rt_forward(const rt_model *m, rt_work *w, const rt_batch *b, const rt_kv *kv, q_err *err);
/* One layer, on w->x in place. */
q_status rt_layer_forward(const rt_model *m, rt_work *w, const rt_batch *b, const rt_kv *kv,
                          int64_t layer, q_err *err);
/* Final norm and lm_head of chosen rows of w->x.  rows: backend memory; n_rows <= max_rows. */
q_status rt_head(const rt_model *m, rt_work *w, const int32_t *rows, int64_t n_rows, q_err *err);

#endif
