# What calibration and quantization make on a GPU: the same bytes twice and after kill -9, perplexities
# of the CPU's.  What is looked at is the float model, whose activations agree: they differ by the f16
# of the GPU's alone.  0.1 % is allowed on the shared test articles, 0.2 % on the few of this project,
# where other codes of the activations of W8A8 alone make 0.1 %.
# QWENKIT_GPU names another device, for trying this without one.
. "$(dirname "$0")/lib.sh"
gpu=${QWENKIT_GPU:-cuda} model=$root/datasets/qwen-tiny data=$root/datasets/samples.jsonl
if ! "$(bin qwen-run)" -m "$model" --device "$gpu" --greedy --input-text a --max-new-tokens 1 \
    >/dev/null 2>&1; then
    tap_skip "recipes on a GPU" "no usable GPU, or a build without nvcc"
    tap_done
fi
num() { sed -nE "s/.*\"$1\": *(-?[0-9.eE+-]+).*/\1/p" "$tmp/stdout"; }
text=$shared/data/summaries/calibration.jsonl test=$shared/data/summaries/test.jsonl percent=0.1
[ -f "$text" ] || text=$data
[ -f "$test" ] || test=$data percent=0.2
cal=(--calib-data "$text" --no-report -q)

# perplexity of a model, on the GPU
score() { # MODEL OPTIONS...
    expect_exit 0 "$(bin qwen-perplexity)" -m "$1" --data "$test" --device "$gpu" --json "${@:2}"
    num ppl
}
near() { # NAME MODEL_OF_CPU MODEL_OF_GPU OPTIONS...
    local a b
    a=$(score "$2" "${@:4}") b=$(score "$3" "${@:4}")
    echo "# $1: perplexity $a made on the CPU, $b on the GPU"
    expect awk "BEGIN{d = 100 * ($b / $a - 1); exit !(d < $percent && d > -$percent)}"
}
# NAME PROGRAM OPTIONS...: an archive of each device, the GPU's twice and by a run that is killed
recipe() {
    local name=$1 program=$2 file
    shift 2
    for file in "cpu cpu" "one $gpu" "two $gpu"; do
        expect_exit 0 "$program" -i "$model" -o "$tmp/${file% *}.h5" "${cal[@]}" --samples 32 \
            --seq-len 512 --device "${file#* }" --force "$@"
    done
    expect cmp "$tmp/one.h5" "$tmp/two.h5"
    for n in 1 3 6; do # killed when a layer is stored
        "$program" -i "$model" -o "$tmp/k.h5" "${cal[@]}" --samples 32 --seq-len 512 \
            --device "$gpu" "$@" >/dev/null 2>&1 &
        pid=$!
        while kill -0 $pid 2>/dev/null && [ ! -e "$tmp/k.h5.job/layer-000$n.h5" ]; do sleep 0.01; done
        { kill -KILL $pid && wait $pid; } 2>/dev/null
    done
    expect test ! -e "$tmp/k.h5"
    expect_exit 0 "$program" -i "$model" -o "$tmp/k.h5" "${cal[@]}" --samples 32 --seq-len 512 \
        --device "$gpu" "$@"
    expect cmp "$tmp/one.h5" "$tmp/k.h5"
    near "$name" "$tmp/cpu.h5" "$tmp/one.h5"
    rm -f "$tmp/k.h5"
    tap_ok "$name: twice and killed three times the same bytes, perplexity of the CPU's"
}
recipe 'gptq' "$(bin qwen-gptq)"
recipe 'awq, clip' "$(bin qwen-awq)" --clip

for device in cpu "$gpu" "$gpu"; do
    rm -rf "$tmp/twice"
    [ ! -d "$tmp/$device" ] || mv "$tmp/$device" "$tmp/twice"
    expect_exit 0 "$(bin qwen-convert)" -i "$model" -o "$tmp/$device" --smoothquant 0.5 \
        --calibrate-kv-cache "${cal[@]}" --device "$device"
done
expect cmp "$tmp/twice/1-gpu/manifest.json" "$tmp/$gpu/1-gpu/manifest.json"
near 'w8a8 smooth 0.5' "$tmp/cpu/1-gpu" "$tmp/$gpu/1-gpu" --use-smooth-quant --per-token --per-channel
near 'int8 KV' "$tmp/cpu/1-gpu" "$tmp/$gpu/1-gpu" --kv-cache int8
tap_ok "SmoothQuant and cache: the same bytes twice, perplexities of the CPU's"
tap_done
