# qwen-convert: help, version, usage errors, exit codes, what goes to stdout, what is never written.
. "$(dirname "$0")/lib.sh"
model=$root/datasets/qwen-tiny
convert=$(bin qwen-convert)

expect_exit 0 "$convert" --help
expect_empty "$tmp/stderr"
for word in --input --output --storage-type --tensor-parallelism --dry-run --force --strict \
    --verify --json --threads --smoothquant=A --calibrate-kv-cache --stats=FILE 'Examples:' 'Exit codes: 0 done; 64 usage'; do
    expect_stdout "$word"
done
expect_equal "$(grep -c '^  qwen-convert ' "$tmp/stdout")" 6
tap_ok "--help teaches options, six examples and exit codes on stdout"

expect_exit 0 "$convert" --version
expect_stdout '^qwenkit [0-9]+\.[0-9]+\.[0-9]+$'
expect_exit 0 "$convert" --usage
expect_stdout '^Usage: qwen-convert'
tap_ok "--version and --usage"

usage() { # MESSAGE ARGS...
    local message=$1
    shift
    expect_exit 64 "$convert" "$@"
    expect_stderr "$message"
    expect_empty "$tmp/stdout"
}
usage "unrecognized option '--nonsense'" --nonsense
usage 'input is missing'
usage 'output is missing' -i "$model"
usage 'input is missing' -o "$tmp/o"
usage "unexpected argument 'more'" -i "$model" -o "$tmp/o" more
usage "'fp16' is not float16, bfloat16 or float32" -i "$model" -o "$tmp/o" -t fp16
usage "'0' is not a whole number from 1 to 64" -i "$model" -o "$tmp/o" -p 0
usage "'2x' is not a whole number" -i "$model" -o "$tmp/o" -p 2x
usage "'-1' is not a whole number" -i "$model" -o "$tmp/o" --threads -1
usage 'verify stands alone' --verify "$tmp" -i "$model"
usage "requires an argument -- 'i'" -i
usage "'1.5' is not a number from 0 to 1" -i "$model" -o "$tmp/o" --smoothquant 1.5
usage "'half' is not a number" -i "$model" -o "$tmp/o" --smoothquant=half
usage "option '--smoothquant' requires an argument" -i "$model" -o "$tmp/o" --smoothquant
usage 'calibration is for --smoothquant and --calibrate-kv-cache' -i "$model" -o "$tmp/o" --stats x.h5
usage 'calibration is for --smoothquant and --calibrate-kv-cache' -i "$model" -o "$tmp/o" --max-ram 1GiB
usage 'give one of --calib-data and --stats' -i "$model" -o "$tmp/o" --smoothquant 0.5 --stats x.h5 --calib-data x
usage 'does not go with --stats' -i "$model" -o "$tmp/o" --smoothquant 0.5 --stats x.h5 --save-stats y.h5
expect test ! -e "$tmp/o"
tap_ok "usage errors exit 64 and write nothing"

expect_exit 66 "$convert" -i "$tmp/none" -o "$tmp/o"
expect_stderr "none: no such model directory.*\(exit 66\)"
mkdir "$tmp/empty"
expect_exit 66 "$convert" -i "$tmp/empty" -o "$tmp/o"
expect_stderr 'no config.json'
expect_exit 65 "$convert" -i "$model/config.json" -o "$tmp/o"
expect_stderr 'neither a directory nor an HDF5 file'
expect_exit 78 "$convert" -i "$model" -o "$tmp/o" -p 3
expect_stderr '3 ranks do not divide attention heads 2: use --tensor-parallelism 2'
expect_exit 66 "$convert" --verify "$tmp/none"
expect_exit 66 "$convert" --verify "$tmp/empty"
expect_stderr 'no manifest.json in it'
expect test ! -e "$tmp/o"
tap_ok "missing input 66, bad data 65, impossible ranks 78"

before=$(tree_hash "$model")
expect_exit 0 "$convert" -i "$model" -o "$tmp/dry" -p 2 --dry-run
expect_equal "$(grep -c '\.bin ' "$tmp/stdout")" 115
expect_stdout '^model.layers.7.mlp.c_proj.weight.1.bin +\[384, 256\] +float16 +196608  transformer.h.7.mlp.c_proj.weight$'
expect_stdout '^model.layers.0.attention.qkv.bias.0.bin +\[384\] +float16 +768 '
expect_stdout '^[0-9]+ files with manifest.json, [0-9]+ bytes on disk, [0-9]+ bytes of memory'
expect_exit 0 "$convert" -i "$model" --dry-run -t bfloat16
expect_stdout ' float16 -> bfloat16 '
expect_exit 0 "$convert" -i "$model" -o "$tmp/dry" --dry-run --json
expect_equal "$(wc -l <"$tmp/stdout")" 1
expect_stdout '^\{"family": "qwen", "parameters": 8923392, "tensor_parallelism": 1, "kv_copies": 1, "store": "float16", "files": [0-9]+, "bytes": [0-9]+, .*\}$'
planned=$(sed -E 's/.*"bytes": ([0-9]+), "memory".*/\1/' "$tmp/stdout")
expect test ! -e "$tmp/dry"
expect_equal "$(tree_hash "$model")" "$before"
tap_ok "--dry-run prints the plan and writes nothing"

expect_exit 0 "$convert" -i "$model" -o "$tmp/o/deep/er"
expect_stdout "^$model -> $tmp/o/deep/er/1-gpu, [0-9]+ files, $planned bytes, [0-9.]+ s, [0-9]+ MB/s$"
expect_empty "$tmp/stderr"
expect_equal "$(cat "$tmp/o/deep/er/1-gpu"/* | wc -c)" "$planned"
expect_equal "$(ls -A "$tmp/o/deep/er")" 1-gpu
expect_equal "$(tree_hash "$model")" "$before"
tap_ok "a conversion prints one line, uses the planned bytes and leaves nothing else"

expect_exit 0 "$convert" -i "$model" -o "$tmp/j" --json --progress
expect_equal "$(wc -l <"$tmp/stdout")" 1
expect_stdout '^\{"input": ".*", "output": ".*/j/1-gpu", .*"root_sha256": "[0-9a-f]{64}", "clipped": 0, "nonfinite": 0, "seconds": [0-9.e-]+\}$'
expect_exit 0 "$convert" --verify "$tmp/j/1-gpu" --json
expect_stdout '^\{"directory": ".*", "ok": true, "files": [0-9]+, .*"bad": \[\]\}$'
expect_exit 0 "$convert" --verify "$tmp/j/1-gpu"
expect_stdout "1-gpu: [0-9]+ files, $planned bytes, all as written, root [0-9a-f]{64}$"
printf x >>"$tmp/j/1-gpu/config.ini"
expect_exit 65 "$convert" --verify "$tmp/j/1-gpu" --json
expect_stdout '"ok": false, .*"bad": \["config.ini: [0-9]+ bytes, the manifest has [0-9]+"\]'
expect_stderr 'config.ini: .*\(exit 65\)'
expect_exit 65 "$convert" --verify "$tmp/j/1-gpu" -qq
expect_empty "$tmp/stderr"
tap_ok "--json gives one object on stdout; -qq is silent"

(cd "$tmp/o/deep/er/1-gpu" && printf 'qwenkit-ft 1\ntool %s\ntensor_parallelism 1\nstore float16\n' \
    "$("$convert" --version)" && for f in $(ls | grep -vx manifest.json); do
    printf '%s  %s  %s\n' "$(sha256sum <"$f" | cut -d' ' -f1)" "$(wc -c <"$f")" "$f"
done) | sha256sum | cut -d' ' -f1 >"$tmp/root"
expect grep -q "$(cat "$tmp/root")" "$tmp/o/deep/er/1-gpu/manifest.json"
tap_ok "the root hash can be computed with coreutils"

tap_done
