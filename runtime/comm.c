/* Ranks: recursive doubling over whatever carries bytes between two of them.  Arrays go in pieces,
 * so that what another rank sent needs little memory and stays in a cache. */
#include "runtime/comm.h"

#include <string.h>

#include "formats/base/q_mem.h"
#include "runtime/backend.h"
#if defined(HAVE_MPI)
#include "runtime/comm_mpi.h"
#endif

#define PIECE ((size_t)1 << 20) /* bytes */

int rt_comm_rank(const rt_comm *c)
{
    return c ? c->rank : 0;
}

int rt_comm_ranks(const rt_comm *c)
{
    return c ? c->ranks : 1;
}

q_status rt_comm_open(rt_comm **out, q_err *err)
{
#if defined(HAVE_MPI)
    q_status st = Q_OK;
    rt_comm *c = q_calloc(1, sizeof *c);

    if (!c || !(c->theirs = q_malloc(PIECE)))
        Q_FAIL(err, Q_ENOMEM, "no memory for a rank");
    Q_TRY(rt_mpi_open(c, err));
    *out = c;
    c = NULL;
out:
    if (c)
        q_free(c->theirs);
    q_free(c);
    return st;
#else
    (void)out;
    return q_fail(err, Q_EUNSUPPORTED,
                  "this build has no MPI (mpi.h was not found): install libopenmpi-dev and build "
                  "again, or start it without mpirun");
#endif
}

void rt_comm_close(rt_comm *c)
{
    if (!c)
        return;
    rt_comm_leave(c);
    c->ops->close(c);
    q_free(c->theirs);
    q_free(c);
}

void rt_comm_abort(rt_comm *c, int code)
{
    if (c)
        c->ops->end(c, code);
}

/* ---- host memory ----------------------------------------------------------------------------- */

static const size_t widths[] = { [RT_SUM_F32] = sizeof(float),
                                 [RT_SUM_F64] = sizeof(double),
                                 [RT_MAX_U32] = sizeof(uint32_t),
                                 [RT_MIN_I64] = sizeof(int64_t) };

/* v[i] and theirs[i] become one, for `bytes` of them. */
static void combine(void *v, const void *theirs, size_t bytes, rt_reduce how)
{
#define EACH(type, expression)                                                                     \
    for (size_t i = 0; i < bytes / sizeof(type); i++) {                                            \
        type *a = (type *)v + i;                                                                   \
        const type b = ((const type *)theirs)[i];                                                  \
                                                                                                   \
        *a = (expression);                                                                         \
    }
    switch (how) {
    case RT_SUM_F32:
        EACH(float, *a + b)
        break;
    case RT_SUM_F64:
        EACH(double, *a + b)
        break;
    case RT_MAX_U32:
        EACH(uint32_t, b > *a ? b : *a)
        break;
    case RT_MIN_I64:
        EACH(int64_t, b < *a ? b : *a)
        break;
    }
#undef EACH
}

q_status rt_comm_reduce(rt_comm *c, void *v, int64_t n, rt_reduce how, q_err *err)
{
    q_status st = Q_OK;
    char *at = v;
    size_t left = (size_t)n * widths[how];

    for (; c && left > 0;) {
        const size_t bytes = left < PIECE ? left : PIECE;

        for (int d = 1; d < c->ranks; d *= 2) {
            Q_TRY(c->ops->swap(c, at, c->theirs, bytes, c->rank ^ d, err));
            combine(at, c->theirs, bytes, how);
        }
        at += bytes;
        left -= bytes;
    }
out:
    return st;
}

q_status rt_comm_bcast(rt_comm *c, void *v, size_t bytes, int from, q_err *err)
{
    return c ? c->ops->bcast(c, v, bytes, from, err) : Q_OK;
}

q_status rt_comm_wait(rt_comm *c, q_err *err)
{
    uint32_t nothing = 0;

    return rt_comm_reduce(c, &nothing, 1, RT_MAX_U32, err);
}

/* ---- memory of a backend --------------------------------------------------------------------- */

q_status rt_comm_join(rt_comm *c, rt_backend *be, q_err *err)
{
    return c && be->ops->join ? be->ops->join(be, c, err) : Q_OK;
}

void rt_comm_leave(rt_comm *c)
{
    if (c && c->leave)
        c->leave(c);
    if (c) {
        c->device = NULL;
        c->sum = NULL;
        c->leave = NULL;
    }
}

q_status rt_comm_sum(rt_comm *c, float *v, int64_t n, q_err *err)
{
    return c && c->sum ? c->sum(c, v, n, err) : rt_comm_reduce(c, v, n, RT_SUM_F32, err);
}
