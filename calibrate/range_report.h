/* Reports of runs that calibrate for SmoothQuant or for an int8 key/value cache: the ranges that
 * were seen, before and after smoothing, and those of keys and values per head.
 *
 *     cal_range_report o = { .input = dir, .output = "out/1-gpu", .src = src, .ranges = ranges };
 *     Q_TRY(cal_range_report_write(&o, err));      out/1-gpu.report.html and .json
 *
 * Threads: one. */
#ifndef CAL_RANGE_REPORT_H
#define CAL_RANGE_REPORT_H

#include "calibrate/kv_gate.h"
#include "formats/source.h"
#include "quant/ranges.h"

typedef struct cal_range_report {
    const char *input, *output;
    const fmt_src *src;
    const qnt_ranges *ranges; /* [layers] of the source as it is */
    const qnt_ranges *after;  /* [layers] of the smoothed model; NULL: not smoothed */
    double alpha;             /* of the smoothing; negative: those in `ranges` */
    int kv;                   /* 1: there are scales of keys and values */
    const char *stats;        /* file that the ranges come from; NULL: calibrated in this run */
    const char *data;         /* texts of the calibration, or NULL */
    uint64_t bytes;           /* of the output */
    const char *root_sha256;
    const cal_cost *cost;      /* [layers] of this calibration, or NULL */
    double seconds;            /* of the whole run */
    const cal_stages *stages;  /* of the calibration */
    const cal_kv_report *gate; /* what the int8 cache costs; NULL: not measured */
} cal_range_report;

/* For `after`: [layers], all zero, freed with cal_stats_free. */
q_status cal_ranges_make(qnt_ranges **out, const fmt_model *m, q_err *err);
/* Errors: Q_ECREATE, Q_EIO, Q_ENOMEM. */
q_status cal_range_report_write(const cal_range_report *o, q_err *err);

#endif
