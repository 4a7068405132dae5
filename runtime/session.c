/* Opening everything a program needs, in the order that finds mistakes first: configuration and
 * tokenizer take milliseconds, weights come last. */
#include "runtime/session.h"

#include <math.h>
#include <string.h>

#define STEP_LEAST 2048 /* tokens of a step where memory is short, if the backend likes more */

static q_status set_chat(rt_session *s, const rt_session_opts *o, const fmt_src *src, q_err *err)
{
    const txt_chat_files files = { .files = fmt_src_files(src),
                                   .chat_format = s->gen.chat_format,
                                   .config = fmt_src_config(src) };

    s->thinking = o->thinking;
    s->chat_format = TXT_CHAT_RAW;
    if (!o->chat_format)
        (void)txt_chat_detect(&s->chat_format, &files, &s->chat_err); /* told to who chats */
    else if (!txt_chat_format_from_name(o->chat_format, &s->chat_format))
        return q_fail(err, Q_EUNSUPPORTED,
                      "chat format '%s' is not known: use --chat-format " TXT_CHAT_NAMES,
                      o->chat_format);
    return Q_OK;
}

q_status rt_session_chat(txt_chat *chat, const rt_session *s, q_err *err)
{
    *chat = (txt_chat){ .format = s->chat_format, .thinking = s->thinking };
    return s->chat_err.code == Q_OK ? Q_OK : q_fail(err, s->chat_err.code, "%s", s->chat_err.msg);
}

static q_status set_stops(rt_session *s, q_err *err)
{
    q_status st = Q_OK;

    if (s->tok)
        Q_TRY(txt_chat_stop_ids(&s->stop, s->tok, s->chat_format, err));
    for (int i = 0; i < s->gen.n_eos; i++) {
        int known = 0;

        for (size_t k = 0; k < s->stop.n; k++)
            known |= s->stop.v[k] == s->gen.eos[i];
        if (!known)
            Q_TRY(q_ids_push(&s->stop, s->gen.eos[i], err));
    }
out:
    return st;
}

static void set_sampling(rt_session *s, const rt_session_opts *o)
{
    const rt_sampling_opts *w = &o->sampling;
    const fmt_gen_config *g = &s->gen;
    const int asked = !isnan(w->temperature) || !isnan(w->top_p) || w->top_k >= 0;

    s->sampling = (rt_sampling){
        .temperature = (float)(isnan(w->temperature) ? g->temperature : w->temperature),
        .top_p = (float)(isnan(w->top_p) ? g->top_p : w->top_p),
        .repetition_penalty =
            (float)(isnan(w->repetition_penalty) ? g->repetition_penalty : w->repetition_penalty),
        .top_k = (int32_t)(w->top_k < 0 ? g->top_k : w->top_k),
        .seed = o->seed,
    };
    if (w->greedy || (!g->do_sample && !asked))
        s->sampling.temperature = 0;
}

static q_status open_tokenizer(rt_session *s, const fmt_src *src, int optional, q_err *err)
{
    const fmt_files files = fmt_src_files(src);
    q_err inner = { 0 };
    const q_status st = txt_tok_open_files(&s->tok, &files, &inner);

    if (st == Q_OK || (st == Q_ENOINPUT && optional))
        return Q_OK;
    return q_fail(err, st, "%s", inner.msg);
}

q_status rt_session_open(rt_session **out, const rt_session_opts *o, const q_log *log, q_err *err)
{
    q_status st = Q_OK;
    const double start = q_now();
    fmt_src *src = NULL;
    rt_session *s = q_calloc(1, sizeof *s);

    if (!s)
        Q_FAIL(err, Q_ENOMEM, "no memory");
    Q_TRY(fmt_src_open(&src, o->path, err));
    s->desc = *fmt_src_model(src);
    s->gen = *fmt_src_gen(src);
    s->disk_bytes = fmt_src_bytes(src);
    Q_TRY(open_tokenizer(s, src, o->tokenizer_optional, err));
    if (s->tok && txt_vocab_size(s->tok) > s->desc.vocab)
        Q_FAIL(err, Q_ECONFIG,
               "%s: the tokenizer has %d ids, the model only %lld: files of different "
               "models",
               fmt_src_dir(src), txt_vocab_size(s->tok), (long long)s->desc.vocab);
    Q_TRY(set_chat(s, o, src, err));
    Q_TRY(set_stops(s, err));
    set_sampling(s, o);
    Q_TRY(rt_backend_open(&s->be, o->backend ? o->backend : "cpu", o->threads, err));
    if (s->be->title[0])
        q_log_put(log, o->device_unasked ? Q_LOG_DEBUG : Q_LOG_INFO, "running on %s", s->be->title);
    s->kv_format = o->kv_format ? o->kv_format : s->be->ops->act == FMT_F16 ? "f16" : "f32";
    Q_TRY(rt_model_open(&s->model, src, s->be,
                        &(rt_model_opts){ .weight_only = o->weight_only,
                                          .head = o->head,
                                          .smooth_quant = o->smooth_quant,
                                          .per_token = o->per_token,
                                          .per_channel = o->per_channel,
                                          .log = log },
                        err));
    s->load_s = q_now() - start;
    *out = s;
    s = NULL;
out:
    fmt_src_close(src);
    rt_session_close(s);
    return st;
}

void rt_session_close(rt_session *s)
{
    if (!s)
        return;
    rt_model_close(s->model);
    rt_backend_close(s->be);
    txt_tok_close(s->tok);
    q_ids_free(&s->stop);
    q_free(s);
}

q_status rt_session_engine(rt_engine **out, rt_session *s, int n_seqs, int64_t longest, q_err *err)
{
    q_status st = Q_ENOMEM;
    const int64_t all = n_seqs * longest;
    int64_t step = s->be->ops->step_tokens(&s->model->layer[0].w[FMT_FFN_GATE_UP]);

    for (; st == Q_ENOMEM && step >= STEP_LEAST; step /= 2) {
        const int64_t tokens = all < step ? all : step;

        st = rt_engine_open(out, s->model,
                            &(rt_engine_opts){ .max_tok = tokens > n_seqs ? tokens : n_seqs,
                                               .max_seqs = n_seqs,
                                               .kv_tokens = all,
                                               .kv_format = s->kv_format },
                            err);
    }
    return st;
}
