/* The engine on the built-in checkpoint: batching, chunking, pages, stops, seeds, threads, memory,
 * steps enqueued ahead.
 * Needs nothing outside the repository. */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/model_cli.h"
#include "tests/t.h"

#define MODEL "datasets/qwen-tiny"

#if !defined(__SANITIZE_ADDRESS__)
/* Counts the blocks of q_malloc; everything of ours comes from aligned_alloc. */
static long n_alloc;

void *aligned_alloc(size_t align, size_t bytes)
{
    n_alloc++;
    return memalign(align, bytes);
}
#endif

static rt_session *open_with(const char *kv, const char *backend, int threads)
{
    q_err err = { 0 };
    rt_session *s = NULL;
    rt_session_opts o;

    rt_session_opts_init(&o);
    o.path = MODEL;
    o.kv_format = kv;
    o.backend = backend;
    o.threads = threads;
    o.sampling.greedy = 1;
    T_OK(rt_session_open(&s, &o, NULL, &err), err);
    return s;
}

static const char *const texts[] = {
    "We study the stability of",
    "Deep learning",
    "A",
    "In this paper we propose a method that learns to rank candidate answers from weak labels, and "
    "we show that it transfers to new domains without further training",
    "The large scale structure of the universe",
};
enum { N_TEXT = sizeof texts / sizeof texts[0], N_NEW = 12 };

static void encode(const rt_session *s, int i, q_ids *ids)
{
    q_err err = { 0 };

    T_OK(txt_encode(s->tok, texts[i], strlen(texts[i]), 0, ids, &err), err);
}

typedef struct capture {
    int64_t vocab, n;
    float last[4096]; /* logits of the last position seen */
} capture;

static q_status keep_last(void *user, rt_seq *seq, int64_t pos, int64_t n, const float *logits,
                          q_err *err)
{
    capture *c = user;

    (void)seq, (void)pos, (void)err;
    memcpy(c->last, logits + (n - 1) * c->vocab, (size_t)c->vocab * sizeof *logits);
    c->n += n;
    return Q_OK;
}

static rt_engine *engine(rt_session *s, int64_t max_tok, int n_seqs)
{
    q_err err = { 0 };
    rt_engine *e = NULL;

    T_OK(rt_engine_open(&e, s->model,
                        &(rt_engine_opts){ .max_tok = max_tok,
                                           .max_seqs = n_seqs,
                                           .max_rows = 8,
                                           .kv_tokens = 64 * n_seqs,
                                           .kv_format = s->kv_format },
                        &err),
         err);
    return e;
}

static rt_seq *add(rt_engine *e, rt_session *s, int text, int64_t max_new, capture *c)
{
    q_err err = { 0 };
    q_ids ids = { 0 };
    rt_seq *seq = NULL;

    encode(s, text, &ids);
    c->vocab = s->desc.vocab;
    T_OK(rt_engine_add(e, &seq,
                       &(rt_seq_opts){ .ids = ids.v,
                                       .n_ids = ids.n,
                                       .max_new = max_new,
                                       .sampling = s->sampling,
                                       .on_logits = keep_last,
                                       .user = c },
                       &err),
         err);
    q_ids_free(&ids);
    return seq;
}

/* All texts through one engine; replies and last logits come out. */
static void run_all(rt_session *s, int64_t max_tok, int n_seqs, q_ids reply[N_TEXT],
                    capture cap[N_TEXT])
{
    q_err err = { 0 };
    rt_engine *e = engine(s, max_tok, n_seqs);
    rt_seq *seq[N_TEXT];

    for (int i = 0; i < N_TEXT; i++)
        seq[i] = add(e, s, i, N_NEW, &cap[i]);
    T_OK(rt_engine_run(e, &err), err);
    for (int i = 0; i < N_TEXT; i++) {
        size_t n;
        const int32_t *ids = rt_seq_ids(seq[i], &n);

        T_INT(rt_seq_finish(seq[i]), RT_LENGTH);
        T_INT(n, rt_seq_prompt_len(seq[i]) + N_NEW);
        T_OK(q_ids_append(&reply[i], ids + rt_seq_prompt_len(seq[i]), N_NEW, &err), err);
        rt_seq_close(seq[i]);
    }
    rt_engine_close(e);
}

/* One at a time, all together, and in chunks of 3 tokens: the same replies. */
static void t_batching_and_chunks(void)
{
    static const struct {
        int64_t max_tok;
        int n_seqs;
    } row[] = { { 64, 1 }, { 256, N_TEXT }, { 3, 3 }, { 7, 2 } };
    rt_session *s = open_with("f32", NULL, 0);
    q_ids reply[4][N_TEXT];
    static capture cap[4][N_TEXT];

    memset(reply, 0, sizeof reply);
    for (int k = 0; k < 4; k++)
        run_all(s, row[k].max_tok, row[k].n_seqs, reply[k], cap[k]);
    for (int i = 0; i < N_TEXT; i++)
        for (int k = 1; k < 4; k++) {
            /* products are summed in another order for other row counts: float32 rounding only */
            T_TRUE(t_max_abs_diff(cap[0][i].last, cap[k][i].last, 4096) < 1e-3);
            T_TRUE(memcmp(reply[0][i].v, reply[k][i].v, N_NEW * sizeof(int32_t)) == 0);
            T_INT(cap[k][i].n, cap[0][i].n);
        }
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < N_TEXT; i++)
            q_ids_free(&reply[k][i]);
    rt_session_close(s);
}

/* The same logits to the bit, whatever the number of threads. */
static void t_threads(void)
{
    static const int threads[] = { 1, 2, 3 };
    static capture cap[3][N_TEXT];
    q_ids reply[N_TEXT];

    for (int k = 0; k < 3; k++) {
        rt_session *s = open_with("f32", NULL, threads[k]);

        memset(reply, 0, sizeof reply);
        run_all(s, 64, N_TEXT, reply, cap[k]);
        for (int i = 0; i < N_TEXT; i++) {
            T_TRUE(memcmp(cap[k][i].last, cap[0][i].last, sizeof cap[0][i].last) == 0);
            q_ids_free(&reply[i]);
        }
        rt_session_close(s);
    }
}

static double last_diff(rt_session *a, rt_session *b)
{
    static capture x[N_TEXT], y[N_TEXT];
    q_ids r[N_TEXT];
    double max = 0;

    memset(r, 0, sizeof r);
    run_all(a, 64, 1, r, x);
    run_all(b, 64, 1, r, y);
    for (int i = 0; i < N_TEXT; i++) {
        const double d = t_max_abs_diff(x[i].last, y[i].last, 4096);

        max = d > max ? d : max;
        q_ids_free(&r[i]);
    }
    return max;
}

static void t_backends_agree(void)
{
    rt_session *ref = open_with("f32", "cpu-ref", 0), *cpu = open_with("f32", "cpu", 0);
    const double d = last_diff(ref, cpu);

    printf("# cpu against cpu-ref: max abs difference %.2g\n", d);
    T_TRUE(d < 1e-3);
    rt_session_close(ref);
    rt_session_close(cpu);
}

static void t_kv_f16(void)
{
    rt_session *a = open_with("f32", NULL, 0), *b = open_with("f16", NULL, 0);
    const double d = last_diff(a, b);

    printf("# f16 against f32 KV cache: max abs difference %.2g\n", d);
    T_TRUE(d > 0);   /* it is another format */
    T_TRUE(d < 0.1); /* 2^-11 relative on K and V; logits reach 27 */
    rt_session_close(a);
    rt_session_close(b);
}

static void t_step_allocates_nothing(void)
{
#if defined(__SANITIZE_ADDRESS__)
    T_SKIP("the address sanitizer owns the allocator");
#else
    q_err err = { 0 };
    rt_session *s = open_with("f32", NULL, 2);
    rt_engine *e = engine(s, 16, 2);
    static capture cap[3];
    rt_seq *seq[3];
    long before;
    int busy = 1, steps = 0;

    for (int i = 0; i < 3; i++)
        seq[i] = add(e, s, i, N_NEW, &cap[i]);
    before = n_alloc;
    T_TRUE(before > 0);
    for (; busy; steps++)
        T_OK(rt_engine_step(e, &busy, &err), err);
    T_TRUE(steps > N_NEW);
    T_INT(n_alloc - before, 0);
    for (int i = 0; i < 3; i++)
        rt_seq_close(seq[i]);
    rt_engine_close(e);
    rt_session_close(s);
#endif
}

static void t_stop_and_close(void)
{
    q_err err = { 0 };
    rt_session *s = open_with("f32", NULL, 0);
    rt_engine *e = engine(s, 16, 1);
    static capture cap[2];
    rt_seq *a, *b;
    size_t n;
    q_ids ids = { 0 };
    int32_t stop;
    int busy;

    a = add(e, s, 0, N_NEW, &cap[0]);
    T_OK(rt_engine_run(e, &err), err);
    stop = rt_seq_ids(a, &n)[rt_seq_prompt_len(a) + 3];
    rt_seq_close(a);
    encode(s, 0, &ids);
    T_OK(rt_engine_add(e, &a,
                       &(rt_seq_opts){ .ids = ids.v,
                                       .n_ids = ids.n,
                                       .max_new = N_NEW,
                                       .sampling = s->sampling,
                                       .stop = &stop,
                                       .n_stop = 1 },
                       &err),
         err);
    b = add(e, s, 1, N_NEW, &cap[1]);
    for (int i = 0; i < 2; i++) /* b waits: one sequence at a time */
        T_OK(rt_engine_step(e, &busy, &err), err);
    T_INT(rt_seq_finish(b), RT_RUNNING);
    rt_seq_close(b); /* while waiting */
    T_OK(rt_engine_run(e, &err), err);
    T_INT(rt_seq_finish(a), RT_STOP);
    rt_seq_ids(a, &n);
    T_TRUE(n <= rt_seq_prompt_len(a) + 3); /* the stop id itself is not in the reply */
    rt_seq_close(a);
    a = add(e, s, 3, N_NEW, &cap[0]);
    T_OK(rt_engine_step(e, &busy, &err), err);
    rt_seq_close(a); /* while running: its pages return */
    a = add(e, s, 3, N_NEW, &cap[0]);
    T_OK(rt_engine_run(e, &err), err);
    T_INT(rt_seq_finish(a), RT_LENGTH);
    rt_seq_close(a);
    q_ids_free(&ids);
    rt_engine_close(e);
    rt_session_close(s);
}

static void t_seed(void)
{
    q_err err = { 0 };
    rt_session *s = open_with("f32", NULL, 0);
    int32_t first[3][N_NEW];
    static const uint64_t seed[] = { 1, 1, 2 };

    for (int k = 0; k < 3; k++) {
        rt_engine *e = engine(s, 64, 1);
        static capture cap;
        rt_seq *seq;
        size_t n;

        s->sampling = (rt_sampling){ .temperature = 1,
                                     .top_p = 0.9f,
                                     .repetition_penalty = 1.1f,
                                     .top_k = 50,
                                     .seed = seed[k] };
        seq = add(e, s, 0, N_NEW, &cap);
        T_OK(rt_engine_run(e, &err), err);
        memcpy(first[k], rt_seq_ids(seq, &n) + rt_seq_prompt_len(seq), sizeof first[k]);
        rt_seq_close(seq);
        rt_engine_close(e);
    }
    T_TRUE(memcmp(first[0], first[1], sizeof first[0]) == 0);
    T_TRUE(memcmp(first[0], first[2], sizeof first[0]) != 0);
    rt_session_close(s);
}

static void t_errors(void)
{
    q_err err = { 0 };
    rt_session *s = open_with("f32", NULL, 0);
    rt_engine *e = engine(s, 16, 1), *none = NULL;
    rt_seq *seq = NULL;
    const int32_t good[2] = { 1, 2 }, bad[2] = { 1, 4096 }, negative[1] = { -1 };

    T_ERR(rt_engine_add(e, &seq, &(rt_seq_opts){ .ids = good, .n_ids = 0 }, &err), err, Q_EARG,
          "empty");
    T_ERR(rt_engine_add(e, &seq, &(rt_seq_opts){ .ids = bad, .n_ids = 2 }, &err), err, Q_EARG,
          "token 1 is 4096");
    T_ERR(rt_engine_add(e, &seq, &(rt_seq_opts){ .ids = negative, .n_ids = 1 }, &err), err, Q_EARG,
          "token 0 is -1");
    T_ERR(rt_engine_add(e, &seq, &(rt_seq_opts){ .ids = good, .n_ids = 2, .max_new = 63 }, &err),
          err, Q_EARG, "KV cache");
    T_ERR(rt_engine_add(e, &seq, &(rt_seq_opts){ .ids = good, .n_ids = 2, .max_new = 8191 }, &err),
          err, Q_EARG, "8192 positions");
    T_ERR(rt_engine_open(
              &none, s->model,
              &(rt_engine_opts){ .max_tok = 1, .max_seqs = 2, .kv_tokens = 64, .kv_format = "f32" },
              &err),
          err, Q_EARG, "2 sequences");
    T_ERR(rt_engine_open(
              &none, s->model,
              &(rt_engine_opts){ .max_tok = 8, .max_seqs = 1, .kv_tokens = 64, .kv_format = "f8" },
              &err),
          err, Q_EARG, "f8");
    rt_engine_close(e);
    rt_session_close(s);
}

/* ---- steps that fly -------------------------------------------------------------------------- */

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
    } sent[4];
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

static void note_sent(const void *src, size_t bytes)
{
    late *a = &arriving;

    for (int i = 0; i < 4; i++)
        if ((const char *)src >= (char *)a->pinned[i] &&
            (const char *)src < (char *)a->pinned[i] + a->pinned_bytes[i]) {
            struct sent *one = &a->sent[a->n_sent++];

            T_TRUE(a->n_sent < 4 && bytes <= sizeof one->v);
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

static const t_case cases[] = { T(t_batching_and_chunks),
                                T(t_threads),
                                T(t_backends_agree),
                                T(t_kv_f16),
                                T(t_step_allocates_nothing),
                                T(t_stop_and_close),
                                T(t_seed),
                                T(t_flying),
                                T(t_flying_to_logits),
                                T(t_errors),
                                { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
