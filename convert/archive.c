/* Writing a model archive.
 *
 * Two walks over the units (units.h): the first measures and refuses, the second writes.  A
 * quantized role is asked for when its first piece comes and kept until its last one is written.
 *
 * What goes where is told in formats/arch.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "convert/archive_impl.h"
#include "formats/base/q_file.h"
#include "quant/load.h"
#include "quant/repack.h"

#define SET_BYTES 1024 /* of a dataset besides its data: header, links, hash */

/* ---- measuring --------------------------------------------------------------------------------
 */

static q_status measure(void *self, const cvt_unit *u, q_err *err)
{
    q_status st = Q_OK;
    cvt_archive *j = self;
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
    j->need += 3 * SET_BYTES + 2 * (uint64_t)u->K * sizeof(float); /* of /stats */
    Q_TRY(qnt_packed_shapes(&p, &j->p, u->n1 - u->n0, u->K, u->module, err));
    for (int i = 0; i < QNT_ARRAYS; i++)
        if (p.a[i].suffix)
            j->need += SET_BYTES + qnt_array_bytes(&p.a[i]);
out:
    return st;
}

static q_status set_packing(cvt_archive *j, q_err *err)
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

/* ---- /tensors ---------------------------------------------------------------------------------
 */

/* What is known of the loss: told by the caller, or by the archive that is rewritten. */
static fmt_lost lost_of(const cvt_archive *j, const cvt_unit *u)
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

static q_status put_attributes(cvt_archive *j, const cvt_unit *u, q_err *err)
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
static q_status take_role(cvt_archive *j, const cvt_unit *u, q_err *err)
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

static q_status put_codes(cvt_archive *j, const cvt_unit *u, q_err *err)
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
    const cvt_archive *j;
    const cvt_unit *u;
} rows;

static q_status fill_rows(void *self, int64_t r0, int64_t n, void *dst, q_err *err)
{
    const rows *r = self;

    return cvt_unit_read(r->j->o->src, r->u, r0, n, r->u->K == 1 ? r->j->values : NULL, dst, err);
}

static q_status put_float(cvt_archive *j, const cvt_unit *u, q_err *err)
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
    cvt_archive *j = self;

    if (j->o->stop && *j->o->stop)
        return q_fail(err, Q_ECANCEL, "stopped by a signal: nothing is left");
    q_progress_add(j->progress, (uint64_t)((u->n1 - u->n0) * u->K));
    return u->what == CVT_CODES ? put_codes(j, u, err) : put_float(j, u, err);
}

/* ---- all of it --------------------------------------------------------------------------------
 */

static q_status write_all(cvt_archive *j, qnt_archive_result *r, q_err *err)
{
    q_status st = Q_OK;
    const qnt_archive_opts *o = j->o;
    const char *part = NULL;
    q_file *f = NULL;
    double since;

    Q_TRY(fmt_h5_create(&j->w, o->path, o->force, err));
    if (o->compress)
        fmt_h5_compress(j->w);
    Q_TRY(cvt_archive_put_meta(j, err));
    Q_TRY(cvt_units_each(o->src, o->weight != NULL, put_unit, j, err));
    Q_TRY(cvt_archive_put_layers(j, err));
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
    Q_TRY(q_out_check(path, force, err));
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
    cvt_archive j = { .o = o };

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
