/* The writer.  A ring of jobs under one lock; `done` counts those that are over, so that a ticket,
 * the number of a job, is over when done has passed it.  A full ring makes push wait: what is not
 * yet written stays bounded. */
#include "calibrate/writer.h"

#include <pthread.h>

#include "formats/base/q_mem.h"

#define QUEUE 16 /* jobs: more than the buffers of rows, which bound them by themselves */

struct cal_writer {
    pthread_t id;
    int threaded, closing;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    cal_write job[QUEUE];
    uint64_t pushed, done;
    q_status st; /* of the first job that failed */
    q_err err;
};

/* Runs or skips a job, and drops it.  The lock is not held. */
static void do_job(cal_writer *w, const cal_write *job, int skip)
{
    q_err err = { 0 };
    const q_status st = skip ? Q_OK : job->run(job->self, &err);

    if (job->drop)
        job->drop(job->self);
    pthread_mutex_lock(&w->lock);
    if (st != Q_OK) {
        w->st = st;
        w->err = err;
    }
    w->done++;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

static void *work(void *arg)
{
    cal_writer *w = arg;

    for (;;) {
        cal_write job;
        int skip;

        pthread_mutex_lock(&w->lock);
        while (w->done == w->pushed && !w->closing)
            pthread_cond_wait(&w->changed, &w->lock);
        if (w->done == w->pushed) {
            pthread_mutex_unlock(&w->lock);
            return NULL;
        }
        job = w->job[w->done % QUEUE];
        skip = w->st != Q_OK;
        pthread_mutex_unlock(&w->lock);
        do_job(w, &job, skip);
    }
}

q_status cal_writer_open(cal_writer **out, q_err *err)
{
    cal_writer *w = q_calloc(1, sizeof *w);

    if (!w)
        return q_fail(err, Q_ENOMEM, "no memory for a writer");
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    w->threaded = pthread_create(&w->id, NULL, work, w) == 0;
    *out = w;
    return Q_OK;
}

static q_status failure(const cal_writer *w, q_err *err)
{
    return w->st == Q_OK ? Q_OK : q_fail(err, w->st, "%s", w->err.msg);
}

q_status cal_writer_push(cal_writer *w, const cal_write *job, uint64_t *ticket, q_err *err)
{
    q_status st;
    uint64_t number;

    pthread_mutex_lock(&w->lock);
    while (w->pushed - w->done == QUEUE)
        pthread_cond_wait(&w->changed, &w->lock);
    number = ++w->pushed;
    w->job[(number - 1) % QUEUE] = *job;
    st = failure(w, err);
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    if (!w->threaded)
        do_job(w, job, st != Q_OK);
    if (ticket)
        *ticket = number;
    return w->threaded ? st : cal_writer_wait(w, number, err);
}

q_status cal_writer_wait(cal_writer *w, uint64_t ticket, q_err *err)
{
    q_status st;

    pthread_mutex_lock(&w->lock);
    while (w->done < ticket)
        pthread_cond_wait(&w->changed, &w->lock);
    st = failure(w, err);
    pthread_mutex_unlock(&w->lock);
    return st;
}

q_status cal_writer_finish(cal_writer *w, q_err *err)
{
    return cal_writer_wait(w, w->pushed, err);
}

void cal_writer_close(cal_writer *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->closing = 1;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    if (w->threaded)
        pthread_join(w->id, NULL);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    q_free(w);
}
