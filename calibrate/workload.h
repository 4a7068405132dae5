/* Requests for a benchmark, drawn from a dataset.
 *
 *     cal_workload w = { 0 };
 *     cal_workload_opts o = { .n = 100, .seed = seed };
 *     Q_TRY(cal_workload_load(&w, session, "ShareGPT.json", &o, err));
 *     Q_TRY(cal_workload_run(&run, &w, session, engine, &(cal_workload_part){ w.n, 8 }, err));
 *     ... out: cal_workload_free(&w);
 *
 * Files: a ShareGPT array (prompt and answer are the first two turns; as many tokens are generated
 * as the answer has), JSON Lines with a member "article", or a trace (datasets/trace.h), whose
 * requests are random ids of its lengths and only have to fit the model.  Prompts of texts go
 * through the session's chat format with its default system prompt and keep their last 2048 tokens.
 * A request is dropped when prompt or answer has fewer than 4 tokens, or both together more than
 * 4096 or than the model has positions.  The requests are a uniform draw from those that remain;
 * they and their order depend on file, seed, n and the vocabulary only. Threads: one.  Source of
 * the rules: reference-behaviour 9.2, after vLLM's benchmark. */
#ifndef CAL_WORKLOAD_H
#define CAL_WORKLOAD_H

#include "runtime/bench.h"
#include "runtime/session.h"

typedef enum cal_workload_kind { CAL_SHAREGPT, CAL_ARTICLES, CAL_TRACE } cal_workload_kind;

typedef struct cal_request {
    char *prompt; /* text of the user's turn; NULL: n_prompt random ids */
    int64_t n_prompt, n_new;
    uint64_t key, number; /* requests are in order of key, then number */
} cal_request;

typedef struct cal_workload {
    cal_request *v;
    size_t n, cap;
    int64_t longest; /* tokens of prompt and answer, largest of all requests */
    uint64_t seed;   /* of random ids */
} cal_workload;

typedef struct cal_workload_opts {
    size_t n;           /* requests wanted, >= 1; fewer come when the file has no more */
    int64_t new_tokens; /* tokens of every answer; 0: as many as the answer of the file has, which
                         * articles do not have */
    uint64_t seed;
} cal_workload_opts;

/* From the first byte that is not white space: '[', '{', or a letter, a digit or '"' of a line of
 * column names with a comma.  Errors: those of q_file_open, Q_EFORMAT (none of them). */
q_status cal_workload_kind_of(cal_workload_kind *out, const char *path, q_err *err);

/* out: zeroed, to be freed after errors too.  s: with a tokenizer, unless the file is a trace.
 * Errors: Q_EFORMAT (file; no request left), Q_EARG (articles and new_tokens 0), those of ds_open,
 * ds_share_next and ds_trace_read. */
q_status cal_workload_load(cal_workload *out, const rt_session *s, const char *path,
                           const cal_workload_opts *o, q_err *err);
void cal_workload_free(cal_workload *w);

typedef struct cal_workload_part {
    size_t n;  /* the first n requests */
    int batch; /* of them in flight, what the engine was opened for */
} cal_workload_part;

/* Runs requests.  out->elapsed_s goes from the tokenization of the first prompt to the
 * last token, the text of every token made on the way. */
q_status cal_workload_run(rt_bench_run *out, const cal_workload *w, const rt_session *s,
                          rt_engine *e, const cal_workload_part *part, q_err *err);

#endif
