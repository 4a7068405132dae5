/* Statistics files. */
#include "calibrate/stats_file.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define FORMAT  "qwenkit-stats"
#define VERSION 1

/* A group and a dataset in it; base is "" or "/stats/layers.0007". */
static void name_of(char out[FMT_H5_NAME], const char *base, const char *role, const char *which)
{
    snprintf(out, FMT_H5_NAME, "%s/%s%s%s", base, role, *which ? "/" : "", which);
}

static q_status put_layer(fmt_h5w *w, const char *base, const fmt_model *m, const qnt_ranges *r,
                          q_err *err)
{
    q_status st = Q_OK;
    char name[FMT_H5_NAME];

    for (int i = 0; i < FMT_ROLES; i++) {
        const fmt_role_row *role = fmt_role_get((fmt_role)i);

        if (!role->quant)
            continue;
        name_of(name, base, role->name, "in");
        Q_TRY(fmt_h5_put(w, name, FMT_F32, 1, (int64_t[]){ fmt_dim_size(role->cols, m) }, r->in[i],
                         err));
        name_of(name, base, role->name, "out");
        Q_TRY(
            fmt_h5_put(w, name, FMT_F32, 1, (int64_t[]){ fmt_role_rows(role, m) }, r->out[i], err));
    }
    name_of(name, base, "k", "");
    Q_TRY(fmt_h5_put(w, name, FMT_F32, 2, (int64_t[]){ m->n_kv, m->hd }, r->k, err));
    if (r->searched) {
        float alpha[QNT_SMOOTHED];

        for (int i = 0; i < QNT_SMOOTHED; i++)
            alpha[i] = (float)r->alpha[qnt_smooth_order[i]];
        name_of(name, base, "alpha", "");
        Q_TRY(fmt_h5_put(w, name, FMT_F32, 1, (int64_t[]){ QNT_SMOOTHED }, alpha, err));
    }
out:
    return st;
}

/* A magnitude: finite and not negative. */
static q_status get(const fmt_h5 *h, const char *path, const char *name, int ndim,
                    const int64_t *shape, float *v, q_err *err)
{
    q_status st = Q_OK;
    const int64_t n = ndim == 2 ? shape[0] * shape[1] : shape[0];

    Q_TRY(fmt_h5_read(h, name, FMT_F32, ndim, shape, v, err));
    for (int64_t i = 0; i < n; i++)
        if (!(v[i] >= 0) || isinf(v[i]))
            Q_FAIL(err, Q_EFORMAT, "%s: '%s': value %lld is %g, wanted a magnitude", path, name,
                   (long long)i, (double)v[i]);
out:
    return st;
}

static q_status get_layer(const fmt_h5 *h, const char *path, const char *base, const fmt_model *m,
                          qnt_ranges *r, q_err *err)
{
    q_status st = Q_OK;
    char name[FMT_H5_NAME];

    for (int i = 0; i < FMT_ROLES; i++) {
        const fmt_role_row *role = fmt_role_get((fmt_role)i);

        if (!role->quant)
            continue;
        name_of(name, base, role->name, "in");
        Q_TRY(get(h, path, name, 1, (int64_t[]){ fmt_dim_size(role->cols, m) }, r->in[i], err));
        name_of(name, base, role->name, "out");
        Q_TRY(get(h, path, name, 1, (int64_t[]){ fmt_role_rows(role, m) }, r->out[i], err));
    }
    name_of(name, base, "k", "");
    Q_TRY(get(h, path, name, 2, (int64_t[]){ m->n_kv, m->hd }, r->k, err));
    name_of(name, base, "alpha", "");
    Q_TRY(fmt_h5_has(h, name, &r->searched, err));
    if (r->searched) {
        float alpha[QNT_SMOOTHED];

        Q_TRY(get(h, path, name, 1, (int64_t[]){ QNT_SMOOTHED }, alpha, err));
        for (int i = 0; i < QNT_SMOOTHED; i++) {
            if (alpha[i] > 1)
                Q_FAIL(err, Q_EFORMAT, "%s: '%s': exponent %g, wanted 0 to 1", path, name,
                       (double)alpha[i]);
            r->alpha[qnt_smooth_order[i]] = (double)alpha[i];
        }
    }
out:
    return st;
}

static q_status put_info(fmt_h5w *w, const cal_stats_info *info, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(fmt_h5_attr_str(w, "/", "format", FORMAT, err));
    Q_TRY(fmt_h5_attr_int(w, "/", "format_version", VERSION, err));
    Q_TRY(fmt_h5_attr_str(w, "/", "tool", info->tool, err));
    Q_TRY(fmt_h5_attr_str(w, "/", "family", info->m->family->model_type, err));
    Q_TRY(fmt_h5_attr_int(w, "/", "layers", info->m->layers, err));
    Q_TRY(fmt_h5_attr_int(w, "/", "hidden", info->m->hid, err));
    Q_TRY(fmt_h5_attr_int(w, "/", "samples", info->samples, err));
    Q_TRY(fmt_h5_attr_int(w, "/", "tokens", info->tokens, err));
    Q_TRY(fmt_h5_attr_str(w, "/", "prompt", info->prompt, err));
    Q_TRY(fmt_h5_attr_str(w, "/", "data_sha256", info->data_sha256, err));
    Q_TRY(fmt_h5_attr_str(w, "/", "model_sha256", info->model_sha256, err));
out:
    return st;
}

q_status cal_stats_write(const char *path, int force, const cal_stats_info *info,
                         const qnt_ranges *layer, q_err *err)
{
    q_status st = Q_OK;
    fmt_h5w *w = NULL;
    char base[64];

    Q_TRY(fmt_h5_create(&w, path, force, err));
    Q_TRY(put_info(w, info, err));
    for (int64_t i = 0; i < info->m->layers; i++) {
        snprintf(base, sizeof base, "/stats/layers.%04lld", (long long)i);
        Q_TRY(put_layer(w, base, info->m, &layer[i], err));
    }
    Q_TRY(fmt_h5_commit(w, err));
out:
    fmt_h5w_close(w);
    return st;
}

static q_status check_info(const fmt_h5 *h, const char *path, const fmt_model *m,
                           const char *model_sha256, q_err *err)
{
    q_status st = Q_OK;
    char format[32], family[64], hash[65];
    int64_t version = 0, layers = 0, hidden = 0;

    Q_TRY(fmt_h5_get_str(h, "/", "format", format, sizeof format, err));
    if (strcmp(format, FORMAT) != 0)
        Q_FAIL(err, Q_EFORMAT, "%s: format '%s', wanted '%s': name a file of --save-stats", path,
               format, FORMAT);
    Q_TRY(fmt_h5_get_int(h, "/", "format_version", &version, err));
    if (version > VERSION)
        Q_FAIL(err, Q_EUNSUPPORTED,
               "%s: version %lld, this program reads up to %d: use a newer one", path,
               (long long)version, VERSION);
    Q_TRY(fmt_h5_get_str(h, "/", "family", family, sizeof family, err));
    Q_TRY(fmt_h5_get_int(h, "/", "layers", &layers, err));
    Q_TRY(fmt_h5_get_int(h, "/", "hidden", &hidden, err));
    if (strcmp(family, m->family->model_type) != 0 || layers != m->layers || hidden != m->hid)
        Q_FAIL(err, Q_ECONFIG,
               "%s: made for a %s of %lld layers and width %lld, the model is a %s of %lld and "
               "%lld: calibrate this model",
               path, family, (long long)layers, (long long)hidden, m->family->model_type,
               (long long)m->layers, (long long)m->hid);
    Q_TRY(fmt_h5_get_str(h, "/", "model_sha256", hash, sizeof hash, err));
    if (strcmp(hash, model_sha256) != 0)
        Q_FAIL(
            err, Q_ECONFIG,
            "%s: made on another model, or on one stored in another type (hash %.12s, this one has "
            "%.12s): calibrate this model",
            path, hash, model_sha256);
out:
    return st;
}

q_status cal_stats_read(const char *path, const fmt_model *m, const char *model_sha256,
                        qnt_ranges **out, q_err *err)
{
    q_status st = Q_OK;
    fmt_h5 *h = NULL;
    qnt_ranges *r = NULL;
    char base[64];
    int whole;

    Q_TRY(fmt_h5_verify(path, &whole, err));
    Q_TRY(fmt_h5_open(&h, path, err));
    Q_TRY(check_info(h, path, m, model_sha256, err));
    if (!(r = q_calloc((size_t)m->layers, sizeof *r)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %lld layers", path, (long long)m->layers);
    for (int64_t i = 0; i < m->layers; i++) {
        snprintf(base, sizeof base, "/stats/layers.%04lld", (long long)i);
        Q_TRY(qnt_ranges_alloc(&r[i], m, err));
        Q_TRY(get_layer(h, path, base, m, &r[i], err));
    }
    *out = r;
    r = NULL;
out:
    cal_stats_free(r, m);
    fmt_h5_close(h);
    return st;
}

void cal_stats_free(qnt_ranges *layer, const fmt_model *m)
{
    for (int64_t i = 0; layer && i < m->layers; i++)
        qnt_ranges_free(&layer[i]);
    q_free(layer);
}

q_status cal_stats_write_layer(const char *path, const fmt_model *m, const qnt_ranges *r,
                               const cal_cost *cost, q_err *err)
{
    q_status st = Q_OK;
    fmt_h5w *w = NULL;

    Q_TRY(fmt_h5_create(&w, path, 1, err));
    Q_TRY(put_layer(w, "", m, r, err));
    Q_TRY(fmt_h5_attr_real(w, "/", "seconds", cost->seconds, err));
    Q_TRY(fmt_h5_attr_real(w, "/", "memory", cost->memory, err));
    Q_TRY(fmt_h5_commit(w, err));
out:
    fmt_h5w_close(w);
    return st;
}

q_status cal_stats_read_layer(const char *path, const fmt_model *m, qnt_ranges *r, cal_cost *cost,
                              q_err *err)
{
    q_status st = Q_OK;
    fmt_h5 *h = NULL;
    int whole;

    Q_TRY(fmt_h5_verify(path, &whole, err));
    Q_TRY(fmt_h5_open(&h, path, err));
    Q_TRY(get_layer(h, path, "", m, r, err));
    Q_TRY(fmt_h5_get_real(h, "/", "seconds", &cost->seconds, err));
    Q_TRY(fmt_h5_get_real(h, "/", "memory", &cost->memory, err));
out:
    fmt_h5_close(h);
    return st;
}
