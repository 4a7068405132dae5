/* Opening a model archive.
 *
 * The HDF5 library was not written for hostile files, so it looks at the file in a process of its
 * own (apart.h) and tells what is there and where: a flat list of records.  The records are checked
 * as if they were a file themselves: a dataset must be as large as its type and shape say, and end
 * inside the file; so must chunks be, each for itself.  From then on data are read like those of
 * any other file, or by chunks (arch_chunk.c). */
#include "formats/arch.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/apart.h"
#include "formats/arch_impl.h"
#include "formats/h5file.h"

static void list_free(fmt_arch_list *l)
{
    for (size_t i = 0; i < l->n; i++) {
        q_free(l->e[i].name);
        q_free(l->e[i].chunks.v);
    }
    q_free(l->e);
}

q_status fmt_arch_add(fmt_arch_entry **out, fmt_arch_list *l, const char *name, q_err *err)
{
    const size_t cap = l->cap ? 2 * l->cap : 256;
    fmt_arch_entry *e;

    if (l->n >= FMT_ST_MAX_COUNT)
        return q_fail(err, Q_EFORMAT, "more than %u datasets", FMT_ST_MAX_COUNT);
    if (l->n == l->cap) {
        if (!(e = q_calloc(cap, sizeof *e)))
            return q_fail(err, Q_ENOMEM, "no memory for %zu datasets", cap);
        if (l->n)
            memcpy(e, l->e, l->n * sizeof *e);
        q_free(l->e);
        l->e = e;
        l->cap = cap;
    }
    e = &l->e[l->n];
    if (!(e->name = q_strdup(name)))
        return q_fail(err, Q_ENOMEM, "no memory for '%s'", name);
    e->t.name = e->name;
    e->lost = (fmt_lost){ NAN, NAN };
    l->n++;
    *out = e;
    return Q_OK;
}

/* ---- from process to process ------------------------------------------------------------------
 */

/* A record: this, and behind it the name and the chunks. */
typedef struct record {
    fmt_tensor t;
    fmt_lost lost;
    fmt_chunk_form form;
    size_t n_name, n_chunk;
    int is_file;
} record;

static q_status put_list(q_buf *out, const fmt_arch_list *l, int is_file, q_err *err)
{
    q_status st = Q_OK;

    for (size_t i = 0; i < l->n; i++) {
        const fmt_h5_chunks *c = &l->e[i].chunks;
        const record r = { l->e[i].t, l->e[i].lost, c->form, strlen(l->e[i].name), c->n, is_file };

        Q_TRY(q_buf_put(out, &r, sizeof r, err));
        Q_TRY(q_buf_put(out, l->e[i].name, r.n_name, err));
        if (c->n)
            Q_TRY(q_buf_put(out, c->v, c->n * sizeof *c->v, err));
    }
out:
    return st;
}

/* In the child. */
static q_status tell(void *self, q_buf *out, q_err *err)
{
    q_status st = Q_OK;
    fmt_arch *a = self;

    Q_TRY(fmt_arch_walk(a, err));
    Q_TRY(q_buf_put(out, &a->packing, sizeof a->packing, err));
    Q_TRY(put_list(out, &a->tensors, 0, err));
    Q_TRY(put_list(out, &a->files, 1, err));
out:
    return st;
}

static q_status check_record(const fmt_arch *a, const record *r, const char *name, q_err *err)
{
    const uint64_t size = q_file_bytes(a->f);
    size_t bytes = 0;
    int ok = r->is_file;

    if (r->n_chunk == 0 && (r->t.bytes > size || r->t.offset > size - r->t.bytes))
        return q_fail(err, Q_EFORMAT,
                      "%s: '%s' ends at byte %llu, the file has %llu: cut short, fetch it again",
                      a->path, name,
                      (unsigned long long)r->t.offset + (unsigned long long)r->t.bytes,
                      (unsigned long long)size);
    if (!r->is_file && (unsigned)r->t.dtype < FMT_DTYPES && r->t.ndim >= 1 &&
        r->t.ndim <= FMT_MAX_DIMS) {
        bytes = fmt_dtype_bytes(r->t.dtype);
        ok = 1;
        for (int i = 0; i < r->t.ndim; i++)
            ok = ok && r->t.shape[i] >= 0 && q_mul_ok(bytes, (size_t)r->t.shape[i], &bytes);
        ok = ok && bytes == r->t.bytes;
    }
    return ok ? Q_OK
              : q_fail(err, Q_EFORMAT, "%s: '%s' has %llu bytes, its shape wants %zu", a->path,
                       name, (unsigned long long)r->t.bytes, bytes);
}

/* The chunks of a record, which lie at p, into an entry. */
static q_status take_chunks(fmt_arch *a, fmt_arch_entry *e, const record *r, const char *p,
                            q_err *err)
{
    q_status st = Q_OK;
    fmt_h5_chunks *c = &e->chunks;

    if (r->n_chunk == 0)
        return Q_OK;
    c->form = r->form;
    if (!(c->v = q_calloc(r->n_chunk, sizeof *c->v)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %zu chunks", a->path, r->n_chunk);
    c->n = r->n_chunk;
    memcpy(c->v, p, c->n * sizeof *c->v);
    Q_TRY(fmt_h5_check_chunks(a->path, e->name, c, q_file_bytes(a->f), err));
    if (c->n != r->t.bytes / c->form.bytes + (r->t.bytes % c->form.bytes != 0))
        Q_FAIL(err, Q_EFORMAT, "%s: '%s' has %zu chunks of %llu bytes, its shape wants %llu bytes",
               a->path, e->name, c->n, (unsigned long long)c->form.bytes,
               (unsigned long long)r->t.bytes);
out:
    return st;
}

static q_status hear(fmt_arch *a, const q_buf *in, q_err *err)
{
    q_status st = Q_OK;
    size_t at = sizeof a->packing;
    char name[FMT_ST_MAX_NAME + 1];
    fmt_arch_entry *e;
    record r;

    if (in->size < at)
        Q_FAIL(err, Q_EFORMAT, "%s: damaged: no list of its datasets", a->path);
    memcpy(&a->packing, in->data, at);
    a->packing.kind = FMT_PACK_H5;
    a->packing.layout = fmt_pack_layout_get(FMT_PACK_H5);
    while (at < in->size) {
        if (in->size - at < sizeof r)
            Q_FAIL(err, Q_EFORMAT, "%s: damaged: half a list of its datasets", a->path);
        memcpy(&r, in->data + at, sizeof r);
        at += sizeof r;
        if (r.n_name > FMT_ST_MAX_NAME || r.n_name > in->size - at)
            Q_FAIL(err, Q_EFORMAT, "%s: a name has %zu bytes, at most %u are read", a->path,
                   r.n_name, FMT_ST_MAX_NAME);
        memcpy(name, in->data + at, r.n_name);
        name[r.n_name] = '\0';
        at += r.n_name;
        if (r.n_chunk > (in->size - at) / sizeof(fmt_h5_chunk))
            Q_FAIL(err, Q_EFORMAT, "%s: damaged: half a list of chunks of '%s'", a->path, name);
        Q_TRY(check_record(a, &r, name, err));
        Q_TRY(fmt_arch_add(&e, r.is_file ? &a->files : &a->tensors, name, err));
        r.t.name = e->name;
        e->t = r.t;
        e->lost = r.lost;
        Q_TRY(take_chunks(a, e, &r, in->data + at, err));
        at += r.n_chunk * sizeof(fmt_h5_chunk);
    }
out:
    return st;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const fmt_arch_entry *)a)->name, ((const fmt_arch_entry *)b)->name);
}

q_status fmt_arch_open(fmt_arch **out, const char *path, q_err *err)
{
    q_status st = Q_OK;
    fmt_arch *a = q_calloc(1, sizeof *a);
    q_buf told = { 0 };

    if (!a || !(a->path = q_strdup(path)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    Q_TRY(fmt_arch_cache_open(&a->cache, err));
    Q_TRY(q_file_open(&a->f, path, err));
    Q_TRY(fmt_apart(&told, path, tell, a, err));
    Q_TRY(hear(a, &told, err));
    if (a->tensors.n)
        qsort(a->tensors.e, a->tensors.n, sizeof *a->tensors.e, by_name);
    for (size_t i = 1; i < a->tensors.n; i++)
        if (by_name(&a->tensors.e[i - 1], &a->tensors.e[i]) == 0)
            Q_FAIL(err, Q_EFORMAT, "%s: tensor '%s' is there twice", path, a->tensors.e[i].name);
    *out = a;
    a = NULL;
out:
    q_buf_free(&told);
    fmt_arch_close(a);
    return st;
}

void fmt_arch_close(fmt_arch *a)
{
    if (!a)
        return;
    list_free(&a->tensors);
    list_free(&a->files);
    fmt_arch_cache_close(a->cache);
    q_file_close(a->f);
    q_free(a->path);
    q_free(a);
}

/* ---- reading ----------------------------------------------------------------------------------
 */

const char *fmt_arch_path(const fmt_arch *a)
{
    return a->path;
}

const fmt_packing *fmt_arch_packing(const fmt_arch *a)
{
    return &a->packing;
}

size_t fmt_arch_count(const fmt_arch *a)
{
    return a->tensors.n;
}

const fmt_tensor *fmt_arch_tensor(const fmt_arch *a, size_t i)
{
    return i < a->tensors.n ? &a->tensors.e[i].t : NULL;
}

size_t fmt_arch_find(const fmt_arch *a, const char *name)
{
    const fmt_arch_entry key = { .name = (char *)(uintptr_t)name }; /* only compared */
    const fmt_arch_entry *e =
        a->tensors.n ? bsearch(&key, a->tensors.e, a->tensors.n, sizeof *e, by_name) : NULL;

    return e ? (size_t)(e - a->tensors.e) : FMT_NONE;
}

q_status fmt_arch_read(const fmt_arch *a, size_t i, uint64_t from, size_t n, void *dst, q_err *err)
{
    const fmt_tensor *t = &a->tensors.e[i].t;

    assert(i < a->tensors.n);
    if (from > t->bytes || n > t->bytes - from)
        return q_fail(err, Q_ESHAPE, "%s: '%s' has %llu bytes, asked for %zu at %llu", a->path,
                      t->name, (unsigned long long)t->bytes, n, (unsigned long long)from);
    if (a->tensors.e[i].chunks.n)
        return fmt_arch_read_chunks(a, &a->tensors.e[i], from, n, dst, err);
    return n ? q_file_pread(a->f, dst, n, t->offset + from, err) : Q_OK;
}

fmt_lost fmt_arch_lost(const fmt_arch *a, const char *module)
{
    char name[FMT_H5_NAME];
    const size_t i = snprintf(name, sizeof name, "%s.qweight", module) < (int)sizeof name
                         ? fmt_arch_find(a, name)
                         : FMT_NONE;

    return i == FMT_NONE ? (fmt_lost){ NAN, NAN } : a->tensors.e[i].lost;
}

size_t fmt_arch_files(const fmt_arch *a)
{
    return a->files.n;
}

const char *fmt_arch_file_name(const fmt_arch *a, size_t i, uint64_t *bytes)
{
    assert(i < a->files.n);
    *bytes = a->files.e[i].t.bytes;
    return a->files.e[i].name;
}

size_t fmt_arch_file_find(const fmt_arch *a, const char *name)
{
    for (size_t i = 0; i < a->files.n; i++)
        if (strcmp(a->files.e[i].name, name) == 0)
            return i;
    return FMT_NONE;
}

q_status fmt_arch_file_read(const fmt_arch *a, const char *name, size_t max, q_buf *out, q_err *err)
{
    q_status st = Q_OK;
    const size_t i = fmt_arch_file_find(a, name);
    char *p = NULL;
    size_t n;

    if (i == FMT_NONE)
        Q_FAIL(err, Q_ENOINPUT, "%s: holds no %s", a->path, name);
    if (a->files.e[i].t.bytes > max)
        Q_FAIL(err, Q_EFORMAT, "%s: %s has %llu bytes, at most %zu are read", a->path, name,
               (unsigned long long)a->files.e[i].t.bytes, max);
    n = (size_t)a->files.e[i].t.bytes;
    q_buf_clear(out);
    if (n == 0) {
        Q_TRY(q_buf_puts(out, "", err));
        goto out;
    }
    if (!(p = q_malloc(n)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %zu bytes of %s", a->path, n, name);
    Q_TRY(q_file_pread(a->f, p, n, a->files.e[i].t.offset, err));
    Q_TRY(q_buf_put(out, p, n, err));
out:
    q_free(p);
    return st;
}

int fmt_arch_place(char *out, size_t cap, const char *module, const char *leaf)
{
    return snprintf(out, cap, "/tensors/%s%s%s", module, leaf ? "/" : "", leaf ? leaf : "") <
           (int)cap;
}
