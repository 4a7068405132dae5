#!/usr/bin/env bash
# Checks the house rules that a compiler does not: who includes whom, which file may include a foreign
# header, file sizes, unique names, and who prints.  Prints every offence; exit 1 when there is one.
# The tables here are the ones of CONTRIBUTING.md.
set -u
cd "$(dirname "$0")/.." || exit 1
bad=0
offence() { echo "check_layers: $*" >&2; bad=1; }

# folder -> folders it may include (itself is always allowed)
declare -A may=(
  [formats/base]=""
  [formats]="formats/base"
  [formats/text]="formats formats/base"
  [quant]="formats formats/base"
  [datasets]="formats formats/text formats/base"
  [convert]="formats quant formats/base"
  [runtime]="runtime/cpu runtime/cuda formats formats/text quant formats/base"
  [runtime/cpu]="runtime formats quant formats/base"
  [runtime/cuda]="runtime formats quant formats/base"
  [calibrate]="runtime datasets quant formats formats/text formats/base"
)
# foreign header -> the files that may include it
declare -A only=(
  [argp.h]="formats/base/q_cli.h"
  [jansson.h]="formats/json.c"
  [hdf5.h]="formats/h5file_impl.h"
  [zlib.h]="formats/chunk.c"
  [utf8proc.h]="formats/text/unicode.c"
  [sentencepiece_processor.h]="formats/text/spm_shim.cc"
  [cblas.h]="quant/linalg_cpu.c"
  [cuda_runtime_api.h]="runtime/cuda/cu.h"
  [cuda_fp16.h]="runtime/cuda/cu_device.cuh"
  [cuda.h]="runtime/cuda/cu_map.h"
  [cublasLt.h]="runtime/cuda/cublaslt.c"
  [mpi.h]="runtime/comm_mpi.c"
  [nccl.h]="runtime/cuda/comm_nccl.c"
)
is_program() { case $1 in */qwen_*.c) return 0 ;; *) return 1 ;; esac; }
# option groups shared by programs: the only library files that may use argp
is_cli() { case $1 in */*_cli.[ch]) return 0 ;; *) return 1 ;; esac; }

mapfile -t files < <(git ls-files -co --exclude-standard '*.c' '*.h' '*.cc' '*.cu' '*.cuh' | grep -vE '^(tests|scripts)/')
for f in "${files[@]}"; do
  dir=${f%/*}
  [ -n "${may[$dir]+x}" ] || { offence "$f: folder '$dir' is not in the table"; continue; }
  while read -r kind name; do
    if [ "$kind" = own ]; then
      to=${name%/*}
      is_program "$name" && offence "$f includes the program $name"
      [ -f "$name" ] || offence "$f includes $name, which does not exist"
      if ! is_program "$f" && [ "$to" != "$dir" ] &&
         ! printf '%s\n' ${may[$dir]} | grep -qx -- "$to"; then
        offence "$f includes $name: $dir may include only: ${may[$dir]:-nothing}"
      fi
      if [ "$name" = formats/base/q_cli.h ] && ! is_program "$f" && ! is_cli "$f"; then
        offence "$f includes q_cli.h: options belong to programs and *_cli files"
      fi
    elif [ -n "${only[$name]+x}" ] && ! printf '%s\n' ${only[$name]} | grep -qx -- "$f"; then
      offence "$f includes <$name>: only ${only[$name]} may"
    fi
  done < <(sed -nE 's/^[ ]*#[ ]*include[ ]*"([^"]+)".*/own \1/p; s/^[ ]*#[ ]*include[ ]*<([^>]+)>.*/foreign \1/p' "$f")
  lines=$(wc -l <"$f")
  limit=500
  is_program "$f" && limit=250
  [ "$lines" -le $limit ] || offence "$f has $lines lines, at most $limit"
  if ! is_program "$f" && ! is_cli "$f" && [ "$f" != formats/base/q_log.c ] &&
     [ "$f" != formats/apart.c ]; then # apart.c ends a child process
    calls=$(sed -E 's!/\*.*\*/!!; s!^ \*.*!!' "$f" |
      grep -nE '(^|[^a-z_])(_?exit|abort|getenv|puts|putchar|v?f?printf|fputs|perror|argp_parse) *\(')
    [ -z "$calls" ] || offence "$f prints, exits or reads the environment: $calls"
  fi
done
dup=$(printf '%s\n' "${files[@]}" | sed -E 's!.*/!!' | grep -E '\.c$' | sort | uniq -d)
[ -z "$dup" ] || offence "file names are not unique: $dup"
[ $bad = 0 ] && echo "check_layers: ${#files[@]} files follow the rules"
exit $bad
