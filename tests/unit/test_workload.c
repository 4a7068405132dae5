/* Requests drawn from datasets: the rules for dropping, the draw, lengths, and a run of them. */
#include "calibrate/workload.h"

#include <string.h>

#include "datasets/stats.h"
#include "formats/base/q_file.h"
#include "runtime/model_cli.h"
#include "tests/t.h"

#define MODEL "datasets/qwen-tiny"

static rt_session *open_tiny(void)
{
    q_err err = { 0 };
    rt_session *s = NULL;
    rt_session_opts o;

    rt_session_opts_init(&o);
    o.path = MODEL;
    o.threads = 1;
    T_OK(rt_session_open(&s, &o, NULL, &err), err);
    return s;
}

static const char *file(const char *name, const char *text)
{
    static char path[256];
    q_err err = { 0 };

    snprintf(path, sizeof path, "%s/%s", t_tmpdir(), name);
    T_OK(q_out_whole(path, 1, text, strlen(text), &err), err);
    return path;
}

static void add_record(q_buf *b, const char *prompt, const char *answer)
{
    q_err err = { 0 };

    T_OK(q_buf_printf(b, &err, "%s{\"conversations\": [{\"value\": \"%s\"}, {\"value\": \"%s\"}]}",
                      b->size ? ",\n" : "[", prompt, answer),
         err);
}

static int64_t tokens(const rt_session *s, const char *text)
{
    q_err err = { 0 };
    q_ids ids = { 0 };
    int64_t n;

    T_OK(txt_encode(s->tok, text, strlen(text), 0, &ids, &err), err);
    n = (int64_t)ids.n;
    q_ids_free(&ids);
    return n;
}

static int64_t prompt_tokens(const rt_session *s, const char *text)
{
    q_err err = { 0 };
    const txt_chat chat = { .format = TXT_CHATML };
    q_ids ids = { 0 };
    int64_t n;

    T_OK(txt_chat_build(&ids, s->tok, &chat, NULL, 0, text, &err), err);
    n = (int64_t)ids.n;
    q_ids_free(&ids);
    return n;
}

static void t_kind(void)
{
    static const struct {
        const char *text;
        int kind; /* -1: refused */
    } rows[] = {
        { "[]", CAL_SHAREGPT },
        { " \r\n\t[", CAL_SHAREGPT },
        { "{\"article\": \"a\"}", CAL_ARTICLES },
        { "\xef\xbb\xbf{", CAL_ARTICLES },
        { "", -1 },
        { "  \n", -1 },
        { "text", -1 },
        { "a,b\n1,2\n", CAL_TRACE },
        { "\"a\",b", CAL_TRACE },
        { "text\na,b", -1 },
        { "\"text\"", -1 },
    };
    q_err err = { 0 };
    cal_workload_kind k;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const char *path = file("kind", rows[i].text);

        if (rows[i].kind < 0) {
            T_ERR(cal_workload_kind_of(&k, path, &err), err, Q_EFORMAT,
                  "wanted a ShareGPT array, JSON Lines, or a CSV trace");
            continue;
        }
        T_OK(cal_workload_kind_of(&k, path, &err), err);
        T_INT(k, rows[i].kind);
    }
    T_ERR(cal_workload_kind_of(&k, "/nonexistent/x.json", &err), err, Q_ENOINPUT, "x.json");
    T_ERR(cal_workload_kind_of(&k, t_tmpdir(), &err), err, Q_EFORMAT,
          "is a directory, wanted a file");
}

/* one record of each kind: only what the rules allow is left */
static void t_rules(void)
{
    static const char four[] = "Deep learning works well.";
    q_err err = { 0 };
    rt_session *s = open_tiny();
    q_buf b = { 0 }, big = { 0 }, huge = { 0 };
    cal_workload w = { 0 };
    const char *path;

    while (tokens(s, big.data ? big.data : "") < 3000)
        T_OK(q_buf_puts(&big, "the model of the data ", &err), err);
    while (tokens(s, huge.data ? huge.data : "") < 4096)
        T_OK(q_buf_puts(&huge, "the model of the data ", &err), err);
    T_TRUE(tokens(s, four) >= 4 && tokens(s, "Yes") < 4);
    add_record(&b, "Why?", four);
    add_record(&b, "Why not?", "Yes");                            /* answer too short */
    add_record(&b, "Long", huge.data);                            /* answer too long */
    add_record(&b, big.data, four);                               /* the prompt is cut to 2048 */
    add_record(&b, big.data, big.data);                           /* together too long */
    T_OK(q_buf_puts(&b, ",{\"conversations\": []}]", &err), err); /* no turns */
    path = file("rules.json", b.data);
    T_OK(cal_workload_load(&w, s, path, &(cal_workload_opts){ .n = 100 }, &err), err);
    T_INT(w.n, 2);
    for (size_t i = 0; i < w.n; i++) {
        const int is_long = strcmp(w.v[i].prompt, "Why?") != 0;

        T_STR(w.v[i].prompt, is_long ? big.data : "Why?");
        T_INT(w.v[i].n_prompt, is_long ? 2048 : prompt_tokens(s, "Why?"));
        T_INT(w.v[i].n_new, tokens(s, four));
    }
    T_INT(w.longest, 2048 + tokens(s, four));
    cal_workload_free(&w);

    /* lengths from the command line take the place of the answer's, not of the rules */
    T_OK(cal_workload_load(&w, s, path, &(cal_workload_opts){ .n = 100, .new_tokens = 40 }, &err),
         err);
    T_INT(w.n, 4);
    for (size_t i = 0; i < w.n; i++)
        T_INT(w.v[i].n_new, 40);
    cal_workload_free(&w);
    T_ERR(cal_workload_load(&w, s, path, &(cal_workload_opts){ .n = 9, .new_tokens = 4096 }, &err),
          err, Q_EFORMAT, "rules.json: no usable request: each needs 4 tokens");
    cal_workload_free(&w);

    /* a model with fewer positions drops more */
    s->desc.max_ctx = 1000;
    T_OK(cal_workload_load(&w, s, path, &(cal_workload_opts){ .n = 100 }, &err), err);
    T_INT(w.n, 1);
    T_STR(w.v[0].prompt, "Why?");
    cal_workload_free(&w);
    q_buf_free(&b);
    q_buf_free(&big);
    q_buf_free(&huge);
    rt_session_close(s);
}

/* n_records prompts "p0", "p1" ...; every third has an answer that is too short */
static const char *many(int n_records)
{
    q_err err = { 0 };
    q_buf b = { 0 };
    const char *path;

    for (int i = 0; i < n_records; i++) {
        char prompt[16];

        snprintf(prompt, sizeof prompt, "p%d", i);
        add_record(&b, prompt, i % 3 == 2 ? "No" : "Deep learning works well.");
    }
    T_OK(q_buf_puts(&b, "]", &err), err);
    path = file("many.json", b.data);
    q_buf_free(&b);
    return path;
}

/* the definition: keys in file order, the n smallest of the usable ones in order of their keys */
static void check_draw(const cal_workload *w, int n_records, uint64_t seed)
{
    ds_rng rng = { seed };
    uint64_t key[512], before = 0;

    T_TRUE(n_records <= 512);
    for (int i = 0; i < n_records; i++)
        key[i] = ds_rng_next(&rng);
    for (size_t k = 0; k < w->n; k++) {
        uint64_t smallest = UINT64_MAX;
        char want[16];
        int at = -1;

        for (int i = 0; i < n_records; i++)
            if (i % 3 != 2 && key[i] > before && key[i] < smallest) {
                smallest = key[i];
                at = i;
            }
        snprintf(want, sizeof want, "p%d", at);
        T_STR(w->v[k].prompt, want);
        before = smallest;
    }
}

static void t_draw(void)
{
    static const size_t sizes[] = { 1, 2, 7, 100, 266, 267, 268, 1000 };
    enum { N = 400 }; /* 267 of them usable */
    q_err err = { 0 };
    rt_session *s = open_tiny();
    const char *path = many(N);
    cal_workload w = { 0 };

    for (uint64_t seed = 0; seed < 3; seed++)
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            const cal_workload_opts o = { .n = sizes[i], .seed = seed };

            T_OK(cal_workload_load(&w, s, path, &o, &err), err);
            T_INT(w.n, sizes[i] < 267 ? sizes[i] : 267);
            check_draw(&w, N, seed);
            cal_workload_free(&w);
        }
    rt_session_close(s);
}

static void t_articles(void)
{
    q_err err = { 0 };
    rt_session *s = open_tiny();
    cal_workload a = { 0 }, b = { 0 };
    cal_workload_opts o = { .n = 10, .new_tokens = 8, .seed = 1 };
    const char *const path = "datasets/samples.jsonl";
    int differ = 0;

    T_OK(cal_workload_load(&a, s, path, &o, &err), err);
    T_OK(cal_workload_load(&b, s, path, &o, &err), err);
    T_INT(a.n, 10);
    for (size_t i = 0; i < 10; i++) {
        T_STR(a.v[i].prompt, b.v[i].prompt);
        T_INT(a.v[i].n_new, 8);
        T_INT(a.v[i].n_prompt, prompt_tokens(s, a.v[i].prompt));
    }
    cal_workload_free(&b);
    o.seed = 2;
    T_OK(cal_workload_load(&b, s, path, &o, &err), err);
    for (size_t i = 0; i < 10; i++)
        differ += strcmp(a.v[i].prompt, b.v[i].prompt) != 0;
    T_TRUE(differ > 0);
    cal_workload_free(&a);
    cal_workload_free(&b);
    o.new_tokens = 0;
    T_ERR(cal_workload_load(&a, s, path, &o, &err), err, Q_EARG, "articles have no answers");
    o.new_tokens = 8;
    T_ERR(cal_workload_load(&a, s, file("x.jsonl", "{\"text\": \"a\"}\n"), &o, &err), err,
          Q_EFORMAT, "x.jsonl:1: field 'article' is missing");
    T_ERR(cal_workload_load(&a, s, file("x.json", "[{\"conversations\": 3}]"), &o, &err), err,
          Q_EFORMAT, "no array 'conversations'");
    T_ERR(cal_workload_load(&a, s, file("x.json", "[]"), &o, &err), err, Q_EFORMAT,
          "no usable request");
    cal_workload_free(&a);
    rt_session_close(s);
}

/* Tokens of the first n requests, of prompts and to be made. */
typedef struct sums {
    int64_t prompt, made;
} sums;

static sums sum_of(const cal_workload *w, size_t n)
{
    sums s = { 0 };

    for (size_t i = 0; i < n; i++) {
        s.prompt += w->v[i].n_prompt;
        s.made += w->v[i].n_new;
    }
    return s;
}

/* Runs the first n requests on e, which was opened for `batch`: everything was done. */
static void run_first(rt_session *s, rt_engine *e, int batch, const cal_workload *w, size_t n)
{
    const sums want = sum_of(w, n);
    q_err err = { 0 };
    rt_bench_run r;

    T_OK(cal_workload_run(&r, w, s, e, &(cal_workload_part){ n, batch }, &err), err);
    T_INT(r.requests, n);
    T_INT(r.prompt_tokens, want.prompt);
    T_INT(r.new_tokens, want.made);
    T_TRUE(r.elapsed_s > 0 && r.decode_steps > 0);
}

/* Lengths of a trace: what fits, in the order of the draw; the ids are those of the seed. */
static void t_trace(void)
{
    static const char csv[] = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
                              "2023-11-16 18:15:46.68,374,44\r\n"
                              "2023-11-16 18:15:50.99,\"396\",109\r\n\r\n"
                              "x,9000,10\r\n" /* longer than the model */
                              "x,8,0\r\n"     /* nothing to generate */
                              "x,91,16";
    static const char other[] = "output_len,z,input_len\n3,x,5\n";
    static const struct {
        const char *text, *message;
    } bad[] = {
        { "a,b\n1,2\n", "the first line names neither" },
        { "input_len,output_len\n1,2\n3,x\n", "bad.csv: line 3: 'x' is not a number of tokens" },
        { "input_len,output_len\n-1,2\n", "line 2: '-1' is not a number of tokens" },
        { "input_len,output_len\n1,99999999999999999999\n", "is not a number of tokens" },
        { "input_len,output_len\n12\n", "line 2: ends before its column" },
        { "input_len,output_len\n,1\n", "line 2: '' is not a number of tokens" },
        { "input_len,output_len\n9000,1\n", "no request fits the 8192 positions" },
        { "input_len,output_len\n", "no request fits" },
    };
    q_err err = { 0 };
    rt_session *s = open_tiny();
    cal_workload w = { 0 };
    rt_engine *e = NULL;
    uint64_t memory;

    T_OK(cal_workload_load(&w, s, file("t.csv", csv), &(cal_workload_opts){ .n = 100 }, &err), err);
    T_INT(w.n, 3);
    T_INT(w.longest, 396 + 109);
    for (size_t i = 0; i < w.n; i++)
        T_TRUE(w.v[i].prompt == NULL);
    T_INT(sum_of(&w, w.n).prompt, 374 + 396 + 91);
    T_INT(sum_of(&w, w.n).made, 44 + 109 + 16);
    cal_workload_free(&w);
    T_OK(cal_workload_load(&w, s, file("t.csv", csv),
                           &(cal_workload_opts){ .n = 2, .new_tokens = 3 }, &err),
         err);
    T_INT(w.n, 2);
    T_INT(w.v[0].n_new + w.v[1].n_new, 6);
    cal_workload_free(&w);
    T_OK(cal_workload_load(&w, s, file("o.csv", other), &(cal_workload_opts){ .n = 9 }, &err), err);
    T_OK(rt_bench_open(&e, &memory, s, 1, w.longest, &err), err);
    T_INT(w.n, 1);
    T_INT(w.v[0].n_prompt, 5);
    T_INT(w.v[0].n_new, 3);
    run_first(s, e, 1, &w, 1);
    rt_engine_close(e);
    cal_workload_free(&w);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        T_ERR(cal_workload_load(&w, s, file("bad.csv", bad[i].text), &(cal_workload_opts){ .n = 9 },
                                &err),
              err, Q_EFORMAT, bad[i].message);
        cal_workload_free(&w);
    }
    rt_session_close(s);
}

static void t_run(void)
{
    q_err err = { 0 };
    rt_session *s = open_tiny();
    cal_workload w = { 0 };
    rt_engine *e = NULL;
    uint64_t memory;

    T_OK(cal_workload_load(&w, s, many(12), &(cal_workload_opts){ .n = 5 }, &err), err);
    T_INT(w.n, 5);
    T_OK(rt_bench_open(&e, &memory, s, 2, w.longest, &err), err);
    for (size_t n = 5; n <= 5; n -= 2) /* 5, 3, 1 */
        run_first(s, e, 2, &w, n);
    rt_engine_close(e);
    cal_workload_free(&w);
    rt_session_close(s);
}

static const t_case cases[] = { T(t_kind),  T(t_rules), T(t_draw), T(t_articles),
                                T(t_trace), T(t_run),   { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
