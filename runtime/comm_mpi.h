/* Ranks over MPI; called by comm.c.
 *
 *     Q_TRY(rt_mpi_open(c, err));    fills c->rank, c->ranks, c->ops
 *
 * Starts MPI: once in a process.  Threads: one. */
#ifndef RT_COMM_MPI_H
#define RT_COMM_MPI_H

#include "runtime/comm.h"

q_status rt_mpi_open(rt_comm *c, q_err *err);

#endif
