# qwen-convert on every family: T = 1, 2 and 4, also with more ranks than key/value heads; joined
# again it gives the bytes of cutting once, and the logits of the FT directory are those of the
# checkpoint to the bit.
. "$(dirname "$0")/lib.sh"
convert=$(bin qwen-convert) run=$(bin qwen-run) make=$(bin random-checkpoint)
seq -s, 5 44 >"$tmp/ids.csv"

logits() { # MODEL OUT
    expect_exit 0 "$run" -m "$1" --input-tokens "$tmp/ids.csv" --json --max-new-tokens 0 \
        --dump-logits "$2" --dump-positions 40
}
small="--hidden 64 --layers 2 --ffn 96 --vocab 512"
check() { # NAME HEADS KV OPTIONS...
    local name=$1 heads=$2 kv=$3 t
    shift 3
    rm -rf "$tmp/m" "$tmp/o"
    expect_exit 0 "$make" --family "$name" $small --heads "$heads" --kv-heads "$kv" "$@" -o "$tmp/m"
    logits "$tmp/m" "$tmp/m.npy"
    for t in 1 2 4; do
        expect_exit 0 "$convert" -i "$tmp/m" -o "$tmp/o" -p $t
        expect_exit 0 "$convert" --verify "$tmp/o/$t-gpu"
        logits "$tmp/o/$t-gpu" "$tmp/$t.npy"
        expect cmp "$tmp/m.npy" "$tmp/$t.npy"
        expect_exit 0 "$convert" -i "$tmp/o/$t-gpu" -o "$tmp/back$t" --force
        expect cmp "$tmp/back$t/1-gpu/manifest.json" "$tmp/o/1-gpu/manifest.json"
        rm -f "$tmp/$t.npy"
        if [ $t -gt "$kv" ]; then
            expect_in "$tmp/o/$t-gpu/manifest.json" "\"kv_copies\": $((t / kv)),"
            expect_exit 0 "$convert" -i "$tmp/m" -o "$tmp/dry" -p $t --dry-run
            expect_stdout "^$t ranks share $kv key/value heads: each head is stored $((t / kv)) times$"
        else
            expect_exit 1 grep kv_copies "$tmp/o/$t-gpu/manifest.json"
        fi
    done
    rm -f "$tmp/m.npy"
    tap_ok "$name, $heads heads, $kv key/value heads $*"
}
check qwen 4 4
check qwen2 4 4
check qwen2 4 2
check qwen2 8 1
check qwen3 4 2 --head-dim 32
check chatglm 4 2

rm -rf "$tmp/m"
expect_exit 0 "$make" --family qwen2 $small --heads 12 --kv-heads 3 --head-dim 16 -o "$tmp/m"
expect_exit 78 "$convert" -i "$tmp/m" -o "$tmp/uneven" -p 4
expect_stderr '4 ranks do not divide key/value heads 3: use --tensor-parallelism 3'
expect test ! -e "$tmp/uneven"
tap_ok "ranks that do not divide the model are refused before anything is written"

for f in qwen2-tiny qwen3-random chatglm3-random chatglm3-32k-random; do
    if [ ! -d "$shared/models/$f" ]; then
        tap_skip "$f" "$shared/models/$f is not there"
        continue
    fi
    logits "$shared/models/$f" "$tmp/m.npy"
    for t in 1 2 4; do
        rm -rf "$tmp/o"
        expect_exit 0 "$convert" -i "$shared/models/$f" -o "$tmp/o" -p $t
        logits "$tmp/o/$t-gpu" "$tmp/$t.npy"
        expect cmp "$tmp/m.npy" "$tmp/$t.npy"
        rm -f "$tmp/$t.npy"
    done
    rm -f "$tmp/m.npy"
    tap_ok "$f: logits of 1, 2 and 4 ranks are those of the checkpoint"
done

tap_done
