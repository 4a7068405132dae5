# qwen-convert: the same bytes for any number of threads, place, locale, zone, time and layout.
. "$(dirname "$0")/lib.sh"
model=$root/datasets/qwen-tiny
convert=$(bin qwen-convert)
expect_exit 0 "$convert" -i "$model" -o "$tmp/first" -p 2
want=$tmp/first/2-gpu/manifest.json

same() { # COMMAND... runs with -o $tmp/o
    rm -rf "$tmp/o"
    expect_exit 0 "$@" -o "$tmp/o" -p 2
    expect cmp "$tmp/o/2-gpu/manifest.json" "$want"
}
for threads in 1 2 7; do same "$convert" -i "$model" --threads $threads; done
expect_exit 0 "$convert" --verify "$tmp/o/2-gpu"
tap_ok "1, 2 and 7 threads"

# the rest depends on no size
model=$tmp/small
expect_exit 0 "$(bin random-checkpoint)" --hidden 64 --heads 2 --ffn 96 --layers 2 --vocab 512 -o "$model"
rm -rf "$tmp/first"
expect_exit 0 "$convert" -i "$model" -o "$tmp/first" -p 2

mkdir "$tmp/tmp"
same env TMPDIR="$tmp/tmp" "$convert" -i "$model"
expect_equal "$(ls -A "$tmp/tmp")" ""
same env TMPDIR=/nonexistent HOME=/nonexistent "$convert" -i "$model"
for tz in Asia/Tokyo America/St_Johns; do same env TZ=$tz "$convert" -i "$model"; done
for locale in de_DE.UTF-8 tr_TR.UTF-8 C.UTF-8; do same env LC_ALL=$locale LANG=$locale "$convert" -i "$model"; done
same env -i "$convert" -i "$model"
! command -v setarch >/dev/null || ! setarch -R true 2>/dev/null || same setarch -R "$convert" -i "$model"
! command -v faketime >/dev/null || same faketime '2031-02-03 04:05:06' "$convert" -i "$model"
tap_ok "TMPDIR, HOME, time zone, locale, environment, address layout, time"

cp -r "$model" "$tmp/copy"
touch -d '2001-01-01' "$tmp/copy"/*
same "$convert" -i "$tmp/copy/"
(cd "$tmp" && "$convert" -i copy -o rel -p 2) >/dev/null
expect cmp "$tmp/rel/2-gpu/manifest.json" "$want"
same sh -c 'umask 077 && exec "$@"' sh "$convert" -i "$model"
same sh -c 'ulimit -n 24 && exec "$@"' sh "$convert" -i "$model" --threads 3
tap_ok "place and times of the input, relative paths, umask, few descriptors"

expect_exit 0 "$convert" -i "$model" -o "$tmp/one"
expect_exit 0 "$convert" -i "$tmp/first" -o "$tmp/again"
expect cmp "$tmp/again/1-gpu/manifest.json" "$tmp/one/1-gpu/manifest.json"
expect_exit 0 "$convert" --verify "$tmp/again/1-gpu"
expect_exit 0 "$convert" -i "$tmp/again" -o "$tmp/back" -p 2
expect cmp "$tmp/back/2-gpu/manifest.json" "$want"
tap_ok "cut for 2 ranks and back for 1 gives the bytes of cutting once"

# a float32 directory holds a float16 model exactly, and bfloat16 twice is bfloat16 once
expect_exit 0 "$convert" -i "$model" -o "$tmp/f32" -t float32
expect_exit 0 "$convert" -i "$tmp/f32" -o "$tmp/f16" -p 2
for f in $(cd "$tmp/f16/2-gpu" && ls ./*.bin); do expect cmp "$tmp/f16/2-gpu/$f" "$tmp/first/2-gpu/$f"; done
tap_ok "through float32 and back"

tap_done
