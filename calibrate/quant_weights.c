/* Weights of the layer that is being quantized.
 *
 * A GPU gives its resident weights back as f32, so that nothing is read or copied twice; those of
 * the CPU are packed, and read again from the source. */
#include "calibrate/quant_weights.h"

#include <string.h>

#include "quant/load.h"

const fmt_role cal_fold_order[CAL_LINEARS] = { FMT_ATTN_OUT, FMT_FFN_DOWN, FMT_ATTN_QKV,
                                               FMT_FFN_GATE_UP };

int64_t cal_quant_rows(const cal_quant *q, fmt_role role)
{
    return fmt_role_rows(fmt_role_get(role), q->m);
}

int64_t cal_quant_cols(const cal_quant *q, fmt_role role)
{
    return fmt_dim_size(fmt_role_get(role)->cols, q->m);
}

void cal_weights_free(cal_quant *q)
{
    for (int i = 0; i < CAL_LINEARS; i++) {
        q->d.ops->free(&q->d, q->layer.w[cal_fold_order[i]]);
        q->layer.w[cal_fold_order[i]] = NULL;
    }
    cal_layer_free(&q->layer);
}

q_status cal_weights_load(cal_quant *q, rt_model *one, int64_t layer, fmt_role role, q_err *err)
{
    q_status st = Q_OK;
    rt_backend *be = one->be;
    float **w = &q->layer.w[role];

    if (*w)
        return Q_OK;
    if (!be->ops->weight_get)
        return cal_load_f32(w, q->src, role, layer, err);
    Q_TRY(qnt_dev_alloc(&q->d, cal_quant_rows(q, role), cal_quant_cols(q, role), sizeof **w, w,
                        "weights", err));
    Q_TRY(be->ops->weight_get(be, &one->layer[0].w[role], *w, err));
out:
    return st;
}

q_status cal_copy_of(float **out, const float *v, int64_t n, q_err *err)
{
    q_free(*out);
    if (!(*out = q_malloc((size_t)n * sizeof *v)))
        return q_fail(err, Q_ENOMEM, "no memory for %lld values", (long long)n);
    memcpy(*out, v, (size_t)n * sizeof *v);
    return Q_OK;
}

q_status cal_weights_copy(const cal_quant *q, float **out, fmt_role role, q_err *err)
{
    q_status st = Q_OK;
    const int64_t N = cal_quant_rows(q, role), K = cal_quant_cols(q, role);

    Q_TRY(qnt_dev_alloc(&q->d, N, K, sizeof **out, out, "weights", err));
    Q_TRY(q->d.ops->copy(&q->d, *out, q->layer.w[role], (size_t)(N * K) * sizeof **out, err));
out:
    return st;
}

q_status cal_weights_set(cal_quant *q, rt_model *one, fmt_role role, float **w, q_err *err)
{
    q_status st = Q_OK;
    rt_backend *be = one->be;
    qnt_tensor t = { .scheme = qnt_scheme_float(FMT_F32),
                     .N = cal_quant_rows(q, role),
                     .K = cal_quant_cols(q, role) };

    if (be->ops->weight_set) {
        Q_TRY(be->ops->weight_set(be, &one->layer[0].w[role], *w, q->layer.bias[role], err));
        q->d.ops->free(&q->d, *w);
    } else {
        t.codes = *w; /* memory of the host */
        *w = NULL;
        if (q->layer.bias[role])
            Q_TRY(cal_copy_of(&t.bias, q->layer.bias[role], t.N, err));
        Q_TRY(cal_replace(one, role, &t, err));
    }
    *w = NULL;
out:
    qnt_tensor_free(&t);
    return st;
}
