/* What does not depend on the device: sizes are checked here, once. */
#include "quant/device.h"

#include <math.h>
#include <string.h>

#include "formats/base/q_mem.h"
#include "quant/rtn_group.h"

q_status qnt_dev_alloc(const qnt_dev *d, int64_t n, int64_t m, size_t bytes, void *out,
                       const char *what, q_err *err)
{
    q_status st = Q_OK;
    size_t all;
    void *p = NULL;

    if (!q_mul_ok((size_t)n, (size_t)m, &all) || !q_mul_ok(all, bytes, &all))
        Q_FAIL(err, Q_ENOMEM, "%s of [%lld, %lld] exceeds the address space", what, (long long)n,
               (long long)m);
    Q_TRY(d->ops->alloc(d, all, &p, err));
    memcpy(out, &p, sizeof p); /* a pointer to any type */
out:
    return st;
}

q_status qnt_dev_tensor(const qnt_dev *d, qnt_tensor *t, int bits, int64_t N, int64_t K,
                        int64_t group, q_err *err)
{
    q_status st = Q_OK;
    int64_t groups;

    Q_TRY(qnt_group_shape(t, bits, N, K, group, err));
    groups = qnt_n_groups(t->scheme, K, t->group);
    Q_TRY(qnt_dev_alloc(d, N, (int64_t)qnt_row_bytes(t->scheme, K), 1, &t->codes, "codes", err));
    Q_TRY(qnt_dev_alloc(d, N, groups, sizeof *t->scale, &t->scale, "scales", err));
    Q_TRY(qnt_dev_alloc(d, N, groups, 1, &t->zero, "zeros", err));
out:
    if (st != Q_OK)
        qnt_dev_tensor_free(d, t);
    return st;
}

void qnt_dev_tensor_free(const qnt_dev *d, qnt_tensor *t)
{
    d->ops->free(d, t->codes);
    d->ops->free(d, t->scale);
    d->ops->free(d, t->zero);
    *t = (qnt_tensor){ 0 };
}

q_status qnt_dev_tensor_fetch(const qnt_dev *d, qnt_tensor *t, const char *name, q_err *err)
{
    q_status st = Q_OK;
    const size_t groups = (size_t)(t->N * qnt_n_groups(t->scheme, t->K, t->group));
    qnt_tensor host = { 0 };
    int64_t bad;

    Q_TRY(qnt_group_alloc(&host, t->scheme->bits, t->N, t->K, t->group, err));
    Q_TRY(d->ops->get(d, host.codes, t->codes, (size_t)t->N * qnt_row_bytes(t->scheme, t->K), err));
    Q_TRY(d->ops->get(d, host.scale, t->scale, groups * sizeof *t->scale, err));
    Q_TRY(d->ops->get(d, host.zero, t->zero, groups, err));
    bad = qnt_group_bad_row(&host);
    if (bad >= 0)
        Q_FAIL(err, Q_EFORMAT, "%s: row %lld needs a scale outside the range of f16", name,
               (long long)bad);
    qnt_dev_tensor_free(d, t);
    *t = host;
    host = (qnt_tensor){ 0 };
out:
    qnt_tensor_free(&host);
    if (st != Q_OK)
        qnt_dev_tensor_free(d, t);
    return st;
}
