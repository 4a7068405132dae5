/* qwen-benchmark: tokens per second of a checkpoint on this machine. */
#include <stdio.h>
#include <string.h>

#include "calibrate/workload.h"
#include "runtime/bench_cli.h"
#include "runtime/model_cli.h"

#define DEFAULT_IN  128
#define DEFAULT_NEW 32

typedef struct opts {
    rt_bench_cli bench;
    rt_session_opts session;
    q_cli cli;
} opts;

typedef struct bench {
    const opts *o;
    rt_session *s;
    cal_workload load; /* empty without --dataset */
    rt_bench_info info;
    rt_bench_report report;
} bench;

static const char doc[] =
    "Measure tokens per second of a Qwen checkpoint.\v"
    "Examples:\n"
    "  qwen-benchmark -m out/1-gpu --batch 1,2,4,8\n"
    "  qwen-benchmark -m out/1-gpu --weight-only int4 --input-len 1024 --csv\n"
    "  qwen-benchmark -m datasets/qwen-tiny --dataset datasets/samples.jsonl\n"
    "  qwen-benchmark -m out/1-gpu --batch 1.. --input-len 1024 --output-len 1024\n\n"
    "Every run generates exactly the tokens asked for, greedily, and ignores stop tokens. A "
    "warm-up (with --dataset one prompt) goes before the timed runs. Prefill and decode rates are "
    "those of steps that do nothing else, decode with the full batch. The read bandwidth of all "
    "threads is measured first; a model that fits into the caches can pass it. With --dataset the "
    "time includes the tokenizer. A batch that does not fit into memory says so in its row. On a "
    "GPU the bandwidth is that of a large copy, bytes read and written. TFLOP/s count the linears "
    "alone, 2 N K each; memory is what the device has in use, or the peak of this process. A trace "
    "is a CSV file with the columns ContextTokens and GeneratedTokens. --json: model, scheme, "
    "head, threads, bandwidth_gb_s, ... and results, a list.\n\n"
    "Exit codes: 0 done; 64 usage; 65 bad data; 66 input missing; 69 no such device; 71 memory (no "
    "batch fits); 74 read failed; 77 permission; 78 not supported.";

static error_t parse(int key, char *arg, struct argp_state *state)
{
    opts *o = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        rt_bench_cli_init(&o->bench);
        rt_session_opts_init(&o->session);
        state->child_inputs[0] = &o->bench;
        state->child_inputs[1] = &o->session;
        state->child_inputs[2] = &o->cli;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", arg);
        return 0;
    case ARGP_KEY_END:
        if (o->bench.form != RT_BENCH_TABLE && o->cli.json)
            argp_error(state, "give one of --csv, --markdown and --json");
        if (o->cli.json)
            o->bench.form = RT_BENCH_JSON;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = { { &rt_bench_argp, 0, "Measuring:", 1 },
                                              { &rt_model_argp, 0, "Model:", 2 },
                                              { &q_cli_argp, 0, "Common options:", 90 },
                                              { 0 } };
static const struct argp argp = { .parser = parse, .doc = doc, .children = children };

/* The prompts of the dataset, or their lengths checked: before minutes of work. */
static q_status prepare(bench *b, cal_workload_kind kind, q_err *err)
{
    const opts *o = b->o;
    const size_t wanted = o->bench.n_prompts ? (size_t)o->bench.n_prompts : 100;
    const int64_t n_new =
        o->bench.n_new || (o->bench.dataset && kind != CAL_ARTICLES) ? o->bench.n_new : DEFAULT_NEW;
    const cal_workload_opts w = { .n = wanted, .new_tokens = n_new, .seed = o->cli.seed };
    q_status st = Q_OK;

    rt_bench_describe(&b->info, b->s);
    b->info.model = o->session.path;
    b->info.dataset = o->bench.dataset;
    b->info.n_in = o->bench.dataset ? 0 : o->bench.n_in ? o->bench.n_in : DEFAULT_IN;
    b->info.n_new = n_new;
    b->info.runs = o->bench.repeat ? o->bench.repeat : o->bench.dataset ? 1 : 3;
    b->info.seed = o->cli.seed;
    if (!o->bench.dataset && b->info.n_in + n_new > b->s->desc.max_ctx)
        Q_FAIL(err, Q_EARG,
               "%lld + %lld tokens exceed the %lld positions of the model: lower --input-len or "
               "--output-len",
               (long long)b->info.n_in, (long long)n_new, (long long)b->s->desc.max_ctx);
    if (o->bench.dataset)
        Q_TRY(cal_workload_load(&b->load, b->s, o->bench.dataset, &w, err));
    b->info.n_prompts = b->load.n;
    if (o->bench.dataset && b->load.n < wanted)
        q_log_warn(&o->cli.log, "%s: only %zu usable prompts, %zu wanted", o->bench.dataset,
                   b->load.n, wanted);
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
                             .bandwidth = b->info.bandwidth,
                             .token_flop = rt_bench_token_flop(b->s->model) };
    const int64_t longest = b->info.dataset ? b->load.longest : b->info.n_in + b->info.n_new;
    q_err why = { 0 };

    if (b->s->be->ops->peak)
        costs.peak = b->s->be->ops->peak(b->s->be, strcmp(b->info.scheme, "w8a8") == 0 ? 8 : 16);
    Q_TRY(rt_bench_open(&e, &costs.memory, b->s, batch, longest, &why));
    Q_TRY(run_once(&run[0], b, e, batch, 1, &why));
    for (int i = 0; i < b->info.runs; i++)
        Q_TRY(run_once(&run[i], b, e, batch, 0, &why));
    costs.used = rt_bench_used_bytes(b->s->be);
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
    int done = 0;

    if (o->bench.dataset)
        Q_TRY(cal_workload_kind_of(&kind, o->bench.dataset, err));
    o->session.threads = o->cli.threads;
    o->session.seed = o->cli.seed;
    o->session.tokenizer_optional = !o->bench.dataset || kind == CAL_TRACE;
    Q_TRY(rt_session_open(&b.s, &o->session, &o->cli.log, err));
    Q_TRY(prepare(&b, kind, err));
    Q_TRY(rt_bench_report_begin(&b.report, o->bench.form, &b.info, err));
    print(&b.report.text);
    for (int i = 0, batch = o->bench.batch[0];
         i < o->bench.n_batch || (o->bench.sweep && batch <= RT_BENCH_MAX_BATCH);) {
        rt_bench_row row;

        Q_TRY(measure(&row, &b, batch, err));
        Q_TRY(rt_bench_report_row(&b.report, &row, err));
        print(&b.report.text);
        done += row.error[0] == '\0';
        if (row.error[0] != '\0' && i + 1 >= o->bench.n_batch)
            break;
        batch = ++i < o->bench.n_batch ? o->bench.batch[i] : 2 * batch;
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
    static opts o;
    q_err err = { 0 };
    q_status st = q_cli_parse(&o.cli, &argp, argc, argv, &o, &err);

    if (st == Q_OK)
        st = run(&o, &err);
    return q_cli_exit(&o.cli, st, &err);
}
