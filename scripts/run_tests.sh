#!/usr/bin/env bash
# Runs every test of a build and prints "N passed, N failed, N skipped" last.
#   run_tests.sh BUILD_DIR TEST...     TEST: a test program or a tests/cli/*.sh script
# Each prints TAP; lines of failed tests are shown, skips with their reason at the end.
set -u
export BUILD=$1; shift
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here" || exit 1
export LC_ALL=C
log=$(mktemp -d "${TMPDIR:-/tmp}/qwenkit-run.XXXXXX") || exit 1
trap 'rm -rf "$log"' EXIT
passed=0 failed=0 skipped=0
for t in "$@"; do
    name=${t##*/}; name=${name%.sh}
    start=$(date +%s%N)
    case $t in
    *.sh) timeout 600 bash "$t" >"$log/out" 2>"$log/err" </dev/null ;;
    *) timeout 600 "$t" >"$log/out" 2>"$log/err" </dev/null ;;
    esac
    rc=$?
    ms=$((($(date +%s%N) - start) / 1000000))
    s=$(grep -cE '^ok .*# SKIP' "$log/out")
    p=$(($(grep -cE '^ok ' "$log/out") - s))
    f=$(grep -cE '^not ok ' "$log/out")
    plan=$(sed -nE 's/^1\.\.([0-9]+).*/\1/p' "$log/out" | tail -1)
    if [ $rc -ne 0 ] && [ "$f" = 0 ] || [ "${plan:-0}" != $((s + p + f)) ]; then
        echo "# $name: exit $rc after $((s + p + f)) of ${plan:-?} tests" >>"$log/out"
        f=$((f + 1))
        show=1
    else
        show=$f
    fi
    if [ "$show" != 0 ]; then
        echo "FAIL $name"
        grep -E '^(not ok|#|Bail)' "$log/out" | sed 's/^/     /' | head -40
        tail -30 "$log/err" | sed 's/^/     /'
    else
        printf 'ok   %-24s %4d passed%s  %d.%03d s\n' "$name" "$p" \
            "$([ "$s" = 0 ] || echo ", $s skipped")" $((ms / 1000)) $((ms % 1000))
    fi
    sed -nE "s/^ok [0-9]+ - (.*) # SKIP (.*)/SKIP $name \1: \2/p" "$log/out" >>"$log/skips"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
[ ! -s "$log/skips" ] || cat "$log/skips"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
