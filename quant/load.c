/* Loading weights.  Float weights are read straight into their final buffer; quantizing goes by
 * strips of rows: read as stored, widened to f32, rounded row by row. */
#include "quant/load.h"

#include <math.h>
#include <string.h>

#define STRIP_BYTES ((int64_t)16 << 20) /* f32 bytes of a strip: enough rows for every core */

q_status qnt_load_f32(float **out, const fmt_src *src, fmt_ref ref, int64_t n, q_err *err)
{
    q_status st = Q_OK;
    const fmt_dtype dtype = fmt_src_dtype(src, ref);
    const fmt_box box = fmt_src_shape(src, ref);
    void *raw = NULL;
    float *v = NULL;

    if (box.n1 * box.k1 != n)
        Q_FAIL(err, Q_EBUG, "%s: %lld values, wanted %lld", fmt_src_name(src, ref, 0),
               (long long)(box.n1 * box.k1), (long long)n);
    raw = q_malloc((size_t)n * fmt_dtype_bytes(dtype));
    v = q_malloc((size_t)n * sizeof *v);
    if (!raw || !v)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %lld values", fmt_src_name(src, ref, 0),
               (long long)n);
    Q_TRY(fmt_src_read(src, ref, box, raw, err));
    fmt_convert(v, FMT_F32, raw, dtype, (size_t)n, NULL);
    *out = v;
    v = NULL;
out:
    q_free(raw);
    q_free(v);
    return st;
}

/* 0, or the 1-based row of the strip that holds a value that is not finite */
static int64_t quantize_strip(qnt_tensor *t, int64_t n0, int64_t rows, const void *raw,
                              fmt_dtype dtype, float *wide)
{
    const size_t out_bytes = qnt_row_bytes(t->scheme, t->K), in_bytes = fmt_dtype_bytes(dtype);
    int64_t bad = 0;

#pragma omp parallel for schedule(static) reduction(max : bad)
    for (int64_t i = 0; i < rows; i++) {
        float *row = wide + i * t->K;
        float sum = 0;

        fmt_convert(row, FMT_F32, (const char *)raw + (size_t)(i * t->K) * in_bytes, dtype,
                    (size_t)t->K, NULL);
        for (int64_t k = 0; k < t->K; k++)
            sum += row[k] - row[k]; /* 0 for a finite value, NaN otherwise */
        if (sum != 0)               /* NaN compares unequal too */
            bad = i + 1;
        t->scheme->quantize_row((char *)t->codes + (size_t)(n0 + i) * out_bytes, &t->scale[n0 + i],
                                row, t->K);
    }
    return bad;
}

static q_status load_quantized(qnt_tensor *t, const fmt_src *src, fmt_ref ref, q_err *err)
{
    q_status st = Q_OK;
    const fmt_dtype dtype = fmt_src_dtype(src, ref);
    const int64_t fit = STRIP_BYTES / (t->K * (int64_t)sizeof(float));
    const int64_t strip = fit < 1 ? 1 : fit < t->N ? fit : t->N;
    void *raw = q_malloc((size_t)(strip * t->K) * fmt_dtype_bytes(dtype));
    float *wide = q_malloc((size_t)(strip * t->K) * sizeof *wide);

    t->scale = q_malloc((size_t)t->N * sizeof *t->scale);
    if (!raw || !wide || !t->scale)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory to quantize", fmt_src_name(src, ref, 0));
    for (int64_t n = 0; n < t->N; n += strip) {
        const int64_t rows = n + strip < t->N ? strip : t->N - n;
        int64_t bad;

        Q_TRY(fmt_src_read(src, ref, (fmt_box){ n, n + rows, 0, t->K }, raw, err));
        bad = quantize_strip(t, n, rows, raw, dtype, wide);
        if (bad)
            Q_FAIL(err, Q_EFORMAT, "%s: row %lld holds a value that is not finite: cannot quantize",
                   fmt_src_name(src, ref, n + bad - 1), (long long)(n + bad - 1));
    }
out:
    q_free(raw);
    q_free(wide);
    return st;
}

q_status qnt_load(qnt_tensor *out, const fmt_src *src, fmt_role role, int64_t layer,
                  const qnt_scheme *scheme, q_err *err)
{
    q_status st = Q_OK;
    const fmt_ref ref = { role, layer, FMT_WEIGHT }, bias = { role, layer, FMT_BIAS };
    const fmt_box box = fmt_src_shape(src, ref);
    qnt_tensor t = { .N = box.n1, .K = box.k1 };
    size_t bytes;

    t.scheme = scheme ? scheme : qnt_scheme_float(fmt_src_dtype(src, ref));
    if (scheme && !fmt_role_get(role)->quant)
        Q_FAIL(err, Q_EUNSUPPORTED, "%s is never quantized", fmt_role_get(role)->name);
    if (!q_mul_ok((size_t)t.N, qnt_row_bytes(t.scheme, t.K), &bytes) ||
        !(t.codes = q_malloc(bytes)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for [%lld, %lld]", fmt_src_name(src, ref, 0),
               (long long)t.N, (long long)t.K);
    if (t.scheme->quantize_row)
        Q_TRY(load_quantized(&t, src, ref, err));
    else
        Q_TRY(fmt_src_read(src, ref, box, t.codes, err));
    if (fmt_src_has(src, bias))
        Q_TRY(qnt_load_f32(&t.bias, src, bias, t.N, err));
    *out = t;
    memset(&t, 0, sizeof t);
out:
    qnt_tensor_free(&t);
    return st;
}
