#!/bin/sh
# Installs the Debian or Ubuntu packages that a build needs.  Run by `make demo`, `make test` and CI;
# does nothing when they are all there.
set -u
me=${0##*/}
build='gcc g++ make pkg-config libc6-dev libjansson-dev libhdf5-dev zlib1g-dev libopenblas-dev libutf8proc-dev
libsentencepiece-dev libopenmpi-dev openmpi-bin'
test='libcmocka-dev libpcre2-dev'
fuzz='clang libclang-rt-dev'

usage() {
    cat <<HELP
Usage: $me [--dry-run] [build|test|fuzz]...

Installs what is missing of these packages (default: build):
  build  $build
  test   $test
  fuzz   $fuzz
As root through apt-get; otherwise prints the command to run and exits with 69.
HELP
}

dry=0 wanted=''
for arg; do
    case $arg in
    -h|--help) usage; exit 0 ;;
    -n|--dry-run) dry=1 ;;
    build) wanted="$wanted $build" ;;
    test) wanted="$wanted $test" ;;
    fuzz) wanted="$wanted $fuzz" ;;
    *) echo "$me: '$arg' is none of build, test, fuzz; try $me --help" >&2; exit 64 ;;
    esac
done
[ -n "$wanted" ] || wanted=$build
if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "$me: this is no Debian or Ubuntu; install the equivalents of:$wanted" >&2
    exit 69
fi
missing=''
for p in $wanted; do
    dpkg-query -W -f '${Status}\n' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0
command="apt-get install -y --no-install-recommends$missing"
if [ $dry = 1 ]; then echo "$command"; exit 0; fi
if [ "$(id -u)" != 0 ]; then
    echo "$me: these packages are missing:$missing" >&2
    echo "$me: install them with:  sudo apt-get update && sudo $command" >&2
    exit 69
fi
echo "$me: installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >&2 || echo "$me: apt-get update failed, trying with the old lists" >&2
$command >&2 || { echo "$me: apt-get could not install$missing (exit 69)" >&2; exit 69; }
