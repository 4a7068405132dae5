# qwen-convert: outputs that exist, are the input, belong to another process or cannot be made.
. "$(dirname "$0")/lib.sh"
model=$root/datasets/qwen-tiny
convert=$(bin qwen-convert)

expect_exit 0 "$convert" -i "$model" -o "$tmp/o"
before=$(tree_hash "$tmp/o")
expect_exit 73 "$convert" -i "$model" -o "$tmp/o" -t bfloat16
expect_stderr '1-gpu: exists; --force replaces it \(exit 73\)'
expect_equal "$(tree_hash "$tmp/o")" "$before"
touch "$tmp/o/1-gpu/stranger"
expect_exit 0 "$convert" -i "$model" -o "$tmp/o" --force
expect_equal "$(tree_hash "$tmp/o")" "$before"
expect_equal "$(ls -A "$tmp/o")" 1-gpu
expect_exit 0 "$convert" -i "$model" -o "$tmp/o" -p 2
expect_equal "$(ls -A "$tmp/o" | tr '\n' ' ')" "1-gpu 2-gpu "
tap_ok "an existing output is refused, and replaced as a whole with --force"

# four ways in which the output is the input
cp -r "$model" "$tmp/in"
input=$(tree_hash "$tmp/in")
expect_exit 64 "$convert" -i "$tmp/in" -o "$tmp/in"
expect_stderr 'the output is the input'
expect_exit 64 "$convert" -i "$tmp/in" -o "$tmp/./o/../in" --force
tap_ok "output == input: the same path"
ln -s in "$tmp/link"
expect_exit 64 "$convert" -i "$tmp/in" -o "$tmp/link" --force
mkdir "$tmp/out"
ln -s ../in "$tmp/out/1-gpu"
expect_exit 64 "$convert" -i "$tmp/in" -o "$tmp/out" --force
expect_stderr 'out/1-gpu: the output is the input'
expect_exit 64 "$convert" -i "$tmp/o/1-gpu" -o "$tmp/o" --force
expect_equal "$(tree_hash "$tmp/in")" "$input"
tap_ok "output == input: symbolic links, and an FT directory onto itself"
mkdir "$tmp/hard"
cp -rl "$tmp/in" "$tmp/hard/1-gpu"
expect_exit 73 "$convert" -i "$tmp/in" -o "$tmp/hard"
expect_exit 0 "$convert" -i "$tmp/in" -o "$tmp/hard" --force
expect_equal "$(tree_hash "$tmp/in")" "$input"
tap_ok "output == input: hard links are replaced, never written through"
mkdir "$tmp/mount"
if unshare -rm true 2>/dev/null; then
    expect_exit 64 unshare -rm sh -c \
        'mount --bind "$1" "$2" && exec "$3" -i "$1" -o "$2" --force' sh "$tmp/in" "$tmp/mount" "$convert"
    expect_equal "$(tree_hash "$tmp/in")" "$input"
    tap_ok "output == input: a bind mount"
else
    tap_skip "output == input: a bind mount" "unshare -rm is not allowed here"
fi

expect_exit 73 "$convert" -i "$model" -o "$model/config.json"
expect_stderr 'config.json: is a file, wanted a directory'
expect_exit 73 "$convert" -i "$model" -o "$model/config.json/deeper"
if [ "$(id -u)" != 0 ]; then
    mkdir -m 555 "$tmp/readonly"
    expect_exit 77 "$convert" -i "$model" -o "$tmp/readonly"
    expect_exit 77 "$convert" -i "$model" -o "$tmp/readonly/deeper"
fi
(ulimit -f 1000; expect_exit 74 "$convert" -i "$model" -o "$tmp/limit" --threads 1
 expect_stderr 'vocab_embedding.weight.bin: write at byte [0-9]+: File too large'; printf '%s' "$why") >"$tmp/why"
why+=$(cat "$tmp/why")
expect test ! -e "$tmp/limit"
tap_ok "outputs that cannot be made"

# Two writers: the first holds the lock, here a process that stands in for it.
mkdir "$tmp/two"
exec 9>"$tmp/two/.1-gpu.lock"
if command -v flock >/dev/null && flock -n 9; then
    echo 4711 >&9
    expect_exit 73 "$convert" -i "$model" -o "$tmp/two"
    expect_stderr 'two/1-gpu: process 4711 is writing it: wait, or stop that process'
    expect_exit 0 "$convert" -i "$model" -o "$tmp/two" -p 2
    exec 9>&-
    mkdir "$tmp/two/.1-gpu.part"
    echo junk >"$tmp/two/.1-gpu.part/ln_f.weight.bin"
    expect_exit 0 "$convert" -i "$model" -o "$tmp/two"
    expect_stderr '1-gpu.part: left by a run that was killed: removed'
    expect_equal "$(ls -A "$tmp/two" | tr '\n' ' ')" "1-gpu 2-gpu "
    expect_exit 0 "$convert" --verify "$tmp/two/1-gpu"
    tap_ok "a second writer exits 73 naming the process; what a killed one left is taken over"
else
    tap_skip "a second writer" "no flock program"
fi

# two real ones at once: one wins, the other says who holds the lock or that the output exists
"$convert" -i "$model" -o "$tmp/race" >/dev/null 2>"$tmp/e1" & a=$!
"$convert" -i "$model" -o "$tmp/race" >/dev/null 2>"$tmp/e2" & b=$!
wait $a; ra=$?
wait $b; rb=$?
expect_equal "$(printf '%s\n' $ra $rb | sort -n | tr '\n' ' ')" "0 73 "
expect_exit 0 "$convert" --verify "$tmp/race/1-gpu"
expect_equal "$(ls -A "$tmp/race")" 1-gpu
tap_ok "two runs at once: one result"

tap_done
