# qwen-convert: killed, stopped and interrupted at any moment, there is no output or a complete one.
. "$(dirname "$0")/lib.sh"
model=$root/datasets/qwen-tiny
convert=$(bin qwen-convert)
failio=$BUILD/tests/faults/failio.so

complete_or_absent() { # DIR
    [ -e "$1" ] || return 0
    "$convert" --verify "$1" >/dev/null 2>&1 || fail "$1 is there and not complete"
}

# the length of a run, to spread the kills over it
start=$(date +%s%N)
expect_exit 0 "$convert" -i "$model" -o "$tmp/first"
us=$((($(date +%s%N) - start) / 1000))
finished=0
for i in $(seq 20); do
    "$convert" -i "$model" -o "$tmp/k" --force >/dev/null 2>&1 &
    pid=$!
    sleep "$(printf '0.%06d' $(((RANDOM << 15 | RANDOM) % (us < 200000 ? us * 2 : 400000))))"
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null && finished=$((finished + 1))
    complete_or_absent "$tmp/k/1-gpu"
done
echo "# $finished of 20 runs finished before the kill"
[ "$finished" -lt 20 ] || fail "no run was killed"
expect_exit 0 "$convert" -i "$model" -o "$tmp/k" --force
expect cmp "$tmp/k/1-gpu/manifest.json" "$tmp/first/1-gpu/manifest.json"
expect_exit 0 "$convert" --verify "$tmp/k/1-gpu"
expect_equal "$(ls -A "$tmp/k")" 1-gpu
tap_ok "kill -9 at 20 random moments: no output or a complete one, and the next run cleans up"

if ! LD_PRELOAD=$failio "$convert" --version >/dev/null 2>&1; then
    tap_skip "signals" "failio.so cannot be preloaded into this build"
    tap_done
fi

slow() { exec env LD_PRELOAD="$failio" FAIL_CALL=slow FAIL_AT=30 "$convert" -i "$model" "$@" >"$tmp/stdout" 2>"$tmp/stderr"; }
wait_for() { # PATH
    for _ in $(seq 500); do [ -e "$1" ] && return; sleep 0.01; done
    fail "$1 did not come"
}
for sig in TERM INT HUP; do
    (trap - INT; slow -o "$tmp/s") & # bash lets background jobs ignore INT
    pid=$!
    wait_for "$tmp/s/.1-gpu.part/lm_head.weight.bin"
    kill -$sig $pid
    wait $pid
    rc=$?
    if [ $sig = INT ] && [ $rc = 0 ]; then # inherited as ignored: then it must stay ignored
        rm -rf "$tmp/s"
        continue
    fi
    expect_equal "$rc" 75
    expect_stderr 'stopped by a signal'
    expect_empty "$tmp/stdout"
    expect test ! -e "$tmp/s"
done
tap_ok "a first SIGTERM, SIGINT or SIGHUP stops with 75 and leaves nothing"

(slow -o "$tmp/s2" --threads 1) &
pid=$!
wait_for "$tmp/s2/.1-gpu.part/vocab_embedding.weight.bin"
kill -TERM $pid
sleep 0.02
kill -TERM $pid
wait $pid
expect_equal $? 143
expect test ! -e "$tmp/s2/1-gpu"
expect test -e "$tmp/s2/.1-gpu.part"
expect_exit 0 "$convert" -i "$model" -o "$tmp/s2"
expect_stderr 'left by a run that was killed: removed'
expect cmp "$tmp/s2/1-gpu/manifest.json" "$tmp/first/1-gpu/manifest.json"
tap_ok "a second signal ends it at once with 143; the next run takes over"

(slow -o "$tmp/w" --threads 1) &
pid=$!
wait_for "$tmp/w/.1-gpu.part/vocab_embedding.weight.bin"
expect_exit 73 "$convert" -i "$model" -o "$tmp/w"
expect_stderr "w/1-gpu: process $pid is writing it"
expect_exit 73 "$convert" -i "$model" -o "$tmp/w" --force
kill -9 $pid
wait $pid 2>/dev/null
expect_exit 0 "$convert" -i "$model" -o "$tmp/w"
expect_equal "$(ls -A "$tmp/w")" 1-gpu
tap_ok "a second writer exits 73 naming the process; after kill -9 the lock is free"

tap_done
