/* random-checkpoint: a Hugging Face checkpoint of any shape with random weights, for measurements
 * and for tests that need a size and not a meaning.
 *
 * Another family is one more row: its tensors in file order, and what its config.json says. */
#include <stdio.h>
#include <stddef.h>
#include <string.h>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "formats/base/q_cli.h"
#include "formats/base/q_file.h"
#include "formats/base/q_mem.h"
#include "formats/hf_dir.h"
#include "scripts/random_weights.h"

#define MAX_ROWS   16     /* of a family, with the empty one at the end */
#define SPECIALS   208    /* Qwen: ids behind the ranks of the tokenizer file */
#define QWEN_RANKS 151643 /* of the tokenizer that all published sizes share */
#define TOKENIZER  "qwen.tiktoken"

typedef struct shape {
    long long hid, layers, n_head, n_kv, hd, ffn, vocab; /* ffn: one branch */
    long long rope_base;
    int long_ctx; /* dynamic NTK and logn attention */
} shape;

typedef enum dim { D_NONE, D_HID, D_Q, D_QKV, D_FFN, D_VOCAB } dim;

typedef struct tensor_row {
    const char *name; /* '#' is the layer; rows with it stand together */
    dim rows, cols;
    rnd_kind kind;
} tensor_row;

typedef struct opts {
    q_cli cli;
    const struct family *family;
    const struct preset *preset;
    shape s; /* 0: not given */
    fmt_dtype dtype;
    uint64_t shard_bytes;
    const char *tokenizer, *out;
    int force;
    long long eos; /* first special id */
} opts;

typedef struct family {
    const char *name;
    q_status (*config)(q_buf *text, const opts *o, q_err *err);
    tensor_row rows[MAX_ROWS];
} family;

/* ---- families ------------------------------------------------------------------------------- */

static const char *yes(int x)
{
    return x ? "true" : "false";
}

static q_status qwen_config(q_buf *b, const opts *o, q_err *err)
{
    const shape *s = &o->s;
    const char *ctx = yes(s->long_ctx);
    q_status st =
        q_buf_printf(b, err,
                     "{\n"
                     "  \"architectures\": [\"QWenLMHeadModel\"],\n"
                     "  \"bf16\": %s,\n  \"fp16\": %s,\n  \"fp32\": %s,\n"
                     "  \"hidden_size\": %lld,\n"
                     "  \"initializer_range\": 0.02,\n"
                     "  \"intermediate_size\": %lld,\n" /* counts w1 and w2 */
                     "  \"kv_channels\": %lld,\n"
                     "  \"layer_norm_epsilon\": 1e-06,\n"
                     "  \"max_position_embeddings\": 32768,\n"
                     "  \"model_type\": \"qwen\",\n"
                     "  \"no_bias\": true,\n"
                     "  \"num_attention_heads\": %lld,\n"
                     "  \"num_hidden_layers\": %lld,\n",
                     yes(o->dtype == FMT_BF16), yes(o->dtype == FMT_F16), yes(o->dtype == FMT_F32),
                     s->hid, 2 * s->ffn, s->hd, s->n_head, s->layers);

    if (st == Q_OK && s->n_kv != s->n_head) /* no published Qwen-1 has it; qwenkit reads it */
        st = q_buf_printf(b, err, "  \"num_key_value_heads\": %lld,\n", s->n_kv);
    if (st == Q_OK)
        st = q_buf_printf(b, err,
                          "  \"rotary_emb_base\": %lld,\n"
                          "  \"rotary_pct\": 1.0,\n"
                          "  \"scale_attn_weights\": true,\n"
                          "  \"seq_length\": 8192,\n"
                          "  \"tie_word_embeddings\": false,\n"
                          "  \"tokenizer_class\": \"QWenTokenizer\",\n"
                          "  \"torch_dtype\": \"%s\",\n"
                          "  \"use_cache\": true,\n"
                          "  \"use_dynamic_ntk\": %s,\n"
                          "  \"use_logn_attn\": %s,\n"
                          "  \"vocab_size\": %lld\n"
                          "}\n",
                          s->rope_base, fmt_dtype_name(o->dtype), ctx, ctx, s->vocab);
    return st;
}

static const family families[] = {
    { "qwen",
      qwen_config,
      { { "transformer.wte.weight", D_VOCAB, D_HID, RND_MATRIX },
        { "transformer.h.#.ln_1.weight", D_HID, D_NONE, RND_NORM },
        { "transformer.h.#.attn.c_attn.weight", D_QKV, D_HID, RND_MATRIX },
        { "transformer.h.#.attn.c_attn.bias", D_QKV, D_NONE, RND_BIAS },
        { "transformer.h.#.attn.c_proj.weight", D_HID, D_Q, RND_MATRIX },
        { "transformer.h.#.ln_2.weight", D_HID, D_NONE, RND_NORM },
        { "transformer.h.#.mlp.w1.weight", D_FFN, D_HID, RND_MATRIX },
        { "transformer.h.#.mlp.w2.weight", D_FFN, D_HID, RND_MATRIX },
        { "transformer.h.#.mlp.c_proj.weight", D_HID, D_FFN, RND_MATRIX },
        { "transformer.ln_f.weight", D_HID, D_NONE, RND_NORM },
        { "lm_head.weight", D_VOCAB, D_HID, RND_MATRIX } } },
    { 0 },
};

static const struct preset {
    const char *name, *family;
    shape s;
} presets[] = {
    { "qwen-1.8b", "qwen", { 2048, 24, 16, 16, 128, 5504, 151936, 10000, 1 } },
    { "qwen-7b", "qwen", { 4096, 32, 32, 32, 128, 11008, 151936, 10000, 1 } },
    { "qwen-14b", "qwen", { 5120, 40, 40, 40, 128, 13696, 152064, 10000, 1 } },
    { "qwen-72b", "qwen", { 8192, 80, 64, 64, 128, 24576, 152064, 1000000, 0 } },
    { 0 },
};

static int64_t size_of(const shape *s, dim d)
{
    switch (d) {
    case D_HID:
        return s->hid;
    case D_Q:
        return s->n_head * s->hd;
    case D_QKV:
        return (s->n_head + 2 * s->n_kv) * s->hd;
    case D_FFN:
        return s->ffn;
    case D_VOCAB:
        return s->vocab;
    case D_NONE:
        break;
    }
    return 1;
}

/* ---- tensors -------------------------------------------------------------------------------- */

static void make_tensor(rnd_tensor *t, const tensor_row *r, int64_t layer, const shape *s)
{
    const char *hash = strchr(r->name, '#');

    if (hash)
        snprintf(t->name, sizeof t->name, "%.*s%lld%s", (int)(hash - r->name), r->name,
                 (long long)layer, hash + 1);
    else
        snprintf(t->name, sizeof t->name, "%s", r->name);
    t->kind = r->kind;
    t->ndim = r->cols == D_NONE ? 1 : 2;
    t->shape[0] = size_of(s, r->rows);
    t->shape[1] = size_of(s, r->cols);
}

/* All tensors in file order.  *tensors is owned by the caller. */
static q_status list_tensors(rnd_tensor **tensors, size_t *n, const opts *o, q_err *err)
{
    rnd_tensor *t = q_calloc(MAX_ROWS * (size_t)o->s.layers, sizeof *t);
    size_t k = 0;

    if (!t)
        return q_fail(err, Q_ENOMEM, "no memory for the list of tensors");
    for (const tensor_row *r = o->family->rows, *end; r->name; r = end) {
        const int layered = strchr(r->name, '#') != NULL;

        for (end = r + 1; layered && end->name && strchr(end->name, '#');)
            end++;
        for (int64_t layer = 0; layer < (layered ? o->s.layers : 1); layer++)
            for (const tensor_row *q = r; q < end; q++)
                make_tensor(&t[k++], q, layer, &o->s);
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

static q_status write_configs(const opts *o, q_err *err)
{
    q_status st = Q_OK;
    q_buf text = { 0 };

    Q_TRY(o->family->config(&text, o, err));
    Q_TRY(put(o, "config.json", &text, err));
    q_buf_clear(&text);
    Q_TRY(q_buf_printf(&text, err,
                       "{\n"
                       "  \"chat_format\": \"chatml\",\n"
                       "  \"do_sample\": true,\n"
                       "  \"eos_token_id\": %lld,\n"
                       "  \"max_new_tokens\": 512,\n"
                       "  \"max_window_size\": 6144,\n"
                       "  \"pad_token_id\": %lld,\n"
                       "  \"top_k\": 0,\n"
                       "  \"top_p\": 0.8\n"
                       "}\n",
                       o->eos, o->eos));
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

    o->eos = o->s.vocab > SPECIALS ? o->s.vocab - SPECIALS : 0;
    if (o->eos > QWEN_RANKS)
        o->eos = QWEN_RANKS;
    if (!o->tokenizer)
        return Q_OK;
    Q_TRY(q_file_slurp(text, o->tokenizer, (size_t)64 << 20, err));
    for (const char *p = text->data, *end; (end = strchr(p, '\n')); p = end + 1)
        ranks += end > p; /* a line each, the last one ends with LF too */
    if (ranks == 0 || ranks + SPECIALS > o->s.vocab)
        Q_FAIL(err, Q_EARG, "%s: %lld lines and %d special ids do not fit --vocab %lld",
               o->tokenizer, ranks, SPECIALS, o->s.vocab);
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

        Q_TRY(fmt_hf_declare(w, t->name, o->dtype, t->ndim, t->shape, err));
        Q_TRY(fmt_st_size(&bytes, t->name, o->dtype, t->ndim, t->shape, err));
        *total += bytes;
    }
    Q_TRY(q_disk_free(o->out, &room, err));
    if (*total > room)
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

    Q_TRY(read_tokenizer(&tokenizer, o, err));
    Q_TRY(list_tensors(&tensors, &n, o, err));
    Q_TRY(fmt_hf_create(&w, o->out, o->shard_bytes, o->force, err));
    Q_TRY(declare_all(w, o, tensors, n, &total, err));
    Q_TRY(write_configs(o, err)); /* the weights come last: without them it is no checkpoint */
    if (o->tokenizer)
        Q_TRY(put(o, TOKENIZER, &tokenizer, err));
    else
        q_log_info(&o->cli.log, "no tokenizer written: --tokenizer FILE copies one in");
    Q_TRY(rnd_write(w, &(rnd_opts){ o->dtype, o->cli.seed, &o->cli.log }, tensors, n, err));
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
    q_free(tensors);
    return st;
}

enum { KEY_FAMILY = 1, KEY_PRESET, KEY_SHARD, KEY_TOK, KEY_SIZE };

/* sizes given as numbers, by key KEY_SIZE + row */
static const struct {
    const char *option;
    size_t offset;
    int64_t max;
} sizes[] = {
    { "--hidden", offsetof(shape, hid), 1 << 20 },
    { "--layers", offsetof(shape, layers), 1000 },
    { "--heads", offsetof(shape, n_head), 1 << 14 },
    { "--kv-heads", offsetof(shape, n_kv), 1 << 14 },
    { "--head-dim", offsetof(shape, hd), 1 << 12 },
    { "--ffn", offsetof(shape, ffn), 1 << 22 },
    { "--vocab", offsetof(shape, vocab), 1 << 24 },
};
enum { N_SIZES = sizeof sizes / sizeof sizes[0] };

static long long *size_at(shape *s, size_t i)
{
    return (long long *)(void *)((char *)s + sizes[i].offset);
}

static const struct argp_option options[] = {
    { "family", KEY_FAMILY, "NAME", 0, "Architecture: qwen (default)", 1 },
    { "preset", KEY_PRESET, "NAME", 0,
      "All sizes of qwen-1.8b, qwen-7b, qwen-14b or qwen-72b; size options change single ones", 1 },
    { "hidden", KEY_SIZE, "N", 0, "Hidden width", 2 },
    { "layers", KEY_SIZE + 1, "N", 0, "Layers", 2 },
    { "heads", KEY_SIZE + 2, "N", 0, "Attention heads", 2 },
    { "kv-heads", KEY_SIZE + 3, "N", 0, "Key and value heads (default: --heads)", 2 },
    { "head-dim", KEY_SIZE + 4, "N", 0, "Width of a head (default: --hidden / --heads)", 2 },
    { "ffn", KEY_SIZE + 5, "N", 0, "Width of one MLP branch", 2 },
    { "vocab", KEY_SIZE + 6, "N", 0, "Rows of the embedding", 2 },
    { "dtype", 't', "TYPE", 0, "float16 (default), bfloat16 or float32", 3 },
    { "shard-size", KEY_SHARD, "SIZE", 0, "Largest shard (default 4GiB)", 3 },
    { "tokenizer", KEY_TOK, "FILE", 0, "Copied in as " TOKENIZER, 3 },
    { "output", 'o', "DIR", 0, "Directory to write", 3 },
    { "force", 'f', 0, 0, "Overwrite what is there", 3 },
    { 0 },
};

static void find_family(opts *o, const struct argp_state *state, const char *name)
{
    for (o->family = families; o->family->name; o->family++)
        if (strcmp(o->family->name, name) == 0)
            return;
    q_cli_bad(state, "--family", name, "qwen");
}

/* Preset below, given sizes above, the rest derived. */
static void finish(opts *o, const struct argp_state *state)
{
    shape s = { .rope_base = 10000, .long_ctx = 1 };

    if (!o->out)
        argp_error(state, "--output is missing");
    if (o->preset) {
        s = o->preset->s;
        find_family(o, state, o->preset->family);
    }
    if (!o->family)
        find_family(o, state, "qwen");
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
    if (s.n_head % s.n_kv != 0)
        argp_error(state, "--kv-heads %lld does not divide --heads %lld", s.n_kv, s.n_head);
    if (s.hd % 2 != 0)
        argp_error(state, "--head-dim %lld is odd: rotary embedding turns pairs", s.hd);
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
        find_family(o, state, arg);
        return 0;
    case KEY_PRESET:
        for (o->preset = presets; o->preset->name; o->preset++)
            if (strcmp(o->preset->name, arg) == 0)
                return 0;
        q_cli_bad(state, "--preset", arg, "qwen-1.8b, qwen-7b, qwen-14b or qwen-72b");
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
