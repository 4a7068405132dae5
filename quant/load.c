/* Loading weights, by all threads.  Float weights are read straight into their final buffer;
 * quantizing goes by strips of rows: read as stored, widened to f32, rounded row by row. */
#include "quant/load.h"

#include <math.h>
#include <string.h>

#include "quant/repack.h"
#include "quant/w8a8.h"

#define READ_BYTES ((int64_t)4 << 20) /* of a piece that one thread reads */

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

/* What went wrong first, in the order of the tensor, whichever thread met it. */
typedef struct first_error {
    int64_t at;
    q_status st;
    q_err err;
} first_error;

static void keep_first(first_error *f, int64_t at, q_status st, const q_err *err)
{
#pragma omp critical(qnt_first_error)
    if (f->st == Q_OK || at < f->at)
        *f = (first_error){ at, st, *err };
}

q_status qnt_read(void *dst, const fmt_src *src, fmt_ref ref, q_err *err)
{
    const fmt_box all = fmt_src_shape(src, ref);
    const int turned = fmt_src_turned(src, ref);
    const size_t es = fmt_dtype_bytes(fmt_src_dtype(src, ref));
    const int64_t length = turned ? all.k1 : all.n1, width = turned ? all.n1 : all.k1;
    const int64_t fit = READ_BYTES / (width * (int64_t)es), step = fit < 1 ? 1 : fit;
    first_error failed = { 0 };

#pragma omp parallel for schedule(dynamic) if (length > step)
    for (int64_t i = 0; i < length; i += step) {
        const int64_t end = i + step < length ? i + step : length;
        const fmt_box b = turned ? (fmt_box){ 0, all.n1, i, end } : (fmt_box){ i, end, 0, all.k1 };
        char *to = (char *)dst + (size_t)(turned ? i : i * all.k1) * es;
        q_err e = { 0 };
        const q_status st = fmt_src_read_into(src, ref, b, to, all.k1, &e);

        if (st != Q_OK)
            keep_first(&failed, i, st, &e);
    }
    return failed.st == Q_OK ? Q_OK : q_fail(err, failed.st, "%s", failed.err.msg);
}

/* Rows n .. end - 1, read as stored into raw unless they are there, by way of wide [K]. */
static q_status quantize_rows(qnt_tensor *t, const fmt_src *src, fmt_ref ref, int64_t n,
                              int64_t end, void *raw, int there, float *wide, q_err *err)
{
    q_status st = Q_OK;
    const fmt_dtype dtype = fmt_src_dtype(src, ref);
    const size_t row = (size_t)t->K * fmt_dtype_bytes(dtype);

    if (!there)
        Q_TRY(fmt_src_read(src, ref, (fmt_box){ n, end, 0, t->K }, raw, err));
    for (int64_t i = n; i < end; i++) {
        float sum = 0;

        fmt_convert(wide, FMT_F32, (const char *)raw + (size_t)(i - n) * row, dtype, (size_t)t->K,
                    NULL);
        for (int64_t k = 0; k < t->K; k++)
            sum += wide[k] - wide[k]; /* 0 for a finite value, NaN otherwise */
        if (sum != 0)                 /* NaN compares unequal too */
            Q_FAIL(err, Q_EFORMAT, "%s: row %lld holds a value that is not finite: cannot quantize",
                   fmt_src_name(src, ref, i), (long long)i);
        t->scheme->quantize_row((char *)t->codes + (size_t)i * qnt_row_bytes(t->scheme, t->K),
                                &t->scale[i], wide, t->K);
    }
out:
    return st;
}

static q_status load_quantized(qnt_tensor *t, const fmt_src *src, fmt_ref ref, q_err *err)
{
    q_status st = Q_OK;
    const size_t row = (size_t)t->K * fmt_dtype_bytes(fmt_src_dtype(src, ref));
    const int64_t fit = READ_BYTES / (int64_t)row, strip = fit < 1 ? 1 : fit;
    const int turned = fmt_src_turned(src, ref);
    char *all = turned ? q_malloc((size_t)t->N * row) : NULL;
    first_error failed = { 0 };

    t->scale = q_malloc((size_t)t->N * sizeof *t->scale);
    if ((turned && !all) || !t->scale)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory to quantize", fmt_src_name(src, ref, 0));
    if (turned)
        Q_TRY(qnt_read(all, src, ref, err));
#pragma omp parallel
    {
        char *raw = all ? NULL : q_malloc((size_t)strip * row);
        float *wide = q_malloc((size_t)t->K * sizeof *wide);

#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < t->N; n += strip) {
            const int64_t end = n + strip < t->N ? n + strip : t->N;
            q_err e = { 0 };
            const q_status one =
                (!all && !raw) || !wide
                    ? q_fail(&e, Q_ENOMEM, "%s: no memory to quantize", fmt_src_name(src, ref, n))
                    : quantize_rows(t, src, ref, n, end, all ? all + (size_t)n * row : raw, turned,
                                    wide, &e);

            if (one != Q_OK)
                keep_first(&failed, n, one, &e);
        }
        q_free(raw);
        q_free(wide);
    }
    if (failed.st != Q_OK)
        st = q_fail(err, failed.st, "%s", failed.err.msg);
out:
    q_free(all);
    return st;
}

/* ---- stored int8 codes ----------------------------------------------------------------------- */

/* A float32 part whose values are steps of codes: positive and finite. */
static q_status load_scales(float **out, const fmt_src *src, fmt_ref ref, q_err *err)
{
    q_status st = Q_OK;
    const int64_t n = fmt_src_shape(src, ref).n1;

    Q_TRY(qnt_load_f32(out, src, ref, n, err));
    for (int64_t i = 0; i < n; i++)
        if (!((*out)[i] > 0 && isnormal((*out)[i]))) /* 1 over it is finite */
            Q_FAIL(err, Q_EFORMAT,
                   "%s: %s: value %lld of its part is %g, wanted a positive scale: it is damaged, "
                   "fetch it again, or calibrate anew",
                   fmt_src_dir(src), fmt_src_name(src, ref, i), (long long)i, (double)(*out)[i]);
out:
    return st;
}

/* t->scale [N] from a value for each row or for each piece */
static q_status load_w_scale(qnt_tensor *t, const fmt_src *src, fmt_ref ref, q_err *err)
{
    q_status st = Q_OK;
    const fmt_role_row *role = fmt_role_get(ref.role);
    const int64_t have = fmt_src_shape(src, ref).n1;
    float *v = NULL;
    int64_t n = 0;

    Q_TRY(load_scales(&v, src, ref, err));
    if (!(t->scale = q_malloc((size_t)t->N * sizeof *t->scale)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %lld scales", fmt_src_name(src, ref, 0),
               (long long)t->N);
    for (int p = 0; p < role->n_pieces; p++)
        for (int64_t i = fmt_dim_size(role->piece[p].rows, fmt_src_model(src)); i > 0; i--, n++)
            t->scale[n] = have == t->N ? v[n] : v[p];
out:
    q_free(v);
    return st;
}

static q_status load_x_scale(qnt_tensor *t, const fmt_src *src, fmt_ref ref, q_err *err)
{
    q_status st = Q_OK;
    float *v = NULL;

    Q_TRY(load_scales(&v, src, ref, err));
    for (int64_t i = 1; i < fmt_src_shape(src, ref).n1; i++) /* the pieces read one input */
        if (v[i] != v[0])
            Q_FAIL(err, Q_EFORMAT, "%s: holds %g, %s holds %g: both belong to one input",
                   fmt_src_name(src, ref, i), (double)v[i], fmt_src_name(src, ref, 0),
                   (double)v[0]);
    t->x_scale = 1.0f / v[0];
out:
    q_free(v);
    return st;
}

/* Row of the first -128, or -1: kernels may negate a code. */
static int64_t find_minimum(const int8_t *codes, int64_t N, int64_t K)
{
    for (int64_t n = 0; n < N; n++) {
        int8_t min = 0;

        for (int64_t k = 0; k < K; k++)
            min = codes[n * K + k] < min ? codes[n * K + k] : min;
        if (min < -QNT_W8A8_MAX)
            return n;
    }
    return -1;
}

static q_status load_stored(qnt_tensor *t, const fmt_src *src, fmt_ref ref, const qnt_load_opts *o,
                            q_err *err)
{
    q_status st = Q_OK;
    const fmt_ref x = { ref.role, ref.layer, FMT_SCALE_X };
    fmt_ref codes = ref, scale = ref;
    int64_t bad;

    codes.part = o->per_tensor ? FMT_CODES : FMT_CODES_COL;
    scale.part = o->per_tensor ? FMT_SCALE_W : FMT_SCALE_W_COL;
    if (!fmt_src_has(src, codes))
        Q_FAIL(err, Q_EUNSUPPORTED,
               "%s: has no stored int8 weights and ranges: make them with qwen-convert "
               "--smoothquant",
               fmt_src_dir(src));
    Q_TRY(qnt_read(t->codes, src, codes, err));
    bad = find_minimum(t->codes, t->N, t->K);
    if (bad >= 0)
        Q_FAIL(err, Q_EFORMAT, "%s: a code of row %lld is -128, wanted -127 to 127",
               fmt_src_name(src, codes, bad), (long long)bad);
    Q_TRY(load_w_scale(t, src, scale, err));
    if (o->static_x)
        Q_TRY(load_x_scale(t, src, x, err));
out:
    return st;
}

static q_status load_heads(float *out, const fmt_src *src, int64_t layer, fmt_part part, q_err *err)
{
    q_status st = Q_OK;
    const fmt_ref ref = { FMT_ATTN_QKV, layer, part };
    float *v = NULL;

    if (!fmt_src_has(src, ref))
        Q_FAIL(err, Q_EUNSUPPORTED,
               "%s: has no scales of an int8 key/value cache: add them with qwen-convert "
               "--calibrate-kv-cache",
               fmt_src_dir(src));
    Q_TRY(load_scales(&v, src, ref, err));
    memcpy(out, v, (size_t)fmt_src_model(src)->n_kv * sizeof *v);
out:
    q_free(v);
    return st;
}

q_status qnt_load_kv_scales(float **k, float **v, const fmt_src *src, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = fmt_src_model(src);
    float *ks = q_calloc((size_t)(m->layers * m->n_kv), sizeof *ks);
    float *vs = q_calloc((size_t)(m->layers * m->n_kv), sizeof *vs);

    if (!ks || !vs)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for the scales of %lld layers", fmt_src_dir(src),
               (long long)m->layers);
    for (int64_t l = 0; l < m->layers; l++) {
        Q_TRY(load_heads(ks + l * m->n_kv, src, l, FMT_K_SCALE, err));
        Q_TRY(load_heads(vs + l * m->n_kv, src, l, FMT_V_SCALE, err));
    }
    *k = ks;
    *v = vs;
    ks = vs = NULL;
out:
    q_free(ks);
    q_free(vs);
    return st;
}

/* ---- all of it ------------------------------------------------------------------------------- */

/* t->scheme, N and K are set: codes and scales of a float or int8 source */
static q_status load_codes(qnt_tensor *t, const fmt_src *src, fmt_ref ref, const qnt_load_opts *o,
                           q_err *err)
{
    q_status st = Q_OK;
    const int w8a8 = o->scheme && strcmp(o->scheme->name, "w8a8") == 0;
    const fmt_ref stored = { ref.role, ref.layer, FMT_CODES_COL };
    size_t bytes;

    if (!q_mul_ok((size_t)t->N, qnt_row_bytes(t->scheme, t->K), &bytes) ||
        !(t->codes = q_malloc(bytes)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for [%lld, %lld]", fmt_src_name(src, ref, 0),
               (long long)t->N, (long long)t->K);
    if (w8a8 && (o->per_tensor || o->static_x || fmt_src_has(src, stored)))
        Q_TRY(load_stored(t, src, ref, o, err));
    else if (t->scheme->quantize_row)
        Q_TRY(load_quantized(t, src, ref, err));
    else
        Q_TRY(qnt_read(t->codes, src, ref, err));
out:
    return st;
}

q_status qnt_load(qnt_tensor *out, const fmt_src *src, fmt_role role, int64_t layer,
                  const qnt_load_opts *o, q_err *err)
{
    q_status st = Q_OK;
    const fmt_ref ref = { role, layer, FMT_WEIGHT }, bias = { role, layer, FMT_BIAS };
    const fmt_box box = fmt_src_shape(src, ref);
    const int packed = fmt_src_has(src, (fmt_ref){ role, layer, FMT_QWEIGHT });
    qnt_tensor t = { .N = box.n1, .K = box.k1 };

    if (packed && o->scheme)
        Q_FAIL(err, Q_EUNSUPPORTED,
               "%s: its weights are quantized already, by groups: %s cannot be made of them",
               fmt_src_dir(src), o->scheme->text);
    t.scheme = o->scheme ? o->scheme : qnt_scheme_float(fmt_src_dtype(src, ref));
    if (strcmp(t.scheme->name, "w8a8") == 0 && !fmt_role_get(role)->quant)
        Q_FAIL(err, Q_EUNSUPPORTED, "%s is never quantized to w8a8", fmt_role_get(role)->name);
    if (t.scheme->grouped)
        Q_FAIL(err, Q_EUNSUPPORTED, "%s: %s is made by qwen-gptq or qwen-awq, not while loading",
               fmt_src_name(src, ref, 0), t.scheme->text);
    if (packed)
        Q_TRY(qnt_load_grouped(&t, src, role, layer, err));
    else
        Q_TRY(load_codes(&t, src, ref, o, err));
    if (fmt_src_has(src, bias))
        Q_TRY(qnt_load_f32(&t.bias, src, bias, t.N, err));
    *out = t;
    memset(&t, 0, sizeof t);
out:
    qnt_tensor_free(&t);
    return st;
}
