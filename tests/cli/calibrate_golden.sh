# Perplexities of qwen-tiny after calibration, against values computed in float32 by an independent
# implementation (../shared/golden/reference_ppl.json), within 0.3 %.
. "$(dirname "$0")/lib.sh"
model=$root/datasets/qwen-tiny
calib=$shared/data/summaries/calibration.jsonl text=$shared/data/summaries/test.jsonl
num() { sed -nE "s/.*\"$1\": *(-?[0-9.eE+-]+).*/\1/p" "$tmp/stdout"; }
if [ ! -f "$calib" ] || [ ! -f "$text" ]; then
    tap_skip "perplexities after calibration" "$calib is not there"
    tap_done
fi
if [ -z "${QWENKIT_LONG:-}" ]; then
    tap_skip "perplexities after calibration" "takes long: make test LONG=1"
    tap_done
fi
expect_exit 0 "$(bin qwen-convert)" -i "$model" -o "$tmp/sq" --smoothquant 0.5 \
    --calibrate-kv-cache --calib-data "$calib" --calib-prompt raw --calib-seq-len 512 \
    --calib-samples 128
expect_exit 0 "$(bin qwen-convert)" -i "$model" -o "$tmp/auto" --smoothquant auto \
    --calib-data "$calib" --calib-prompt raw --calib-seq-len 512 --calib-samples 32
golden() { # NAME WANTED DIR OPTIONS...
    local name=$1 want=$2 dir=$3
    shift 3
    expect_exit 0 "$(bin qwen-perplexity)" -m "$dir" --device "${QWENKIT_TEST_DEVICE:-cpu}" --data "$text" --max-samples 400 --json "$@"
    expect awk "BEGIN{d = $(num ppl) / $want - 1; exit !(d < 0.003 && d > -0.003)}"
    echo "# $name: perplexity $(num ppl), reference $want"
    tap_ok "$name"
}
golden 'w8a8, not smoothed' 14.6598 "$model" --use-smooth-quant --per-token --per-channel
golden 'w8a8, smooth 0.5' 14.658 "$tmp/sq/1-gpu" --use-smooth-quant --per-token --per-channel
golden 'w8a8, smooth auto (as 0.5)' 14.658 "$tmp/auto/1-gpu" --use-smooth-quant --per-token --per-channel
golden 'int8 KV cache' 14.6333 "$tmp/sq/1-gpu" --kv-cache int8
tap_done
