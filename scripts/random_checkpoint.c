/* random-checkpoint: a Hugging Face checkpoint of any shape with random weights, for measurements
 * and for tests that need a size and not a meaning.
 *
 * The tensors are those that formats/family_tables.c wants for the config.json written. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "formats/base/q_cli.h"
#include "formats/base/q_file.h"
#include "formats/base/q_mem.h"
#include "formats/family.h"
#include "formats/hf_dir.h"
#include "scripts/random_configs.h"
#include "scripts/random_weights.h"

#define SPECIALS   208    /* Qwen: ids behind the ranks of the tokenizer file */
#define QWEN_RANKS 151643 /* of the tokenizer that all published sizes share */
#define TOKENIZER  "qwen.tiktoken"
#define CONFIG_MAX ((size_t)4 << 20)

typedef struct opts {
    q_cli cli;
    const char *family;
    const rnd_preset *preset;
    rnd_shape s; /* 0: not given */
    fmt_dtype dtype;
    uint64_t shard_bytes;
    const char *tokenizer, *config_file, *out;
    int force, hollow;
    int64_t group; /* of a GPTQ checkpoint; 0: none */
    q_buf config;  /* text of config.json */
    fmt_model m;   /* what it says */
    long long eos; /* first special id */
} opts;

/* ---- tensors -------------------------------------------------------------------------------- */

static rnd_kind kind_of(const fmt_role_row *r, int bias)
{
    return bias ? RND_BIAS : r->cols == FMT_D_ONE ? RND_NORM : RND_MATRIX;
}

static rnd_tensor *name_tensor(rnd_tensor *t, const fmt_name_row *names, int piece, int64_t layer,
                               const char *suffix)
{
    fmt_name_make(t->name, sizeof t->name, names->tensor[piece], layer, suffix);
    return t;
}

/* What a GPTQ file has in place of a weight [N, K] of int4: their number. */
static size_t packed_tensors(rnd_tensor *t, const fmt_name_row *names, int piece, int64_t layer,
                             int64_t N, int64_t K, int64_t group)
{
    const int64_t G = (K + group - 1) / group;
    const struct {
        const char *suffix;
        rnd_tensor t;
    } all[] = { { ".qweight", { "", RND_CODES, FMT_I32, 2, { K / 8, N } } },
                { ".qzeros", { "", RND_ZEROS, FMT_I32, 2, { G, N / 8 } } },
                { ".scales", { "", RND_SCALE, FMT_F16, 2, { G, N } } },
                { ".g_idx", { "", RND_GROUPS, FMT_I32, 1, { K, 1 } } } };
    const size_t n = sizeof all / sizeof all[0];

    for (size_t i = 0; i < n; i++) {
        t[i] = all[i].t;
        name_tensor(&t[i], names, piece, layer, all[i].suffix);
    }
    return n;
}

/* The tensors of one role in one layer; their number. */
static size_t role_tensors(rnd_tensor *t, const fmt_name_row *names, int64_t layer, const opts *o)
{
    const fmt_role_row *r = fmt_role_get(names->role);
    size_t n = 0;

    for (int p = 0; p < FMT_MAX_PIECES && names->tensor[p]; p++) {
        const int64_t cols = fmt_dim_size(r->cols, &o->m);
        const int64_t rows =
            names->tensor[1] ? fmt_dim_size(r->piece[p].rows, &o->m) : fmt_role_rows(r, &o->m);

        for (int bias = 0; bias <= names->bias; bias++) {
            rnd_tensor *x = &t[n];

            if (o->group && r->quant && !bias) {
                n += packed_tensors(x, names, p, layer, rows, cols, o->group);
                continue;
            }
            name_tensor(x, names, p, layer, bias ? ".bias" : ".weight");
            x->kind = kind_of(r, bias);
            x->dtype = o->dtype;
            x->ndim = bias || r->cols == FMT_D_ONE ? 1 : 2;
            x->shape[0] = rows;
            x->shape[1] = x->ndim == 1 ? 1 : cols;
            n++;
        }
    }
    return n;
}

/* All tensors, a layer after the other.  *tensors is owned by the caller. */
static q_status list_tensors(rnd_tensor **tensors, size_t *n, const opts *o, q_err *err)
{
    const fmt_family *f = o->m.family;
    rnd_tensor *t =
        q_calloc(5 * FMT_MAX_PIECES * FMT_MAX_NAMES * (size_t)(o->m.layers + 1), sizeof *t);
    size_t k = 0;

    if (!t)
        return q_fail(err, Q_ENOMEM, "no memory for the list of tensors");
    for (int64_t layer = -1; layer < o->m.layers; layer++) /* -1: those that stand once */
        for (int i = 0; i < FMT_MAX_NAMES && f->names[i].tensor[0]; i++) {
            const fmt_name_row *names = &f->names[i];

            if (fmt_role_get(names->role)->per_layer == (layer >= 0) &&
                !(names->role == FMT_LM_HEAD && o->m.tied))
                k += role_tensors(t + k, names, layer < 0 ? 0 : layer, o);
        }
    *tensors = t;
    *n = k;
    return Q_OK;
}

/* ---- the other files ------------------------------------------------------------------------ */

static q_status put(const opts *o, const char *name, const q_buf *text, q_err *err)
{
    char *path = q_path_join(o->out, name);
    q_status st = path ? q_out_whole(path, o->force, text->data, text->size, err)
                       : q_fail(err, Q_ENOMEM, "%s: no memory", o->out);

    q_free(path);
    return st;
}

static q_status make_config(opts *o, q_err *err)
{
    q_status st = Q_OK;
    const char *name = o->config_file ? o->config_file : "config.json";
    fmt_json *doc = NULL;

    if (o->config_file)
        Q_TRY(q_file_slurp(&o->config, o->config_file, CONFIG_MAX, err));
    else
        Q_TRY(rnd_config_text(&o->config, o->family, &o->s, o->dtype, o->group, err));
    Q_TRY(fmt_json_parse(&doc, o->config.data, o->config.size, name, err));
    Q_TRY(fmt_model_parse(&o->m, doc, name, err));
out:
    fmt_json_free(doc);
    return st;
}

static q_status write_configs(const opts *o, q_err *err)
{
    q_status st = Q_OK;
    const int qwen = strcmp(o->m.family->model_type, "qwen") == 0;
    q_buf text = { 0 };

    Q_TRY(put(o, "config.json", &o->config, err));
    Q_TRY(q_buf_printf(&text, err,
                       "{\n%s"
                       "  \"do_sample\": true,\n"
                       "  \"eos_token_id\": %lld,\n"
                       "  \"pad_token_id\": %lld,\n"
                       "  \"top_k\": 0,\n"
                       "  \"top_p\": 0.8\n"
                       "}\n",
                       qwen ? "  \"chat_format\": \"chatml\",\n" : "", o->eos, o->eos));
    Q_TRY(put(o, "generation_config.json", &text, err));
out:
    q_buf_free(&text);
    return st;
}

/* The tokenizer, read before the work.  Its line count is the first special id. */
static q_status read_tokenizer(q_buf *text, opts *o, q_err *err)
{
    q_status st = Q_OK;
    long long ranks = 0;

    o->eos = o->m.vocab > SPECIALS ? o->m.vocab - SPECIALS : 0;
    if (o->eos > QWEN_RANKS)
        o->eos = QWEN_RANKS;
    if (!o->tokenizer)
        return Q_OK;
    Q_TRY(q_file_slurp(text, o->tokenizer, (size_t)64 << 20, err));
    for (const char *p = text->data, *end; (end = strchr(p, '\n')); p = end + 1)
        ranks += end > p; /* a line each, the last one ends with LF too */
    if (ranks == 0 || ranks + SPECIALS > o->m.vocab)
        Q_FAIL(err, Q_EARG, "%s: %lld lines and %d special ids do not fit --vocab %lld",
               o->tokenizer, ranks, SPECIALS, (long long)o->m.vocab);
    o->eos = ranks;
out:
    return st;
}

/* ---- program -------------------------------------------------------------------------------- */

static q_status declare_all(fmt_hf_writer *w, const opts *o, const rnd_tensor *tensors, size_t n,
                            uint64_t *total, q_err *err)
{
    q_status st = Q_OK;
    uint64_t bytes, room;

    *total = 0;
    for (size_t i = 0; i < n; i++) {
        const rnd_tensor *t = &tensors[i];

        Q_TRY(fmt_hf_declare(w, t->name, t->dtype, t->ndim, t->shape, err));
        Q_TRY(fmt_st_size(&bytes, t->name, t->dtype, t->ndim, t->shape, err));
        *total += bytes;
    }
    Q_TRY(q_disk_free(o->out, &room, err));
    if (!o->hollow && *total > room)
        Q_FAIL(err, Q_EIO, "%s: needs %.1f GB, %.1f GB are free", o->out, (double)*total * 1e-9,
               (double)room * 1e-9);
out:
    return st;
}

static q_status run(opts *o, q_err *err)
{
    q_status st = Q_OK;
    const double start = q_now();
    fmt_hf_writer *w = NULL;
    q_buf tokenizer = { 0 };
    rnd_tensor *tensors = NULL;
    uint64_t total = 0;
    size_t n = 0;

    Q_TRY(make_config(o, err));
    Q_TRY(read_tokenizer(&tokenizer, o, err));
    Q_TRY(list_tensors(&tensors, &n, o, err));
    Q_TRY(fmt_hf_create(&w, o->out, o->shard_bytes, o->force, err));
    Q_TRY(declare_all(w, o, tensors, n, &total, err));
    Q_TRY(write_configs(o, err)); /* the weights come last: without them it is no checkpoint */
    if (o->tokenizer)
        Q_TRY(put(o, TOKENIZER, &tokenizer, err));
    else
        q_log_info(&o->cli.log, "no tokenizer written: --tokenizer FILE copies one in");
    if (o->hollow)
        Q_TRY(fmt_hf_write(w, NULL, (size_t)total, err));
    else
        Q_TRY(rnd_write(w, &(rnd_opts){ o->cli.seed, o->group, &o->cli.log }, tensors, n, err));
    Q_TRY(fmt_hf_commit(w, err));
    if (o->cli.json)
        printf("{\"tensors\": %zu, \"bytes\": %llu, \"seconds\": %.3f}\n", n,
               (unsigned long long)total, q_now() - start);
    else
        q_log_info(&o->cli.log, "%s: %zu tensors, %.2f GB in %.1f s", o->out, n,
                   (double)total * 1e-9, q_now() - start);
out:
    fmt_hf_writer_close(w);
    q_buf_free(&tokenizer);
    q_buf_free(&o->config);
    q_free(tensors);
    return st;
}

enum { KEY_FAMILY = 1, KEY_PRESET, KEY_CONFIG, KEY_SHARD, KEY_TOK, KEY_HOLLOW, KEY_GPTQ, KEY_SIZE };

/* sizes given as numbers, by key KEY_SIZE + row */
static const struct {
    const char *option;
    size_t offset;
    int64_t max;
} sizes[] = {
    { "--hidden", offsetof(rnd_shape, hid), 1 << 20 },
    { "--layers", offsetof(rnd_shape, layers), 1000 },
    { "--heads", offsetof(rnd_shape, n_head), 1 << 14 },
    { "--kv-heads", offsetof(rnd_shape, n_kv), 1 << 14 },
    { "--head-dim", offsetof(rnd_shape, hd), 1 << 12 },
    { "--ffn", offsetof(rnd_shape, ffn), 1 << 22 },
    { "--vocab", offsetof(rnd_shape, vocab), 1 << 24 },
};
enum { N_SIZES = sizeof sizes / sizeof sizes[0] };

static long long *size_at(rnd_shape *s, size_t i)
{
    return (long long *)(void *)((char *)s + sizes[i].offset);
}

static const struct argp_option options[] = {
    { "family", KEY_FAMILY, "NAME", 0, "Architecture: qwen (default), qwen2, qwen3 or chatglm", 1 },
    { "preset", KEY_PRESET, "NAME", 0,
      "All sizes of a published model, such as qwen-7b, qwen2.5-7b, qwen3-8b or chatglm3-6b; size "
      "options change single ones.  An unknown NAME lists them all",
      1 },
    { "config", KEY_CONFIG, "FILE", 0, "All sizes from a config.json, which is copied", 1 },
    { "hidden", KEY_SIZE, "N", 0, "Hidden width", 2 },
    { "layers", KEY_SIZE + 1, "N", 0, "Layers", 2 },
    { "heads", KEY_SIZE + 2, "N", 0, "Attention heads", 2 },
    { "kv-heads", KEY_SIZE + 3, "N", 0, "Key and value heads (default: --heads)", 2 },
    { "head-dim", KEY_SIZE + 4, "N", 0, "Width of a head (default: --hidden / --heads)", 2 },
    { "ffn", KEY_SIZE + 5, "N", 0, "Width of one MLP branch", 2 },
    { "vocab", KEY_SIZE + 6, "N", 0, "Rows of the embedding", 2 },
    { "dtype", 't', "TYPE", 0, "float16 (default), bfloat16 or float32", 3 },
    { "gptq", KEY_GPTQ, "GROUP", 0,
      "Linears as int4 in groups of GROUP columns, the way GPTQ checkpoints hold them", 3 },
    { "shard-size", KEY_SHARD, "SIZE", 0, "Largest shard (default 4GiB)", 3 },
    { "tokenizer", KEY_TOK, "FILE", 0, "Copied in as " TOKENIZER, 3 },
    { "hollow", KEY_HOLLOW, 0, 0,
      "All weights zero, as holes that take no room on the disk: for --dry-run of true sizes", 3 },
    { "output", 'o', "DIR", 0, "Directory to write", 3 },
    { "force", 'f', 0, 0, "Overwrite what is there", 3 },
    { 0 },
};

static void set_family(opts *o, const struct argp_state *state, const char *name)
{
    if (!rnd_family_known(name))
        q_cli_bad(state, "--family", name, "qwen, qwen2, qwen3 or chatglm");
    o->family = name;
}

static void set_preset(opts *o, const struct argp_state *state, const char *name)
{
    char known[1024] = "";

    if ((o->preset = rnd_preset_find(name)))
        return;
    for (size_t i = 0; rnd_preset_names(i); i++)
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "",
                 rnd_preset_names(i));
    q_cli_bad(state, "--preset", name, known);
}

/* Preset below, given sizes above, the rest derived. */
static void finish(opts *o, const struct argp_state *state)
{
    rnd_shape s = { .rope_base = 10000, .ctx = 8192 };

    if (!o->out)
        argp_error(state, "--output is missing");
    if (o->group && (o->config_file || o->hollow))
        argp_error(state, "--gptq goes with neither --config nor --hollow");
    if (o->config_file)
        return;
    if (o->preset) {
        s = o->preset->s;
        o->family = o->preset->family;
    }
    if (!o->family)
        o->family = "qwen";
    if (o->s.n_head || o->s.hid) /* derived again */
        s.n_kv = s.hd = 0;
    for (size_t i = 0; i < N_SIZES; i++)
        if (*size_at(&o->s, i))
            *size_at(&s, i) = *size_at(&o->s, i);
    if (!s.n_kv)
        s.n_kv = s.n_head;
    if (!s.hd && s.n_head && s.hid % s.n_head == 0)
        s.hd = s.hid / s.n_head;
    for (size_t i = 0; i < N_SIZES; i++)
        if (!*size_at(&s, i))
            argp_error(state, "%s is missing, and no --preset gives it", sizes[i].option);
    if (o->group && (s.hid % 8 || s.ffn % 8 || s.n_kv * s.hd % 8 || s.n_head * s.hd % 8))
        argp_error(state, "--gptq: widths must be multiples of 8, the codes of a word");
    o->s = s;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    opts *o = state->input;

    if (key >= KEY_SIZE && key < KEY_SIZE + N_SIZES) {
        const size_t i = (size_t)(key - KEY_SIZE);

        *size_at(&o->s, i) = q_cli_int(state, sizes[i].option, arg, 1, sizes[i].max);
        return 0;
    }
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->cli;
        return 0;
    case KEY_FAMILY:
        set_family(o, state, arg);
        return 0;
    case KEY_PRESET:
        set_preset(o, state, arg);
        return 0;
    case KEY_CONFIG:
        o->config_file = arg;
        return 0;
    case KEY_HOLLOW:
        o->hollow = 1;
        return 0;
    case KEY_GPTQ:
        o->group = q_cli_int(state, "--gptq", arg, 8, 1 << 20);
        return 0;
    case 't':
        if (!fmt_dtype_from_name(arg, &o->dtype) || !fmt_dtype_is_float(o->dtype))
            q_cli_bad(state, "--dtype", arg, "float16, bfloat16 or float32");
        return 0;
    case KEY_SHARD:
        o->shard_bytes = q_cli_size(state, "--shard-size", arg);
        return 0;
    case KEY_TOK:
        o->tokenizer = arg;
        return 0;
    case 'o':
        o->out = arg;
        return 0;
    case 'f':
        o->force = 1;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "'%s': no argument was expected", arg);
        return 0;
    case ARGP_KEY_END:
        finish(o, state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int main(int argc, char **argv)
{
    static opts o = { .dtype = FMT_F16, .shard_bytes = (uint64_t)4 << 30 };
    static const struct argp argp = { options,
                                      parse,
                                      NULL,
                                      "Write a checkpoint with random weights.  The same options "
                                      "and --seed give the same bytes.",
                                      q_cli_children,
                                      NULL,
                                      NULL };
    q_err err = { 0 };
    q_status st = q_cli_parse(&o.cli, &argp, argc, argv, &o, &err);

#if defined(_OPENMP)
    if (o.cli.threads > 0)
        omp_set_num_threads(o.cli.threads);
#endif
    if (st == Q_OK)
        st = run(&o, &err);
    return q_cli_exit(&o.cli, st, &err);
}
