/* Engines over the built-in checkpoint, for the tests of steps. */
#ifndef T_ENGINE_H
#define T_ENGINE_H

#include <string.h>

#include "runtime/model_cli.h"
#include "tests/t.h"

#define MODEL "datasets/qwen-tiny"

static inline rt_session *open_with(const char *kv, const char *backend, int threads)
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

static inline void encode(const rt_session *s, int i, q_ids *ids)
{
    q_err err = { 0 };

    T_OK(txt_encode(s->tok, texts[i], strlen(texts[i]), 0, ids, &err), err);
}

typedef struct capture {
    int64_t vocab, n;
    float last[4096]; /* logits of the last position seen */
} capture;

static inline q_status keep_last(void *user, rt_seq *seq, int64_t pos, int64_t n,
                                 const float *logits, q_err *err)
{
    capture *c = user;

    (void)seq, (void)pos, (void)err;
    memcpy(c->last, logits + (n - 1) * c->vocab, (size_t)c->vocab * sizeof *logits);
    c->n += n;
    return Q_OK;
}

static inline rt_engine *engine(rt_session *s, int64_t max_tok, int n_seqs)
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

static inline rt_seq *add(rt_engine *e, rt_session *s, int text, int64_t max_new, capture *c)
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

#endif
