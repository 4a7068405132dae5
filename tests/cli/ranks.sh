# Several ranks under mpirun: sums over them, and calibrations whose samples they share give the bytes
# of one process.
. "$(dirname "$0")/lib.sh"
ranks() { # N PROGRAM...
    local n=$1
    shift
    OMP_NUM_THREADS=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_ALLOW_RUN_AS_ROOT=1 \
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 timeout 120 mpirun -n "$n" "$@"
}
command -v mpirun >/dev/null && ranks 2 "$BUILD/tests/unit/test_comm" >/dev/null 2>"$tmp/stderr"
case $? in
1) tap_skip "several ranks" "mpirun is not there (openmpi-bin)"; tap_done ;;
78) tap_skip "several ranks" "$(head -1 "$tmp/stderr")"; tap_done ;;
esac

for n in 2 4 8; do
    expect_exit 0 ranks $n "$BUILD/tests/unit/test_comm"
    expect_stdout "^# $n ranks: [0-9]+ of 700001 sums have other bits"
done
expect_exit 64 ranks 3 "$BUILD/tests/unit/test_comm"
expect_stderr 'mpirun started 3 ranks, wanted 1, 2, 4 or 8'
tap_ok "sums over 2, 4 and 8 ranks are a binary tree; 3 are refused"
tap_done
