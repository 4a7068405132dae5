# qwen-benchmark: help, usage, exit codes, the three forms of output, both datasets, a checkpoint
# without vocabulary, and a batch that does not fit.  Small lengths and one thread: this tests what
# is printed, not speed.
. "$(dirname "$0")/lib.sh"
model=$root/datasets/qwen-tiny
data=$root/datasets/samples.jsonl
b=$(bin qwen-benchmark)
quick="--threads 1 --input-len 8 --output-len 4 --repeat 1"
top="model scheme head kv_cache dataset input_len output_len threads runs seed bandwidth_gb_s
    model_bytes load_s results"
columns="batch requests prompt_tokens new_tokens elapsed_s requests_s tokens_s output_tokens_s
    prefill_tok_s prefill_tflops prefill_pct decode_tok_s decode_ms step_weight_bytes step_kv_bytes gb_s bandwidth_pct
    memory_bytes used_bytes error"
# every value of a key, in order of appearance
num() { grep -oE "\"$1\": (-?[0-9.eE+-]+|null)" "$tmp/stdout" | sed 's/.*: //' | tr '\n' ' '; }
is() { awk "BEGIN{exit !($1)}" || fail "not true: $1"; }

expect_exit 0 "$b" --help
expect_empty "$tmp/stderr"
for word in --model --weight-only --kv-cache --batch --input-len --output-len --dataset --num-prompts \
    --repeat --csv --json --threads 'Examples:' 'Exit codes: 0 done'; do
    expect_stdout "$word"
done
expect_exit 0 "$b" --version
expect_stdout '^qwenkit [0-9]'
expect_exit 0 "$b" --usage
expect_stdout '^Usage: qwen-benchmark'
tap_ok "--help, --version, --usage"

usage() { # MESSAGE OPTION...
    local message=$1
    shift
    expect_exit 64 "$b" "$@"
    expect_stderr "$message"
    expect_empty "$tmp/stdout"
}
usage 'no model given: use -m MODEL'
for list in 1,2,x '' , 1, ,1 0 -1 65537 1.5 '1 2' 99999999999999999999; do
    usage "'$list' is not a list such as 1,2,4" -m "$model" --batch "$list"
done
usage "'$(seq -s, 65)' is not a list" -m "$model" --batch "$(seq -s, 65)"
usage "'0' is not a whole number from 1" -m "$model" --input-len 0
usage "'x' is not a whole number from 1" -m "$model" --output-len x
usage "'101' is not a whole number from 1 to 100" -m "$model" --repeat 101
usage 'num-prompts goes with --dataset' -m "$model" --num-prompts 2
usage 'input-len is for random prompts' -m "$model" --dataset "$data" --input-len 4
usage 'give one of --csv, --markdown and --json' -m "$model" --csv --json
usage 'give one of --csv, --markdown and --json' -m "$model" --markdown --csv
usage "unexpected argument 'stray'" -m "$model" stray
usage "'int3' is not int8 or int4" -m "$model" --weight-only int3
usage '8000 \+ 193 tokens exceed the 8192 positions' -m "$model" --input-len 8000 --output-len 193
tap_ok "usage errors exit 64 with nothing on stdout"

expect_exit 69 "$b" -m "$model" --device cuda:99
expect_stderr 'no usable GPU|numbered from 0|not in this build'
expect_exit 69 "$b" -m "$model" --device abacus
expect_stderr "device 'abacus' is not in this build: use auto, or one of: cpu"
tap_ok "a device that is not there is exit 69"

expect_exit 66 "$b" -m "$tmp/none"
expect_stderr 'none: no such model directory'
expect_exit 66 "$b" -m "$model" --dataset "$tmp/none.json"
expect_stderr 'none.json'
printf 'plain text' >"$tmp/text"
expect_exit 65 "$b" -m "$model" --dataset "$tmp/text"
expect_stderr 'wanted a ShareGPT array, JSON Lines, or a CSV trace'
printf '[{"conversations": []}]' >"$tmp/empty.json"
expect_exit 65 "$b" -m "$model" --dataset "$tmp/empty.json"
expect_stderr 'empty.json: no usable request'
printf '[{"conversations": [' >"$tmp/cut.json"
expect_exit 65 "$b" -m "$model" --dataset "$tmp/cut.json"
expect_stderr 'cut.json: record 1 .*cut off'
expect_empty "$tmp/stdout"
tap_ok "missing input 66, bad data 65"

expect_exit 0 "$b" -m "$model" $quick --batch 1,3 --json
expect_empty "$tmp/stderr"
expect_equal "$(wc -l <"$tmp/stdout")" 1
for key in $top; do
    expect_equal "$(grep -oE "\"$key\": " "$tmp/stdout" | wc -l)" 1
done
for key in $columns; do
    expect_equal "$(grep -oE "\"$key\": " "$tmp/stdout" | wc -l)" 2
done
expect_stdout '"scheme": "f16", "head": "f16", "kv_cache": "f32", "dataset": null, "input_len": 8,'
expect_equal "$(num batch)$(num requests)$(num error)" '1 3 1 3 null null '
expect_equal "$(num prompt_tokens)$(num new_tokens)" '8 24 4 12 '
# 16 KiB of KV a token; three steps of lengths 9, 10, 11
expect_equal "$(num step_kv_bytes)" '163840.0 491520.0 '
tap_ok "--json is one object with every key, and the counts are right"

if command -v jq >"$tmp/which"; then
    expect jq -e '.results | length == 2' "$tmp/stdout"
    tap_ok "jq reads it"
else
    tap_skip "jq reads it" "jq is not installed"
fi

read -r t1 t3 <<<"$(num elapsed_s)"
read -r r1 r3 <<<"$(num tokens_s)"
read -r o1 o3 <<<"$(num output_tokens_s)"
read -r d1 d3 <<<"$(num decode_tok_s)"
read -r m1 m3 <<<"$(num decode_ms)"
read -r p1 p3 <<<"$(num prefill_tok_s)"
near() { is "($1) / ($2) > 0.999999 && ($1) / ($2) < 1.000001"; }
near "$r1 * $t1" 12
near "$r3 * $t3" 36
near "$o3 * $t3" 12
near "$d1 * $m1" 1000
near "$d3 * $m3" 3000
# prefill, then three decode steps, and little else
is "24 / $p3 + 3 * $m3 / 1000 <= $t3"
is "$p1 > 0 && $p3 > 0"
tap_ok "rates and times belong together"

expect_exit 0 "$b" -m "$model" $quick --batch 2 --output-len 1 --weight-only int4 --kv-cache f16 --json
expect_equal "$(num decode_tok_s)$(num decode_ms)$(num gb_s)$(num step_kv_bytes)" 'null null null null '
expect_stdout '"scheme": "w4", "head": "f16", "kv_cache": "f16"'
tap_ok "one new token: no decode step, so no decode rate"

expect_exit 0 "$b" -m "$model" $quick --batch 1,3 --csv
expect_empty "$tmp/stderr"
expect_equal "$(wc -l <"$tmp/stdout")" 3
want="model,scheme,head,kv_cache,dataset,input_len,output_len,threads,runs,bandwidth_gb_s,model_bytes"
for key in $columns; do want+=,$key; done
expect_equal "$(head -1 "$tmp/stdout")" "$want"
expect_equal "$(awk -F, '{print NF}' "$tmp/stdout" | sort -u)" "$(awk -F, '{print NF}' <<<"$want")"
expect_stdout '^"[^"]*qwen-tiny","f16","f16","f32",,8,4,1,1,[0-9.]+,[0-9]+,3,3,24,12,'
tap_ok "--csv has a line of names and a line for each batch"

expect_exit 0 "$b" -m "$model" $quick --batch 1,3
expect_empty "$tmp/stderr"
expect_stdout 'linears f16, head f16, KV cache f32, 17.9 MB of weights$'
expect_stdout '^1 thread, read bandwidth [0-9.]+ GB/s, 8 \+ 4 tokens, greedy, median of 1 run$'
expect_equal "$(awk 'NR > 5 {print $1}' "$tmp/stdout" | tr '\n' ' ')" '1 3 '
expect_equal "$(awk 'NR > 5 {print NF}' "$tmp/stdout" | sort -u)" 14
expect_exit 0 "$b" -m "$model" $quick --batch 1,3 --markdown
expect_equal "$(awk -F'|' 'NR > 3 {print NF}' "$tmp/stdout" | sort -u)" 16
expect_stdout '^\| 3 \| '
tap_ok "the table has a row for each batch"

cat >"$tmp/share.json" <<'JSON'
[{"id": "a", "conversations": [{"from": "human", "value": "Why is the sky blue?"},
  {"from": "gpt", "value": "Because of the scattering of light in the air."}]},
 {"id": "b", "conversations": [{"from": "human", "value": "Name a colour."}, {"from": "gpt", "value": "Red"}]},
 {"id": "c", "conversations": [{"from": "human", "value": "Only a question"}]},
 {"id": "d", "conversations": [{"from": "human", "value": "What is a model?"},
  {"from": "gpt", "value": "A model is a simple description."}, {"from": "human", "value": "Thanks"}]},
 {"id": "e", "conversations": [{"from": "human", "value": "Say more."},
  {"from": "gpt", "value": "We propose a method that works."}]}]
JSON
expect_exit 0 "$b" -m "$model" --threads 1 --dataset "$tmp/share.json" --num-prompts 3 --batch 1,2 --json
expect_empty "$tmp/stderr"
expect_equal "$(num requests)$(num batch)" '3 3 1 2 '
expect_stdout '"input_len": null, "output_len": null,.*"runs": 1,'
near "$(num new_tokens | cut -d' ' -f1)" "$(num new_tokens | cut -d' ' -f2)"
all=$(num prompt_tokens)
expect_exit 0 "$b" -m "$model" --threads 1 --dataset "$tmp/share.json" --batch 1,2 --json
expect_stderr 'warning: .*share.json: only 3 usable prompts, 100 wanted'
expect_equal "$(num prompt_tokens)" "$all"
tap_ok "ShareGPT: records with two turns and answers long enough"

draw() { expect_exit 0 "$b" -m "$model" --threads 1 --dataset "$tmp/share.json" --num-prompts 1 --json "$@"; }
draw --seed 3
one=$(num prompt_tokens)$(num new_tokens)
draw --seed 3
expect_equal "$(num prompt_tokens)$(num new_tokens)" "$one"
others=0
for seed in 4 5; do
    draw --seed $seed
    [ "$(num prompt_tokens)$(num new_tokens)" = "$one" ] || others=1
done
expect_equal $others 1
tap_ok "a seed gives the same draw, another seed another one"

expect_exit 0 "$b" -m "$model" --threads 1 --dataset "$data" --num-prompts 3 --batch 2 --output-len 5 \
    --repeat 2 --json
expect_equal "$(num requests)$(num new_tokens)$(num runs)$(num output_len)" '3 15 2 5 '
expect_exit 0 "$b" -m "$model" --threads 1 --dataset "$data" --num-prompts 2 --batch 2 --output-len 3
expect_stdout ' 2 prompts of .*samples.jsonl, greedy, median of 1 run$'
tap_ok "JSON Lines: --output-len tokens for each article"

printf 'ContextTokens,GeneratedTokens\n20,3\n30,4\n' >"$tmp/trace.csv"
expect_exit 0 "$b" -m "$model" --threads 1 --dataset "$tmp/trace.csv" --num-prompts 2 --batch 2 --json
expect_equal "$(num requests)$(num prompt_tokens)$(num new_tokens)" '2 50 7 '
tap_ok "a trace: random prompts of its lengths"

if (ulimit -v 1400000 && exec "$b" --version) >"$tmp/which" 2>&1; then
    expect_exit 0 bash -c "ulimit -v 1400000; exec '$b' -m '$model' --threads 1 --input-len 1 \\
        --output-len 2 --repeat 1 --batch 200.. --csv"
    expect_stdout ',200,200,200,400,'
    expect_equal "$(tail -1 "$tmp/stdout" | grep -c 'out of memory')" 1
    expect_equal "$(grep -c 'out of memory' "$tmp/stdout")" 1
    tap_ok "--batch N.. doubles until one does not fit"
else
    tap_skip "--batch N.. doubles until one does not fit" "this build needs more address space"
fi

mkdir "$tmp/bare"
cp "$model/config.json" "$model/model.safetensors" "$tmp/bare/"
expect_exit 0 "$b" -m "$tmp/bare" $quick --json
expect_equal "$(num new_tokens)" '4 '
expect_exit 66 "$b" -m "$tmp/bare" --dataset "$data"
tap_ok "random prompts need no vocabulary, a dataset does"

# asks for 82 GB; the sanitizer's malloc is told to fail like the usual one
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}allocator_may_return_null=1"
if [ "$(sed -nE 's/^MemAvailable: *([0-9]+) kB/\1/p' /proc/meminfo)" -lt 60000000 ]; then
    expect_exit 0 "$b" -m "$model" $quick --batch 65536,1
    expect_empty "$tmp/stderr"
    expect_stdout '^65536 out of memory: at least 68.72 GB needed$'
    expect_stdout '^    1 +[0-9.]+ '
    expect_exit 71 "$b" -m "$model" $quick --batch 65536 --json
    expect_stderr 'no batch size fits into memory'
    expect_stdout '"memory_bytes": 68719476736, "used_bytes": null, "error": "out of memory: .*needed"'
    expect_equal "$(num tokens_s)" 'null '
    expect_exit 71 "$b" -m "$model" $quick --batch 65536 --csv
    expect_stdout ',65536,,,,,,,,,,,,,,,,,68719476736,,"out of memory: .*needed"$'
    tap_ok "a batch that does not fit is a row of its own"
else
    tap_skip "a batch that does not fit is a row of its own" "60 GB of memory are free"
fi

expect_exit 74 bash -c "'$b' -m '$model' $quick --csv >/dev/full"
tap_ok "a full disk behind standard output is exit 74"
tap_done
