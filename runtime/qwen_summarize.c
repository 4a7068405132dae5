/* qwen-summarize: summarize every article of a dataset and score the summaries with ROUGE. */
#include <stdio.h>
#include <string.h>

#include "calibrate/eval_rouge.h"
#include "formats/base/q_file.h"
#include "formats/json_cli.h"
#include "runtime/model_cli.h"

typedef struct opts {
    q_cli cli;
    rt_session_opts session;
    const char *data, *output;
    int64_t max_samples;
    cal_rouge_opts eval;
    int force;
} opts;

enum {
    KEY_DATA = 0x600,
    KEY_MAX_SAMPLES,
    KEY_MAX_NEW,
    KEY_MAX_INPUT,
    KEY_BATCH,
    KEY_OUTPUT,
    KEY_STEM,
    KEY_TOKENIZER,
    KEY_FORCE
};

static const struct argp_option options[] = {
    { "data", KEY_DATA, "FILE.jsonl", 0, "Articles and highlights (CNN/DailyMail field names)", 1 },
    { "max-samples", KEY_MAX_SAMPLES, "N", 0, "The first N only (default: all)", 1 },
    { "max-new-tokens", KEY_MAX_NEW, "N", 0, "Tokens of a summary (default 100)", 1 },
    { "max-input-tokens", KEY_MAX_INPUT, "N", 0,
      "Keep the last N tokens of a longer prompt (default 2048)", 1 },
    { "batch", KEY_BATCH, "N", 0, "Articles in flight (default 8)", 1 },
    { "output", KEY_OUTPUT, "FILE.jsonl", 0, "Write id, ids and text of every summary", 1 },
    { "force", KEY_FORCE, 0, 0, "Overwrite FILE.jsonl", 1 },
    { "stemmer", KEY_STEM, 0, 0, "Porter-stem words before comparing (NLTK rules)", 1 },
    { "tokenizer", KEY_TOKENIZER, "NAME", 0,
      "ROUGE words: default, or char-cjk (each Chinese character a word; not comparable)", 1 },
    { 0 },
};

static const char doc[] =
    "Summarize the articles of a dataset and print ROUGE against their highlights.\v"
    "Examples:\n"
    "  qwen-summarize -m datasets/qwen-tiny --data datasets/samples.jsonl --greedy\n"
    "  qwen-summarize -m out/1-gpu --weight-only int8 --data cnn.jsonl --json\n\n"
    "ROUGE is that of the rouge_score package: F measure x 100, plain mean, and the median and 95 "
    "% "
    "interval of 1000 bootstrap samples drawn with --seed. --json: rouge1, rouge2, rougeL, "
    "rougeLsum (means), samples, seconds and the intervals.\n\n"
    "Exit codes: 0 done; 64 usage; 65 bad data; 66 input missing; 69 no such device; 71 memory; 73 "
    "output exists; 74 read or write failed; 77 permission; 78 not supported.";

static error_t parse(int key, char *arg, struct argp_state *state)
{
    opts *o = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        rt_session_opts_init(&o->session);
        state->child_inputs[0] = &o->session;
        state->child_inputs[1] = &o->session.sampling;
        state->child_inputs[2] = &o->cli;
        return 0;
    case KEY_DATA:
        o->data = arg;
        return 0;
    case KEY_MAX_SAMPLES:
        o->max_samples = q_cli_int(state, "--max-samples", arg, 1, INT32_MAX);
        return 0;
    case KEY_MAX_NEW:
        o->eval.max_new = q_cli_int(state, "--max-new-tokens", arg, 1, INT32_MAX);
        return 0;
    case KEY_MAX_INPUT:
        o->eval.max_input = q_cli_int(state, "--max-input-tokens", arg, 1, INT32_MAX);
        return 0;
    case KEY_BATCH:
        o->eval.batch = (int)q_cli_int(state, "--batch", arg, 1, 1024);
        return 0;
    case KEY_OUTPUT:
        o->output = arg;
        return 0;
    case KEY_FORCE:
        o->force = 1;
        return 0;
    case KEY_STEM:
        o->eval.flags |= DS_ROUGE_STEM;
        return 0;
    case KEY_TOKENIZER:
        if (strcmp(arg, "char-cjk") == 0)
            o->eval.flags |= DS_ROUGE_CJK;
        else if (strcmp(arg, "default") != 0)
            q_cli_bad(state, "--tokenizer", arg, "default or char-cjk");
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", arg);
        return 0;
    case ARGP_KEY_END:
        if (!o->data)
            argp_error(state, "no dataset given: use --data FILE.jsonl");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = { { &rt_model_argp, 0, "Model:", 2 },
                                              { &rt_sampling_argp, 0, "Sampling:", 4 },
                                              { &q_cli_argp, 0, "Common options:", 90 },
                                              { 0 } };
static const struct argp argp = {
    .options = options, .parser = parse, .doc = doc, .children = children
};

static q_status print_json(const cal_rouge_result *r, q_err *err)
{
    q_status st = Q_OK;
    const ds_rouge_mean *m = &r->mean;
    fmt_json *out = NULL, *part = NULL;

    Q_TRY(fmt_json_new(&out, err));
    for (int t = 0; t < DS_ROUGE_TYPES; t++)
        Q_TRY(
            fmt_json_put_real(out, ds_rouge_name((ds_rouge_type)t), 100 * m->mean.v[t][DS_F], err));
    Q_TRY(fmt_json_put_int(out, "samples", (int64_t)r->n, err));
    Q_TRY(fmt_json_put_real(out, "seconds", r->seconds, err));
    Q_TRY(fmt_json_put_int(out, "prompt_tokens", r->prompt_tokens, err));
    Q_TRY(fmt_json_put_int(out, "new_tokens", r->new_tokens, err));
    for (int t = 0; t < DS_ROUGE_TYPES; t++) {
        char key[32];

        snprintf(key, sizeof key, "%s_bootstrap", ds_rouge_name((ds_rouge_type)t));
        Q_TRY(fmt_json_put_obj(&part, out, key, err));
        Q_TRY(fmt_json_put_real(part, "low", 100 * m->low.v[t][DS_F], err));
        Q_TRY(fmt_json_put_real(part, "mid", 100 * m->mid.v[t][DS_F], err));
        Q_TRY(fmt_json_put_real(part, "high", 100 * m->high.v[t][DS_F], err));
    }
    Q_TRY(fmt_json_cli_line(out, err));
out:
    fmt_json_free(out);
    return st;
}

static void print_table(const cal_rouge_result *r)
{
    const ds_rouge_mean *m = &r->mean;

    printf("%zu articles, total latency %.2f s, %lld prompt and %lld new tokens\n", r->n,
           r->seconds, (long long)r->prompt_tokens, (long long)r->new_tokens);
    printf("%-10s %8s %8s   %s\n", "", "mean", "median", "95 % interval");
    for (int t = 0; t < DS_ROUGE_TYPES; t++)
        printf("%-10s %8.3f %8.3f   %.3f .. %.3f\n", ds_rouge_name((ds_rouge_type)t),
               100 * m->mean.v[t][DS_F], 100 * m->mid.v[t][DS_F], 100 * m->low.v[t][DS_F],
               100 * m->high.v[t][DS_F]);
}

static q_status run(opts *o, q_err *err)
{
    q_status st = Q_OK;
    rt_session *s = NULL;
    ds_set *set = NULL;
    q_buf lines = { 0 };
    cal_rouge_result r;

    if (o->output) { /* before an hour of work */
        Q_TRY(q_out_check(o->output, o->force, err));
        Q_TRY(q_out_apart(o->output, o->data, err));
        Q_TRY(q_out_apart(o->output, o->session.path, err));
    }
    Q_TRY(ds_open(&set, o->data, &(ds_opts){ .max_samples = (size_t)o->max_samples }, err));
    o->session.threads = o->cli.threads;
    o->session.seed = o->eval.seed = o->cli.seed;
    o->eval.log = &o->cli.log;
    o->eval.lines = o->output ? &lines : NULL;
    Q_TRY(rt_session_open(&s, &o->session, &o->cli.log, err));
    Q_TRY(cal_rouge_run(&r, s, set, &o->eval, err));
    if (o->output)
        Q_TRY(q_out_whole(o->output, o->force, lines.data, lines.size, err));
    if (o->cli.json)
        Q_TRY(print_json(&r, err));
    else
        print_table(&r);
out:
    q_buf_free(&lines);
    rt_session_close(s);
    ds_close(set);
    return st;
}

int main(int argc, char **argv)
{
    static opts o = { .eval = { .max_new = 100, .max_input = 2048, .batch = 8 } };
    q_err err = { 0 };
    q_status st = q_cli_parse(&o.cli, &argp, argc, argv, &o, &err);

    if (st == Q_OK)
        st = run(&o, &err);
    return q_cli_exit(&o.cli, st, &err);
}
