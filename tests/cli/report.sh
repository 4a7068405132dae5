# Reports of qwen-gptq, qwen-convert, qwen-calibrate-kv and qwen-perplexity: they are there, complete,
# hold the numbers that --json prints, survive a stop, and change nothing in the archive.
. "$(dirname "$0")/lib.sh"
model=$root/datasets/qwen-tiny data=$root/datasets/samples.jsonl
gptq=$(bin qwen-gptq) convert=$(bin qwen-convert) kv=$(bin qwen-calibrate-kv)
ppl=$(bin qwen-perplexity)
cal=(--calib-data "$data" --samples 1 --seq-len 32)
thin=("${cal[@]}" --damp 1e-6) # fewer tokens than inputs: some linears need f64, some more damping
small=(--calib-data "$data" --calib-samples 2 --calib-seq-len 40)
page() { # FILE: one whole page, nothing from outside, under 2 MB
    expect_in "$1" '^<!DOCTYPE html>'
    expect_in "$1" '^</html>'
    expect test "$(grep -ciE '<script|https?://|nan"|inf"' "$1")" = 0
    expect test "$(wc -c <"$1")" -lt 2000000
}
num() { sed -nE "s/.*\"$1\": *(-?[0-9.eE+-]+).*/\1/p" "$2" | head -1; }

expect_exit 0 "$gptq" -i "$model" -o "$tmp/m.h5" "${thin[@]}"
expect_stdout '^report: .*/m\.report\.html$'
expect_stderr 'qwen-gptq: layer [0-7], [a-z_]+: second moments needed f64'
expect_stderr 'qwen-gptq: warning: layer [0-7], [a-z_]+: second moments needed damping 1e-05'
page "$tmp/m.report.html"
for part in 'The linears with the largest errors' 'Keys and values' 'Inputs that were always zero' \
    'Most that was used' 'Linears that needed f64' 'In f64' 'Time of a layer' 'Memory of the process' \
    'are the smallest or the largest code'; do
    expect_in "$tmp/m.report.html" "$part"
done
expect_in "$tmp/m.report.html" '<title>layer 7, gptq: [0-9.e-]+</title>'
expect_in "$tmp/m.report.html" "qwen-convert --verify $tmp/m.h5"
cp "$tmp/m.h5" "$tmp/first.h5"
expect_exit 0 "$gptq" -i "$model" -o "$tmp/m.h5" "${thin[@]}" --force --json
expect_in "$tmp/m.report.json" "$(grep -oE '"root_sha256": "[0-9a-f]{64}"' "$tmp/stdout")"
expect_in "$tmp/m.report.json" "$(grep -oE '"data_sha256": "[0-9a-f]{64}"' "$tmp/stdout")"
expect_in "$tmp/m.report.json" "$(grep -oE '"error": [0-9.e-]+' "$tmp/stdout" | tail -1 | cut -d' ' -f2)"
expect_stdout '"report": "[^"]*m\.report\.html"'
expect_equal "$(num f64 "$tmp/m.report.json")" "$(grep -o '"f64": true' "$tmp/stdout" | wc -l)"
expect cmp "$tmp/m.h5" "$tmp/first.h5"
tap_ok "qwen-gptq: the report has the numbers of --json, the archive its bytes"

expect_exit 0 "$gptq" -i "$model" -o "$tmp/plain.h5" --rtn
page "$tmp/plain.report.html"
expect_in "$tmp/plain.report.json" '"method": "rounding to nearest"'
expect_exit 0 "$gptq" -i "$model" -o "$tmp/none.h5" --rtn --no-report
expect test ! -e "$tmp/none.report.html"
expect cmp "$tmp/plain.h5" "$tmp/none.h5"
tap_ok "--rtn has a short report, --no-report none"

for i in $(seq 60); do # stopped in the middle, continued: every layer is in the report
    rm -rf "$tmp/k.h5" "$tmp/k.h5.job"
    timeout -s TERM "0.$(printf %02d $((i * 17 % 90 + 9)))" "$gptq" -i "$model" -o "$tmp/k.h5" \
        "${thin[@]}" -q >/dev/null 2>&1
    ls "$tmp/k.h5.job/"*layer* >/dev/null 2>&1 && break
done
expect_exit 0 "$gptq" -i "$model" -o "$tmp/k.h5" "${thin[@]}"
expect_stderr 'continuing .*k\.h5\.job behind layer'
expect cmp "$tmp/m.h5" "$tmp/k.h5"
expect_equal "$(sed -n '/"error_attn_qkv"/,/"solver"/p' "$tmp/k.report.json" | sha256sum)" \
    "$(sed -n '/"error_attn_qkv"/,/"solver"/p' "$tmp/m.report.json" | sha256sum)"
expect_equal "$(sed -n '/"input_attn_qkv"/,/"cost"/p' "$tmp/k.report.json" | sha256sum)" \
    "$(sed -n '/"input_attn_qkv"/,/"cost"/p' "$tmp/m.report.json" | sha256sum)"
expect test "$(num f64 "$tmp/k.report.json")" -gt 0
expect_equal "$(num f64 "$tmp/k.report.json")" "$(num f64 "$tmp/m.report.json")"
tap_ok "a continued run reports what was done before"

expect_exit 0 "$(bin qwen-awq)" -i "$model" -o "$tmp/w.h5" "${cal[@]}"
page "$tmp/w.report.html"
for part in 'Alphas that were chosen' 'as the model has it' 'with factors' 'Keys and values' Sizes; do
    expect_in "$tmp/w.report.html" "<(figcaption|h[23])[^>]*>$part"
done
expect_in "$tmp/w.report.html" '<title>layer 7, awq: [0-9.e-]+</title>'
expect_in "$tmp/w.report.html" '<title>layer 7, rounded to nearest: [0-9.e-]+</title>'
expect_exit 0 "$gptq" -i "$model" -o "$tmp/p.h5" "${cal[@]}" --pre-scale="$tmp/w.h5"
page "$tmp/p.report.html"
for part in 'as the model has it' 'with factors'; do
    expect_in "$tmp/p.report.html" "<(figcaption|h[23])[^>]*>$part"
done
tap_ok "qwen-awq, and GPTQ with its factors: alphas, maps before and after"

odd="$tmp/a<b>&\"'c"
expect_exit 0 "$convert" -i "$model" -o "$odd" --smoothquant 0.5 --calibrate-kv-cache "${small[@]}"
expect_stdout '/1-gpu\.report\.html$'
page "$odd/1-gpu.report.html"
expect_in "$odd/1-gpu.report.html" 'a&lt;b&gt;&amp;&quot;&#39;'
for part in 'after smoothing' 'Keys and values' 'Time of a layer' 'Memory of the process'; do
    expect_in "$odd/1-gpu.report.html" "$part"
done
expect_in "$odd/1-gpu.report.json" '"values": \{'
expect_exit 0 "$convert" --verify "$odd/1-gpu"
expect_exit 0 "$(bin qwen-inspect)" "$odd"
tap_ok "qwen-convert --smoothquant: maps before and after, odd names are escaped"

expect_exit 0 "$kv" -m "$model" -o "$tmp/kv" "${small[@]}" --json
expect_stdout '"report": ".*/1-gpu\.report\.html"'
page "$tmp/kv/1-gpu.report.html"
expect_in "$tmp/kv/1-gpu.report.html" 'Keys and values'
expect_exit 0 "$kv" -m "$model" -o "$tmp/kv2" "${small[@]}" --no-report
expect test ! -e "$tmp/kv2/1-gpu.report.html"
tap_ok "qwen-calibrate-kv: ranges per head"

text=(--data "$data" --max-samples 1 --window 64)
expect_exit 0 "$ppl" -m "$tmp/m.h5" "${text[@]}" --base "$model" --json
cp "$tmp/stdout" "$tmp/gptq.json"
expect_exit 0 "$ppl" -m "$tmp/plain.h5" "${text[@]}" --base "$model" --json
cp "$tmp/stdout" "$tmp/rtn.json"
expect_exit 0 "$ppl" -m "$model" "${text[@]}" --report "$tmp/p.html" \
    --compare "$tmp/gptq.json,$tmp/rtn.json"
page "$tmp/p.html"
expect_in "$tmp/p.json" "$(num ppl "$tmp/gptq.json")"
expect_in "$tmp/p.json" "$(num kld_mean "$tmp/rtn.json")"
expect_in "$tmp/p.json" '"best": true'
tap_ok "qwen-perplexity --report --compare: three runs side by side"

expect_exit 73 "$ppl" -m "$model" "${text[@]}" --report "$tmp/p.html"
expect_stderr 'p\.html: exists: remove it'
expect_exit 73 "$ppl" -m "$model" "${text[@]}" --report "$tmp/absent/p.html"
expect_stderr "absent/p.html: there is no directory '.*/absent': make it first"
expect_exit 64 "$ppl" -m "$model" "${text[@]}" --report ''
expect_exit 66 "$ppl" -m "$tmp/none" "${text[@]}" --report "$tmp/q.html" --compare "$tmp/absent.json"
expect_stderr 'absent.json: cannot open' # before the model is
expect_exit 64 "$ppl" -m "$model" "${text[@]}" --compare "$tmp/rtn.json"
expect_stderr '--compare goes with --report'
expect_exit 78 "$ppl" -m "$model" "${text[@]}" --window 32 --report "$tmp/q.html" \
    --compare "$tmp/rtn.json"
expect_stderr 'rtn\.json: was measured in windows of 64 tokens, here 32: use --window 64'
sed 's/"text_sha256": "./"text_sha256": "x/' "$tmp/rtn.json" >"$tmp/other.json"
expect_exit 78 "$ppl" -m "$model" "${text[@]}" --report "$tmp/q.html" --compare "$tmp/other.json"
expect_stderr 'other\.json: was measured on another text'
echo '{"window": 64, "model_bytes": 1}' >"$tmp/bad.json"
expect_exit 78 "$ppl" -m "$model" "${text[@]}" --report "$tmp/q.html" --compare "$tmp/bad.json"
expect_stderr "bad\.json: 'model' is missing: is it a result of qwen-perplexity --json\?"
expect_exit 66 "$ppl" -m "$model" "${text[@]}" --report "$tmp/q.html" --compare "$tmp/absent.json"
expect test ! -e "$tmp/q.html"
tap_ok "results that cannot be compared are refused with the reason"
tap_done
