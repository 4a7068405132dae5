/* Runs of a benchmark as a row of figures, and rows as a table, Markdown, CSV or JSON.
 *
 *     rt_bench_report r = { 0 };
 *     Q_TRY(rt_bench_report_begin(&r, RT_BENCH_TABLE, &info, err));
 *     rt_bench_row row;
 *     rt_bench_fill(&row, batch, run, n_run, &costs);
 *     Q_TRY(rt_bench_report_row(&r, &row, err));
 *     Q_TRY(rt_bench_report_end(&r, err));
 *     fputs(r.text.data, stdout);
 *     ... out: rt_bench_report_free(&r);
 *
 * Every figure is a column of one table (bench_report.c); adding one is a row there and a line in
 * rt_bench_fill.  Threads: pure. */
#ifndef RT_BENCH_REPORT_H
#define RT_BENCH_REPORT_H

#include "formats/json.h"
#include "runtime/bench.h"

typedef enum rt_bench_col {
    RT_BENCH_BATCH, /* sequences in flight */
    RT_BENCH_REQUESTS,
    RT_BENCH_PROMPT_TOKENS,
    RT_BENCH_NEW_TOKENS,
    RT_BENCH_ELAPSED_S,
    RT_BENCH_REQUESTS_S,
    RT_BENCH_TOKENS_S, /* prompt + new, as the reference counts */
    RT_BENCH_OUTPUT_TOKENS_S,
    RT_BENCH_PREFILL_TOK_S,
    RT_BENCH_PREFILL_TFLOPS, /* operations of the linears */
    RT_BENCH_PREFILL_PCT,    /* of the peak of the device */
    RT_BENCH_DECODE_TOK_S,
    RT_BENCH_DECODE_MS,    /* of one step */
    RT_BENCH_STEP_WEIGHTS, /* bytes that one decode step reads */
    RT_BENCH_STEP_KV,
    RT_BENCH_GB_S, /* both, in decode */
    RT_BENCH_BANDWIDTH_PCT,
    RT_BENCH_MEMORY, /* bytes of KV pages and work buffers */
    RT_BENCH_USED,   /* bytes of device memory in use; on the host the peak of the process */
    RT_BENCH_COLS
} rt_bench_col;

typedef struct rt_bench_row {
    double v[RT_BENCH_COLS]; /* NAN: not measured; numbers of tokens and bytes are exact */
    char error[Q_ERR_MSG];   /* "" or why nothing was measured */
} rt_bench_row;

typedef struct rt_bench_costs {
    uint64_t step_weights; /* bytes that one decode step reads, whatever the batch */
    uint64_t kv_token;     /* bytes of one token in the KV cache, all layers */
    uint64_t memory;       /* rt_engine_bytes */
    uint64_t used;         /* rt_bench_used_bytes after the runs */
    double bandwidth;      /* bytes per second */
    double token_flop;     /* rt_bench_token_flop */
    double peak;           /* operations per second, 0: not known */
} rt_bench_costs;

/* Times are medians over the runs, which did the same work; rates follow from them.
 * 1 <= n_run <= RT_BENCH_MAX_RUNS. */
#define RT_BENCH_MAX_RUNS 100
void rt_bench_fill(rt_bench_row *row, int batch, const rt_bench_run *run, size_t n_run,
                   const rt_bench_costs *costs);
/* A row with an error: nothing but the batch and the memory it would take.  error is copied. */
void rt_bench_fill_error(rt_bench_row *row, int batch, uint64_t memory, const char *error);

typedef enum rt_bench_form {
    RT_BENCH_TABLE,
    RT_BENCH_MARKDOWN, /* the same columns */
    RT_BENCH_CSV,
    RT_BENCH_JSON
} rt_bench_form;

/* What was measured, and where.  Texts are borrowed until the report is freed. */
typedef struct rt_bench_info {
    const char *model, *scheme, *head, *kv_cache; /* head: scheme of the output layer */
    const char *dataset;                          /* NULL: random prompts */
    size_t n_prompts;                             /* of the dataset */
    int64_t n_in, n_new; /* tokens of each prompt, answer; 0: as they come */
    int threads, runs;
    uint64_t seed, model_bytes;
    double bandwidth, load_s; /* bytes per second */
} rt_bench_info;

/* Zeroes *info and fills what the session knows: schemes, threads, model_bytes, load_s. */
void rt_bench_describe(rt_bench_info *info, const rt_session *s);

typedef struct rt_bench_report {
    rt_bench_form form;
    const rt_bench_info *info;
    q_buf text;  /* complete lines to print; whoever prints them clears it */
    q_buf front; /* CSV: the fields of info */
    fmt_json *doc, *results;
} rt_bench_report;

/* begin, any number of rows, end.  The table (for people: decimal MB and GB) and CSV have lines
 * after every call, JSON one object after end.  Errors: Q_ENOMEM, Q_EFORMAT (a name that is not
 * UTF-8, JSON only). */
q_status rt_bench_report_begin(rt_bench_report *r, rt_bench_form form, const rt_bench_info *info,
                               q_err *err);
q_status rt_bench_report_row(rt_bench_report *r, const rt_bench_row *row, q_err *err);
q_status rt_bench_report_end(rt_bench_report *r, q_err *err);
void rt_bench_report_free(rt_bench_report *r); /* a zeroed one is fine */

#endif
