/* Options of a benchmark. */
#include "runtime/bench_cli.h"

enum {
    KEY_BATCH = 0x600,
    KEY_IN,
    KEY_NEW,
    KEY_DATASET,
    KEY_PROMPTS,
    KEY_REPEAT,
    KEY_CSV,
    KEY_MARKDOWN
};

static const struct argp_option options[] = {
    { "batch", KEY_BATCH, "LIST", 0,
      "Sequences in flight, one row each: 1,2,4 (default 1); 1.. doubles until one does not fit",
      0 },
    { "input-len", KEY_IN, "N", 0, "Random tokens of each prompt (default 128)", 0 },
    { "output-len", KEY_NEW, "N", 0,
      "Tokens to generate for each (default 32; ShareGPT and traces: as many as stand there)", 0 },
    { "dataset", KEY_DATASET, "FILE", 0,
      "Take prompts from a ShareGPT array or JSON Lines with \"article\", or lengths from a CSV "
      "trace",
      0 },
    { "num-prompts", KEY_PROMPTS, "N", 0, "Prompts of the dataset, drawn with --seed (default 100)",
      0 },
    { "repeat", KEY_REPEAT, "N", 0, "Median of N runs (default 3; with --dataset 1)", 0 },
    { "csv", KEY_CSV, 0, 0, "Print CSV with a line of names", 0 },
    { "markdown", KEY_MARKDOWN, 0, 0, "Print a Markdown table", 0 },
    { 0 },
};

void rt_bench_cli_init(rt_bench_cli *o)
{
    *o = (rt_bench_cli){ .batch = { 1 }, .n_batch = 1 };
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    rt_bench_cli *o = state->input;

    switch (key) {
    case KEY_BATCH:
        if ((o->n_batch = rt_bench_list(o->batch, RT_BENCH_MAX_BATCHES, arg, RT_BENCH_MAX_BATCH,
                                        &o->sweep)) == 0)
            q_cli_bad(state, "--batch", arg,
                      "a list such as 1,2,4 (64 numbers up to 65536), or 1..");
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
    case KEY_MARKDOWN:
        if (o->form != RT_BENCH_TABLE)
            argp_error(state, "give one of --csv, --markdown and --json");
        o->form = key == KEY_CSV ? RT_BENCH_CSV : RT_BENCH_MARKDOWN;
        return 0;
    case ARGP_KEY_END:
        if (o->dataset && o->n_in)
            argp_error(state,
                       "--input-len is for random prompts: leave out one of it and --dataset");
        if (o->n_prompts && !o->dataset)
            argp_error(state, "--num-prompts goes with --dataset");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp rt_bench_argp = { .options = options, .parser = parse };
