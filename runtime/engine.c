/* The engine: buffers, sequences, and the step: fill the batch, forward, logits where wanted,
 * sample.
 *
 * Logits are made in groups of at most max_rows rows, so that a perplexity run over a large
 * vocabulary needs megabytes and not gigabytes. */
#include "runtime/engine.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "runtime/rope.h"
#include "runtime/seq.h"

/* A copy of this size takes as long as one of a few bytes, and there are eight arrays. */
#define ONE_COPY ((size_t)64 << 10)

static q_status dev_alloc(rt_engine *e, void *out, size_t bytes, q_err *err)
{
    void *p = NULL;
    q_status st = e->m->be->ops->alloc(e->m->be, bytes, &p, err);

    memcpy(out, &p, sizeof p);
    return st;
}

static q_status host_alloc(void *out, size_t bytes, q_err *err)
{
    void *p = q_calloc(1, bytes);

    memcpy(out, &p, sizeof p);
    return p ? Q_OK : q_fail(err, Q_ENOMEM, "no memory for %zu bytes of batch tables", bytes);
}

/* The arrays of a batch with their byte counts, for alloc and copy. */
#define BATCH(X)                                                                                   \
    X(tok, (size_t)n_tok * 4)                                                                      \
    X(pos, (size_t)n_tok * 4)                                                                      \
    X(seq, (size_t)n_tok * 4)                                                                      \
    X(q_scale, (size_t)n_tok * 4)                                                                  \
    X(q_start, ((size_t)n_seq + 1) * 4)                                                            \
    X(kv_len, (size_t)n_seq * 4)                                                                   \
    X(block, (size_t)n_seq *(size_t)e->max_blocks * 4)                                             \
    X(inv_freq, (size_t)n_seq *(size_t)(e->m->desc.rot / 2) * 4)

static size_t aligned(size_t bytes)
{
    return (bytes + 15) / 16 * 16;
}

/* One block on each side: a small one goes to the device in one copy. */
static q_status alloc_batch(rt_engine *e, q_err *err)
{
    q_status st = Q_OK;
    const int64_t n_tok = e->o.max_tok;
    const int n_seq = e->o.max_seqs;
    size_t at = 0;

#define X(name, bytes) e->batch_bytes += aligned(bytes);
    BATCH(X)
#undef X
    Q_TRY(host_alloc(&e->batch_host, e->batch_bytes, err));
    Q_TRY(dev_alloc(e, &e->batch_dev, e->batch_bytes, err));
#define X(name, bytes)                                                                             \
    e->host.name = (void *)((char *)e->batch_host + at);                                           \
    e->dev.name = (void *)((char *)e->batch_dev + at);                                             \
    at += aligned(bytes);
    BATCH(X)
#undef X
    e->host.max_blocks = e->dev.max_blocks = (int)e->max_blocks;
out:
    return st;
}

static q_status upload_batch(rt_engine *e, q_err *err)
{
    q_status st = Q_OK;
    rt_backend *be = e->m->be;
    const int n_tok = e->host.n_tok, n_seq = e->host.n_seq;

    e->dev.n_tok = n_tok;
    e->dev.n_seq = n_seq;
    if (e->batch_bytes <= ONE_COPY)
        return be->ops->copy(be, e->batch_dev, e->batch_host, e->batch_bytes, RT_TO_DEVICE, err);
#define X(name, bytes)                                                                             \
    Q_TRY(be->ops->copy(be, e->dev.name, e->host.name, bytes, RT_TO_DEVICE, err));
    BATCH(X)
#undef X
out:
    return st;
}

q_status rt_engine_open(rt_engine **out, rt_model *m, const rt_engine_opts *o, q_err *err)
{
    q_status st = Q_OK;
    rt_engine *e = q_calloc(1, sizeof *e);
    int64_t pages;
    size_t rows;

    if (!e)
        Q_FAIL(err, Q_ENOMEM, "no memory for the engine");
    e->m = m;
    e->o = *o;
    e->o.max_rows = o->max_rows ? o->max_rows : 64;
    if (o->max_tok < o->max_seqs || o->max_seqs < 1 || o->kv_tokens < 1 || o->max_tok > INT32_MAX)
        Q_FAIL(err, Q_EARG, "engine of %lld tokens, %d sequences, %lld cached tokens",
               (long long)o->max_tok, o->max_seqs, (long long)o->kv_tokens);
    pages =
        (o->kv_tokens + RT_PAGE - 1) / RT_PAGE + o->max_seqs - 1; /* each may waste part of one */
    e->max_blocks = (m->desc.max_ctx + RT_PAGE - 1) / RT_PAGE; /* pages of the longest sequence */
    if (e->max_blocks > pages)
        e->max_blocks = pages;
    Q_TRY(rt_kv_open(&e->pool, m->be, &m->desc, o->kv_format, pages,
                     &(rt_kv_scales){ .k = m->k_scale, .v = m->v_scale }, err));
    Q_TRY(rt_work_open(&e->work, m, o->max_tok, e->o.max_rows, err));
    Q_TRY(alloc_batch(e, err));
    rows = (size_t)e->o.max_rows;
    Q_TRY(host_alloc(&e->row_host, rows * 4, err));
    Q_TRY(dev_alloc(e, &e->row_dev, rows * 4, err));
    Q_TRY(host_alloc(&e->pick_host, rows * 4, err));
    Q_TRY(dev_alloc(e, &e->pick_dev, rows * 4, err));
    Q_TRY(host_alloc(&e->pick_row, rows * sizeof *e->pick_row, err));
    Q_TRY(host_alloc(&e->slice, (size_t)o->max_seqs * sizeof *e->slice, err));
    Q_TRY(host_alloc(&e->logits_host, rows * (size_t)m->desc.vocab * sizeof(float), err));
    *out = e;
    e = NULL;
out:
    rt_engine_close(e);
    return st;
}

void rt_engine_close(rt_engine *e)
{
    rt_backend *be;

    if (!e)
        return;
    assert(!e->first);
    be = e->m->be;
    rt_kv_close(&e->pool, be);
    rt_work_close(&e->work, e->m);
    for (int i = 0; i < RT_GRAPHS; i++)
        if (e->graph[i])
            be->ops->ungraph(be, e->graph[i]);
    q_free(e->batch_host);
    be->ops->free(be, e->batch_dev);
    q_free(e->row_host);
    be->ops->free(be, e->row_dev);
    q_free(e->pick_host);
    be->ops->free(be, e->pick_dev);
    q_free(e->pick_row);
    q_free(e->slice);
    q_free(e->logits_host);
    q_free(e);
}

static q_status check_seq(const rt_engine *e, const rt_seq_opts *o, q_err *err)
{
    const fmt_model *m = &e->m->desc;
    const int64_t all = (int64_t)o->n_ids + o->max_new;

    if (o->n_ids == 0)
        return q_fail(err, Q_EARG, "the prompt is empty");
    if (o->n_ids > INT32_MAX || o->max_new < 0 || o->max_new > INT32_MAX || all > m->max_ctx)
        return q_fail(err, Q_EARG,
                      "%zu prompt tokens and %lld new ones exceed the %lld positions of "
                      "the model: shorten the prompt or use --max-new-tokens",
                      o->n_ids, (long long)o->max_new, (long long)m->max_ctx);
    if ((all + RT_PAGE - 1) / RT_PAGE > e->pool.kv.n_pages)
        return q_fail(err, Q_EARG, "%lld tokens exceed the KV cache of %lld", (long long)all,
                      (long long)(e->pool.kv.n_pages * RT_PAGE));
    for (size_t i = 0; i < o->n_ids; i++)
        if (o->ids[i] < 0 || o->ids[i] >= m->vocab)
            return q_fail(err, Q_EARG, "prompt token %zu is %d, the vocabulary has %lld", i,
                          o->ids[i], (long long)m->vocab);
    return Q_OK;
}

q_status rt_engine_add(rt_engine *e, rt_seq **out, const rt_seq_opts *o, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = &e->m->desc;
    rt_seq *s = NULL, **end;

    Q_TRY(check_seq(e, o, err));
    if (!(s = q_calloc(1, sizeof *s)))
        Q_FAIL(err, Q_ENOMEM, "no memory for a sequence");
    s->limit = o->n_ids + (size_t)o->max_new;
    s->n_page = ((int64_t)s->limit + RT_PAGE - 1) / RT_PAGE;
    s->page = q_malloc((size_t)s->n_page * sizeof *s->page);
    s->inv_freq = q_malloc((size_t)(m->rot / 2) * sizeof *s->inv_freq);
    s->stop = q_calloc(o->n_stop + 1, sizeof *s->stop);
    s->ids.v = q_malloc(s->limit * sizeof *s->ids.v);
    s->ids.cap = s->limit;
    if (!s->page || !s->inv_freq || !s->stop || !s->ids.v)
        Q_FAIL(err, Q_ENOMEM, "no memory for a sequence of %zu tokens", s->limit);
    Q_TRY(q_ids_append(&s->ids, o->ids, o->n_ids, err));
    if (o->n_stop)
        memcpy(s->stop, o->stop, o->n_stop * sizeof *s->stop);
    s->page[0] = -1;
    s->o = *o;
    s->o.ids = s->o.stop = NULL;
    s->n_prompt = o->n_ids;
    rt_inv_freq(s->inv_freq, m, (int64_t)o->n_ids);
    s->e = e;
    s->stream = e->n_added++;
    for (end = &e->first; *end; end = &(*end)->next)
        ;
    *end = s;
    *out = s;
    s = NULL;
out:
    rt_seq_close(s);
    return st;
}

static void give_pages(rt_seq *s)
{
    if (!s->page || s->page[0] < 0)
        return;
    for (int64_t i = s->n_page; i > 0; i--)
        rt_kv_give(&s->e->pool, s->page[i - 1]);
    s->page[0] = -1;
}

void rt_seq_close(rt_seq *s)
{
    if (!s)
        return;
    if (s->e) {
        rt_seq **p = &s->e->first;

        while (*p != s)
            p = &(*p)->next;
        *p = s->next;
        give_pages(s);
    }
    q_ids_free(&s->ids);
    q_free(s->page);
    q_free(s->inv_freq);
    q_free(s->stop);
    q_free(s);
}

static void finish(rt_seq *s, rt_finish how)
{
    s->finish = how;
    s->done = 1;
    give_pages(s);
}

/* Copies rows of the batch to the device and leaves their logits in work.logits. */
static q_status head_rows(rt_engine *e, int64_t n, q_err *err)
{
    q_status st = Q_OK;
    rt_backend *be = e->m->be;

    Q_TRY(be->ops->copy(be, e->row_dev, e->row_host, (size_t)n * sizeof *e->row_host, RT_TO_DEVICE,
                        err));
    Q_TRY(rt_head(e->m, &e->work, e->row_dev, n, err));
out:
    return st;
}

/* The logits a caller asked for: runs of rows of one sequence. */
static q_status report_logits(rt_engine *e, const rt_slice *p, q_err *err)
{
    q_status st = Q_OK;
    rt_backend *be = e->m->be;
    const int64_t end = p->row0 + p->n;

    for (int64_t row = p->want0; row < end; row += e->o.max_rows) {
        const int64_t n = end - row < e->o.max_rows ? end - row : e->o.max_rows;

        for (int64_t i = 0; i < n; i++)
            e->row_host[i] = (int32_t)(row + i);
        Q_TRY(head_rows(e, n, err));
        Q_TRY(be->ops->copy(be, e->logits_host, e->work.logits,
                            (size_t)(n * e->m->desc.vocab) * sizeof(float), RT_TO_HOST, err));
        Q_TRY(be->ops->sync(be, err));
        Q_TRY(p->s->o.on_logits(p->s->o.user, p->s, p->pos0 + (row - p->row0), n, e->logits_host,
                                err));
    }
out:
    return st;
}

static q_status take_token(rt_seq *s, int32_t id, q_err *err)
{
    for (size_t i = 0; i < s->o.n_stop; i++)
        if (s->stop[i] == id) {
            finish(s, RT_STOP);
            return Q_OK;
        }
    s->ids.v[s->ids.n++] = id; /* capacity is there: limit was reserved */
    if (s->ids.n == s->limit)
        finish(s, RT_LENGTH);
    return s->o.on_token ? s->o.on_token(s->o.user, s, id, err) : Q_OK;
}

/* Samples the last row of each slice of the group, at most max_rows of them. */
static q_status sample_group(rt_engine *e, rt_slice *const *group, int64_t n, q_err *err)
{
    q_status st = Q_OK;
    rt_backend *be = e->m->be;

    for (int64_t i = 0; i < n; i++) {
        const rt_slice *p = group[i];

        e->row_host[i] = (int32_t)(p->row0 + p->n - 1);
        e->pick_row[i] = (rt_pick_row){ .s = p->s->o.sampling,
                                        .hist = p->s->ids.v,
                                        .n_hist = (int32_t)p->s->ids.n,
                                        .stream = p->s->stream,
                                        .pos = p->s->ids.n };
    }
    if (!e->has_logits)
        Q_TRY(head_rows(e, n, err));
    Q_TRY(be->ops->pick(be,
                        &(rt_pick_args){ .logits = e->work.logits,
                                         .n_rows = n,
                                         .vocab = e->m->desc.vocab,
                                         .row = e->pick_row,
                                         .out = e->pick_dev },
                        err));
    Q_TRY(be->ops->copy(be, e->pick_host, e->pick_dev, (size_t)n * sizeof *e->pick_host, RT_TO_HOST,
                        err));
    Q_TRY(be->ops->sync(be, err));
    for (int64_t i = 0; i < n; i++) {
        if (e->pick_host[i] == RT_PICK_BAD)
            Q_FAIL(err, Q_EFAIL,
                   "row %lld: logits are not finite: a weight or an activation overflowed",
                   (long long)i);
        Q_TRY(take_token(group[i]->s, e->pick_host[i], err));
    }
out:
    return st;
}

static q_status sample(rt_engine *e, q_err *err)
{
    q_status st = Q_OK;
    rt_slice *group[256];
    const int64_t most = e->o.max_rows < 256 ? e->o.max_rows : 256;
    int64_t n = 0;

    for (int i = 0; i < e->n_slice; i++) {
        if (e->slice[i].sample)
            group[n++] = &e->slice[i];
        if (n > 0 && (n == most || i == e->n_slice - 1)) {
            Q_TRY(sample_group(e, group, n, err));
            n = 0;
        }
    }
out:
    return st;
}

/* A step that samples one token of every sequence is the same for the same number of them; lengths
 * and pages are data. */
static int is_replayable(const rt_engine *e)
{
    if (!e->m->be->ops->graph || e->n_slice >= RT_GRAPHS || e->n_slice > e->o.max_rows)
        return 0;
    for (int i = 0; i < e->n_slice; i++)
        if (e->slice[i].n != 1 || !e->slice[i].sample || e->slice[i].want0 == e->slice[i].row0)
            return 0;
    return 1;
}

static q_status decode_step(void *user, q_err *err)
{
    q_status st = Q_OK;
    rt_engine *e = user;

    Q_TRY(rt_forward(e->m, &e->work, &e->dev, &e->pool.kv, err));
    Q_TRY(rt_head(e->m, &e->work, NULL, e->dev.n_tok, err)); /* every row */
out:
    return st;
}

/* Hidden states of the batch, and for a step that is replayed the logits too. */
static q_status forward(rt_engine *e, q_err *err)
{
    q_status st = Q_OK;
    rt_backend *be = e->m->be;
    const int n = e->n_slice;

    e->has_logits = is_replayable(e);
    if (!e->has_logits)
        return rt_forward(e->m, &e->work, &e->dev, &e->pool.kv, err);
    Q_TRY(be->ops->graph(be, &e->graph[n], decode_step, e, err));
out:
    return st;
}

static void count(rt_engine *e, double seconds)
{
    rt_stats *t = &e->stats;

    for (int i = 0; i < e->n_slice; i++) {
        const rt_slice *p = &e->slice[i];

        if (p->pos0 < (int64_t)p->s->n_prompt)
            t->prefill_tokens += p->n;
        else
            t->decode_tokens += p->n;
    }
    if (e->has_prompt)
        t->prefill_s += seconds;
    else
        t->decode_s += seconds;
    t->steps++;
}

q_status rt_engine_step(rt_engine *e, int *busy, q_err *err)
{
    q_status st = Q_OK;
    const double start = q_now();

    rt_sched_fill(e);
    *busy = e->n_slice > 0;
    if (!*busy)
        return Q_OK;
    Q_TRY(upload_batch(e, err));
    Q_TRY(forward(e, err));
    for (int i = 0; i < e->n_slice; i++)
        if (e->slice[i].want0 < e->slice[i].row0 + e->slice[i].n)
            Q_TRY(report_logits(e, &e->slice[i], err));
    for (int i = 0; i < e->n_slice; i++)
        e->slice[i].s->n_done += (size_t)e->slice[i].n;
    Q_TRY(sample(e, err));
    for (int i = 0; i < e->n_slice; i++) {
        rt_seq *s = e->slice[i].s;

        if (!s->done && s->n_done == s->ids.n) /* nothing was sampled: the prompt was all */
            finish(s, RT_LENGTH);
    }
    count(e, q_now() - start);
out:
    return st;
}

q_status rt_engine_run(rt_engine *e, q_err *err)
{
    q_status st = Q_OK;
    int busy = 1;

    while (busy)
        Q_TRY(rt_engine_step(e, &busy, err));
out:
    return st;
}

const rt_stats *rt_engine_stats(const rt_engine *e)
{
    return &e->stats;
}

uint64_t rt_engine_bytes(const rt_engine *e)
{
    const fmt_model *m = &e->m->desc;

    return (uint64_t)e->pool.kv.n_pages * rt_kv_page_bytes(m, e->pool.kv.format) +
           rt_work_bytes(e->m, e->o.max_tok, e->o.max_rows);
}

const int32_t *rt_seq_ids(const rt_seq *s, size_t *n)
{
    *n = s->ids.n;
    return s->ids.v;
}

size_t rt_seq_prompt_len(const rt_seq *s)
{
    return s->n_prompt;
}

rt_finish rt_seq_finish(const rt_seq *s)
{
    return s->finish;
}
