/* qwen-run: text or tokens in, the model's continuation out. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_cli.h"
#include "formats/base/q_file.h"
#include "formats/npy.h"
#include "formats/text/stream.h"
#include "runtime/model_cli.h"
#include "runtime/prompts.h"
#include "runtime/result.h"

typedef struct opts {
    q_cli cli;
    rt_session_opts session;
    rt_prompt_opts prompt;
    int64_t max_new, dump_positions;
    const char *dump;
    int force;
} opts;

typedef struct job {
    rt_session *s;
    const opts *o;
    txt_stream text;
    float *dump; /* [n_dump, vocab] */
    int64_t dump_from, n_dump;
} job;

enum { KEY_TEXT = 0x600, KEY_CHAT, KEY_SYSTEM, KEY_TOKENS, KEY_MAX, KEY_DUMP, KEY_ROWS, KEY_FORCE };

static const struct argp_option options[] = {
    { "input-text", KEY_TEXT, "TEXT", 0, "Continue TEXT; special tokens in it are recognised", 1 },
    { "chat", KEY_CHAT, "TEXT", 0, "Answer TEXT as the user's turn of a chat", 1 },
    { "system", KEY_SYSTEM, "TEXT", 0, "System prompt of --chat", 1 },
    { "input-tokens", KEY_TOKENS, "FILE", 0,
      "Continue token ids: a line of comma-separated ids per request, or .npy", 1 },
    { "max-new-tokens", KEY_MAX, "N", 0, "Stop after N tokens (default 200)", 1 },
    { "dump-logits", KEY_DUMP, "FILE.npy", 0, "Write logits of the prompt, float32 [K, vocab]", 3 },
    { "dump-positions", KEY_ROWS, "K", 0, "... of its last K positions (default 1)", 3 },
    { "force", KEY_FORCE, 0, 0, "Overwrite FILE.npy", 3 },
    { 0 },
};

static const char doc[] =
    "Run a Qwen checkpoint on a prompt.\v"
    "Examples:\n"
    "  qwen-run -m datasets/qwen-tiny --chat \"$(cat abstract.txt)\" --greedy\n"
    "  qwen-run -m out/1-gpu --input-text 'Once upon a time' --seed 7\n"
    "  qwen-run -m out/1-gpu --weight-only int4 --input-tokens prompts.csv --json\n"
    "  qwen-run -m int4.h5 --kv-cache int8 --chat 'Hello'\n\n"
    "The text goes to standard output as it is made; with --json one object per request: "
    "prompt_tokens, ids, text, finish (stop or length), prefill and decode tokens/s.\n\n"
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
    case KEY_TEXT:
        o->prompt.text = arg;
        return 0;
    case KEY_CHAT:
        o->prompt.chat = arg;
        return 0;
    case KEY_SYSTEM:
        o->prompt.system = arg;
        return 0;
    case KEY_TOKENS:
        o->prompt.tokens = arg;
        return 0;
    case KEY_MAX:
        o->max_new = q_cli_int(state, "--max-new-tokens", arg, 0, INT32_MAX);
        return 0;
    case KEY_DUMP:
        o->dump = arg;
        return 0;
    case KEY_ROWS:
        o->dump_positions = q_cli_int(state, "--dump-positions", arg, 1, INT32_MAX);
        return 0;
    case KEY_FORCE:
        o->force = 1;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", arg);
        return 0;
    case ARGP_KEY_END:
        if (!!o->prompt.text + !!o->prompt.chat + !!o->prompt.tokens != 1)
            argp_error(state, "give one of --input-text, --chat and --input-tokens");
        if (o->prompt.system && !o->prompt.chat)
            argp_error(state, "--system goes with --chat");
        if (o->dump_positions && !o->dump)
            argp_error(state, "--dump-positions goes with --dump-logits");
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

static q_status print_token(void *user, rt_seq *seq, int32_t id, q_err *err)
{
    job *j = user;
    const char *text;
    size_t n = 0;
    q_status st = txt_stream_push(&j->text, id, &text, &n, err);

    (void)seq;
    if (n > 0) {
        fwrite(text, 1, n, stdout);
        fflush(stdout);
    }
    return st;
}

static q_status end_text(job *j, q_err *err)
{
    const char *text;
    size_t n = 0;
    q_status st = txt_stream_end(&j->text, &text, &n, err);

    if (n > 0)
        fwrite(text, 1, n, stdout);
    putchar('\n');
    return st;
}

static q_status keep_logits(void *user, rt_seq *seq, int64_t pos, int64_t n, const float *logits,
                            q_err *err)
{
    job *j = user;
    const int64_t vocab = j->s->desc.vocab, at = pos - j->dump_from;

    (void)seq, (void)err;
    if (at < j->n_dump) /* later rows belong to sampled tokens */
        memcpy(j->dump + at * vocab, logits,
               (size_t)((n < j->n_dump - at ? n : j->n_dump - at) * vocab) * sizeof *logits);
    return Q_OK;
}

static q_status run_one(job *j, const int32_t *ids, size_t n_ids, q_err *err)
{
    q_status st = Q_OK;
    const opts *o = j->o;
    rt_session *s = j->s;
    rt_engine *e = NULL;
    rt_seq *seq = NULL;
    q_buf line = { 0 };
    rt_seq_opts so = { .ids = ids,
                       .n_ids = n_ids,
                       .max_new = o->max_new,
                       .sampling = s->sampling,
                       .stop = s->stop.v,
                       .n_stop = s->stop.n,
                       .user = j };
    const int64_t left = s->desc.max_ctx - (int64_t)n_ids;

    if (left >= 0 && so.max_new > left)
        so.max_new = left;
    if (o->dump) {
        const int64_t want = o->dump_positions ? o->dump_positions : 1;

        j->n_dump = want < (int64_t)n_ids ? want : (int64_t)n_ids;
        j->dump_from = so.logits_from = (int64_t)n_ids - j->n_dump;
        so.on_logits = keep_logits;
        if (!(j->dump = q_malloc((size_t)(j->n_dump * s->desc.vocab) * sizeof *j->dump)))
            Q_FAIL(err, Q_ENOMEM, "no memory for %lld rows of logits", (long long)j->n_dump);
    }
    if (!o->cli.json && s->tok)
        so.on_token = print_token;
    Q_TRY(rt_session_engine(&e, s, 1, (int64_t)n_ids + so.max_new, err));
    Q_TRY(rt_engine_add(e, &seq, &so, err));
    Q_TRY(rt_engine_run(e, err));
    if (o->dump)
        Q_TRY(fmt_npy_write_f32(o->dump, o->force, j->dump, j->n_dump, s->desc.vocab, err));
    if (o->cli.json) {
        Q_TRY(rt_result_json(&line, j->s, e, seq, err));
        puts(line.data);
    }
    if (!o->cli.json && so.max_new > 0)
        Q_TRY(end_text(j, err));
out:
    q_buf_free(&line);
    q_free(j->dump);
    j->dump = NULL;
    rt_seq_close(seq);
    rt_engine_close(e);
    return st;
}

static q_status run(opts *o, q_err *err)
{
    q_status st = Q_OK;
    rt_prompts p = { 0 };
    job j = { .o = o };

    if (o->dump) {
        Q_TRY(q_out_check(o->dump, o->force, err));
        Q_TRY(q_out_apart(o->dump, o->session.path, err));
        Q_TRY(q_out_apart(o->dump, o->prompt.tokens, err));
    }
    o->session.threads = o->cli.threads;
    o->session.seed = o->cli.seed;
    o->session.tokenizer_optional = o->prompt.tokens && o->cli.json;
    Q_TRY(rt_session_open(&j.s, &o->session, &o->cli.log, err));
    j.text.tok = j.s->tok;
    Q_TRY(rt_prompts_build(&p, j.s, &o->prompt, err));
    if (o->dump && p.n != 1)
        Q_FAIL(err, Q_EARG, "--dump-logits takes one request, %s holds %zu", o->prompt.tokens, p.n);
    for (size_t i = 0; i < p.n; i++)
        Q_TRY(run_one(&j, p.ids.v + p.start[i], p.start[i + 1] - p.start[i], err));
out:
    rt_prompts_free(&p);
    txt_stream_free(&j.text);
    rt_session_close(j.s);
    return st;
}

int main(int argc, char **argv)
{
    static opts o = { .max_new = 200 };
    q_err err = { 0 };
    q_status st = q_cli_parse(&o.cli, &argp, argc, argv, &o, &err);

    if (st == Q_OK)
        st = run(&o, &err);
    return q_cli_exit(&o.cli, st, &err);
}
