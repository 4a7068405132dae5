/* family: config.json of real models to sizes, and every value that must be refused.  Sizes: the
 * table of published models in the reference notes (7.1). */
#include <string.h>

#include "formats/family.h"
#include "tests/t.h"

static q_status parse(fmt_model *m, const char *json, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *doc = NULL;

    Q_TRY(fmt_json_parse(&doc, json, strlen(json), "config.json", err));
    Q_TRY(fmt_model_parse(m, doc, "config.json", err));
out:
    fmt_json_free(doc);
    return st;
}

static void read_model(fmt_model *m, const char *path)
{
    q_err err = { 0 };
    fmt_json *doc = NULL;

    T_OK(fmt_json_read(&doc, T_SHARED(path), 1 << 20, &err), err);
    T_OK(fmt_model_parse(m, doc, "config.json", &err), err);
    fmt_json_free(doc);
}

static void t_published(void)
{
    static const struct {
        const char *path;
        int64_t hid, layers, heads, ffn, vocab, train_ctx, max_ctx;
        double rope_base;
        int ntk_and_logn;
        int64_t params;
    } rows[] = {
        { "data/tokenizers/configs/qwen-7b/config.json", 4096, 32, 32, 11008, 151936, 8192, 32768,
          10000, 1, 15442649088 / 2 },
        { "data/tokenizers/configs/qwen-7b-chat-aug2023/config.json", 4096, 32, 32, 11008, 151936,
          2048, 6144, 10000, 1, 15442649088 / 2 },
        { "data/tokenizers/configs/qwen-72b/config.json", 8192, 80, 64, 24576, 152064, 8192, 8192,
          1000000, 0, 72287920128 },
        { "models/qwen-tiny/config.json", 256, 8, 2, 768, 4096, 1024, 8192, 10000, 1, 8923392 },
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fmt_model m;

        read_model(&m, rows[i].path);
        T_STR(m.family->model_type, "qwen");
        T_INT(m.hid, rows[i].hid);
        T_INT(m.layers, rows[i].layers);
        T_INT(m.n_head, rows[i].heads);
        T_INT(m.n_kv, rows[i].heads);
        T_INT(m.hd, 128);
        T_INT(m.ffn, rows[i].ffn);
        T_INT(m.vocab, rows[i].vocab);
        T_INT(m.train_ctx, rows[i].train_ctx);
        T_INT(m.max_ctx, rows[i].max_ctx);
        T_NEAR(m.eps, 1e-6, 0);
        T_NEAR(m.rope_base, rows[i].rope_base, 0);
        T_INT(m.dyn_ntk, rows[i].ntk_and_logn);
        T_INT(m.logn, rows[i].ntk_and_logn);
        T_INT(m.tied, 0);
        T_INT(m.rot, 128);
        T_INT(m.rope_step, 1);
        T_INT(m.rope_gap, 64);
        T_INT(fmt_model_params(&m), rows[i].params);
    }
}

#define SIZES                                                                                      \
    "\"hidden_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "                  \
    "\"kv_channels\": 16, \"intermediate_size\": 96, \"vocab_size\": 100, \"seq_length\": 32"
#define QWEN(more) "{\"model_type\": \"qwen\", " SIZES more "}"

static void t_defaults(void)
{
    q_err err = { 0 };
    fmt_model m;

    T_OK(parse(&m, QWEN(""), &err), err);
    T_INT(m.ffn, 48);
    T_INT(m.n_kv, 4);
    T_INT(m.max_ctx, 32768);
    T_NEAR(m.rope_base, 10000, 0);
    T_NEAR(m.eps, 1e-6, 0);
    T_INT(m.dyn_ntk + m.logn + m.tied, 0);
    T_OK(parse(&m, QWEN(", \"num_key_value_heads\": 2, \"torch_dtype\": \"bfloat16\""), &err), err);
    T_INT(m.n_kv, 2);
    T_INT(m.dtype, FMT_BF16);
    T_OK(parse(&m, QWEN(", \"tie_word_embeddings\": true, \"rotary_pct\": 1, \"no_bias\": true"),
               &err),
         err);
    T_INT(m.tied, 1);
    T_INT(fmt_model_params(&m), 100 * 64 + 64 + 2 * (64 + 64 + 192 * 65 + 64 * 64 + 3 * 48 * 64));
}

static void t_refused(void)
{
    static const struct {
        const char *json;
        q_status status;
        const char *part;
    } rows[] = {
        { "[]", Q_EFORMAT, "config.json: not a JSON object" },
        { "7", Q_EFORMAT, "config.json: not a JSON object" },
        { "{}", Q_ECONFIG, "'model_type' is missing" },
        { "{\"model_type\": null}", Q_ECONFIG, "'model_type' is missing" },
        { "{\"model_type\": 7}", Q_ECONFIG, "config.json: 'model_type' is 7, wanted a string" },
        { QWEN(", \"torch_dtype\": []"), Q_ECONFIG, "config.json: 'torch_dtype' is [], wanted" },
        { "{\"model_type\": \"gpt2\"}", Q_EUNSUPPORTED,
          "config.json: model_type 'gpt2' is not supported; known: qwen" },
        { "{\"model_type\": \"qwen\"}", Q_ECONFIG, "config.json: 'hidden_size' is missing" },
        { QWEN(", \"rotary_pct\": 0.5"), Q_EUNSUPPORTED,
          "config.json: 'rotary_pct': partial rotary embeddings are not supported by family qwen" },
        { QWEN(", \"rotary_pct\": \"1.0\""), Q_EUNSUPPORTED, "'rotary_pct'" },
        { QWEN(", \"no_bias\": false"), Q_EUNSUPPORTED, "'no_bias': biases in every linear" },
        { QWEN(", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0}"), Q_EUNSUPPORTED,
          "'rope_scaling': scaled rotary embeddings" },
        { QWEN(", \"use_sliding_window\": true"), Q_EUNSUPPORTED, "sliding windows" },
        { QWEN(", \"quantization_config\": {\"bits\": 4}"), Q_EUNSUPPORTED,
          "'quantization_config': quantized checkpoints" },
        { QWEN(", \"num_key_value_heads\": 3"), Q_ECONFIG,
          "4 heads are no multiple of 3 key/value heads" },
        { QWEN(", \"num_key_value_heads\": 0"), Q_ECONFIG, "'num_key_value_heads' is 0" },
        { QWEN(", \"torch_dtype\": \"float8\""), Q_EUNSUPPORTED, "torch_dtype 'float8'" },
        { QWEN(", \"layer_norm_epsilon\": 2"), Q_ECONFIG, "'layer_norm_epsilon' is 2" },
        { QWEN(", \"layer_norm_epsilon\": -1e-9"), Q_ECONFIG, "'layer_norm_epsilon' is -1" },
        { QWEN(", \"rotary_emb_base\": 0"), Q_ECONFIG, "'rotary_emb_base' is 0" },
        { QWEN(", \"use_logn_attn\": 1"), Q_ECONFIG, "'use_logn_attn' is 1, wanted true or false" },
    };
    q_err err = { 0 };
    fmt_model m;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        T_ERR(parse(&m, rows[i].json, &err), err, rows[i].status, rows[i].part);
    T_OK(parse(&m, QWEN(", \"rope_scaling\": null, \"use_sliding_window\": false"), &err), err);
}

/* Every size with numbers that wrap, overflow or are no sizes: the key is named. */
static void t_hostile_numbers(void)
{
    static const char *const keys[] = { "hidden_size",        "num_hidden_layers", "kv_channels",
                                        "intermediate_size",  "vocab_size",        "seq_length",
                                        "num_attention_heads" };
    static const char *const values[] = {
        "2147483648", "4294967296", "4294967297", "9223372036854775807",
        "-1",         "0",          "1e308",      "1.5",
        "\"1\"",      "true",       "[1]",        "{}"
    };
    q_err err = { 0 };
    fmt_model m;

    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
        char json[512] = "{\"model_type\": \"qwen\"", part[64];

        for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
            size_t n = strlen("{\"model_type\": \"qwen\"");

            for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
                n += (size_t)snprintf(json + n, sizeof json - n, ", \"%s\": %s", keys[i],
                                      i == k ? values[v] : "16");
            snprintf(json + n, sizeof json - n, "}");
            snprintf(part, sizeof part, "config.json: '%s' is %.2s", keys[k], values[v]);
            T_ERR(parse(&m, json, &err), err, Q_ECONFIG, part);
        }
        snprintf(json, sizeof json, "{\"model_type\": \"qwen\", \"%s\": 18446744073709551615}",
                 keys[k]);
        T_ERR(parse(&m, json, &err), err, Q_EFORMAT, "config.json: line 1");
    }
    T_ERR(parse(&m, QWEN(", \"intermediate_size\": 97"), &err), err, Q_EFORMAT, "duplicate");
}

static void t_uneven(void)
{
    q_err err = { 0 };
    fmt_model m;

    T_ERR(parse(&m,
                "{\"model_type\": \"qwen\", \"hidden_size\": 64, \"num_hidden_layers\": 2, "
                "\"num_attention_heads\": 4, \"kv_channels\": 16, \"ffn_hidden_size\": 97, "
                "\"vocab_size\": 100, \"seq_length\": 32}",
                &err),
          err, Q_ECONFIG, "config.json: 'ffn_hidden_size' is 97, wanted a multiple of 2");
    T_ERR(parse(&m,
                "{\"model_type\": \"qwen\", \"hidden_size\": 64, \"num_hidden_layers\": 2, "
                "\"num_attention_heads\": 4, \"kv_channels\": 15, \"ffn_hidden_size\": 96, "
                "\"vocab_size\": 100, \"seq_length\": 32}",
                &err),
          err, Q_ECONFIG, "config.json: head size 15 is odd");
}

static void t_names(void)
{
    static const struct {
        const char *pattern, *name;
        int match;
        int64_t layer;
    } rows[] = {
        { "lm_head", "lm_head", 1, -1 },
        { "lm_head", "lm_head.weight", 0, -1 },
        { "h.#.w1", "h.0.w1", 1, 0 },
        { "h.#.w1", "h.79.w1", 1, 79 },
        { "h.#.w1", "h.999999999.w1", 1, 999999999 },
        { "h.#.w1", "h.1000000000.w1", 0, -1 },
        { "h.#.w1", "h.01.w1", 0, -1 },
        { "h.#.w1", "h..w1", 0, -1 },
        { "h.#.w1", "h.-1.w1", 0, -1 },
        { "h.#.w1", "h.1.w12", 0, -1 },
        { "h.#.w1", "h.1", 0, -1 },
        { "h.#.w1", "h", 0, -1 },
        { "h.#.w1", "", 0, -1 },
    };
    char name[16];

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int64_t layer = -1;

        T_INT(fmt_name_match(rows[i].pattern, rows[i].name, &layer), rows[i].match);
        T_INT(layer, rows[i].layer);
    }
    T_INT(fmt_name_make(name, sizeof name, "h.#.w1", 12, ".weight"), 1);
    T_STR(name, "h.12.w1.weight");
    T_INT(fmt_name_make(name, sizeof name, "h.#.w1", 123, ".weight"), 1); /* 15 bytes: just fits */
    T_INT(fmt_name_make(name, sizeof name, "h.#.w1", 1234, ".weight"), 0);
    T_INT(fmt_name_make(name, sizeof name, "ln_f", 7, ""), 1);
    T_STR(name, "ln_f");
}

static const t_case cases[] = { T(t_published), T(t_defaults), T(t_refused), T(t_hostile_numbers),
                                T(t_uneven),    T(t_names),    { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
