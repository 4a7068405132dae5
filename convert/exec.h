/* Carrying out a plan.
 *
 *     cvt_run_opts o = { .out = "out", .log = &log, .stop = &stop };
 *     cvt_result r = { 0 };
 *     Q_TRY(cvt_run(&r, plan, &o, err));          (out/<T>-gpu is there, complete)
 *     ... out: cvt_result_free(&r);
 *
 * Files are written by plan->opt.threads threads, each reading, casting, transposing, hashing and
 * writing one file at a time; the bytes do not depend on their number.  The directory appears whole
 * or not at all (outdir.h).  Values: round to nearest even; finite values that the stored type
 * cannot hold become infinite and are counted, NaN and infinity pass and are counted, per tensor;
 * both are warnings, or errors when strict.  Threads: one run at a time per plan. */
#ifndef CVT_EXEC_H
#define CVT_EXEC_H

#include <signal.h>
#include <stdint.h>

#include "convert/plan.h"
#include "formats/base/q_log.h"

typedef struct cvt_run_opts {
    const char *out; /* parent of <T>-gpu; made when it is not there */
    int force;       /* replace an existing <T>-gpu */
    int strict;      /* values that cannot be stored, NaN and infinity are errors */
    const volatile sig_atomic_t *stop; /* stops before the next file when set; may be NULL */
    const q_log *log;
} cvt_run_opts;

typedef struct cvt_result {
    uint64_t files, bytes;       /* of the directory, manifest included */
    uint64_t clipped, nonfinite; /* values; see above */
    char root_sha256[CVT_HEX];
    char *path; /* the new directory, owned */
    int ranks;
    fmt_dtype store;
} cvt_result;

/* What can be known beforehand: whether the output may be made, and fits.  cvt_run asks again.
 * Errors: Q_EARG (the output is the input), Q_ECREATE (exists), Q_EIO (too little room). */
q_status cvt_run_check(const cvt_plan *p, const cvt_run_opts *o, q_err *err);

/* Errors: Q_EARG (the output is the input), Q_ECREATE (exists, or locked), Q_EIO, Q_EFORMAT
 * (strict), Q_ECANCEL (stopped; nothing is left), Q_EPERM, Q_ENOMEM, Q_EOS. */
q_status cvt_run(cvt_result *r, const cvt_plan *p, const cvt_run_opts *o, q_err *err);
q_status cvt_result_json(fmt_json *doc, const cvt_result *r, q_err *err); /* members are added */
void cvt_result_free(cvt_result *r);

#endif
