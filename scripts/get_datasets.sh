#!/bin/sh
# Fetch CNN/DailyMail and ShareGPT, and write them in the formats that the programs read.
set -u
me=${0##*/} out='' split=test dry=0 force=0 tmp=''
hub=${HF_ENDPOINT:-https://huggingface.co}/datasets

usage() { cat <<'HELP'; }
Usage: get_datasets.sh [OPTION]... cnndm|sharegpt|all
       get_datasets.sh [OPTION]... convert OUT.jsonl FILE.parquet...

  cnndm     CNN/DailyMail 3.0.0 (Hugging Face dataset abisee/cnn_dailymail): downloads the
            parquet shards of one split and writes cnn_dailymail-SPLIT.jsonl, one object
            {"id","article","highlights"} per line; the shards are then removed
  sharegpt  ShareGPT_V3_unfiltered_cleaned_split.json (Hugging Face dataset
            anon8231489123/ShareGPT_Vicuna_unfiltered): a JSON array of
            {"id","conversations":[{"from","value"}]}, used as it is (about 0.7 GB)
  all       both, in that order
  convert   the second half of cnndm, for parquet files that you already have

  -o, --output DIR   where the files go (default: datasets/downloads of this checkout)
  -s, --split SPLIT  test (default, 11,490 articles), validation (13,368), train (287,113)
  -f, --force        fetch and convert again what is already there
  -n, --dry-run      print the commands and run nothing
  -h, --help         this text

Needs curl; for parquet also the duckdb command (https://duckdb.org), or python3 with pyarrow.
HF_ENDPOINT may name a mirror of https://huggingface.co.  A file gets its final name only when
it is complete.  Both data sets belong to others: read their terms before you use them.
Then: qwen-summarize --data datasets/downloads/cnn_dailymail-test.jsonl
  qwen-benchmark --dataset datasets/downloads/ShareGPT_V3_unfiltered_cleaned_split.json
Exit codes: 0 done; 64 wrong usage; 65 a parquet file cannot be converted; 66 input missing
or a download failed; 69 a needed command is missing; 73 the output cannot be written.
HELP

fail() { code=$1; shift; echo "$me: $* (exit $code)" >&2; exit "$code"; }
bad() { fail 64 "$*; try $me --help"; }
have() { command -v "$1" >/dev/null 2>&1; }
there() { if [ $force = 0 ] && [ -s "$1" ]; then echo "# $1 is there"; else return 1; fi; }
quote() { printf "'%s'" "$(printf '%s' "$2" | sed "s/'/$1/g")"; } # $1: how a ' is written
run() { # run the command, or print it as a shell would read it back
    if [ $dry = 0 ]; then "$@"; return; fi
    for word; do
        case $word in *[!A-Za-z0-9_./:=,+-]*) word=$(quote "'\\\\''" "$word") ;; esac
        printf '%s ' "$word"
    done; echo
}
trap 'if [ -n "$tmp" ]; then rm -f "$tmp"; fi' EXIT
trap 'exit 130' INT TERM

converter() { # prints which one there is
    if have duckdb || [ $dry = 1 ]; then echo duckdb
    elif have python3 && python3 -c 'import pyarrow.parquet' 2>/dev/null; then echo python3
    else fail 69 "reading parquet needs the duckdb command (https://duckdb.org), or python3" \
        "with pyarrow (python3 -m pip install pyarrow); install one of them"; fi
}
finish() { run mv -f "$tmp" "$1" || fail 73 "cannot write $1"; tmp=''; }
fetch() { # URL FILE
    if there "$2"; then return; fi
    tmp=$2.part
    run curl -fL --retry 3 -o "$tmp" "$1" || fail 66 "download failed: $1"
    finish "$2"
}
py='import json, sys, pyarrow.parquet as pq
with open(sys.argv[1], "w", encoding="utf-8", newline="\n") as f:
    for name in sys.argv[2:]:
        for b in pq.ParquetFile(name).iter_batches(256, columns=["id", "article", "highlights"]):
            f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in b.to_pylist())'
convert() { # OUT.jsonl FILE.parquet...
    to=$1 tmp=$1.part list=''; shift
    for f; do
        [ $dry = 1 ] || [ -r "$f" ] || fail 66 "cannot read $f"
        list=$list${list:+, }$(quote "''" "$f")
    done
    if [ "$with" = python3 ]; then run python3 -c "$py" "$tmp" "$@"
    else run duckdb -c "COPY (SELECT id, article, highlights FROM read_parquet([$list])) TO $(
        quote "''" "$tmp") (FORMAT json)"; fi || fail 65 "$with could not convert $*"
    finish "$to"
}
cnndm() {
    to=$out/cnn_dailymail-$split.jsonl shards='0-of-00001'
    url=$hub/abisee/cnn_dailymail/resolve/main/3.0.0
    if there "$to"; then return; fi
    if [ "$split" = train ]; then shards='0-of-00003 1-of-00003 2-of-00003'; fi
    set --
    for n in $shards; do
        set -- "$@" "$out/cnn_dailymail-$split-0000$n.parquet"
        fetch "$url/$split-0000$n.parquet" "$out/cnn_dailymail-$split-0000$n.parquet"
    done
    convert "$to" "$@" && run rm -f "$@"
}
while :; do
    case ${1-} in
    -h|--help) usage; exit 0 ;;
    -f|--force) force=1 ;;
    -n|--dry-run) dry=1 ;;
    -o|--output|-s|--split)
        [ -n "${2-}" ] || bad "$1 needs a value"
        case $1 in -o|--output) out=$2 ;; *) split=$2 ;; esac; shift ;;
    -*) bad "unknown option $1" ;;
    *) break ;;
    esac
    shift
done
case $split in test|validation|train) ;; *) bad "no split named $split" ;; esac
case ${1-}:$# in
convert:[012]) bad "convert needs OUT.jsonl and FILE.parquet" ;;
convert:*) with=$(converter) || exit; shift; convert "$@"; exit ;;
cnndm:1|all:1) with=$(converter) || exit ;;
sharegpt:1) ;;
*) bad "expected one of cnndm, sharegpt, all or convert, after the options; found '$*'" ;;
esac
[ $dry = 1 ] || have curl || fail 69 "downloads need the curl command; install it"
: "${out:=$(cd "$(dirname "$0")/.." && pwd)/datasets/downloads}"
run mkdir -p "$out" || fail 73 "cannot create $out"
[ "$1" = sharegpt ] || cnndm
file=ShareGPT_V3_unfiltered_cleaned_split.json
url=$hub/anon8231489123/ShareGPT_Vicuna_unfiltered/resolve/main/$file
[ "$1" = cnndm ] || fetch "$url" "$out/$file"
