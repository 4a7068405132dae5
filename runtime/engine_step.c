/* A step of the engine: fill the batch, forward, logits where wanted, sample.
 *
 * Logits are made in groups of at most max_rows rows, so that a perplexity run over a large
 * vocabulary needs megabytes and not gigabytes.
 *
 * Steps in which every sequence has one token fly, on a device that computes beside the host:
 *
 *     host     enqueue k + 1      wait for k, its tokens to the sequences      enqueue k + 2 ...
 *     device   .. step k ..       .. step k + 1 ..                             .. step k + 2 ..
 *
 * Step k + 1 takes its tokens where step k has left them on the device; all else of it is known
 * before.  A sequence that turns out to have ended has run one position too far: that token is
 * dropped, and what it wrote to its pages is overwritten by the next owner before anybody reads it,
 * because all steps are in one stream. */
#include <assert.h>
#include <string.h>

#include "runtime/rope.h"
#include "runtime/seq.h"

static q_status copy_pieces(rt_engine *e, const rt_piece *p, int n, rt_dir dir, q_err *err)
{
    q_status st = Q_OK;
    rt_backend *be = e->m->be;

    if (be->ops->copy_pieces)
        return be->ops->copy_pieces(be, p, n, err);
    for (int i = 0; i < n; i++)
        Q_TRY(be->ops->copy(be, p[i].dst, p[i].src, p[i].bytes, dir, err));
out:
    return st;
}

/* follows: the tokens are those that the step before has picked. */
static q_status upload_batch(rt_engine *e, int follows, q_err *err)
{
    const int n_tok = e->host.n_tok, n_seq = e->host.n_seq;
#define X(name, bytes) { e->dev.name, e->host.name, bytes },
    rt_piece p[] = { RT_BATCH(X) };
#undef X
    const int n = (int)(sizeof p / sizeof p[0]);

    assert(n <= RT_PIECES && p[0].dst == e->dev.tok);
    e->dev.n_tok = n_tok;
    e->dev.n_seq = n_seq;
    if (follows)
        p[0].src = e->pick_dev;
    return copy_pieces(e, p, n, RT_TO_DEVICE, err);
}

static void finish(rt_seq *s, rt_finish how)
{
    s->finish = how;
    s->done = 1;
    rt_seq_give_pages(s);
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

/* The logits a caller asked for: runs of rows of one sequence.  Whoever sees them may close it. */
static q_status report_logits(rt_engine *e, const rt_slice *p, q_err *err)
{
    q_status st = Q_OK;
    rt_backend *be = e->m->be;
    const int64_t end = p->row0 + p->n;

    for (int64_t row = p->want0; p->s && row < end; row += e->o.max_rows) {
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

/* The last rows of n slices are sampled; the ids come to pick_host[slot]. */
static q_status pick(rt_engine *e, const rt_slice *const *group, int64_t n, q_err *err)
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
                                        .pos = (uint64_t)(p->pos0 + p->n) };
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
    Q_TRY(copy_pieces(
        e, &(rt_piece){ e->pick_host[e->slot], e->pick_dev, (size_t)n * sizeof **e->pick_host }, 1,
        RT_TO_HOST, err));
out:
    return st;
}

/* ids [n] are there.  A sequence that stopped or was closed since has no use for its one. */
static q_status take_tokens(const rt_slice *const *group, const int32_t *ids, int64_t n, q_err *err)
{
    q_status st = Q_OK;

    for (int64_t i = 0; i < n; i++) {
        rt_seq *s = group[i]->s;

        if (!s || s->done)
            continue;
        if (ids[i] == RT_PICK_BAD)
            Q_FAIL(err, Q_EFAIL,
                   "row %lld: logits are not finite: a weight or an activation overflowed",
                   (long long)i);
        Q_TRY(take_token(s, ids[i], err));
    }
out:
    return st;
}

static q_status sample(rt_engine *e, q_err *err)
{
    q_status st = Q_OK;
    const rt_slice *group[256];
    const int64_t most = e->o.max_rows < 256 ? e->o.max_rows : 256;
    int64_t n = 0;

    for (int i = 0; i < e->n_slice; i++) {
        if (e->slice[i].s && e->slice[i].sample)
            group[n++] = &e->slice[i];
        if (n > 0 && (n == most || i == e->n_slice - 1)) {
            Q_TRY(pick(e, group, n, err));
            Q_TRY(e->m->be->ops->sync(e->m->be, err));
            Q_TRY(take_tokens(group, e->pick_host[e->slot], n, err));
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

static void count(rt_engine *e, const rt_slice *slice, int n, int has_prompt, double seconds)
{
    rt_stats *t = &e->stats;

    for (int i = 0; i < n; i++) {
        const rt_slice *p = &slice[i];

        if (p->s && p->pos0 < (int64_t)p->s->n_prompt)
            t->prefill_tokens += p->n;
        else
            t->decode_tokens += p->n;
    }
    if (has_prompt)
        t->prefill_s += seconds;
    else
        t->decode_s += seconds;
    t->steps++;
}

/* The step of e->slice from beginning to end. */
static q_status whole_step(rt_engine *e, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(upload_batch(e, 0, err));
    Q_TRY(forward(e, err));
    for (int i = 0; i < e->n_slice; i++)
        if (e->slice[i].want0 < e->slice[i].row0 + e->slice[i].n)
            Q_TRY(report_logits(e, &e->slice[i], err));
    for (int i = 0; i < e->n_slice; i++)
        if (e->slice[i].s)
            e->slice[i].s->n_done += (size_t)e->slice[i].n;
    Q_TRY(sample(e, err));
    /* a chunk of prompts samples nothing: the next one must not be written where a copy of this
     * one still reads */
    Q_TRY(e->m->be->ops->sync(e->m->be, err));
    for (int i = 0; i < e->n_slice; i++) {
        rt_seq *s = e->slice[i].s;

        if (s && !s->done && s->n_done == s->ids.n) /* nothing was sampled: the prompt was all */
            finish(s, RT_LENGTH);
    }
out:
    return st;
}

/* ---- steps that fly -------------------------------------------------------------------------- */

/* A penalty needs the last token on the host; a prompt of one token counts as prefill. */
static int can_fly(const rt_engine *e)
{
    if (!e->m->be->ops->mark || e->has_prompt || !is_replayable(e))
        return 0;
    for (int i = 0; i < e->n_slice; i++)
        if (e->slice[i].s->o.sampling.repetition_penalty != 1.0f)
            return 0;
    return 1;
}

static const rt_slice *const *pointers(const rt_slice *group[RT_GRAPHS], const rt_slice *slice,
                                       int n)
{
    for (int i = 0; i < n; i++)
        group[i] = &slice[i];
    return group;
}

/* Enqueues the step of e->slice, which flies from now on: the slices change places.  follows: its
 * tokens are those that the step before has picked. */
static q_status launch(rt_engine *e, int follows, q_err *err)
{
    q_status st = Q_OK;
    rt_backend *be = e->m->be;
    const rt_slice *group[RT_GRAPHS];
    rt_slice *slice = e->slice;
    const int n = e->n_slice;

    Q_TRY(upload_batch(e, follows, err));
    Q_TRY(forward(e, err));
    Q_TRY(pick(e, pointers(group, slice, n), n, err));
    Q_TRY(be->ops->mark(be, e->slot, err));
    for (int i = 0; i < n; i++)
        slice[i].s->n_done++;
    e->slice = e->flying;
    e->flying = slice;
    e->n_slice = 0;
    e->n_flying = n;
    e->slot ^= 1;
    rt_engine_lay(e, &e->host, e->batch_host[e->slot]);
out:
    return st;
}

/* Waits for the step of slice [n], which was enqueued from `slot`. */
static q_status land(rt_engine *e, const rt_slice *slice, int n, int slot, q_err *err)
{
    q_status st = Q_OK;
    const rt_slice *group[RT_GRAPHS];

    Q_TRY(e->m->be->ops->wait(e->m->be, slot, err));
    Q_TRY(take_tokens(pointers(group, slice, n), e->pick_host[slot], n, err));
out:
    return st;
}

/* One step lands; the one behind it is in the air before, if there is one. */
static q_status flying_step(rt_engine *e, q_err *err)
{
    q_status st = Q_OK;
    const double start = q_now();
    const rt_slice *slice;
    int n, slot;

    if (e->n_flying == 0)
        Q_TRY(launch(e, 0, err));
    slice = e->flying;
    n = e->n_flying;
    slot = e->slot ^ 1;
    if (rt_sched_follow(e))
        Q_TRY(launch(e, 1, err));
    else
        e->n_flying = 0;
    Q_TRY(land(e, slice, n, slot, err));
    count(e, slice, n, 0, q_now() - start);
out:
    return st;
}

q_status rt_engine_step(rt_engine *e, int *busy, q_err *err)
{
    q_status st = Q_OK;
    const double start = q_now();

    *busy = 1;
    if (e->n_flying > 0)
        return flying_step(e, err);
    rt_sched_fill(e);
    *busy = e->n_slice > 0;
    if (!*busy)
        return Q_OK;
    if (can_fly(e))
        return flying_step(e, err);
    Q_TRY(whole_step(e, err));
    count(e, e->slice, e->n_slice, e->has_prompt, q_now() - start);
out:
    return st;
}
