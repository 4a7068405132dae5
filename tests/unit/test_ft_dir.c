/* ft_dir: config.ini of FT directories, ours and those of the reference. */
#include <string.h>

#include "formats/base/q_file.h"
#include "formats/family.h"
#include "formats/ft_dir.h"
#include "tests/t.h"

static const char *put_ini(const char *text)
{
    q_err err = { 0 };
    char *path = q_path_join(t_tmpdir(), "config.ini");

    T_OK(q_out_whole(path, 1, text, strlen(text), &err), err);
    q_free(path);
    return t_tmpdir();
}

static const fmt_ft_layout f16 = { .ranks = 1, .store = FMT_F16 };
static const fmt_ft_layout bf16 = { .ranks = 2, .store = FMT_BF16 };
static const fmt_ft_layout f32 = { .ranks = 1, .store = FMT_F32 };

static void t_round_trip(void)
{
    static const char *const configs[] = { "data/tokenizers/configs/qwen-7b/config.json",
                                           "data/tokenizers/configs/qwen-72b/config.json",
                                           "models/qwen-tiny/config.json" };

    for (size_t i = 0; i < 3; i++) {
        q_err err = { 0 };
        q_buf text = { 0 };
        fmt_json *doc = NULL;
        fmt_ft_config c;
        fmt_model a, b;

        T_OK(fmt_json_read(&doc, T_SHARED(configs[i]), 1 << 20, &err), err);
        T_OK(fmt_model_parse(&a, doc, "config.json", &err), err);
        T_OK(fmt_ft_config_text(&text, doc, "qwen", &bf16, &err), err);
        T_OK(fmt_ft_config_read(&c, put_ini(text.data), &err), err);
        T_INT(c.layout.ranks, 2);
        T_INT(c.layout.store, FMT_BF16);
        T_INT(c.layout.sets, 0);
        T_OK(fmt_model_parse(&b, c.config, "config.ini", &err), err);
        T_TRUE(a.family == b.family && a.hid == b.hid && a.layers == b.layers &&
               a.n_head == b.n_head && a.n_kv == b.n_kv && a.hd == b.hd && a.ffn == b.ffn &&
               a.vocab == b.vocab && a.train_ctx == b.train_ctx && a.max_ctx == b.max_ctx);
        T_TRUE(a.eps >= b.eps && a.eps <= b.eps && a.rope_base >= b.rope_base &&
               a.rope_base <= b.rope_base);
        T_TRUE(a.dyn_ntk == b.dyn_ntk && a.logn == b.logn && a.tied == b.tied);
        fmt_ft_config_free(&c);
        fmt_json_free(doc);
        q_buf_free(&text);
    }
}

/* As the reference writes it: no [qwenkit], no model_type, types as Python prints them. */
static void t_reference(void)
{
    static const char text[] = "[qwen]\n"
                               "out_dir = /data/ft\n"
                               "in_file = /data/Qwen-7B-Chat\n"
                               "tensor_parallelism = 2\n"
                               "processes = 4\n"
                               "calibrate_kv_cache = False\n"
                               "smoothquant = None\n"
                               "model = qwen\n"
                               "storage_type = float16\n"
                               "dataset_cache_dir = None\n"
                               "vocab_size = 151936\n"
                               "hidden_size = 4096\n"
                               "intermediate_size = 22016\n"
                               "num_hidden_layers = 32\n"
                               "num_attention_heads = 32\n"
                               "layer_norm_epsilon = 1e-06\n"
                               "max_position_embeddings = 8192\n"
                               "seq_length = 8192\n"
                               "kv_channels = 128\n"
                               "rotary_pct = 1.0\n"
                               "rotary_emb_base = 10000\n"
                               "use_dynamic_ntk = True\n"
                               "use_logn_attn = True\n"
                               "no_bias = True\n"
                               "tie_word_embeddings = False\n"
                               "torch_dtype = torch.float16\n"
                               "architectures = ['QWenLMHeadModel']\n"
                               "auto_map = {'AutoConfig': 'configuration_qwen.QWenConfig'}\n"
                               "task_specific_params = None\n"
                               "storage_dtype = float16\n"
                               "multi_query_mode = False\n"
                               "\n";
    q_err err = { 0 };
    fmt_ft_config c;
    fmt_model m;

    T_OK(fmt_ft_config_read(&c, put_ini(text), &err), err);
    T_INT(c.layout.ranks, 2);
    T_INT(c.layout.store, FMT_F16);
    T_INT(c.layout.sets, 0);
    T_OK(fmt_model_parse(&m, c.config, "config.ini", &err), err);
    T_INT(m.hid, 4096);
    T_INT(m.ffn, 11008);
    T_INT(m.hd, 128);
    T_INT(m.dyn_ntk, 1);
    T_INT(m.dtype, FMT_F16);
    fmt_ft_config_free(&c);
}

static void t_read_errors(void)
{
    static const struct {
        const char *text;
        q_status status;
        const char *part;
    } rows[] = {
        { "", Q_EUNSUPPORTED, "config.ini: no section of a known family" },
        { "[gpt]\na = 1\n", Q_EUNSUPPORTED, "no section of a known family, such as [qwen]" },
        { "[qwen]\na = 1\n", Q_ECONFIG, "config.ini: 'tensor_parallelism' is missing" },
        { "[qwen]\ntensor_parallelism = 0\n", Q_ECONFIG,
          "config.ini: 'tensor_parallelism' is 0, wanted a whole number from 1 to 64" },
        { "[qwen]\ntensor_parallelism = 65\n", Q_ECONFIG, "'tensor_parallelism' is 65" },
        { "[qwen]\ntensor_parallelism = two\n", Q_ECONFIG, "'tensor_parallelism' is \"two\"" },
        { "[qwen]\ntensor_parallelism = 1\nstorage_dtype = int8\n", Q_EUNSUPPORTED,
          "storage_dtype 'int8', wanted float16, bfloat16 or float32" },
        { "[qwen]\ntensor_parallelism = 1\nstorage_dtype = 7\n", Q_ECONFIG,
          "'storage_dtype' is 7, wanted a string" },
        { "[qwen]\ntensor_parallelism = 1\n[qwenkit]\nformat_version = 2\n", Q_EUNSUPPORTED,
          "format version 2, this program reads up to 1: use a newer one" },
        { "[qwen]\ntensor_parallelism = 1\n[qwenkit]\n", Q_ECONFIG, "'format_version' is missing" },
        { "[qwen]\ntensor_parallelism = 1\nsmoothquant = 1.5\n", Q_ECONFIG,
          "config.ini: 'smoothquant' is 1.5, wanted a number from 0 to 1" },
        { "[qwen]\ntensor_parallelism = 1\nsmoothquant = yes\n", Q_ECONFIG,
          "'smoothquant' is \"yes\"" },
        { "[qwen]\ntensor_parallelism = 1\n[qwenkit]\nformat_version = 1\nschemes = w8a8\n",
          Q_ECONFIG, "config.ini: 'schemes' has w8a8, but 'smoothquant' is not set" },
        { "[qwen]\ntensor_parallelism = 1\n[qwenkit]\nformat_version = 1\nschemes = kv8 w2\n",
          Q_EUNSUPPORTED, "config.ini: scheme 'w2' is not known: use a newer program" },
        { "[qwen]\ntensor_parallelism = 1\n[qwenkit]\nformat_version = 1\nschemes = 8\n", Q_ECONFIG,
          "'schemes' is 8, wanted a string" },
        { "[qwen]\nx\n", Q_EFORMAT, "config.ini: line 2: wanted 'key = value'" },
    };
    q_err err = { 0 };
    fmt_ft_config c;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        T_ERR(fmt_ft_config_read(&c, put_ini(rows[i].text), &err), err, rows[i].status,
              rows[i].part);
        T_TRUE(c.doc == NULL);
    }
    T_ERR(fmt_ft_config_read(&c, "/nonexistent/dir", &err), err, Q_ENOINPUT, "config.ini");
}

static void t_write_errors(void)
{
    static const struct {
        const char *json, *part;
    } rows[] = {
        { "{\"a=b\": 1}", "key 'a=b' cannot stand in config.ini" },
        { "{\"[x]\": 1}", "key '[x]' cannot stand" },
        { "{\"a\\nb\": 1}", "key 'a?b' is not printable ASCII" },
        { "{\"\\u00e4\": 1}", "is not printable ASCII" },
        { "{\"a \": 1}", "key 'a ' cannot stand" },
        { "{\"\": 1}", "key '' cannot stand" },
        { "{\" a\": 1}", "key ' a' cannot stand" },
    };
    q_err err = { 0 };
    q_buf out = { 0 };
    fmt_json *v = NULL;
    char longest[200];

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        T_OK(fmt_json_parse(&v, rows[i].json, strlen(rows[i].json), "json", &err), err);
        T_ERR(fmt_ft_config_text(&out, v, "qwen", &f16, &err), err, Q_EFORMAT, rows[i].part);
        fmt_json_free(v);
    }
    snprintf(longest, sizeof longest, "{\"%0150d\": 1}", 1);
    T_OK(fmt_json_parse(&v, longest, strlen(longest), "json", &err), err);
    T_ERR(fmt_ft_config_text(&out, v, "qwen", &f16, &err), err, Q_EFORMAT,
          "cannot stand in config.ini");
    fmt_json_free(v);
    q_buf_free(&out);
}

/* The options of the converter win over keys of the same name, and every key stands once: those
 * with capitals would become others. */
static void t_reserved(void)
{
    static const char json[] = "{\"model\": \"x\", \"storage_type\": \"y\", \"K\": 1, "
                               "\"Rotary_Emb_Base\": 5, \"k\": \"v\"}";
    q_err err = { 0 };
    q_buf out = { 0 };
    fmt_json *v = NULL;

    T_OK(fmt_json_parse(&v, json, sizeof json - 1, "json", &err), err);
    T_OK(fmt_ft_config_text(&out, v, "qwen", &f32, &err), err);
    T_STR(out.data, "[qwen]\nout_dir = .\nin_file = .\ntensor_parallelism = 1\nprocesses = 1\n"
                    "calibrate_kv_cache = False\nsmoothquant = None\nmodel = qwen\n"
                    "storage_type = float32\ndataset_cache_dir = None\nk = v\n"
                    "storage_dtype = float32\nmulti_query_mode = False\n\n[qwenkit]\n"
                    "format_version = 1\ntensor_parallelism = 1\nstore = float32\n");
    fmt_json_free(v);
    q_buf_free(&out);
}

/* What calibration added: written, found again, and told by the option of the reference. */
static void t_sets(void)
{
    static const struct {
        unsigned sets;
        double alpha;
        const char *kv, *sq, *schemes;
    } rows[] = { { 0, 0, "False", "None", "store = float16\n" },
                 { FMT_FT_W8A8, 0.5, "False", "0.5", "schemes = w8a8\n" },
                 { FMT_FT_W8A8, 1, "False", "1.0", "schemes = w8a8\n" },
                 { FMT_FT_W8A8, 0, "False", "0.0", "schemes = w8a8\n" },
                 { FMT_FT_KV8, 0, "True", "None", "schemes = kv8\n" },
                 { FMT_FT_W8A8 | FMT_FT_KV8, 0.85, "True", "0.85", "schemes = w8a8 kv8\n" } };
    q_err err = { 0 };
    q_buf out = { 0 };
    fmt_json *v = NULL;
    fmt_ft_config c;
    char want[120];

    T_OK(fmt_json_parse(&v, "{}", 2, "json", &err), err);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const fmt_ft_layout l = {
            .ranks = 2, .store = FMT_F16, .sets = rows[i].sets, .alpha = rows[i].alpha
        };

        T_OK(fmt_ft_config_text(&out, v, "qwen", &l, &err), err);
        snprintf(want, sizeof want, "\ncalibrate_kv_cache = %s\nsmoothquant = %s\n", rows[i].kv,
                 rows[i].sq);
        T_TRUE(strstr(out.data, want) != NULL);
        T_STR(out.data + out.size - strlen(rows[i].schemes), rows[i].schemes);
        T_OK(fmt_ft_config_read(&c, put_ini(out.data), &err), err);
        T_INT(c.layout.sets, rows[i].sets);
        T_NEAR(c.layout.alpha, rows[i].alpha, 0);
        fmt_ft_config_free(&c);
    }
    fmt_json_free(v);
    q_buf_free(&out);
    T_OK(fmt_ft_config_read(&c,
                            put_ini("[qwen]\ntensor_parallelism = 1\nsmoothquant = 0.5\n"
                                    "calibrate_kv_cache = True\n"),
                            &err),
         err);
    T_INT(c.layout.sets, FMT_FT_W8A8); /* the reference has no scales for each head */
    T_NEAR(c.layout.alpha, 0.5, 0);
    fmt_ft_config_free(&c);
}

static const t_case cases[] = {
    T(t_round_trip), T(t_reference), T(t_read_errors), T(t_write_errors), T(t_reserved),
    T(t_sets),       { 0 }
};

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
