/* A job directory: what a long run has finished, so that it can be continued after any end.
 *
 *     cal_job *job = NULL;
 *     Q_TRY(cal_job_open(&job, "out.job", fingerprint, resume, err));
 *     Q_TRY(cal_job_layer_path(job, i, path, sizeof path, err));
 *     ... out: cal_job_close(job);          (the directory stays)
 *     Q_TRY(cal_job_remove("out.job", err)); (when the result is safe)
 *
 * <out>.job/ holds job.json, the fingerprint: one text per item (model, samples, options, version),
 * a lock, one file per finished layer, and the hidden states behind a layer.  Every file appears
 * whole or not at all.  A job with another fingerprint is refused with the first item that differs.
 * Threads: one. */
#ifndef CAL_JOB_H
#define CAL_JOB_H

#include "formats/base/q_err.h"
#include "formats/json.h"

typedef struct cal_job cal_job;

/* fingerprint: an object of texts and numbers.  resume 0: an existing job is removed first.
 * Errors: Q_ECONFIG (another fingerprint), Q_ECREATE (another run holds it), Q_EIO, Q_ENOMEM. */
q_status cal_job_open(cal_job **out, const char *dir, const fmt_json *fingerprint, int resume,
                      q_err *err);
void cal_job_close(cal_job *job);
/* The directory for another rank of the run (runtime/comm.h), once rank 0 has opened it: its hidden
 * states have files of their own, the lock is that of rank 0.  Errors: Q_ENOMEM. */
q_status cal_job_join(cal_job **out, const char *dir, int rank, q_err *err);
/* What a number of the fingerprint was when the job in dir was begun; 0: there is none. */
int64_t cal_job_begun_with(const char *dir, const char *key);
/* Deletes the directory, which may be open or absent. */
q_status cal_job_remove(const char *dir, q_err *err);
const char *cal_job_dir(const cal_job *job);
/* Returns st, of reading a file of the job in dir; err gets why, and of bad data what to do. */
q_status cal_job_read(const char *dir, q_status st, const q_err *why, q_err *err);

/* Names inside the directory; owned by the caller, NULL when out of memory. */
char *cal_job_layer_path(const cal_job *job, int64_t layer);  /* layer-0007.h5 */
char *cal_job_hidden_path(const cal_job *job, int64_t layer); /* hidden-0007.bin: behind layer 7;
                                                               * of rank 1: hidden-0007.1.bin */
int cal_job_has_layer(const cal_job *job, int64_t layer);
/* The last layer, at most `below`, whose hidden states are stored; -1: none. */
int64_t cal_job_last_hidden(const cal_job *job, int64_t below);

#endif
