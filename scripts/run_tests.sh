#!/usr/bin/env bash
# Runs every test of a build and prints "N passed, N failed, N skipped" last.
#   run_tests.sh BUILD_DIR TEST...     TEST: a test program or a tests/cli/*.sh script
# TEST_JOBS of them run at once (default 2), the long ones first. Each prints TAP; lines of failed tests
# are shown, skips with their reason at the end.
set -u
export BUILD=$1; shift
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here" || exit 1
export LC_ALL=C
log=$(mktemp -d "${TMPDIR:-/tmp}/qwenkit-run.XXXXXX") || exit 1
trap 'rm -rf "$log"' EXIT
# a thread that waits sleeps, because another test has work
export OMP_WAIT_POLICY=passive
jobs=${TEST_JOBS:-2}

# NUMBER TEST: its lines on stdout when it is done, "passed failed skipped" into a file
run_one() {
    local dir=$log/$1 t=$2 name start rc ms s p f plan show
    name=${t##*/}; name=${name%.sh}
    mkdir "$dir"
    start=$(date +%s%N)
    case $t in
    *.sh) timeout 600 bash "$t" >"$dir/out" 2>"$dir/err" </dev/null ;;
    *) timeout 600 "$t" >"$dir/out" 2>"$dir/err" </dev/null ;;
    esac
    rc=$?
    ms=$((($(date +%s%N) - start) / 1000000))
    s=$(grep -cE '^ok .*# SKIP' "$dir/out")
    p=$(($(grep -cE '^ok ' "$dir/out") - s))
    f=$(grep -cE '^not ok ' "$dir/out")
    plan=$(sed -nE 's/^1\.\.([0-9]+).*/\1/p' "$dir/out" | tail -1)
    if [ $rc -ne 0 ] && [ "$f" = 0 ] || [ "${plan:-0}" != $((s + p + f)) ]; then
        echo "# $name: exit $rc after $((s + p + f)) of ${plan:-?} tests" >>"$dir/out"
        f=$((f + 1))
        show=1
    else
        show=$f
    fi
    if [ "$show" != 0 ]; then
        {
            echo "FAIL $name"
            grep -E '^(not ok|#|Bail)' "$dir/out" | sed 's/^/     /' | head -40
            tail -30 "$dir/err" | sed 's/^/     /'
        } >"$dir/lines"
    else
        printf 'ok   %-24s %4d passed%s  %d.%03d s\n' "$name" "$p" \
            "$([ "$s" = 0 ] || echo ", $s skipped")" $((ms / 1000)) $((ms % 1000)) >"$dir/lines"
    fi
    sed -nE "s/^ok [0-9]+ - (.*) # SKIP (.*)/SKIP $name \1: \2/p" "$dir/out" >"$dir/skips"
    echo "$p $f $s" >"$dir/counts"
    cat "$dir/lines"
}

long='/(calibrate|calibrate_golden|quantize|test_golden|test_quant_loop|test_families|benchmark|ranks)(\.sh)?$'
mapfile -t tests < <(printf '%s\n' "$@" | grep -E "$long"; printf '%s\n' "$@" | grep -vE "$long")
n=0
for t in "${tests[@]}"; do
    [ $n -lt "$jobs" ] || wait -n
    n=$((n + 1))
    run_one $n "$t" &
done
wait
passed=0 failed=0 skipped=0
for i in $(seq $n); do
    read -r p f s <"$log/$i/counts"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    cat "$log/$i/skips"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
