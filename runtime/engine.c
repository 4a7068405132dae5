/* The engine: its memory and its sequences.  What a step does: engine_step.c; which tokens are in
 * it: sched.c.
 *
 * What is copied while the device computes stands in two places that take turns: the step that runs
 * still reads the one, the next is written into the other.  On a device whose copies the host
 * cannot outrun, one of them is never used. */
#include "runtime/engine.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "runtime/rope.h"
#include "runtime/seq.h"

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

/* Memory that copies to and from the device use while the host goes on. */
static q_status copied_alloc(rt_engine *e, void *out, size_t bytes, q_err *err)
{
    q_status st = Q_OK;
    rt_backend *be = e->m->be;
    void *p = NULL;

    if (!be->ops->host_alloc)
        return host_alloc(out, bytes, err);
    Q_TRY(be->ops->host_alloc(be, bytes, &p, err));
    memset(p, 0, bytes);
    memcpy(out, &p, sizeof p);
out:
    return st;
}

static void copied_free(rt_engine *e, void *p)
{
    if (e->m->be->ops->host_free)
        e->m->be->ops->host_free(e->m->be, p);
    else
        q_free(p);
}

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

#define X(name, bytes) e->batch_bytes += aligned(bytes);
    RT_BATCH(X)
#undef X
    Q_TRY(dev_alloc(e, &e->batch_dev, e->batch_bytes, err));
    rt_engine_lay(e, &e->dev, e->batch_dev);
    for (int i = 0; i < 2; i++)
        Q_TRY(copied_alloc(e, &e->batch_host[i], e->batch_bytes, err));
    rt_engine_lay(e, &e->host, e->batch_host[0]);
out:
    return st;
}

void rt_engine_lay(const rt_engine *e, rt_batch *b, void *block)
{
    const int64_t n_tok = e->o.max_tok;
    const int n_seq = e->o.max_seqs;
    size_t at = 0;

#define X(name, bytes)                                                                             \
    b->name = (void *)((char *)block + at);                                                        \
    at += aligned(bytes);
    RT_BATCH(X)
#undef X
    b->max_blocks = (int)e->max_blocks;
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
    for (int i = 0; i < 2; i++)
        Q_TRY(copied_alloc(e, &e->pick_host[i], rows * 4, err));
    Q_TRY(dev_alloc(e, &e->pick_dev, rows * 4, err));
    Q_TRY(host_alloc(&e->pick_row, rows * sizeof *e->pick_row, err));
    for (int i = 0; i < 2; i++)
        Q_TRY(host_alloc(&e->slices[i], (size_t)o->max_seqs * sizeof *e->slice, err));
    e->slice = e->slices[0];
    e->flying = e->slices[1];
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
    (void)be->ops->sync(be, NULL); /* a step nobody waited for */
    rt_kv_close(&e->pool, be);
    rt_work_close(&e->work, e->m);
    for (int i = 0; i < RT_GRAPHS; i++)
        if (e->graph[i])
            be->ops->ungraph(be, e->graph[i]);
    for (int i = 0; i < 2; i++) {
        copied_free(e, e->batch_host[i]);
        copied_free(e, e->pick_host[i]);
        q_free(e->slices[i]);
    }
    be->ops->free(be, e->batch_dev);
    q_free(e->row_host);
    be->ops->free(be, e->row_dev);
    be->ops->free(be, e->pick_dev);
    q_free(e->pick_row);
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

void rt_seq_give_pages(rt_seq *s)
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
        for (int i = 0; i < 2 * s->e->o.max_seqs; i++) { /* of this step, and of one that flies */
            rt_slice *one = &s->e->slices[i % 2][i / 2];

            if (one->s == s)
                one->s = NULL;
        }
        rt_seq_give_pages(s);
    }
    q_ids_free(&s->ids);
    q_free(s->page);
    q_free(s->inv_freq);
    q_free(s->stop);
    q_free(s);
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
