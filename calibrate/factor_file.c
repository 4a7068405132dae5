/* Reading factors.  The archive is verified as a whole first, so that a changed byte is found
 * before hours are spent on it; then names and shapes are those of the model at hand, or it is
 * refused. */
#include "calibrate/factor_file.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "formats/arch.h"
#include "formats/h5file.h"
#include "formats/json.h"
#include "formats/source.h"

#define MANIFEST_MAX ((size_t)64 << 20)

/* Family, sizes, and what the manifest says about the model. */
static q_status read_origin(cal_factors *f, const fmt_model *m, q_err *err)
{
    q_status st = Q_OK;
    fmt_src *src = NULL;
    const fmt_model *a;
    fmt_files files;
    fmt_json *doc = NULL;
    const char *hash = NULL;

    Q_TRY(fmt_src_open(&src, f->path, err));
    a = fmt_src_model(src);
    files = fmt_src_files(src);
    if (!files.arch)
        Q_FAIL(err, Q_EFORMAT, "%s: wanted an archive of qwen-awq, a .h5 file", f->path);
    if (strcmp(a->family->model_type, m->family->model_type) != 0 || a->layers != m->layers ||
        a->hid != m->hid || a->ffn != m->ffn || a->n_head != m->n_head || a->n_kv != m->n_kv)
        Q_FAIL(err, Q_ECONFIG,
               "%s: holds a %s of %lld layers and width %lld, the model is a %s of %lld and %lld: "
               "quantize this model with qwen-awq",
               f->path, a->family->model_type, (long long)a->layers, (long long)a->hid,
               m->family->model_type, (long long)m->layers, (long long)m->hid);
    Q_TRY(fmt_files_json(&doc, &files, "manifest.json", MANIFEST_MAX, err));
    Q_TRY(fmt_json_str_opt(fmt_json_get(doc, "quantization"), "model_sha256", &hash, err));
    if (!hash || strlen(hash) != 64)
        Q_FAIL(err, Q_EFORMAT,
               "%s: does not say from which model it was made: use an archive of "
               "qwen-awq",
               f->path);
    snprintf(f->model_sha256, sizeof f->model_sha256, "%s", hash);
out:
    fmt_json_free(doc);
    fmt_src_close(src);
    return st;
}

static q_status read_role(cal_factors *f, const fmt_h5 *h, int64_t layer, fmt_role role, int64_t K,
                          q_err *err)
{
    q_status st = Q_OK;
    float *v = q_malloc((size_t)K * sizeof *v);
    char name[FMT_H5_NAME];

    f->v[layer * FMT_ROLES + role] = v;
    if (!v)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %lld factors", f->path, (long long)K);
    snprintf(name, sizeof name, "/factors/layers.%lld/%s", (long long)layer,
             fmt_role_get(role)->name);
    Q_TRY(fmt_h5_read(h, name, FMT_F32, 1, &K, v, err));
    for (int64_t k = 0; k < K; k++)
        if (!(v[k] > 0 && isfinite(v[k])))
            Q_FAIL(err, Q_EFORMAT, "%s: '%s': factor %lld is %g, wanted a positive number", f->path,
                   name, (long long)k, (double)v[k]);
out:
    return st;
}

q_status cal_factors_open(cal_factors *f, const char *path, const fmt_model *m, q_err *err)
{
    q_status st = Q_OK;
    fmt_h5 *h = NULL;
    int whole, yes;

    memset(f, 0, sizeof *f);
    f->layers = m->layers;
    if (!(f->path = q_strdup(path)) ||
        !(f->v = q_calloc((size_t)m->layers * FMT_ROLES, sizeof *f->v)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %lld layers", path, (long long)m->layers);
    Q_TRY(read_origin(f, m, err));
    Q_TRY(fmt_h5_verify(path, &whole, err));
    Q_TRY(fmt_h5_open(&h, path, err));
    Q_TRY(fmt_h5_has(h, "/factors", &yes, err));
    if (!yes)
        Q_FAIL(err, Q_EFORMAT,
               "%s: holds no factors: use an archive as qwen-awq or qwen-gptq --pre-scale of this "
               "version writes it",
               path);
    Q_TRY(fmt_h5_get_str(h, "/", FMT_H5_ROOT, f->root_sha256, sizeof f->root_sha256, err));
    for (int64_t l = 0; l < m->layers; l++)
        for (int r = 0; r < FMT_ROLES; r++)
            if (fmt_role_get((fmt_role)r)->quant)
                Q_TRY(read_role(f, h, l, (fmt_role)r,
                                fmt_dim_size(fmt_role_get((fmt_role)r)->cols, m), err));
out:
    fmt_h5_close(h);
    if (st != Q_OK)
        cal_factors_close(f);
    return st;
}

q_status cal_factors_check(const cal_factors *f, const char *model_sha256, q_err *err)
{
    if (strcmp(f->model_sha256, model_sha256) == 0)
        return Q_OK;
    return q_fail(err, Q_ECONFIG,
                  "%s: was made from another model (hash %.12s, this one has %.12s): quantize this "
                  "model with qwen-awq",
                  f->path, f->model_sha256, model_sha256);
}

void cal_factors_close(cal_factors *f)
{
    for (int64_t i = 0; f->v && i < f->layers * FMT_ROLES; i++)
        q_free(f->v[i]);
    q_free(f->v);
    q_free(f->path);
    memset(f, 0, sizeof *f);
}
