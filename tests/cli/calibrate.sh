# qwen-convert --smoothquant and qwen-calibrate-kv: statistics and what is made of them, resuming
# after kill -9, changed input, signals, the gate, and what the runtime does with the result.
. "$(dirname "$0")/lib.sh"
model=$root/datasets/qwen-tiny data=$root/datasets/samples.jsonl
convert=$(bin qwen-convert) kv=$(bin qwen-calibrate-kv) ppl=$(bin qwen-perplexity)
num() { sed -nE "s/.*\"$1\": *(-?[0-9.eE+-]+).*/\1/p" "$tmp/stdout"; }
root_of() { sed -nE 's/.*"root_sha256": "([0-9a-f]+)".*/\1/p' "$1/1-gpu/manifest.json"; }
cal=(--calib-data "$data" --calib-samples 12 --calib-seq-len 120)

expect_exit 0 "$convert" -i "$model" -o "$tmp/sq" --smoothquant 0.5 --calibrate-kv-cache "${cal[@]}" \
    --save-stats "$tmp/stats.h5"
expect_exit 0 "$convert" --verify "$tmp/sq/1-gpu"
expect test ! -e "$tmp/sq.job"
want=$(root_of "$tmp/sq")
expect_exit 0 "$convert" -i "$model" -o "$tmp/again" --smoothquant=0.5 --calibrate-kv-cache \
    --stats "$tmp/stats.h5" --threads 1
expect_equal "$(root_of "$tmp/again")" "$want"
expect_exit 0 "$(bin qwen-inspect)" "$tmp/sq"
expect_stdout 'scheme f16 w8a8 kv8'
tap_ok "--smoothquant calibrates; with --stats it gives the same bytes"

expect_exit 0 "$convert" -i "$model" -o "$tmp/auto" --smoothquant auto "${cal[@]}" \
    --save-stats "$tmp/auto.h5"
expect_exit 0 "$convert" -i "$model" -o "$tmp/auto2" --smoothquant auto --stats "$tmp/auto.h5" --threads 1
expect_equal "$(root_of "$tmp/auto2")" "$(root_of "$tmp/auto")"
expect_exit 64 "$convert" -i "$model" -o "$tmp/auto3" --smoothquant auto --stats "$tmp/stats.h5"
expect_stderr 'these statistics hold no exponents: calibrate with --smoothquant auto'
expect_exit 78 "$convert" -i "$model" -o "$tmp/auto3" --smoothquant auto "${cal[@]}" --max-ram 12MiB
expect_stderr 'max-ram allows 12582912'
rm -rf "$tmp/auto3.job"
tap_ok "--smoothquant auto chooses exponents; statistics without them are refused"

expect_exit 0 "$convert" -i "$model" -o "$tmp/dry" --smoothquant 0.5 "${cal[@]}" --dry-run
expect_stdout '^calibration: 12 samples, [0-9]+ tokens, 0.0[0-9] GB of memory, 0.00 GB of job directory, about [0-9.]+ minutes'
expect_stdout '^memory: 0.0[0-9]+ GB: layer 0.00[0-9], statistics 0.000, buffers 0.0[0-9]+, hidden states 0.00[0-9]$'
expect_stdout '^steps of 2048 tokens, hidden states in memory$'
expect_stdout 'model.layers.7.mlp.c_proj.weight.int8.col.0.bin'
expect_exit 0 "$convert" -i "$model" -o "$tmp/dry" --smoothquant auto "${cal[@]}" --dry-run --json \
    --max-ram 1GiB
expect_stdout '"calibration": \{"samples": 12, "tokens": [0-9]+, "seconds": [0-9.e-]+, "hidden_in": "memory"'
expect_stdout '"memory": \{"host": \{"layer": [0-9]+, "statistics": [1-9][0-9]+, .*"budget": 1073741824\}'
expect_exit 78 "$convert" -i "$model" -o "$tmp/dry" --smoothquant 0.5 "${cal[@]}" --dry-run --max-ram 1MiB
expect_stderr 'max-ram allows 1048576'
expect_exit 0 "$kv" -m "$model" -o "$tmp/dry" "${cal[@]}" --dry-run --json
expect_stdout '"calibration": \{"samples": 12'
expect test ! -e "$tmp/dry"
tap_ok "--dry-run shows the calibration, its memory and time, and the files"

kills=0 whole=0
for i in $(seq 60); do # 20 kills; a run that ends before its time is checked and begun anew
    [ $kills -lt 20 ] || break
    {
        timeout -s KILL "0.$(printf %02d $((i * 7 % 19 + 3)))" "$convert" -i "$model" -o "$tmp/k" \
            --smoothquant 0.5 --calibrate-kv-cache "${cal[@]}" -q >/dev/null
    } 2>/dev/null && {
        expect_equal "$(root_of "$tmp/k")" "$want"
        rm -rf "$tmp/k"
        whole=$((whole + 1))
        continue
    }
    kills=$((kills + 1))
done
expect_equal $kills 20
[ -e "$tmp/k/1-gpu" ] || expect_exit 0 "$convert" -i "$model" -o "$tmp/k" --smoothquant 0.5 \
    --calibrate-kv-cache "${cal[@]}" -q
expect_exit 0 "$convert" --verify "$tmp/k/1-gpu"
expect_equal "$(root_of "$tmp/k")" "$want"
tap_ok "killed 20 times, $((whole + 1)) runs came to their end: the same bytes"

cp -r "$model" "$tmp/own model"
(trap - INT; exec "$convert" -i "$tmp/own model" -o "$tmp/s" --smoothquant 0.5 "${cal[@]}" \
    --calib-samples 60 >"$tmp/stdout" 2>"$tmp/stderr") & # a background job would ignore it
pid=$!
for _ in $(seq 200); do [ -e "$tmp/s.job/layer-0000.h5" ] && break; sleep 0.02; done
kill -INT $pid
wait $pid
expect_equal $? 75
expect_stderr '/s.job keeps what is done; continue with$'
resume=$(grep "^  [^ ]*qwen-convert -i '$tmp/own model' .*--calib-samples 60\$" "$tmp/stderr")
expect test -e "$tmp/s.job/job.json"
expect test ! -e "$tmp/s"
expect_exit 78 "$convert" -i "$tmp/own model" -o "$tmp/s" --smoothquant 0.5 "${cal[@]}" --calib-samples 59
expect_stderr 's.job: was begun with another samples'
cp -r "$tmp/s.job" "$tmp/kept.job"
expect_exit 0 bash -c "$resume"
expect test -e "$tmp/s/1-gpu/manifest.json"
mv "$tmp/kept.job" "$tmp/t.job"
printf x | dd of="$tmp/own model/model.safetensors" bs=1 seek=9000001 conv=notrunc 2>/dev/null
expect_exit 78 "$convert" -i "$tmp/own model" -o "$tmp/t" --smoothquant 0.5 "${cal[@]}" --calib-samples 60
expect_stderr "t.job: was begun with another version of the model's files"
expect_exit 0 "$convert" -i "$tmp/own model" -o "$tmp/t" --smoothquant 0.5 "${cal[@]}" --no-resume
tap_ok "a signal is exit 75 and gives the command to go on; other samples and weights are refused by name"

expect_exit 64 "$convert" -i "$model" -o "$tmp/u" --smoothquant 0.5
expect_stderr '\-\-smoothquant needs --calib-data FILE or --stats FILE'
expect_exit 64 "$convert" -i "$model" -o "$tmp/u" --smoothquant 1.5 "${cal[@]}"
expect_exit 64 "$convert" -i "$model" -o "$tmp/u" "${cal[@]}"
expect_exit 66 "$convert" -i "$model" -o "$tmp/u" --smoothquant 0.5 --calib-data "$tmp/none.jsonl"
expect_exit 73 "$convert" -i "$model" -o "$tmp/sq" --smoothquant 0.5 --calib-data "$tmp/none.jsonl"
expect_stderr 'sq/1-gpu: exists; --force replaces it'
expect_exit 73 "$convert" -i "$model" -o "$tmp/u" --smoothquant 0.5 "${cal[@]}" \
    --save-stats "$tmp/stats.h5"
expect_stderr 'stats.h5: exists; --force overwrites it'
expect_exit 78 "$convert" -i "$model" -o "$tmp/u" --smoothquant 0.5 "${cal[@]}" --max-ram 1MiB
expect_stderr 'max-ram allows 1048576'
rm -rf "$tmp/u.job"
expect_exit 65 "$convert" -i "$model" -o "$tmp/u" --smoothquant 0.5 --stats "$data"
expect_stderr 'not an HDF5 file'
for other in '--calib-samples 3' '--calib-prompt raw' '--max-ram 1GiB' --no-resume; do
    # shellcheck disable=SC2086
    expect_exit 64 "$kv" -m "$model" -o "$tmp/st" --stats "$tmp/stats.h5" $other
    expect_stderr 'stats takes what was found before'
done
expect_exit 0 "$convert" -i "$model" -o "$tmp/float" # the same values: the same statistics
expect_exit 0 "$kv" -m "$tmp/float" -o "$tmp/of_ft" --stats "$tmp/stats.h5" --no-report
expect_exit 0 "$kv" -m "$model" -o "$tmp/of_hf" --stats "$tmp/stats.h5" --no-report
expect_equal "$(root_of "$tmp/of_ft")" "$(root_of "$tmp/of_hf")"
expect_exit 78 "$kv" -m "$tmp/sq" -o "$tmp/st" --stats "$tmp/stats.h5" # its v rows are others
expect_stderr 'stats.h5: made on another model, or on one stored in another type \(hash [0-9a-f]{12}, this one has [0-9a-f]{12}\)'
mkdir "$tmp/st.job"
expect_exit 0 "$kv" -m "$model" -o "$tmp/st" --stats "$tmp/stats.h5" --no-report
expect test -d "$tmp/st.job" # of another run
for seed in 1 2; do
    expect_exit 0 "$convert" -i "$model" -o "$tmp/u" --smoothquant 0.5 --calib-data "$data" \
        --calib-samples 3 --calib-shuffle --seed $seed --dry-run --json
    eval "tokens$seed=$(num tokens)"
done
[ "${tokens1:-0}" != "${tokens2:-0}" ] || fail "--dry-run draws the same samples with every seed"
expect test ! -e "$tmp/u"
tap_ok "wrong options, missing data, a budget that is too small"

expect_exit 0 "$kv" -m "$model" -o "$tmp/kv" "${cal[@]}" --text "$root/README.md" --json \
    --assert 'ppl_delta<0.5'
delta=$(num ppl_delta)
expect_stdout '"ppl_float": [0-9.]+'
expect_exit 0 "$ppl" -m "$tmp/kv/1-gpu" --text "$root/README.md" --kv-cache int8 --json
with=$(num ppl)
expect_exit 0 "$ppl" -m "$tmp/kv/1-gpu" --text "$root/README.md" --json
expect_equal "$(awk "BEGIN{printf \"%.9f\", $with - $(num ppl)}")" "$(printf %.9f "$delta")"
expect_exit 73 "$kv" -m "$model" -o "$tmp/kv" --calib-data "$tmp/none.jsonl" # before calibrating
expect_stderr 'kv/1-gpu: exists; --force replaces it'
expect_exit 0 "$kv" -m "$model" -o "$tmp/dry" --stats "$tmp/stats.h5" --dry-run
expect_stdout 'model.layers.7.attention.k_scale.bin'
expect test ! -e "$tmp/dry"
expect_exit 2 "$kv" -m "$model" -o "$tmp/kv" --stats "$tmp/stats.h5" --force \
    --text "$root/README.md" --assert 'ppl<1'
expect_stderr 'kv/1-gpu: ppl is [0-9.]+, wanted ppl<1: it stays there, remove it or .* \(exit 2\)'
expect test -e "$tmp/kv/1-gpu/config.ini"
expect_exit 64 "$kv" -m "$model" -o "$tmp/kv2" "${cal[@]}" --text "$data" --assert 'pp<1'
expect_stderr "there is no figure 'pp'; known: ppl ppl_float ppl_delta ppl_ratio kld_mean top1"
: >"$tmp/empty.txt"
expect_exit 65 "$kv" -m "$model" -o "$tmp/kv2" "${cal[@]}" --text "$tmp/empty.txt" # before calibrating
expect_stderr 'empty.txt: no samples in it'
expect test ! -e "$tmp/kv2.job"
expect_exit 64 "$kv" -m "$model" -o "$tmp/kv2" "${cal[@]}" --text "$data" --assert 'ppl'
expect_exit 64 "$kv" -m "$model" -o "$tmp/kv2"
expect_exit 64 "$kv" -m "$model" -o "$tmp/kv2" "${cal[@]}" -t int8
expect_stderr "--storage-type: 'int8' is not float16, bfloat16 or float32"
expect_exit 64 "$kv" -m "$model" -o "$tmp/kv2" "${cal[@]}" -p 65
expect_stderr "--tensor-parallelism: '65' is not a whole number from 1 to 64"
expect_exit 66 "$kv" -m "$model" -o "$tmp/kv2" "${cal[@]}" --text "$tmp/none.txt" # before calibrating
expect test ! -e "$tmp/kv2"
expect_exit 78 "$(bin qwen-run)" -m "$model" --input-text a --kv-cache int8
expect_stderr 'calibrate first: qwen-calibrate-kv'
tap_ok "qwen-calibrate-kv: scales, the comparison, the gate"

# every mode of w8a8 runs and stays near the float model, one directory for all
expect_exit 0 "$ppl" -m "$tmp/sq/1-gpu" --data "$data" --json
float=$(num ppl)
for mode in '--per-token --per-channel' '--per-token' '--per-channel' ''; do
    # shellcheck disable=SC2086
    expect_exit 0 "$ppl" -m "$tmp/sq/1-gpu" --data "$data" --json --use-smooth-quant $mode
    expect awk "BEGIN{exit !($(num ppl) < 1.2 * $float && $(num ppl) > 0.99 * $float)}"
done
one=$(num ppl) # a scale for each tensor, cut for two ranks: the same values
expect_exit 0 "$convert" -i "$model" -o "$tmp/sq" -p 2 --smoothquant 0.5 --stats "$tmp/stats.h5"
expect_exit 0 "$ppl" -m "$tmp/sq/2-gpu" --data "$data" --json --use-smooth-quant
expect_equal "$(num ppl)" "$one"
expect_exit 0 "$ppl" -m "$model" --data "$data" --json --use-smooth-quant --per-token --per-channel
expect awk "BEGIN{exit !($(num ppl) < 1.01 * $float)}"
expect_exit 78 "$ppl" -m "$model" --data "$data" --use-smooth-quant
expect_stderr 'smoothquant'
expect_exit 64 "$ppl" -m "$model" --data "$data" --use-smooth-quant --weight-only int8
expect_exit 64 "$ppl" -m "$model" --data "$data" --per-token
tap_ok "w8a8 in all four modes, and without smoothing"

tap_done
