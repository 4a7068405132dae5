/* Ranks: the processes that mpirun started for one piece of work on one host, and the values they
 * share.
 *
 *     rt_comm *c = NULL;
 *     Q_TRY(rt_comm_open(&c, err));                     only where mpirun started the process
 *     Q_TRY(rt_comm_join(c, be, err));                  memory of a backend takes part
 *     Q_TRY(rt_comm_sum(c, H, n, err));                 H of all ranks, in all ranks
 *     ... out: rt_comm_leave(c);  rt_backend_close(be);
 *     ... of main: if (failed) rt_comm_abort(c, exit_code); else rt_comm_close(c);
 *
 * NULL is a process alone: every function does nothing then, and succeeds.  All ranks make the same
 * calls in the same order; one that fails must end in rt_comm_abort, for the others wait for it.
 *
 * Sums have one order, whatever carries them: a rank adds up with its neighbour, two with the next
 * two, four with the next four (recursive doubling).  a + b is b + a, so all ranks have the same
 * bits, which are those of a binary tree over the ranks.
 *
 *     alone    comm.c                  nothing to do
 *     MPI      comm_mpi.c              host memory; starts, ends and numbers the ranks
 *     NCCL     cuda/comm_nccl.c        memory of GPUs, through rt_backend_ops.join
 *
 * Threads: one, the same for all calls. */
#ifndef RT_COMM_H
#define RT_COMM_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"

struct rt_backend;

#define RT_MAX_RANKS 8

typedef enum rt_reduce { RT_SUM_F32, RT_SUM_F64, RT_MAX_U32, RT_MIN_I64 } rt_reduce;

typedef struct rt_comm rt_comm;

typedef struct rt_comm_ops { /* of MPI */
    void (*close)(rt_comm *c);
    void (*end)(rt_comm *c, int code); /* of all ranks */
    /* bytes of this rank go to another, and its bytes come into `in` */
    q_status (*swap)(rt_comm *c, const void *out, void *in, size_t bytes, int other, q_err *err);
    q_status (*bcast)(rt_comm *c, void *v, size_t bytes, int from, q_err *err);
} rt_comm_ops;

struct rt_comm {
    int rank, ranks;
    const rt_comm_ops *ops;
    void *theirs; /* what another rank sent */
    /* memory of a joined backend; NULL: it is host memory */
    void *device;
    q_status (*sum)(rt_comm *c, float *v, int64_t n, q_err *err);
    void (*leave)(rt_comm *c);
};

/* Errors: Q_EUNSUPPORTED (a build without MPI), Q_EARG (ranks are not 2, 4, 8 ..., or on several
 * hosts), Q_EFAIL (MPI). */
q_status rt_comm_open(rt_comm **out, q_err *err);
void rt_comm_close(rt_comm *c);           /* waits for the other ranks */
void rt_comm_abort(rt_comm *c, int code); /* ends all ranks; mpirun's exit code is that one */
int rt_comm_rank(const rt_comm *c);       /* 0 alone */
int rt_comm_ranks(const rt_comm *c);      /* 1 alone */

/* v [n] host, in place, the same in all ranks in the end. */
q_status rt_comm_reduce(rt_comm *c, void *v, int64_t n, rt_reduce how, q_err *err);
/* bytes of rank `from` to all others; host. */
q_status rt_comm_bcast(rt_comm *c, void *v, size_t bytes, int from, q_err *err);
/* Returns when all ranks have called it. */
q_status rt_comm_wait(rt_comm *c, q_err *err);

/* be: borrowed until rt_comm_leave.  Errors: Q_EBACKEND (no library that connects GPUs). */
q_status rt_comm_join(rt_comm *c, struct rt_backend *be, q_err *err);
void rt_comm_leave(rt_comm *c);
/* v [n] memory of the joined backend, in place; enqueued like an operation of it. */
q_status rt_comm_sum(rt_comm *c, float *v, int64_t n, q_err *err);

#endif
