/* The table of backends: a name and its operations.  A new device is one row (and its header); rows
 * of devices that were not built are absent, so their name is reported as unknown together with the
 * names that exist. */
#include "runtime/backend.h"

#include <stdio.h>
#include <string.h>

#include "formats/base/q_mem.h"
#include "runtime/cpu/be_cpu.h"

static const rt_backend_ops *const backends[] = { &cpu_backend, &cpu_avx2_backend,
                                                  &cpu_ref_backend };

#define N_BACKENDS (sizeof backends / sizeof backends[0])

static const rt_backend_ops *find(const char *name)
{
    for (size_t i = 0; i < N_BACKENDS; i++)
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i];
    return NULL;
}

static q_status unknown(const char *name, q_err *err)
{
    char list[128] = "";

    for (size_t i = 0, n = 0; i < N_BACKENDS && n < sizeof list; i++)
        n += (size_t)snprintf(list + n, sizeof list - n, " %s", backends[i]->name);
    return q_fail(err, Q_EBACKEND, "backend '%s' is not in this build; it has:%s", name, list);
}

q_status rt_backend_open(rt_backend **out, const char *name, int threads, q_err *err)
{
    q_status st = Q_OK;
    const rt_backend_ops *ops = find(name);
    rt_backend *be = NULL;

    if (!ops)
        return unknown(name, err);
    if (threads < 0)
        Q_FAIL(err, Q_EARG, "backend %s: %d threads; 0 means one per core", name, threads);
    if (!(be = q_calloc(1, sizeof *be)))
        Q_FAIL(err, Q_ENOMEM, "backend %s: no memory", name);
    be->threads = threads;
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
