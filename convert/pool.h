/* A list of jobs done by a few threads, in order and with one answer.
 *
 *     const cvt_pool p = { .n = 200, .threads = 2, .job = convert_one, .self = &run };
 *     st = cvt_pool_run(&p, err);
 *
 * Jobs are taken in the order of their numbers.  After a failure no new job begins, the running
 * ones finish, and the failure with the lowest number is reported: the same one for any number of
 * threads.  When threads cannot be started the caller's thread does the work alone.  A job runs no
 * loop of OpenMP: in a new thread it would take all processors, whatever was set in another. */
#ifndef CVT_POOL_H
#define CVT_POOL_H

#include <signal.h>
#include <stddef.h>

#include "formats/base/q_err.h"

typedef struct cvt_pool {
    size_t n;                          /* jobs 0 .. n-1 */
    int threads;                       /* 1 .. CVT_MAX_THREADS */
    const volatile sig_atomic_t *stop; /* no new job once it is set; may be NULL */
    q_status (*job)(void *self, int thread, size_t i, q_err *err);
    void *self; /* thread: 0 .. threads-1, for what each thread owns */
} cvt_pool;

#define CVT_MAX_THREADS 64

/* asked, or one per processor that this process may use when asked is 0; at most CVT_MAX_THREADS */
int cvt_pool_threads(int asked);
/* Errors: those of the jobs; Q_ECANCEL when stopped. */
q_status cvt_pool_run(const cvt_pool *pool, q_err *err);

#endif
