/* The engine: sequences in, tokens out, over one model.
 *
 *     rt_engine *e = NULL;
 *     rt_engine_opts o = { .max_tok = 2048, .max_seqs = 8, .kv_tokens = 8192, .kv_format = "f32" };
 *     Q_TRY(rt_engine_open(&e, model, &o, err));
 *     rt_seq_opts s = { .ids = ids, .n_ids = n, .max_new = 100, .stop = stop, .n_stop = 2,
 *                       .on_token = print, .user = &ctx };
 *     Q_TRY(rt_engine_add(e, &seq, &s, err));
 *     Q_TRY(rt_engine_run(e, err));             until every sequence is done
 *     ... rt_seq_ids(seq), rt_seq_finish(seq);  rt_seq_close(seq);
 *
 * Continuous batching: each step takes one token of every sequence that is decoding, and fills the
 * rest of max_tok with prompt chunks of sequences that are not.  A sequence is admitted when the
 * pages for its whole length (prompt + max_new) are free, in the order of rt_engine_add, so nothing
 * is ever evicted.  Dynamic NTK is fixed from the full prompt length when a sequence is added.
 * Everything is allocated by open and add; a step allocates nothing.
 * The callbacks run inside rt_engine_step on its thread; they may add sequences and close any of
 * them, the one they are called for too, but neither step nor close the engine.
 * Threads: one at a time per engine. */
#ifndef RT_ENGINE_H
#define RT_ENGINE_H

#include "formats/base/q_mem.h"
#include "runtime/model.h"

typedef struct rt_engine rt_engine;
typedef struct rt_seq rt_seq;

typedef struct rt_engine_opts {
    int64_t max_tok;       /* tokens of one step */
    int64_t max_rows;      /* rows of logits at a time; 0: 64 */
    int max_seqs;          /* sequences in flight */
    int64_t kv_tokens;     /* room of the KV pool, rounded up to pages per sequence */
    const char *kv_format; /* a name of kv.h: "f32", "f16", "int8" */
} rt_engine_opts;

typedef enum rt_finish { RT_RUNNING, RT_STOP, RT_LENGTH } rt_finish;

/* A token was sampled; it is not reported when it is a stop id.  Return non-Q_OK to end the run. */
typedef q_status (*rt_token_fn)(void *user, rt_seq *s, int32_t id, q_err *err);
/* Logits of positions pos .. pos + n_rows - 1 of a sequence, host memory, this call only. */
typedef q_status (*rt_logits_fn)(void *user, rt_seq *s, int64_t pos, int64_t n_rows,
                                 const float *logits, q_err *err);

typedef struct rt_seq_opts {
    const int32_t *ids; /* prompt, copied */
    size_t n_ids;
    int64_t max_new; /* tokens to sample; 0: the prompt only */
    rt_sampling sampling;
    const int32_t *stop; /* ids that end the sequence, copied */
    size_t n_stop;
    int64_t logits_from;    /* first position whose logits are wanted, with on_logits */
    rt_token_fn on_token;   /* may be NULL */
    rt_logits_fn on_logits; /* may be NULL */
    void *user;
} rt_seq_opts;

typedef struct rt_stats {
    int64_t prefill_tokens, decode_tokens, steps;
    double prefill_s, decode_s; /* steps with any prompt token count as prefill */
} rt_stats;

/* Errors: Q_EARG, Q_ENOMEM with the bytes asked for. */
q_status rt_engine_open(rt_engine **out, rt_model *m, const rt_engine_opts *o, q_err *err);
void rt_engine_close(rt_engine *e); /* close its sequences first */
/* Errors: Q_EARG (empty prompt, id outside the vocabulary, more tokens than the pool or the model
 * can hold), Q_ENOMEM. */
q_status rt_engine_add(rt_engine *e, rt_seq **out, const rt_seq_opts *o, q_err *err);
q_status rt_engine_step(rt_engine *e, int *busy, q_err *err); /* *busy 0: nothing left to do */
q_status rt_engine_run(rt_engine *e, q_err *err);
const rt_stats *rt_engine_stats(const rt_engine *e);
uint64_t rt_engine_bytes(const rt_engine *e); /* KV pool and work buffers */

const int32_t *rt_seq_ids(const rt_seq *s,
                          size_t *n); /* prompt and sampled tokens, without the stop id */
size_t rt_seq_prompt_len(const rt_seq *s);
rt_finish rt_seq_finish(const rt_seq *s);
void rt_seq_close(rt_seq *s); /* also while running: its pages return to the pool */

#endif
