/* The table of backends: a name and its operations.  A new device is one row (and its header); rows
 * of devices that were not built are absent, so their name is reported as unknown together with the
 * names that exist.  "auto" takes the first device that opens, the CPU last. */
#include "runtime/backend.h"

#include <stdio.h>
#include <string.h>

#include "formats/base/q_mem.h"
#include "runtime/cpu/be_cpu.h"
#if defined(Q_CUDA)
#include "runtime/cuda/be_cuda.h"
#endif

static const rt_backend_ops *const backends[] = {
    &cpu_backend,
    &cpu_avx2_backend,
    &cpu_ref_backend,
#if defined(Q_CUDA)
    &cuda_backend,
#endif
};

#define N_BACKENDS (sizeof backends / sizeof backends[0])

/* *device: the N of "name:N", 0 without; a CPU has no number */
static const rt_backend_ops *find(const char *name, int *device)
{
    const size_t n = strcspn(name, ":");

    *device = 0;
    for (size_t i = 0; i < N_BACKENDS; i++) {
        const char *rest = name + n;

        if (strncmp(backends[i]->name, name, n) != 0 || backends[i]->name[n] != '\0')
            continue;
        if (!*rest)
            return backends[i];
        if (!backends[i]->graph || strspn(rest + 1, "0123456789") != strlen(rest + 1) ||
            strlen(rest + 1) - 1 > 2)
            return NULL;
        for (rest++; *rest; rest++)
            *device = 10 * *device + (*rest - '0');
        return backends[i];
    }
    return NULL;
}

static q_status unknown(const char *name, q_err *err)
{
    char list[128] = "";

    for (size_t i = 0, n = 0; i < N_BACKENDS && n < sizeof list; i++)
        n += (size_t)snprintf(list + n, sizeof list - n, backends[i]->graph ? " %s %s:N" : " %s",
                              backends[i]->name, backends[i]->name);
    return q_fail(err, Q_EBACKEND, "device '%s' is not in this build: use auto, or one of:%s", name,
                  list);
}

static q_status open_auto(rt_backend **out, int threads, q_err *err)
{
    q_err why = { 0 };
    q_status st = rt_backend_open(out, "cuda", threads, &why);

    if (st == Q_OK)
        return Q_OK;
    if (st != Q_EBACKEND)
        return q_fail(err, st, "%s", why.msg);
    st = rt_backend_open(out, "cpu", threads, err);
    if (st == Q_OK)
        snprintf((*out)->title, sizeof(*out)->title, "the CPU (%.148s)", why.msg);
    return st;
}

q_status rt_backend_open(rt_backend **out, const char *name, int threads, q_err *err)
{
    q_status st = Q_OK;
    int device;
    const rt_backend_ops *ops = find(name, &device);
    rt_backend *be = NULL;

    if (strcmp(name, "auto") == 0)
        return open_auto(out, threads, err);
    if (!ops)
        return unknown(name, err);
    if (threads < 0)
        Q_FAIL(err, Q_EARG, "backend %s: %d threads; 0 means one per core", name, threads);
    if (!(be = q_calloc(1, sizeof *be)))
        Q_FAIL(err, Q_ENOMEM, "backend %s: no memory", name);
    be->threads = threads;
    be->device = device;
    Q_TRY(ops->open(be, err));
    be->ops = ops; /* open succeeded: from here on close is due */
    *out = be;
    be = NULL;
out:
    rt_backend_close(be);
    return st;
}

void rt_backend_close(rt_backend *be)
{
    if (!be)
        return;
    if (be->ops)
        be->ops->close(be);
    q_free(be);
}
