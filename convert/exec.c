/* The run: threads take the files of the plan in turn, then the files of the source directory and
 * the two text files follow; they are small, and the manifest needs all hashes.  Threads differ in
 * what they wait for, disk or memory, and so overlap without queues between them. */
#include "convert/exec.h"

#include <stdio.h>
#include <string.h>

#include "convert/item.h"
#include "convert/outdir.h"
#include "convert/pool.h"
#include "convert/sq_layer.h"
#include "formats/base/q_file.h"

#define COPY_BYTES ((size_t)1 << 20)

typedef struct run {
    const cvt_plan *p;
    const cvt_run_opts *o;
    cvt_sq *sq;    /* of plans that make files, else NULL */
    size_t first;  /* item that job 0 stands for */
    cvt_worker *w; /* [p->opt.threads], n_workers of them initialised */
    int n_workers;
    cvt_outcome *done; /* [p->n_items] */
    q_progress *progress;
} run;

/* ---- values --------------------------------------------------------------------------------- */

static const char *tensor_name(const run *r, size_t i, int seg)
{
    const fmt_ft_file *f = &r->p->item[i].file;

    return fmt_src_name(r->p->src, f->ref, f->seg[seg].box.n0);
}

/* What to say about a tensor; 0: nothing. */
static int describe(char *out, size_t cap, const run *r, const char *name, const cvt_odd *odd)
{
    const fmt_dtype store = r->p->opt.store;

    if (odd->nonfinite)
        snprintf(out, cap, "%s: %llu values are NaN or infinite: is the checkpoint damaged?", name,
                 (unsigned long long)odd->nonfinite);
    else if (odd->clipped)
        snprintf(out, cap, "%s: %llu values lie outside the range of %s: use -t %s", name,
                 (unsigned long long)odd->clipped, fmt_dtype_name(store),
                 store == FMT_F16 ? "bfloat16" : "float32");
    return odd->nonfinite || odd->clipped;
}

static void warn(const run *r, const char *name, cvt_odd *odd)
{
    char text[Q_ERR_MSG];

    if (describe(text, sizeof text, r, name, odd))
        q_log_warn(r->o->log, "%s", text);
    memset(odd, 0, sizeof *odd);
}

/* One warning for each tensor: its files and segments follow one another in the plan.  A smoothed
 * layer has no odd values: they stopped it. */
static void report_values(cvt_result *res, const run *r)
{
    const char *last = "";
    cvt_odd sum = { 0 };

    for (size_t i = 0; i < r->p->n_items; i++)
        for (int k = 0; r->p->item[i].origin == CVT_SOURCE && k < r->p->item[i].file.n_seg; k++) {
            const cvt_odd odd = r->done[i].seg[k];
            const char *name = tensor_name(r, i, k);

            if (strcmp(name, last) != 0)
                warn(r, last, &sum);
            last = name;
            sum.clipped += odd.clipped;
            sum.nonfinite += odd.nonfinite;
            res->clipped += odd.clipped;
            res->nonfinite += odd.nonfinite;
        }
    warn(r, last, &sum);
}

static q_status convert_one(void *self, int thread, size_t job, q_err *err)
{
    run *r = self;
    const size_t i = r->first + job;
    const int judged = r->o->strict && r->p->item[i].origin == CVT_SOURCE;
    char text[Q_ERR_MSG];
    q_status st = cvt_item_convert(&r->w[thread], i, &r->done[i], err);

    for (int k = 0; st == Q_OK && judged && k < r->p->item[i].file.n_seg; k++)
        if (describe(text, sizeof text, r, tensor_name(r, i, k), &r->done[i].seg[k]))
            st = q_fail(err, Q_EFORMAT, "%s (--strict)", text);
    return st;
}

/* ---- the rest of the directory -------------------------------------------------------------- */

/* Closes the open file of the sink and enters it. */
static q_status enter(cvt_manifest *m, cvt_sink *s, const char *name, q_err *err)
{
    q_status st = Q_OK;
    char sha256[CVT_HEX];
    uint64_t size = 0;

    Q_TRY(cvt_sink_close(s, &size, sha256, err));
    Q_TRY(cvt_manifest_add(m, name, size, sha256, err));
out:
    return st;
}

static q_status copy_file(cvt_sink *s, const char *dir, const cvt_copy *c, char *buf, q_err *err)
{
    q_status st = Q_OK;
    q_file *f = NULL;

    Q_TRY(q_file_open_in(&f, dir, c->name, err));
    if (q_file_bytes(f) != c->bytes)
        Q_FAIL(err, Q_EIO, "%s: %llu bytes, had %llu before: something writes it", q_file_path(f),
               (unsigned long long)q_file_bytes(f), (unsigned long long)c->bytes);
    Q_TRY(cvt_sink_open(s, c->name, err));
    for (uint64_t at = 0; at < c->bytes; at += COPY_BYTES) {
        const size_t n = c->bytes - at < COPY_BYTES ? (size_t)(c->bytes - at) : COPY_BYTES;

        Q_TRY(q_file_pread(f, buf, n, at, err));
        Q_TRY(cvt_sink_write(s, buf, n, err));
    }
out:
    q_file_close(f);
    return st;
}

/* Everything but the manifest and its own entry. */
static q_status write_small(cvt_manifest *m, const run *r, cvt_sink *s, q_err *err)
{
    q_status st = Q_OK;
    const cvt_plan *p = r->p;
    char *buf = q_malloc(COPY_BYTES);

    if (!buf)
        Q_FAIL(err, Q_ENOMEM, "no memory to copy files");
    for (size_t i = 0; i < p->n_copies; i++) {
        Q_TRY(copy_file(s, fmt_src_dir(p->src), &p->copy[i], buf, err));
        Q_TRY(enter(m, s, p->copy[i].name, err));
    }
    Q_TRY(cvt_sink_open(s, "config.ini", err));
    Q_TRY(cvt_sink_write(s, p->ini.data, p->ini.size, err));
    Q_TRY(enter(m, s, "config.ini", err));
    for (size_t i = 0; i < p->n_items; i++)
        Q_TRY(cvt_manifest_add(m, p->item[i].file.name, r->done[i].size, r->done[i].sha256, err));
out:
    q_free(buf);
    return st;
}

static q_status write_rest(cvt_result *res, const run *r, cvt_sink *s, q_err *err)
{
    q_status st = Q_OK;
    cvt_manifest m = { .ranks = r->p->opt.ranks,
                       .kv_copies = cvt_plan_kv_copies(r->p),
                       .store = r->p->opt.store };
    q_buf text = { 0 };
    char sha256[CVT_HEX];

    snprintf(m.tool, sizeof m.tool, "%s", r->p->opt.tool);
    Q_TRY(write_small(&m, r, s, err));
    cvt_manifest_sort(&m);
    Q_TRY(cvt_manifest_root(res->root_sha256, &m, err));
    Q_TRY(cvt_manifest_text(&text, &m, err));
    Q_TRY(cvt_sink_open(s, CVT_MANIFEST, err));
    Q_TRY(cvt_sink_write(s, text.data, text.size, err));
    Q_TRY(cvt_sink_close(s, &res->bytes, sha256, err));
    res->files = m.n + 1;
    for (size_t i = 0; i < m.n; i++)
        res->bytes += m.entry[i].size;
out:
    q_buf_free(&text);
    cvt_manifest_free(&m);
    return st;
}

/* ---- all of it ------------------------------------------------------------------------------ */

static q_status check_paths(const cvt_plan *p, const char *out, q_err *err)
{
    q_status st = Q_OK;
    const char *in = fmt_src_dir(p->src);
    char *path = q_path_join(out, p->name);

    if (!path)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", out);
    if (q_path_same(in, out) || q_path_same(in, path))
        Q_FAIL(err, Q_EARG, "%s: the output is the input: choose another --output",
               q_path_same(in, out) ? out : path);
out:
    q_free(path);
    return st;
}

q_status cvt_run_check(const cvt_plan *p, const cvt_run_opts *o, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(check_paths(p, o->out, err));
    Q_TRY(cvt_outdir_check(o->out, p->name, o->force, err));
    Q_TRY(cvt_plan_check_space(p, o->out, err));
out:
    return st;
}

static q_status check_stop(const cvt_run_opts *o, q_err *err)
{
    return o->stop && *o->stop ? q_fail(err, Q_ECANCEL, "stopped by a signal: nothing is left")
                               : Q_OK;
}

static q_status start(run *r, const cvt_outdir *d, q_err *err)
{
    q_status st = Q_OK;
    const cvt_plan *p = r->p;

    r->progress = q_progress_open(r->o->log, "converting", p->bytes, "B");
    r->done = q_calloc(p->n_items, sizeof *r->done);
    r->w = q_calloc((size_t)p->opt.threads, sizeof *r->w);
    if (!r->done || !r->w)
        Q_FAIL(err, Q_ENOMEM, "no memory for %zu hashes", p->n_items);
    if (cvt_plan_makes(p))
        Q_TRY(cvt_sq_open(&r->sq, p, err));
    for (; r->n_workers < p->opt.threads; r->n_workers++)
        cvt_worker_init(&r->w[r->n_workers], p, r->sq, cvt_outdir_fd(d), cvt_outdir_part(d),
                        r->progress);
    for (int t = 0; t < r->n_workers; t++)
        Q_TRY(cvt_worker_alloc(&r->w[t], err));
out:
    return st;
}

static void finish(run *r)
{
    if (!r)
        return;
    for (int t = 0; t < r->n_workers; t++)
        cvt_worker_free(&r->w[t]);
    cvt_sq_close(r->sq);
    q_progress_close(r->progress);
    q_free(r->w);
    q_free(r->done);
    q_free(r);
}

/* n items from r->first on. */
static q_status convert_some(run *r, size_t n, q_err *err)
{
    return cvt_pool_run(&(cvt_pool){ .n = n,
                                     .threads = r->p->opt.threads,
                                     .stop = r->o->stop,
                                     .job = convert_one,
                                     .self = r },
                        err);
}

/* Everything at once, or, when layers are made, one after another. */
static q_status convert_all(run *r, q_err *err)
{
    q_status st = Q_OK;
    const cvt_plan *p = r->p;
    const int64_t layers = fmt_src_model(p->src)->layers;
    const size_t per_layer = (p->n_items - p->n_shared) / (size_t)layers;

    if (!r->sq)
        return convert_some(r, p->n_items, err);
    Q_TRY(convert_some(r, p->n_shared, err));
    for (int64_t l = 0; l < layers; l++) {
        Q_TRY(cvt_sq_load(r->sq, l, r->o->stop, err));
        r->first = p->n_shared + (size_t)l * per_layer;
        Q_TRY(convert_some(r, per_layer, err));
    }
out:
    return st;
}

q_status cvt_run(cvt_result *res, const cvt_plan *p, const cvt_run_opts *o, q_err *err)
{
    q_status st = Q_OK;
    cvt_outdir *d = NULL;
    run *r = NULL;

    *res = (cvt_result){ .ranks = p->opt.ranks, .store = p->opt.store };
    Q_TRY(check_paths(p, o->out, err));
    Q_TRY(cvt_outdir_open(&d, o->out, p->name, o->force, o->log, err));
    Q_TRY(cvt_plan_check_space(p, o->out, err));
    if (!(r = q_calloc(1, sizeof *r)))
        Q_FAIL(err, Q_ENOMEM, "no memory for a run");
    r->p = p;
    r->o = o;
    if (!(res->path = q_strdup(cvt_outdir_path(d))))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", o->out);
    Q_TRY(start(r, d, err));
    Q_TRY(convert_all(r, err));
    Q_TRY(check_stop(o, err));
    for (int t = 0; t < r->n_workers; t++)
        Q_TRY(cvt_sink_flush(&r->w[t].sink, err));
    Q_TRY(write_rest(res, r, &r->w[0].sink, err));
    Q_TRY(cvt_sink_flush(&r->w[0].sink, err));
    Q_TRY(check_stop(o, err));
    Q_TRY(cvt_outdir_publish(d, err));
    report_values(res, r);
out:
    finish(r);
    cvt_outdir_close(d);
    return st;
}

q_status cvt_result_json(fmt_json *doc, const cvt_result *r, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(fmt_json_put_str(doc, "output", r->path, err));
    Q_TRY(fmt_json_put_int(doc, "tensor_parallelism", r->ranks, err));
    Q_TRY(fmt_json_put_str(doc, "store", fmt_dtype_name(r->store), err));
    Q_TRY(fmt_json_put_int(doc, "files", (int64_t)r->files, err));
    Q_TRY(fmt_json_put_int(doc, "bytes", (int64_t)r->bytes, err));
    Q_TRY(fmt_json_put_str(doc, "root_sha256", r->root_sha256, err));
    Q_TRY(fmt_json_put_int(doc, "clipped", (int64_t)r->clipped, err));
    Q_TRY(fmt_json_put_int(doc, "nonfinite", (int64_t)r->nonfinite, err));
out:
    return st;
}

void cvt_result_free(cvt_result *r)
{
    q_free(r->path);
    r->path = NULL;
}
