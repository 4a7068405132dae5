/* The families, data only.  A new family is one entry here; fmt_model_parse, the HF and FT readers,
 * the converter and the runtime need nothing else as long as the mathematics is known. */
#include "formats/family.h"

const fmt_family fmt_families[] = {
    {
        /* Qwen 1.8B 7B 14B 72B.  The first configurations (August 2023) used other key names:
         * both lists stand here, the first key that is present wins. */
        .model_type = "qwen",
        .ft_section = "qwen",
        .keys = { { FMT_HID, "hidden_size" },
                  { FMT_HID, "n_embd" },
                  { FMT_LAYERS, "num_hidden_layers" },
                  { FMT_LAYERS, "n_layer" },
                  { FMT_HEADS, "num_attention_heads" },
                  { FMT_HEADS, "n_head" },
                  { FMT_KV_HEADS, "num_key_value_heads", .optional = 2 },
                  { FMT_HEAD_DIM, "kv_channels", .dflt = 128, .optional = 1 },
                  { FMT_FFN, "intermediate_size", .div = 2 }, /* counts w1 and w2 */
                  { FMT_FFN, "ffn_hidden_size", .div = 2 },
                  { FMT_VOCAB, "vocab_size" },
                  { FMT_VOCAB, "padded_vocab_size" },
                  { FMT_TRAIN_CTX, "seq_length" },
                  { FMT_MAX_CTX, "max_position_embeddings", .dflt = 32768, .optional = 1 },
                  { FMT_MAX_CTX, "n_positions", .dflt = 32768, .optional = 1 },
                  { FMT_EPS, "layer_norm_epsilon", .dflt = 1e-6, .optional = 1 },
                  { FMT_ROPE_BASE, "rotary_emb_base", .dflt = 10000, .optional = 1 },
                  { FMT_DYN_NTK, "use_dynamic_ntk", .optional = 1 },
                  { FMT_LOGN, "use_logn_attn", .optional = 1 },
                  { FMT_TIED, "tie_word_embeddings", .optional = 1 } },
        .rope = FMT_ROPE_HALVES,
        .names = { { FMT_TOK_EMBD, { "transformer.wte" } },
                   { FMT_ATTN_NORM, { "transformer.h.#.ln_1" } },
                   { FMT_ATTN_QKV, { "transformer.h.#.attn.c_attn" }, .bias = 1 },
                   { FMT_ATTN_OUT, { "transformer.h.#.attn.c_proj" } },
                   { FMT_FFN_NORM, { "transformer.h.#.ln_2" } },
                   /* y = c_proj(w1(x) * silu(w2(x))): the gate is w2 */
                   { FMT_FFN_GATE_UP, { "transformer.h.#.mlp.w2", "transformer.h.#.mlp.w1" } },
                   { FMT_FFN_DOWN, { "transformer.h.#.mlp.c_proj" } },
                   { FMT_OUT_NORM, { "transformer.ln_f" } },
                   { FMT_LM_HEAD, { "lm_head" } } },
        .ignore = { "transformer.rotary_emb.inv_freq", "transformer.h.#.attn.rotary_emb.inv_freq",
                    "transformer.h.#.attn.masked_bias", "transformer.h.#.attn.bias" },
        .refuse = { { "rotary_pct", "1.0", "partial rotary embeddings" },
                    { "no_bias", "true", "biases in every linear" },
                    { "rope_scaling", "null", "scaled rotary embeddings" },
                    { "use_sliding_window", "false", "sliding windows" },
                    { "quantization_config", "null", "quantized checkpoints" } },
    },
    { 0 },
};
