/* family: config.json of real models to sizes, and every value that must be refused.  Sizes: the
 * table of published models in the reference notes (7.1). */
#include <string.h>

#include "formats/base/q_file.h"
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

/* Published sizes of the other families; the parameter counts are those of the model cards. */
static void t_published_others(void)
{
    static const struct {
        const char *name, *family;
        int64_t hid, layers, heads, kv, hd, ffn, rot;
        double rope_base;
        int tied;
        int64_t params;
    } rows[] = {
        { "qwen1.5-0.5b", "qwen2", 1024, 24, 16, 16, 64, 2816, 64, 1e6, 1, 463987712 },
        { "qwen3-0.6b", "qwen3", 1024, 28, 16, 8, 128, 3072, 128, 1e6, 1, 596049920 },
        { "qwen3-1.7b", "qwen3", 2048, 28, 16, 8, 128, 6144, 128, 1e6, 1, 1720574976 },
        { "qwen3-4b", "qwen3", 2560, 36, 32, 8, 128, 9728, 128, 1e6, 1, 4022468096 },
        { "qwen3-8b", "qwen3", 4096, 36, 32, 8, 128, 12288, 128, 1e6, 0, 8190735360 },
        { "qwen3-14b", "qwen3", 5120, 40, 40, 8, 128, 17408, 128, 1e6, 0, 14768307200 },
        { "qwen3-32b", "qwen3", 5120, 64, 64, 8, 128, 25600, 128, 1e6, 0, 32762123264 },
        { "chatglm3-6b", "chatglm", 4096, 28, 32, 2, 128, 13696, 64, 1e4, 0, 6243584000 },
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fmt_model m;
        char path[96];

        snprintf(path, sizeof path, "data/tokenizers/configs/%s/config.json", rows[i].name);
        read_model(&m, path);
        T_STR(m.family->model_type, rows[i].family);
        T_INT(m.hid, rows[i].hid);
        T_INT(m.layers, rows[i].layers);
        T_INT(m.n_head, rows[i].heads);
        T_INT(m.n_kv, rows[i].kv);
        T_INT(m.hd, rows[i].hd);
        T_INT(m.ffn, rows[i].ffn);
        T_INT(m.rot, rows[i].rot);
        T_NEAR(m.rope_base, rows[i].rope_base, 0);
        T_NEAR(m.rope_mscale, 1, 0);
        T_INT(m.tied, rows[i].tied);
        T_INT(fmt_model_params(&m), rows[i].params);
    }
}

#define QWEN2(more)                                                                                \
    "{\"model_type\": \"qwen2\", \"hidden_size\": 64, \"num_hidden_layers\": 2, "                  \
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"intermediate_size\": 96, "          \
    "\"vocab_size\": 100, \"max_position_embeddings\": 32768" more "}"

static void t_rope_scaling(void)
{
    q_err err = { 0 };
    fmt_model m;

    T_OK(parse(&m, QWEN2(", \"rope_scaling\": null, \"rope_theta\": 5e5"), &err), err);
    T_NEAR(m.rope_base, 5e5, 0);
    T_NEAR(m.yarn.factor, 0, 0);
    T_INT(m.hd, 16);
    T_OK(parse(&m, QWEN2(", \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 7}"),
               &err),
         err);
    T_NEAR(m.rope_base, 7, 0);
    T_NEAR(m.rope_mscale, 1, 0);
    T_OK(parse(&m,
               QWEN2(", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0, "
                     "\"original_max_position_embeddings\": 32768}"),
               &err),
         err);
    T_NEAR(m.yarn.factor, 4, 0);
    T_NEAR(m.yarn.ctx, 32768, 0);
    T_INT(m.max_ctx, 131072);
    T_NEAR(m.rope_mscale, 1.138629436111989, 1e-12);
    T_OK(parse(&m,
               QWEN2(", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 2, "
                     "\"attention_factor\": 1.5, \"truncate\": false}"),
               &err),
         err);
    T_NEAR(m.rope_mscale, 1.5, 0);
    T_NEAR(m.yarn.ctx, 32768, 0);
    T_INT(m.yarn.whole, 0);
    T_ERR(parse(&m, QWEN2(", \"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}"), &err), err,
          Q_EUNSUPPORTED, "'rope_scaling' of type 'dynamic' is not supported; known: yarn");
    T_ERR(parse(&m, QWEN2(", \"rope_scaling\": {\"type\": \"yarn\"}"), &err), err, Q_ECONFIG,
          "'factor' is missing");
    T_ERR(parse(&m, QWEN2(", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 0.5}"), &err), err,
          Q_ECONFIG, "factor");
    T_ERR(parse(&m,
                QWEN2(", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2, "
                      "\"mscale\": 1}"),
                &err),
          err, Q_EUNSUPPORTED, "'mscale' of rope scaling");
    T_ERR(parse(&m,
                QWEN2(", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2, "
                      "\"beta_slow\": 33}"),
                &err),
          err, Q_ECONFIG, "'beta_slow' is 33, above 'beta_fast' 32");
    T_ERR(parse(&m,
                QWEN2(", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 1000, "
                      "\"original_max_position_embeddings\": 1000000}"),
                &err),
          err, Q_ECONFIG, "rope scaling to 1000000000 positions, the limit is");
    T_ERR(parse(&m, QWEN2(", \"rope_scaling\": 3"), &err), err, Q_ECONFIG,
          "config.json: 'rope_scaling' is not an object");
}

static void t_refused_others(void)
{
    static const struct {
        const char *path, *from, *to;
        q_status want;
        const char *part;
    } rows[] = {
        { "models/qwen2-tiny", "\"use_sliding_window\": false", "\"use_sliding_window\": true",
          Q_EUNSUPPORTED, "'use_sliding_window': sliding windows are not supported" },
        { "models/qwen2-tiny", "\"silu\"", "\"gelu\"", Q_EUNSUPPORTED, "'hidden_act'" },
        { "models/qwen2-tiny", "\"hidden_size\": 256", "\"hidden_size\": 254", Q_ECONFIG,
          "4 heads do not divide the hidden size 254" },
        { "models/qwen2-tiny", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3",
          Q_ECONFIG, "4 heads are no multiple of 3 key/value heads" },
        { "models/qwen3-random", "\"attention_bias\": false", "\"attention_bias\": true",
          Q_EUNSUPPORTED, "'attention_bias'" },
        { "models/qwen3-random", "\"qwen3\"", "\"qwen3_moe\"", Q_EUNSUPPORTED,
          "model_type 'qwen3_moe' is not supported; known: qwen qwen2 qwen3 chatglm" },
        { "models/chatglm3-random", "\"multi_query_group_num\": 2", "\"groups\": 2", Q_ECONFIG,
          "'multi_query_group_num' is missing" },
        { "models/chatglm3-random", "\"add_bias_linear\": false", "\"add_bias_linear\": true",
          Q_EUNSUPPORTED, "'add_bias_linear'" },
        { "models/chatglm3-random", "\"use_cache\": true", "\"quantization_bit\": 4",
          Q_EUNSUPPORTED, "'quantization_bit': quantized checkpoints" },
        { "models/chatglm3-random", "\"use_cache\": true", "\"pre_seq_len\": 128", Q_EUNSUPPORTED,
          "'pre_seq_len': trained prefixes" },
        { "models/chatglm3-random", "\"kv_channels\": 64", "\"kv_channels\": 66", Q_ECONFIG,
          "head size 66 does not make whole rotary pairs" },
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        q_err err = { 0 };
        q_buf text = { 0 }, bent = { 0 };
        fmt_model m;
        char path[96];
        const char *at;

        snprintf(path, sizeof path, "%s/config.json", rows[i].path);
        T_OK(q_file_slurp(&text, T_SHARED(path), 1 << 16, &err), err);
        T_TRUE((at = strstr(text.data, rows[i].from)) != NULL);
        T_OK(q_buf_printf(&bent, &err, "%.*s%s%s", (int)(at - text.data), text.data, rows[i].to,
                          at + strlen(rows[i].from)),
             err);
        T_ERR(parse(&m, bent.data, &err), err, rows[i].want, rows[i].part);
        q_buf_free(&text);
        q_buf_free(&bent);
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
          err, Q_ECONFIG, "config.json: head size 15 does not make whole rotary pairs");
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

static const t_case cases[] = {
    T(t_published), T(t_published_others), T(t_rope_scaling), T(t_refused_others), T(t_defaults),
    T(t_refused),   T(t_hostile_numbers),  T(t_uneven),       T(t_names),          { 0 }
};

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
