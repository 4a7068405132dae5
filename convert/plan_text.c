/* A plan in words: the table of --dry-run, and the same for programs. */
#include "convert/plan.h"

#include <stdio.h>
#include <string.h>

/* The source tensors that a file is cut from, in order, each once.  n_names: at most
 * FMT_MAX_PIECES. */
static int sources(const char *names[FMT_MAX_PIECES], const cvt_plan *p, const cvt_item *it)
{
    int n = 0;

    for (int k = 0; it->origin != CVT_SCALES && k < it->file.n_seg; k++) {
        const char *name = fmt_src_name(p->src, cvt_plan_source(it), it->file.seg[k].box.n0);

        if (n == 0 || strcmp(names[n - 1], name) != 0)
            names[n++] = name;
    }
    return n;
}

static void shape_text(char out[48], const fmt_ft_file *f)
{
    if (f->cols == 1 && !f->transposed)
        snprintf(out, 48, "[%lld]", (long long)f->rows);
    else
        snprintf(out, 48, "[%lld, %lld]", (long long)f->rows, (long long)f->cols);
}

static q_status put_row(q_buf *out, const char *file, const char *shape, const char *cast,
                        uint64_t bytes, const char *source, q_err *err)
{
    return q_buf_printf(out, err, "%-60s %-16s %-20s %14llu  %s\n", file, shape, cast,
                        (unsigned long long)bytes, source);
}

static q_status put_item(q_buf *out, const cvt_plan *p, const cvt_item *it, q_err *err)
{
    q_status st = Q_OK;
    const char *names[FMT_MAX_PIECES];
    const int n = sources(names, p, it);
    q_buf source = { 0 };
    char shape[48], cast[48];

    shape_text(shape, &it->file);
    snprintf(cast, sizeof cast, "%s%s%s", fmt_dtype_name(it->from),
             it->from == it->file.dtype ? "" : " -> ",
             it->from == it->file.dtype ? "" : fmt_dtype_name(it->file.dtype));
    for (int k = 0; k < n; k++)
        Q_TRY(q_buf_printf(&source, err, "%s%s", k ? ", " : "", names[k]));
    if (n == 0)
        Q_TRY(q_buf_puts(&source, "calibration", err));
    Q_TRY(put_row(out, it->file.name, shape, cast, it->bytes, source.data, err));
out:
    q_buf_free(&source);
    return st;
}

q_status cvt_plan_text(q_buf *out, const cvt_plan *p, q_err *err)
{
    q_status st = Q_OK;

    const fmt_model *m = fmt_src_model(p->src);

    q_buf_clear(out);
    Q_TRY(q_buf_printf(out, err, "family %s, %lld parameters\n", m->family->model_type,
                       (long long)fmt_model_params(m)));
    Q_TRY(q_buf_printf(out, err, "%-60s %-16s %-20s %14s  %s\n", "file", "shape", "type", "bytes",
                       "from"));
    for (size_t i = 0; i < p->n_items; i++)
        Q_TRY(put_item(out, p, &p->item[i], err));
    for (size_t i = 0; i < p->n_copies; i++)
        Q_TRY(put_row(out, p->copy[i].name, "", "copy", p->copy[i].bytes, p->copy[i].name, err));
    Q_TRY(put_row(out, "config.ini", "", "text", p->ini.size, "config.json and options", err));
    if (p->opt.smooth && p->opt.alpha == CVT_ALPHA_AUTO)
        Q_TRY(q_buf_puts(out,
                         "smoothed by what calibration chooses, float and int8 weights; one layer "
                         "at a time in float32\n",
                         err));
    else if (p->opt.smooth)
        Q_TRY(q_buf_printf(
            out, err, "smoothed by %g, float and int8 weights; one layer at a time in float32\n",
            p->opt.alpha));
    if (cvt_plan_kv_copies(p) > 1)
        Q_TRY(q_buf_printf(out, err,
                           "%d ranks share %lld key/value heads: each head is stored %d times\n",
                           p->opt.ranks, (long long)m->n_kv, cvt_plan_kv_copies(p)));
    Q_TRY(q_buf_printf(out, err,
                       "%llu files with %s, %llu bytes on disk, %llu bytes of memory with %d "
                       "threads\n",
                       (unsigned long long)p->n_files, CVT_MANIFEST, (unsigned long long)p->bytes,
                       (unsigned long long)p->memory, p->opt.threads));
out:
    return st;
}

static q_status json_item(fmt_json *list, const cvt_plan *p, const cvt_item *it, q_err *err)
{
    q_status st = Q_OK;
    const char *names[FMT_MAX_PIECES];
    const int n = sources(names, p, it);
    fmt_json *o, *a;

    Q_TRY(fmt_json_put_obj(&o, list, NULL, err));
    Q_TRY(fmt_json_put_str(o, "file", it->file.name, err));
    Q_TRY(fmt_json_put_arr(&a, o, "shape", err));
    Q_TRY(fmt_json_put_int(a, NULL, it->file.rows, err));
    if (it->file.cols != 1 || it->file.transposed)
        Q_TRY(fmt_json_put_int(a, NULL, it->file.cols, err));
    Q_TRY(fmt_json_put_str(o, "from", fmt_dtype_name(it->from), err));
    Q_TRY(fmt_json_put_str(o, "to", fmt_dtype_name(it->file.dtype), err));
    Q_TRY(fmt_json_put_int(o, "bytes", (int64_t)it->bytes, err));
    Q_TRY(fmt_json_put_arr(&a, o, "tensors", err));
    for (int k = 0; k < n; k++)
        Q_TRY(fmt_json_put_str(a, NULL, names[k], err));
out:
    return st;
}

q_status cvt_plan_json(fmt_json *doc, const cvt_plan *p, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *list, *o;

    Q_TRY(fmt_json_put_str(doc, "family", fmt_src_model(p->src)->family->model_type, err));
    Q_TRY(fmt_json_put_int(doc, "parameters", fmt_model_params(fmt_src_model(p->src)), err));
    Q_TRY(fmt_json_put_int(doc, "tensor_parallelism", p->opt.ranks, err));
    Q_TRY(fmt_json_put_int(doc, "kv_copies", cvt_plan_kv_copies(p), err));
    Q_TRY(fmt_json_put_str(doc, "store", fmt_dtype_name(p->opt.store), err));
    Q_TRY(fmt_json_put_int(doc, "files", (int64_t)p->n_files, err));
    Q_TRY(fmt_json_put_int(doc, "bytes", (int64_t)p->bytes, err));
    Q_TRY(fmt_json_put_int(doc, "memory", (int64_t)p->memory, err));
    Q_TRY(fmt_json_put_int(doc, "threads", p->opt.threads, err));
    if (p->layout.sets & FMT_FT_W8A8)
        Q_TRY(fmt_json_put_real(doc, "smoothquant", p->layout.alpha, err));
    if (p->layout.sets & FMT_FT_KV8)
        Q_TRY(fmt_json_put_bool(doc, "calibrate_kv_cache", 1, err));
    Q_TRY(fmt_json_put_arr(&list, doc, "plan", err));
    for (size_t i = 0; i < p->n_items; i++)
        Q_TRY(json_item(list, p, &p->item[i], err));
    Q_TRY(fmt_json_put_arr(&list, doc, "copies", err));
    for (size_t i = 0; i < p->n_copies; i++) {
        Q_TRY(fmt_json_put_obj(&o, list, NULL, err));
        Q_TRY(fmt_json_put_str(o, "file", p->copy[i].name, err));
        Q_TRY(fmt_json_put_int(o, "bytes", (int64_t)p->copy[i].bytes, err));
    }
out:
    return st;
}
