/* Checking an FT directory against its manifest.
 *
 *     cvt_verify_report rep = { 0 };
 *     Q_TRY(cvt_verify(&rep, "out/1-gpu", 2, log, NULL, err));
 *     ... out: cvt_verify_free(&rep);
 *
 * Every file of manifest.json must be there with its size and SHA-256, nothing else may be there,
 * and the manifest must be the text that was written, its root hash included: a single changed bit
 * anywhere in the directory is found.  All files are looked at before the answer is given.
 * Threads: one call, several threads inside. */
#ifndef CVT_VERIFY_H
#define CVT_VERIFY_H

#include <signal.h>

#include "convert/manifest.h"
#include "formats/base/q_log.h"
#include "formats/json.h"

typedef struct cvt_verify_report {
    uint64_t files, bytes; /* looked at, the manifest included */
    char root_sha256[CVT_HEX];
    q_buf bad; /* one line "name: what is wrong" for each bad file, in order of names */
    uint64_t n_bad;
} cvt_verify_report;

/* threads: 1 .. CVT_MAX_THREADS.
 * Errors: Q_ENOINPUT (no directory or no manifest), Q_EFORMAT (names the first bad file and the
 * number of others), Q_EIO, Q_ECANCEL, Q_ENOMEM.  The report is filled as far as it went. */
q_status cvt_verify(cvt_verify_report *rep, const char *dir, int threads, const q_log *log,
                    const volatile sig_atomic_t *stop, q_err *err);
q_status cvt_verify_json(fmt_json *doc, const cvt_verify_report *rep, q_err *err);
void cvt_verify_free(cvt_verify_report *rep);

#endif
