/* Reports of runs that quantize: how they were made, what every linear lost, what its inputs look
 * like, what the run cost.
 *
 *     cal_quant_report o = { .method = "gptq", .input = dir, .output = "m.h5", .src = src, ... };
 *     Q_TRY(cal_quant_report_write(&o, err));       m.report.html, m.report.json
 *
 * Threads: one. */
#ifndef CAL_QUANT_REPORT_H
#define CAL_QUANT_REPORT_H

#include "calibrate/obs_quant.h"
#include "calibrate/stages.h"
#include "calibrate/stats_file.h"

typedef struct cal_quant_report {
    const char *method; /* "gptq", "awq", "nearest" */
    const char *input, *output;
    const fmt_src *src;
    const cal_quant_opts *quant;
    const cal_quant *result;    /* NULL: rounded without calibration */
    const cal_stats_info *info; /* likewise */
    uint64_t seed;
    uint64_t bytes; /* of the archive */
    const char *root_sha256;
    double seconds;
    const cal_stages *stages; /* that add up to them */
} cal_quant_report;

/* Errors: Q_ECREATE, Q_EIO, Q_ENOMEM. */
q_status cal_quant_report_write(const cal_quant_report *o, q_err *err);

#endif
