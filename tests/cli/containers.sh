#!/usr/bin/env bash
# Group-quantized models through the programs: archives and directories open everywhere, move into one
# another, and are refused with the documented codes; nothing half-written stays.
. "$(dirname "$0")/lib.sh"
write() { "$BUILD/tests/unit/test_packed" --write "$1" "$2" || exit 1; }
convert=$(bin qwen-convert) inspect=$(bin qwen-inspect)

write "$tmp/gptq" 1
write "$tmp/act" 2
before=$(tree_hash "$tmp/gptq")
expect_exit 0 "$convert" -i "$tmp/gptq" -o "$tmp/m.h5" --to h5
expect_stdout 'm.h5, h5, 14 modules, [0-9]+ bytes, every code read back'
expect_exit 0 "$inspect" "$tmp/m.h5"
expect_stdout 'archive, h5: int4 gptq, groups of 16, with zero points'
expect_stdout 'scheme w4g'
expect_exit 0 "$inspect" "$tmp/gptq"
expect_stdout 'Hugging Face, gptq: int4 gptq, groups of 16'
expect_equal "$(tree_hash "$tmp/gptq")" "$before"
tap_ok "a GPTQ directory becomes an archive, and both are named"

for to in gptq awq ct; do
    expect_exit 0 "$convert" -i "$tmp/m.h5" -o "$tmp/out/$to" --to hf-$to --json
    expect_stdout '"modules": 14'
    expect_exit 0 "$convert" -i "$tmp/out/$to" -o "$tmp/$to.h5" --to h5 -q
    expect cmp "$tmp/gptq/generation_config.json" "$tmp/out/$to/generation_config.json"
    expect cmp "$tmp/gptq/chat_template.jinja" "$tmp/out/$to/chat_template.jinja"
done
expect grep -q '"checkpoint_format": "gptq"' "$tmp/out/gptq/quantize_config.json"
expect grep -q '"version": "gemm"' "$tmp/out/awq/config.json"
expect grep -q '"format": "pack-quantized"' "$tmp/out/ct/config.json"
expect_equal "$(ls -A "$tmp/out")" "awq"$'\n'"ct"$'\n'"gptq"
tap_ok "an archive becomes directories of every format and back"

expect_exit 0 "$(bin qwen-gptq)" -i datasets/qwen-tiny -o "$tmp/tiny.h5" --rtn --asym -q
logits=""
for m in tiny.h5 tiny-gptq tiny-awq tiny-ct; do
    [ -e "$tmp/$m" ] || expect_exit 0 "$convert" -i "$tmp/tiny.h5" -o "$tmp/$m" --to "hf-${m#*-}"
    expect_exit 0 "$(bin qwen-run)" -m "$tmp/$m" --input-text "We study the problem of" --force \
        --max-new-tokens 1 --dump-logits "$tmp/logits.npy"
    sum=$(sha256sum <"$tmp/logits.npy")
    [ -n "$logits" ] || logits=$sum
    expect_equal "$m: $sum" "$m: $logits"
done
expect cmp datasets/qwen-tiny/qwen.tiktoken "$tmp/tiny-ct/qwen.tiktoken"
expect_exit 0 "$(bin qwen-run)" -m "$tmp/tiny.h5" --chat Hello --max-new-tokens 2 --seed 1
tap_ok "a model runs from every container with the same logits, tokenizer and chat format included"

expect_exit 0 "$inspect" "$tmp/m.h5" --verify
expect_stdout 'all as written'
expect_exit 0 "$convert" --verify "$tmp/m.h5" --json
expect_stdout '"whole": true'
cp "$tmp/m.h5" "$tmp/bad.h5"
printf '\x01' | dd of="$tmp/bad.h5" bs=1 seek=60000 conv=notrunc status=none
expect_exit 65 "$inspect" "$tmp/bad.h5" --verify
expect_stderr "bad.h5: was changed: '/tensors/model.layers.1.self_attn.v_proj/qweight' was changed: its"
for to in h5 hf-gptq hf-ct; do # or the copy would have a right hash of a wrong code
    expect_exit 65 "$convert" -i "$tmp/bad.h5" -o "$tmp/copy.h5" --to $to
    expect_stderr "'/tensors/model.layers.1.self_attn.v_proj/qweight' was changed"
done
printf '{"article": "The"}\n' >"$tmp/one.jsonl"
expect_exit 65 "$(bin qwen-calibrate-kv)" -m "$tmp/bad.h5" -o "$tmp/copy.h5" --calib-data "$tmp/one.jsonl"
expect_stderr "'/tensors/model.layers.1.self_attn.v_proj/qweight' was changed"
expect_equal "$(ls -A "$tmp" | grep copy)" ""
head -c 50000 "$tmp/m.h5" >"$tmp/cut.h5"
expect_exit 65 "$inspect" "$tmp/cut.h5"
expect_stderr 'cut.h5: has 50000 bytes, its header says [0-9]+: the copy is incomplete, fetch it again'
size=$(stat -c %s "$tmp/m.h5")
head -c $((size - 1)) "$tmp/m.h5" >"$tmp/cut.h5"
expect_exit 0 "$inspect" "$tmp/cut.h5" --verify
expect_stdout 'every dataset as written; the last line .* is not there: .*, or it was cut'
cp "$tmp/m.h5" "$tmp/bad.h5"
printf '\xa5' | dd of="$tmp/bad.h5" bs=1 seek=$((size - 30)) conv=notrunc status=none
expect_exit 65 "$inspect" "$tmp/bad.h5" --verify
expect_stderr 'its last line says [0-9a-f]{35} \(exit'
expect_exit 66 "$inspect" "$tmp/gptq" --verify
expect_stderr 'no manifest.json in it: FT directories of qwen-convert have one'
tap_ok "a changed byte is found and not copied, a cut archive does not open"

root() { h5dump -a content_root_sha256 "$1" | sed -nE 's/^ *\(0\): "(.*)"/\1/p'; }
for m in m tiny; do
    expect_exit 0 "$convert" -i "$tmp/$m.h5" -o "$tmp/$m-z.h5" --to h5 --compress --threads 1
    expect_exit 0 "$convert" -i "$tmp/$m.h5" -o "$tmp/z.h5" --to h5 --compress --threads 3
    expect cmp "$tmp/$m-z.h5" "$tmp/z.h5"
    expect_exit 0 "$inspect" "$tmp/$m-z.h5" --verify
    expect_stdout 'all as written'
    expect_exit 0 "$convert" -i "$tmp/z.h5" -o "$tmp/back.h5" --to h5
    expect cmp "$tmp/$m.h5" "$tmp/back.h5"
    rm "$tmp/z.h5" "$tmp/back.h5"
done
expect test "$(stat -c %s "$tmp/tiny-z.h5")" -lt "$(($(stat -c %s "$tmp/tiny.h5") * 95 / 100))"
expect_exit 0 "$(bin qwen-gptq)" -i datasets/qwen-tiny -o "$tmp/z.h5" --rtn --asym --compress -q
expect cmp "$tmp/tiny-z.h5" "$tmp/z.h5"
expect_exit 0 "$(bin qwen-run)" -m "$tmp/z.h5" --input-text "We study the problem of" --force \
    --max-new-tokens 1 --dump-logits "$tmp/logits.npy"
expect_equal "$(sha256sum <"$tmp/logits.npy")" "$logits"
expect_exit 0 "$convert" -i "$tmp/tiny-z.h5" -o "$tmp/ctz" --to hf-ct
expect cmp "$tmp/ctz/model.safetensors" "$tmp/tiny-ct/model.safetensors"
printf 'AB' | dd of="$tmp/z.h5" bs=1 seek=500000 conv=notrunc status=none
expect_exit 65 "$inspect" "$tmp/z.h5" --verify
expect_stderr "z.h5: was changed: '/tensors/transformer.wte.weight': chunk 0 is damaged: its checksum"
expect_exit 65 "$(bin qwen-run)" -m "$tmp/z.h5" --input-text The
expect_stderr "z.h5: 'transformer.wte.weight': chunk 0 is damaged: its checksum is [0-9a-f]{8}"
expect_exit 64 "$convert" -i "$tmp/m.h5" -o "$tmp/x" --to hf-awq --compress
expect_stderr 'compress is for archives: --to h5'
if command -v h5dump >/dev/null && command -v h5repack >/dev/null; then
    expect_equal "$(root "$tmp/tiny-z.h5")" "$(root "$tmp/tiny.h5")"
    expect h5diff "$tmp/tiny.h5" "$tmp/tiny-z.h5" /tensors
    expect_exit 0 h5dump -p -H -d /tensors/transformer.h.3.mlp.w1/qweight "$tmp/tiny-z.h5"
    expect_stdout 'PREPROCESSING SHUFFLE'
    expect_stdout 'COMPRESSION DEFLATE'
    expect_stdout 'CHECKSUM FLETCHER32'
    h5repack -f GZIP=9 "$tmp/tiny-z.h5" "$tmp/r9.h5" # by its filters, and without the last line
    expect_exit 0 "$inspect" "$tmp/r9.h5" --verify
    expect_exit 0 "$convert" -i "$tmp/r9.h5" -o "$tmp/r0.h5" --to h5
    expect cmp "$tmp/r0.h5" "$tmp/tiny.h5"
    h5repack -l /tensors/transformer.wte.weight:CHUNK=64x64 "$tmp/tiny.h5" "$tmp/rp.h5"
    expect_exit 78 "$inspect" "$tmp/rp.h5"
    expect_stderr "wte.weight' has chunks of parts of rows: undo it with h5repack -l CONTI -f NONE"
    h5repack -l CONTI -f NONE "$tmp/rp.h5" "$tmp/ru.h5"
    expect_exit 0 "$inspect" "$tmp/ru.h5" --verify
fi
rm -rf "$tmp"/z.h5 "$tmp"/r?.h5 "$tmp/ctz" "$tmp"/*-z.h5
tap_ok "compressed archives: the same model and hashes, any number of threads, damage is named"

expect_exit 78 "$convert" -i "$tmp/m.h5" -o "$tmp/ft"
expect_stderr 'quantized already .*FT directory holds float'
expect_exit 78 "$convert" -i "$tmp/act" -o "$tmp/x" --to hf-awq
expect_stderr 'groups out of order \(desc_act\), which AWQ cannot hold'
expect_exit 78 "$convert" -i datasets/qwen-tiny -o "$tmp/x.h5" --to h5
expect_stderr 'not quantized by groups: .*qwen-gptq'
expect_exit 78 "$(bin qwen-benchmark)" -m "$tmp/m.h5" --weight-only int8
expect_stderr 'quantized already'
expect_exit 73 "$convert" -i "$tmp/gptq" -o "$tmp/m.h5" --to h5
expect_stderr 'exists; --force'
expect_exit 64 "$convert" -i "$tmp/m.h5" -o "$tmp/m.h5" --to h5 --force
expect_stderr 'the output is the input'
expect_exit 64 "$convert" -i "$tmp/gptq" -o "$tmp/gptq/x.h5" --to h5
expect_stderr 'gptq/x.h5: lies in the directory of the input'
expect_exit 64 "$convert" -i "$tmp/m.h5" -o '' --to h5
expect_stderr 'output is missing'
expect_exit 64 "$convert" -i "$tmp/m.h5" -o "$tmp/x" --to hf-exl2
for layout in '-t float32' '-t float16' '-p 2' '-p 1'; do # whatever the value
    expect_exit 64 "$convert" -i "$tmp/m.h5" -o "$tmp/x" --to hf-awq $layout
    expect_stderr 'they take --input, --output and --force only'
done
expect_equal "$(ls -A "$tmp" | grep -E '^(x|ft)|part|lock')" ""
tap_ok "what cannot be done says why and leaves nothing"

"$convert" -i "$tmp/gptq" -o "$tmp/again.h5" --to h5 -q --threads 1 >/dev/null
OMP_NUM_THREADS=3 "$convert" -i "$tmp/gptq" -o "$tmp/third.h5" --to h5 -q >/dev/null
expect cmp "$tmp/m.h5" "$tmp/again.h5"
expect cmp "$tmp/m.h5" "$tmp/third.h5"
tap_ok "the same input gives the same bytes"

for i in 1 2 3 4 5 6; do
    "$convert" -i "$tmp/gptq" -o "$tmp/killed.h5" --to h5 -q >/dev/null 2>&1 &
    sleep "0.0$((i * 2))"
    kill -9 $! 2>/dev/null
    wait $! 2>/dev/null
    [ ! -e "$tmp/killed.h5" ] || expect_exit 0 "$inspect" "$tmp/killed.h5" --verify
    rm -f "$tmp"/killed.h5*
done
tap_ok "killed at any time there is no archive or a whole one"

if [ -w / ] && mkdir "$tmp/small" && mount -t tmpfs -o size=64k none "$tmp/small" 2>/dev/null; then
    expect_exit 74 "$convert" -i "$tmp/gptq" -o "$tmp/small/m.h5" --to h5
    expect_stderr 'bytes needed'
    expect_equal "$(ls -A "$tmp/small")" ""
    umount "$tmp/small"
    tap_ok "a full disk is seen before anything is written"
else
    tap_skip "a full disk" "cannot mount a tmpfs"
fi

if command -v h5dump >/dev/null && command -v h5ls >/dev/null; then
    expect h5ls -r "$tmp/m.h5"
    expect_exit 0 h5dump -H "$tmp/m.h5"
    expect_stdout 'H5T_STD_I32LE'
    expect_stdout 'DATASPACE  SIMPLE \{ \( 8, 96 \) / \( 8, 96 \) \}'
    expect_exit 0 h5dump -d /meta/generation_config.json "$tmp/m.h5"
    expect_stdout 'top_k'
    tap_ok "h5ls and h5dump read the archive"
else
    tap_skip "h5ls and h5dump read the archive" "hdf5-tools is not installed"
fi
tap_done
