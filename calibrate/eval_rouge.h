/* ROUGE of a model over a dataset: summarize every article, score against its highlights.
 *
 *     cal_rouge_result r;
 *     cal_rouge_opts o = { .max_new = 100, .max_input = 2048, .batch = 8 };
 *     Q_TRY(cal_rouge_run(&r, session, set, &o, err));
 *     100 * r.mean.mean.v[DS_ROUGE_1][DS_F]
 *
 * The prompt is the reference's (datasets/prompt.h) in the chat format of the session, its last
 * max_input tokens kept; sampling and stop ids are those of the session.  Threads: one. */
#ifndef CAL_EVAL_ROUGE_H
#define CAL_EVAL_ROUGE_H

#include "datasets/dset.h"
#include "datasets/rouge.h"
#include "runtime/session.h"

typedef struct cal_rouge_opts {
    int64_t max_new, max_input;
    int batch;        /* articles in flight */
    unsigned flags;   /* DS_ROUGE_STEM, DS_ROUGE_CJK */
    uint64_t seed;    /* of the bootstrap */
    q_buf *lines;     /* JSON Lines of id, ids, text are appended; may be NULL */
    const q_log *log; /* progress; may be NULL */
} cal_rouge_opts;

typedef struct cal_rouge_result {
    ds_rouge_mean mean;
    size_t n;
    int64_t prompt_tokens, new_tokens;
    double seconds; /* tokenization to last score */
} cal_rouge_result;

/* Errors: Q_EARG (samples without highlights), those of the engine and of ds_rouge_score. */
q_status cal_rouge_run(cal_rouge_result *out, rt_session *s, const ds_set *set,
                       const cal_rouge_opts *o, q_err *err);

#endif
