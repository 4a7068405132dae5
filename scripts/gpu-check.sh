#!/usr/bin/env bash
# GPU tests and benchmarks, from the root of the repository:
#
#   scripts/gpu-check.sh [--dist DIR] [--shared DIR] [--sanitize] [BENCH...]
#
# Uses the programs of DIR (default build/dist, made by `make dist-gpu`) when they start here, else builds
# them.  Runs all tests that are there: operations, quantization, the layer loop, golden models (shared
# data: DIR, default ../shared), and what every recipe makes here and on the CPU; with --sanitize also
# compute-sanitizer over the small ones (memcheck) and the small models (memcheck, racecheck); then each
# BENCH:
#
#   ops                  bench_cuda: products and attention at the shapes of Qwen-7B
#   ops:"linear 1 8"     the same with arguments
#   PRESET:N:ARGS        qwen-benchmark on random weights of a preset with N layers (0: all), as in
#                        qwen-7b:8:"--weight-only int4 --batch 1,16"
#
# Logs go to $OUT when that is set.  The last lines are a table: what, passed or failed, seconds.
set -u
cd "$(dirname "$0")/.." || exit 1
dist=build/dist shared=../shared sanitize=0 benches=()
while [ $# -gt 0 ]; do
    case $1 in
    --dist) dist=$2; shift ;;
    --shared) shared=$2; shift ;;
    --sanitize) sanitize=1 ;;
    -*) echo "gpu-check: unknown option $1" >&2; exit 64 ;;
    *) benches+=("$1") ;;
    esac
    shift
done
log=${OUT:-$(mktemp -d)}
table=$log/table
: >"$table"
failed=0
step() { # NAME COMMAND...
    local name=$1 start end rc
    shift
    start=$(date +%s)
    "$@" >"$log/step" 2>&1
    rc=$?
    end=$(date +%s)
    { echo "== $name"; cat "$log/step"; } >>"$log/log"
    grep -E '^(not ok|ok .*# SKIP|#)' "$log/step"
    if [ $rc != 0 ]; then
        failed=1
        grep -q '^not ok' "$log/step" || tail -20 "$log/step" # it died: why
    fi
    printf '%-28s %-7s %4d s\n' "$name" "$([ $rc = 0 ] && echo passed || echo "rc $rc")" \
        $((end - start)) >>"$table"
}
nvidia-smi --query-gpu=name,driver_version,memory.free --format=csv,noheader 2>/dev/null ||
    { echo "gpu-check: nvidia-smi finds no GPU" >&2; exit 69; }

if [ -d "$dist" ] && "$dist/bin/qwen-benchmark" --version >/dev/null 2>&1; then
    bin=$dist/bin tests=$dist/tests
else
    echo "gpu-check: $dist does not start here: building"
    make -j"$(nproc)" dist-gpu >"$log/build" 2>&1 || { tail -30 "$log/build"; exit 1; }
    bin=build/dist/bin tests=build/dist/tests
fi
# cuBLASLt: where the loader looks, else of the toolkit or of a Python package
if ! ldconfig -p | grep -q libcublasLt; then
    lt=$(find /usr/local/cuda*/ /opt /usr/lib -name 'libcublasLt.so.1[23]' 2>/dev/null | head -1)
    [ -z "$lt" ] || export LD_LIBRARY_PATH=${lt%/*}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
export QWENKIT_SHARED=$shared QWENKIT_TEST_DEVICE=cuda QWENKIT_LONG=1
for t in "$tests"/test_*; do # DIST_TESTS of the Makefile
    step "${t##*/}" "$t"
done
step recipes env BUILD="${bin%/bin}" bash tests/cli/gpu_recipes.sh
if [ $sanitize = 1 ]; then
    unset QWENKIT_LONG
    for t in test_cuda test_w8a8_linear test_kv8 test_cuda_quant test_step test_ops test_attn; do
        step "memcheck $t" compute-sanitizer --report-api-errors no --error-exitcode 9 "$tests/$t"
    done
    # all schemes on the small models: prefill of 20 and 320 tokens, steps of 1 and 16
    tiny=datasets/qwen-tiny made=$(mktemp -d)
    step "write archives" eval "$bin/qwen-gptq -q -i $tiny --rtn --asym -o $made/w4g.h5 &&
        $bin/qwen-gptq -q -i $tiny --rtn --bits 8 -o $made/w8g.h5"
    for tool in memcheck racecheck; do
        check() { # NAME OPTIONS
            local name=$1
            shift
            step "$tool $name" compute-sanitizer --tool $tool --error-exitcode 9 "$bin/qwen-benchmark" \
                -q --device cuda --batch 1,16 --input-len 20 --output-len 4 --repeat 1 "$@"
        }
        check 'f16' -m $tiny
        check 'int8' -m $tiny --weight-only int8 --head int8
        check 'int4' -m $tiny --weight-only int4
        check 'w8a8' -m $tiny --use-smooth-quant --per-token --per-channel
        check 'w4g' -m "$made/w4g.h5"
        check 'w8g' -m "$made/w8g.h5"
        for m in qwen2-tiny qwen3-random chatglm3-random; do
            [ ! -d "$shared/models/$m" ] || check "$m" -m "$shared/models/$m"
        done
    done
    rm -rf "$made"
fi
for b in "${benches[@]}"; do
    case $b in
    ops | ops:*)
        args=${b#ops}
        step "$b" "$tests/bench_cuda" ${args#:}
        ;;
    *)
        preset=${b%%:*} rest=${b#*:}
        layers=${rest%%:*} args=${rest#*:}
        dir=${TMPDIR:-/tmp}/gpu-check-$preset-$layers
        if [ ! -f "$dir/config.json" ]; then
            [ "$layers" = 0 ] && n='' || n="--layers $layers"
            step "write $preset $layers" "$bin/random-checkpoint" --preset "$preset" $n -o "$dir"
        fi
        step "$b" "$bin/qwen-benchmark" -m "$dir" --device cuda $args
        ;;
    esac
    cat "$log/step"
done
echo
cat "$table"
exit $failed
