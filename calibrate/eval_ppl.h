/* Perplexity of a model over a text, and its distance from another model.
 *
 *     cal_ppl_result r;
 *     cal_ppl_opts o = { .window = 512, .log = &log };
 *     Q_TRY(cal_ppl_run(&r, session, NULL, ids, n_ids, &o, err));
 *     r.ppl, r.scored
 *
 * Convention of the GPTQ paper (datasets/ppl.h).  With a base model every window runs through both,
 * and KL(base || model) is taken at every predicted position (datasets/kld.h).
 * Memory: two windows of logits when there is a base, else none.  The result does not depend on how
 * windows are batched beyond the rounding of the products.  Threads: one. */
#ifndef CAL_EVAL_PPL_H
#define CAL_EVAL_PPL_H

#include "datasets/kld.h"
#include "datasets/ppl.h"
#include "runtime/session.h"

typedef struct cal_ppl_opts {
    int64_t window;   /* tokens */
    const q_log *log; /* progress; may be NULL */
} cal_ppl_opts;

typedef struct cal_ppl_result {
    double ppl, base_ppl;   /* base_ppl 0 without a base */
    int64_t tokens, scored; /* tokens of the text, predictions */
    ds_kld_stats kld;       /* zero without a base */
    double seconds;
} cal_ppl_result;

/* base: NULL, or a session with the same number of logits.
 * Errors: Q_ESHAPE (not one full window), Q_EARG (vocabularies differ), Q_EFAIL (logits that are
 * not finite), Q_ENOMEM. */
q_status cal_ppl_run(cal_ppl_result *out, rt_session *model, rt_session *base, const int32_t *ids,
                     size_t n_ids, const cal_ppl_opts *o, q_err *err);

#endif
