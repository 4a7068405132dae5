# qwen-gptq and qwen-awq: perplexities of the built-in checkpoint, the same bytes on every way to the
# end, wrong options and damaged input.  LONG=1 runs the reference's text of 400 articles against
# ../shared/golden/reference_ppl.json: nearest 15.864 and 15.689, GPTQ at most 15.501, asymmetric
# 15.438, act-order 15.494 (theirs saw 128 windows, 16 do here); otherwise 40 articles.
. "$(dirname "$0")/lib.sh"
model=$root/datasets/qwen-tiny data=$root/datasets/samples.jsonl
gptq=$(bin qwen-gptq) awq=$(bin qwen-awq) ppl=$(bin qwen-perplexity)
num() { sed -nE "s/.*\"$1\": *(-?[0-9.eE+-]+).*/\1/p" "$tmp/stdout"; }
text() { sed -nE "s/.*\"$1\": \"([^\"]*)\".*/\1/p" "$tmp/stdout"; }
within() { expect awk "BEGIN{exit !($1 >= $2 && $1 <= $3)}"; }
cal=(--calib-data "$data" --samples 3 --seq-len 150)

calib=$shared/data/summaries/calibration.jsonl test=$shared/data/summaries/test.jsonl
if [ -f "$calib" ] && [ -f "$test" ]; then
    score() { # NAME LEAST MOST PROGRAM OPTIONS...
        local name=$1 least=$2 most=$3 program=$4
        shift 4
        rm -f "$tmp/m.h5"
        expect_exit 0 "$program" -i "$model" -o "$tmp/m.h5" "$@"
        expect_exit 0 "$ppl" -m "$tmp/m.h5" --data "$test" --max-samples "$articles" --json \
            --device "${QWENKIT_TEST_DEVICE:-cpu}"
        echo "# $name: perplexity $(num ppl)"
        within "$(num ppl)" "$least" "$most"
        tap_ok "$name: perplexity between $least and $most"
    }
    articles=40 full=(--calib-data "$calib" --samples 16 --seq-len 512)
    if [ -n "${QWENKIT_LONG:-}" ]; then # the reference's text, its figures and 0.3 %
        articles=400
        score 'nearest, symmetric' 15.817 15.912 "$gptq" --rtn
        score 'nearest, asymmetric' 15.642 15.736 "$gptq" --rtn --asym
        score 'GPTQ' 14.63 15.547 "$gptq" "${full[@]}"
        score 'GPTQ, asymmetric' 14.63 15.485 "$gptq" "${full[@]}" --asym
        score 'GPTQ, act-order' 14.63 15.540 "$gptq" "${full[@]}" --act-order
        score 'AWQ, at most nearest' 14.63 15.689 "$awq" "${full[@]}"
    else
        score 'nearest, symmetric' 14.20 14.22 "$gptq" --rtn
        score 'GPTQ' 13.5 13.95 "$gptq" "${full[@]}"
    fi
else
    tap_skip "perplexities" "$calib is not there"
fi

expect_exit 0 "$gptq" -i "$model" -o "$tmp/a.h5" "${cal[@]}" --json
expect_stdout '"recipe": "gptq, 4 bits, group 128, sym, damp 0.01, float inputs"'
expect_stdout '"layer": 7, "role": "ffn_down", "error": [0-9.e-]+, "error_nearest"'
want=$(text root_sha256)
within "$(num error | head -1)" 0 1
expect test ! -e "$tmp/a.h5.job"
expect_exit 0 "$gptq" -i "$model" -o "$tmp/b.h5" "${cal[@]}" --threads 1
expect_stdout 'b.h5, 40 linears, [0-9]+ bytes, .* output error 0.0[0-9]+, rounded to nearest'
expect cmp "$tmp/a.h5" "$tmp/b.h5"
expect_exit 0 "$(bin qwen-inspect)" --verify "$tmp/a.h5"
expect_exit 0 "$(bin qwen-run)" -m "$tmp/a.h5" --input-text 'The' --max-new-tokens 4
tap_ok "two runs, any number of threads: the same bytes; the archive runs"

# int4 weights and an int8 cache: archives have the steps, of the float model; those of others get
# them, measured on the model itself
kv=$(bin qwen-calibrate-kv)
scales() { h5dump -d "/kv/layers.$2/$3" "$1" | sed -nE 's/^ *\(0\): //p' | head -1 | tr -d ','; }
near() { # PERCENT FILE FILE: every step is as near
    local l which
    for l in 0 3 7; do for which in k_scale v_scale; do
        expect awk "BEGIN{split(\"$(scales "$2" $l $which)\", a, \" \"); \
            n = split(\"$(scales "$3" $l $which)\", b, \" \"); bad = n != 2;
            for (i = 1; i <= n; i++) bad += (a[i] / b[i] - 1) ^ 2 > ($1 / 100) ^ 2; exit bad}"
    done; done
}
expect_exit 0 "$awq" -i "$model" -o "$tmp/w.h5" "${cal[@]}"
expect_exit 0 "$gptq" -i "$model" -o "$tmp/r.h5" --rtn
expect_exit 78 "$(bin qwen-run)" -m "$tmp/r.h5" --input-text The --kv-cache int8
for m in a w r; do
    expect_exit 0 "$kv" -m "$tmp/$m.h5" -o "$tmp/$m-kv.h5" --calib-prompt windows "${cal[@]}"
    expect_stdout "$m-kv.h5: with scales of the key/value cache"
    expect_exit 0 "$(bin qwen-inspect)" --verify "$tmp/$m-kv.h5"
    expect_exit 0 "$ppl" -m "$tmp/$m-kv.h5" --data "$data" --max-samples 20 --json
    float=$(num ppl)
    expect_exit 0 "$ppl" -m "$tmp/$m-kv.h5" --data "$data" --max-samples 20 --json --kv-cache int8
    within "$(num ppl)" "$float * 0.995" "$float * 1.005"
done
if command -v h5dump >/dev/null; then
    near 10 "$tmp/a.h5" "$tmp/a-kv.h5" # float model against quantized: 7.2 % at most
    near 10 "$tmp/w.h5" "$tmp/w-kv.h5" # 6.3 %
    expect_exit 0 h5dump -a /tensors/transformer.h.3.mlp.w1/damp "$tmp/a.h5"
    expect_stdout '0\.01'
    expect_exit 0 h5dump -a /tensors/transformer.h.3.mlp.w1/error_rel "$tmp/w.h5"
    for m in a w a-kv; do # what calibration saw
        expect_exit 0 h5ls -r "$tmp/$m.h5"
        expect_equal "$(grep -cE '^/stats/.*/(absmax|h_diag|loss) ' "$tmp/stdout")" 120
        expect_stdout '/stats/transformer.h.7.mlp.c_proj/h_diag Dataset \{768\}'
    done
    loss() { h5dump -d "/stats/$1/loss" -s 1 -c 1 "$tmp/a.h5" | sed -nE 's/^ *\(1\): //p'; }
    lost() { h5dump -a "/tensors/$1/error_rel" "$tmp/a.h5" | sed -nE 's/^ *\(0\): //p'; }
    for m in 0.attn.c_attn 5.mlp.c_proj; do
        within "$(loss transformer.h.$m)" "$(lost transformer.h.$m) * 0.99999" \
            "$(lost transformer.h.$m) * 1.00001"
    done
    expect_exit 0 h5dump -a tool -a tool_version "$tmp/a.h5"
    expect_stdout '"qwenkit"'
    expect_stdout '"[0-9]+\.[0-9]+\.[0-9]+"'
fi
expect_exit 0 "$(bin qwen-inspect)" "$tmp/w.h5" --tensors
expect_stdout 'statistics  absmax, h_diag and loss of 40 modules, from calibration'
expect_stdout 'ffn_down +h_diag +7 +float32 +\[1, 768\] +/stats/transformer.h.7.mlp.c_proj/h_diag'
expect_exit 0 "$(bin qwen-inspect)" "$tmp/r.h5" --json
expect_stdout '"stats_modules": 0'
expect_exit 64 "$kv" -m "$tmp/a.h5" -o "$tmp/n.h5" "${cal[@]}" -p 2
expect_stderr 'is quantized by groups: --storage-type and --tensor-parallelism are of FT directories'
expect_exit 64 "$kv" -m "$tmp/a.h5" -o "$tmp/a.h5" "${cal[@]}" --force
expect_exit 73 "$kv" -m "$tmp/a.h5" -o "$tmp/w.h5" --calib-data "$tmp/none.jsonl"
expect_exit 0 "$(bin qwen-convert)" -i "$tmp/a.h5" -o "$tmp/gptq" --to hf-gptq
expect_stderr 'a.h5: its scales of an int8 key/value cache stay behind'
expect_exit 0 "$kv" -m "$tmp/gptq" -o "$tmp/n.h5" "${cal[@]}" --dry-run --json
expect_stdout '"samples": 3'
expect test ! -e "$tmp/n.h5"
rm -rf "$tmp/gptq" "$tmp"/*-kv* "$tmp/w.h5" "$tmp/r.h5"
tap_ok "int4 weights with an int8 cache: archives have the steps, or get them"

kills=0
for i in $(seq 40); do # a run that ends before its time is checked and begun anew
    [ $kills -lt 8 ] || break
    {
        timeout -s KILL "0.$(printf %02d $((i * 13 % 37 + 12)))" "$gptq" -i "$model" \
            -o "$tmp/k.h5" "${cal[@]}" -q >/dev/null
    } 2>/dev/null && { expect cmp "$tmp/a.h5" "$tmp/k.h5"; rm -f "$tmp/k.h5"; continue; }
    [ ! -e "$tmp/k.h5" ] || { expect cmp "$tmp/a.h5" "$tmp/k.h5"; rm -f "$tmp/k.h5"; }
    kills=$((kills + 1))
done
expect_equal $kills 8
[ -e "$tmp/k.h5" ] || expect_exit 0 "$gptq" -i "$model" -o "$tmp/k.h5" "${cal[@]}" -q
expect cmp "$tmp/a.h5" "$tmp/k.h5"
tap_ok "killed 8 times and continued: the same bytes"

"$awq" -i "$model" -o "$tmp/s.h5" "${cal[@]}" >"$tmp/stdout" 2>"$tmp/stderr" &
pid=$!
for _ in $(seq 400); do [ -e "$tmp/s.h5.job/layer-0000.h5" ] && break; sleep 0.02; done
kill -TERM $pid
wait $pid
expect_equal $? 75
expect_stderr '/s.h5.job keeps what is done; continue with$'
expect_stderr '^  [^ ]*qwen-awq -i .* -o [^ ]*/s.h5 '
expect test ! -e "$tmp/s.h5"
expect_exit 78 "$awq" -i "$model" -o "$tmp/s.h5" "${cal[@]}" --clip
expect_stderr 's.h5.job: was begun with another recipe'
expect_exit 0 "$awq" -i "$model" -o "$tmp/s.h5" "${cal[@]}"
expect test ! -e "$tmp/s.h5.job"
tap_ok "a signal is exit 75 and says how to go on; another recipe is refused"

"$gptq" -i "$model" -o "$tmp/p.h5" --asym --pre-scale="$tmp/s.h5" "${cal[@]}" -q >/dev/null
for m in p s; do # with factors, losses and steps of the cache; p with damping
    expect_exit 0 "$(bin qwen-convert)" -i "$tmp/$m.h5" -o "$tmp/c.h5" --to h5 --force
    expect cmp "$tmp/$m.h5" "$tmp/c.h5"
done
rm -f "$tmp/p.h5" "$tmp/c.h5"
tap_ok "an archive that is rewritten keeps its bytes"

expect_exit 73 "$gptq" -i "$model" -o "$tmp/a.h5" --calib-data "$tmp/none.jsonl"
expect_stderr 'a.h5: exists; --force overwrites it'
expect_exit 0 "$gptq" -i "$model" -o "$tmp/a.h5" --rtn --force
expect_exit 73 "$gptq" -i "$model" -o "$model" --rtn --force
expect_exit 66 "$gptq" -i "$model" -o "$tmp/n.h5" --calib-data "$tmp/none.jsonl"
expect_exit 78 "$gptq" -i "$model" -o "$tmp/n.h5" "${cal[@]}" --max-ram 20MiB --device cpu
expect_stderr 'a layer \([0-9]+ bytes\), statistics .* need [0-9]+ bytes of memory, --max-ram allows 20971520'
rm -rf "$tmp/n.h5.job"
expect_exit 64 "$gptq" -i "$model" -o "$tmp/n.h5"
expect_stderr 'calib-data FILE is missing'
expect_exit 64 "$gptq" -i "$model" --rtn
expect_stderr 'output is missing'
for other in --act-order "--calib-data $data" '--device cpu' '--max-vram 1GiB' --no-resume; do
    # shellcheck disable=SC2086
    expect_exit 64 "$gptq" -i "$model" -o "$tmp/n.h5" --rtn $other
    expect_stderr 'rtn looks at no text'
done
expect_exit 64 "$gptq" -i "$model" -o "$tmp/n.h5" --rtn --bits 5
expect_exit 64 "$gptq" -i "$model" -o "$tmp/n.h5" --rtn --group-size 100
expect_exit 64 "$gptq" -i "$model" -o "$tmp/n.h5" "${cal[@]}" --damp 0
expect_exit 65 "$gptq" -i "$model" -o "$tmp/n.h5" --calib-data "$data" --seq-len 100000
expect_stderr 'not one window of 100000'
for how in "${cal[*]}" "${cal[*]} --dry-run" --rtn '--rtn --dry-run'; do
    # shellcheck disable=SC2086
    expect_exit 78 "$gptq" -i "$tmp/s.h5" -o "$tmp/n.h5" $how
    expect_stderr 'quantized already'
done
expect_exit 66 "$gptq" -i "$model" -o "$tmp/n.h5" "${cal[@]}" --pre-scale="$tmp/none.h5"
expect_exit 65 "$gptq" -i "$model" -o "$tmp/n.h5" "${cal[@]}" --pre-scale="$model"
expect_stderr 'wanted an archive of qwen-awq'
expect_exit 65 "$gptq" -i "$model" -o "$tmp/n.h5" "${cal[@]}" --pre-scale="$tmp/a.h5"
expect_stderr 'a.h5: (does not say|holds no factors)'
expect_exit 0 "$gptq" -i "$model" -o "$tmp/n.h5" "${cal[@]}" --pre-scale="$tmp/s.h5" --dry-run
expect_stdout 'awq factors of [0-9a-f]{16}, gptq, 4 bits'
expect_exit 0 "$gptq" -i "$model" -o "$tmp/n.h5" "${cal[@]}" --pre-scale "$tmp/s.h5" --dry-run
expect_stdout 'awq factors of [0-9a-f]{16}, gptq, 4 bits'
expect_exit 64 "$gptq" -i "$model" -o "$tmp/n.h5" "${cal[@]}" --pre-scale="$tmp/s.h5" stray
expect_stderr "unexpected argument 'stray'"
expect test ! -e "$tmp/n.h5"
expect_exit 64 "$gptq" -i "$model" -o '' --rtn
expect_stderr 'output is missing'
expect_exit 73 "$gptq" -i "$model" -o "$tmp/absent/n.h5" --rtn
expect_stderr 'absent/n.h5: there is no directory .*/absent.: make it first \(exit'
tap_ok "existing output, missing and wrong options, a quantized input"

cp -r "$model" "$tmp/in"
for out in in/n.h5 in/model.safetensors in/../in/n.h5; do # small files of a model go into the archive
    expect_exit 64 "$gptq" -i "$tmp/in" -o "$tmp/$out" --rtn --force
    expect_stderr 'lies in the directory of the input, .*: choose another --output'
    expect_exit 64 "$awq" -i "$tmp/in" -o "$tmp/$out" "${cal[@]}" --force
done
expect diff -r "$model" "$tmp/in"
tap_ok "an archive is not written among the files of its model"

(
    ulimit -f 1000 # blocks of 1 KiB
    "$gptq" -i "$model" -o "$tmp/n.h5" --rtn >"$tmp/stdout" 2>"$tmp/stderr"
)
expect_equal $? 74
expect_stderr "n.h5: '/tensors/.*': cannot write: File too large \(exit"
expect_equal "$(ls -A "$tmp" | grep '^n.h5')" ""
tap_ok "a file that cannot grow is exit 74, says why and leaves nothing"

expect_exit 0 "$gptq" -i "$model" -o "$tmp/d.h5" "${cal[@]}" --dry-run
expect_stdout '^output: 0.00[0-9] GB, of it 0.00[0-9] GB for 8 layers'
expect_stdout '^calibration: 3 samples, 450 tokens, 0.[0-9]+ GB of memory'
expect_stdout '^memory: 0.[0-9]+ GB: layer 0.00[0-9], statistics 0.[0-9]+, buffers'
expect_exit 0 "$awq" -i "$model" -o "$tmp/d.h5" "${cal[@]}" --dry-run --json
expect_stdout '"recipe": "awq factors, .*"calibration": \{"samples": 3, "tokens": 450, "seconds": .*"statistics"'
expect test ! -e "$tmp/d.h5"
expect test ! -e "$tmp/d.h5.job"
for p in "$gptq" "$awq"; do
    expect_exit 0 "$p" --help
    expect test "$(awk 'length > 79' "$tmp/stdout" | wc -l)" = 0
    expect_stdout 'Examples:'
done
tap_ok "--dry-run writes nothing; --help fits"

cp -r "$model" "$tmp/nan"
chmod -R u+w "$tmp/nan"
size=$(stat -c %s "$tmp/nan/model.safetensors")
printf '\000\176' | dd of="$tmp/nan/model.safetensors" bs=1 seek=$((size / 4 * 2)) conv=notrunc \
    2>/dev/null
expect_exit 65 "$gptq" -i "$tmp/nan" -o "$tmp/n.h5" --rtn
expect_stderr 'transformer.h.[0-9]+.*weight: row [0-9]+ holds a value that is not finite'
expect_exit 65 "$gptq" -i "$tmp/nan" -o "$tmp/n.h5" "${cal[@]}"
expect_stderr 'not finite'
expect test ! -e "$tmp/n.h5"
tap_ok "a weight that is not finite is refused by name"
tap_done
