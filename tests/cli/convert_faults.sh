# qwen-convert: the n-th system call or allocation fails, writes are short, the disk is full.
. "$(dirname "$0")/lib.sh"
convert=$(bin qwen-convert)
failio=$BUILD/tests/faults/failio.so
small=$tmp/model

if ! LD_PRELOAD=$failio "$convert" --version >/dev/null 2>&1; then
    tap_skip "faults" "failio.so cannot be preloaded into this build"
    tap_done
fi
expect_exit 0 "$(bin random-checkpoint)" --hidden 32 --heads 2 --ffn 48 --layers 1 --vocab 64 -o "$small"
expect_exit 0 "$convert" -i "$small" -o "$tmp/good"
good=$tmp/good/1-gpu/manifest.json

# Fails call after call of a kind until a run gets through.  The exit code must be one of CODES, the
# message must name a file, and the output must be absent or complete.
loop() { # KIND ERRNO CODES LAST [VARIABLE=VALUE...]
    local kind=$1 errno=$2 codes=$3 last=$4 n=0 rc fired=0
    shift 4
    while n=$((n + 1)); do
        [ $n -le 45 ] || n=$((n + n / 9)) # every one at first, then ever larger steps
        [ $n -le "$last" ] || break
        rm -rf "$tmp/o" "$tmp/mark"
        env "$@" FAIL_CALL=$kind FAIL_AT=$n FAIL_ERRNO=$errno FAIL_MARK="$tmp/mark" LD_PRELOAD="$failio" \
            "$convert" -i "$small" -o "$tmp/o" --threads 1 >"$tmp/stdout" 2>"$tmp/stderr"
        rc=$?
        if [ ! -e "$tmp/mark" ]; then # fewer calls than n: the run was undisturbed
            [ $rc = 0 ] || fail "$kind: exit $rc without a fault"
            break
        fi
        fired=$((fired + 1))
        case " $codes " in *" $rc "*) ;; *)
            fail "$kind $n: exit $rc, wanted one of $codes"
            show "$tmp/stderr" ;;
        esac
        if [ $rc != 0 ]; then
            expect_stderr "^qwen-convert: .+ \(exit $rc\)$"
            [ "$kind" = malloc ] || expect_stderr '/'
        fi
        if [ -e "$tmp/o/1-gpu" ]; then
            cmp -s "$tmp/o/1-gpu/manifest.json" "$good" || fail "$kind $n: a partial output is visible"
        else
            [ $rc != 0 ] || fail "$kind $n: exit 0 without output"
        fi
        # nothing hidden is left either, unless the fault hit the removal
        [ -e "$tmp/o/1-gpu" ] || [ ! -e "$tmp/o" ] || [ "$kind" = malloc ] || [ "$kind" = open ] ||
            fail "$kind $n: left behind: $(ls -A "$tmp/o")"
    done
    echo "# $kind: $fired faults"
    [ $fired -gt 0 ] || fail "$kind: no call was failed"
}

loop write 5 74 400
tap_ok "EIO at each write: 74, no output"
loop write 28 74 12
rm -rf "$tmp/o"
expect_exit 74 env FAIL_CALL=write FAIL_AT=9 FAIL_ERRNO=28 LD_PRELOAD="$failio" "$convert" -i "$small" -o "$tmp/o"
expect_stderr 'o/.1-gpu.part/.*: write at byte [0-9]+: No space left on device'
loop write 122 74 5
tap_ok "ENOSPC and EDQUOT in the middle of the writing: 74, no output"
loop read 5 74 400
tap_ok "EIO at each read: 74, no output"
loop fsync 5 74 400
tap_ok "EIO at each fsync: 74, no output or a complete one"
loop close 5 "0 74" 400 # 0: files that were only read
tap_ok "EIO at each close: 74 for what was written, no output"
loop rename 5 74 10
loop rename 30 77 10    # EROFS
loop rename 22 "0 73" 10 # EINVAL: a file system without this kind of rename
tap_ok "a failing rename: no output"
loop open 5 "0 66 73 74" 400 # 0: what libraries look for in vain
loop open 24 "0 66 73 74" 400 # EMFILE
tap_ok "EIO and EMFILE at each open"
loop malloc 12 "0 71" 100000 FAIL_STICKY=1
tap_ok "no memory from the n-th allocation on: 71"
loop malloc 12 "0 71" 100000
tap_ok "a single failing allocation: 71, never a wrong output"

for kind in short storm; do
    rm -rf "$tmp/o"
    expect_exit 0 env FAIL_CALL=$kind LD_PRELOAD="$failio" "$convert" -i "$small" -o "$tmp/o" --threads 3
    expect cmp "$tmp/o/1-gpu/manifest.json" "$good"
    expect_exit 0 "$convert" --verify "$tmp/o/1-gpu"
done
tap_ok "short writes and interrupted calls change nothing"

# --force where names cannot be exchanged: the old directory is moved aside
expect_exit 0 "$convert" -i "$small" -o "$tmp/old" -t float32
old=$(tree_hash "$tmp/old/1-gpu")
forced() { # VARIABLE=VALUE...: rename fails with EINVAL
    rm -rf "$tmp/f" && cp -r "$tmp/old" "$tmp/f"
    env "$@" FAIL_CALL=rename FAIL_AT=1 FAIL_ERRNO=22 LD_PRELOAD="$failio" \
        "$convert" -i "$small" -o "$tmp/f" --force >"$tmp/stdout" 2>"$tmp/stderr"
}
forced
expect_equal $? 0
expect cmp "$tmp/f/1-gpu/manifest.json" "$good"
expect_equal "$(ls -A "$tmp/f")" 1-gpu
forced FAIL_STICKY=1 # it cannot be moved aside either
expect_equal $? 73
expect_equal "$(tree_hash "$tmp/f/1-gpu")" "$old"
expect_equal "$(ls -A "$tmp/f")" 1-gpu
forced FAIL_STICKY=1 FAIL_PATH=/1-gpu # moved aside, then neither way back
expect_equal $? 73
expect_stderr 'the directory that stood there is now .*/.1-gpu.old'
expect_equal "$(tree_hash "$tmp/f/.1-gpu.old")" "$old"
expect_exit 0 "$convert" -i "$small" -o "$tmp/f"
expect_equal "$(ls -A "$tmp/f")" 1-gpu
tap_ok "--force on a file system that cannot exchange names"

# disks of many sizes, each a private tmpfs
if unshare -rm sh -c 'mount -t tmpfs -o size=1m none "$1"' sh "$tmp/good" 2>/dev/null; then
    mkdir "$tmp/disk"
    cat >"$tmp/on_disk.sh" <<'SH'
disk=$1 options=$2 convert=$3 in=$4
mount -t tmpfs -o "$options" none "$disk" || exit 99
"$convert" -i "$in" -o "$disk/o"
rc=$?
[ $rc = 0 ] && "$convert" --verify "$disk/o/1-gpu" >/dev/null || ls -A "$disk" "$disk/o" 2>/dev/null >&2
exit $rc
SH
    for size in 4 16 64 256 1024 2048 4096 8192 12288 16384 17408 17664; do
        expect_exit 74 unshare -rm sh "$tmp/on_disk.sh" "$tmp/disk" size=${size}k "$convert" "$root/datasets/qwen-tiny"
        expect_stderr "[0-9]+ bytes needed, [0-9]+ free|No space left"
        ! grep -q gpu$ "$tmp/stderr" || fail "$size KiB: an output is visible"
    done
    expect_exit 0 unshare -rm sh "$tmp/on_disk.sh" "$tmp/disk" size=20m "$convert" "$root/datasets/qwen-tiny"
    tap_ok "a disk that is too small, 12 sizes: 74 before or while writing, no output"
    for inodes in 2 3 4 5 6 10 20 40 60 75; do # room for bytes, none for names: found while writing
        expect_exit 74 unshare -rm sh "$tmp/on_disk.sh" "$tmp/disk" size=40m,nr_inodes=$inodes "$convert" "$root/datasets/qwen-tiny"
        expect_stderr 'No space left on device'
        ! grep -q gpu$ "$tmp/stderr" || fail "$inodes inodes: an output is visible"
    done
    expect_exit 0 unshare -rm sh "$tmp/on_disk.sh" "$tmp/disk" size=40m,nr_inodes=90 "$convert" "$root/datasets/qwen-tiny"
    tap_ok "a disk that fills up while writing, 10 sizes: 74, no output"
else
    tap_skip "full disks" "unshare -rm with a tmpfs is not allowed here"
fi

tap_done
