# What shell tests share: TAP, a private directory, and checks that remember what was wrong.
#
#     . "$(dirname "$0")/lib.sh"
#     expect_exit 73 "$(bin qwen-convert)" -i "$model" -o "$tmp/out"
#     expect_stderr 'exists; --force'
#     tap_ok "an existing output is refused"
#     tap_done
#
# Checks between two tap_ok calls belong to the later one: it prints "ok" when all of them held,
# else "not ok" and why.  $tmp is removed at the end; a command of expect_exit leaves its output in
# $tmp/stdout and $tmp/stderr.  BUILD names the build directory, default build/release.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
root=$PWD
: "${BUILD:=build/release}"
case $BUILD in /*) ;; *) BUILD=$root/$BUILD ;; esac
export BUILD LC_ALL=C
shared=${QWENKIT_SHARED:-$root/../shared}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/qwenkit-cli.XXXXXX") || exit 1
trap 'cd /; chmod -R u+rwx "$tmp" 2>/dev/null; rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM
tap_n=0 tap_failed=0 why=""

bin() { echo "$BUILD/bin/$1"; }

fail() { why+="# $*"$'\n'; }

# the newest output, for a failed check
show() { [ ! -s "$1" ] || why+=$(head -c 2000 "$1" | head -8 | sed 's/^/#   | /')$'\n'; }

expect_exit() {
    local want=$1 rc
    shift
    "$@" >"$tmp/stdout" 2>"$tmp/stderr"
    rc=$?
    [ $rc = "$want" ] && return 0
    fail "exit $rc, wanted $want: $*"
    show "$tmp/stdout"
    show "$tmp/stderr"
    return 1
}

expect_in() { # FILE PATTERN: an extended regular expression
    grep -qE -- "$2" "$1" && return 0
    fail "'$2' is not in ${1##*/}:"
    show "$1"
    return 1
}
expect_stdout() { expect_in "$tmp/stdout" "$1"; }
expect_stderr() { expect_in "$tmp/stderr" "$1"; }
expect_empty() { # FILE...
    local f
    for f; do [ ! -s "$f" ] || { fail "${f##*/} is not empty:"; show "$f"; }; done
}
expect() { # a command that must succeed
    "$@" >/dev/null 2>&1 || fail "failed: $*"
}
expect_equal() { # GOT WANTED
    [ "$1" = "$2" ] || fail "'$1', wanted '$2'"
}

tap_ok() {
    tap_n=$((tap_n + 1))
    if [ -z "$why" ]; then
        echo "ok $tap_n - $1"
    else
        echo "not ok $tap_n - $1"
        printf '%s' "$why"
        tap_failed=$((tap_failed + 1))
    fi
    why=""
}
tap_skip() { # NAME REASON
    tap_n=$((tap_n + 1))
    why=""
    echo "ok $tap_n - $1 # SKIP $2"
}
tap_done() {
    echo "1..$tap_n"
    exit $((tap_failed != 0))
}

# sha256 of the names and contents of a directory tree: input that must not change
tree_hash() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum); }
