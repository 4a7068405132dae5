/* Shapes of published models and what their config.json says.
 *
 * Another family is one more writer; its tensors come from formats/family_tables.c. */
#include "scripts/random_configs.h"

#include <string.h>

static const rnd_preset presets[] = {
    /*                          hid layers heads kv  hd   ffn   vocab    base    ctx  tied */
    { "qwen-1.8b", "qwen", { 2048, 24, 16, 16, 128, 5504, 151936, 10000, 8192, 0 } },
    { "qwen-7b", "qwen", { 4096, 32, 32, 32, 128, 11008, 151936, 10000, 8192, 0 } },
    { "qwen-14b", "qwen", { 5120, 40, 40, 40, 128, 13696, 152064, 10000, 2048, 0 } },
    { "qwen-72b", "qwen", { 8192, 80, 64, 64, 128, 24576, 152064, 1000000, 32768, 0 } },
    { "qwen2.5-0.5b", "qwen2", { 896, 24, 14, 2, 64, 4864, 151936, 1000000, 32768, 1 } },
    { "qwen2.5-1.5b", "qwen2", { 1536, 28, 12, 2, 128, 8960, 151936, 1000000, 32768, 1 } },
    { "qwen2.5-3b", "qwen2", { 2048, 36, 16, 2, 128, 11008, 151936, 1000000, 32768, 1 } },
    { "qwen2.5-7b", "qwen2", { 3584, 28, 28, 4, 128, 18944, 152064, 1000000, 32768, 0 } },
    { "qwen2.5-14b", "qwen2", { 5120, 48, 40, 8, 128, 13824, 152064, 1000000, 32768, 0 } },
    { "qwen2.5-32b", "qwen2", { 5120, 64, 40, 8, 128, 27648, 152064, 1000000, 32768, 0 } },
    { "qwen2.5-72b", "qwen2", { 8192, 80, 64, 8, 128, 29568, 152064, 1000000, 32768, 0 } },
    { "qwen3-0.6b", "qwen3", { 1024, 28, 16, 8, 128, 3072, 151936, 1000000, 40960, 1 } },
    { "qwen3-1.7b", "qwen3", { 2048, 28, 16, 8, 128, 6144, 151936, 1000000, 40960, 1 } },
    { "qwen3-4b", "qwen3", { 2560, 36, 32, 8, 128, 9728, 151936, 1000000, 40960, 1 } },
    { "qwen3-8b", "qwen3", { 4096, 36, 32, 8, 128, 12288, 151936, 1000000, 40960, 0 } },
    { "qwen3-14b", "qwen3", { 5120, 40, 40, 8, 128, 17408, 151936, 1000000, 40960, 0 } },
    { "qwen3-32b", "qwen3", { 5120, 64, 64, 8, 128, 25600, 151936, 1000000, 40960, 0 } },
    { "chatglm2-6b", "chatglm", { 4096, 28, 32, 2, 128, 13696, 65024, 10000, 32768, 0 } },
    { "chatglm3-6b", "chatglm", { 4096, 28, 32, 2, 128, 13696, 65024, 10000, 8192, 0 } },
    { "chatglm3-6b-32k", "chatglm", { 4096, 28, 32, 2, 128, 13696, 65024, 500000, 32768, 0 } },
};

static const char *yes(int x)
{
    return x ? "true" : "false";
}

static q_status qwen_config(q_buf *b, const rnd_shape *s, q_err *err)
{
    q_status st = Q_OK;
    const char *extend = yes(s->rope_base == 10000); /* the 72B is trained on its whole context */

    Q_TRY(q_buf_printf(b, err,
                       "  \"model_type\": \"qwen\",\n"
                       "  \"architectures\": [\"QWenLMHeadModel\"],\n"
                       "  \"hidden_size\": %lld,\n"
                       "  \"intermediate_size\": %lld,\n" /* counts w1 and w2 */
                       "  \"kv_channels\": %lld,\n"
                       "  \"layer_norm_epsilon\": 1e-06,\n"
                       "  \"max_position_embeddings\": 32768,\n"
                       "  \"no_bias\": true,\n"
                       "  \"num_attention_heads\": %lld,\n"
                       "  \"num_hidden_layers\": %lld,\n",
                       s->hid, 2 * s->ffn, s->hd, s->n_head, s->layers));
    if (s->n_kv != s->n_head) /* no published Qwen-1 has it; qwenkit reads it */
        Q_TRY(q_buf_printf(b, err, "  \"num_key_value_heads\": %lld,\n", s->n_kv));
    Q_TRY(q_buf_printf(b, err,
                       "  \"rotary_emb_base\": %lld,\n"
                       "  \"rotary_pct\": 1.0,\n"
                       "  \"seq_length\": %lld,\n"
                       "  \"tokenizer_class\": \"QWenTokenizer\",\n"
                       "  \"use_dynamic_ntk\": %s,\n"
                       "  \"use_logn_attn\": %s,\n"
                       "  \"vocab_size\": %lld,\n",
                       s->rope_base, s->ctx, extend, extend, s->vocab));
out:
    return st;
}

/* what Qwen2 and Qwen3 share */
static q_status llama_config(q_buf *b, const rnd_shape *s, const char *type, const char *class,
                             q_err *err)
{
    return q_buf_printf(b, err,
                        "  \"model_type\": \"%s\",\n"
                        "  \"architectures\": [\"%s\"],\n"
                        "  \"head_dim\": %lld,\n"
                        "  \"hidden_act\": \"silu\",\n"
                        "  \"hidden_size\": %lld,\n"
                        "  \"intermediate_size\": %lld,\n"
                        "  \"max_position_embeddings\": %lld,\n"
                        "  \"num_attention_heads\": %lld,\n"
                        "  \"num_hidden_layers\": %lld,\n"
                        "  \"num_key_value_heads\": %lld,\n"
                        "  \"rms_norm_eps\": 1e-06,\n"
                        "  \"rope_theta\": %lld,\n"
                        "  \"use_sliding_window\": false,\n"
                        "  \"vocab_size\": %lld,\n",
                        type, class, s->hd, s->hid, s->ffn, s->ctx, s->n_head, s->layers, s->n_kv,
                        s->rope_base, s->vocab);
}

static q_status qwen2_config(q_buf *b, const rnd_shape *s, q_err *err)
{
    return llama_config(b, s, "qwen2", "Qwen2ForCausalLM", err);
}

static q_status qwen3_config(q_buf *b, const rnd_shape *s, q_err *err)
{
    return llama_config(b, s, "qwen3", "Qwen3ForCausalLM", err);
}

static q_status chatglm_config(q_buf *b, const rnd_shape *s, q_err *err)
{
    return q_buf_printf(b, err,
                        "  \"model_type\": \"chatglm\",\n"
                        "  \"architectures\": [\"ChatGLMModel\"],\n"
                        "  \"add_bias_linear\": false,\n"
                        "  \"add_qkv_bias\": true,\n"
                        "  \"apply_residual_connection_post_layernorm\": false,\n"
                        "  \"ffn_hidden_size\": %lld,\n"
                        "  \"hidden_size\": %lld,\n"
                        "  \"kv_channels\": %lld,\n"
                        "  \"layernorm_epsilon\": 1e-05,\n"
                        "  \"multi_query_attention\": true,\n"
                        "  \"multi_query_group_num\": %lld,\n"
                        "  \"num_attention_heads\": %lld,\n"
                        "  \"num_layers\": %lld,\n"
                        "  \"original_rope\": true,\n"
                        "  \"padded_vocab_size\": %lld,\n"
                        "  \"post_layer_norm\": true,\n"
                        "  \"rmsnorm\": true,\n"
                        "  \"rope_ratio\": %g,\n"
                        "  \"seq_length\": %lld,\n",
                        s->ffn, s->hid, s->hd, s->n_kv, s->n_head, s->layers, s->vocab,
                        (double)s->rope_base / 10000, s->ctx);
}

static const struct {
    const char *family;
    q_status (*write)(q_buf *b, const rnd_shape *s, q_err *err);
} writers[] = { { "qwen", qwen_config },
                { "qwen2", qwen2_config },
                { "qwen3", qwen3_config },
                { "chatglm", chatglm_config } };
enum { N_WRITERS = sizeof writers / sizeof writers[0] };

const rnd_preset *rnd_preset_find(const char *name)
{
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++)
        if (strcmp(presets[i].name, name) == 0)
            return &presets[i];
    return NULL;
}

const char *rnd_preset_names(size_t i)
{
    return i < sizeof presets / sizeof presets[0] ? presets[i].name : NULL;
}

int rnd_family_known(const char *family)
{
    for (size_t i = 0; i < N_WRITERS; i++)
        if (strcmp(writers[i].family, family) == 0)
            return 1;
    return 0;
}

q_status rnd_config_text(q_buf *out, const char *family, const rnd_shape *s, fmt_dtype dtype,
                         int64_t group, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(q_buf_puts(out, "{\n", err));
    if (group)
        Q_TRY(q_buf_printf(out, err,
                           "  \"quantization_config\": {\n"
                           "    \"quant_method\": \"gptq\",\n"
                           "    \"bits\": 4,\n"
                           "    \"group_size\": %lld,\n"
                           "    \"desc_act\": false,\n"
                           "    \"sym\": true\n"
                           "  },\n",
                           (long long)group));
    for (size_t i = 0; i < N_WRITERS; i++)
        if (strcmp(writers[i].family, family) == 0)
            Q_TRY(writers[i].write(out, s, err));
    Q_TRY(q_buf_printf(out, err,
                       "  \"tie_word_embeddings\": %s,\n"
                       "  \"torch_dtype\": \"%s\",\n"
                       "  \"use_cache\": true\n"
                       "}\n",
                       yes(s->tied), fmt_dtype_name(dtype)));
out:
    return st;
}
