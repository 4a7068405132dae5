/* What a layer of a calibration cost.  Differs from run to run: it is kept in the files of a job,
 * so that a continued run can show it, and never enters an output.  Threads: pure. */
#ifndef CAL_COST_H
#define CAL_COST_H

#include <sys/resource.h>

#include "formats/base/q_log.h"

typedef struct cal_cost {
    double seconds;
    double memory; /* bytes: the most that the process had up to then */
} cal_cost;

/* Of what began at q_now() == since and ends now. */
static inline cal_cost cal_cost_since(double since)
{
    struct rusage used = { 0 };

    getrusage(RUSAGE_SELF, &used);
    return (cal_cost){ .seconds = q_now() - since, .memory = (double)used.ru_maxrss * 1024 };
}

#endif
