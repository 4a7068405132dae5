# All programs against what goes wrong first: no arguments, a wrong option, a model that is missing,
# cut, empty or of another kind, a directory in the place of a file and the reverse.  Exit codes are
# those of the README, messages name the thing and the next step, and nothing is written.
. "$(dirname "$0")/lib.sh"
model=$root/datasets/qwen-tiny data=$root/datasets/samples.jsonl
programs="qwen-awq qwen-benchmark qwen-calibrate-kv qwen-convert qwen-gptq qwen-inspect"
programs="$programs qwen-perplexity qwen-run qwen-summarize"
expect_equal "$(cd "$BUILD/bin" && echo qwen-*)" "$(echo $programs)"

for p in $programs; do
    expect_exit 64 "$(bin $p)"
    expect_empty "$tmp/stdout"
    expect_stderr "^$p: (--(input|model) is missing|no model given)"
    expect_stderr "Try .$p --help"
    expect_exit 64 "$(bin $p)" --no-such-option
    expect_empty "$tmp/stdout"
    expect_stderr "unrecognized option '--no-such-option'"
    expect_exit 64 "$(bin $p)" stray arguments
    expect_stderr "unexpected argument '(stray|arguments)'"
    for o in --help --usage --version; do
        expect_exit 0 "$(bin $p)" $o
        expect_empty "$tmp/stderr"
        expect test -s "$tmp/stdout"
    done
    expect_exit 0 "$(bin $p)" --help
    expect_stdout 'Examples:'
    expect_stdout 'Exit codes: 0 done'
    # an example is one line, so that it can be copied
    expect test "$(sed -n '/^Examples:/,/^$/p' "$tmp/stdout" | grep -cE '^[^ E]')" = 0
done
tap_ok "no arguments and wrong ones are exit 64, --help and its like exit 0"

# each program with MODEL in its place
with_model() { # MODEL PROGRAM
    local args
    case $2 in
    qwen-awq) args=(-i "$1" -o "$tmp/out.h5" --calib-data "$data") ;;
    qwen-benchmark) args=(-m "$1") ;;
    qwen-calibrate-kv) args=(-m "$1" -o "$tmp/out" --calib-data "$data") ;;
    qwen-convert) args=(-i "$1" -o "$tmp/out") ;;
    qwen-gptq) args=(-i "$1" -o "$tmp/out.h5" --rtn) ;;
    qwen-inspect) args=("$1") ;;
    qwen-perplexity) args=(-m "$1" --text "$data") ;;
    qwen-run) args=(-m "$1" --input-text x) ;;
    qwen-summarize) args=(-m "$1" --data "$data") ;;
    esac
    timeout 20 "$(bin "$2")" "${args[@]}"
}
refused() { # EXIT MODEL PATTERN
    local p
    for p in $programs; do
        expect_exit "$1" with_model "$tmp/$2" $p
        expect_empty "$tmp/stdout"
        expect_stderr "^$p: .*$3.*\(exit $1\)"
    done
    expect_equal "$(cd "$tmp" && echo out* .out*)" 'out* .out*'
}
mkdir "$tmp/dir" "$tmp/half"
: >"$tmp/empty"
echo '{' >"$tmp/half/config.json"
cp -r "$model" "$tmp/cut"
chmod -R u+w "$tmp/cut"
truncate -s 3000000 "$tmp/cut/model.safetensors"
expect_exit 0 "$(bin qwen-gptq)" -i "$model" -o "$tmp/m.h5" --rtn --no-report
head -c 100000 "$tmp/m.h5" >"$tmp/cut.h5"
expect_exit 0 "$(bin qwen-convert)" -i "$model" -o "$tmp/ft"
cp -r "$tmp/ft/1-gpu" "$tmp/cutft"
truncate -s 1000 "$tmp/cutft/lm_head.weight.bin"
refused 66 absent 'absent: no such model directory or archive: name a directory'
refused 66 dir 'dir: no config.json .* and no config.ini .*: name the directory that holds one'
refused 65 half 'half/config.json: line'
refused 65 empty 'empty: neither a directory nor an HDF5 file; a model is'
refused 65 cut/model.safetensors 'neither a directory nor an HDF5 file; a model is'
refused 65 cut "cut/model.safetensors: '.*' ends at byte .*: download is incomplete, fetch it again"
refused 65 cut.h5 'cut.h5: has 100000 bytes, its header says .*: the copy is incomplete, fetch it again'
refused 65 cutft 'cutft/lm_head.weight.bin: 1000 bytes, wanted [0-9]+ .*: cut short, or made for another'
for p in qwen-awq qwen-gptq qwen-convert; do
    expect_exit 78 with_model "$tmp/m.h5" $p
    expect_stderr 'm.h5: .*quantized already'
done
expect_exit 78 "$(bin qwen-convert)" -i "$model" -o "$tmp/out.h5" --to h5
expect_stderr 'is not quantized by groups: make an archive of it with qwen-gptq or qwen-awq'
tap_ok "models that are missing, cut, empty, or of another kind"

verify() { # EXIT PATH PATTERN
    expect_exit "$1" "$(bin qwen-convert)" --verify "$2"
    expect_stderr "$3"
    expect_exit "$1" "$(bin qwen-inspect)" --verify "$2"
    expect_stderr "$3"
}
verify 64 '' 'the path of what is to be verified is empty'
verify 66 "$tmp/absent" 'absent: no such directory or archive'
verify 66 "$model" 'no manifest.json in it: FT directories of qwen-convert have one'
verify 65 "$data" 'not an HDF5 file: wanted a .h5 file of this toolkit'
verify 65 "$tmp/cutft" 'lm_head.weight.bin: 1000 bytes, the manifest has'
tap_ok "--verify of what cannot be verified"

gptq=(-i "$model" -o "$tmp/out.h5")
echo '{"text": "hello"}' >"$tmp/other.jsonl"
texts() { # EXIT FILE PATTERN: wherever a program reads texts
    expect_exit "$1" "$(bin qwen-gptq)" "${gptq[@]}" --calib-data "$2"
    expect_stderr "$3"
    expect_exit "$1" "$(bin qwen-convert)" -i "$model" -o "$tmp/out" --smoothquant 0.5 --calib-data "$2"
    expect_stderr "$3"
    expect_exit "$1" "$(bin qwen-calibrate-kv)" -m "$model" -o "$tmp/out" --calib-data "$2"
    expect_stderr "$3"
    expect_exit "$1" "$(bin qwen-perplexity)" -m "$model" --data "$2"
    expect_stderr "$3"
    expect_exit "$1" "$(bin qwen-summarize)" -m "$model" --data "$2"
    expect_stderr "$3"
    expect_exit "$1" "$(bin qwen-benchmark)" -m "$model" --dataset "$2"
    rm -rf "$tmp"/out*.job
    expect_equal "$(cd "$tmp" && echo out* .out*)" 'out* .out*'
}
texts 66 "$tmp/absent" 'absent: cannot open: No such file'
texts 65 "$tmp/dir" 'dir: is a directory, wanted a file'
texts 65 "$tmp/empty" 'empty: no samples in it'
texts 65 "$tmp/other.jsonl" "other.jsonl:1: field 'article' is missing: every line needs it"
texts 65 "$tmp/m.h5" 'm.h5: byte 0 \(0x89\) is not UTF-8: wanted text or JSON Lines'
expect_exit 65 "$(bin qwen-convert)" -i "$model" -o "$tmp/out" --smoothquant 0.5 --stats "$tmp/m.h5"
expect_stderr "m.h5: format 'qwen-quant-hdf5', wanted 'qwenkit-stats': name a file of --save-stats"
expect_exit 65 "$(bin qwen-gptq)" "${gptq[@]}" --calib-data "$data" --pre-scale="$model"
expect_stderr 'wanted an archive of qwen-awq'
tap_ok "texts and statistics that are missing, empty, or something else"

for size in 0 0GiB -1 ' -1' -1GiB '6 GiB' 6GB 1e9 16777216TiB 18446744073709551616 GiB ''; do
    for budget in --max-ram --max-vram; do
        expect_exit 64 "$(bin qwen-gptq)" "${gptq[@]}" --calib-data "$data" --dry-run $budget "$size"
        expect_stderr "$budget: '$size' is not a size such as 512MiB or 4GiB"
    done
done
expect_exit 78 "$(bin qwen-gptq)" "${gptq[@]}" --calib-data "$data" --device cpu --dry-run --max-ram 1KiB
expect_stderr 'need [0-9]+ bytes of memory, --max-ram allows 1024: allow more, or use shorter samples'
expect_exit 0 "$(bin qwen-gptq)" "${gptq[@]}" --calib-data "$data" --dry-run --max-ram 100TiB
for ranks in 0 -1 65 2x 99999999999 ''; do
    expect_exit 64 "$(bin qwen-convert)" -i "$model" -o "$tmp/out" --dry-run -p "$ranks"
    expect_stderr "tensor-parallelism: '$ranks' is not a whole number from 1 to 64"
done
for ranks in 3 64; do
    expect_exit 78 "$(bin qwen-convert)" -i "$model" -o "$tmp/out" --dry-run -p $ranks
    expect_stderr "$ranks ranks do not divide attention heads 2: use --tensor-parallelism 2"
done
tap_ok "budgets and ranks that are no numbers, too small or too large"

# before anything is calibrated
for p in qwen-convert qwen-calibrate-kv; do
    case $p in
    qwen-convert) run=("$(bin $p)" -i "$model" --smoothquant 0.5) ;;
    *) run=("$(bin $p)" -m "$model") ;;
    esac
    expect_exit 73 timeout 20 "${run[@]}" -o "$tmp/empty" --calib-data "$data"
    expect_stderr 'empty: is a file, wanted a directory to write 1-gpu into'
    expect_exit 73 timeout 20 "${run[@]}" -o "$tmp/ft" --calib-data "$data"
    expect_stderr 'ft/1-gpu: exists; --force replaces it'
    if [ "$(id -u)" != 0 ]; then
        chmod a-w "$tmp/dir"
        expect_exit 77 timeout 20 "${run[@]}" -o "$tmp/dir" --calib-data "$data"
        expect_stderr 'dir: cannot write into it'
        chmod u+w "$tmp/dir"
    fi
done
for p in qwen-awq qwen-gptq; do
    expect_exit 73 timeout 20 "$(bin $p)" -i "$model" -o "$tmp/dir" --calib-data "$data"
    expect_stderr 'dir: is a directory, wanted the name of a file'
done
expect_equal "$(cd "$tmp" && echo -- *.job)" '-- *.job'

# what every program that writes one file says: a directory, a device, a pipe, no such directory
mkfifo "$tmp/pipe"
one_file() { # EXIT OUTPUT PATTERN
    local run
    for run in "qwen-gptq -i $model --rtn --force -o" "qwen-awq -i $model --calib-data $data --force -o" \
        "qwen-summarize -m $model --data $data --max-samples 1 --force --output" \
        "qwen-run -m $model --input-text x --force --dump-logits" \
        "qwen-convert -i $model -o $tmp/out --smoothquant 0.5 --calib-data $data --force --save-stats" \
        "qwen-calibrate-kv -m $model -o $tmp/out --calib-data $data --force --save-stats"; do
        expect_exit "$1" timeout 20 "$BUILD/bin/"$run "$2"
        expect_stderr "$3"
    done
}
mknod "$tmp/device" c 1 7 2>/dev/null
one_file 73 "$tmp/dir" "dir: is a directory, wanted the name of a file"
one_file 73 "$tmp/pipe" "pipe: is a device or a pipe, wanted the name of a file"
[ ! -c "$tmp/device" ] || one_file 73 "$tmp/device" "device: is a device or a pipe, wanted"
one_file 73 "$tmp/nowhere/out.h5" "there is no directory .*/nowhere.: make it first"
one_file 64 "" "empty|missing"
expect test -p "$tmp/pipe"
expect test ! -e "$tmp/nowhere"
cp "$data" "$tmp/d.jsonl" # what is read is never written, also with --force
expect_exit 64 timeout 20 "$(bin qwen-summarize)" -m "$model" --data "$tmp/d.jsonl" --max-samples 1 \
    --force --output "$tmp/d.jsonl"
expect_stderr 'd.jsonl: the output is an input: choose another name'
for run in "qwen-gptq -i $model -o" "qwen-awq -i $model -o" \
    "qwen-calibrate-kv -m $model -o $tmp/out --save-stats" \
    "qwen-convert -i $model -o $tmp/out --smoothquant 0.5 --save-stats"; do
    expect_exit 64 timeout 20 "$BUILD/bin/"$run "$tmp/d.jsonl" --calib-data "$tmp/d.jsonl" --force
    expect_stderr 'd.jsonl: the output is an input: choose another name'
done
expect cmp "$data" "$tmp/d.jsonl"
expect_exit 64 timeout 20 "$(bin qwen-gptq)" -i "$model" -o "$tmp/m.h5" --calib-data "$data" --force \
    --pre-scale="$tmp/m.h5"
expect_stderr 'm.h5: the output is an input'
expect_exit 64 timeout 20 "$(bin qwen-run)" -m "$tmp/m.h5" --input-text x --force --dump-logits "$tmp/m.h5"
expect_stderr 'm.h5: the output is an input'
expect_exit 0 "$(bin qwen-inspect)" --verify "$tmp/m.h5"
expect_exit 73 "$(bin qwen-convert)" -i "$tmp/m.h5" -o "$tmp/pipe" --to h5 --force # the last one to see it
expect_stderr "pipe: is a device or a pipe"
expect test -p "$tmp/pipe"
expect_equal "$(cd "$tmp" && echo out* .out* *.part*)" "out* .out* *.part*"
expect_equal "$(cd "$tmp" && echo -- *.job)" "-- *.job"
tap_ok "an output that cannot be is refused before it is computed"

ids() { # TEXT PATTERN: a file of token ids
    printf "$1" >"$tmp/ids.csv"
    expect_exit 65 "$(bin qwen-run)" -m "$model" --input-tokens "$tmp/ids.csv"
    expect_stderr "ids.csv: $2 \(exit 65\)"
}
ids "" "no token ids in it"
ids "1,2\na b\n" "line 2: .a b. is not a token id"
ids "1,2\n-1\n" "line 2: token id -1, wanted 0 to 4095"
ids "4096" "line 1: token id 4096, wanted 0 to 4095"
ids "9999999999999999999999" "line 1: .99999999999999999999. is not a token id"
for bits in 3 16 4x ""; do
    expect_exit 64 "$(bin qwen-gptq)" "${gptq[@]}" --rtn --bits "$bits"
    expect_stderr "bits: .$bits. is not 4 or 8"
done
for group in 100 0 1000 -2 ""; do
    expect_exit 64 "$(bin qwen-gptq)" "${gptq[@]}" --rtn --group-size "$group"
    expect_stderr "group-size: .$group. is not 128, 64, 32 or -1"
done
for device in gpu cuda:x cpu:1 ""; do
    expect_exit 69 "$(bin qwen-run)" -m "$model" --input-text x --device "$device"
    expect_stderr "device .$device. is not in this build: use auto, or one of: cpu "
done
expect_exit 66 "$(bin qwen-gptq)" "${gptq[@]}" --calib-data ""
expect_stderr "the name of a file is empty: name a file"
# without standard descriptors no message gets into a file
expect_exit 74 bash -c '"$@" <&- >&- 2>&-' bash "$(bin qwen-gptq)" -i "$model" -o "$tmp/closed.h5" -v \
    --calib-data "$data" --calib-samples 2 --calib-seq-len 64
expect_exit 0 "$(bin qwen-inspect)" --verify "$tmp/closed.h5"
# a name with blanks, quotes and letters of other alphabets, all the way
odd="$tmp/m\303\266del it\x27s \$x \346\250\241"
odd=$(printf "$odd")
cp -r "$model" "$odd"
expect_exit 0 "$(bin qwen-gptq)" -i "$odd" -o "$odd.h5" --rtn
expect_exit 0 "$(bin qwen-convert)" -i "$odd.h5" -o "$odd awq" --to hf-awq
expect_exit 0 "$(bin qwen-run)" -m "$odd awq" --input-text x --max-new-tokens 1
expect_exit 0 "$(bin qwen-inspect)" --verify "$odd.h5"
tap_ok "token ids, numbers of a few, devices, empty and odd names"
tap_done
