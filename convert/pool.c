/* The pool.  Numbers are handed out under one lock, and a job that began is always finished, so
 * every number below a failed one has been tried: that makes the reported failure independent of
 * timing. */
#include "convert/pool.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>

typedef struct shared {
    const cvt_pool *pool;
    pthread_mutex_t lock;
    size_t next, failed; /* failed: lowest number that failed, n when none did */
    q_status st;
    q_err err;
    int stopped;
} shared;

typedef struct worker {
    shared *sh;
    int thread;
    pthread_t id;
} worker;

/* 1 and the number of the next job, or 0 when there is nothing more to do */
static int take(shared *sh, size_t *i)
{
    int more = 0;

    pthread_mutex_lock(&sh->lock);
    if (sh->next < sh->pool->n && sh->failed == sh->pool->n) {
        if (sh->pool->stop && *sh->pool->stop)
            sh->stopped = 1;
        else
            more = 1;
    }
    if (more)
        *i = sh->next++;
    pthread_mutex_unlock(&sh->lock);
    return more;
}

static void note(shared *sh, size_t i, q_status st, const q_err *err)
{
    pthread_mutex_lock(&sh->lock);
    if (i < sh->failed) {
        sh->failed = i;
        sh->st = st;
        sh->err = *err;
    }
    pthread_mutex_unlock(&sh->lock);
}

static void *work(void *arg)
{
    const worker *w = arg;
    const cvt_pool *p = w->sh->pool;
    size_t i = 0;

    while (take(w->sh, &i)) {
        q_err err = { 0 };
        const q_status st = p->job(p->self, w->thread, i, &err);

        if (st != Q_OK)
            note(w->sh, i, st, &err);
    }
    return NULL;
}

int cvt_pool_threads(int asked)
{
    cpu_set_t set;

    if (asked < 1)
        asked = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return asked < CVT_MAX_THREADS ? asked : CVT_MAX_THREADS;
}

q_status cvt_pool_run(const cvt_pool *pool, q_err *err)
{
    shared sh = { .pool = pool, .failed = pool->n };
    worker w[CVT_MAX_THREADS];
    int n = 1;

    assert(pool->threads >= 1 && pool->threads <= CVT_MAX_THREADS);
    pthread_mutex_init(&sh.lock, NULL);
    for (; n < pool->threads; n++) {
        w[n] = (worker){ .sh = &sh, .thread = n };
        if (pthread_create(&w[n].id, NULL, work, &w[n]) != 0)
            break;
    }
    w[0] = (worker){ .sh = &sh };
    work(&w[0]);
    while (--n > 0)
        pthread_join(w[n].id, NULL);
    pthread_mutex_destroy(&sh.lock);
    if (sh.failed < pool->n)
        return q_fail(err, sh.st, "%s", sh.err.msg);
    if (sh.stopped)
        return q_fail(err, Q_ECANCEL, "stopped by a signal");
    return Q_OK;
}
