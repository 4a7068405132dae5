/* Drawing requests from a file of any size.
 *
 * Which records may be used is known only after tokenizing them, and a ShareGPT file has ninety
 * thousand.  So each record gets a random key, in the order of the file, and the n smallest keys
 * among the usable ones are the draw: that is uniform, and once n usable records are there, those
 * with a larger key than all of them need no tokenizing: about n (1 + ln(records / n)) are left.
 * Kept requests are collected up to 2n and then cut back to n, so memory is that of 2n prompts. */
#include "calibrate/workload.h"

#include <stdlib.h>
#include <string.h>

#include "datasets/dset.h"
#include "datasets/sharegpt.h"
#include "datasets/stats.h"
#include "datasets/trace.h"
#include "formats/base/q_file.h"
#include "runtime/philox.h"

#define MIN_TOKENS 4
#define MAX_PROMPT 2048
#define MAX_TOKENS 4096
#define LOOK_BYTES 4096 /* white space in front of the first value: no file has as much */

typedef struct drawing {
    cal_workload *w;
    const rt_session *s;
    const cal_workload_opts *o;
    ds_rng rng;
    uint64_t number;
    uint64_t limit; /* full: keys from here on are not kept */
    int full;
    q_ids ids; /* scratch */
} drawing;

q_status cal_workload_kind_of(cal_workload_kind *out, const char *path, q_err *err)
{
    q_status st = Q_OK;
    q_file *f = NULL;
    char head[LOOK_BYTES + 1];
    const char *p = head;
    size_t n;

    Q_TRY(q_file_open(&f, path, err));
    n = q_file_bytes(f) < LOOK_BYTES ? (size_t)q_file_bytes(f) : LOOK_BYTES;
    Q_TRY(q_file_pread(f, head, n, 0, err));
    head[n] = '\0';
    if (strncmp(p, "\xef\xbb\xbf", 3) == 0) /* byte order mark */
        p += 3;
    p += strspn(p, " \t\r\n");
    *out = *p == '[' ? CAL_SHAREGPT : *p == '{' ? CAL_ARTICLES : CAL_TRACE;
    if (*out == CAL_TRACE && !memchr(p, ',', strcspn(p, "\r\n")))
        Q_FAIL(err, Q_EFORMAT,
               "%s: wanted a ShareGPT array, JSON Lines, or a CSV trace of lengths: the first "
               "character is neither '[' nor '{', and the first line has no comma",
               path);
out:
    q_file_close(f);
    return st;
}

void cal_workload_free(cal_workload *w)
{
    for (size_t i = 0; i < w->n; i++)
        q_free(w->v[i].prompt);
    q_free(w->v);
    memset(w, 0, sizeof *w);
}

static int by_key(const void *a, const void *b)
{
    const cal_request *x = a, *y = b;

    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return (x->number > y->number) - (x->number < y->number);
}

/* Sorts and keeps the n wanted. */
static void cut(drawing *d)
{
    cal_workload *w = d->w;

    if (w->n > 1)
        qsort(w->v, w->n, sizeof *w->v, by_key);
    while (w->n > d->o->n)
        q_free(w->v[--w->n].prompt);
    if (w->n == d->o->n) {
        d->full = 1;
        d->limit = w->v[w->n - 1].key;
    }
}

static q_status grow(cal_workload *w, q_err *err)
{
    const size_t cap = w->cap ? 2 * w->cap : 64;
    cal_request *v = q_calloc(cap, sizeof *v);

    if (!v)
        return q_fail(err, Q_ENOMEM, "no memory for %zu requests", cap);
    if (w->n)
        memcpy(v, w->v, w->n * sizeof *v);
    q_free(w->v);
    w->v = v;
    w->cap = cap;
    return Q_OK;
}

static q_status keep(drawing *d, const char *prompt, cal_request r, q_err *err)
{
    q_status st = Q_OK;
    cal_workload *w = d->w;

    if (w->n == w->cap)
        Q_TRY(grow(w, err));
    if (prompt && !(r.prompt = q_strdup(prompt)))
        Q_FAIL(err, Q_ENOMEM, "no memory for a prompt");
    w->v[w->n++] = r;
    if (w->n / 2 >= d->o->n)
        cut(d);
out:
    return st;
}

static q_status encode_prompt(q_ids *ids, const rt_session *s, const char *prompt, q_err *err)
{
    q_status st = Q_OK;
    txt_chat chat;

    Q_TRY(rt_session_chat(&chat, s, err));
    chat.max_input = MAX_PROMPT;
    Q_TRY(txt_chat_build(ids, s->tok, &chat, NULL, 0, prompt, err));
out:
    return st;
}

/* One record of the file; answer NULL: it has none. */
static q_status offer(drawing *d, const char *prompt, const char *answer, q_err *err)
{
    q_status st = Q_OK;
    cal_request r = { .key = ds_rng_next(&d->rng), .number = ++d->number };

    if (d->full && r.key >= d->limit)
        return Q_OK;
    if (answer) {
        q_ids_clear(&d->ids);
        Q_TRY(txt_encode(d->s->tok, answer, strlen(answer), 0, &d->ids, err));
        r.n_new = (int64_t)d->ids.n;
        if (r.n_new < MIN_TOKENS)
            return Q_OK;
    }
    if (d->o->new_tokens > 0)
        r.n_new = d->o->new_tokens;
    q_ids_clear(&d->ids);
    Q_TRY(encode_prompt(&d->ids, d->s, prompt, err));
    r.n_prompt = (int64_t)d->ids.n;
    if (r.n_prompt >= MIN_TOKENS && r.n_prompt + r.n_new <= MAX_TOKENS &&
        r.n_prompt + r.n_new <= d->s->desc.max_ctx)
        Q_TRY(keep(d, prompt, r, err));
out:
    return st;
}

static q_status draw_sharegpt(drawing *d, const char *path, q_err *err)
{
    q_status st = Q_OK;
    ds_share *file = NULL;
    const ds_turns *t;

    Q_TRY(ds_share_open(&file, path, NULL, err));
    for (;;) {
        Q_TRY(ds_share_next(file, &t, err));
        if (!t)
            break;
        Q_TRY(offer(d, t->prompt, t->answer, err));
    }
out:
    ds_share_close(file);
    return st;
}

static q_status draw_articles(drawing *d, const char *path, q_err *err)
{
    q_status st = Q_OK;
    ds_set *set = NULL;
    const ds_opts o = {
        .max_samples = d->o->n, .shuffle = 1, .shuffle_seed = d->o->seed, .field_text = "article"
    };

    if (d->o->new_tokens <= 0)
        Q_FAIL(err, Q_EARG, "%s: articles have no answers: say how many tokens to generate", path);
    Q_TRY(ds_open(&set, path, &o, err));
    for (size_t i = 0; i < ds_count(set); i++)
        Q_TRY(offer(d, ds_at(set, i)->article, NULL, err));
out:
    ds_close(set);
    return st;
}

/* One line of a trace. */
static q_status offer_lengths(void *self, const ds_length *l, q_err *err)
{
    q_status st = Q_OK;
    drawing *d = self;
    const cal_request r = { .key = ds_rng_next(&d->rng),
                            .number = ++d->number,
                            .n_prompt = l->prompt,
                            .n_new = d->o->new_tokens > 0 ? d->o->new_tokens : l->output };

    if (r.n_prompt >= 1 && r.n_new >= 1 && r.n_prompt + r.n_new <= d->s->desc.max_ctx &&
        !(d->full && r.key >= d->limit))
        Q_TRY(keep(d, NULL, r, err));
out:
    return st;
}

static q_status draw(drawing *d, const char *path, cal_workload_kind kind, q_err *err)
{
    switch (kind) {
    case CAL_SHAREGPT:
        return draw_sharegpt(d, path, err);
    case CAL_ARTICLES:
        return draw_articles(d, path, err);
    case CAL_TRACE:
        return ds_trace_read(path, offer_lengths, d, err);
    }
    return q_fail(err, Q_EBUG, "workload of kind %d", (int)kind);
}

q_status cal_workload_load(cal_workload *out, const rt_session *s, const char *path,
                           const cal_workload_opts *o, q_err *err)
{
    q_status st = Q_OK;
    drawing d = { .w = out, .s = s, .o = o, .rng = { o->seed } };
    cal_workload_kind kind;

    Q_TRY(cal_workload_kind_of(&kind, path, err));
    out->seed = o->seed;
    Q_TRY(draw(&d, path, kind, err));
    cut(&d);
    if (out->n == 0 && kind == CAL_TRACE)
        Q_FAIL(err, Q_EFORMAT, "%s: no request fits the %lld positions of the model", path,
               (long long)s->desc.max_ctx);
    if (out->n == 0)
        Q_FAIL(err, Q_EFORMAT,
               "%s: no usable request: each needs %d tokens of prompt and of answer, and at most "
               "%lld together",
               path, MIN_TOKENS,
               (long long)(s->desc.max_ctx < MAX_TOKENS ? s->desc.max_ctx : MAX_TOKENS));
    for (size_t i = 0; i < out->n; i++)
        if (out->v[i].n_prompt + out->v[i].n_new > out->longest)
            out->longest = out->v[i].n_prompt + out->v[i].n_new;
out:
    q_ids_free(&d.ids);
    return st;
}

typedef struct speller {
    const txt_tok *tok;
    q_buf text; /* of one token */
} speller;

/* A client wants text: making it is part of the work that is timed. */
static q_status spell(void *user, rt_seq *seq, int32_t id, q_err *err)
{
    speller *p = user;

    (void)seq;
    if (!p->tok ||
        id >= txt_vocab_size(p->tok)) /* rows of the model behind the vocabulary have no text */
        return Q_OK;
    q_buf_clear(&p->text);
    return txt_decode_bytes(p->tok, &id, 1, TXT_SKIP_SPECIALS, &p->text, err);
}

/* The ids of a request behind those that are there. */
static q_status add_prompt(q_ids *ids, const cal_workload *w, const rt_session *s,
                           const cal_request *r, q_err *err)
{
    q_status st = Q_OK;

    if (r->prompt)
        return encode_prompt(ids, s, r->prompt, err);
    for (int64_t k = 0; k < r->n_prompt; k++)
        Q_TRY(q_ids_push(
            ids, (int32_t)(rt_philox_unit(w->seed, r->number, (uint64_t)k) * (double)s->desc.vocab),
            err));
out:
    return st;
}

q_status cal_workload_run(rt_bench_run *out, const cal_workload *w, const rt_session *s,
                          rt_engine *e, const cal_workload_part *part, q_err *err)
{
    q_status st = Q_OK;
    const double start = q_now();
    speller sp = { .tok = s->tok };
    const size_t n = part->n;
    rt_bench_job *job = q_calloc(n, sizeof *job);
    q_ids ids = { 0 };
    const int32_t *p;

    if (!job)
        Q_FAIL(err, Q_ENOMEM, "no memory for %zu requests", n);
    for (size_t i = 0; i < n; i++) {
        const size_t before = ids.n;

        Q_TRY(add_prompt(&ids, w, s, &w->v[i], err));
        job[i] = (rt_bench_job){ .n_ids = ids.n - before, .n_new = w->v[i].n_new };
    }
    p = ids.v; /* stays where it is from here on */
    for (size_t i = 0; i < n; p += job[i++].n_ids)
        job[i].ids = p;
    Q_TRY(rt_bench_jobs(
        out, e,
        &(rt_bench_jobs_opts){
            .job = job, .n = n, .batch = part->batch, .on_token = spell, .user = &sp },
        err));
    out->elapsed_s = q_now() - start;
out:
    q_buf_free(&sp.text);
    q_ids_free(&ids);
    q_free(job);
    return st;
}
