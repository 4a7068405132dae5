#!/usr/bin/env bash
# The whole pipeline on the built-in checkpoint: convert, verify, run, evaluate, one table.
#   demo.sh BIN_DIR OUT_DIR
set -euo pipefail
bin=$1 out=$2
cd "$(dirname "$0")/.."
model=datasets/qwen-tiny data=datasets/samples.jsonl
system='You are a useful assistant, please directly output the corresponding summary according to the article entered by the user.'

say() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }
show() { printf '$ %s\n' "$*" >&2; "$@"; }
num() { sed -nE "s/.*\"$1\": *(-?[0-9.eE+-]+).*/\1/p" <<<"$2" | head -1; } # key, one-line JSON

mkdir -p "$out"
say "1. Convert the Hugging Face checkpoint to the FT layout, and check it"
show "$bin/qwen-convert" -i $model -o "$out/ft" --force
show "$bin/qwen-convert" --verify "$out/ft/1-gpu"

say "2. Ask for a title of an abstract"
article=$(sed -nE '1s/.*"article": "(([^"\\]|\\.)*)".*/\1/p' $data)
show "$bin/qwen-run" -m "$out/ft/1-gpu" --greedy --system "$system" --chat "$article TL;DR:"
echo "(written by people: $(sed -nE '1s/.*"highlights": "(([^"\\]|\\.)*)".*/\1/p' $data))" >&2

say "3. Evaluate: perplexity and ROUGE on $(wc -l <$data) abstracts, speed on $(nproc) cores"
bytes=$(du -sb "$out/ft/1-gpu" | cut -f1)
row='%-14s %10s %10s %8s %8s %8s %8s %10s %10s\n'
table=$(
    printf "$row" scheme 'disk MB' perplexity ROUGE-1 ROUGE-2 ROUGE-L R-Lsum 'prefill/s' 'decode/s'
    for scheme in f16 int8 int4; do
        wo=(); [ $scheme = f16 ] || wo=(--weight-only $scheme)
        p=$("$bin/qwen-perplexity" -m "$out/ft/1-gpu" "${wo[@]}" --data $data --json)
        r=$("$bin/qwen-summarize" -m "$out/ft/1-gpu" "${wo[@]}" --data $data --greedy \
            --max-new-tokens 48 --json)
        b=$("$bin/qwen-benchmark" -m "$out/ft/1-gpu" "${wo[@]}" --input-len 512 --output-len 64 --json)
        printf "$row" $scheme "$(awk "BEGIN{printf \"%.1f\", $bytes/1e6}")" \
            $(printf '%.4f %.2f %.2f %.2f %.2f %.0f %.0f' "$(num ppl "$p")" "$(num rouge1 "$r")" \
                "$(num rouge2 "$r")" "$(num rougeL "$r")" "$(num rougeLsum "$r")" \
                "$(num prefill_tok_s "$b")" "$(num decode_tok_s "$b")")
    done
)
printf '\n%s\n' "$table"
echo "int8 and int4 are rounded to nearest per channel while the f16 files are loaded." >&2
