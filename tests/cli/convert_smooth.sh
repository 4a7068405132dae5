# qwen-convert --smoothquant and --calibrate-kv-cache: what the plan shows, and what is refused.
. "$(dirname "$0")/lib.sh"
model=$root/datasets/qwen-tiny
convert=$(bin qwen-convert)
before=$(tree_hash "$model")

expect_exit 0 "$convert" -i "$model" --dry-run --json
plain=$(sed -E 's/.*"files": ([0-9]+), "bytes".*/\1/' "$tmp/stdout")
expect_exit 0 "$convert" -i "$model" -p 2 --dry-run --smoothquant 0.5
cp "$tmp/stdout" "$tmp/plan"
l=model.layers.7
expect_stdout "^$l.attention.qkv.weight.1.bin +\\[256, 384\\] +float16 +196608  transformer.h.7.attn.c_attn.weight$"
expect_stdout "^$l.attention.qkv.weight.int8.1.bin +\\[256, 384\\] +float16 -> int8 +98304  transformer.h.7.attn.c_attn.weight$"
expect_stdout "^$l.mlp.c_proj.weight.int8.col.0.bin +\\[384, 256\\] +float16 -> int8 +98304 "
expect_stdout "^$l.attention.qkv.scale_w_quant_orig.bin +\\[768\\] +float32 +3072  calibration$"
expect_stdout "^$l.mlp.w1.scale_y_accum_quant.col.1.bin +\\[384\\] +float32 +1536  calibration$"
expect_stdout "^$l.attention.dense.smoother.1.bin +\\[128\\] +float32 +512  calibration$"
expect_equal "$(grep -c 'k_scale' "$tmp/plan")" 0
expect_stdout '^smoothed by 0.5, float and int8 weights'
tap_ok "--dry-run of --smoothquant lists int8 weights and scales, and needs no ranges"

expect_exit 0 "$convert" -i "$model" -p 2 --dry-run --smoothquant=0.5
expect cmp "$tmp/stdout" "$tmp/plan"
expect_exit 0 "$convert" -i "$model" --dry-run --json --calibrate-kv-cache
expect_stdout '"calibrate_kv_cache": true'
expect_equal "$(sed -E 's/.*"files": ([0-9]+), "bytes".*/\1/' "$tmp/stdout")" $((plain + 3 * 8))
expect_exit 0 "$convert" -i "$model" --dry-run --json --calibrate-kv-cache --smoothquant 0.75
expect_stdout '"smoothquant": 0.75'
expect_equal "$(sed -E 's/.*"files": ([0-9]+), "bytes".*/\1/' "$tmp/stdout")" $((plain + (42 + 2) * 8))
tap_ok "both spellings, --json, and the scales of the cache"

expect_exit 64 "$convert" -i "$model" -o "$tmp/o" --smoothquant 0.5
expect_stderr '--smoothquant needs --calib-data FILE or --stats FILE'
expect_exit 64 "$convert" -i "$model" -o "$tmp/o" --calibrate-kv-cache
expect_stderr '--calibrate-kv-cache needs --calib-data FILE or --stats FILE'
expect_exit 66 "$convert" -i "$model" -o "$tmp/o" --smoothquant 0.5 --stats "$tmp/none.h5"
expect_stderr 'none.h5'
printf 'no archive' >"$tmp/bad.h5"
expect_exit 65 "$convert" -i "$model" -o "$tmp/o" --smoothquant 0.5 --stats "$tmp/bad.h5"
expect_stderr 'bad.h5'
expect test ! -e "$tmp/o"
expect_equal "$(tree_hash "$model")" "$before"
tap_ok "without ranges nothing is written"

tap_done
