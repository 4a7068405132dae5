# ROUGE of the 200 test pairs for every recipe against f16, LONG=1 only: a minute or two on two cores.
# The reference's gate is a difference below 1.  Greedy texts of this small model differ in 85 % of the
# articles once weights have 4 bits, and the difference of two such means has a standard error of 1.0
# (paired, ROUGE-1, 200 articles): the gate holds where 8 bits are kept; 4 bits must stay within 3 of
# those errors, which a broken recipe (nearest per channel: -4.2) does not.
. "$(dirname "$0")/lib.sh"
model=$root/datasets/qwen-tiny calib=$shared/data/summaries/calibration.jsonl
test=$shared/data/summaries/test.jsonl device=${QWENKIT_TEST_DEVICE:-cpu}
if [ -z "${QWENKIT_LONG:-}" ]; then
    tap_skip "ROUGE of all recipes" "LONG=1 runs it"
    tap_done
fi
if [ ! -f "$calib" ] || [ ! -f "$test" ]; then
    tap_skip "ROUGE of all recipes" "$calib is not there"
    tap_done
fi
num() { sed -nE "s/.*\"$1\": *(-?[0-9.eE+-]+).*/\1/p" "$tmp/stdout"; }
score() { # -m MODEL OPTIONS: rouge1 rouge2 rougeL rougeLsum in $got
    expect_exit 0 "$(bin qwen-summarize)" "$@" --data "$test" --max-samples 200 --greedy --batch 64 \
        --device "$device" --json
    expect_stdout '"samples": 200'
    got="$(num rouge1) $(num rouge2) $(num rougeL) $(num rougeLsum)"
}
row() { # NAME MOST OPTIONS: every difference is below MOST
    local name=$1 most=$2
    shift 2
    score "$@"
    echo "# $name: $(awk -v a="$got" -v b="$base" 'BEGIN{split(a, x, " "); n = split(b, y, " ");
        for (i = 1; i <= n; i++) printf "%.2f (%+.2f) ", x[i], x[i] - y[i]}')"
    expect awk -v a="$got" -v b="$base" -v most="$most" 'BEGIN{split(a, x, " "); n = split(b, y, " ");
        for (i = 1; i <= n; i++) { d = x[i] - y[i]; bad += d >= most || d <= -most } exit bad || n != 4}'
    tap_ok "$name: ROUGE differs by less than $most from $of"
}
of=f16
cal=(--calib-data "$calib" --device "$device" --no-report)
score -m "$model"
base=$got
echo "# f16: $base"
expect awk -v b="$base" 'BEGIN{exit !(b > 39 && b < 41)}'
tap_ok "f16: ROUGE-1 near 40.09"

expect_exit 0 "$(bin qwen-convert)" -i "$model" -o "$tmp/sq" --smoothquant 0.5 --calibrate-kv-cache \
    "${cal[@]}" # 512 samples, as the reference
w8a8=(-m "$tmp/sq/1-gpu" --use-smooth-quant --per-token --per-channel)
row 'int8 weights' 1 -m "$model" --weight-only int8
row 'W8A8, smooth 0.5' 1 "${w8a8[@]}"
row 'int8 KV cache' 1 -m "$tmp/sq/1-gpu" --kv-cache int8
row 'W8A8 and int8 KV cache' 1 "${w8a8[@]}" --kv-cache int8

archive() { # NAME PROGRAM OPTIONS
    local name=$1 program=$2
    shift 2
    rm -f "$tmp/m.h5"
    expect_exit 0 "$(bin "$program")" -i "$model" -o "$tmp/m.h5" --samples 16 --seq-len 512 "${cal[@]}" "$@"
    row "$name" 3 -m "$tmp/m.h5"
}
archive 'GPTQ' qwen-gptq
f16=$base base=$got of=GPTQ # what the cache adds; the noise is that of two texts of 4 bits
row 'GPTQ and int8 KV cache' 3 -m "$tmp/m.h5" --kv-cache int8
base=$f16 of=f16
archive 'GPTQ, asymmetric' qwen-gptq --asym
archive 'GPTQ, act-order' qwen-gptq --act-order
archive 'AWQ' qwen-awq
tap_done
