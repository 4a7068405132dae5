/* Measuring: lists, medians, what a step counts as, figures of a row, and its three forms. */
#include "runtime/bench.h"

#include <math.h>
#include <string.h>

#include "runtime/bench_report.h"
#include "runtime/model_cli.h"
#include "tests/t.h"

#define MODEL "datasets/qwen-tiny"

static void t_list(void)
{
    static const struct {
        const char *text;
        int n, v[4], open;
    } rows[] = {
        { "1", 1, { 1 } },
        { "1,2,4", 3, { 1, 2, 4 } },
        { "100,1", 2, { 100, 1 } },
        { "007", 1, { 7 } },
        { "1,2,3,4", 4, { 1, 2, 3, 4 } },
        { "1..", 1, { 1 }, 1 },
        { "1,8..", 2, { 1, 8 }, 1 },
        { "1..4", 0, { 0 } },
        { "1.", 0, { 0 } },
        { "..", 0, { 0 } },
        { "1,2,3,4,5", 0, { 0 } }, /* more than cap */
        { "1,2,x", 0, { 0 } },
        { "", 0, { 0 } },
        { ",", 0, { 0 } },
        { "1,", 0, { 0 } },
        { ",1", 0, { 0 } },
        { "1,,2", 0, { 0 } },
        { "0", 0, { 0 } },
        { "101", 0, { 0 } },
        { "-1", 0, { 0 } },
        { "+1", 0, { 0 } },
        { " 1", 0, { 0 } },
        { "1 ", 0, { 0 } },
        { "1.0", 0, { 0 } },
        { "99999999999999999999999", 0, { 0 } },
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int v[4], open = 0;
        const int n = rt_bench_list(v, 4, rows[i].text, 100, &open);

        if (n != rows[i].n)
            t_fail(__FILE__, __LINE__, "'%s' gives %d numbers, wanted %d", rows[i].text, n,
                   rows[i].n);
        for (int k = 0; k < n; k++)
            T_INT(v[k], rows[i].v[k]);
        if (n)
            T_INT(open, rows[i].open);
    }
}

static void t_median(void)
{
    T_NEAR(rt_bench_median((double[]){ 3 }, 1), 3, 0);
    T_NEAR(rt_bench_median((double[]){ 3, 1 }, 2), 2, 0);
    T_NEAR(rt_bench_median((double[]){ 9, 1, 2 }, 3), 2, 0);
    T_NEAR(rt_bench_median((double[]){ 4, 100, 1, 2 }, 4), 3, 0);
    T_NEAR(rt_bench_median((double[]){ 5, 5, 5, 1, 1 }, 5), 5, 0);
}

static void t_bandwidth(void)
{
    q_err err = { 0 };
    double v = 0;

    T_OK(rt_bench_bandwidth(&v, 2, &err), err);
    T_TRUE(v > 1e7 && v < 1e14);
}

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

/* every step of these is known */
static void t_counts(void)
{
    static const struct {
        int batch, n; /* sequences in flight, jobs */
        int64_t max_tok, n_in, n_new;
        int64_t prefill, steps, decode, kv;
    } rows[] = {
        /* prompts in one step, then lengths 6, 7, 8 of both */
        { 2, 2, 64, 5, 4, 10, 3, 6, 2 * (6 + 7 + 8) },
        /* chunks: 6 + 2, then 1 + 4 mixed, then both decode twice (8 + 7, 9 + 8), then one alone */
        { 2, 2, 8, 6, 4, 8, 2, 4, 8 + 7 + 9 + 8 },
        /* the third waits until two are done and then decodes alone */
        { 2, 3, 64, 5, 3, 15, 2, 4, 2 * (6 + 7) },
        /* more room than jobs: both are the full batch */
        { 4, 2, 64, 5, 2, 10, 1, 2, 2 * 6 },
        /* one new token comes out of the prompt */
        { 1, 1, 64, 5, 1, 5, 0, 0, 0 },
    };
    q_err err = { 0 };
    rt_session *s = open_tiny();
    int32_t ids[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const rt_engine_opts eo = { .max_tok = rows[i].max_tok,
                                    .max_seqs = rows[i].batch,
                                    .kv_tokens = 64,
                                    .kv_format = "f32" };
        rt_bench_job job[4];
        rt_engine *e = NULL;
        rt_bench_run r;

        for (int k = 0; k < rows[i].n; k++)
            job[k] = (rt_bench_job){ ids, (size_t)rows[i].n_in, rows[i].n_new };
        T_OK(rt_engine_open(&e, s->model, &eo, &err), err);
        for (int again = 0; again < 2; again++) { /* a used engine counts like a new one */
            T_OK(rt_bench_jobs(&r, e,
                               &(rt_bench_jobs_opts){
                                   .job = job, .n = (size_t)rows[i].n, .batch = rows[i].batch },
                               &err),
                 err);
            T_INT(r.requests, rows[i].n);
            T_INT(r.prompt_tokens, rows[i].n * rows[i].n_in);
            T_INT(r.new_tokens, rows[i].n * rows[i].n_new);
            T_INT(r.prefill_tokens, rows[i].prefill);
            T_INT(r.decode_steps, rows[i].steps);
            T_INT(r.decode_tokens, rows[i].decode);
            T_INT(r.kv_tokens, rows[i].kv);
            T_TRUE(r.prefill_s > 0 && (r.decode_s > 0) == (r.decode_steps > 0));
            T_TRUE(r.elapsed_s >= r.prefill_s + r.decode_s);
        }
        rt_engine_close(e);
    }
    rt_session_close(s);
}

static q_status count_ids(void *user, rt_seq *seq, int32_t id, q_err *err)
{
    (void)seq, (void)id;
    return ++*(int *)user == 3 ? q_fail(err, Q_ECANCEL, "enough") : Q_OK;
}

/* an error in the middle leaves an engine that works */
static void t_stop(void)
{
    q_err err = { 0 };
    rt_session *s = open_tiny();
    rt_engine *e = NULL;
    int n = 0;
    int32_t ids[2] = { 1, 2 };
    rt_bench_job job[2] = { { ids, 2, 4 }, { ids, 2, 4 } };
    rt_bench_jobs_opts o = { .job = job, .n = 2, .batch = 2, .on_token = count_ids, .user = &n };
    rt_bench_run r;

    T_OK(rt_session_engine(&e, s, 2, 6, &err), err);
    T_ERR(rt_bench_jobs(&r, e, &o, &err), err, Q_ECANCEL, "enough");
    job[1].n_ids = 0;
    T_ERR(rt_bench_jobs(&r, e, &o, &err), err, Q_EARG, "the prompt is empty");
    job[1].n_ids = 2;
    T_OK(rt_bench_jobs(&r, e, &o, &err), err);
    T_INT(n, 3 + 8);
    rt_engine_close(e);
    rt_session_close(s);
}

/* random prompts have the shape asked for and spread over the vocabulary */
static void t_random(void)
{
    q_err err = { 0 };
    rt_session *s = open_tiny();
    rt_engine *e = NULL;
    uint64_t memory;
    rt_bench_shape shape = { .batch = 3, .n_in = 7, .n_new = 2, .vocab = s->desc.vocab, .seed = 5 };
    rt_bench_run r;

    T_OK(rt_bench_open(&e, &memory, s, 3, 9, &err), err);
    T_INT(memory, rt_engine_bytes(e));
    T_OK(rt_bench_random(&r, e, &shape, &err), err);
    T_INT(r.prompt_tokens, 21);
    T_INT(r.prefill_tokens, 21);
    T_INT(r.decode_tokens, 3);
    T_INT(r.kv_tokens, 3 * 8);
    shape.vocab = 100000; /* 96 % of the ids lie outside the model */
    T_ERR(rt_bench_random(&r, e, &shape, &err), err, Q_EARG, "the vocabulary has 4096");
    rt_engine_close(e);
    rt_session_close(s);
}

/* sizes against the file: f16 there, norms and biases f32 here */
static void t_sizes(void)
{
    rt_session *s = open_tiny();
    const fmt_model *m = &s->desc;
    const uint64_t norms = (uint64_t)((2 * m->layers + 1) * m->hid);
    const uint64_t biases = (uint64_t)(m->layers * (m->n_head + 2 * m->n_kv) * m->hd);

    T_INT(rt_bench_model_bytes(s->model), s->disk_bytes + 2 * (norms + biases));
    T_INT(s->model->decode_bytes,
          rt_bench_model_bytes(s->model) - (uint64_t)(m->vocab * m->hid * 2) - 4 * biases);
    T_INT(rt_bench_kv_token_bytes(s), m->layers * 2 * m->n_kv * m->hd * 4);
    rt_session_close(s);
}

#if defined(__SANITIZE_ADDRESS__) /* like malloc without it */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}
#endif

static void t_no_memory(void)
{
    q_err err = { 0 };
    rt_session *s = open_tiny();
    rt_engine *e = NULL;
    uint64_t memory = 0;
    const q_status st = rt_bench_open(&e, &memory, s, 512, s->desc.max_ctx, &err);

    T_TRUE(memory >= (uint64_t)512 * (uint64_t)s->desc.max_ctx * rt_bench_kv_token_bytes(s));
    rt_engine_close(e);
    rt_session_close(s);
    if (st == Q_OK)
        T_SKIP("this machine has %.0f GB to spare", (double)memory / 1e9);
    T_ERR(st, err, Q_ENOMEM, "out of memory: ");
}

static const rt_bench_costs costs = { .step_weights = 1000000,
                                      .kv_token = 100,
                                      .memory = 7000000,
                                      .used = 8000000,
                                      .bandwidth = 1e9,
                                      .token_flop = 5e9,
                                      .peak = 2e12 };

static const rt_bench_run runs[3] = {
    { 4, 40, 20, 2.0, 40, 0.5, 4, 16, 1000, 0.8 },
    { 4, 40, 20, 4.0, 40, 0.4, 4, 16, 1000, 0.2 },
    { 4, 40, 20, 1.0, 40, 0.3, 4, 16, 1000, 0.4 },
};

static void t_fill(void)
{
    static const double want[RT_BENCH_COLS] = {
        [RT_BENCH_BATCH] = 4,
        [RT_BENCH_REQUESTS] = 4,
        [RT_BENCH_PROMPT_TOKENS] = 40,
        [RT_BENCH_NEW_TOKENS] = 20,
        [RT_BENCH_ELAPSED_S] = 2.0, /* each time has its own median */
        [RT_BENCH_REQUESTS_S] = 2,
        [RT_BENCH_TOKENS_S] = 30,
        [RT_BENCH_OUTPUT_TOKENS_S] = 10,
        [RT_BENCH_PREFILL_TOK_S] = 100,
        [RT_BENCH_PREFILL_TFLOPS] = 0.5,
        [RT_BENCH_PREFILL_PCT] = 25,
        [RT_BENCH_DECODE_TOK_S] = 40,
        [RT_BENCH_DECODE_MS] = 100,
        [RT_BENCH_STEP_WEIGHTS] = 1000000,
        [RT_BENCH_STEP_KV] = 25000,
        [RT_BENCH_GB_S] = 0.01025, /* 1.025 MB in 0.1 s */
        [RT_BENCH_BANDWIDTH_PCT] = 1.025,
        [RT_BENCH_MEMORY] = 7000000,
        [RT_BENCH_USED] = 8000000,
    };
    const rt_bench_run prompt_only = { 1, 8, 1, 2.0, 0, 0, 0, 0, 0, 0 };
    rt_bench_row row;

    rt_bench_fill(&row, 4, runs, 3, &costs);
    for (int c = 0; c < RT_BENCH_COLS; c++)
        T_NEAR(row.v[c], want[c], 1e-12 * want[c]);
    T_STR(row.error, "");
    rt_bench_fill(&row, 1, &prompt_only, 1, &costs);
    T_NEAR(row.v[RT_BENCH_TOKENS_S], 4.5, 0);
    T_TRUE(isnan(row.v[RT_BENCH_PREFILL_TOK_S]) && isnan(row.v[RT_BENCH_DECODE_TOK_S]) &&
           isnan(row.v[RT_BENCH_DECODE_MS]) && isnan(row.v[RT_BENCH_STEP_KV]) &&
           isnan(row.v[RT_BENCH_GB_S]) && isnan(row.v[RT_BENCH_BANDWIDTH_PCT]));
}

static const rt_bench_info info = { .model = "a \"b\", c",
                                    .scheme = "w4",
                                    .head = "f16",
                                    .kv_cache = "f32",
                                    .n_in = 10,
                                    .n_new = 5,
                                    .threads = 2,
                                    .runs = 3,
                                    .seed = 9,
                                    .model_bytes = 3000000,
                                    .bandwidth = 1e9,
                                    .load_s = 0.25 };

/* a measured row and one that did not fit */
static const char *report(rt_bench_report *r, rt_bench_form form)
{
    q_err err = { 0 };
    rt_bench_row row;

    T_OK(rt_bench_report_begin(r, form, &info, &err), err);
    rt_bench_fill(&row, 4, runs, 3, &costs);
    T_OK(rt_bench_report_row(r, &row, &err), err);
    rt_bench_fill_error(&row, 8, 9000000, "out of memory: much");
    T_OK(rt_bench_report_row(r, &row, &err), err);
    T_OK(rt_bench_report_end(r, &err), err);
    return r->text.data;
}

static void t_table(void)
{
    rt_bench_report r = { 0 };

    T_STR(
        report(&r, RT_BENCH_TABLE),
        "a \"b\", c: linears w4, head f16, KV cache f32, 3.0 MB of weights\n"
        "2 threads, read bandwidth 1.00 GB/s, 10 + 5 tokens, greedy, median of 3 runs\n\n"
        "               requests  tokens/s  tokens/s   prefill prefill  % of    decode   decode  "
        "decode  % of KV + work   memory\n"
        "batch  seconds       /s  in + out       out  tokens/s TFLOP/s  peak  tokens/s  ms/step    "
        "GB/s  read        MB       MB\n"
        "    4    2.000     2.00      30.0      10.0     100.0    0.50  25.0      40.0  100.000    "
        "0.01   1.0       7.0        8\n"
        "    8 out of memory: much\n");
    rt_bench_report_free(&r);
}

static void t_markdown(void)
{
    rt_bench_report r = { 0 };

    T_STR(
        report(&r, RT_BENCH_MARKDOWN),
        "a \"b\", c: linears w4, head f16, KV cache f32, 3.0 MB of weights\n"
        "2 threads, read bandwidth 1.00 GB/s, 10 + 5 tokens, greedy, median of 3 runs\n\n"
        "| batch | seconds | requests /s | tokens/s in + out | tokens/s out | prefill tokens/s | "
        "prefill TFLOP/s | % of peak | decode tokens/s | decode ms/step | decode GB/s | % of read "
        "| KV + work MB | memory MB |\n"
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
        "| 4 | 2.000 | 2.00 | 30.0 | 10.0 | 100.0 | 0.50 | 25.0 | 40.0 | 100.000 | 0.01 | 1.0 | "
        "7.0 | 8 |\n"
        "| 8 | out of memory: much |\n");
    rt_bench_report_free(&r);
}

static void t_csv(void)
{
    rt_bench_report r = { 0 };

    T_STR(report(&r, RT_BENCH_CSV),
          "model,scheme,head,kv_cache,dataset,input_len,output_len,threads,runs,bandwidth_gb_s,"
          "model_bytes,batch,requests,prompt_tokens,new_tokens,elapsed_s,requests_s,tokens_s,"
          "output_tokens_s,prefill_tok_s,prefill_tflops,prefill_pct,decode_tok_s,decode_ms,step_"
          "weight_bytes,step_kv_bytes,"
          "gb_s,bandwidth_pct,memory_bytes,used_bytes,error\n"
          "\"a \"\"b\"\", c\",\"w4\",\"f16\",\"f32\",,10,5,2,3,1.000,3000000,4,4,40,20,2.000000,"
          "2.000000,30.000000,10.000000,100.000000,0.500000,25.000000,40.000000,100.000000,1000000,"
          "25000.000000,"
          "0.010250,1.025000,7000000,8000000,\n"
          "\"a \"\"b\"\", c\",\"w4\",\"f16\",\"f32\",,10,5,2,3,1.000,3000000,8,,,,,,,,,,,,,,,,,"
          "9000000,,\"out of memory: much\"\n");
    rt_bench_report_free(&r);
}

static void t_json(void)
{
    q_err err = { 0 };
    rt_bench_report r = { 0 };
    const char *text = report(&r, RT_BENCH_JSON);
    fmt_json *doc = NULL;
    const fmt_json *row;
    int64_t v;

    T_TRUE(strchr(text, '\n') == text + strlen(text) - 1); /* one line */
    T_OK(fmt_json_parse(&doc, text, strlen(text), "report", &err), err);
    T_STR(fmt_json_text(fmt_json_get(doc, "model")), "a \"b\", c");
    T_INT(fmt_json_kind(fmt_json_get(doc, "dataset")), FMT_JSON_NULL);
    T_OK(fmt_json_int(doc, "input_len", 10, 10, &v, &err), err);
    T_OK(fmt_json_int(doc, "bandwidth_gb_s", 1, 1, &v, &err), err);
    T_INT(fmt_json_size(fmt_json_get(doc, "results")), 2);
    row = fmt_json_at(fmt_json_get(doc, "results"), 0);
    T_INT(fmt_json_size(row), RT_BENCH_COLS + 1);
    T_OK(fmt_json_int(row, "tokens_s", 30, 30, &v, &err), err);
    T_INT(fmt_json_kind(fmt_json_get(row, "batch")), FMT_JSON_INT);
    T_INT(fmt_json_kind(fmt_json_get(row, "error")), FMT_JSON_NULL);
    row = fmt_json_at(fmt_json_get(doc, "results"), 1);
    T_INT(fmt_json_size(row), RT_BENCH_COLS + 1);
    T_INT(fmt_json_kind(fmt_json_get(row, "tokens_s")), FMT_JSON_NULL);
    T_OK(fmt_json_int(row, "memory_bytes", 9000000, 9000000, &v, &err), err);
    T_STR(fmt_json_text(fmt_json_get(row, "error")), "out of memory: much");
    fmt_json_free(doc);
    rt_bench_report_free(&r);
}

static const t_case cases[] = { T(t_list),     T(t_median), T(t_bandwidth), T(t_counts), T(t_stop),
                                T(t_random),   T(t_sizes),  T(t_no_memory), T(t_fill),   T(t_table),
                                T(t_markdown), T(t_csv),    T(t_json),      { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
