/* What qwen-gptq and qwen-awq share: options, the run, and its result for the archive writer.
 *
 *     static struct opts { cal_quant_cli q; q_cli cli; } o;
 *     cal_quant_cli_init(&o.q);                                       on ARGP_KEY_INIT
 *     cal_quant_cli_check(&o.q, state);                               on ARGP_KEY_END
 *     cal_quant_job j;
 *     Q_TRY(cal_quant_job_run(&j, &o.q, &o.cli, &stop, err));         quantize layer by layer
 *     ... cal_quant_job_weight, cal_quant_job_vector with &j as self: what an archive asks for ...
 *     Q_TRY(cal_quant_job_finish(&j, err));                           the job is not needed any
 * more
 *     ... out: cal_quant_job_close(&j);
 *
 * Rounding to nearest (`rtn`) looks at no text: nothing is run, and weights are rounded as they are
 * asked for.  Only programs include this file.  Threads: one. */
#ifndef CAL_QUANT_CLI_H
#define CAL_QUANT_CLI_H

#include "calibrate/cal_cli.h"
#include "calibrate/obs_quant.h"

typedef struct cal_quant_cli {
    const char *input, *output;
    cal_run_opts run;
    cal_quant_opts quant;
    int rtn, force, dry_run, no_report;
} cal_quant_cli;

extern const struct argp cal_quant_argp; /* -i -o --bits --group-size --sym --asym --force ... */

void cal_quant_cli_init(cal_quant_cli *o);
void cal_quant_cli_check(const cal_quant_cli *o, const struct argp_state *state);

typedef struct cal_quant_job {
    const cal_quant_cli *o;
    fmt_src *src;
    cal_run run;
    cal_quant quant;
    char *dir, *recipe;
    double error, nearest; /* mean over all linears; 0 with rtn */
    double damp_max;
    int64_t dead;
} cal_quant_job;

/* Checks input and output, opens the model. */
q_status cal_quant_job_open(cal_quant_job *j, cal_quant_cli *o, const q_cli *cli,
                            const volatile sig_atomic_t *stop, q_err *err);
/* The same, and runs the loop.  Errors: Q_ECREATE (the output exists),
 * Q_EARG (it is the input), those of the loop. */
q_status cal_quant_job_run(cal_quant_job *j, cal_quant_cli *o, const q_cli *cli,
                           const volatile sig_atomic_t *stop, q_err *err);
q_status cal_quant_job_finish(cal_quant_job *j, q_err *err);
void cal_quant_job_close(cal_quant_job *j);

/* Callbacks of the archive writer; self: the job. */
q_status cal_quant_job_weight(void *self, fmt_role role, int64_t layer, qnt_tensor *out,
                              q_err *err);
q_status cal_quant_job_vector(void *self, fmt_ref ref, float **out, q_err *err);

/* Settings, calibration data and errors of every linear, for the archive. */
q_status cal_quant_job_json(fmt_json *v, const cal_quant_job *j, q_err *err);
/* What was written, for the last line on stdout. */
typedef struct cal_quant_written {
    uint64_t bytes, modules;
    const char *root_sha256;
    double seconds;
} cal_quant_written;
q_status cal_quant_job_print(const cal_quant_job *j, const cal_quant_written *w, int json,
                             q_err *err);
/* The report beside the archive (quant_report.h); nothing with --no-report. */
q_status cal_quant_job_report(const cal_quant_job *j, const cal_quant_written *w, q_err *err);

/* What a run would need, for people; nothing is written. */
q_status cal_quant_job_plan(q_buf *out, cal_quant_cli *o, const q_cli *cli, q_err *err);
/* The same on stdout: --dry-run. */
q_status cal_quant_job_dry_run(cal_quant_cli *o, const q_cli *cli, q_err *err);

#endif
