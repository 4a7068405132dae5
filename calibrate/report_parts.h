/* What reports of several runs have in common: where they lie, names of roles, how to check the
 * output, the inputs of the linears as maps of layers and channels, ranges of keys and values, time
 * and memory of layers.
 *
 *     Q_TRY(cal_report_inputs(r, &(cal_input_maps){ .m = m, .name = { "before", "after" }, .n = 2,
 *                                                   .fill = fill, .self = numbers }, err));
 *     Q_TRY(cal_report_save(r, "m.h5", err));                    m.report.html, m.report.json
 *
 * Threads: one. */
#ifndef CAL_REPORT_PARTS_H
#define CAL_REPORT_PARTS_H

#include "calibrate/cost.h"
#include "calibrate/stages.h"
#include "formats/family.h"
#include "formats/report.h"

/* "m.report" .ext for "m.h5" and "m"; owned by the caller, NULL: no memory. */
char *cal_report_path(const char *output, const char *ext);
/* A report belongs to its output: one of an earlier output of that name is replaced. */
q_status cal_report_save(const fmt_report *r, const char *output, q_err *err);
const char *cal_report_role(fmt_role role); /* "gate and up" */
/* The command that checks output, as a shell wants it; owned by the caller, NULL: no memory. */
char *cal_report_verify(const char *output);

#define CAL_INPUT_MAPS 2

typedef struct cal_input_maps {
    const fmt_model *m;
    const char *name[CAL_INPUT_MAPS];
    size_t n; /* maps for each role: 1 or 2 */
    /* out [cols]: map number `map` of one layer, as fmt_report_buckets parts the channels */
    void (*fill)(float *out, size_t cols, const void *self, size_t map, int64_t layer,
                 fmt_role role);
    const void *self;
} cal_input_maps;

q_status cal_report_inputs(fmt_report *r, const cal_input_maps *in, q_err *err);

/* kv [layers, 2, n_kv]: largest magnitudes of keys, then of values, of every head */
q_status cal_report_cache(fmt_report *r, const fmt_model *m, const float *kv, q_err *err);
/* cost [layers], may be NULL; seconds: of the whole run; stages: where they, or those of the
 * calibration, went */
q_status cal_report_cost(fmt_report *r, const cal_cost *cost, const fmt_model *m, double seconds,
                         const cal_stages *stages, q_err *err);

#endif
