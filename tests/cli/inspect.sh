# qwen-inspect: every container and family, text, --json and --tensors, and that it changes nothing.
. "$(dirname "$0")/lib.sh"
inspect=$(bin qwen-inspect) convert=$(bin qwen-convert) make=$(bin random-checkpoint)
model=$root/datasets/qwen-tiny
before=$(tree_hash "$model")
num() { sed -nE "s/.*\"$1\": *(-?[0-9]+).*/\1/p" "$tmp/stdout"; }

expect_exit 0 "$inspect" "$model"
expect_empty "$tmp/stderr"
expect_stdout '^  container   Hugging Face$'
expect_stdout '^  family      qwen$'
expect_stdout '^  parameters  8.923 M, float16, scheme f16, 0.02 GB on disk$'
expect_stdout '^  sizes       hidden 256, 8 layers, 2 heads of 128, 2 key/value heads, MLP 768, vocabulary 4096$'
expect_stdout '^  positions   8192, dynamic NTK$'
expect_stdout '^  KV cache    8192 bytes a token in 16 bits$'
expect_stdout '^  tokenizer   4096 tokens, chat format chatml$'
expect_stdout '^  commands    qwen-convert qwen-gptq qwen-awq qwen-calibrate-kv qwen-run qwen-summarize qwen-perplexity '
expect_equal "$(tree_hash "$model")" "$before"
tap_ok "a Hugging Face directory"

expect_exit 0 "$convert" -i "$model" -o "$tmp/ft" -p 2
expect_exit 0 "$inspect" "$tmp/ft"
expect_stdout '^  container   FT directory, cut for 2 ranks$'
expect_exit 0 "$inspect" "$tmp/ft/2-gpu" --json
expect_equal "$(wc -l <"$tmp/stdout")" 1
expect_stdout '"container": "ft", "family": "qwen", "dtype": "float16", "scheme": "f16", "tied_head": false, "tensor_parallelism": 2,'
expect_equal "$(num parameters)" 8923392
expect_equal "$(num bytes)" $((2 * 8923392))
expect_equal "$(num decode_bytes)" $((2 * (8923392 - 4096 * 256)))
expect_equal "$(num kv_bytes_per_token)" 8192
expect_equal "$(num tokens)" 4096
tap_ok "an FT directory, its parent, --json"

expect_exit 0 "$inspect" "$model" --tensors
expect_equal "$(grep -c '\[' "$tmp/stdout")" $((3 + 8 * 7))
expect_stdout '^tok_embd     weight +float16  \[4096, 256\]        transformer.wte.weight$'
expect_stdout '^attn_qkv     bias +7  float16  \[768\]              transformer.h.7.attn.c_attn.bias$'
expect_exit 0 "$inspect" "$model" --tensors --json
expect_equal "$(grep -o '"role"' "$tmp/stdout" | wc -l)" $((3 + 8 * 7))
expect_stdout '\{"role": "ffn_gate_up", "part": "weight", "layer": 0, "dtype": "float16", "shape": \[1536, 256\], "name": "transformer.h.0.mlp.w2.weight"\}'
tap_ok "--tensors lists every part of every role"

# bytes of one decode step and of a token of KV cache, as the published shapes give them
shape() { # PRESET FAMILY GB KV
    rm -rf "$tmp/m"
    expect_exit 0 "$make" --preset "$1" --hollow -o "$tmp/m"
    expect_exit 0 "$inspect" "$tmp/m"
    expect_stdout "^  family      $2$"
    expect_stdout "^  decode      reads $3[0-9]? GB of weights a step$"
    expect_stdout "^  KV cache    $4 bytes a token in 16 bits$"
    expect_stdout '^  tokenizer   none: .*no '
    expect_stdout '^  commands    qwen-convert qwen-run qwen-benchmark$'
    tap_ok "$1: $3 GB a step, $4 bytes a token"
}
shape qwen-7b qwen 14.19 524288
shape qwen2.5-7b qwen2 14.14 57344
shape qwen3-8b qwen3 15.13 147456
shape chatglm3-6b chatglm 11.95 28672

expect_exit 0 "$make" --hidden 64 --heads 2 --ffn 96 --layers 2 --vocab 512 --gptq 32 -o "$tmp/gptq"
expect_exit 0 "$inspect" "$tmp/gptq"
expect_stdout '^  container   Hugging Face, gptq: int4 gptq, groups of 32, symmetric$'
expect_exit 0 "$(bin qwen-benchmark)" -m "$tmp/gptq" --input-len 8 --output-len 2 --json
expect_exit 64 "$make" --hidden 100 --heads 1 --ffn 96 --layers 1 --vocab 64 --gptq 32 -o "$tmp/odd"
expect_stderr 'must be multiples of 8'
tap_ok "a random checkpoint in groups"

expect_exit 64 "$inspect"
expect_stderr 'no model given'
expect_exit 64 "$inspect" "$model" "$model"
expect_exit 66 "$inspect" "$tmp/none"
mkdir "$tmp/bad"
printf '{"model_type": "bert"}' >"$tmp/bad/config.json"
expect_exit 78 "$inspect" "$tmp/bad"
expect_stderr "model_type 'bert' is not supported"
expect_empty "$tmp/stdout"
expect_exit 0 "$inspect" --help
for word in --tensors --json 'Examples:' 'Exit codes: 0 done'; do expect_stdout "$word"; done
tap_ok "errors and help"

tap_done
