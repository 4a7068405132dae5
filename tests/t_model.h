/* Golden values of whole models: logits, greedy continuations and perplexity against files computed
 * by an independent implementation (../shared/golden, its README says how).
 *
 *     rt_session *s = tm_open("datasets/qwen-tiny", NULL);
 *     T_TRUE(tm_logits_diff(s, ids, n, T_SHARED("golden/x/logits.npy"), 8) <= 2e-3);
 *
 * QWENKIT_TEST_DEVICE chooses the backend (default cpu), so that the same tests judge every device.
 * Functions in a header, because tests are one file each. */
#ifndef T_MODEL_H
#define T_MODEL_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate/eval_ppl.h"
#include "calibrate/eval_rouge.h"
#include "datasets/prompt.h"
#include "formats/base/q_file.h"
#include "formats/json.h"
#include "runtime/model_cli.h"
#include "tests/t.h"

static inline rt_session *tm_open_on(const char *device, const char *model, const char *scheme)
{
    q_err err = { 0 };
    rt_session *s = NULL;
    rt_session_opts o;

    rt_session_opts_init(&o);
    o.path = model;
    o.smooth_quant = o.per_token = o.per_channel = scheme && strcmp(scheme, "w8a8") == 0;
    o.weight_only = o.smooth_quant ? NULL : scheme;
    o.backend = device;
    o.sampling.greedy = 1;
    o.tokenizer_optional = 1;
    T_OK(rt_session_open(&s, &o, NULL, &err), err);
    return s;
}

/* scheme: NULL, "int8", "int4", or "w8a8" as stored and by token */
static inline rt_session *tm_open(const char *model, const char *scheme)
{
    return tm_open_on(getenv("QWENKIT_TEST_DEVICE"), model, scheme);
}

static inline int tm_on_gpu(void)
{
    const char *device = getenv("QWENKIT_TEST_DEVICE");

    return device && strncmp(device, "cuda", 4) == 0;
}

/* A bound for logits in f32, and what f16 activations make of it: measured up to 0.018. */
static inline double tm_bound(double f32)
{
    return tm_on_gpu() ? 0.04 : f32;
}

typedef struct tm_rows {
    int64_t from, vocab;
    float *v;
} tm_rows;

static inline q_status tm_keep(void *user, rt_seq *seq, int64_t pos, int64_t n, const float *logits,
                               q_err *err)
{
    tm_rows *k = user;

    (void)seq, (void)err;
    memcpy(k->v + (pos - k->from) * k->vocab, logits, (size_t)(n * k->vocab) * sizeof *logits);
    return Q_OK;
}

static inline void tm_read_ids(q_ids *ids, const fmt_json *list, size_t n)
{
    q_err err = { 0 };

    T_TRUE(fmt_json_size(list) >= n);
    for (size_t i = 0; i < n; i++) {
        int64_t id = -1;

        T_TRUE(fmt_json_as_int(fmt_json_at(list, i), 0, INT32_MAX, &id));
        T_OK(q_ids_push(ids, (int32_t)id, &err), err);
    }
}

/* Largest difference of the last n_rows positions of a prompt of n ids from a golden file. */
static inline double tm_logits_diff(rt_session *s, const fmt_json *list, size_t n, const char *npy,
                                    int64_t n_rows)
{
    q_err err = { 0 };
    q_ids ids = { 0 };
    rt_engine *e = NULL;
    rt_seq *seq = NULL;
    int64_t shape[2];
    float *want = t_npy_f32(npy, shape, 2);
    tm_rows k = { .vocab = s->desc.vocab };
    double diff;

    T_INT(shape[0], n_rows);
    T_INT(shape[1], k.vocab);
    k.v = q_malloc((size_t)(n_rows * k.vocab) * sizeof *k.v);
    T_TRUE(k.v != NULL);
    tm_read_ids(&ids, list, n);
    k.from = (int64_t)ids.n - n_rows;
    T_OK(rt_session_engine(&e, s, 1, (int64_t)ids.n, &err), err);
    T_OK(rt_engine_add(e, &seq,
                       &(rt_seq_opts){ .ids = ids.v,
                                       .n_ids = ids.n,
                                       .logits_from = k.from,
                                       .on_logits = tm_keep,
                                       .user = &k },
                       &err),
         err);
    T_OK(rt_engine_run(e, &err), err);
    diff = t_max_abs_diff(k.v, want, (size_t)(n_rows * k.vocab));
    rt_seq_close(seq);
    rt_engine_close(e);
    q_ids_free(&ids);
    q_free(k.v);
    q_free(want);
    return diff;
}

/* The four prompts of logits_inputs.json, the last 8 positions of each. */
static inline void tm_logits(const char *model, const char *golden, double bound)
{
    q_err err = { 0 };
    fmt_json *doc = NULL;
    rt_session *s;
    char path[96];

    snprintf(path, sizeof path, "%s/logits_inputs.json", golden);
    T_OK(fmt_json_read(&doc, T_SHARED(path), (size_t)1 << 24, &err), err);
    s = tm_open(model, NULL);
    T_INT(fmt_json_size(doc), 4);
    for (size_t i = 0; i < 4; i++) {
        const fmt_json *ids = fmt_json_get(fmt_json_at(doc, i), "input_ids");
        double diff;

        snprintf(path, sizeof path, "%s/logits_%zu.npy", golden, i);
        diff = tm_logits_diff(s, ids, fmt_json_size(ids), T_SHARED(path), 8);
        printf("# %s: max abs difference %.2g\n", path, diff);
        T_TRUE(diff <= tm_bound(bound));
    }
    rt_session_close(s);
    fmt_json_free(doc);
}

static inline fmt_json *tm_next_line(const char **p)
{
    q_err err = { 0 };
    const char *end = strchr(*p, '\n');
    const size_t n = end ? (size_t)(end - *p) : strlen(*p);
    fmt_json *v = NULL;

    T_OK(fmt_json_parse(&v, *p, n, "line", &err), err);
    *p += n + (end != NULL);
    return v;
}

static inline int tm_same_member(const fmt_json *a, const fmt_json *b, const char *key)
{
    q_buf x = { 0 }, y = { 0 };
    q_err err = { 0 };
    int same;

    T_OK(fmt_json_print(&x, fmt_json_get(a, key), 0, &err), err);
    T_OK(fmt_json_print(&y, fmt_json_get(b, key), 0, &err), err);
    same = strcmp(x.data, y.data) == 0;
    q_buf_free(&x);
    q_buf_free(&y);
    return same;
}

/* A model whose texts are wanted must have a tokenizer: skipping would hide it. */
static inline rt_session *tm_open_text(const char *model, const char *weight_only)
{
    rt_session *s = tm_open(model, weight_only);

    T_TRUE(s->tok != NULL);
    return s;
}

static inline int32_t tm_id(const fmt_json *list, size_t i) /* -1 past the end */
{
    int64_t id = -1;

    if (i < fmt_json_size(list))
        T_TRUE(fmt_json_as_int(fmt_json_at(list, i), 0, INT32_MAX, &id));
    return (int32_t)id;
}

/* What the model in f32 finds between two tokens behind ids: the logit of `a` less that of `b`, -1
 * being any token that stops. */
static inline double tm_gap(rt_session *f32, const q_ids *ids, int32_t a, int32_t b)
{
    q_err err = { 0 };
    rt_engine *e = NULL;
    rt_seq *seq = NULL;
    tm_rows k = { .from = (int64_t)ids->n - 1, .vocab = f32->desc.vocab };
    float stop = -INFINITY;
    double gap;

    k.v = q_malloc((size_t)k.vocab * sizeof *k.v);
    T_TRUE(k.v != NULL);
    T_OK(rt_session_engine(&e, f32, 1, (int64_t)ids->n, &err), err);
    T_OK(rt_engine_add(e, &seq,
                       &(rt_seq_opts){ .ids = ids->v,
                                       .n_ids = ids->n,
                                       .logits_from = k.from,
                                       .on_logits = tm_keep,
                                       .user = &k },
                       &err),
         err);
    T_OK(rt_engine_run(e, &err), err);
    for (size_t i = 0; i < f32->stop.n; i++)
        stop = k.v[f32->stop.v[i]] > stop ? k.v[f32->stop.v[i]] : stop;
    gap = (double)(a < 0 ? stop : k.v[a]) - (double)(b < 0 ? stop : k.v[b]);
    rt_seq_close(seq);
    rt_engine_close(e);
    q_free(k.v);
    return gap;
}

/* The first token that differs was a near tie: what the device does to logits decides it. */
static inline void tm_near_tie(rt_session *f32, const char *article, const fmt_json *got,
                               const fmt_json *want)
{
    q_err err = { 0 };
    txt_chat chat;
    q_ids ids = { 0 };
    q_buf user = { 0 };
    size_t i = 0;
    double gap;

    T_OK(rt_session_chat(&chat, f32, &err), err);
    chat.system = ds_prompt_system;
    chat.max_input = 2048;
    T_OK(ds_prompt_summary(&user, article, &err), err);
    T_OK(txt_chat_build(&ids, f32->tok, &chat, NULL, 0, user.data, &err), err);
    for (; tm_id(got, i) == tm_id(want, i); i++)
        T_OK(q_ids_push(&ids, tm_id(want, i), &err), err);
    gap = tm_gap(f32, &ids, tm_id(want, i), tm_id(got, i));
    printf("# token %zu: %d instead of %d, which f32 has %.4f below it\n", i, tm_id(got, i),
           tm_id(want, i), gap);
    T_TRUE(gap <= 2 * tm_bound(2e-3)); /* each logit may be off by that */
    q_ids_free(&ids);
    q_buf_free(&user);
}

/* All 200 where tests may take long, else 48.  A near tie between two tokens may go the other way
 * in another summation order, or with f16 activations; few are that near. */
static inline void tm_greedy(const char *model, const char *golden)
{
    q_err err = { 0 };
    ds_set *set = NULL;
    rt_session *s, *f32 = NULL;
    char path[96];
    q_buf got = { 0 }, want = { 0 };
    cal_rouge_result r;
    const int n = t_long() ? 200 : 48;
    int same = 0, texts = 0;
    const char *g, *w;

    snprintf(path, sizeof path, "%s/greedy.jsonl", golden);
    T_OK(q_file_slurp(&want, T_SHARED(path), (size_t)1 << 24, &err), err);
    T_OK(ds_open(&set, T_SHARED("data/summaries/test.jsonl"),
                 &(ds_opts){ .max_samples = (size_t)n }, &err),
         err);
    s = tm_open_text(model, NULL);
    T_OK(cal_rouge_run(
             &r, s, set,
             &(cal_rouge_opts){ .max_new = 64, .max_input = 2048, .batch = 16, .lines = &got },
             &err),
         err);
    g = got.data;
    w = want.data;
    for (int i = 0; i < n; i++) {
        fmt_json *a = tm_next_line(&g), *b = tm_next_line(&w);
        const int equal = tm_same_member(a, b, "ids");

        if (!equal) {
            f32 = f32 ? f32 : tm_open_on("cpu", model, NULL);
            tm_near_tie(f32, ds_at(set, (size_t)i)->article, fmt_json_get(a, "ids"),
                        fmt_json_get(b, "ids"));
        }
        same += equal;
        texts += tm_same_member(a, b, "text");
        fmt_json_free(a);
        fmt_json_free(b);
    }
    printf("# %s, greedy: %d of %d sequences and %d texts equal\n", model, same, n, texts);
    T_TRUE(same >= (tm_on_gpu() ? n * 49 / 50 : n - 1));
    T_TRUE(texts >= same);
    rt_session_close(f32);
    rt_session_close(s);
    ds_close(set);
    q_buf_free(&got);
    q_buf_free(&want);
}

/* Of the first 400 test articles, windows of 512. */
static inline double tm_perplexity(const char *model, const char *weight_only)
{
    q_err err = { 0 };
    ds_set *set = NULL;
    q_buf text = { 0 };
    q_ids ids = { 0 };
    cal_ppl_result r;
    rt_session *s;

    T_OK(ds_open(&set, T_SHARED("data/summaries/test.jsonl"), &(ds_opts){ .max_samples = 400 },
                 &err),
         err);
    s = tm_open_text(model, weight_only);
    T_OK(ds_join(set, NULL, "\n\n", &text, &err), err);
    T_OK(txt_encode(s->tok, text.data, text.size, 0, &ids, &err), err);
    T_OK(cal_ppl_run(&r, s, NULL, ids.v, ids.n, &(cal_ppl_opts){ .window = 512 }, &err), err);
    T_INT(r.tokens, 123099);
    T_INT(r.scored, 122640);
    printf("# %s, perplexity %s: %.4f\n", model, s->model->scheme, r.ppl);
    rt_session_close(s);
    ds_close(set);
    q_buf_free(&text);
    q_ids_free(&ids);
    return r.ppl;
}

#endif
