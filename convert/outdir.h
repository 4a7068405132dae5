/* An output directory that appears whole or not at all.
 *
 *     cvt_outdir *d = NULL;
 *     Q_TRY(cvt_outdir_open(&d, "out", "1-gpu", force, log, err));
 *     ... write files through cvt_outdir_fd(d) and fsync them ...
 *     Q_TRY(cvt_outdir_publish(d, err));               (out/1-gpu is there, complete)
 *     ... out: cvt_outdir_close(d);                    (not published: the temporary is removed)
 *
 * Files are written into out/.1-gpu.part under an exclusive flock on out/.1-gpu.lock, which holds
 * the number of the process.  What a killed process left behind is taken over and removed.  An
 * existing out/1-gpu is an error without force; with it the two directories change places in one
 * step and the old one is removed afterwards.  Killed at any moment, there is either no out/1-gpu,
 * or a complete one, the old or the new.  Where the file system cannot exchange names the old one
 * is moved aside first.
 * Threads: an object belongs to one thread; its descriptor may be shared. */
#ifndef CVT_OUTDIR_H
#define CVT_OUTDIR_H

#include "formats/base/q_err.h"
#include "formats/base/q_log.h"

typedef struct cvt_outdir cvt_outdir;

/* Whether parent/name may be made, asked before a long calibration.  Errors: Q_ECREATE, Q_ENOMEM.
 */
q_status cvt_outdir_check(const char *parent, const char *name, int force, q_err *err);
/* parent is made when it is not there.  name: a plain name.
 * Errors: Q_ECREATE (exists, or another process is writing it), Q_EPERM, Q_EIO, Q_EOS, Q_ENOMEM. */
q_status cvt_outdir_open(cvt_outdir **out, const char *parent, const char *name, int force,
                         const q_log *log, q_err *err);
int cvt_outdir_fd(const cvt_outdir *d);           /* of the temporary directory */
const char *cvt_outdir_part(const cvt_outdir *d); /* its path */
const char *cvt_outdir_path(const cvt_outdir *d); /* the final path */
/* The files must have been synchronised.  After it only close is allowed. */
q_status cvt_outdir_publish(cvt_outdir *d, q_err *err);
void cvt_outdir_close(cvt_outdir *d);

#endif
