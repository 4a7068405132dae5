/* Steps.  Buffers are made once, for the largest step.  A client sees the activations in place, in
 * memory of the backend. */
#include "calibrate/step.h"

#include <assert.h>
#include <string.h>

#include "calibrate/layer_loop.h"
#include "runtime/rope.h"

#define MAX_TOK     2048
#define EMBED_PARTS 16 /* of a step's rows, read side by side */

static const struct {
    rt_tap tap;
    cal_point in, out; /* out: of the linear that reads this input; CAL_POINTS: seen elsewhere */
    fmt_role role;
} taps[] = {
    { RT_TAP_ATTN_IN, CAL_ATTN_IN, CAL_POINTS, FMT_ATTN_QKV },
    { RT_TAP_QKV, CAL_QKV, CAL_POINTS, FMT_ATTN_QKV },
    { RT_TAP_ATTN_OUT, CAL_ATTN_OUT, CAL_ATTN_RESULT, FMT_ATTN_OUT },
    { RT_TAP_FFN_IN, CAL_FFN_IN, CAL_GATE_UP, FMT_FFN_GATE_UP },
    { RT_TAP_FFN_MID, CAL_FFN_MID, CAL_DOWN, FMT_FFN_DOWN },
};

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t widest(const fmt_model *m)
{
    return max64(max64((m->n_head + 2 * m->n_kv) * m->hd, 2 * m->ffn), m->hid);
}

int64_t cal_step_tokens(const cal_data *data, int64_t max_tok)
{
    return max64(max_tok ? max_tok : MAX_TOK, data->longest);
}

static int on_host(const rt_backend *be)
{
    return be->ops->free_bytes == NULL && be->ops->act == FMT_F32;
}

/* The arrays of a batch: name and elements of four bytes. */
#define BATCH(X)                                                                                   \
    X(tok, s->max_tok)                                                                             \
    X(pos, s->max_tok)                                                                             \
    X(seq, s->max_tok)                                                                             \
    X(q_scale, s->max_tok)                                                                         \
    X(q_start, s->max_seqs + 1)                                                                    \
    X(kv_len, s->max_seqs)                                                                         \
    X(block, (int64_t)s->max_seqs * s->max_blocks)                                                 \
    X(inv_freq, s->max_seqs *(s->m.rot / 2))

static q_status alloc_batch(cal_step *s, q_err *err)
{
    q_status st = Q_OK;
    void *p = NULL;

#define X(name, n)                                                                                 \
    if (!(s->host.name = q_calloc((size_t)(n), 4)))                                                \
        Q_FAIL(err, Q_ENOMEM, "no memory for a batch of %lld tokens", (long long)s->max_tok);      \
    Q_TRY(s->be->ops->alloc(s->be, (size_t)(n)*4, &p, err));                                       \
    s->dev.name = p;
    BATCH(X)
#undef X
    s->host.max_blocks = s->dev.max_blocks = s->max_blocks;
out:
    return st;
}

static q_status upload(cal_step *s, q_err *err)
{
    q_status st = Q_OK;

#define X(name, n)                                                                                 \
    Q_TRY(s->be->ops->copy(s->be, s->dev.name, s->host.name, (size_t)(n)*4, RT_TO_DEVICE, err));
    BATCH(X)
#undef X
    s->dev.n_tok = s->host.n_tok;
    s->dev.n_seq = s->host.n_seq;
out:
    return st;
}

/* Samples in the fullest step, and its pages; sets s->last. */
static void size_steps(cal_step *s, int64_t *pages)
{
    *pages = 0;
    s->max_seqs = 0;
    s->max_blocks = (int)((s->data->longest + RT_PAGE - 1) / RT_PAGE);
    for (size_t first = 0; first < s->data->n; first = s->last) {
        const size_t end = cal_share_end(s->data, first);
        int64_t n = 0, p = 0;

        for (s->last = first; s->last < end; s->last++) {
            const int64_t len = (int64_t)(s->data->start[s->last + 1] - s->data->start[s->last]);

            if (n + len > s->max_tok)
                break;
            n += len;
            p += (len + RT_PAGE - 1) / RT_PAGE;
        }
        *pages = max64(*pages, p);
        s->max_seqs = (int)max64(s->max_seqs, (int64_t)(s->last - first));
    }
}

static void set_shape(cal_step *s, rt_backend *be, const fmt_model *m, const cal_data *data,
                      int64_t max_tok, int64_t *pages)
{
    memset(s, 0, sizeof *s);
    s->be = be;
    s->m = *m;
    s->m.layers = 1;
    s->data = data;
    s->max_tok = cal_step_tokens(data, max_tok);
    size_steps(s, pages);
}

uint64_t cal_step_bytes(rt_backend *be, const fmt_model *m, const cal_data *data, int64_t max_tok,
                        uint64_t *device)
{
    cal_step shape, *s = &shape;
    const rt_model one = { .desc = *m, .be = be };
    int64_t pages = 0, batch = 0;
    uint64_t seen, host;

    set_shape(s, be, m, data, max_tok, &pages);
    seen = (uint64_t)(s->max_tok * widest(m));
#define X(name, n) batch += (n);
    BATCH(X)
#undef X
    *device = 4 * (uint64_t)batch + rt_work_bytes(&one, s->max_tok, 1) +
              (uint64_t)pages * rt_kv_page_bytes(&s->m, rt_kv_format_find("f32")) +
              seen * fmt_dtype_bytes(be->ops->act);
    host = 4 * (uint64_t)batch;
    if (!on_host(be))
        host += (uint64_t)(s->max_tok * m->hid) * sizeof(float);
    return host;
}

q_status cal_step_open(cal_step *s, rt_backend *be, const fmt_model *m, const cal_data *data,
                       int64_t max_tok, q_err *err)
{
    q_status st = Q_OK;
    const rt_model shape = { .desc = *m, .be = be };
    int64_t pages = 0;
    size_t seen;

    set_shape(s, be, m, data, max_tok, &pages);
    seen = (size_t)(s->max_tok * widest(m));
    Q_TRY(alloc_batch(s, err));
    Q_TRY(rt_kv_open(&s->pool, be, &s->m, "f32", pages, NULL, err));
    Q_TRY(rt_work_open(&s->work, &shape, s->max_tok, 1, err));
    s->work_open = 1;
    Q_TRY(be->ops->alloc(be, seen * fmt_dtype_bytes(be->ops->act), &s->scratch, err));
    s->rows = on_host(be) ? NULL : q_malloc((size_t)(s->max_tok * m->hid) * sizeof *s->rows);
    if (!on_host(be) && !s->rows)
        Q_FAIL(err, Q_ENOMEM, "no memory for steps of %lld tokens", (long long)s->max_tok);
out:
    if (st != Q_OK)
        cal_step_close(s);
    return st;
}

void cal_step_close(cal_step *s)
{
    const rt_model shape = { .desc = s->m, .be = s->be };

    if (!s->be)
        return;
#define X(name, n)                                                                                 \
    q_free(s->host.name);                                                                          \
    s->be->ops->free(s->be, s->dev.name);
    BATCH(X)
#undef X
    rt_kv_close(&s->pool, s->be);
    if (s->work_open)
        rt_work_close(&s->work, &shape);
    s->be->ops->free(s->be, s->scratch);
    q_free(s->rows);
    memset(s, 0, sizeof *s);
}

static void put_sample(cal_step *s, size_t i, int64_t *pages)
{
    rt_batch *b = &s->host;
    const int64_t n = (int64_t)(s->data->start[i + 1] - s->data->start[i]);
    const int k = b->n_seq++;

    for (int64_t t = 0; t < n; t++) {
        b->pos[b->n_tok + t] = (int32_t)t;
        b->seq[b->n_tok + t] = k;
        b->q_scale[b->n_tok + t] = rt_logn_factor(&s->m, t);
    }
    for (int64_t p = 0; p * RT_PAGE < n; p++)
        b->block[(int64_t)k * s->max_blocks + p] = (int32_t)(*pages)++;
    rt_inv_freq(b->inv_freq + k * (s->m.rot / 2), &s->m, n);
    b->kv_len[k] = (int32_t)n;
    b->n_tok += (int)n;
    b->q_start[k + 1] = b->n_tok;
}

/* As many samples as fit; 1: they have the lengths of the step before. */
static int take_samples(cal_step *s, size_t first)
{
    const size_t end = cal_share_end(s->data, first);
    const int before = s->host.n_seq;
    int same = 1, k = 0;

    s->first = first;
    s->row0 = (int64_t)s->data->start[first];
    s->n_tok = 0;
    for (s->last = first; s->last < end; s->last++, k++) {
        const int64_t len = (int64_t)(s->data->start[s->last + 1] - s->data->start[s->last]);

        if (s->n_tok + len > s->max_tok)
            break;
        same = same && k < before && s->host.kv_len[k] == len;
        s->n_tok += len;
    }
    return same && k == before;
}

q_status cal_step_fill(cal_step *s, size_t first, q_err *err)
{
    const int same = take_samples(s, first);
    int64_t pages = 0;

    memcpy(s->host.tok, s->data->ids.v + s->row0, (size_t)s->n_tok * sizeof *s->host.tok);
    if (same) /* windows: all but the ids is there, and those are read on the host alone */
        return Q_OK;
    s->host.n_tok = s->host.n_seq = 0;
    s->host.q_start[0] = 0;
    for (size_t i = first; i < s->last; i++)
        put_sample(s, i, &pages);
    return upload(s, err);
}

/* Rows of tokens t0 .. t1 - 1. */
static q_status embed_some(const cal_step *s, const fmt_src *src, int64_t t0, int64_t t1,
                           float *rows, q_err *err)
{
    q_status st = Q_OK;
    const fmt_ref ref = { FMT_TOK_EMBD, 0, FMT_WEIGHT };
    const fmt_dtype type = fmt_src_dtype(src, ref);
    void *row = q_malloc((size_t)s->m.hid * fmt_dtype_bytes(type));

    if (!row)
        Q_FAIL(err, Q_ENOMEM, "no memory for a row of the embedding");
    for (int64_t t = t0; t < t1; t++) {
        const int64_t id = s->host.tok[t];

        Q_TRY(fmt_src_read(src, ref, (fmt_box){ id, id + 1, 0, s->m.hid }, row, err));
        fmt_convert(rows + t * s->m.hid, FMT_F32, row, type, (size_t)s->m.hid, NULL);
    }
out:
    q_free(row);
    return st;
}

q_status cal_step_embed(cal_step *s, const fmt_src *src, q_err *err)
{
    q_status st = Q_OK;
    float *rows = on_host(s->be) ? s->work.x : s->rows;

#pragma omp parallel for schedule(static)
    for (int i = 0; i < EMBED_PARTS; i++) {
        q_err why = { 0 };
        const q_status one = embed_some(s, src, s->n_tok * i / EMBED_PARTS,
                                        s->n_tok * (i + 1) / EMBED_PARTS, rows, &why);

#pragma omp critical(cal_embed)
        if (one != Q_OK && st == Q_OK)
            st = q_fail(err, one, "%s", why.msg);
    }
    if (st != Q_OK)
        goto out;
    if (rows != s->work.x)
        Q_TRY(s->be->ops->copy(s->be, s->work.x, rows, (size_t)(s->n_tok * s->m.hid) * sizeof *rows,
                               RT_TO_DEVICE, err));
out:
    return st;
}

/* ---- looking -------------------------------------------------------------------------------- */

static q_status show(cal_step *s, cal_point point, const void *x, fmt_dtype type, int64_t dim,
                     q_err *err)
{
    q_status st = Q_OK;
    cal_stage was;

    if (!(s->points & CAL_BIT(point)))
        return Q_OK;
    if (s->stages) /* what is begun belongs to the stage before; the device waits for 1 % of it */
        Q_TRY(s->be->ops->sync(s->be, err));
    was = cal_stage_begin(s->stages, CAL_T_STATISTICS);
    Q_TRY(s->client->observe(s->client->self,
                             &(cal_view){ .point = point,
                                          .layer = s->layer,
                                          .x = x,
                                          .type = type,
                                          .row = s->row0,
                                          .n = s->n_tok,
                                          .dim = dim },
                             err));
    if (s->stages)
        Q_TRY(s->be->ops->sync(s->be, err));
    cal_stage_begin(s->stages, was);
out:
    return st;
}

static q_status tap(void *self, rt_tap at, const void *x, int64_t n_tok, q_err *err)
{
    q_status st = Q_OK;
    cal_step *s = self;
    size_t i = 0;
    const rt_weight *w;

    assert(n_tok == s->n_tok);
    while (taps[i].tap != at)
        i++;
    w = &s->one->layer[0].w[taps[i].role];
    Q_TRY(show(s, taps[i].in, x, s->be->ops->act, at == RT_TAP_QKV ? w->N : w->K, err));
    if (taps[i].out == CAL_POINTS || !(s->points & CAL_BIT(taps[i].out)))
        goto out;
    Q_TRY(s->be->ops->linear(
        s->be, &(rt_linear_args){ .x = x, .w = w, .y = s->scratch, .n_tok = n_tok }, err));
    Q_TRY(show(s, taps[i].out, s->scratch, s->be->ops->act, w->N, err));
out:
    return st;
}

/* Keys of the step, token by token. */
static q_status show_keys(cal_step *s, q_err *err)
{
    q_status st = Q_OK;
    const int64_t dim = s->m.n_kv * s->m.hd;
    rt_keys_args keys = {
        .b = &s->dev, .kv = &s->pool.kv, .y = s->scratch, .n_kv = s->m.n_kv, .hd = s->m.hd
    };

    if (!(s->points & CAL_BIT(CAL_K)))
        return Q_OK;
    /* q, k and v of a token are no wider than a row of scratch, so k fits there in f32 */
    Q_TRY(s->be->ops->keys(s->be, &keys, err));
    Q_TRY(show(s, CAL_K, keys.y, FMT_F32, dim, err));
out:
    return st;
}

/* For work.last_tap. */
static int last_tap(const cal_step *s)
{
    int n = 0;

    for (size_t i = 0; i < sizeof taps / sizeof taps[0]; i++)
        if (s->points & (CAL_BIT(taps[i].in) | CAL_BIT(taps[i].out)))
            n = 1 + (int)taps[i].tap;
    return s->whole || s->points & CAL_BIT(CAL_K) ? 0 : n;
}

q_status cal_step_run(cal_step *s, rt_model *one, int64_t layer, uint32_t points,
                      const cal_client *client, q_err *err)
{
    q_status st = Q_OK;

    s->one = one;
    s->layer = layer;
    s->points = points;
    s->client = client;
    s->work.tap = tap;
    s->work.tap_user = s;
    s->work.last_tap = last_tap(s);
    Q_TRY(rt_layer_forward(one, &s->work, &s->dev, &s->pool.kv, 0, err));
    Q_TRY(show_keys(s, err));
    Q_TRY(s->be->ops->sync(s->be, err));
out:
    return st;
}
