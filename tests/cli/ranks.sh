# Several ranks under mpirun: sums over them, and calibrations whose samples they share give the bytes
# of one process.
. "$(dirname "$0")/lib.sh"
ranks() { # N PROGRAM...
    local n=$1
    shift
    # what MPI itself leaves behind is no leak of ours
    ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
        OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 timeout 120 mpirun -n "$n" "$@"
}
command -v mpirun >/dev/null && ranks 2 "$BUILD/tests/unit/test_comm" >/dev/null 2>"$tmp/stderr"
case $? in
1) tap_skip "several ranks" "mpirun is not there (openmpi-bin)"; tap_done ;;
78) tap_skip "several ranks" "$(head -1 "$tmp/stderr")"; tap_done ;;
esac

for n in 2 4 8; do
    expect_exit 0 ranks $n "$BUILD/tests/unit/test_comm"
    expect_stdout "^# $n ranks: [0-9]+ of 700001 sums have other bits"
done
expect_exit 64 ranks 3 "$BUILD/tests/unit/test_comm"
expect_stderr 'mpirun started 3 ranks, wanted 1, 2, 4 or 8'
tap_ok "sums over 2, 4 and 8 ranks are a binary tree; 3 are refused"

model=$root/datasets/qwen-tiny data=$root/datasets/samples.jsonl
gptq=$(bin qwen-gptq) awq=$(bin qwen-awq) convert=$(bin qwen-convert) kv=$(bin qwen-calibrate-kv)
cal=(--calib-data "$data" --calib-samples 9 --calib-seq-len 64 --device cpu)
root_of() { sed -nE 's/.*"root_sha256": "([0-9a-f]+)".*/\1/p' "$1/1-gpu/manifest.json"; }

for n in 1 2 4; do
    expect_exit 0 ranks $n "$gptq" -i "$model" -o "$tmp/g$n.h5" "${cal[@]}" --true-sequential
    expect_equal "$(grep -c 'output error' "$tmp/stdout")" 1
    expect cmp "$tmp/g1.h5" "$tmp/g$n.h5"
    expect test ! -e "$tmp/g$n.h5.job"
done
for n in 1 2; do
    expect_exit 0 ranks $n "$awq" -i "$model" -o "$tmp/a$n.h5" "${cal[@]}"
done
expect cmp "$tmp/a1.h5" "$tmp/a2.h5"
tap_ok "qwen-gptq and qwen-awq: 1, 2 and 4 ranks write the same bytes, once"

expect_exit 0 "$convert" -i "$model" -o "$tmp/c1" --smoothquant auto --calibrate-kv-cache "${cal[@]}" \
    --save-stats "$tmp/c1.h5"
expect_exit 0 ranks 2 "$convert" -i "$model" -o "$tmp/c2" --smoothquant auto --calibrate-kv-cache \
    "${cal[@]}" --save-stats "$tmp/c2.h5"
expect cmp "$tmp/c1.h5" "$tmp/c2.h5"
expect_equal "$(root_of "$tmp/c2")" "$(root_of "$tmp/c1")"
expect_exit 0 "$kv" -m "$model" -o "$tmp/k1" "${cal[@]}"
expect_exit 0 ranks 2 "$kv" -m "$model" -o "$tmp/k2" "${cal[@]}"
expect_equal "$(root_of "$tmp/k2")" "$(root_of "$tmp/k1")"
expect_exit 0 ranks 2 "$convert" -i "$model" -o "$tmp/f2" # no samples to share
expect_exit 0 ranks 2 "$gptq" -i "$model" -o "$tmp/r2.h5" --rtn
expect_exit 0 ranks 2 "$gptq" -i "$model" -o "$tmp/d.h5" "${cal[@]}" --dry-run
expect_equal "$(grep -c '^memory' "$tmp/stdout")" 1
tap_ok "qwen-convert and qwen-calibrate-kv: so do they; work without samples is done once"

long=(--calib-data "$data" --calib-samples 48 --calib-seq-len 64 --device cpu)
ranks_of() { # PID: processes of qwen-gptq below it
    local p
    for p in $(pgrep -P "$1"); do
        if [ "$(cat "/proc/$p/comm")" = qwen-gptq ]; then echo "$p"; else ranks_of "$p"; fi
    done
}
start() { # leaves $pid, when two layers are stored
    ranks 2 "$gptq" -i "$model" -o "$tmp/j.h5" "${long[@]}" >"$tmp/stdout" 2>"$tmp/stderr" &
    pid=$!
    for _ in $(seq 1500); do [ -e "$tmp/j.h5.job/hidden-0001.1.bin" ] && break; sleep 0.02; done
}
start
kill -KILL "$(ranks_of $pid | tail -1)"
wait $pid
expect_equal $? 137
expect test ! -e "$tmp/j.h5"
expect_exit 78 "$gptq" -i "$model" -o "$tmp/j.h5" "${long[@]}"
expect_stderr 'j.h5.job: was begun with another number of ranks \(2, now 1\)'
expect_exit 0 ranks 2 "$gptq" -i "$model" -o "$tmp/j.h5" "${long[@]}"
expect_stderr 'continuing .*/j.h5.job behind layer'
expect_exit 0 "$gptq" -i "$model" -o "$tmp/j1.h5" "${long[@]}"
expect cmp "$tmp/j1.h5" "$tmp/j.h5"
tap_ok "a killed rank ends all; as many go on to the same bytes, another number is refused"

rm "$tmp/j.h5"
start
kill -TERM "$(ranks_of $pid | head -1)"
wait $pid
expect_equal $? 75
expect_exit 0 ranks 2 "$gptq" -i "$model" -o "$tmp/j.h5" "${long[@]}"
expect cmp "$tmp/j1.h5" "$tmp/j.h5"
tap_ok "a signal to one rank is exit 75 of all, and the same command goes on"

# a job whose files were cut or changed since: the file is named, by whichever rank reads it
rm "$tmp/j.h5"
start
kill -TERM "$(ranks_of $pid | head -1)"
wait $pid
cp -r "$tmp/j.h5.job" "$tmp/kept.job"
last=$(cd "$tmp/kept.job" && echo hidden-*.1.bin)
last=${last##* }
spoiled() { # FILE PATTERN
    expect_exit 65 ranks 2 "$gptq" -i "$model" -o "$tmp/j.h5" "${long[@]}"
    expect_stderr "j.h5.job: cannot be continued, --no-resume starts anew: .*/$1: $2"
    expect test ! -e "$tmp/j.h5"
    cp "$tmp/kept.job/$1" "$tmp/j.h5.job/$1"
}
for file in layer-0001.h5 "$last" "${last%.1.bin}.bin" job.json; do
    truncate -s 100 "$tmp/j.h5.job/$file"
    spoiled $file "(has 100 bytes|100 bytes|line [0-9])"
    [ $file != job.json ] || continue
    printf "\xa5\x5a" | dd of="$tmp/j.h5.job/$file" bs=1 seek=30001 conv=notrunc status=none
    spoiled $file "was changed"
done
truncate -s 100 "$tmp/j.h5.job/$last"
expect_exit 0 ranks 2 "$gptq" -i "$model" -o "$tmp/j.h5" "${long[@]}" --no-resume
expect cmp "$tmp/j1.h5" "$tmp/j.h5"
tap_ok "files of a job that were cut or changed are named, --no-resume starts anew"

# as on a full disk, in one of the ranks
limited() { # RANK KIB PROGRAM...
    local where="[ \$OMPI_COMM_WORLD_RANK != $1 ] || ulimit -f $2; exec \"\$@\""
    shift 2
    ranks 2 bash -c "$where" bash "$@"
}
for rank in 0 1; do
    began=$SECONDS
    expect_exit 74 limited $rank 64 "$gptq" -i "$model" -o "$tmp/full.h5" "${cal[@]}"
    expect_stderr "^qwen-gptq: .*/full.h5.job/hidden-0000.*: write at byte 65536: File too large \(exit 74\)"
    expect_equal "$(grep -c "(exit" "$tmp/stderr")" 1
    expect_exit 74 limited $rank 64 "$convert" -i "$model" -o "$tmp/full" --smoothquant 0.5 "${cal[@]}"
    expect test $((SECONDS - began)) -lt 30
done
expect_exit 0 ranks 2 "$gptq" -i "$model" -o "$tmp/full.h5" "${cal[@]}" --true-sequential --no-resume
expect cmp "$tmp/g1.h5" "$tmp/full.h5"
tap_ok "a rank that cannot write ends all within seconds, and its error is the only one"

expect_exit 64 ranks 2 "$gptq" -i "$model" -o "$tmp/n.h5" "${cal[@]}" --calib-samples 1
expect_stderr '1 samples for 2 ranks: use more text, or fewer ranks'
expect_exit 66 ranks 2 "$gptq" -i "$model" -o "$tmp/n.h5" --calib-data "$tmp/none.jsonl"
expect_equal "$(grep -c 'none.jsonl' "$tmp/stderr")" 1
expect_exit 78 ranks 2 "$(bin qwen-inspect)" "$model"
expect_stderr 'mpirun started 2 of this program, which works alone'
expect_exit 78 env ASAN_OPTIONS=detect_leaks=0 OMPI_COMM_WORLD_SIZE=2 "$gptq" -i "$model" -o "$tmp/n.h5" "${cal[@]}"
expect test ! -e "$tmp/n.h5"
tap_ok "too few samples, a failure of all ranks is said once, programs that work alone"
tap_done
