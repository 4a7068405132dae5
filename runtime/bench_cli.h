/* Options of qwen-benchmark: what is run, and the form of the report.
 *
 *     static struct opts { rt_bench_cli bench; rt_session_opts session; q_cli cli; } o;
 *     ... on ARGP_KEY_INIT: rt_bench_cli_init(&o->bench);
 *                           state->child_inputs[0] = &o->bench;
 *
 * Only programs include this file. */
#ifndef RT_BENCH_CLI_H
#define RT_BENCH_CLI_H

#include "formats/base/q_cli.h"
#include "runtime/bench_report.h"

#define RT_BENCH_MAX_BATCH   65536
#define RT_BENCH_MAX_BATCHES 64

typedef struct rt_bench_cli {
    int batch[RT_BENCH_MAX_BATCHES], n_batch;
    int sweep;                      /* 1: double the last batch until one does not fit */
    int64_t n_in, n_new, n_prompts; /* 0: not given */
    int repeat;                     /* likewise */
    rt_bench_form form;             /* RT_BENCH_TABLE, _MARKDOWN or _CSV */
    const char *dataset;            /* NULL: random prompts */
} rt_bench_cli;

extern const struct argp rt_bench_argp;

void rt_bench_cli_init(rt_bench_cli *o);

#endif
