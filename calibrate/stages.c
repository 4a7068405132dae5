/* Where the time goes. */
#include "calibrate/stages.h"

#include "formats/base/q_log.h"

/* Shorter ones say nothing: a tenth of what is printed. */
#define LEAST 0.005

static const struct {
    const char *name, *about;
} rows[CAL_STAGES_N] = {
    [CAL_T_START] = { "start", "Opening, memory, the device" },
    [CAL_T_READ] = { "read", "Texts into ids" },
    [CAL_T_EMBED] = { "embed", "Rows of the embedding" },
    [CAL_T_FORWARD] = { "forward", "Passes through layers" },
    [CAL_T_STATISTICS] = { "statistics", "Second moments of inputs" },
    [CAL_T_SOLVE] = { "solve", "Factors, codes and their errors" },
    [CAL_T_DISK] = { "disk", "Waiting for the disk" },
    [CAL_T_LOAD] = { "load", "The next layer to the device" },
    [CAL_T_PACK] = { "pack", "The archive" },
    [CAL_T_CHECK] = { "check", "The archive, read again" },
};

const char *cal_stage_name(cal_stage s)
{
    return rows[s].name;
}

const char *cal_stage_about(cal_stage s)
{
    return rows[s].about;
}

cal_stage cal_stage_begin(cal_stages *t, cal_stage s)
{
    const double now = t ? q_now() : 0;
    cal_stage was = s;

    if (!t)
        return s;
    was = t->at;
    if (t->since > 0)
        t->seconds[was] += now - t->since;
    t->since = now;
    t->at = s;
    return was;
}

void cal_stage_move(cal_stages *t, cal_stage s, double seconds)
{
    if (!t)
        return;
    t->seconds[t->at] -= seconds;
    t->seconds[s] += seconds;
}

q_status cal_stages_text(q_buf *out, const cal_stages *t, q_err *err)
{
    q_status st = Q_OK;
    const char *between = "time: ";

    for (int s = 0; s < CAL_STAGES_N; s++) {
        if (t->seconds[s] < LEAST)
            continue;
        Q_TRY(q_buf_printf(out, err, "%s%s %.2f s", between, rows[s].name, t->seconds[s]));
        between = ", ";
    }
out:
    return st;
}

q_status cal_stages_json(fmt_json *v, const cal_stages *t, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *list;

    Q_TRY(fmt_json_put_obj(&list, v, "stages", err));
    for (int s = 0; s < CAL_STAGES_N; s++)
        if (t->seconds[s] >= LEAST)
            Q_TRY(fmt_json_put_real(list, rows[s].name, t->seconds[s], err));
out:
    return st;
}
