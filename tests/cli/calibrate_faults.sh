# Calibration on a disk that gets full, or that cannot be read: exit 74 with the file's name, nothing
# under the output's name, and the same command goes on later, with the same bytes.  Hidden states in
# memory and in files; writes and reads that fail at many places, in the loop and in its threads, and
# a real file system that is too small.
. "$(dirname "$0")/lib.sh"
model=$tmp/model data=$root/datasets/samples.jsonl
gptq=$(bin qwen-gptq) failio=$BUILD/tests/faults/failio.so
cal=(--calib-data "$data" --samples 3 --seq-len 150 --no-report --group-size 32)

expect_exit 0 "$(bin random-checkpoint)" --hidden 64 --heads 2 --ffn 96 --layers 8 --vocab 4096 \
    --tokenizer "$root/datasets/qwen-tiny/qwen.tiktoken" -o "$model"

expect_exit 0 "$gptq" -i "$model" -o "$tmp/good.h5" "${cal[@]}"
expect_exit 0 "$gptq" -i "$model" -o "$tmp/good2.h5" "${cal[@]}" --dry-run --json
bytes=$(sed -nE 's/.*"host_bytes": ([0-9]+).*/\1/p' "$tmp/stdout")
files=(--max-ram $((bytes - 1)))
expect_exit 0 "$gptq" -i "$model" -o "$tmp/none.h5" "${cal[@]}" "${files[@]}" --dry-run
expect_stdout 'hidden states in files'
tap_ok "the plan moves hidden states to files"

# The n-th write fails, and all after it: run after run goes on with the job of the one before.
full() { # NAME STEP OPTIONS...
    local name=$1 step=$2 n fired=0
    shift 2
    rm -rf "$tmp/k.h5" "$tmp/k.h5.job"
    for ((n = step; n < 5 * step; n += step)); do
        rm -f "$tmp/mark"
        env FAIL_CALL=write FAIL_AT=$n FAIL_ERRNO=28 FAIL_STICKY=1 FAIL_MARK="$tmp/mark" \
            LD_PRELOAD="$failio" "$gptq" -i "$model" -o "$tmp/k.h5" "${cal[@]}" "$@" \
            >"$tmp/stdout" 2>"$tmp/stderr"
        rc=$?
        [ -e "$tmp/mark" ] || break
        fired=$((fired + 1))
        expect_equal $rc 74
        expect_stderr '^qwen-gptq: .*/k.h5.*No space left on device.* \(exit 74\)$'
        expect test ! -e "$tmp/k.h5"
        expect test -e "$tmp/k.h5.job"
    done
    echo "# $name: $fired runs met a full disk, $(ls "$tmp/k.h5.job" 2>/dev/null | grep -c layer) layers are done"
    [ $fired -ge 3 ] || fail "only $fired runs met a full disk"
    [ -e "$tmp/k.h5" ] || expect_exit 0 "$gptq" -i "$model" -o "$tmp/k.h5" "${cal[@]}" "$@"
    expect cmp "$tmp/good.h5" "$tmp/k.h5"
    expect test ! -e "$tmp/k.h5.job"
    tap_ok "$name: a disk that gets full is exit 74, and the job goes on to the same bytes"
}
if LD_PRELOAD=$failio "$gptq" --version >/dev/null 2>&1; then
    full 'hidden states in memory' 60
    full 'hidden states in files' 40 "${files[@]}"
    rm -f "$tmp/k.h5"
    for n in 50 400 1000 1040 1080 1120; do # the embedding has 900 rows to read, then come layers
        rm -f "$tmp/mark"
        env FAIL_CALL=read FAIL_AT=$n FAIL_MARK="$tmp/mark" LD_PRELOAD="$failio" \
            "$gptq" -i "$model" -o "$tmp/k.h5" "${cal[@]}" --no-resume >"$tmp/stdout" 2>"$tmp/stderr"
        expect_equal "$?, $(ls "$tmp/mark")" "74, $tmp/mark"
        expect_stderr '^qwen-gptq: .*(model|samples|k.h5).*Input/output error.* \(exit 74\)$'
        expect test ! -e "$tmp/k.h5"
    done
    expect_exit 0 "$gptq" -i "$model" -o "$tmp/k.h5" "${cal[@]}"
    expect cmp "$tmp/good.h5" "$tmp/k.h5"
    tap_ok "a read that fails, of the model too: 74 with the file's name, and the job goes on"
else
    tap_skip "failing writes" "failio.so cannot be preloaded into this build"
fi

if unshare -rm sh -c 'mount -t tmpfs -o size=1m none "$1"' sh "$tmp" 2>/dev/null; then
    mkdir "$tmp/disk"
    cat >"$tmp/on_disk.sh" <<'SH'
disk=$1 good=$2
shift 2
mount -t tmpfs -o size=320k none "$disk" || exit 99
"$@" -o "$disk/k.h5"
rc=$?
[ $rc = 74 ] && [ ! -e "$disk/k.h5" ] && [ -e "$disk/k.h5.job/layer-0000.h5" ] || exit 98
mount -o remount,size=64m "$disk" || exit 97
"$@" -o "$disk/k.h5" || exit 96
cmp "$disk/k.h5" "$good"
SH
    expect_exit 0 unshare -rm sh "$tmp/on_disk.sh" "$tmp/disk" "$tmp/good.h5" \
        "$gptq" -i "$model" "${cal[@]}"
    expect_stderr 'k.h5.job/.*No space left on device'
    tap_ok "a small file system fills up, grows, and the job goes on to the same bytes"
else
    tap_skip "a full file system" "unshare -rm with a tmpfs is not allowed here"
fi
tap_done
