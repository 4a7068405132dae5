/* The writer thread: jobs in order, each dropped once, tickets, and what a failure does to the jobs
 * behind it. */
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "calibrate/writer.h"
#include "tests/t.h"

enum { JOBS = 100, BAD = 37 };

typedef struct job {
    int number, fails;
    atomic_int dropped;
} job;

static int order[JOBS];
static atomic_int runs;

static q_status run(void *self, q_err *err)
{
    const job *j = self;

    if (j->number % 10 == 0) /* the owner gets ahead */
        nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
    if (j->fails)
        return q_fail(err, Q_EIO, "job %d: disk full", j->number);
    order[atomic_fetch_add(&runs, 1)] = j->number;
    return Q_OK;
}

static void drop(void *self)
{
    atomic_fetch_add(&((job *)self)->dropped, 1);
}

static cal_write write_of(job *j, int number)
{
    *j = (job){ .number = number };
    return (cal_write){ .run = run, .drop = drop, .self = j };
}

static void t_order_and_tickets(void)
{
    q_err err = { 0 };
    cal_writer *w = NULL;
    static job jobs[JOBS];
    uint64_t ticket[JOBS];

    atomic_store(&runs, 0);
    T_OK(cal_writer_open(&w, &err), err);
    for (int i = 0; i < JOBS; i++) {
        const cal_write it = write_of(&jobs[i], i);

        T_OK(cal_writer_push(w, &it, &ticket[i], &err), err);
        if (i % 25 == 24) {
            T_OK(cal_writer_wait(w, ticket[i - 3], &err), err);
            T_TRUE(atomic_load(&runs) >= i - 2);
            T_INT(atomic_load(&jobs[i - 3].dropped), 1);
        }
    }
    T_OK(cal_writer_finish(w, &err), err);
    T_INT(atomic_load(&runs), JOBS);
    for (int i = 0; i < JOBS; i++) {
        T_INT(order[i], i);
        T_INT(atomic_load(&jobs[i].dropped), 1);
    }
    cal_writer_close(w);
}

static void t_failure(void)
{
    q_err err = { 0 };
    cal_writer *w = NULL;
    static job jobs[JOBS];
    int refused = 0;

    atomic_store(&runs, 0);
    T_OK(cal_writer_open(&w, &err), err);
    for (int i = 0; i < JOBS; i++) {
        const cal_write it = write_of(&jobs[i], i);

        jobs[i].fails = i == BAD;
        if (cal_writer_push(w, &it, NULL, &err) != Q_OK) {
            T_TRUE(i >= BAD);
            T_STR(err.msg, "job 37: disk full");
            refused++;
            err = (q_err){ 0 };
        }
    }
    T_ERR(cal_writer_finish(w, &err), err, Q_EIO, "job 37: disk full");
    T_INT(atomic_load(&runs), BAD); /* nothing behind it */
    T_TRUE(refused > 0);
    cal_writer_close(w);
    for (int i = 0; i < JOBS; i++)
        T_INT(atomic_load(&jobs[i].dropped), 1);
}

/* close does what is still to do */
static void t_close_finishes(void)
{
    q_err err = { 0 };
    cal_writer *w = NULL;
    static job jobs[10];

    atomic_store(&runs, 0);
    T_OK(cal_writer_open(&w, &err), err);
    for (int i = 0; i < 10; i++) {
        const cal_write it = write_of(&jobs[i], i);

        T_OK(cal_writer_push(w, &it, NULL, &err), err);
    }
    cal_writer_close(w);
    T_INT(atomic_load(&runs), 10);
    cal_writer_close(NULL);
}

static const t_case cases[] = { T(t_order_and_tickets), T(t_failure), T(t_close_finishes), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
