/* A thread that writes what is finished while its owner computes on.
 *
 *     cal_write job = { .run = write_it, .drop = free, .self = it };
 *     Q_TRY(cal_writer_open(&w, err));
 *     Q_TRY(cal_writer_push(w, &job, &ticket, err));
 *     Q_TRY(cal_writer_wait(w, ticket, err));     it is done, and all that came before it
 *     Q_TRY(cal_writer_finish(w, err));           everything is done
 *     ... out: cal_writer_close(w);               (finishes first; a failure is lost)
 *
 * Jobs are done one at a time in the order they came, so what one makes durable stands before the
 * next begins.  After a failure no more are run; the failure is what every later call returns.
 * Where no thread can be started, push does the job itself.  Threads: one owner. */
#ifndef CAL_WRITER_H
#define CAL_WRITER_H

#include <stdint.h>

#include "formats/base/q_err.h"

typedef struct cal_writer cal_writer;

typedef struct cal_write {
    q_status (*run)(void *self, q_err *err);
    void (*drop)(void *self); /* after run, and when it was not run; may be NULL */
    void *self;
} cal_write;

q_status cal_writer_open(cal_writer **out, q_err *err);
/* *ticket: for wait, may be NULL.  The job is dropped after errors too. */
q_status cal_writer_push(cal_writer *w, const cal_write *job, uint64_t *ticket, q_err *err);
q_status cal_writer_wait(cal_writer *w, uint64_t ticket, q_err *err);
q_status cal_writer_finish(cal_writer *w, q_err *err);
void cal_writer_close(cal_writer *w);

#endif
