/* Decode steps that are enqueued ahead (engine_step.c), on a CPU that behaves like a device: the
 * same replies as step by step, and nothing is written where a copy still reads. */
#include <string.h>

#include "tests/t_engine.h"

/* A CPU that behaves like a device: what is copied to the host arrives no sooner than somebody
 * waits for it, and what is copied from memory of host_alloc must stay as it is until then. */
typedef struct late {
    void *dst[4];
    int32_t v[4][16];
    size_t bytes[4];
    int n, n_marked[2], n_graphs;
    void *pinned[4];
    size_t pinned_bytes[4];
    struct sent {
        const void *src;
        char v[4096];
        size_t bytes;
    } sent[4 * RT_PIECES];
    int n_sent, n_sent_marked[2];
} late;
static late arriving;
static const rt_backend_ops *plain_ops;

static void deliver(int n)
{
    late *a = &arriving;

    for (int i = 0; i < n; i++)
        memcpy(a->dst[i], a->v[i], a->bytes[i]);
    for (int i = n; i < a->n; i++) {
        a->dst[i - n] = a->dst[i];
        a->bytes[i - n] = a->bytes[i];
        memcpy(a->v[i - n], a->v[i], sizeof a->v[i]);
    }
    a->n -= n;
    a->n_marked[0] = a->n_marked[0] > n ? a->n_marked[0] - n : 0;
    a->n_marked[1] = a->n_marked[1] > n ? a->n_marked[1] - n : 0;
}

/* The first n copies from pinned memory are done: of what was there when they were enqueued? */
static void check_sent(int n)
{
    late *a = &arriving;

    for (int i = 0; i < n; i++)
        T_TRUE(memcmp(a->sent[i].src, a->sent[i].v, a->sent[i].bytes) == 0);
    memmove(a->sent, a->sent + n, (size_t)(a->n_sent - n) * sizeof *a->sent);
    a->n_sent -= n;
    for (int i = 0; i < 2; i++)
        a->n_sent_marked[i] = a->n_sent_marked[i] > n ? a->n_sent_marked[i] - n : 0;
}

static int is_pinned(const void *p)
{
    const late *a = &arriving;
    const char *at = p;
    int yes = 0;

    for (int i = 0; i < 4; i++)
        yes |= a->pinned[i] && at >= (char *)a->pinned[i] &&
               at < (char *)a->pinned[i] + a->pinned_bytes[i];
    return yes;
}

static void note_sent(const void *src, size_t bytes)
{
    late *a = &arriving;

    if (is_pinned(src)) {
        struct sent *one = &a->sent[a->n_sent++];

        T_TRUE(a->n_sent < 4 * RT_PIECES && bytes <= sizeof one->v);
        one->src = src;
        one->bytes = bytes;
        memcpy(one->v, src, bytes);
    }
}

static q_status late_copy(rt_backend *be, void *dst, const void *src, size_t bytes, rt_dir dir,
                          q_err *err)
{
    late *a = &arriving;

    if (dir == RT_TO_DEVICE)
        note_sent(src, bytes);
    if (dir != RT_TO_HOST || bytes > sizeof a->v[0])
        return plain_ops->copy(be, dst, src, bytes, dir, err);
    T_TRUE(a->n < 4);
    a->dst[a->n] = dst;
    a->bytes[a->n] = bytes;
    memcpy(a->v[a->n++], src, bytes);
    memset(dst, 0xee, bytes); /* who looks too soon sees no token */
    return Q_OK;
}

static q_status late_copy_pieces(rt_backend *be, const rt_piece *p, int n, q_err *err)
{
    q_status st = Q_OK;

    for (int i = 0; i < n; i++)
        Q_TRY(late_copy(be, p[i].dst, p[i].src, p[i].bytes,
                        is_pinned(p[i].dst)   ? RT_TO_HOST
                        : is_pinned(p[i].src) ? RT_TO_DEVICE
                                              : RT_ON_DEVICE,
                        err));
out:
    return st;
}

static q_status late_sync(rt_backend *be, q_err *err)
{
    deliver(arriving.n);
    check_sent(arriving.n_sent);
    return plain_ops->sync(be, err);
}

static q_status late_graph(rt_backend *be, void **graph, rt_step_fn step, void *user, q_err *err)
{
    (void)be;
    *graph = &arriving;
    arriving.n_graphs++;
    return step(user, err);
}

static void late_ungraph(rt_backend *be, void *graph)
{
    (void)be, (void)graph;
}

static q_status late_host_alloc(rt_backend *be, size_t bytes, void **out, q_err *err)
{
    late *a = &arriving;
    int i = 0;

    (void)be, (void)err;
    while (i < 3 && a->pinned[i])
        i++;
    a->pinned_bytes[i] = bytes;
    return (a->pinned[i] = *out = q_malloc(bytes)) ? Q_OK : Q_ENOMEM;
}

static void late_host_free(rt_backend *be, void *p)
{
    (void)be;
    q_free(p);
}

static q_status late_mark(rt_backend *be, int slot, q_err *err)
{
    (void)be, (void)err;
    arriving.n_marked[slot] = arriving.n;
    arriving.n_sent_marked[slot] = arriving.n_sent;
    return Q_OK;
}

static q_status late_wait(rt_backend *be, int slot, q_err *err)
{
    (void)be, (void)err;
    deliver(arriving.n_marked[slot]);
    check_sent(arriving.n_sent_marked[slot]);
    return Q_OK;
}

/* From now on until s is closed. */
static void make_late(rt_session *s, rt_backend_ops *ops)
{
    plain_ops = s->be->ops;
    memset(&arriving, 0, sizeof arriving);
    *ops = *plain_ops;
    ops->copy = late_copy;
    ops->copy_pieces = late_copy_pieces;
    ops->sync = late_sync;
    ops->graph = late_graph;
    ops->ungraph = late_ungraph;
    ops->host_alloc = late_host_alloc;
    ops->host_free = late_host_free;
    ops->mark = late_mark;
    ops->wait = late_wait;
    s->be->ops = ops;
}

typedef struct reply {
    int32_t id[N_NEW];
    size_t n;
    rt_finish finish;
} reply;

/* All texts, three at a time, some of them with a stop id, which ends them in mid-air; the third is
 * closed after some steps.  late: on the device of above. */
static void run_flying(reply out[N_TEXT], float temperature, float penalty, const int32_t *stop,
                       int64_t max_tok, int is_late)
{
    q_err err = { 0 };
    rt_session *s = open_with("f32", NULL, 0);
    rt_backend_ops ops;
    rt_engine *e;
    rt_seq *seq[N_TEXT];
    int busy = 1;

    if (is_late)
        make_late(s, &ops);
    e = engine(s, max_tok, 3);
    for (int i = 0; i < N_TEXT; i++) {
        q_ids ids = { 0 };

        encode(s, i, &ids);
        T_OK(rt_engine_add(e, &seq[i],
                           &(rt_seq_opts){ .ids = ids.v,
                                           .n_ids = ids.n,
                                           .max_new = N_NEW - i,
                                           .sampling = { .temperature = temperature,
                                                         .top_p = 0.9f,
                                                         .repetition_penalty = penalty,
                                                         .seed = 5 },
                                           .stop = &stop[i],
                                           .n_stop = 1 },
                           &err),
             err);
        q_ids_free(&ids);
    }
    for (int i = 0; i < 4; i++)
        T_OK(rt_engine_step(e, &busy, &err), err);
    rt_seq_close(seq[2]);
    T_OK(rt_engine_run(e, &err), err);
    T_INT(arriving.n, 0);
    for (int i = 0; i < N_TEXT; i++) {
        const int32_t *ids;

        out[i] = (reply){ .n = 0 };
        if (i == 2)
            continue;
        ids = rt_seq_ids(seq[i], &out[i].n);
        out[i].n -= rt_seq_prompt_len(seq[i]);
        out[i].finish = rt_seq_finish(seq[i]);
        memcpy(out[i].id, ids + rt_seq_prompt_len(seq[i]), out[i].n * sizeof *ids);
        rt_seq_close(seq[i]);
    }
    rt_engine_close(e);
    if (is_late)
        s->be->ops = plain_ops;
    rt_session_close(s);
}

/* The same replies as without, greedy, drawn, and with a penalty, where nothing may fly. */
static void t_flying(void)
{
    static const float temperature[] = { 0, 1, 0 }, penalty[] = { 1, 1, 1.2f };
    int32_t none[N_TEXT];

    memset(none, -1, sizeof none);
    for (int k = 0; k < 3; k++) {
        int32_t stop[N_TEXT];
        reply want[N_TEXT], got[N_TEXT];

        run_flying(want, temperature[k], penalty[k], none, 64, 0);
        memcpy(stop, none, sizeof stop);
        stop[1] = want[1].id[3];
        stop[3] = want[3].id[0];
        run_flying(want, temperature[k], penalty[k], stop, 64, 0);
        T_INT(want[3].finish, RT_STOP);
        T_INT(want[3].n, 0);
        for (int64_t max_tok = 64; max_tok > 0; max_tok -= 61) { /* whole prompts; chunks of 3 */
            run_flying(got, temperature[k], penalty[k], stop, max_tok, 1);
            T_TRUE(arriving.n_graphs > 0);
            T_TRUE((arriving.n_marked[0] | arriving.n_marked[1]) == 0);
            for (int i = 0; i < N_TEXT; i++) {
                T_INT(got[i].n, want[i].n);
                T_INT(got[i].finish, want[i].finish);
                T_TRUE(memcmp(got[i].id, want[i].id, want[i].n * sizeof *got[i].id) == 0);
            }
        }
    }
}

/* Logits wanted from the middle of a reply on: steps fly until there. */
static void t_flying_to_logits(void)
{
    static capture cap;
    rt_session *s = open_with("f32", NULL, 0);
    q_err err = { 0 };
    q_ids ids = { 0 };
    rt_backend_ops ops;
    rt_engine *e;
    rt_seq *seq;

    make_late(s, &ops);
    e = engine(s, 64, 1);
    encode(s, 0, &ids);
    cap = (capture){ .vocab = s->desc.vocab };
    T_OK(rt_engine_add(e, &seq,
                       &(rt_seq_opts){ .ids = ids.v,
                                       .n_ids = ids.n,
                                       .max_new = N_NEW,
                                       .sampling = { 0, 1, 1, 0, 0 },
                                       .logits_from = (int64_t)ids.n + 4,
                                       .on_logits = keep_last,
                                       .user = &cap },
                       &err),
         err);
    T_OK(rt_engine_run(e, &err), err);
    T_INT(arriving.n_graphs, 4);
    T_INT(cap.n, N_NEW - 1 - 4); /* the last one sampled is never run */
    q_ids_free(&ids);
    rt_seq_close(seq);
    rt_engine_close(e);
    s->be->ops = plain_ops;
    rt_session_close(s);
}

/* Closes other sequences, and in the end its own, from inside a step. */
typedef struct closer {
    rt_seq *seq[N_TEXT];
    int n;
} closer;

static void close_one(closer *c, int i)
{
    rt_seq_close(c->seq[i]);
    c->seq[i] = NULL;
}

static q_status close_some(void *user, rt_seq *s, int32_t id, q_err *err)
{
    closer *c = user;

    (void)s, (void)id, (void)err;
    c->n++;
    if (c->n == 2)
        close_one(c, 1); /* in the same step, its token not yet taken */
    if (c->n == 4)
        close_one(c, 3); /* waits */
    if (c->n == 6)
        close_one(c, 0);
    return Q_OK;
}

static q_status close_at_once(void *user, rt_seq *s, int64_t pos, int64_t n, const float *logits,
                              q_err *err)
{
    (void)s, (void)pos, (void)n, (void)logits, (void)err;
    close_one(user, 4);
    return Q_OK;
}

/* Two in flight of five; sequences are closed by callbacks: while they run, while they wait, with
 * more rows of logits to come.  The one that is left has the reply it would have alone. */
static void run_closing(reply *out, int is_late, int alone)
{
    q_err err = { 0 };
    rt_session *s = open_with("f32", NULL, 0);
    rt_backend_ops ops;
    closer c = { .n = 0 };
    rt_engine *e;
    const int32_t *ids;

    if (is_late)
        make_late(s, &ops);
    T_OK(
        rt_engine_open(
            &e, s->model,
            &(rt_engine_opts){
                .max_tok = 64, .max_rows = 2, .max_seqs = 2, .kv_tokens = 256, .kv_format = "f32" },
            &err),
        err);
    for (int i = alone ? 2 : 0; i < (alone ? 3 : N_TEXT); i++) {
        q_ids text = { 0 };

        encode(s, i, &text);
        T_OK(rt_engine_add(e, &c.seq[i],
                           &(rt_seq_opts){ .ids = text.v,
                                           .n_ids = text.n,
                                           .max_new = N_NEW,
                                           .sampling = { 0, 1, 1, 0, 0 },
                                           .on_token = i == 0 ? close_some : NULL,
                                           .on_logits = i == 4 ? close_at_once : NULL,
                                           .user = &c },
                           &err),
             err);
        q_ids_free(&text);
    }
    T_OK(rt_engine_run(e, &err), err);
    for (int i = 0; i < N_TEXT; i++)
        T_TRUE((c.seq[i] != NULL) == (i == 2));
    ids = rt_seq_ids(c.seq[2], &out->n);
    out->n -= rt_seq_prompt_len(c.seq[2]);
    memcpy(out->id, ids + rt_seq_prompt_len(c.seq[2]), sizeof out->id);
    rt_seq_close(c.seq[2]);
    rt_engine_close(e);
    if (is_late)
        s->be->ops = plain_ops;
    rt_session_close(s);
}

static void t_closed_by_callbacks(void)
{
    reply want, got;

    run_closing(&want, 0, 1);
    T_INT(want.n, N_NEW);
    for (int is_late = 0; is_late < 2; is_late++) {
        run_closing(&got, is_late, 0);
        T_INT(got.n, N_NEW);
        T_TRUE(memcmp(got.id, want.id, sizeof got.id) == 0);
    }
}

static const t_case cases[] = {
    T(t_flying), T(t_flying_to_logits), T(t_closed_by_callbacks), { 0 }
};

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
