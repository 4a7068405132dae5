/* qwen-benchmark: tokens per second of a checkpoint on this machine. */
#include <stdio.h>
#include <string.h>

#include "calibrate/workload.h"
#include "runtime/bench_report.h"
#include "runtime/model_cli.h"

#define MAX_BATCH   65536
#define MAX_BATCHES 64
#define DEFAULT_IN  128
#define DEFAULT_NEW 32

typedef struct opts {
    q_cli cli;
    rt_session_opts session;
    int batch[MAX_BATCHES], n_batch;
    int64_t n_in, n_new, n_prompts; /* 0: not given */
    int repeat, csv;                /* repeat 0: not given */
    const char *dataset;
} opts;

typedef struct bench {
    const opts *o;
    rt_session *s;
    cal_workload load; /* empty without --dataset */
    rt_bench_info info;
    rt_bench_report report;
} bench;

enum { KEY_BATCH = 0x600, KEY_IN, KEY_NEW, KEY_DATASET, KEY_PROMPTS, KEY_REPEAT, KEY_CSV };

static const struct argp_option options[] = {
    { "batch", KEY_BATCH, "LIST", 0, "Sequences in flight, one row each: 1,2,4 (default 1)", 1 },
    { "input-len", KEY_IN, "N", 0, "Random tokens of each prompt (default 128)", 1 },
    { "output-len", KEY_NEW, "N", 0,
      "Tokens to generate for each (default 32; ShareGPT: as many as the answer has)", 1 },
    { "dataset", KEY_DATASET, "FILE", 0,
      "Take prompts from a ShareGPT array, or JSON Lines with \"article\"", 3 },
    { "num-prompts", KEY_PROMPTS, "N", 0, "... that many, drawn with --seed (default 100)", 3 },
    { "repeat", KEY_REPEAT, "N", 0, "Median of N runs (default 3; with --dataset 1)", 5 },
    { "csv", KEY_CSV, 0, 0, "Print CSV with a line of names", 5 },
    { 0 },
};

static const char doc[] =
    "Measure tokens per second of a Qwen checkpoint.\v"
    "Examples:\n"
    "  qwen-benchmark -m out/1-gpu --batch 1,2,4,8\n"
    "  qwen-benchmark -m out/1-gpu --weight-only int4 --input-len 1024 --csv\n"
    "  qwen-benchmark -m datasets/qwen-tiny --dataset datasets/samples.jsonl\n\n"
    "Every run generates exactly the tokens asked for, greedily, and ignores stop\n"
    "tokens.  A warm-up (with --dataset one prompt) goes before the timed runs.\n"
    "Prefill and decode rates are those of steps that do nothing else, decode with\n"
    "the full batch.  The read bandwidth of all threads is measured first; a model\n"
    "that fits into the caches can pass it.  With --dataset the time includes the\n"
    "tokenizer.  A batch that does not fit into memory says so in its row.  On a GPU\n"
    "the bandwidth is that of a large copy, bytes read and written.\n"
    "--json: model, scheme, head, threads, bandwidth_gb_s, ... and results, a list.\n"
    "Exit codes: 0 done, 64 usage, 65 bad data, 66 input missing, 69 no such device,\n"
    "71 memory (no batch fits), 74 read failed, 78 not supported.";

static error_t parse(int key, char *arg, struct argp_state *state)
{
    opts *o = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        rt_session_opts_init(&o->session);
        state->child_inputs[0] = &o->session;
        state->child_inputs[1] = &o->cli;
        return 0;
    case KEY_BATCH:
        if ((o->n_batch = rt_bench_list(o->batch, MAX_BATCHES, arg, MAX_BATCH)) == 0)
            q_cli_bad(state, "--batch", arg, "a list such as 1,2,4 (64 numbers up to 65536)");
        return 0;
    case KEY_IN:
        o->n_in = q_cli_int(state, "--input-len", arg, 1, INT32_MAX);
        return 0;
    case KEY_NEW:
        o->n_new = q_cli_int(state, "--output-len", arg, 1, INT32_MAX);
        return 0;
    case KEY_DATASET:
        o->dataset = arg;
        return 0;
    case KEY_PROMPTS:
        o->n_prompts = q_cli_int(state, "--num-prompts", arg, 1, 1 << 20);
        return 0;
    case KEY_REPEAT:
        o->repeat = (int)q_cli_int(state, "--repeat", arg, 1, RT_BENCH_MAX_RUNS);
        return 0;
    case KEY_CSV:
        o->csv = 1;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", arg);
        return 0;
    case ARGP_KEY_END:
        if (o->dataset && o->n_in)
            argp_error(state,
                       "--input-len is for random prompts: leave out one of it and --dataset");
        if (o->n_prompts && !o->dataset)
            argp_error(state, "--num-prompts goes with --dataset");
        if (o->csv && o->cli.json)
            argp_error(state, "give one of --csv and --json");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = { { &rt_model_argp, 0, "Model:", 2 },
                                              { &q_cli_argp, 0, "Common options:", 90 },
                                              { 0 } };
static const struct argp argp = {
    .options = options, .parser = parse, .doc = doc, .children = children
};

/* The prompts of the dataset, or their lengths checked: before minutes of work. */
static q_status prepare(bench *b, cal_workload_kind kind, q_err *err)
{
    const opts *o = b->o;
    const size_t wanted = o->n_prompts ? (size_t)o->n_prompts : 100;
    const int64_t n_new = o->n_new || (o->dataset && kind == CAL_SHAREGPT) ? o->n_new : DEFAULT_NEW;
    const cal_workload_opts w = { .n = wanted, .new_tokens = n_new, .seed = o->cli.seed };
    q_status st = Q_OK;

    rt_bench_describe(&b->info, b->s);
    b->info.model = o->session.path;
    b->info.dataset = o->dataset;
    b->info.n_in = o->dataset ? 0 : o->n_in ? o->n_in : DEFAULT_IN;
    b->info.n_new = n_new;
    b->info.runs = o->repeat ? o->repeat : o->dataset ? 1 : 3;
    b->info.seed = o->cli.seed;
    if (!o->dataset && b->info.n_in + n_new > b->s->desc.max_ctx)
        Q_FAIL(err, Q_EARG,
               "%lld + %lld tokens exceed the %lld positions of the model: lower --input-len or "
               "--output-len",
               (long long)b->info.n_in, (long long)n_new, (long long)b->s->desc.max_ctx);
    if (o->dataset)
        Q_TRY(cal_workload_load(&b->load, b->s, o->dataset, &w, err));
    b->info.n_prompts = b->load.n;
    if (o->dataset && b->load.n < wanted)
        q_log_warn(&o->cli.log, "%s: only %zu usable prompts, %zu wanted", o->dataset, b->load.n,
                   wanted);
    if (b->s->be->ops->bandwidth)
        Q_TRY(b->s->be->ops->bandwidth(b->s->be, &b->info.bandwidth, err));
    else
        Q_TRY(rt_bench_bandwidth(&b->info.bandwidth, b->info.threads, err));
out:
    return st;
}

static q_status run_once(rt_bench_run *r, const bench *b, rt_engine *e, int batch, int warm_up,
                         q_err *err)
{
    const cal_workload_part part = { warm_up ? 1 : b->load.n, batch };
    const rt_bench_shape shape = { .batch = batch,
                                   .n_in = b->info.n_in,
                                   .n_new = b->info.n_new,
                                   .vocab = b->s->desc.vocab,
                                   .seed = b->info.seed };

    return b->info.dataset ? cal_workload_run(r, &b->load, b->s, e, &part, err)
                           : rt_bench_random(r, e, &shape, err);
}

static q_status measure(rt_bench_row *row, const bench *b, int batch, q_err *err)
{
    q_status st = Q_OK;
    rt_engine *e = NULL;
    rt_bench_run run[RT_BENCH_MAX_RUNS];
    rt_bench_costs costs = { .step_weights = b->s->model->decode_bytes,
                             .kv_token = rt_bench_kv_token_bytes(b->s),
                             .bandwidth = b->info.bandwidth };
    const int64_t longest = b->info.dataset ? b->load.longest : b->info.n_in + b->info.n_new;
    q_err why = { 0 };

    Q_TRY(rt_bench_open(&e, &costs.memory, b->s, batch, longest, &why));
    Q_TRY(run_once(&run[0], b, e, batch, 1, &why));
    for (int i = 0; i < b->info.runs; i++)
        Q_TRY(run_once(&run[i], b, e, batch, 0, &why));
    rt_bench_fill(row, batch, run, (size_t)b->info.runs, &costs);
out:
    if (st == Q_ENOMEM) { /* a row like others: the next batch may be smaller */
        rt_bench_fill_error(row, batch, costs.memory, why.msg);
        st = Q_OK;
    }
    if (st != Q_OK)
        q_fail(err, st, "%s", why.msg);
    rt_engine_close(e);
    return st;
}

static void print(q_buf *text)
{
    if (text->size > 0)
        fwrite(text->data, 1, text->size, stdout);
    fflush(stdout); /* rows appear as they are measured */
    q_buf_clear(text);
}

static q_status run(opts *o, q_err *err)
{
    q_status st = Q_OK;
    bench b = { .o = o };
    cal_workload_kind kind = CAL_ARTICLES;
    rt_bench_form form;
    int done = 0;

    if (o->dataset)
        Q_TRY(cal_workload_kind_of(&kind, o->dataset, err));
    o->session.threads = o->cli.threads;
    o->session.seed = o->cli.seed;
    o->session.tokenizer_optional = !o->dataset;
    Q_TRY(rt_session_open(&b.s, &o->session, &o->cli.log, err));
    Q_TRY(prepare(&b, kind, err));
    form = o->cli.json ? RT_BENCH_JSON : o->csv ? RT_BENCH_CSV : RT_BENCH_TABLE;
    Q_TRY(rt_bench_report_begin(&b.report, form, &b.info, err));
    print(&b.report.text);
    for (int i = 0; i < o->n_batch; i++) {
        rt_bench_row row;

        Q_TRY(measure(&row, &b, o->batch[i], err));
        Q_TRY(rt_bench_report_row(&b.report, &row, err));
        print(&b.report.text);
        done += row.error[0] == '\0';
    }
    Q_TRY(rt_bench_report_end(&b.report, err));
    print(&b.report.text);
    if (done == 0)
        Q_FAIL(err, Q_ENOMEM, "no batch size fits into memory: lower --batch or the lengths");
out:
    rt_bench_report_free(&b.report);
    cal_workload_free(&b.load);
    rt_session_close(b.s);
    return st;
}

int main(int argc, char **argv)
{
    static opts o = { .batch = { 1 }, .n_batch = 1 };
    q_err err = { 0 };
    q_status st = q_cli_parse(&o.cli, &argp, argc, argv, &o, &err);

    if (st == Q_OK)
        st = run(&o, &err);
    return q_cli_exit(&o.cli, st, &err);
}
