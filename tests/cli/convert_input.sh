# qwen-convert: damaged, hostile and foreign checkpoints are named before anything is written.
. "$(dirname "$0")/lib.sh"
model=$root/datasets/qwen-tiny
convert=$(bin qwen-convert)
size=$(wc -c <"$model/model.safetensors")

fresh() { rm -rf "$tmp/m" && cp -r "$model" "$tmp/m"; }
refused() { # CODE PATTERN
    expect_exit "$1" "$convert" -i "$tmp/m" -o "$tmp/o"
    expect_stderr "$2"
    expect_empty "$tmp/stdout"
    expect test ! -e "$tmp/o"
}

fresh
for i in $(seq 50); do
    at=$(((RANDOM << 15 | RANDOM) % size))
    [ "$i" -le 8 ] && at=$((i - 1)) # in the length word
    cp "$model/model.safetensors" "$tmp/m/model.safetensors"
    truncate -s "$at" "$tmp/m/model.safetensors"
    refused 65 'model.safetensors: .*(incomplete|bytes)'
done
tap_ok "a shard cut at 50 places exits 65"

fresh
printf 'x' >>"$tmp/m/model.safetensors"
refused 65 'model.safetensors: 1 bytes behind the last tensor'
cat >"$tmp/m/model.safetensors" <<'LFS'
version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 17853488
LFS
refused 65 'git-lfs pointer, not the data: run .git lfs pull'
: >"$tmp/m/model.safetensors"
refused 65 'model.safetensors'
rm "$tmp/m/model.safetensors"
refused 66 'm'
mkfifo "$tmp/m/model.safetensors"
refused 65 'not a regular file'
tap_ok "trailing bytes, a git-lfs pointer, an empty, a missing file and a FIFO"

# one shard and an index that names it
names=$(head -c 20000 "$model/model.safetensors" | grep -aoE '"[a-z0-9_.]+":\{"dtype"' | cut -d'"' -f2)
index() { # FILE: every tensor is said to be in it
    local sep=""
    printf '{"weight_map": {'
    for n in $names; do printf '%s"%s": "%s"' "$sep" "$n" "$1"; sep=", "; done
    printf '}}'
}
fresh
shard=model-00001-of-00001.safetensors
mv "$tmp/m/model.safetensors" "$tmp/m/$shard"
index $shard >"$tmp/m/model.safetensors.index.json"
expect_exit 0 "$convert" -i "$tmp/m" -o "$tmp/sharded"
expect_exit 0 "$convert" -i "$model" -o "$tmp/single"
expect cmp "$tmp/sharded/1-gpu/manifest.json" "$tmp/single/1-gpu/manifest.json"
tap_ok "an index with one shard gives the same bytes"

mkdir "$tmp/outside"
cp "$tmp/m/$shard" "$tmp/outside/x"
cp "$tmp/m/$shard" "$tmp/x"
mkdir "$tmp/m/a"
cp "$tmp/m/$shard" "$tmp/m/a/b"
for name in ../x "$tmp/outside/x" /etc/passwd a/b "" . .. a ../outside/x; do
    index "$name" >"$tmp/m/model.safetensors.index.json"
    rm -f "$tmp/trace"
    if command -v strace >/dev/null && strace -o "$tmp/trace" true 2>/dev/null; then
        strace -f -e trace=open,openat -o "$tmp/trace" "$convert" -i "$tmp/m" -o "$tmp/o" >/dev/null 2>&1
        expect test -s "$tmp/trace"
        for path in outside /etc/passwd "$tmp/x" '"../x'; do
            ! grep -qF "$path" "$tmp/trace" || fail "$path was opened for '$name'"
        done
    fi
    expect_exit 65 "$convert" -i "$tmp/m" -o "$tmp/o"
done
index link >"$tmp/m/model.safetensors.index.json"
ln -s "$tmp/outside/x" "$tmp/m/link"
refused 65 'link: refused'
tap_ok "weight_map cannot lead out of the directory"

edit() { fresh; sed -i "$1" "$tmp/m/config.json"; }
edit 's/"model_type": "qwen"/"model_type": "gpt2"/'
refused 78 "config.json: model_type 'gpt2' is not supported; known: qwen"
edit 's/"hidden_size": 256/"hidden_size": 512/'
refused 65 "is \[.*\], config.json wants \["
edit 's/"num_hidden_layers": 8/"num_hidden_layers": 9/'
refused 65 "tensor 'transformer.h.8.ln_1.weight' is missing"
edit 's/"num_hidden_layers": 8/"num_hidden_layers": 7/'
refused 78 "'transformer.h.7.* is not part of family qwen: refused"
edit 's/"vocab_size": 4096/"vocab_size": 1e308/'
refused 78 "config.json: 'vocab_size' is 1"
edit 's/"vocab_size": 4096/"vocab_size": 4096,,/'
refused 65 'config.json: line [0-9]+ column [0-9]+'
edit 's/"rotary_pct": 1.0/"rotary_pct": 0.25/'
refused 78 'partial rotary embeddings are not supported'
fresh
rm "$tmp/m/config.json"
refused 66 'no config.json'
fresh
printf '\x1b[31m{' >"$tmp/m/config.json"
refused 65 'config.json: line 1'
! grep -q $'\x1b' "$tmp/stderr" || fail "an escape sequence reached the terminal"
tap_ok "config.json: sizes that do not fit the tensors, features, syntax"

tap_done
