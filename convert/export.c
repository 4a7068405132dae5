/* Exporting a quantized model.
 *
 * First the small arrays of every role are read: they decide whether the format can hold the model
 * (groups out of order, a last group that is not whole, linears in floats), which variant is needed
 * (a zero of 0) and what the configuration may claim (symmetric).  Then one walk declares all
 * tensors, which fixes the shards and refuses shapes, and a second one writes them in the same
 * order. */
#include "convert/export.h"

#include <stdio.h>
#include <string.h>

#include "convert/copies.h"
#include "convert/outdir.h"
#include "convert/units.h"
#include "formats/base/q_file.h"
#include "formats/h5file.h"
#include "formats/hf_dir.h"
#include "quant/repack.h"

#define SHARD_BYTES 5000000000u /* what Transformers writes by default */
#define STRIP_BYTES ((int64_t)16 << 20)
#define NAME_CAP    700
#define CONFIG      "config.json"
#define GPTQ_CONFIG "quantize_config.json"

typedef struct job {
    const cvt_export_opts *o;
    const fmt_src *src;
    fmt_packing p;
    fmt_hf_writer *w;
    const char *dir; /* the temporary */
    qnt_tensor t;    /* the role whose pieces are being written */
    char **floats;   /* names of the linears that are not quantized */
    size_t n_floats;
    cvt_digests digests;
    cvt_export_result r;
    q_progress *progress;
} job;

/* ---- what is needed ---------------------------------------------------------------------------
 */

/* Q_EUNSUPPORTED: the format has no way to say what this role is. */
static q_status check_held(const job *j, fmt_ref ref, int act_order, q_err *err)
{
    const int64_t K = fmt_dim_size(fmt_role_get(ref.role)->cols, fmt_src_model(j->src));
    const int awq = j->o->to == CVT_HF_AWQ;

    if (act_order)
        return q_fail(err, Q_EUNSUPPORTED,
                      "%s: its columns are in groups out of order (desc_act), which %s hold: use "
                      "hf-gptq or h5",
                      fmt_src_name(j->src, ref, 0),
                      awq ? "AWQ cannot" : "compressed-tensors no longer can");
    if (j->p.group > 0 && K % j->p.group != 0)
        return q_fail(err, Q_EUNSUPPORTED,
                      "%s: its %lld columns are no whole groups of %lld, which loaders of %s want: "
                      "use hf-gptq or h5",
                      fmt_src_name(j->src, ref, 0), (long long)K, (long long)j->p.group,
                      awq ? "AWQ" : "compressed-tensors");
    return Q_OK;
}

static q_status look_at_roles(job *j, q_err *err)
{
    q_status st = Q_OK;
    const int gptq = j->o->to == CVT_HF_GPTQ;
    int zero_min = 255, sym = 1, act_order = 0;

    for (int64_t l = 0; l < fmt_src_model(j->src)->layers; l++)
        for (int r = 0; r < FMT_ROLES; r++) {
            const fmt_ref ref = { (fmt_role)r, l, FMT_QWEIGHT };
            qnt_group_facts f;

            if (!fmt_role_get(ref.role)->quant || !fmt_role_get(ref.role)->per_layer)
                continue;
            if (!fmt_src_has(j->src, ref) && gptq)
                Q_FAIL(err, Q_EUNSUPPORTED,
                       "%s: is not quantized, and configurations of GPTQ have no list of such "
                       "linears: use hf-awq, hf-ct or h5",
                       fmt_src_name(j->src, (fmt_ref){ ref.role, l, FMT_WEIGHT }, 0));
            if (!fmt_src_has(j->src, ref))
                continue;
            Q_TRY(qnt_group_facts_read(&f, j->src, ref.role, l, err));
            zero_min = f.zero_min < zero_min ? f.zero_min : zero_min;
            sym &= f.sym;
            act_order |= f.act_order;
            if (!gptq)
                Q_TRY(check_held(j, ref, f.act_order, err));
        }
    j->p.sym = sym;
    j->p.desc_act = act_order;
    if (gptq)
        j->p.kind = zero_min == 0 ? FMT_PACK_GPTQ_V2 : FMT_PACK_GPTQ;
    else
        j->p.kind = j->o->to == CVT_HF_AWQ ? FMT_PACK_AWQ : FMT_PACK_CT;
    j->p.layout = fmt_pack_layout_get(j->p.kind);
    j->r.format = j->p.layout->name;
    if (j->p.kind == FMT_PACK_AWQ && j->p.bits != 4)
        Q_FAIL(err, Q_EUNSUPPORTED, "%s: has %d-bit codes, AWQ holds 4: use hf-gptq, hf-ct or h5",
               fmt_src_dir(j->src), j->p.bits);
out:
    return st;
}

/* ---- tensors ----------------------------------------------------------------------------------
 */

static q_status make_name(char out[NAME_CAP], const cvt_unit *u, const char *suffix, q_err *err)
{
    return snprintf(out, NAME_CAP, "%s%s", u->module, suffix) < NAME_CAP
               ? Q_OK
               : q_fail(err, Q_EBUG, "%s: too long a name", u->module);
}

static q_status declare(void *self, const cvt_unit *u, q_err *err)
{
    q_status st = Q_OK;
    job *j = self;
    const int64_t shape[2] = { u->n1 - u->n0, u->K };
    char name[NAME_CAP];
    qnt_packed p;

    if (u->what == CVT_FLOAT && fmt_role_get(u->ref.role)->quant &&
        !(j->floats[j->n_floats++] = q_strdup(u->module)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", u->module);
    if (u->what != CVT_CODES) {
        Q_TRY(make_name(name, u, u->what == CVT_BIAS ? ".bias" : ".weight", err));
        Q_TRY(fmt_hf_declare(j->w, name, fmt_src_dtype(j->src, u->ref), u->K == 1 ? 1 : 2, shape,
                             err));
        j->r.bytes += (uint64_t)(shape[0] * u->K) * fmt_dtype_bytes(fmt_src_dtype(j->src, u->ref));
        goto out;
    }
    Q_TRY(qnt_packed_shapes(&p, &j->p, shape[0], u->K, u->module, err));
    for (int i = 0; i < QNT_ARRAYS; i++) {
        if (!p.a[i].suffix)
            continue;
        Q_TRY(make_name(name, u, p.a[i].suffix, err));
        Q_TRY(fmt_hf_declare(j->w, name, p.a[i].dtype, p.a[i].ndim, p.a[i].shape, err));
        j->r.bytes += qnt_array_bytes(&p.a[i]);
    }
    j->r.modules++;
out:
    return st;
}

static q_status write_codes(job *j, const cvt_unit *u, q_err *err)
{
    q_status st = Q_OK;
    qnt_packed p = { 0 };

    if (u->first) {
        qnt_tensor_free(&j->t);
        Q_TRY(qnt_load_grouped(&j->t, j->src, u->ref.role, u->ref.layer, err));
        cvt_digests_set(&j->digests, u->ref.role, u->ref.layer, &j->t);
    }
    Q_TRY(qnt_pack(&p, &j->t, u->n0, u->n1, &j->p, u->module, err));
    for (int i = 0; i < QNT_ARRAYS; i++) {
        const qnt_array *a = &p.a[i];

        if (a->suffix)
            Q_TRY(fmt_hf_write(j->w, a->data, qnt_array_bytes(a), err));
    }
out:
    qnt_packed_free(&p);
    return st;
}

static q_status write_float(job *j, const cvt_unit *u, q_err *err)
{
    q_status st = Q_OK;
    const int64_t rows = u->n1 - u->n0;
    const int64_t row = u->K * (int64_t)fmt_dtype_bytes(fmt_src_dtype(j->src, u->ref));
    const int64_t fit = STRIP_BYTES / row, strip = fit < 1 ? 1 : fit < rows ? fit : rows;
    char *buf = q_malloc((size_t)(strip * row));

    if (!buf)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %lld bytes", u->module, (long long)(strip * row));
    for (int64_t r = 0; r < rows; r += strip) {
        const int64_t n = r + strip < rows ? strip : rows - r;

        Q_TRY(cvt_unit_read(j->src, u, r, n, NULL, buf, err));
        Q_TRY(fmt_hf_write(j->w, buf, (size_t)(n * row), err));
    }
out:
    q_free(buf);
    return st;
}

static q_status write_unit(void *self, const cvt_unit *u, q_err *err)
{
    job *j = self;

    if (j->o->stop && *j->o->stop)
        return q_fail(err, Q_ECANCEL, "stopped by a signal: nothing is left");
    q_progress_add(j->progress, (uint64_t)((u->n1 - u->n0) * u->K));
    return u->what == CVT_CODES ? write_codes(j, u, err) : write_float(j, u, err);
}

/* ---- small files ------------------------------------------------------------------------------
 */

static q_status put_file(job *j, const char *name, const void *p, size_t n, q_err *err)
{
    q_status st = Q_OK;
    char *path = q_path_join(j->dir, name);

    if (!path)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", j->dir);
    Q_TRY(q_out_whole(path, 0, p, n, err));
    j->r.bytes += n;
out:
    q_free(path);
    return st;
}

static q_status put_json(job *j, const char *name, const fmt_json *doc, q_err *err)
{
    q_status st = Q_OK;
    q_buf text = { 0 };

    Q_TRY(fmt_json_print(&text, doc, 2, err));
    Q_TRY(q_buf_puts(&text, "\n", err));
    Q_TRY(put_file(j, name, text.data, text.size, err));
out:
    q_buf_free(&text);
    return st;
}

/* The source's configuration with the quantization_config of this format. */
static q_status put_configs(job *j, q_err *err)
{
    static const char key[] = "quantization_config";
    q_status st = Q_OK;
    const fmt_json *from = fmt_src_config(j->src);
    fmt_json *doc = NULL, *alone = NULL, *q;
    char tool[64];
    const char *blank = strchr(j->o->tool, ' ');

    snprintf(tool, sizeof tool, "%.*s%s%s", (int)strcspn(j->o->tool, " "), j->o->tool,
             blank ? ":" : "", blank ? blank + 1 : "");
    Q_TRY(fmt_json_new(&doc, err));
    for (fmt_json_iter *it = fmt_json_first(from); it; it = fmt_json_next(from, it))
        if (strcmp(fmt_json_key(it), key) != 0)
            Q_TRY(fmt_json_put_copy(doc, fmt_json_key(it), fmt_json_value(it), err));
    Q_TRY(fmt_json_put_obj(&q, doc, key, err));
    Q_TRY(fmt_packing_json(q, &j->p, j->floats, j->n_floats, tool, err));
    Q_TRY(put_json(j, CONFIG, doc, err));
    if (j->o->to != CVT_HF_GPTQ)
        goto out;
    Q_TRY(fmt_json_new(&alone, err));
    Q_TRY(fmt_packing_json(alone, &j->p, j->floats, j->n_floats, tool, err));
    Q_TRY(put_json(j, GPTQ_CONFIG, alone, err));
out:
    fmt_json_free(alone);
    fmt_json_free(doc);
    return st;
}

static q_status put_copies(job *j, q_err *err)
{
    q_status st = Q_OK;
    cvt_copy *v = NULL;
    size_t n = 0;
    q_buf bytes = { 0 };

    Q_TRY(cvt_copies_list(&v, &n, j->src, err));
    for (size_t i = 0; i < n; i++) {
        if (cvt_copy_is_config(v[i].name))
            continue;
        Q_TRY(cvt_copy_read(&bytes, j->src, &v[i], err));
        Q_TRY(put_file(j, v[i].name, bytes.data, bytes.size, err));
    }
out:
    q_buf_free(&bytes);
    cvt_copies_free(v, n);
    return st;
}

/* ---- all of it --------------------------------------------------------------------------------
 */

/* "a/b/" -> "a", "b"; "b" -> ".", "b" */
static q_status split(char **parent, char **name, const char *path, q_err *err)
{
    size_t n = strlen(path), at;

    while (n > 1 && path[n - 1] == '/')
        n--;
    for (at = n; at > 0 && path[at - 1] != '/';)
        at--;
    *name = q_strndup(path + at, n - at);
    *parent = at == 0 ? q_strdup(".") : q_strndup(path, at > 1 ? at - 1 : 1);
    if (!*name || !*parent)
        return q_fail(err, Q_ENOMEM, "%s: no memory", path);
    return q_name_is_plain(*name) ? Q_OK
                                  : q_fail(err, Q_EARG, "%s: is no name for a new directory", path);
}

static q_status write_tensors(job *j, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(fmt_hf_create(&j->w, j->dir, SHARD_BYTES, 0, err));
    Q_TRY(cvt_units_each(j->src, 0, declare, j, err));
    Q_TRY(cvt_units_each(j->src, 0, write_unit, j, err));
    Q_TRY(fmt_hf_commit(j->w, err));
    qnt_tensor_free(&j->t);
out:
    return st;
}

static q_status write_dir(job *j, q_err *err)
{
    q_status st = Q_OK;
    const cvt_export_opts *o = j->o;
    cvt_outdir *d = NULL;
    char *parent = NULL, *name = NULL;

    Q_TRY(split(&parent, &name, o->out, err));
    Q_TRY(cvt_outdir_open(&d, parent, name, o->force, o->log, err));
    j->dir = cvt_outdir_part(d);
    Q_TRY(write_tensors(j, err));
    Q_TRY(put_configs(j, err));
    Q_TRY(put_copies(j, err));
    Q_TRY(cvt_digests_compare(&j->digests, j->dir, o->out, err));
    Q_TRY(cvt_outdir_publish(d, err));
out:
    fmt_hf_writer_close(j->w);
    cvt_outdir_close(d);
    q_free(parent);
    q_free(name);
    return st;
}

q_status cvt_export(cvt_export_result *r, const cvt_export_opts *o, q_err *err)
{
    q_status st = Q_OK;
    job j = { .o = o, .src = o->src };
    int whole;

    if (!fmt_src_packing(o->src))
        Q_FAIL(err, Q_EUNSUPPORTED,
               "%s: is not quantized by groups: make codes of it with qwen-gptq or qwen-awq",
               fmt_src_dir(o->src));
    if (q_path_same(o->out, fmt_src_dir(o->src)))
        Q_FAIL(err, Q_EARG, "%s: the output is the input: choose another --output", o->out);
    if (fmt_src_has(o->src, (fmt_ref){ FMT_ATTN_QKV, 0, FMT_K_SCALE }))
        q_log_warn(
            o->log,
            "%s: its scales of an int8 key/value cache stay behind: directories of this kind "
            "have no place for them",
            fmt_src_dir(o->src));
    if (strcmp(fmt_src_kind(o->src), "h5") == 0) /* a damaged code would find its way into a copy */
        Q_TRY(fmt_h5_verify(fmt_src_dir(o->src), &whole, err));
    j.p = *fmt_src_packing(o->src);
    j.floats = q_calloc((size_t)fmt_src_model(o->src)->layers * FMT_ROLES * FMT_MAX_PIECES,
                        sizeof *j.floats);
    if (!j.floats)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for names", fmt_src_dir(o->src));
    Q_TRY(look_at_roles(&j, err));
    Q_TRY(cvt_check_space(o->out, fmt_src_bytes(o->src) + fmt_src_bytes(o->src) / 64, err));
    Q_TRY(cvt_digests_alloc(&j.digests, fmt_src_model(o->src), err));
    j.progress = q_progress_open(o->log, "writing",
                                 (uint64_t)fmt_model_params(fmt_src_model(o->src)), "weights");
    Q_TRY(write_dir(&j, err));
    if (r)
        *r = j.r;
out:
    q_progress_close(j.progress);
    for (size_t i = 0; j.floats && i < j.n_floats; i++)
        q_free(j.floats[i]);
    q_free(j.floats);
    qnt_tensor_free(&j.t);
    cvt_digests_free(&j.digests);
    return st;
}
