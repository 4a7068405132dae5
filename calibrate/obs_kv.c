/* Maxima of channels are kept on the device and become maxima of heads when a layer ends.  A
 * maximum does not depend on the order in which it is taken. */
#include "calibrate/obs_kv.h"

#include <math.h>
#include <string.h>

#include "quant/rtn.h"

static int64_t k_size(const fmt_model *m)
{
    return m->n_kv * m->hd;
}

static int64_t qkv_size(const fmt_model *m)
{
    return (m->n_head + 2 * m->n_kv) * m->hd;
}

q_status cal_kv_open(cal_kv_max *kv, const fmt_model *m, qnt_dev d, rt_comm *comm, q_err *err)
{
    q_status st = Q_OK;
    const int64_t n = qkv_size(m);

    *kv = (cal_kv_max){ .m = m, .d = d, .comm = comm };
    Q_TRY(qnt_dev_alloc(&d, k_size(m), 1, sizeof *kv->k, &kv->k, "ranges", err));
    Q_TRY(d.ops->clear(&d, kv->k, (size_t)k_size(m) * sizeof *kv->k, err));
    Q_TRY(qnt_dev_alloc(&d, n, 1, sizeof *kv->qkv, &kv->qkv, "ranges", err));
    Q_TRY(d.ops->clear(&d, kv->qkv, (size_t)n * sizeof *kv->qkv, err));
    if (!(kv->row = q_malloc((size_t)n * sizeof *kv->row)))
        Q_FAIL(err, Q_ENOMEM, "no memory for the ranges of %lld channels", (long long)n);
out:
    if (st != Q_OK)
        cal_kv_close(kv);
    return st;
}

void cal_kv_close(cal_kv_max *kv)
{
    if (kv->d.ops) {
        kv->d.ops->free(&kv->d, kv->k);
        kv->d.ops->free(&kv->d, kv->qkv);
    }
    q_free(kv->row);
    memset(kv, 0, sizeof *kv);
}

q_status cal_kv_see(cal_kv_max *kv, const cal_view *v, q_err *err)
{
    float *max = v->point == CAL_K ? kv->k : v->point == CAL_QKV ? kv->qkv : NULL;

    return max ? kv->d.ops->columns(&kv->d, NULL, max, v->x, v->type, v->n, v->dim, err) : Q_OK;
}

/* max [n_kv] of the heads that begin at channel `from` of what was seen; forgets it. */
static q_status take_heads(cal_kv_max *kv, float *max, float *seen, int64_t n, int64_t from,
                           const char *what, int64_t layer, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = kv->m;
    const size_t bytes = (size_t)n * sizeof *seen;

    Q_TRY(kv->d.ops->get(&kv->d, kv->row, seen, bytes, err));
    Q_TRY(kv->d.ops->clear(&kv->d, seen, bytes, err));
    Q_TRY(rt_comm_reduce(kv->comm, kv->row, n, RT_MAX_U32, err)); /* as their bits order */
    for (int64_t h = 0; h < m->n_kv; h++) {
        max[h] = qnt_absmax(kv->row + from + h * m->hd, m->hd);
        if (!isfinite(max[h]))
            Q_FAIL(err, Q_EFORMAT,
                   "layer %lld: %s of head %lld are not finite: is the model damaged?",
                   (long long)layer, what, (long long)h);
    }
out:
    return st;
}

q_status cal_kv_take(cal_kv_max *kv, int64_t layer, float *max, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = kv->m;
    const int64_t v0 = qkv_size(m) - k_size(m);

    Q_TRY(take_heads(kv, max, kv->k, k_size(m), 0, "keys", layer, err));
    Q_TRY(take_heads(kv, max + m->n_kv, kv->qkv, qkv_size(m), v0, "values", layer, err));
out:
    return st;
}
