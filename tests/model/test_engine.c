/* The engine on the built-in checkpoint: batching, chunking, pages, stops, seeds, threads, memory.
 * Needs nothing outside the repository. */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "tests/t_engine.h"

#if !defined(__SANITIZE_ADDRESS__)
/* Counts the blocks of q_malloc; everything of ours comes from aligned_alloc. */
static long n_alloc;

void *aligned_alloc(size_t align, size_t bytes)
{
    n_alloc++;
    return memalign(align, bytes);
}
#endif

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

static const t_case cases[] = { T(t_batching_and_chunks),
                                T(t_threads),
                                T(t_backends_agree),
                                T(t_kv_f16),
                                T(t_step_allocates_nothing),
                                T(t_stop_and_close),
                                T(t_seed),
                                T(t_errors),
                                { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
