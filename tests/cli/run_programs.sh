# qwen-run, qwen-summarize, qwen-perplexity: help, usage, exit codes, what goes to stdout, and that a
# converted directory gives exactly what the original gives.
. "$(dirname "$0")/lib.sh"
model=$root/datasets/qwen-tiny
data=$root/datasets/samples.jsonl
run=$(bin qwen-run) sum=$(bin qwen-summarize) ppl=$(bin qwen-perplexity)
num() { sed -nE "s/.*\"$1\": *(-?[0-9.eE+-]+).*/\1/p" "$tmp/stdout"; }

for p in "$run" "$sum" "$ppl"; do
    name=${p##*/}
    expect_exit 0 "$p" --help
    expect_empty "$tmp/stderr"
    for word in --model --weight-only --json --threads 'Examples:' 'Exit codes: 0 done'; do
        expect_stdout "$word"
    done
    expect test "$(grep -cE '^ +$' "$tmp/stdout")" = 0
    expect test "$(awk 'length > 79' "$tmp/stdout" | wc -l)" = 0
    expect_exit 0 "$p" --version
    expect_stdout '^qwenkit [0-9]'
    expect_exit 0 "$p" --usage
    expect_stdout "^Usage: $name"
    expect_exit 64 "$p" --nonsense
    expect_empty "$tmp/stdout"
    expect_exit 64 "$p"
    expect_stderr "no model given: use -m MODEL|give one of|no dataset given"
    expect_exit 64 "$p" -m "$model" stray
    expect_stderr "unexpected argument 'stray'"
    expect_exit 64 "$p" -m "$model" --weight-only int3
    expect_stderr "'int3' is not int8 or int4"
    tap_ok "$name: --help, --version, --usage, wrong options"
done

usage() { # MESSAGE COMMAND...
    local message=$1
    shift
    expect_exit 64 "$@"
    expect_stderr "$message"
    expect_empty "$tmp/stdout"
}
usage 'give one of --input-text' "$run" -m "$model"
usage 'give one of --input-text' "$run" -m "$model" --chat a --input-text b
usage '\-\-system goes with --chat' "$run" -m "$model" --input-text a --system b
usage "'-1' is not a whole number" "$run" -m "$model" --chat a --max-new-tokens -1
usage "'nan' is not a number" "$run" -m "$model" --chat a --temperature nan
usage "'1.5' is not a number from 0 to 1" "$run" -m "$model" --chat a --top-p 1.5
usage "'f8' is not f32, f16 or int8" "$run" -m "$model" --chat a --kv-cache f8
usage '\-\-dump-positions goes with --dump-logits' "$run" -m "$model" --chat a --dump-positions 2
usage 'the path of the model is empty' "$run" -m '' --chat a
usage 'no dataset given' "$sum" -m "$model"
usage 'give one of --text and --data' "$ppl" -m "$model"
usage 'max-samples and --join go with --data' "$ppl" -m "$model" --text "$data" --field article
usage 'max-samples and --join go with --data' "$ppl" -m "$model" --text "$data" --join x
usage "'1' is not a whole number from 2" "$ppl" -m "$model" --text "$data" --window 1
tap_ok "usage errors exit 64 with nothing on stdout"

expect_exit 66 "$run" -m "$tmp/none" --chat a
expect_stderr 'none: no such model directory.*\(exit 66\)'
expect_exit 66 "$sum" -m "$model" --data "$tmp/none.jsonl"
expect_exit 66 "$ppl" -m "$model" --text "$tmp/none.txt"
expect_exit 78 "$run" -m "$model" --chat a --chat-format glm9
expect_stderr "chat format 'glm9' is not known"
printf '1,2,x\n' >"$tmp/bad.csv"
expect_exit 65 "$run" -m "$model" --input-tokens "$tmp/bad.csv"
expect_stderr "bad.csv: line 1: 'x"
printf '1,4096\n' >"$tmp/big.csv"
expect_exit 65 "$run" -m "$model" --input-tokens "$tmp/big.csv"
expect_stderr 'big.csv: line 1: token id 4096, wanted 0 to 4095'
printf '\n\n' >"$tmp/empty.csv"
expect_exit 65 "$run" -m "$model" --input-tokens "$tmp/empty.csv"
expect_stderr 'empty.csv: no token ids in it'
printf '{"article": "a"}\n' >"$tmp/half.jsonl"
expect_exit 65 "$sum" -m "$model" --data "$tmp/half.jsonl"
expect_stderr "half.jsonl.*highlights"
printf 'short' >"$tmp/short.txt"
expect_exit 65 "$ppl" -m "$model" --text "$tmp/short.txt"
tap_ok "missing input 66, bad data 65, unknown format 78"

cp -r "$model" "$tmp/bad"
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n' >"$tmp/bad/model.safetensors"
expect_exit 65 "$run" -m "$tmp/bad" --chat a
expect_stderr 'git-lfs pointer'
head -c 100000 "$model/model.safetensors" >"$tmp/bad/model.safetensors"
expect_exit 65 "$run" -m "$tmp/bad" --chat a
expect_stderr 'model.safetensors'
: >"$tmp/bad/model.safetensors"
expect_exit 65 "$run" -m "$tmp/bad" --chat a
cp "$model/model.safetensors" "$tmp/bad/"
sed 's/"hidden_size": 256/"hidden_size": 512/' "$model/config.json" >"$tmp/bad/config.json"
expect_exit 65 "$run" -m "$tmp/bad" --chat a
expect_stderr "transformer.wte.weight' is \[4096, 256\], config.json wants \[4096, 512\]"
sed 's/"model_type": "qwen"/"model_type": "mystery"/' "$model/config.json" >"$tmp/bad/config.json"
expect_exit 78 "$run" -m "$tmp/bad" --chat a
expect_stderr "model_type 'mystery' is not supported"
cp "$model/config.json" "$tmp/bad/"
head -c 5000 "$model/qwen.tiktoken" >"$tmp/bad/qwen.tiktoken"
expect_exit 65 "$run" -m "$tmp/bad" --chat a
expect_stderr 'qwen.tiktoken'
tap_ok "damaged checkpoints are refused with file and tensor"

expect_exit 0 "$run" -m "$model" --input-text 'We study the' --greedy --max-new-tokens 8
expect_empty "$tmp/stderr"
expect_equal "$(wc -l <"$tmp/stdout")" 1
text=$(cat "$tmp/stdout")
expect_exit 0 "$run" -m "$model" --input-text 'We study the' --greedy --max-new-tokens 8 --json
expect_equal "$(sed -nE 's/.*"text": "([^"]*)".*/\1/p' "$tmp/stdout")" "$text"
expect_stdout '^\{"prompt_tokens": [0-9]+, "ids": \[([0-9]+, ){7}[0-9]+\], .*"finish": "length"'
tap_ok "qwen-run: streamed text equals the JSON text"

expect_exit 0 "$run" -m "$model" --chat hello --max-new-tokens 16 --seed 5 --json
a=$(sed -E 's/, "prefill.*//' "$tmp/stdout")
expect_exit 0 "$run" -m "$model" --chat hello --max-new-tokens 16 --seed 5 --json --threads 1
expect_equal "$(sed -E 's/, "prefill.*//' "$tmp/stdout")" "$a"
expect_exit 0 "$run" -m "$model" --chat hello --max-new-tokens 16 --seed 6 --json
[ "$(sed -E 's/, "prefill.*//' "$tmp/stdout")" != "$a" ] || fail "another seed gave the same text"
tap_ok "qwen-run: a seed gives the same text on any number of threads"

printf '3889,456,198\n\n3889,456\n' >"$tmp/two.csv"
expect_exit 0 "$run" -m "$model" --input-tokens "$tmp/two.csv" --greedy --max-new-tokens 2 --json
expect_equal "$(wc -l <"$tmp/stdout")" 2
expect_exit 0 "$run" -m "$model" --input-text abc --max-new-tokens 0 --dump-logits "$tmp/l.npy" --dump-positions 2
expect_equal "$(head -c 6 "$tmp/l.npy" | tail -c 5)" NUMPY
expect_exit 73 "$run" -m "$model" --input-text abc --dump-logits "$tmp/l.npy"
expect_stderr 'l.npy: exists; --force'
tap_ok "qwen-run: token files and logits"

expect_exit 0 "$sum" -m "$model" --data "$data" --max-samples 3 --max-new-tokens 12 --greedy --json \
    --output "$tmp/s.jsonl"
for key in rouge1 rouge2 rougeL rougeLsum samples seconds; do
    [ -n "$(num $key)" ] || fail "no key $key"
done
expect_equal "$(num samples)" 3
expect_equal "$(cut -c1-13 "$tmp/s.jsonl" | tr '\n' ' ')" '{"id": "s001" {"id": "s002" {"id": "s003" '
expect_exit 73 "$sum" -m "$model" --data "$data" --max-samples 1 --output "$tmp/s.jsonl"
cp "$tmp/s.jsonl" "$tmp/s0.jsonl"
expect_exit 0 "$sum" -m "$model" --data "$data" --max-samples 3 --max-new-tokens 12 --greedy --batch 1 \
    --threads 1 --output "$tmp/s.jsonl" --force
expect cmp "$tmp/s.jsonl" "$tmp/s0.jsonl"
tap_ok "qwen-summarize: keys, output lines, the same for any batch and threads"

expect_exit 0 "$(bin qwen-convert)" -i "$model" -o "$tmp/ft" -q
expect_exit 0 "$(bin qwen-convert)" -i "$model" -o "$tmp/ft2" --tensor-parallelism 2 -q
expect_exit 0 "$ppl" -m "$model" --data "$data" --max-samples 6 --window 256 --json
for key in ppl tokens scored window; do
    [ -n "$(num $key)" ] || fail "no key $key"
done
hf=$(num ppl)
for dir in ft ft2; do
    expect_exit 0 "$ppl" -m "$tmp/$dir" --data "$data" --max-samples 6 --window 256 --json
    expect_equal "$(num ppl)" "$hf"
    expect_exit 0 "$run" -m "$tmp/$dir" --input-text abc --max-new-tokens 0 \
        --dump-logits "$tmp/$dir.npy" --dump-positions 2
    expect cmp "$tmp/$dir.npy" "$tmp/l.npy"
done
tap_ok "FT directories of 1 and 2 ranks give the logits of the checkpoint to the bit"

expect_exit 0 "$ppl" -m "$model" --base "$model" --data "$data" --max-samples 4 --window 128 --json
expect_equal "$(num kld_mean) $(num top1)" '0.0 1.0'
expect_exit 0 "$ppl" -m "$model" --weight-only int4 --base "$model" --data "$data" --max-samples 4 \
    --window 128 --json
awk "BEGIN{exit !($(num kld_mean) > 0.001 && $(num top1) < 1 && $(num top1) > 0.5)}" ||
    fail "KL $(num kld_mean), top-1 $(num top1)"
tap_ok "qwen-perplexity --base: zero against itself, small against int4"

sed -n '1,6p' "$data" | sed -E 's/.*"article": "(.*)", "highlights".*/\1/' >"$tmp/rows.txt"
expect_exit 0 "$ppl" -m "$model" --text "$tmp/rows.txt" --window 64 --json
one=$(num tokens)
expect_exit 0 "$ppl" -m "$model" --text "$tmp/rows.txt" --rows --window 64 --json
[ "$(num tokens)" -ge "$one" ] || fail "rows joined by empty lines have fewer tokens"
expect_exit 64 "$ppl" -m "$model" --data "$data" --rows
tap_ok "qwen-perplexity: plain text and rows"

expect_exit 74 bash -c "'$run' -m '$model' --input-text abc --max-new-tokens 4 --greedy >/dev/full"
case $BUILD in */asan) ;; *) # which ends programs itself, and wants all of the address space
    expect_exit 74 bash -c "'$run' --help >/dev/full"
    for kib in 120000 150000 180000; do # libraries have threads for which there is no memory
        (
            ulimit -v $kib
            OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=2 timeout -s KILL 20 "$run" -m "$model" --greedy \
                --input-text abc --max-new-tokens 1 >"$tmp/stdout" 2>"$tmp/stderr"
        )
        rc=$?
        case $rc in 0 | 71) ;; 127) expect_stderr 'shared libraries' ;; # of the loader
        *) fail "exit $rc with $kib KiB of address space" ;; esac
    done
    ;;
esac
tap_ok "a full disk behind standard output is exit 74; little address space: an end, 0 or 71"
one=(--input-text "The" --max-new-tokens 1 --greedy)
expect_exit 0 "$run" -m "$model" "${one[@]}" --device cpu
expect_empty "$tmp/stderr"
if "$run" -m "$model" "${one[@]}" --device cuda >"$tmp/stdout" 2>"$tmp/stderr"; then
    expect_stderr 'running on '
else
    expect_exit 69 "$run" -m "$model" "${one[@]}" --device cuda
    expect_stderr 'cuda.*\(exit 69\)'
    expect_exit 0 "$run" -m "$model" "${one[@]}" --device auto
    expect_stderr 'running on the CPU \('
    expect_exit 0 "$run" -m "$model" "${one[@]}"
    expect_empty "$tmp/stderr"
fi
expect_exit 69 "$run" -m "$model" "${one[@]}" --device cuda:99
expect_exit 69 "$run" -m "$model" "${one[@]}" --device tpu
expect_stderr "tpu"
tap_ok "--device: cpu is silent, cuda without a GPU is exit 69, auto says what it took"

tap_done
