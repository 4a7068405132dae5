/* A whole calibration: samples, backend, layer loop, job; for every program that needs one.
 *
 *     cal_run r;
 *     Q_TRY(cal_run_open(&r, src, &opts, err));       samples, backend, fingerprint
 *     Q_TRY(cal_run_ranges(&r, &ranges, err));        the loop
 *     Q_TRY(cal_stats_write(path, force, &r.info, ranges.layer, err));
 *     Q_TRY(cal_job_remove(opts.job_dir, err));       the result is safe
 *     ... out: cal_run_close(&r);
 *
 * Threads: one. */
#ifndef CAL_CALIBRATE_H
#define CAL_CALIBRATE_H

#include "calibrate/obs_range.h"
#include "calibrate/stats_file.h"

enum { CAL_GIVEN_DEVICE = 1, CAL_GIVEN_OTHER = 2 };

typedef struct cal_run_opts {
    cal_data_opts data;
    const char *chat_format; /* NULL: what the files of the model say */
    const char *device;      /* as rt_backend_open takes it; of ranks the first has this GPU, the
                              * others those behind it */
    rt_comm *comm;           /* the ranks that share the samples out; NULL: alone */
    int threads;
    uint64_t max_ram, max_vram;
    int64_t max_tok;
    const char *job_dir; /* NULL: not resumable */
    int no_resume;
    unsigned given;     /* CAL_GIVEN_*: of its options (cal_cli.h); looked at by programs only */
    int search;         /* ranges: choose exponents of SmoothQuant for each linear */
    const char *recipe; /* a job with another one is refused; may be NULL */
    const char *tool;
    cal_stages *stages; /* gets the time of all that is done; may be NULL */
    const volatile sig_atomic_t *stop;
    const q_log *log;
} cal_run_opts;

typedef struct cal_run {
    cal_run_opts o;
    const fmt_src *src;
    cal_data data;
    rt_backend *be;
    cal_job *job;
    cal_stats_info info;
} cal_run;

/* Which model: sizes, names of roles, types, shapes, and two blocks of every matrix.  The same for
 * a checkpoint and the FT directory that a plain conversion makes of it. */
q_status cal_model_sha256(char hex[65], const fmt_src *src, q_err *err);
/* Errors: those of tokenizer, data and backend. */
q_status cal_run_open(cal_run *r, const fmt_src *src, const cal_run_opts *o, q_err *err);
void cal_run_close(cal_run *r);
/* The same with any client: opens the job, runs the loop. */
q_status cal_run_loop(cal_run *r, const cal_client *client, q_err *err);
/* Opens the job (refusing one begun with other inputs) and runs the loop. */
q_status cal_run_ranges(cal_run *r, cal_ranges *out, q_err *err);
/* What that would need; opens the backend.  Of the client only its two sizes are looked at. */
q_status cal_run_plan(cal_plan *p, cal_run *r, const cal_client *client, q_err *err);

#endif
