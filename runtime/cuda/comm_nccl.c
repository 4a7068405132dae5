/* Sums over GPUs: the one file that includes nccl.h, in builds that have it.
 *
 * The library is found when ranks join (libnccl.so.2) and not linked, so that programs start on
 * machines that lack it.  NCCL only carries pieces of an array between two GPUs; the sums are our
 * own and have the order of comm.h, which NCCL's do not promise.
 *
 * Leaving aborts the communicator: nothing is under way then, and destroying it would wait for all
 * ranks, one of which may have failed.
 * Source: NCCL user guide, chapters Point-to-point communication and Communicator creation. */
#include "runtime/cuda/cu_comm.h"

#include "formats/base/q_mem.h"
#include "runtime/comm.h"

#if defined(HAVE_NCCL)
#include <dlfcn.h>
#include <nccl.h>
#include <string.h>

#define PIECE ((int64_t)8 << 20) /* floats: long enough for the speed of a link */

#define FUNCTIONS(X)                                                                               \
    X(ncclGetUniqueId)                                                                             \
    X(ncclGetErrorString)                                                                          \
    X(ncclCommInitRank)                                                                            \
    X(ncclCommAbort)                                                                               \
    X(ncclGroupStart)                                                                              \
    X(ncclGroupEnd)                                                                                \
    X(ncclSend)                                                                                    \
    X(ncclRecv)

typedef struct cu_nccl {
    rt_backend *be;
    void *library;
    ncclComm_t comm;
    void *theirs; /* [PIECE] on the device */
#define X(name) __typeof__(name) *name;
    FUNCTIONS(X)
#undef X
} cu_nccl;

#define NCCL_TRY(call)                                                                             \
    do {                                                                                           \
        const ncclResult_t nccl_e = k->call;                                                       \
        if (nccl_e != ncclSuccess) {                                                               \
            st = q_fail(err, Q_EFAIL, "NCCL: %.40s: %s", #call, k->ncclGetErrorString(nccl_e));    \
            goto out;                                                                              \
        }                                                                                          \
    } while (0)

static q_status load(cu_nccl *k, q_err *err)
{
    static const char help[] =
        "several GPUs need libnccl.so.2: install it (apt install libnccl2, or pip install "
        "nvidia-nccl-cu13) and name its folder in LD_LIBRARY_PATH, or use --device cpu";
    int ok = 1;

    if (!(k->library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL)))
        return q_fail(err, Q_EBACKEND, "%.200s: %s", dlerror(), help);
        /* ISO C has no conversion from void * to a function, POSIX says this works */
#define X(name)                                                                                    \
    do {                                                                                           \
        void *p = dlsym(k->library, #name);                                                        \
        memcpy(&k->name, &p, sizeof p);                                                            \
        ok = ok && p;                                                                              \
    } while (0);
    FUNCTIONS(X)
#undef X
    return ok ? Q_OK : q_fail(err, Q_EBACKEND, "libnccl.so.2 is too old, wanted 2.7: %s", help);
}

static void close_nccl(cu_nccl *k)
{
    if (!k)
        return;
    if (k->comm)
        (void)k->ncclCommAbort(k->comm);
    cu_free(k->be, k->theirs);
    if (k->library)
        dlclose(k->library);
    q_free(k);
}

static void leave(rt_comm *c)
{
    close_nccl(c->device);
}

static q_status sum(rt_comm *c, float *v, int64_t n, q_err *err)
{
    q_status st = Q_OK;
    cu_nccl *k = c->device;
    const cudaStream_t stream = cu_of(k->be)->stream;

    for (int64_t at = 0; at < n; at += PIECE) {
        const int64_t m = n - at < PIECE ? n - at : PIECE;

        for (int d = 1; d < c->ranks; d *= 2) {
            const int other = c->rank ^ d;

            NCCL_TRY(ncclGroupStart());
            NCCL_TRY(ncclSend(v + at, (size_t)m, ncclFloat32, other, k->comm, stream));
            NCCL_TRY(ncclRecv(k->theirs, (size_t)m, ncclFloat32, other, k->comm, stream));
            NCCL_TRY(ncclGroupEnd());
            Q_TRY(cu_add(k->be, v + at, k->theirs, m, err));
        }
    }
out:
    return st;
}

q_status cu_join(rt_backend *be, rt_comm *c, q_err *err)
{
    q_status st = Q_OK;
    cu_nccl *k = q_calloc(1, sizeof *k);
    ncclUniqueId id = { 0 };

    if (!k)
        Q_FAIL(err, Q_ENOMEM, "cuda: no memory to join ranks");
    k->be = be;
    Q_TRY(load(k, err));
    Q_TRY(cu_alloc(be, (size_t)PIECE * sizeof(float), &k->theirs, err));
    if (c->rank == 0)
        NCCL_TRY(ncclGetUniqueId(&id));
    Q_TRY(rt_comm_bcast(c, &id, sizeof id, 0, err));
    NCCL_TRY(ncclCommInitRank(&k->comm, c->ranks, id, c->rank));
    c->device = k;
    c->sum = sum;
    c->leave = leave;
    k = NULL;
out:
    close_nccl(k);
    return st;
}
#else
q_status cu_join(rt_backend *be, rt_comm *c, q_err *err)
{
    (void)be, (void)c;
    return q_fail(err, Q_EUNSUPPORTED,
                  "this build has no NCCL (nccl.h was not found): install libnccl-dev and build "
                  "again, or use --device cpu");
}
#endif
