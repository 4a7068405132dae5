/* Measuring: what a machine reads from memory, and how fast an engine works through prompts.
 *
 *     double bytes_s;
 *     Q_TRY(rt_bench_bandwidth(&bytes_s, threads, err));
 *     rt_bench_run r;
 *     rt_bench_shape shape = { .batch = 4, .n_in = 128, .n_new = 32, .vocab = vocab };
 *     Q_TRY(rt_bench_random(&r, engine, &shape, err));
 *     r.decode_tokens / r.decode_s
 *
 * Every prompt gets exactly the tokens asked for (greedy, no stop ids), so two runs of the same
 * jobs do the same work.  An engine may serve any number of runs, one after the other; it must be
 * idle. Threads: one. */
#ifndef RT_BENCH_H
#define RT_BENCH_H

#include "runtime/session.h"

/* Bytes per second that `threads` threads together read from a block larger than the caches: best
 * of several passes over 512 MiB.  threads >= 1.  Errors: Q_ENOMEM. */
q_status rt_bench_bandwidth(double *bytes_s, int threads, q_err *err);

/* An engine for `batch` sequences of at most `longest` tokens.  *memory is what it takes, at least,
 * also after Q_ENOMEM, which comes as well when the system has less to give than malloc promised.
 * Errors: those of rt_session_engine. */
q_status rt_bench_open(rt_engine **out, uint64_t *memory, rt_session *s, int batch, int64_t longest,
                       q_err *err);

/* Bytes of all weights, scales, biases and norms of a loaded model. */
uint64_t rt_bench_model_bytes(const rt_model *m);
/* Device memory in use now, by whom ever; on the host the most that this process ever had. */
uint64_t rt_bench_used_bytes(rt_backend *be);
/* Operations of one prompt token in the linears of all layers: 2 N K each, attention and head not
 * counted. */
double rt_bench_token_flop(const rt_model *m);
/* Bytes of one token in the KV cache, all layers. */
uint64_t rt_bench_kv_token_bytes(const rt_session *s);

/* Numbers from 1 to max with commas between: "1,2,4"; ".." at the end sets *open.  Returns how many
 * went to out, 0 when the text is no such list or has more than cap. */
int rt_bench_list(int *out, int cap, const char *text, int max, int *open);

/* Middle value, mean of the two middle ones when n is even.  Sorts v.  n >= 1. */
double rt_bench_median(double *v, size_t n);

typedef struct rt_bench_job {
    const int32_t *ids; /* borrowed during the run */
    size_t n_ids;
    int64_t n_new;
} rt_bench_job;

typedef struct rt_bench_jobs_opts {
    const rt_bench_job *job; /* [n] */
    size_t n;
    int batch;            /* sequences in flight: what the engine was opened for */
    rt_token_fn on_token; /* may be NULL */
    void *user;
} rt_bench_jobs_opts;

/* Steps that hold prompts and decoding sequences, and decode steps of fewer than batch (or n)
 * sequences, are part of elapsed_s only: both rates are those of clean steps. */
typedef struct rt_bench_run {
    int64_t requests, prompt_tokens, new_tokens;
    double elapsed_s;       /* from the first sequence added to the last token */
    int64_t prefill_tokens; /* of steps with nothing but prompt tokens */
    double prefill_s;
    int64_t decode_steps, decode_tokens; /* of steps with a full batch decoding */
    int64_t kv_tokens;                   /* tokens in the cache that these steps read, summed */
    double decode_s;
} rt_bench_run;

/* Runs all jobs to their end.  Errors: those of rt_engine_add and rt_engine_step. */
q_status rt_bench_jobs(rt_bench_run *out, rt_engine *e, const rt_bench_jobs_opts *o, q_err *err);

typedef struct rt_bench_shape {
    int batch;           /* prompts */
    int64_t n_in, n_new; /* tokens of each */
    int64_t vocab;
    uint64_t seed;
} rt_bench_shape;

/* The same with prompts of random ids in [0, vocab): the same ids for the same shape. */
q_status rt_bench_random(rt_bench_run *out, rt_engine *e, const rt_bench_shape *shape, q_err *err);

#endif
