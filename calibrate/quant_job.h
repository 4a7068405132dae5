/* One quantization, from the paths to what an archive writer asks for.
 *
 *     cal_quant_job j;
 *     Q_TRY(cal_quant_job_run(&j, &o.q, &o.cli, stop, err));          quantize layer by layer
 *     ... cal_quant_job_weight, cal_quant_job_vector with &j as self: what an archive asks for ...
 *     Q_TRY(cal_quant_job_finish(&j, err));                           the job directory goes
 *     ... out: cal_quant_job_close(&j);
 *
 * Rounding to nearest (`rtn`) looks at no text: nothing is run, and weights are rounded as they are
 * asked for.  Threads: one. */
#ifndef CAL_QUANT_JOB_H
#define CAL_QUANT_JOB_H

#include "calibrate/quant_cli.h"

typedef struct cal_quant_job {
    const cal_quant_cli *o;
    fmt_src *src;
    cal_run run;
    cal_quant quant;
    char *dir, *recipe;
    cal_factors given;        /* of --pre-scale=FILE */
    float *k_scale, *v_scale; /* [layers, n_kv] steps of an int8 cache; NULL with rtn */
    double error, nearest;    /* mean over all linears; 0 with rtn */
    cal_stages stages;        /* from cal_quant_job_open on */
} cal_quant_job;

/* Checks input and output, opens the model.  Errors: Q_ECREATE (the output exists), Q_EARG
 * (it lies in the input), Q_EUNSUPPORTED (the input is quantized), those of fmt_src_open and of
 * given factors.  Closed by the caller, after an error too. */
q_status cal_quant_job_open(cal_quant_job *j, cal_quant_cli *o, const q_cli *cli,
                            const volatile sig_atomic_t *stop, q_err *err);
/* The same, and runs the loop.  Errors: those of the loop as well.  Closed likewise. */
q_status cal_quant_job_run(cal_quant_job *j, cal_quant_cli *o, const q_cli *cli,
                           const volatile sig_atomic_t *stop, q_err *err);
/* Samples of the run, after cal_quant_job_open; and whether given factors are of this model. */
q_status cal_quant_job_data(cal_quant_job *j, q_err *err);
q_status cal_quant_job_finish(cal_quant_job *j, q_err *err);
void cal_quant_job_close(cal_quant_job *j);

/* Callbacks of the archive writer; self: the job. */
q_status cal_quant_job_weight(void *self, fmt_role role, int64_t layer, qnt_tensor *out,
                              q_err *err);
q_status cal_quant_job_vector(void *self, fmt_ref ref, float **out, q_err *err);
q_status cal_quant_job_factors(void *self, fmt_role role, int64_t layer, float **out, q_err *err);
q_status cal_quant_job_stats(void *self, fmt_ref ref, float **out, q_err *err);
qnt_loss cal_quant_job_loss(void *self, fmt_role role, int64_t layer);

/* Settings, calibration data and errors of every linear, for the archive. */
q_status cal_quant_job_json(fmt_json *v, const cal_quant_job *j, q_err *err);

/* What a run would need: lines for people in *out, or members of v when it is not NULL; nothing is
 * written. */
q_status cal_quant_job_plan(q_buf *out, fmt_json *v, cal_quant_cli *o, const q_cli *cli,
                            q_err *err);

#endif
