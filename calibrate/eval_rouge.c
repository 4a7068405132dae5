/* ROUGE over a dataset: all prompts go to the engine at once, which keeps `batch` of them in
 * flight; scores and lines are made in the order of the dataset when all are done. */
#include "calibrate/eval_rouge.h"

#include <string.h>

#include "datasets/prompt.h"
#include "formats/json.h"

typedef struct work {
    const cal_rouge_opts *o;
    rt_session *s;
    const ds_set *set;
    cal_rouge_result *r;
    size_t n;
    q_ids *prompt;   /* [n] */
    rt_seq **seq;    /* [n] */
    ds_rouge *score; /* [n] */
} work;

static q_status build_prompts(work *w, int64_t *longest, q_err *err)
{
    q_status st = Q_OK;
    txt_chat chat;
    q_buf user = { 0 };

    Q_TRY(rt_session_chat(&chat, w->s, err));
    chat.system = ds_prompt_system;
    chat.max_input = w->o->max_input;
    for (size_t i = 0; i < w->n; i++) {
        q_buf_clear(&user);
        Q_TRY(ds_prompt_summary(&user, ds_at(w->set, i)->article, err));
        Q_TRY(txt_chat_build(&w->prompt[i], w->s->tok, &chat, NULL, 0, user.data, err));
        if ((int64_t)w->prompt[i].n > *longest)
            *longest = (int64_t)w->prompt[i].n;
        w->r->prompt_tokens += (int64_t)w->prompt[i].n;
    }
out:
    q_buf_free(&user);
    return st;
}

static q_status add_line(work *w, size_t i, const int32_t *ids, size_t n, const char *text,
                         q_err *err)
{
    q_status st = Q_OK;
    fmt_json *line = NULL, *list = NULL;
    q_buf out = { 0 };

    Q_TRY(fmt_json_new(&line, err));
    Q_TRY(fmt_json_put_str(line, "id", ds_at(w->set, i)->id, err));
    Q_TRY(fmt_json_put_arr(&list, line, "ids", err));
    for (size_t k = 0; k < n; k++)
        Q_TRY(fmt_json_put_int(list, NULL, ids[k], err));
    Q_TRY(fmt_json_put_str(line, "text", text, err));
    Q_TRY(fmt_json_print(&out, line, 0, err));
    Q_TRY(q_buf_printf(w->o->lines, err, "%s\n", out.data));
out:
    fmt_json_free(line);
    q_buf_free(&out);
    return st;
}

static q_status score_one(work *w, size_t i, q_err *err)
{
    q_status st = Q_OK;
    size_t n;
    const int32_t *ids = rt_seq_ids(w->seq[i], &n);
    const size_t n_prompt = rt_seq_prompt_len(w->seq[i]);
    const char *target = ds_at(w->set, i)->highlights;
    q_buf text = { 0 };

    Q_TRY(q_buf_puts(&text, "", err));
    Q_TRY(txt_decode(w->s->tok, ids + n_prompt, n - n_prompt, TXT_SKIP_SPECIALS, &text, err));
    Q_TRY(ds_rouge_score(&w->score[i], target, strlen(target), text.data, text.size, w->o->flags,
                         err));
    w->r->new_tokens += (int64_t)(n - n_prompt);
    if (w->o->lines)
        Q_TRY(add_line(w, i, ids + n_prompt, n - n_prompt, text.data, err));
out:
    q_buf_free(&text);
    return st;
}

static q_status generate(work *w, q_err *err)
{
    q_status st = Q_OK;
    rt_engine *e = NULL;
    int64_t longest = 0;
    size_t done = 0;
    q_progress *progress = NULL;

    Q_TRY(build_prompts(w, &longest, err));
    Q_TRY(rt_session_engine(&e, w->s, w->o->batch, longest + w->o->max_new, err));
    for (size_t i = 0; i < w->n; i++)
        Q_TRY(rt_engine_add(e, &w->seq[i],
                            &(rt_seq_opts){ .ids = w->prompt[i].v,
                                            .n_ids = w->prompt[i].n,
                                            .max_new = w->o->max_new,
                                            .sampling = w->s->sampling,
                                            .stop = w->s->stop.v,
                                            .n_stop = w->s->stop.n },
                            err));
    progress = q_progress_open(w->o->log, "summarizing", w->n, "articles");
    for (int busy = 1; busy;) {
        Q_TRY(rt_engine_step(e, &busy, err));
        for (; done < w->n && rt_seq_finish(w->seq[done]) != RT_RUNNING; done++)
            q_progress_add(progress, 1);
    }
    for (size_t i = 0; i < w->n; i++)
        Q_TRY(score_one(w, i, err));
out:
    q_progress_close(progress);
    for (size_t i = 0; w->seq && i < w->n; i++)
        rt_seq_close(w->seq[i]);
    rt_engine_close(e);
    return st;
}

q_status cal_rouge_run(cal_rouge_result *out, rt_session *s, const ds_set *set,
                       const cal_rouge_opts *o, q_err *err)
{
    q_status st = Q_OK;
    const double start = q_now();
    work w = { .o = o, .s = s, .set = set, .r = out, .n = ds_count(set) };

    memset(out, 0, sizeof *out);
    out->n = w.n;
    if (!ds_at(set, 0)->highlights)
        Q_FAIL(err, Q_EARG, "the samples have no highlights to compare with: use JSON Lines");
    w.prompt = q_calloc(w.n, sizeof *w.prompt);
    w.seq = q_calloc(w.n, sizeof(rt_seq *));
    w.score = q_calloc(w.n, sizeof *w.score);
    if (!w.prompt || !w.seq || !w.score)
        Q_FAIL(err, Q_ENOMEM, "no memory for %zu samples", w.n);
    Q_TRY(generate(&w, err));
    Q_TRY(ds_rouge_aggregate(&out->mean, w.score, w.n, o->seed, err));
    out->seconds = q_now() - start;
out:
    for (size_t i = 0; w.prompt && i < w.n; i++)
        q_ids_free(&w.prompt[i]);
    q_free(w.prompt);
    q_free(w.seq);
    q_free(w.score);
    return st;
}
