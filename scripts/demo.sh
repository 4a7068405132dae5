#!/usr/bin/env bash
# The whole pipeline on the built-in checkpoint: convert, verify, run, evaluate, one table.
#   demo.sh BIN_DIR OUT_DIR
set -euo pipefail
bin=$1 out=$2
cd "$(dirname "$0")/.."
model=datasets/qwen-tiny data=datasets/samples.jsonl
system='You are a useful assistant, please directly output the corresponding summary according to the article entered by the user.'

say() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }
show() { # a command as a shell reads it back
    local word line='$'
    for word; do
        case $word in
        '' | *[!A-Za-z0-9@%+=:,./_-]*) line+=" '${word//\'/\'\\\'\'}'" ;;
        *) line+=" $word" ;;
        esac
    done
    printf '%s\n' "$line" >&2
    "$@"
}
num() { sed -nE "s/.*\"$1\": *(-?[0-9.eE+-]+).*/\1/p" <<<"$2" | head -1; } # key, one-line JSON

mkdir -p "$out"
say "1. Convert the Hugging Face checkpoint to the FT layout, and check it"
show "$bin/qwen-convert" -i $model -o "$out/ft" --force
show "$bin/qwen-convert" --verify "$out/ft/1-gpu"

say "2. Ask for a title of an abstract"
article=$(sed -nE '1s/.*"article": "(([^"\\]|\\.)*)".*/\1/p' $data)
show "$bin/qwen-run" -m "$out/ft/1-gpu" --greedy --system "$system" --chat "$article TL;DR:"
echo "(written by people: $(sed -nE '1s/.*"highlights": "(([^"\\]|\\.)*)".*/\1/p' $data))" >&2

say "3. Calibrate on the same abstracts: SmoothQuant, and an int8 key/value cache"
show "$bin/qwen-convert" -i $model -o "$out/sq" --smoothquant 0.5 --calibrate-kv-cache \
    --calib-data $data --force

say "4. Quantize to 4 bits in groups of 128 columns: rounded to nearest, AWQ, and AWQ's factors with GPTQ"
show "$bin/qwen-gptq" -i $model -o "$out/rtn.h5" --rtn --asym --force
show "$bin/qwen-awq" -i $model -o "$out/awq.h5" --clip --calib-data $data --seq-len 512 --force
show "$bin/qwen-gptq" -i $model -o "$out/gptq.h5" --pre-scale --asym --calib-data $data --seq-len 512 \
    --force

say "5. Evaluate: perplexity and ROUGE on $(wc -l <$data) abstracts, speed on $(nproc) cores"
row='%-18s %8s %10s %8s %8s %8s %8s %10s %10s\n'
line() { # NAME DIR OPTIONS...
    local name=$1 dir=$2 p r b
    shift 2
    p=$("$bin/qwen-perplexity" -m "$dir" "$@" --data $data --json)
    r=$("$bin/qwen-summarize" -m "$dir" "$@" --data $data --greedy --max-new-tokens 48 --json)
    b=$("$bin/qwen-benchmark" -m "$dir" "$@" --input-len 512 --output-len 64 --json)
    printf "$row" "$name" "$(du -sb "$dir" | awk '{printf "%.1f", $1 / 1e6}')" \
        $(printf '%.4f %.2f %.2f %.2f %.2f %.0f %.0f' "$(num ppl "$p")" "$(num rouge1 "$r")" \
            "$(num rouge2 "$r")" "$(num rougeL "$r")" "$(num rougeLsum "$r")" \
            "$(num prefill_tok_s "$b")" "$(num decode_tok_s "$b")")
}
w8a8=(--use-smooth-quant --per-token --per-channel)
table=$(
    printf "$row" scheme 'disk MB' perplexity ROUGE-1 ROUGE-2 ROUGE-L R-Lsum 'prefill/s' 'decode/s'
    line f16 "$out/ft/1-gpu"
    line int8 "$out/ft/1-gpu" --weight-only int8
    line int4 "$out/ft/1-gpu" --weight-only int4
    line 'w8a8' "$out/ft/1-gpu" "${w8a8[@]}"
    line 'w8a8 smooth 0.5' "$out/sq/1-gpu" "${w8a8[@]}"
    line 'int8 KV cache' "$out/sq/1-gpu" --kv-cache int8
    line 'w8a8 + int8 KV' "$out/sq/1-gpu" "${w8a8[@]}" --kv-cache int8
    line 'int4 g128 nearest' "$out/rtn.h5"
    line 'int4 g128 AWQ' "$out/awq.h5"
    line 'int4 g128 GPTQ' "$out/gptq.h5"
    line 'int4 GPTQ, int8 KV' "$out/gptq.h5" --kv-cache int8
)
printf '\n%s\n' "$table"
cat >&2 <<'END'
int8, int4: weights rounded to nearest per channel while the f16 files are loaded.
w8a8: int8 weights per channel and int8 activations per token; smooth 0.5: after SmoothQuant, whose
directory holds float and int8 files.
int4 g128: archives of qwen-gptq and qwen-awq, quantized on these abstracts.
END
echo "What GPTQ did to every layer, as a page: $out/gptq.report.html" >&2
