/* The reader.  One thread for each layer: it lives as long as the read, and what it made belongs to
 * the owner once it is joined, so nothing is shared and nothing is locked. */
#include "calibrate/reader.h"

#include <assert.h>
#if defined(_OPENMP)
#include <omp.h>
#endif
#include <string.h>

static void *work(void *arg)
{
    cal_reader *r = arg;

#if defined(_OPENMP)
    if (r->threads > 0) /* a new thread does not know what was set in another */
        omp_set_num_threads(r->threads);
#endif
    r->st = rt_layer_read(&r->data, r->src, r->layer, &r->err);
    return NULL;
}

void cal_reader_start(cal_reader *r, int64_t layer)
{
    assert(!r->started);
    r->layer = layer;
    r->err = (q_err){ 0 };
    r->started = 1;
    r->threaded = pthread_create(&r->id, NULL, work, r) == 0;
}

q_status cal_reader_take(cal_reader *r, rt_layer_data *d, q_err *err)
{
    assert(r->started);
    if (r->threaded)
        pthread_join(r->id, NULL);
    else
        work(r);
    r->started = 0;
    if (r->st != Q_OK)
        return q_fail(err, r->st, "%s", r->err.msg);
    *d = r->data;
    memset(&r->data, 0, sizeof r->data);
    return Q_OK;
}

void cal_reader_close(cal_reader *r)
{
    if (r->started && r->threaded)
        pthread_join(r->id, NULL);
    rt_layer_data_free(&r->data);
    memset(r, 0, sizeof *r);
}
