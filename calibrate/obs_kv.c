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

/* What all ranks have seen of n channels, into kv->row; forgets it. */
static q_status take_row(cal_kv_max *kv, float *seen, int64_t n, q_err *err)
{
    q_status st = Q_OK;
    const size_t bytes = (size_t)n * sizeof *seen;

    Q_TRY(kv->d.ops->get(&kv->d, kv->row, seen, bytes, err));
    Q_TRY(kv->d.ops->clear(&kv->d, seen, bytes, err));
    Q_TRY(rt_comm_reduce(kv->comm, kv->row, n, RT_MAX_U32, err)); /* as their bits order */
out:
    return st;
}

/* max [n_kv] of the heads whose channels are v. */
static q_status max_of_heads(const cal_kv_max *kv, float *max, const float *v, const char *what,
                             int64_t layer, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = kv->m;

    for (int64_t h = 0; h < m->n_kv; h++) {
        max[h] = qnt_absmax(v + h * m->hd, m->hd);
        if (!isfinite(max[h]))
            Q_FAIL(err, Q_EFORMAT,
                   "layer %lld: %s of head %lld are not finite: is the model damaged?",
                   (long long)layer, what, (long long)h);
    }
out:
    return st;
}

q_status cal_kv_take(cal_kv_max *kv, int64_t layer, const float *s, float *max, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = kv->m;
    const int64_t group = m->n_head / m->n_kv;
    float *v = kv->row + qkv_size(m) - k_size(m);

    Q_TRY(take_row(kv, kv->k, k_size(m), err));
    Q_TRY(max_of_heads(kv, max, kv->row, "keys", layer, err));
    Q_TRY(take_row(kv, kv->qkv, qkv_size(m), err));
    for (int64_t i = 0; s && i < k_size(m); i++) /* heads of a group have the same factors */
        v[i] /= s[i / m->hd * group * m->hd + i % m->hd];
    Q_TRY(max_of_heads(kv, max + m->n_kv, v, "values", layer, err));
out:
    return st;
}
