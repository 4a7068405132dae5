/* Through the one loader, whatever the source stores. */
#include "calibrate/layer_f32.h"

#include <math.h>
#include <string.h>

#include "quant/load.h"
#include "quant/rtn.h"

q_status cal_load_f32(float **W, const fmt_src *src, fmt_role role, int64_t layer, q_err *err)
{
    q_status st = Q_OK;
    const fmt_ref ref = { role, layer, FMT_WEIGHT };
    qnt_tensor t = { 0 };
    float *w = NULL;
    size_t n;

    Q_TRY(qnt_load(&t, src, role, layer, &(qnt_load_opts){ 0 }, err));
    if (!q_mul_ok((size_t)t.N, (size_t)t.K * sizeof *w, &n) || !(w = q_malloc(n)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for [%lld, %lld] in float32",
               fmt_src_name(src, ref, 0), (long long)t.N, (long long)t.K);
    qnt_tensor_rows(w, &t, 0, t.N);
    for (int64_t i = 0; i < t.N; i++)
        if (!isfinite(qnt_absmax(w + i * t.K, t.K)))
            Q_FAIL(err, Q_EFORMAT, "%s: row %lld holds a value that is not finite: cannot quantize",
                   fmt_src_name(src, ref, i), (long long)i);
    *W = w;
    w = NULL;
out:
    q_free(w);
    qnt_tensor_free(&t);
    return st;
}

void cal_layer_free(qnt_layer *l)
{
    for (int r = 0; r < FMT_ROLES; r++) {
        q_free(l->w[r]);
        q_free(l->bias[r]);
    }
    memset(l, 0, sizeof *l);
}

q_status cal_layer_load_vectors(qnt_layer *l, const fmt_src *src, int64_t layer, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = fmt_src_model(src);

    for (int i = 0; i < FMT_ROLES; i++) {
        const fmt_role_row *row = fmt_role_get((fmt_role)i);
        const fmt_ref bias = { (fmt_role)i, layer, FMT_BIAS };

        if (row->quant && fmt_src_has(src, bias))
            Q_TRY(qnt_load_f32(&l->bias[i], src, bias, fmt_role_rows(row, m), err));
    }
    Q_TRY(qnt_load_f32(&l->w[FMT_ATTN_NORM], src, (fmt_ref){ FMT_ATTN_NORM, layer, FMT_WEIGHT },
                       m->hid, err));
    Q_TRY(qnt_load_f32(&l->w[FMT_FFN_NORM], src, (fmt_ref){ FMT_FFN_NORM, layer, FMT_WEIGHT },
                       m->hid, err));
out:
    if (st != Q_OK)
        cal_layer_free(l);
    return st;
}

q_status cal_layer_load(qnt_layer *l, const fmt_src *src, int64_t layer, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(cal_layer_load_vectors(l, src, layer, err));
    for (int i = 0; i < FMT_ROLES; i++)
        if (fmt_role_get((fmt_role)i)->quant)
            Q_TRY(cal_load_f32(&l->w[i], src, (fmt_role)i, layer, err));
out:
    if (st != Q_OK)
        cal_layer_free(l);
    return st;
}
