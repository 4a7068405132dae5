/* Where the time of a calibration goes.
 *
 *     cal_stages t = { 0 };
 *     cal_stage was = cal_stage_begin(&t, CAL_T_READ);       what passes from now on is reading
 *     ...
 *     cal_stage_begin(&t, was);                              and no longer
 *     Q_TRY(cal_stages_text(&line, &t, err));                "time: read 1.2 s, ..."
 *
 * One clock, one stage at a time: the seconds of all stages add up to those since the first call.
 * What other threads do meanwhile (reading the next layer, writing the one before) is not counted;
 * waiting for them is CAL_T_DISK.  NULL for the stages does nothing.  Threads: one. */
#ifndef CAL_STAGES_H
#define CAL_STAGES_H

#include "formats/json.h"

typedef enum cal_stage {
    CAL_T_START,      /* opening, memory, the device; and what has no name of its own */
    CAL_T_READ,       /* texts into ids, the model's fingerprint */
    CAL_T_EMBED,      /* rows of the embedding */
    CAL_T_FORWARD,    /* passes through layers */
    CAL_T_STATISTICS, /* what is seen of them: second moments, ranges */
    CAL_T_SOLVE,      /* factors, codes and their errors */
    CAL_T_DISK,       /* waiting for the disk: the next layer, a layer's result, hidden states */
    CAL_T_LOAD,       /* the next layer to the device */
    CAL_T_PACK,       /* the archive: codes of the job into words of the file */
    CAL_T_CHECK,      /* the archive on the disk, read again */
    CAL_STAGES_N
} cal_stage;

typedef struct cal_stages {
    double seconds[CAL_STAGES_N];
    double since; /* q_now; 0: not begun */
    cal_stage at;
} cal_stages;

const char *cal_stage_name(cal_stage s);  /* "forward" */
const char *cal_stage_about(cal_stage s); /* "Passes through layers" */
/* Returns the stage before, for its end. */
cal_stage cal_stage_begin(cal_stages *t, cal_stage s);
/* Seconds that were counted by another clock move from the present stage to s. */
void cal_stage_move(cal_stages *t, cal_stage s, double seconds);
/* A line without its end, and an object "stages"; stages of no time are left out. */
q_status cal_stages_text(q_buf *out, const cal_stages *t, q_err *err);
q_status cal_stages_json(fmt_json *v, const cal_stages *t, q_err *err);

#endif
