/* A thread that reads the next layer from the source while this one computes.
 *
 *     cal_reader r = { .src = src, .threads = 2 };
 *     cal_reader_start(&r, 1);
 *     Q_TRY(cal_reader_take(&r, &data, err));      layer 1; waits for it
 *     ... out: cal_reader_close(&r);
 *
 * A failure of the read is what take returns.  Where no thread can be started, take reads.
 * Memory: one layer as the source stores it.  Threads: one owner. */
#ifndef CAL_READER_H
#define CAL_READER_H

#include <pthread.h>

#include "runtime/model.h"

typedef struct cal_reader {
    const fmt_src *src;
    int threads; /* that convert what is read; 0: as many as there are cores */
    int started, threaded;
    pthread_t id;
    int64_t layer;
    rt_layer_data data;
    q_status st;
    q_err err;
} cal_reader;

void cal_reader_start(cal_reader *r, int64_t layer);
/* What was started.  *d is owned by the caller. */
q_status cal_reader_take(cal_reader *r, rt_layer_data *d, q_err *err);
void cal_reader_close(cal_reader *r);

#endif
