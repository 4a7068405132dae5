# qwen-convert --verify: every changed bit, missing, added or swapped file is found and named.
. "$(dirname "$0")/lib.sh"
convert=$(bin qwen-convert)
expect_exit 0 "$(bin random-checkpoint)" --hidden 32 --heads 2 --ffn 48 --layers 2 --vocab 64 -o "$tmp/m"
echo words >"$tmp/m/LICENSE"
expect_exit 0 "$convert" -i "$tmp/m" -o "$tmp/o" -p 2
dir=$tmp/o/2-gpu
expect_exit 0 "$convert" --verify "$dir"
mapfile -t files < <(ls "$dir")
tap_ok "a fresh directory verifies"

flip() { # FILE BIT
    local byte
    byte=$(od -An -tu1 -j $(($2 / 8)) -N 1 "$1")
    printf "\\x$(printf %02x $((byte ^ 1 << $2 % 8)))" | dd of="$1" bs=1 seek=$(($2 / 8)) conv=notrunc 2>/dev/null
}
found=0
for i in $(seq 200); do
    f=${files[RANDOM % ${#files[@]}]}
    bit=$(((RANDOM << 15 | RANDOM) % (8 * $(wc -c <"$dir/$f"))))
    flip "$dir/$f" $bit
    "$convert" --verify "$dir" >"$tmp/stdout" 2>"$tmp/stderr"
    rc=$?
    if [ $rc != 0 ] && grep -qF "$f" "$tmp/stderr"; then
        found=$((found + 1))
        # a manifest of a later version is the one change with a code of its own
        [ $rc = 65 ] || [ "$f" = manifest.json ] || fail "$f bit $bit: exit $rc"
    else
        fail "$f bit $bit: exit $rc"
        show "$tmp/stderr"
    fi
    flip "$dir/$f" $bit
done
expect_equal $found 200
expect_exit 0 "$convert" --verify "$dir"
tap_ok "200 random bit flips, all found, the file named"

refused() { # PATTERN
    expect_exit 65 "$convert" --verify "$dir"
    expect_stderr "$1"
}
mv "$dir/ln_f.weight.bin" "$tmp/x"
refused 'ln_f.weight.bin: is missing'
ln -s ../../x "$dir/ln_f.weight.bin"
refused 'ln_f.weight.bin: is not a plain file'
rm "$dir/ln_f.weight.bin" && mkdir "$dir/ln_f.weight.bin"
refused 'ln_f.weight.bin: is not a plain file'
rmdir "$dir/ln_f.weight.bin" && : >"$dir/ln_f.weight.bin"
refused 'ln_f.weight.bin: 0 bytes, the manifest has 64'
mv "$tmp/x" "$dir/ln_f.weight.bin"
echo x >"$dir/.hidden"
refused '.hidden: not in the manifest'
rm "$dir/.hidden"
a=$dir/model.layers.0.mlp.w1.weight.0.bin b=$dir/model.layers.0.mlp.w1.weight.1.bin
mv "$a" "$tmp/x" && mv "$b" "$a" && mv "$tmp/x" "$b"
refused 'w1.weight.0.bin: its sha256 is .* \(and 1 other files\)'
expect_equal "$(wc -l <"$tmp/stdout")" 2
mv "$a" "$tmp/x" && mv "$b" "$a" && mv "$tmp/x" "$b"
expect_exit 0 "$convert" --verify "$dir"
tap_ok "missing, replaced, emptied, added and swapped files"

sed -i 's/"size": 64,/"size": 65,/' "$dir/manifest.json"
refused 'manifest.json: root_sha256 does not fit the list'
sed -i 's/"size": 65,/"size": 64,/' "$dir/manifest.json"
expect_exit 0 "$convert" --verify "$dir"
sed -i 's/"version": 1/"version": 2/' "$dir/manifest.json"
expect_exit 78 "$convert" --verify "$dir"
expect_stderr 'version 2, this program reads up to 1'
rm "$dir/manifest.json"
expect_exit 66 "$convert" --verify "$dir"
tap_ok "a changed manifest"

tap_done
