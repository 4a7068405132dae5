/* The decoder body.  Reads top to bottom as the model card of every family. */
#include "runtime/decoder.h"

#include <assert.h>
#include <string.h>

/* one operation of the backend `be`, arguments by name */
#define OP(op, ...) Q_TRY(be->ops->op(be, &(rt_##op##_args){ __VA_ARGS__ }, err))
typedef rt_qkv_args rt_qkv_rope_store_args;
typedef rt_attn_args rt_attention_args;

/* shows x [n_tok, ...] to who asked for it */
#define TAP(at, buf)                                                                               \
    do {                                                                                           \
        if (w->tap)                                                                                \
            Q_TRY(w->tap(w->tap_user, at, buf, b->n_tok, err));                                    \
        if (w->last_tap == 1 + (int)(at))                                                          \
            goto out;                                                                              \
    } while (0)

static int64_t qkv_width(const fmt_model *d)
{
    const int64_t qkv = (d->n_head + 2 * d->n_kv) * d->hd;

    return qkv > 2 * d->ffn ? qkv : 2 * d->ffn;
}

/* The buffers of rt_work with their elements and element types, for open and for counting. */
#define BUFFERS(X)                                                                                 \
    X(x, max_tok * d->hid, FMT_F32)                                                                \
    X(xn, (max_tok > max_rows ? max_tok : max_rows) * d->hid, act)                                 \
    X(qkv, max_tok *qkv_width(d), act)                                                             \
    X(q, max_tok * d->n_head * d->hd, act)                                                         \
    X(att, max_tok * d->n_head * d->hd, act)                                                       \
    X(h, max_tok * d->ffn, act)                                                                    \
    X(logits, max_rows * d->vocab, FMT_F32)

size_t rt_work_bytes(const rt_model *m, int64_t max_tok, int64_t max_rows)
{
    const fmt_model *d = &m->desc;
    const fmt_dtype act = m->be->ops->act;
    size_t n = 0;

#define X(name, count, type) n += (size_t)(count)*fmt_dtype_bytes(type);
    BUFFERS(X)
#undef X
    return n;
}

q_status rt_work_open(rt_work *w, const rt_model *m, int64_t max_tok, int64_t max_rows, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *d = &m->desc;
    rt_backend *be = m->be;
    const fmt_dtype act = be->ops->act;
    void *p = NULL;

    memset(w, 0, sizeof *w);
    w->max_tok = max_tok;
    w->max_rows = max_rows;
#define X(name, count, type)                                                                       \
    Q_TRY(be->ops->alloc(be, (size_t)(count)*fmt_dtype_bytes(type), &p, err));                     \
    w->name = p;
    BUFFERS(X)
#undef X
out:
    if (st != Q_OK)
        rt_work_close(w, m);
    return st;
}

void rt_work_close(rt_work *w, const rt_model *m)
{
#define X(name, count, type) m->be->ops->free(m->be, w->name);
    BUFFERS(X)
#undef X
    memset(w, 0, sizeof *w);
}

q_status rt_layer_forward(const rt_model *m, rt_work *w, const rt_batch *b, const rt_kv *kv,
                          int64_t layer, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *d = &m->desc;
    const rt_layer *L = &m->layer[layer];
    const int64_t n = b->n_tok;
    const int alone = !w->tap; /* only the products read what the norms make */
    rt_backend *be = m->be;

    OP(rmsnorm, .x = w->x, .w = L->norm1, .y = w->xn, .n_rows = n, .dim = d->hid, .eps = d->eps,
       .reader = alone ? &L->w[FMT_ATTN_QKV] : NULL);
    TAP(RT_TAP_ATTN_IN, w->xn);
    OP(linear, .x = w->xn, .w = &L->w[FMT_ATTN_QKV], .y = w->qkv, .n_tok = n, .coded = alone);
    TAP(RT_TAP_QKV, w->qkv);
    OP(qkv_rope_store, .b = b, .m = d, .qkv = w->qkv, .q = w->q, .kv = kv, .q_norm = L->q_norm,
       .k_norm = L->k_norm, .layer = (int)layer);
    OP(attention, .b = b, .m = d, .q = w->q, .kv = kv, .y = w->att, .layer = (int)layer);
    TAP(RT_TAP_ATTN_OUT, w->att);
    OP(linear, .x = w->att, .w = &L->w[FMT_ATTN_OUT], .y = w->x, .n_tok = n, .epi = RT_EPI_ADD);
    OP(rmsnorm, .x = w->x, .w = L->norm2, .y = w->xn, .n_rows = n, .dim = d->hid, .eps = d->eps,
       .reader = alone ? &L->w[FMT_FFN_GATE_UP] : NULL);
    TAP(RT_TAP_FFN_IN, w->xn);
    OP(linear, .x = w->xn, .w = &L->w[FMT_FFN_GATE_UP], .y = w->h, .tmp = w->qkv, .n_tok = n,
       .epi = RT_EPI_SILU_MUL, .coded = alone);
    TAP(RT_TAP_FFN_MID, w->h);
    OP(linear, .x = w->h, .w = &L->w[FMT_FFN_DOWN], .y = w->x, .n_tok = n, .epi = RT_EPI_ADD);
out:
    return st;
}

q_status rt_forward(const rt_model *m, rt_work *w, const rt_batch *b, const rt_kv *kv, q_err *err)
{
    q_status st = Q_OK;
    rt_backend *be = m->be;
    int done = 0;

    assert(b->n_tok > 0 && b->n_tok <= w->max_tok);
    OP(embed, .b = b, .w = &m->embd, .y = w->x);
    if (be->ops->layers && !w->tap && b->n_tok == b->n_seq)
        Q_TRY(be->ops->layers(be,
                              &(rt_layers_args){ .b = b,
                                                 .m = &m->desc,
                                                 .layer = m->layer,
                                                 .kv = kv,
                                                 .x = w->x,
                                                 .qkv = w->qkv,
                                                 .att = w->att,
                                                 .h = w->h },
                              &done, err));
    for (int64_t i = 0; !done && i < m->desc.layers; i++)
        Q_TRY(rt_layer_forward(m, w, b, kv, i, err));
out:
    return st;
}

q_status rt_head(const rt_model *m, rt_work *w, const int32_t *rows, int64_t n_rows, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *d = &m->desc;
    rt_backend *be = m->be;

    assert(n_rows > 0 && n_rows <= w->max_rows);
    OP(rmsnorm, .x = w->x, .w = m->out_norm, .y = w->xn, .rows = rows, .n_rows = n_rows,
       .dim = d->hid, .eps = d->eps);
    OP(linear, .x = w->xn, .w = &m->head, .y = w->logits, .n_tok = n_rows, .epi = RT_EPI_F32);
out:
    return st;
}
