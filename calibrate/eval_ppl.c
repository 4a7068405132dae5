/* Perplexity.  Windows are sequences of the engine without new tokens; as many as fill a step run
 * together.  Each prediction is written at its own place, so the sum is in text order. */
#include "calibrate/eval_ppl.h"

#include <string.h>

#define GROUP_TOKENS 2048 /* tokens in flight: one full step of the engine */

/* One model walking over the windows. */
typedef struct pass {
    rt_session *s;
    rt_engine *e;
    double *nll; /* [n_pred] */
    float *rows; /* [window, vocab] logits of the current window; only when two are compared */
} pass;

typedef struct walk {
    const int32_t *ids;
    ds_windows w;
    pass model, base;
    ds_kld kld;
} walk;

typedef struct window {
    const walk *w;
    pass *p;
    int64_t index;
} window;

static q_status take_logits(void *user, rt_seq *seq, int64_t pos, int64_t n, const float *logits,
                            q_err *err)
{
    const window *win = user;
    const int64_t len = win->w->w.len, vocab = win->p->s->desc.vocab;
    const int32_t *ids = win->w->ids + win->index * len;
    double *nll = win->p->nll + win->index * (len - 1);

    (void)seq, (void)err;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        if (pos + i + 1 < len)
            nll[pos + i] = ds_nll(logits + i * vocab, vocab, ids[pos + i + 1]);
    if (win->p->rows)
        memcpy(win->p->rows + pos * vocab, logits, (size_t)(n * vocab) * sizeof *logits);
    return Q_OK;
}

/* Windows first .. first + n - 1 through one model, all in flight together. */
static q_status run_windows(const walk *w, pass *p, int64_t first, int64_t n, q_err *err)
{
    q_status st = Q_OK;
    window *win = q_calloc((size_t)n, sizeof *win);
    rt_seq **seq = q_calloc((size_t)n, sizeof(rt_seq *));

    if (!win || !seq)
        Q_FAIL(err, Q_ENOMEM, "no memory for %lld windows", (long long)n);
    for (int64_t i = 0; i < n; i++) {
        win[i] = (window){ w, p, first + i };
        Q_TRY(rt_engine_add(p->e, &seq[i],
                            &(rt_seq_opts){ .ids = w->ids + (first + i) * w->w.len,
                                            .n_ids = (size_t)w->w.len,
                                            .on_logits = take_logits,
                                            .user = &win[i] },
                            err));
    }
    Q_TRY(rt_engine_run(p->e, err));
out:
    for (int64_t i = 0; seq && i < n; i++)
        rt_seq_close(seq[i]);
    q_free(seq);
    q_free(win);
    return st;
}

static q_status compare_window(walk *w, q_err *err)
{
    q_status st = Q_OK;
    const int64_t vocab = w->model.s->desc.vocab;

    for (int64_t i = 0; i + 1 < w->w.len; i++)
        Q_TRY(ds_kld_add(&w->kld, w->base.rows + i * vocab, w->model.rows + i * vocab, vocab, err));
out:
    return st;
}

static q_status open_pass(const walk *w, pass *p, int n_seqs, int keep_rows, q_err *err)
{
    q_status st = Q_OK;
    size_t bytes;

    Q_TRY(rt_session_engine(&p->e, p->s, n_seqs, w->w.len, err));
    if (!(p->nll = q_calloc((size_t)w->w.n_pred, sizeof *p->nll)))
        Q_FAIL(err, Q_ENOMEM, "no memory for %lld predictions", (long long)w->w.n_pred);
    if (!keep_rows)
        return Q_OK;
    if (!q_mul_ok((size_t)w->w.len, (size_t)p->s->desc.vocab * sizeof(float), &bytes) ||
        !(p->rows = q_malloc(bytes)))
        Q_FAIL(err, Q_ENOMEM, "no memory for %lld rows of logits: use a smaller --window",
               (long long)w->w.len);
out:
    return st;
}

static void close_pass(pass *p)
{
    rt_engine_close(p->e);
    q_free(p->nll);
    q_free(p->rows);
}

static q_status walk_windows(walk *w, const q_log *log, q_err *err)
{
    q_status st = Q_OK;
    const int64_t fit = GROUP_TOKENS / w->w.len, group = w->base.s || fit < 1 ? 1 : fit;
    q_progress *progress = NULL;

    Q_TRY(open_pass(w, &w->model, (int)group, w->base.s != NULL, err));
    if (w->base.s)
        Q_TRY(open_pass(w, &w->base, (int)group, 1, err));
    progress = q_progress_open(log, "perplexity", (uint64_t)(w->w.n * w->w.len), "tokens");
    for (int64_t i = 0; i < w->w.n; i += group) {
        const int64_t n = i + group < w->w.n ? group : w->w.n - i;

        Q_TRY(run_windows(w, &w->model, i, n, err));
        if (w->base.s) {
            Q_TRY(run_windows(w, &w->base, i, n, err));
            Q_TRY(compare_window(w, err));
        }
        q_progress_add(progress, (uint64_t)(n * w->w.len));
    }
out:
    q_progress_close(progress);
    return st;
}

static q_status ppl_of(const walk *w, const pass *p, double *ppl, q_err *err)
{
    ds_ppl sum = { 0 };

    for (int64_t i = 0; i < w->w.n_pred; i++)
        ds_ppl_add(&sum, p->nll[i]);
    if (sum.n_not_finite)
        return q_fail(err, Q_EFAIL, "%lld of %lld predictions are not finite: the model is broken",
                      (long long)sum.n_not_finite, (long long)sum.n);
    *ppl = ds_ppl_value(&sum);
    return Q_OK;
}

q_status cal_ppl_run(cal_ppl_result *out, rt_session *model, rt_session *base, const int32_t *ids,
                     size_t n_ids, const cal_ppl_opts *o, q_err *err)
{
    q_status st = Q_OK;
    const double start = q_now();
    walk w = { .ids = ids, .model.s = model, .base.s = base };

    memset(out, 0, sizeof *out);
    if (base && base->desc.vocab != model->desc.vocab)
        Q_FAIL(err, Q_EARG, "the base model has %lld logits, the model %lld: cannot be compared",
               (long long)base->desc.vocab, (long long)model->desc.vocab);
    Q_TRY(ds_ppl_windows(&w.w, (int64_t)n_ids, o->window, err));
    Q_TRY(walk_windows(&w, o->log, err));
    Q_TRY(ppl_of(&w, &w.model, &out->ppl, err));
    if (base) {
        Q_TRY(ppl_of(&w, &w.base, &out->base_ppl, err));
        Q_TRY(ds_kld_summary(&out->kld, &w.kld, err));
    }
    out->tokens = (int64_t)n_ids;
    out->scored = w.w.n_pred;
    out->seconds = q_now() - start;
out:
    close_pass(&w.model);
    close_pass(&w.base);
    ds_kld_free(&w.kld);
    return st;
}
