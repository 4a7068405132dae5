/* Writing a model archive.
 *
 * Two walks over the units (units.h): the first measures and refuses, the second writes.  A
 * quantized role is asked for when its first piece comes and kept until its last one is written.
 *
 * What goes where is told in formats/arch.h. */
#include "convert/archive.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "convert/copies.h"
#include "convert/units.h"
#include "formats/arch.h"
#include "formats/base/q_file.h"
#include "formats/h5file.h"
#include "quant/load.h"
#include "quant/repack.h"

#define SET_BYTES 1024 /* of a dataset besides its data: header, links, hash */
#define META_MAX  ((size_t)4 << 20)

typedef struct job {
    const qnt_archive_opts *o;
    fmt_packing p;
    fmt_h5w *w;
    qnt_tensor t;  /* the role whose pieces are being written */
    float *values; /* [N] of the vector or bias that is being written; NULL: those of the source */
    cvt_digests digests;
    q_progress *progress;
    uint64_t need, modules;
} job;

/* ---- measuring --------------------------------------------------------------------------------
 */

static q_status measure(void *self, const cvt_unit *u, q_err *err)
{
    q_status st = Q_OK;
    job *j = self;
    qnt_packed p;
    char place[FMT_H5_NAME];

    if (!fmt_arch_place(place, sizeof place, u->module, "weight"))
        Q_FAIL(err, Q_EFORMAT, "%s: too long a name for a dataset", u->module);
    j->need += SET_BYTES;
    if (u->what != CVT_CODES) {
        j->need +=
            (uint64_t)((u->n1 - u->n0) * u->K) * fmt_dtype_bytes(fmt_src_dtype(j->o->src, u->ref));
        goto out;
    }
    j->modules++;
    Q_TRY(qnt_packed_shapes(&p, &j->p, u->n1 - u->n0, u->K, u->module, err));
    for (int i = 0; i < QNT_ARRAYS; i++)
        if (p.a[i].suffix)
            j->need += SET_BYTES + qnt_array_bytes(&p.a[i]);
out:
    return st;
}

static q_status set_packing(job *j, q_err *err)
{
    const qnt_archive_opts *o = j->o;
    const fmt_packing *have = fmt_src_packing(o->src);

    if (o->weight)
        j->p = (fmt_packing){ .bits = o->bits, .sym = o->sym, .group = o->group };
    else if (have)
        j->p = *have;
    else
        return q_fail(err, Q_EUNSUPPORTED,
                      "%s: is not quantized by groups: make an archive of it with qwen-gptq or "
                      "qwen-awq",
                      fmt_src_dir(o->src));
    if (o->weight)
        snprintf(j->p.method, sizeof j->p.method, "%s", o->method);
    j->p.kind = FMT_PACK_H5;
    j->p.layout = fmt_pack_layout_get(FMT_PACK_H5);
    j->p.desc_act = 1; /* allowed; each module says whether it is so */
    return Q_OK;
}

/* ---- /meta ------------------------------------------------------------------------------------
 */

static q_status put_json(job *j, const char *place, const fmt_json *doc, q_err *err)
{
    q_status st = Q_OK;
    q_buf text = { 0 };

    Q_TRY(fmt_json_print(&text, doc, 2, err));
    Q_TRY(q_buf_puts(&text, "\n", err));
    Q_TRY(fmt_h5_put_bytes(j->w, place, text.data, text.size, err));
out:
    q_buf_free(&text);
    return st;
}

static q_status put_config(job *j, q_err *err)
{
    q_status st = Q_OK;
    const fmt_files files = fmt_src_files(j->o->src);
    q_buf text = { 0 };

    if (!fmt_files_has(&files, "config.json")) { /* an FT directory of the reference */
        Q_TRY(put_json(j, "/meta/config.json", fmt_src_config(j->o->src), err));
        goto out;
    }
    Q_TRY(fmt_files_slurp(&text, &files, "config.json", META_MAX, err));
    Q_TRY(fmt_h5_put_bytes(j->w, "/meta/config.json", text.data, text.size, err));
out:
    q_buf_free(&text);
    return st;
}

static q_status put_quantization(job *j, q_err *err)
{
    q_status st = Q_OK;
    const fmt_packing *have = j->o->weight ? NULL : fmt_src_packing(j->o->src);
    fmt_json *doc = NULL;

    Q_TRY(fmt_json_new(&doc, err));
    Q_TRY(fmt_json_put_str(doc, "quant_method", j->p.method, err));
    Q_TRY(fmt_json_put_int(doc, "bits", j->p.bits, err));
    Q_TRY(fmt_json_put_int(doc, "group_size", j->p.group, err));
    Q_TRY(fmt_json_put_bool(doc, "sym", j->p.sym, err));
    Q_TRY(fmt_json_put_bool(doc, "desc_act", have && have->desc_act, err));
    Q_TRY(fmt_json_put_int(doc, "zero_offset", 0, err));
    Q_TRY(put_json(j, "/meta/quantization_config.json", doc, err));
out:
    fmt_json_free(doc);
    return st;
}

static q_status put_source(fmt_json *doc, const fmt_src *src, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *from;

    Q_TRY(fmt_json_put_obj(&from, doc, "source", err));
    Q_TRY(fmt_json_put_str(from, "container", fmt_src_kind(src), err));
    Q_TRY(fmt_json_put_str(from, "family", fmt_src_model(src)->family->model_type, err));
    Q_TRY(fmt_json_put_int(from, "tensor_bytes", (int64_t)fmt_src_bytes(src), err));
out:
    return st;
}

/* Where the model came from, and how its codes came about: what the caller says, or what the
 * archive said that is rewritten. */
static q_status put_manifest(job *j, q_err *err)
{
    q_status st = Q_OK;
    const fmt_src *src = j->o->src;
    const fmt_files files = fmt_src_files(src);
    const fmt_json *source, *how;
    fmt_json *doc = NULL, *old = NULL;

    if (files.arch && fmt_files_has(&files, "manifest.json"))
        Q_TRY(fmt_files_json(&old, &files, "manifest.json", META_MAX, err));
    source = fmt_json_get(old, "source");
    how = j->o->provenance ? j->o->provenance : fmt_json_get(old, "quantization");
    Q_TRY(fmt_json_new(&doc, err));
    Q_TRY(fmt_json_put_str(doc, "format", FMT_ARCH_FORMAT, err));
    Q_TRY(fmt_json_put_int(doc, "format_version", FMT_ARCH_VERSION, err));
    Q_TRY(fmt_json_put_str(doc, "tool", j->o->tool, err));
    Q_TRY(source ? fmt_json_put_copy(doc, "source", source, err) : put_source(doc, src, err));
    Q_TRY(how ? fmt_json_put_copy(doc, "quantization", how, err)
              : fmt_json_put_null(doc, "quantization", err));
    Q_TRY(put_json(j, "/meta/manifest.json", doc, err));
out:
    fmt_json_free(old);
    fmt_json_free(doc);
    return st;
}

static q_status put_copies(job *j, int generation, q_err *err)
{
    q_status st = Q_OK;
    cvt_copy *v = NULL;
    size_t n = 0;
    q_buf bytes = { 0 };
    char place[FMT_H5_NAME];

    Q_TRY(cvt_copies_list(&v, &n, j->o->src, err));
    for (size_t i = 0; i < n; i++) {
        const int is_gen = strcmp(v[i].name, "generation_config.json") == 0;

        if (cvt_copy_is_config(v[i].name) || is_gen != generation)
            continue;
        snprintf(place, sizeof place, "/meta/%s%s", is_gen ? "" : "tokenizer/", v[i].name);
        Q_TRY(cvt_copy_read(&bytes, j->o->src, &v[i], err));
        Q_TRY(fmt_h5_put_bytes(j->w, place, bytes.data, bytes.size, err));
    }
out:
    q_buf_free(&bytes);
    cvt_copies_free(v, n);
    return st;
}

static q_status put_meta(job *j, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(fmt_h5_attr_str(j->w, "/", "format", FMT_ARCH_FORMAT, err));
    Q_TRY(fmt_h5_attr_int(j->w, "/", "format_version", FMT_ARCH_VERSION, err));
    Q_TRY(fmt_h5_attr_str(j->w, "/", "tool", j->o->tool, err));
    Q_TRY(put_config(j, err));
    Q_TRY(put_copies(j, 1, err));
    Q_TRY(put_quantization(j, err));
    Q_TRY(put_manifest(j, err));
    Q_TRY(put_copies(j, 0, err));
out:
    return st;
}

/* ---- /tensors ---------------------------------------------------------------------------------
 */

/* What is known of the loss: told by the caller, or by the archive that is rewritten. */
static fmt_lost lost_of(const job *j, const cvt_unit *u)
{
    const fmt_files files = fmt_src_files(j->o->src);
    fmt_lost lost = { NAN, NAN };

    if (j->o->loss) {
        const qnt_loss loss = j->o->loss(j->o->self, u->ref.role, u->ref.layer);

        lost = (fmt_lost){ loss.error, loss.damp > 0 ? loss.damp : NAN };
    } else if (!j->o->weight && files.arch) {
        lost = fmt_arch_lost(files.arch, u->module);
    }
    return lost;
}

static q_status put_attributes(job *j, const cvt_unit *u, q_err *err)
{
    q_status st = Q_OK;
    const struct {
        const char *key;
        int64_t v;
    } ints[] = { { "bits", j->p.bits },
                 { "group_size", j->p.group },
                 { "sym", j->p.sym },
                 { "desc_act", j->t.g_idx != NULL },
                 { "zero_offset", 0 },
                 { "in_features", u->K },
                 { "out_features", u->n1 - u->n0 } };
    const fmt_lost lost = lost_of(j, u);
    char place[FMT_H5_NAME];

    (void)fmt_arch_place(place, sizeof place, u->module, NULL);
    Q_TRY(fmt_h5_attr_str(j->w, place, "quant_method", j->p.method, err));
    for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++)
        Q_TRY(fmt_h5_attr_int(j->w, place, ints[i].key, ints[i].v, err));
    if (!isnan(lost.error_rel))
        Q_TRY(fmt_h5_attr_real(j->w, place, "error_rel", lost.error_rel, err));
    if (!isnan(lost.damp))
        Q_TRY(fmt_h5_attr_real(j->w, place, "damp", lost.damp, err));
    Q_TRY(fmt_h5_attr_str(j->w, place, "pack_axis", "K", err));
    Q_TRY(fmt_h5_attr_str(j->w, place, "pack_order", j->p.bits == 4 ? "0 1 2 3 4 5 6 7" : "0 1 2 3",
                          err));
out:
    return st;
}

/* The role of the unit into j->t. */
static q_status take_role(job *j, const cvt_unit *u, q_err *err)
{
    q_status st = Q_OK;
    const qnt_archive_opts *o = j->o;
    const fmt_box box = fmt_src_shape(o->src, (fmt_ref){ u->ref.role, u->ref.layer, FMT_WEIGHT });

    qnt_tensor_free(&j->t);
    Q_TRY(o->weight ? o->weight(o->self, u->ref.role, u->ref.layer, &j->t, err)
                    : qnt_load_grouped(&j->t, o->src, u->ref.role, u->ref.layer, err));
    if (j->t.N != box.n1 || j->t.K != box.k1)
        Q_FAIL(err, Q_EBUG, "%s: [%lld, %lld], wanted [%lld, %lld]", u->module, (long long)j->t.N,
               (long long)j->t.K, (long long)box.n1, (long long)box.k1);
    cvt_digests_set(&j->digests, u->ref.role, u->ref.layer, &j->t);
out:
    return st;
}

static q_status put_codes(job *j, const cvt_unit *u, q_err *err)
{
    q_status st = Q_OK;
    char place[FMT_H5_NAME];
    qnt_packed p = { 0 };

    if (u->first)
        Q_TRY(take_role(j, u, err));
    Q_TRY(qnt_pack(&p, &j->t, u->n0, u->n1, &j->p, u->module, err));
    for (int i = 0; i < QNT_ARRAYS; i++) {
        const qnt_array *a = &p.a[i];

        if (!a->suffix)
            continue;
        (void)fmt_arch_place(place, sizeof place, u->module, a->suffix + 1);
        Q_TRY(fmt_h5_put(j->w, place, a->dtype, a->ndim, a->shape, a->data, err));
        Q_TRY(fmt_h5_attr_str(j->w, place, "dims_meaning", a->dims, err));
    }
    Q_TRY(put_attributes(j, u, err));
    if (u->last)
        qnt_tensor_free(&j->t);
out:
    qnt_packed_free(&p);
    return st;
}

typedef struct rows {
    const job *j;
    const cvt_unit *u;
} rows;

static q_status fill_rows(void *self, int64_t r0, int64_t n, void *dst, q_err *err)
{
    const rows *r = self;

    return cvt_unit_read(r->j->o->src, r->u, r0, n, r->u->K == 1 ? r->j->values : NULL, dst, err);
}

static q_status put_float(job *j, const cvt_unit *u, q_err *err)
{
    q_status st = Q_OK;
    const qnt_archive_opts *o = j->o;
    const int64_t shape[2] = { u->n1 - u->n0, u->K };
    const char *leaf = u->what == CVT_BIAS ? "bias" : "weight";
    char name[FMT_H5_NAME], place[FMT_H5_NAME];
    rows r = { j, u };

    if (u->first && u->K == 1 && o->vector)
        Q_TRY(o->vector(o->self, u->ref, &j->values, err));
    snprintf(name, sizeof name, "%s.%s", u->module, leaf);
    if (!(u->in_module ? fmt_arch_place(place, sizeof place, u->module, leaf)
                       : fmt_arch_place(place, sizeof place, name, NULL)))
        Q_FAIL(err, Q_EBUG, "%s: too long a name", u->module);
    Q_TRY(fmt_h5_put_rows(j->w, place, fmt_src_dtype(o->src, u->ref), u->K == 1 ? 1 : 2, shape,
                          fill_rows, &r, err));
    if (u->last && u->K == 1) {
        q_free(j->values);
        j->values = NULL;
    }
out:
    return st;
}

static q_status put_unit(void *self, const cvt_unit *u, q_err *err)
{
    job *j = self;

    if (j->o->stop && *j->o->stop)
        return q_fail(err, Q_ECANCEL, "stopped by a signal: nothing is left");
    q_progress_add(j->progress, (uint64_t)((u->n1 - u->n0) * u->K));
    return u->what == CVT_CODES ? put_codes(j, u, err) : put_float(j, u, err);
}

static q_status put_kv(job *j, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = fmt_src_model(j->o->src);
    float *k = NULL, *v = NULL;
    char place[FMT_H5_NAME];

    if (!j->o->k_scale && fmt_src_has(j->o->src, (fmt_ref){ FMT_ATTN_QKV, 0, FMT_K_SCALE }))
        Q_TRY(qnt_load_kv_scales(&k, &v, j->o->src, err));
    for (int64_t l = 0; (k || j->o->k_scale) && l < m->layers; l++)
        for (int which = 0; which < 2; which++) {
            const float *all = which ? (v ? v : j->o->v_scale) : (k ? k : j->o->k_scale);

            snprintf(place, sizeof place, "/kv/layers.%lld/%c_scale", (long long)l,
                     which ? 'v' : 'k');
            Q_TRY(fmt_h5_put(j->w, place, FMT_F32, 1, &m->n_kv, all + l * m->n_kv, err));
        }
out:
    q_free(k);
    q_free(v);
    return st;
}

static q_status put_factors(job *j, q_err *err)
{
    q_status st = Q_OK;
    const qnt_archive_opts *o = j->o;
    const fmt_model *m = fmt_src_model(o->src);
    float *v = NULL;
    char place[FMT_H5_NAME];

    for (int64_t i = 0; i < m->layers * FMT_ROLES; i++) {
        const fmt_role role = (fmt_role)(i % FMT_ROLES);
        const int64_t layer = i / FMT_ROLES, K = fmt_dim_size(fmt_role_get(role)->cols, m);
        const fmt_ref ref = { role, layer, FMT_FACTORS };

        if (!fmt_role_get(role)->quant)
            continue;
        if (o->factors)
            Q_TRY(o->factors(o->self, role, layer, &v, err));
        else if (!o->weight && fmt_src_has(o->src, ref))
            Q_TRY(qnt_load_f32(&v, o->src, ref, K, err));
        snprintf(place, sizeof place, "/factors/layers.%lld/%s", (long long)layer,
                 fmt_role_get(role)->name);
        if (v)
            Q_TRY(fmt_h5_put(j->w, place, FMT_F32, 1, &K, v, err));
        q_free(v);
        v = NULL;
    }
out:
    q_free(v);
    return st;
}

/* ---- all of it --------------------------------------------------------------------------------
 */

static q_status write_all(job *j, qnt_archive_result *r, q_err *err)
{
    q_status st = Q_OK;
    const qnt_archive_opts *o = j->o;
    const char *part = NULL;
    q_file *f = NULL;
    double since;

    Q_TRY(fmt_h5_create(&j->w, o->path, o->force, err));
    Q_TRY(put_meta(j, err));
    Q_TRY(cvt_units_each(o->src, o->weight != NULL, put_unit, j, err));
    Q_TRY(put_kv(j, err));
    Q_TRY(put_factors(j, err));
    since = q_now();
    Q_TRY(fmt_h5_put_root(j->w, r->root_sha256, err));
    Q_TRY(fmt_h5_finish(j->w, &part, err));
    Q_TRY(cvt_digests_compare(&j->digests, part, o->path, err));
    Q_TRY(fmt_h5_commit(j->w, err));
    Q_TRY(q_file_open(&f, o->path, err));
    r->bytes = q_file_bytes(f);
    r->modules = j->modules;
    r->check_seconds = q_now() - since;
out:
    q_file_close(f);
    fmt_h5w_close(j->w);
    return st;
}

static q_status check_output(const fmt_src *src, const char *path, int force, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(fmt_src_output_apart(src, path, err));
    if (q_path_is_dir(path))
        Q_FAIL(err, Q_ECREATE, "%s: is a directory, wanted the name of an archive", path);
    if (q_path_exists(path) && !force)
        Q_FAIL(err, Q_ECREATE, "%s: exists; --force replaces it", path);
out:
    return st;
}

q_status cvt_archive_check(const fmt_src *src, const char *path, int force, q_err *err)
{
    q_status st = Q_OK;
    int whole;

    Q_TRY(check_output(src, path, force, err));
    if (strcmp(fmt_src_kind(src), "h5") == 0)
        Q_TRY(fmt_h5_verify(fmt_src_dir(src), &whole, err));
out:
    return st;
}

q_status cvt_archive_write(qnt_archive_result *r, const qnt_archive_opts *o, q_err *err)
{
    q_status st = Q_OK;
    qnt_archive_result unused;
    job j = { .o = o };

    Q_TRY(check_output(o->src, o->path, o->force, err));
    Q_TRY(set_packing(&j, err));
    Q_TRY(cvt_digests_alloc(&j.digests, fmt_src_model(o->src), err));
    Q_TRY(cvt_units_each(o->src, o->weight != NULL, measure, &j, err));
    Q_TRY(cvt_check_space(o->path, j.need, err));
    j.progress = q_progress_open(o->log, "writing",
                                 (uint64_t)fmt_model_params(fmt_src_model(o->src)), "weights");
    Q_TRY(write_all(&j, r ? r : &unused, err));
out:
    q_progress_close(j.progress);
    q_free(j.values);
    qnt_tensor_free(&j.t);
    cvt_digests_free(&j.digests);
    return st;
}
