/* Ranks over MPI: the one file that includes mpi.h, in builds that have it.
 *
 * MPI numbers the ranks and carries bytes; what is done with them is in comm.c, because the order
 * in which an MPI library adds up is its own affair.  Errors come back as codes: the default of
 * MPI, to end the process, would lose the message.  Only the thread that opened calls MPI.
 * Reference: MPI: A Message-Passing Interface Standard, version 3.1. */
#include "runtime/comm_mpi.h"

#include <limits.h>
#include <mpi.h>

#define PIECE ((size_t)1 << 30) /* MPI counts in int */

static q_status mpi_fail(q_err *err, int code, const char *what)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;

    (void)MPI_Error_string(code, text, &n);
    return q_fail(err, Q_EFAIL, "%s: %.200s", what, text);
}

#define MPI_TRY(call, what)                                                                        \
    do {                                                                                           \
        const int mpi_e = (call);                                                                  \
        if (mpi_e != MPI_SUCCESS) {                                                                \
            st = mpi_fail(err, mpi_e, (what));                                                     \
            goto out;                                                                              \
        }                                                                                          \
    } while (0)

static void close_mpi(rt_comm *c)
{
    (void)c;
    (void)MPI_Finalize();
}

static void end_mpi(rt_comm *c, int code)
{
    (void)c;
    (void)MPI_Abort(MPI_COMM_WORLD, code);
}

static q_status swap_mpi(rt_comm *c, const void *out_, void *in, size_t bytes, int other,
                         q_err *err)
{
    q_status st = Q_OK;

    (void)c;
    if (bytes > INT_MAX)
        Q_FAIL(err, Q_EBUG, "%zu bytes in one message", bytes);
    MPI_TRY(MPI_Sendrecv(out_, (int)bytes, MPI_BYTE, other, 0, in, (int)bytes, MPI_BYTE, other, 0,
                         MPI_COMM_WORLD, MPI_STATUS_IGNORE),
            "values of another rank");
out:
    return st;
}

static q_status bcast_mpi(rt_comm *c, void *v, size_t bytes, int from, q_err *err)
{
    q_status st = Q_OK;
    char *at = v;

    (void)c;
    for (size_t n; bytes > 0; bytes -= n, at += n) {
        n = bytes < PIECE ? bytes : PIECE;
        MPI_TRY(MPI_Bcast(at, (int)n, MPI_BYTE, from, MPI_COMM_WORLD), "values for all ranks");
    }
out:
    return st;
}

/* Files of a job are shared by name, and GPUs are numbered by rank: one host. */
static q_status check_ranks(const rt_comm *c, q_err *err)
{
    q_status st = Q_OK;
    MPI_Comm host = MPI_COMM_NULL;
    int here = 0;

    if (c->ranks > RT_MAX_RANKS || (c->ranks & (c->ranks - 1)))
        Q_FAIL(err, Q_EARG, "mpirun started %d ranks, wanted 1, 2, 4 or 8: use mpirun -n",
               c->ranks);
    MPI_TRY(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host),
            "ranks of this host");
    MPI_TRY(MPI_Comm_size(host, &here), "ranks of this host");
    if (here != c->ranks)
        Q_FAIL(err, Q_EARG, "%d of %d ranks run on this host, wanted all: start them on one host",
               here, c->ranks);
out:
    if (host != MPI_COMM_NULL)
        (void)MPI_Comm_free(&host);
    return st;
}

q_status rt_mpi_open(rt_comm *c, q_err *err)
{
    static const rt_comm_ops ops = {
        .close = close_mpi, .end = end_mpi, .swap = swap_mpi, .bcast = bcast_mpi
    };
    q_status st = Q_OK;
    int level = MPI_THREAD_SINGLE, begun = 0;

    MPI_TRY(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level), "MPI does not start");
    begun = 1;
    if (level < MPI_THREAD_FUNNELED)
        Q_FAIL(err, Q_EUNSUPPORTED, "this MPI allows no threads beside it: use OpenMPI");
    MPI_TRY(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI");
    MPI_TRY(MPI_Comm_rank(MPI_COMM_WORLD, &c->rank), "number of this rank");
    MPI_TRY(MPI_Comm_size(MPI_COMM_WORLD, &c->ranks), "number of ranks");
    Q_TRY(check_ranks(c, err));
    c->ops = &ops;
out:
    if (st != Q_OK && begun)
        (void)MPI_Finalize();
    return st;
}
