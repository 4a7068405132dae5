/* Files of quantized layers.  What is read was written by this program, and verified as a whole
 * when a job is continued; shapes come from the model and are checked by the reader of HDF5. */
#include "calibrate/quant_file.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "formats/h5file.h"
#include "quant/rtn_group.h"

static const struct {
    const char *name;
    size_t at;
} reals[] = {
    { "error_nearest", offsetof(cal_quant_stat, nearest) },
    { "error", offsetof(cal_quant_stat, error) },
    { "damp", offsetof(cal_quant_stat, damp) },
    { "alpha", offsetof(cal_quant_stat, alpha) },
}, ints[] = {
    { "by_weight", offsetof(cal_quant_stat, by_weight) },
    { "dead", offsetof(cal_quant_stat, dead) },
    { "f64", offsetof(cal_quant_stat, f64) },
};
enum { N_REALS = sizeof reals / sizeof reals[0], N_INTS = sizeof ints / sizeof ints[0] };

static void name_of(char out[FMT_H5_NAME], fmt_role role, const char *which)
{
    snprintf(out, FMT_H5_NAME, "/%s%s%s", fmt_role_get(role)->name, *which ? "/" : "", which);
}

void cal_quant_layer_free(cal_quant_layer *l)
{
    for (int r = 0; r < FMT_ROLES; r++) {
        qnt_tensor_free(&l->t[r]);
        q_free(l->bias[r]);
        q_free(l->norm[r]);
        q_free(l->factors[r]);
        q_free(l->absmax[r]);
        q_free(l->h_diag[r]);
    }
    q_free(l->kv);
    memset(l, 0, sizeof *l);
}

void cal_quant_count(cal_quant_stat *s, const qnt_tensor *t)
{
    enum { EVERY = 16 };
    const int wide = t->scheme->bits == 8, last = wide ? 255 : 15;
    const size_t row_bytes = qnt_row_bytes(t->scheme, t->K);
    uint64_t n[256] = { 0 }, all = 0;

    for (int64_t r = 0; r < t->N; r += EVERY) {
        const uint8_t *row = (const uint8_t *)t->codes + (size_t)r * row_bytes;

        for (int64_t k = 0; k < t->K; k++)
            n[wide ? row[k] : row[k / 2] >> k % 2 * 4 & 15]++;
        all += (uint64_t)t->K;
    }
    for (int c = 0; c <= last; c++)
        s->codes[wide ? c / CAL_CODE_BINS : c] += (float)((double)n[c] / (double)all);
    s->ends = (float)((double)(n[0] + n[last]) / (double)all);
}

/* ---- writing --------------------------------------------------------------------------------- */

static q_status put_vector(fmt_h5w *w, fmt_role role, const char *which, const float *v, int64_t n,
                           q_err *err)
{
    char name[FMT_H5_NAME];

    name_of(name, role, which);
    return v ? fmt_h5_put(w, name, FMT_F32, 1, &n, v, err) : Q_OK;
}

static q_status put_weight(fmt_h5w *w, fmt_role role, const qnt_tensor *t, q_err *err)
{
    q_status st = Q_OK;
    const int64_t groups = qnt_n_groups(t->scheme, t->K, t->group);
    const int64_t codes[] = { t->N, (int64_t)qnt_row_bytes(t->scheme, t->K) };
    const int64_t scales[] = { t->N, groups };
    char name[FMT_H5_NAME];

    name_of(name, role, "codes");
    Q_TRY(fmt_h5_put(w, name, FMT_U8, 2, codes, t->codes, err));
    name_of(name, role, "scale");
    Q_TRY(fmt_h5_put(w, name, FMT_F32, 2, scales, t->scale, err));
    name_of(name, role, "zero");
    Q_TRY(fmt_h5_put(w, name, FMT_U8, 2, scales, t->zero, err));
    name_of(name, role, "");
    Q_TRY(fmt_h5_attr_int(w, name, "bits", t->scheme->bits, err));
    Q_TRY(fmt_h5_attr_int(w, name, "group", t->group, err));
out:
    return st;
}

static q_status put_stat(fmt_h5w *w, fmt_role role, const cal_quant_stat *s, q_err *err)
{
    q_status st = Q_OK;
    char name[FMT_H5_NAME];
    double real;
    int64_t whole;

    name_of(name, role, "");
    for (int i = 0; i < N_REALS; i++) {
        memcpy(&real, (const char *)s + reals[i].at, sizeof real);
        Q_TRY(fmt_h5_attr_real(w, name, reals[i].name, real, err));
    }
    for (int i = 0; i < N_INTS; i++) {
        memcpy(&whole, (const char *)s + ints[i].at, sizeof whole);
        Q_TRY(fmt_h5_attr_int(w, name, ints[i].name, whole, err));
    }
out:
    return st;
}

static int64_t parts_of(fmt_role role, const fmt_model *m)
{
    const int64_t K = fmt_dim_size(fmt_role_get(role)->cols, m);

    return K < FMT_MAP_COLS ? K : FMT_MAP_COLS;
}

static q_status put_input(fmt_h5w *w, fmt_role role, const cal_quant_layer *l, const fmt_model *m,
                          q_err *err)
{
    q_status st = Q_OK;
    const cal_quant_stat *s = &l->stat[role];
    const float *factors = l->factors[role];
    const int64_t K = fmt_dim_size(fmt_role_get(role)->cols, m);
    const int64_t n = parts_of(role, m), curve[] = { 2, QNT_AWQ_STEPS };
    float counts[CAL_CODE_BINS + 1];
    char name[FMT_H5_NAME];

    memcpy(counts, s->codes, sizeof s->codes);
    counts[CAL_CODE_BINS] = s->ends;
    Q_TRY(put_vector(w, role, "counts", counts, CAL_CODE_BINS + 1, err));
    Q_TRY(put_vector(w, role, "input", s->input, n, err));
    Q_TRY(put_vector(w, role, "input_raw", factors ? s->input_raw : NULL, n, err));
    Q_TRY(put_vector(w, role, "factors", factors, K, err));
    Q_TRY(put_vector(w, role, fmt_part_name(FMT_STAT_ABSMAX), l->absmax[role], K, err));
    Q_TRY(put_vector(w, role, fmt_part_name(FMT_STAT_H_DIAG), l->h_diag[role], K, err));
    name_of(name, role, "curve");
    if (s->curve[0][0] > 0)
        Q_TRY(fmt_h5_put(w, name, FMT_F32, 2, curve, s->curve, err));
out:
    return st;
}

q_status cal_quant_write(const char *path, const cal_quant_layer *l, const fmt_model *m, q_err *err)
{
    q_status st = Q_OK;
    const int64_t heads[] = { 2, m->n_kv };
    fmt_h5w *w = NULL;

    Q_TRY(fmt_h5_create(&w, path, 1, err));
    for (int i = 0; i < FMT_ROLES; i++) {
        const fmt_role role = (fmt_role)i;
        const int64_t n = fmt_role_rows(fmt_role_get(role), m);

        if (l->t[i].codes) {
            Q_TRY(put_weight(w, role, &l->t[i], err));
            Q_TRY(put_stat(w, role, &l->stat[i], err));
            Q_TRY(put_input(w, role, l, m, err));
        }
        Q_TRY(put_vector(w, role, "bias", l->bias[i], n, err));
        Q_TRY(put_vector(w, role, "weight", l->norm[i], n, err));
    }
    Q_TRY(fmt_h5_put(w, "/kv", FMT_F32, 2, heads, l->kv, err));
    Q_TRY(fmt_h5_attr_real(w, "/", "seconds", l->cost.seconds, err));
    Q_TRY(fmt_h5_attr_real(w, "/", "memory", l->cost.memory, err));
    Q_TRY(fmt_h5_commit(w, err));
out:
    fmt_h5w_close(w);
    return st;
}

/* ---- reading --------------------------------------------------------------------------------- */

static q_status get_floats(const fmt_h5 *h, fmt_role role, const char *which, int ndim,
                           const int64_t *shape, float *out, q_err *err)
{
    q_status st = Q_OK;
    char name[FMT_H5_NAME];
    int yes;

    name_of(name, role, which);
    Q_TRY(fmt_h5_has(h, name, &yes, err));
    if (yes)
        Q_TRY(fmt_h5_read(h, name, FMT_F32, ndim, shape, out, err));
out:
    return st;
}

static q_status get_stat(cal_quant_stat *s, const fmt_h5 *h, fmt_role role, const fmt_model *m,
                         q_err *err)
{
    q_status st = Q_OK;
    const int64_t n = parts_of(role, m), curve[] = { 2, QNT_AWQ_STEPS };
    const int64_t n_counts = CAL_CODE_BINS + 1;
    float counts[CAL_CODE_BINS + 1] = { 0 };
    char name[FMT_H5_NAME];

    Q_TRY(get_floats(h, role, "counts", 1, &n_counts, counts, err));
    memcpy(s->codes, counts, sizeof s->codes);
    s->ends = counts[CAL_CODE_BINS];
    name_of(name, role, "");
    for (int i = 0; i < N_REALS; i++) {
        double v;

        Q_TRY(fmt_h5_get_real(h, name, reals[i].name, &v, err));
        memcpy((char *)s + reals[i].at, &v, sizeof v);
    }
    for (int i = 0; i < N_INTS; i++) {
        int64_t v;

        Q_TRY(fmt_h5_get_int(h, name, ints[i].name, &v, err));
        memcpy((char *)s + ints[i].at, &v, sizeof v);
    }
    Q_TRY(get_floats(h, role, "input", 1, &n, s->input, err));
    Q_TRY(get_floats(h, role, "input_raw", 1, &n, s->input_raw, err));
    Q_TRY(get_floats(h, role, "curve", 2, curve, &s->curve[0][0], err));
out:
    return st;
}

q_status cal_quant_read_stats(cal_quant_stat stat[FMT_ROLES], cal_cost *cost, const char *path,
                              const fmt_model *m, q_err *err)
{
    q_status st = Q_OK;
    fmt_h5 *h = NULL;
    int whole;

    Q_TRY(fmt_h5_verify(path, &whole, err));
    Q_TRY(fmt_h5_open(&h, path, err));
    for (int r = 0; r < FMT_ROLES; r++)
        if (fmt_role_get((fmt_role)r)->quant)
            Q_TRY(get_stat(&stat[r], h, (fmt_role)r, m, err));
    Q_TRY(fmt_h5_get_real(h, "/", "seconds", &cost->seconds, err));
    Q_TRY(fmt_h5_get_real(h, "/", "memory", &cost->memory, err));
out:
    fmt_h5_close(h);
    return st;
}

q_status cal_quant_read_kv(float *kv, const char *path, const fmt_model *m, q_err *err)
{
    q_status st = Q_OK;
    const int64_t heads[] = { 2, m->n_kv };
    fmt_h5 *h = NULL;

    Q_TRY(fmt_h5_open(&h, path, err));
    Q_TRY(fmt_h5_read(h, "/kv", FMT_F32, 2, heads, kv, err));
out:
    fmt_h5_close(h);
    return st;
}

q_status cal_quant_read_weight(qnt_tensor *t, const char *path, fmt_role role, const fmt_model *m,
                               q_err *err)
{
    q_status st = Q_OK;
    const fmt_role_row *row = fmt_role_get(role);
    fmt_h5 *h = NULL;
    char name[FMT_H5_NAME];
    int64_t bits, group, codes[2], scales[2];

    memset(t, 0, sizeof *t);
    Q_TRY(fmt_h5_open(&h, path, err));
    name_of(name, role, "");
    Q_TRY(fmt_h5_get_int(h, name, "bits", &bits, err));
    Q_TRY(fmt_h5_get_int(h, name, "group", &group, err));
    Q_TRY(qnt_group_alloc(t, bits == 8 ? 8 : 4, fmt_role_rows(row, m), fmt_dim_size(row->cols, m),
                          group, err));
    codes[0] = scales[0] = t->N;
    codes[1] = (int64_t)qnt_row_bytes(t->scheme, t->K);
    scales[1] = qnt_n_groups(t->scheme, t->K, t->group);
    name_of(name, role, "codes");
    Q_TRY(fmt_h5_read(h, name, FMT_U8, 2, codes, t->codes, err));
    name_of(name, role, "scale");
    Q_TRY(fmt_h5_read(h, name, FMT_F32, 2, scales, t->scale, err));
    name_of(name, role, "zero");
    Q_TRY(fmt_h5_read(h, name, FMT_U8, 2, scales, t->zero, err));
out:
    fmt_h5_close(h);
    if (st != Q_OK)
        qnt_tensor_free(t);
    return st;
}

static q_status read_floats(float **out, const char *path, fmt_role role, const char *which,
                            int64_t n, q_err *err)
{
    q_status st = Q_OK;
    fmt_h5 *h = NULL;
    float *v = NULL;
    char name[FMT_H5_NAME];
    int yes;

    *out = NULL;
    name_of(name, role, which);
    Q_TRY(fmt_h5_open(&h, path, err));
    Q_TRY(fmt_h5_has(h, name, &yes, err));
    if (!yes)
        goto out;
    if (!(v = q_malloc((size_t)n * sizeof *v)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %lld values", path, (long long)n);
    Q_TRY(fmt_h5_read(h, name, FMT_F32, 1, &n, v, err));
    *out = v;
    v = NULL;
out:
    q_free(v);
    fmt_h5_close(h);
    return st;
}

q_status cal_quant_read_vector(float **out, const char *path, fmt_role role, const fmt_model *m,
                               q_err *err)
{
    const fmt_role_row *row = fmt_role_get(role);

    return read_floats(out, path, role, row->quant ? "bias" : "weight", fmt_role_rows(row, m), err);
}

q_status cal_quant_read_factors(float **out, const char *path, fmt_role role, const fmt_model *m,
                                q_err *err)
{
    return read_floats(out, path, role, "factors", fmt_dim_size(fmt_role_get(role)->cols, m), err);
}

q_status cal_quant_read_seen(float **out, const char *path, fmt_role role, fmt_part part,
                             const fmt_model *m, q_err *err)
{
    q_status st = Q_OK;
    const char *name = fmt_part_name(part);

    Q_TRY(read_floats(out, path, role, name, fmt_dim_size(fmt_role_get(role)->cols, m), err));
    if (!*out)
        Q_FAIL(err, Q_EFORMAT,
               "%s: '/%s/%s' is missing: an earlier version began this job, begin it anew with "
               "--no-resume",
               path, fmt_role_get(role)->name, name);
out:
    return st;
}
