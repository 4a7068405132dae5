/* qwen-perplexity: how well a model predicts a text; with --base, how far it is from another model.
 */
#include <stdio.h>
#include <string.h>

#include "calibrate/ppl_report.h"
#include "datasets/dset.h"
#include "formats/base/q_hash.h"
#include "runtime/model_cli.h"

typedef struct opts {
    q_cli cli;
    rt_session_opts session;
    const char *text, *data, *field, *join, *base, *base_weight_only, *report, *compare;
    int64_t max_samples, window;
    int rows;
} opts;

typedef struct text {
    q_ids ids;
    char hash[65]; /* SHA-256 of the bytes that were tokenized */
} text;

enum {
    KEY_TEXT = 0x600,
    KEY_DATA,
    KEY_FIELD,
    KEY_JOIN,
    KEY_MAX_SAMPLES,
    KEY_WINDOW,
    KEY_BASE,
    KEY_BASE_WO,
    KEY_ROWS,
    KEY_REPORT,
    KEY_COMPARE
};

static const struct argp_option options[] = {
    { "text", KEY_TEXT, "FILE", 0, "Plain text, taken as it is", 1 },
    { "rows", KEY_ROWS, 0, 0, "... cut into its lines, joined by --join (WikiText as published)",
      1 },
    { "data", KEY_DATA, "FILE.jsonl", 0, "Or: one field of JSON Lines, joined", 1 },
    { "field", KEY_FIELD, "NAME", 0, "... which field (default article)", 1 },
    { "join", KEY_JOIN, "TEXT", 0, "... put between two (default \\n\\n; \\n is a line end)", 1 },
    { "max-samples", KEY_MAX_SAMPLES, "N", 0, "... of the first N lines only", 1 },
    { "window", KEY_WINDOW, "N", 0, "Tokens of a window (default 512)", 1 },
    { "base", KEY_BASE, "MODEL", 0, "Compare with this model: KL divergence and top-1 agreement",
      3 },
    { "base-weight-only", KEY_BASE_WO, "TYPE", 0, "... rounded to int8 or int4 while loading", 3 },
    { "report", KEY_REPORT, "FILE.html", 0, "Write tables and charts, and FILE.json", 4 },
    { "compare", KEY_COMPARE, "A.json,B.json", 0, "... with earlier results of --json beside it",
      4 },
    { 0 },
};

static const char doc[] =
    "Print the perplexity of a text under a model.\v"
    "Examples:\n"
    "  qwen-perplexity -m out/1-gpu --text wiki.test.raw --rows --window 2048\n"
    "  qwen-perplexity -m M --weight-only int4 --base M --data samples.jsonl --json\n"
    "  qwen-perplexity -m q7.h5 --base M --text t.txt --report r.html \\\n"
    "                  --compare gptq.json\n\n"
    "Convention of the GPTQ paper: the text is tokenized once without special tokens and cut into "
    "windows that do not overlap; exp(mean NLL) over the N - 1 predictions of each full window. "
    "--json: ppl, tokens, scored, window, kld_mean, kld_median, kld_p99, kld_max, top1 and "
    "more.\n\n"
    "Exit codes: 0 done; 64 usage; 65 bad data; 66 input missing; 69 no such device; 71 memory; 73 "
    "the report exists; 74 read or write failed; 77 permission; 78 not supported.";

static error_t parse(int key, char *arg, struct argp_state *state)
{
    opts *o = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        rt_session_opts_init(&o->session);
        state->child_inputs[0] = &o->session;
        state->child_inputs[1] = &o->cli;
        return 0;
    case KEY_TEXT:
        o->text = arg;
        return 0;
    case KEY_DATA:
        o->data = arg;
        return 0;
    case KEY_FIELD:
        o->field = arg;
        return 0;
    case KEY_JOIN:
        o->join = arg;
        return 0;
    case KEY_MAX_SAMPLES:
        o->max_samples = q_cli_int(state, "--max-samples", arg, 1, INT32_MAX);
        return 0;
    case KEY_ROWS:
        return o->rows = 1, 0;
    case KEY_WINDOW:
        o->window = q_cli_int(state, "--window", arg, 2, 1 << 20);
        return 0;
    case KEY_BASE:
        o->base = arg;
        return 0;
    case KEY_BASE_WO:
        o->base_weight_only = arg;
        return 0;
    case KEY_REPORT:
        o->report = arg;
        return 0;
    case KEY_COMPARE:
        o->compare = arg;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", arg);
        return 0;
    case ARGP_KEY_END:
        if (!o->text == !o->data)
            argp_error(state, "give one of --text and --data");
        if (o->rows && !o->text)
            argp_error(state, "--rows goes with --text");
        if ((o->field || o->max_samples || (o->join && !o->rows)) && !o->data)
            argp_error(state, "--field, --max-samples and --join go with --data");
        if (o->base_weight_only && !o->base)
            argp_error(state, "--base-weight-only goes with --base");
        if (o->compare && !o->report)
            argp_error(state, "--compare goes with --report");
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

/* "\n" and "\t" as a shell passes them on; other backslashes stay. */
static q_status unescape(q_buf *out, const char *s, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(q_buf_puts(out, "", err));
    for (; *s; s++) {
        const char *esc = *s == '\\' && s[1] == 'n'   ? "\n"
                          : *s == '\\' && s[1] == 't' ? "\t"
                                                      : NULL;

        Q_TRY(q_buf_put(out, esc ? esc : s, 1, err));
        s += esc != NULL;
    }
out:
    return st;
}

static q_status read_text(text *t, const opts *o, const txt_tok *tok, q_err *err)
{
    q_status st = Q_OK;
    ds_set *set = NULL;
    q_buf bytes = { 0 }, sep = { 0 };
    q_sha256 h;
    uint8_t digest[32];
    const ds_opts dopts = { .max_samples = o->data ? (size_t)o->max_samples : 0,
                            .field_text = !o->data   ? NULL
                                          : o->field ? o->field
                                                     : "article",
                            .rows = o->rows };

    Q_TRY(ds_open(&set, o->data ? o->data : o->text, &dopts, err));
    Q_TRY(unescape(&sep, o->join ? o->join : "\\n\\n", err));
    Q_TRY(ds_join(set, NULL, sep.data, &bytes, err));
    q_sha256_init(&h);
    q_sha256_update(&h, bytes.data, bytes.size);
    q_sha256_final(&h, digest);
    q_hex(t->hash, digest, 32);
    Q_TRY(txt_encode(tok, bytes.data, bytes.size, 0, &t->ids, err));
out:
    ds_close(set);
    q_buf_free(&bytes);
    q_buf_free(&sep);
    return st;
}

static q_status show(const opts *o, const text *t, const rt_session *s, const cal_ppl_result *r,
                     q_err *err)
{
    q_status st = Q_OK;
    const cal_ppl_about about = { .model = o->session.path,
                                  .scheme = s->model->scheme,
                                  .base = o->base,
                                  .text_sha256 = t->hash,
                                  .window = o->window,
                                  .bytes = s->disk_bytes };
    fmt_json *v = NULL;
    q_buf out = { 0 };

    if (o->report || o->cli.json) {
        Q_TRY(fmt_json_new(&v, err));
        Q_TRY(cal_ppl_json(v, &about, r, err));
    }
    Q_TRY(o->cli.json ? fmt_json_print(&out, v, 0, err) : cal_ppl_text(&out, &about, r, err));
    puts(out.data); /* first: a report that cannot be written does not cost the result */
    if (o->report)
        Q_TRY(cal_ppl_compare(o->report, v, o->compare, err));
out:
    fmt_json_free(v);
    q_buf_free(&out);
    return st;
}

static q_status run(opts *o, q_err *err)
{
    q_status st = Q_OK;
    rt_session *model = NULL, *base = NULL;
    rt_session_opts base_opts;
    text t = { 0 };
    cal_ppl_result r;

    if (o->report)
        Q_TRY(cal_ppl_compare_check(o->report, o->compare, err));
    o->session.threads = o->cli.threads;
    base_opts = o->session;
    base_opts.path = o->base;
    base_opts.weight_only = o->base_weight_only;
    base_opts.tokenizer_optional = 1;
    Q_TRY(rt_session_open(&model, &o->session, &o->cli.log, err));
    Q_TRY(read_text(&t, o, model->tok, err));
    if (o->base)
        Q_TRY(rt_session_open(&base, &base_opts, &o->cli.log, err));
    Q_TRY(cal_ppl_run(&r, model, base, t.ids.v, t.ids.n,
                      &(cal_ppl_opts){ .window = o->window, .log = &o->cli.log }, err));
    Q_TRY(show(o, &t, model, &r, err));
out:
    rt_session_close(model);
    rt_session_close(base);
    q_ids_free(&t.ids);
    return st;
}

int main(int argc, char **argv)
{
    static opts o = { .window = 512 };
    q_err err = { 0 };
    q_status st = q_cli_parse(&o.cli, &argp, argc, argv, &o, &err);

    if (st == Q_OK)
        st = run(&o, &err);
    return q_cli_exit(&o.cli, st, &err);
}
