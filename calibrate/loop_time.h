/* How long a calibration will take: multiplications and additions over the speed of this machine.
 *
 *     const cal_work w = { .forward = 2 * weights * tokens, .client = K * K * tokens };
 *     ... cal_work_seconds(&w, be) ...
 *
 * The host is measured on a small gram matrix, which is what most of the client's work is; a device
 * is taken to reach a part of what its maker states.  Reading and writing overlap with it and are
 * not counted, nor is what the program does with the result.  Threads: any. */
#ifndef CAL_LOOP_TIME_H
#define CAL_LOOP_TIME_H

#include "runtime/backend.h"

typedef struct cal_work {
    double forward; /* operations of the passes, where the backend computes */
    double client;  /* of statistics and what is made of them, likewise (quant/device.h) */
} cal_work;

double cal_work_seconds(const cal_work *w, rt_backend *be);

#endif
