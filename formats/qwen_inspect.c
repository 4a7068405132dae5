/* qwen-inspect: what a model is, from its headers alone: nothing of the weights is read, unless
 * --verify asks for every byte. */
#include <stdio.h>

#include "convert/rewrite_cli.h"
#include "formats/base/q_cli.h"
#include "formats/describe.h"
#include "formats/json_cli.h"
#include "formats/text/chat_detect.h"

enum { KEY_TENSORS = 0x100, KEY_VERIFY };

static struct opts {
    q_cli cli;
    const char *model;
    int tensors, verify;
} o;

static const struct argp_option options[] = {
    { "tensors", KEY_TENSORS, 0, 0, "List every tensor: role, layer, type, shape, where it is", 0 },
    { "verify", KEY_VERIFY, 0, 0,
      "Check every byte: an archive, or an FT directory against its manifest.json", 0 },
    { 0 },
};

static const char doc[] =
    "Say what a model is: family, sizes, types, what a decode step reads, and which "
    "commands apply to it."
    "\v"
    "Examples:\n"
    "  qwen-inspect Qwen2.5-7B-Instruct\n"
    "  qwen-inspect ft/1-gpu --tensors | less\n"
    "  qwen-inspect Qwen3-8B --json\n"
    "  qwen-inspect q7.h5 --verify\n\n"
    "MODEL is a Hugging Face directory, an FT directory or an archive (.h5).  Only headers are "
    "read, but for --verify.\n\n"
    "Exit codes: 0 done, 64 usage, 65 bad data, 66 input missing, 71 memory, 74 read failed, 77 "
    "permission, 78 not supported.";

static error_t parse(int key, char *arg, struct argp_state *state)
{
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o.cli;
        return 0;
    case KEY_TENSORS:
        o.tensors = 1;
        return 0;
    case KEY_VERIFY:
        o.verify = 1;
        return 0;
    case ARGP_KEY_ARG:
        if (o.model)
            argp_error(state, "unexpected argument '%s'", arg);
        o.model = arg;
        return 0;
    case ARGP_KEY_END:
        if (!o.model)
            argp_error(state, "no model given");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = { options, parse, "MODEL", doc, q_cli_children, NULL, NULL };

/* Commands that take this model as it is. */
static const struct {
    const char *command;
    int needs_text, needs_float;
} commands[] = { { "qwen-convert", 0, 0 },    { "qwen-gptq", 1, 1 },
                 { "qwen-awq", 1, 1 },        { "qwen-calibrate-kv", 1, 0 },
                 { "qwen-run", 0, 0 },        { "qwen-summarize", 1, 0 },
                 { "qwen-perplexity", 1, 0 }, { "qwen-benchmark", 0, 0 } };
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static int applies(size_t command, const fmt_src *s, const txt_tok *tok)
{
    return (tok || !commands[command].needs_text) &&
           (!fmt_src_packing(s) || !commands[command].needs_float);
}

/* The chat format that the files of the model name, or "unknown". */
static const char *chat_name(const fmt_src *s)
{
    const txt_chat_files files = { .files = fmt_src_files(s),
                                   .chat_format = fmt_src_gen(s)->chat_format,
                                   .config = fmt_src_config(s) };
    txt_chat_format f;

    return txt_chat_detect(&f, &files, NULL) == Q_OK ? txt_chat_format_name(f) : "unknown";
}

static q_status print_json(const fmt_src *s, const txt_tok *tok, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *v = NULL, *list;

    Q_TRY(fmt_json_new(&v, err));
    Q_TRY(fmt_describe_json(v, s, err));
    if (tok)
        Q_TRY(fmt_json_put_int(v, "tokens", txt_vocab_size(tok), err));
    else
        Q_TRY(fmt_json_put_null(v, "tokens", err));
    Q_TRY(fmt_json_put_str(v, "chat_format", chat_name(s), err));
    Q_TRY(fmt_json_put_arr(&list, v, "commands", err));
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (applies(i, s, tok))
            Q_TRY(fmt_json_put_str(list, NULL, commands[i].command, err));
    if (o.tensors) {
        Q_TRY(fmt_json_put_arr(&list, v, "tensors", err));
        Q_TRY(fmt_tensors_json(list, s, err));
    }
    Q_TRY(fmt_json_cli_line(v, err));
out:
    fmt_json_free(v);
    return st;
}

/* no_tok: why there is no tokenizer */
static q_status print_text(const fmt_src *s, const txt_tok *tok, const char *no_tok, q_err *err)
{
    q_status st = Q_OK;
    q_buf text = { 0 };

    Q_TRY(fmt_describe_text(&text, s, err));
    if (tok)
        Q_TRY(q_buf_printf(&text, err, "  tokenizer   %d tokens, chat format %s\n",
                           txt_vocab_size(tok), chat_name(s)));
    else
        Q_TRY(q_buf_printf(&text, err, "  tokenizer   none: %s\n", no_tok));
    Q_TRY(q_buf_puts(&text, "  commands   ", err));
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (applies(i, s, tok))
            Q_TRY(q_buf_printf(&text, err, " %s", commands[i].command));
    Q_TRY(q_buf_puts(&text, "\n", err));
    if (o.tensors)
        Q_TRY(fmt_tensors_text(&text, s, err));
    fputs(text.data, stdout);
out:
    q_buf_free(&text);
    return st;
}

static q_status run(q_err *err)
{
    q_status st = Q_OK;
    fmt_src *s = NULL;
    txt_tok *tok = NULL;
    q_err no_tok = { 0 };
    fmt_files files;

    Q_TRY(fmt_src_open(&s, o.model, err));
    files = fmt_src_files(s);
    if (txt_tok_open_files(&tok, &files, &no_tok) == Q_ENOMEM)
        Q_FAIL(err, Q_ENOMEM, "%s", no_tok.msg);
    if (o.cli.json)
        Q_TRY(print_json(s, tok, err));
    else
        Q_TRY(print_text(s, tok, no_tok.msg, err));
out:
    txt_tok_close(tok);
    fmt_src_close(s);
    return st;
}

int main(int argc, char **argv)
{
    q_err err = { 0 };
    q_status st = q_cli_parse(&o.cli, &argp, argc, argv, &o, &err);

    if (st == Q_OK)
        st = o.verify ? cvt_verify_cli(o.model, &o.cli, NULL, &err) : run(&err);
    return q_cli_exit(&o.cli, st, &err);
}
