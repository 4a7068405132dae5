/* Options of qwen-convert.  Those of calibration have the names that the reference's converter has.
 */
#include "convert/convert_cli.h"

#include <stdio.h>
#include <string.h>

#include "formats/json_cli.h"

enum { KEY_DRY_RUN = 0x100, KEY_STRICT, KEY_VERIFY, KEY_SMOOTH, KEY_KV, KEY_TO, KEY_COMPRESS };

static const struct argp_option options[] = {
    { "input", 'i', "MODEL", 0,
      "Model to read: a Hugging Face directory, an FT directory, or an archive (.h5)", 0 },
    { "output", 'o', "PATH", 0,
      "Directory that gets <N>-gpu (made when it is not there); with --to what is written", 0 },
    { "to", KEY_TO, "CONTAINER", 0,
      "ft (default); of a model with int4 or int8 groups: h5, hf-gptq, hf-awq, hf-ct", 0 },
    { "compress", KEY_COMPRESS, 0, 0,
      "With --to h5: compress the archive, a few percent smaller, slower to write and to load", 0 },
    { "smoothquant", KEY_SMOOTH, "A", 0,
      "Smooth by A (0 to 1, 0.5 is usual; auto: what suits each linear best) and add int8 weights",
      0 },
    { "calibrate-kv-cache", KEY_KV, 0, 0, "Add the scales of an int8 key/value cache", 0 },
    { "dry-run", KEY_DRY_RUN, 0, 0, "Print the plan and write nothing", 0 },
    { "force", 'f', 0, 0, "Replace an existing output", 0 },
    { "strict", KEY_STRICT, 0, 0, "Fail on values outside the range of TYPE, NaN, infinity", 0 },
    { "verify", KEY_VERIFY, "PATH", 0,
      "Check a directory (out/1-gpu, say) against its manifest.json, or an archive", 0 },
    { 0 },
};

void cvt_cli_init(cvt_cli_opts *o)
{
    *o = (cvt_cli_opts){ 0 };
}

static cvt_to to_of(struct argp_state *state, const char *arg)
{
    static const char *const names[] = { "ft", "h5", "hf-gptq", "hf-awq", "hf-ct" };

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(arg, names[i]) == 0)
            return (cvt_to)i;
    q_cli_bad(state, "--to", arg, "ft, h5, hf-gptq, hf-awq or hf-ct");
    return CVT_TO_FT;
}

static void check_args(const cvt_cli_opts *o, struct argp_state *state)
{
    const int no_input = !o->input || !*o->input;

    if (o->verify && (o->input || o->output || o->dry_run || o->smooth || o->kv_scales))
        argp_error(state, "--verify stands alone");
    if (o->to != CVT_TO_FT && (o->ft.given || o->smooth || o->kv_scales || o->dry_run || o->strict))
        argp_error(state, "--to h5, hf-gptq, hf-awq and hf-ct move codes as they are: they take "
                          "--input, --output and --force only, h5 --compress too");
    if (o->compress && o->to != CVT_TO_H5)
        argp_error(state, "--compress is for archives: --to h5");
    if (!o->verify && (no_input || ((!o->output || !*o->output) && !o->dry_run)))
        argp_error(state, "--%s is missing", no_input ? "input" : "output");
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    cvt_cli_opts *o = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->ft;
        return 0;
    case 'i':
        o->input = arg;
        return 0;
    case 'o':
        o->output = arg;
        return 0;
    case 'f':
        o->force = 1;
        return 0;
    case KEY_TO:
        o->to = to_of(state, arg);
        return 0;
    case KEY_COMPRESS:
        o->compress = 1;
        return 0;
    case KEY_SMOOTH:
        o->alpha = strcmp(arg, "auto") == 0 ? CVT_ALPHA_AUTO
                                            : q_cli_real(state, "--smoothquant", arg, 0, 1);
        o->smooth = 1;
        return 0;
    case KEY_KV:
        o->kv_scales = 1;
        return 0;
    case KEY_DRY_RUN:
        o->dry_run = 1;
        return 0;
    case KEY_STRICT:
        o->strict = 1;
        return 0;
    case KEY_VERIFY:
        o->verify = arg;
        return 0;
    case ARGP_KEY_END:
        check_args(o, state);
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = { { &fmt_ft_argp, 0, NULL, 0 }, { 0 } };
const struct argp cvt_argp = { .options = options, .parser = parse, .children = children };

q_status cvt_cli_print_plan(const cvt_plan *p, const fmt_json *calibration, int json, q_err *err)
{
    q_status st = Q_OK;
    q_buf text = { 0 };
    fmt_json *v = NULL;

    if (json) {
        Q_TRY(fmt_json_new(&v, err));
        Q_TRY(cvt_plan_json(v, p, err));
        if (calibration)
            Q_TRY(fmt_json_put_copy(v, "calibration", calibration, err));
        Q_TRY(fmt_json_cli_line(v, err));
    } else {
        Q_TRY(cvt_plan_text(&text, p, err));
        fputs(text.data, stdout);
    }
out:
    q_buf_free(&text);
    fmt_json_free(v);
    return st;
}
