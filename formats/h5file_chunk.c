/* Datasets in chunks: writing them, and where their chunks lie.
 *
 * A chunk is a number of whole rows of the first dimension, at most CHUNK_BYTES, so that a dataset
 * is its chunks one after another; the last one is filled up with zeros.  The library keeps the
 * index, the chunks are packed and unpacked here (chunk.h), several at once where they are written.
 * What it tells of a file that is read is checked as everything is: a dataset may not claim more
 * than its chunks can hold, nor they lie outside the file, before anything is allocated for it. */
#include <string.h>

#include "formats/base/q_file.h"
#include "formats/h5file_impl.h"

#define CHUNK_BYTES ((hsize_t)1 << 20) /* fits into the cache of other readers */
#define CHUNK_LEAST ((hsize_t)4 << 10) /* fewer bytes stay as they are */
#define AT_ONCE     16                 /* chunks that are packed together */

/* ---- writing --------------------------------------------------------------------------------- */

q_status fmt_h5_chunk_plan(fmt_h5_rows *r, hid_t plist, int compress, hid_t type, hid_t space)
{
    const int ndim = H5Sget_simple_extent_ndims(space);
    hsize_t dims[H5S_MAX_RANK] = { 0 }, row, chunk[FMT_H5_DIMS];

    *r = (fmt_h5_rows){ .ndim = ndim };
    if (!compress || ndim < 1 || ndim > FMT_H5_DIMS ||
        H5Sget_simple_extent_dims(space, dims, NULL) < 0)
        return Q_OK;
    row = H5Tget_size(type);
    for (int i = 1; i < ndim; i++)
        row *= dims[i];
    if (row == 0 || dims[0] * row < CHUNK_LEAST || row > FMT_CHUNK_MAX)
        return Q_OK;
    memcpy(chunk, dims, sizeof chunk);
    chunk[0] = row < CHUNK_BYTES ? CHUNK_BYTES / row : 1;
    chunk[0] = chunk[0] < dims[0] ? chunk[0] : dims[0];
    r->row_bytes = (size_t)row;
    r->chunk_rows = (int64_t)chunk[0];
    r->form = (fmt_chunk_form){ .bytes = chunk[0] * row,
                                .element = (uint32_t)H5Tget_size(type),
                                .shuffle = H5Tget_size(type) > 1,
                                .deflate = 1,
                                .sum = 1 };
    if (H5Pset_chunk(plist, ndim, chunk) < 0 || (r->form.shuffle && H5Pset_shuffle(plist) < 0) ||
        H5Pset_deflate(plist, FMT_CHUNK_LEVEL) < 0 || H5Pset_fletcher32(plist) < 0 ||
        H5Pset_alloc_time(plist, H5D_ALLOC_TIME_INCR) < 0)
        return Q_EIO;
    return Q_OK;
}

typedef struct packed {
    char *p;
    size_t bytes;
    q_status st;
    q_err err;
} packed;

static void pack_one(packed *out, const fmt_h5_rows *r, const char *v, size_t bytes)
{
    char *full = NULL;

    if (bytes < r->form.bytes) { /* the last one */
        if (!(full = q_calloc((size_t)r->form.bytes, 1))) {
            out->st = q_fail(&out->err, Q_ENOMEM, "no memory for a chunk");
            return;
        }
        memcpy(full, v, bytes);
    }
    out->st = fmt_chunk_pack(out->p, &out->bytes, &r->form, full ? full : v, &out->err);
    q_free(full);
}

q_status fmt_h5_put_chunks(const char *path, const char *name, hid_t set, const fmt_h5_rows *r,
                           int64_t r0, int64_t n, const void *v, q_err *err)
{
    q_status st = Q_OK;
    const size_t bound = fmt_chunk_bound(&r->form);
    const int64_t chunks = (n + r->chunk_rows - 1) / r->chunk_rows;
    packed *out = q_calloc(AT_ONCE, sizeof *out);

    for (int i = 0; out && i < AT_ONCE && i < chunks; i++)
        if (!(out[i].p = q_malloc(bound)))
            Q_FAIL(err, Q_ENOMEM, "%s: no memory for a chunk of '%s'", path, name);
    if (!out)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for chunks", path);
    for (int64_t c0 = 0; c0 < chunks; c0 += AT_ONCE) {
        const int m = chunks - c0 < AT_ONCE ? (int)(chunks - c0) : AT_ONCE;

#pragma omp parallel for schedule(dynamic) if (m > 1)
        for (int i = 0; i < m; i++) {
            const int64_t row = (c0 + i) * r->chunk_rows;
            const int64_t rows = n - row < r->chunk_rows ? n - row : r->chunk_rows;

            pack_one(&out[i], r, (const char *)v + (size_t)row * r->row_bytes,
                     (size_t)rows * r->row_bytes);
        }
        for (int i = 0; i < m; i++) {
            const hsize_t at[FMT_H5_DIMS] = { (hsize_t)(r0 + (c0 + i) * r->chunk_rows) };

            if (out[i].st != Q_OK)
                Q_FAIL(err, out[i].st, "%s: '%s': %s", path, name, out[i].err.msg);
            if (H5Dwrite_chunk(set, H5P_DEFAULT, 0, at, out[i].bytes, out[i].p) < 0)
                Q_TRY(fmt_h5_fail(err, Q_EIO, path, name, "cannot write"));
        }
    }
out:
    for (int i = 0; out && i < AT_ONCE; i++)
        q_free(out[i].p);
    q_free(out);
    return st;
}

/* ---- where they lie -------------------------------------------------------------------------- */

/* The filters of a dataset into a form: those of the toolkit in their order, any of them left out.
 * 0: others */
static int read_filters(fmt_chunk_form *f, hid_t plist)
{
    const int n = H5Pget_nfilters(plist);
    int last = -1;

    for (int i = 0; i < n; i++) {
        static const H5Z_filter_t known[] = { H5Z_FILTER_SHUFFLE, H5Z_FILTER_DEFLATE,
                                              H5Z_FILTER_FLETCHER32 };
        unsigned flags = 0, value[4] = { 0 };
        size_t values = 4;
        const H5Z_filter_t id =
            H5Pget_filter2(plist, (unsigned)i, &flags, &values, value, 0, NULL, NULL);
        int k = 0;

        while (k < 3 && known[k] != id)
            k++;
        if (k == 3 || k <= last)
            return 0;
        last = k;
        f->shuffle |= k == 0;
        f->deflate |= k == 1;
        f->sum |= k == 2;
    }
    return n >= 0;
}

#define REPACK "undo it with h5repack -l CONTI -f NONE"

/* The form and number of chunks of a dataset in rows. */
static q_status read_form(const fmt_h5 *h, const char *name, hid_t set, fmt_h5_chunks *c,
                          hsize_t *chunk_rows, q_err *err)
{
    q_status st = Q_OK;
    const hid_t plist = H5Dget_create_plist(set), type = H5Dget_type(set),
                space = H5Dget_space(set);
    hsize_t dims[H5S_MAX_RANK] = { 0 }, chunk[H5S_MAX_RANK] = { 0 };
    const int ndim = H5Sget_simple_extent_dims(space, dims, NULL);
    size_t bytes = type >= 0 ? H5Tget_size(type) : 0;

    if (plist < 0 || ndim < 1 || H5Pget_chunk(plist, ndim, chunk) != ndim || chunk[0] == 0)
        Q_FAIL(err, Q_EFORMAT, "%s: '%s' has no chunks that can be found: " REPACK, h->path, name);
    c->form = (fmt_chunk_form){ .element = (uint32_t)(bytes <= 16 ? bytes : 0) };
    if (!read_filters(&c->form, plist))
        Q_FAIL(err, Q_EUNSUPPORTED, "%s: '%s' has other filters than are read: " REPACK, h->path,
               name);
    c->form.shuffle &= bytes > 1; /* bytes stay where they are */
    for (int i = 0; i < ndim; i++) {
        if (i > 0 && chunk[i] != dims[i])
            Q_FAIL(err, Q_EUNSUPPORTED, "%s: '%s' has chunks of parts of rows: " REPACK, h->path,
                   name);
        if (chunk[i] > FMT_CHUNK_MAX || !q_mul_ok(bytes, (size_t)chunk[i], &bytes) ||
            bytes > FMT_CHUNK_MAX)
            Q_FAIL(err, Q_EUNSUPPORTED, "%s: '%s' has chunks of more than %llu bytes: " REPACK,
                   h->path, name, (unsigned long long)FMT_CHUNK_MAX);
    }
    c->form.bytes = bytes;
    c->n = (size_t)(dims[0] / chunk[0] + (dims[0] % chunk[0] != 0));
    if (c->n > h->bytes || !fmt_chunk_form_ok(&c->form)) /* each has a byte of the file */
        Q_FAIL(err, Q_EFORMAT, "%s: '%s' has more chunks than fit into the file", h->path, name);
    *chunk_rows = chunk[0];
out:
    if (plist >= 0)
        H5Pclose(plist);
    if (type >= 0)
        H5Tclose(type);
    if (space >= 0)
        H5Sclose(space);
    return st;
}

static int is_chunked(hid_t set)
{
    const hid_t plist = H5Dget_create_plist(set);
    const int yes = plist >= 0 && H5Pget_layout(plist) == H5D_CHUNKED;

    if (plist >= 0)
        H5Pclose(plist);
    return yes;
}

q_status fmt_h5_find_chunks(const fmt_h5 *h, const char *name, fmt_h5_chunks *out, q_err *err)
{
    q_status st = Q_OK;
    fmt_h5_chunks c = { 0 };
    hid_t set = -1;
    hsize_t rows = 0;

    memset(out, 0, sizeof *out);
    Q_TRY(fmt_h5_open_set(&set, h, name, err));
    if (H5Dget_storage_size(set) == 0 || !is_chunked(set))
        goto out;
    Q_TRY(read_form(h, name, set, &c, &rows, err));
    if (!(c.v = q_calloc(c.n, sizeof *c.v)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %zu chunks of '%s'", h->path, c.n, name);
    for (size_t i = 0; i < c.n; i++) {
        const hsize_t at[H5S_MAX_RANK] = { i * rows };
        unsigned mask = 0;
        haddr_t offset = HADDR_UNDEF;
        hsize_t bytes = 0;

        if (H5Dget_chunk_info_by_coord(set, at, &mask, &offset, &bytes) < 0)
            Q_TRY(fmt_h5_fail(err, Q_EFORMAT, h->path, name, "its chunks cannot be found"));
        c.v[i] = (fmt_h5_chunk){ offset, bytes };
        if (mask != 0 || offset == HADDR_UNDEF)
            Q_FAIL(err, Q_EFORMAT, "%s: '%s': chunk %zu is not there, or not as the others",
                   h->path, name, i);
    }
    Q_TRY(fmt_h5_check_chunks(h->path, name, &c, h->bytes, err));
    *out = c;
    c.v = NULL;
out:
    q_free(c.v);
    if (set >= 0)
        H5Dclose(set);
    return st;
}

q_status fmt_h5_check_chunks(const char *path, const char *name, const fmt_h5_chunks *c,
                             uint64_t file_bytes, q_err *err)
{
    uint64_t all = 0; /* a place in the file counts once */

    for (size_t i = 0; i < c->n; i++) {
        const uint64_t n = c->v[i].bytes;

        if (n > file_bytes - all || c->v[i].offset > file_bytes - n ||
            !fmt_chunk_form_ok(&c->form) || !fmt_chunk_packed_ok(&c->form, n))
            return q_fail(
                err, Q_EFORMAT,
                "%s: '%s': chunk %zu has %llu bytes at %llu, of a file of %llu, for %llu: "
                "damaged, fetch it again",
                path, name, i, (unsigned long long)n, (unsigned long long)c->v[i].offset,
                (unsigned long long)file_bytes, (unsigned long long)c->form.bytes);
        all += n;
    }
    return Q_OK;
}

q_status fmt_h5_read_chunk(void *dst, const q_file *f, const char *name, const fmt_h5_chunks *c,
                           size_t i, q_err *err)
{
    q_status st = Q_OK;
    const size_t n = (size_t)c->v[i].bytes; /* checked: at most a little more than a chunk */
    char *p = q_malloc(n);
    q_err why = { 0 };

    if (!p)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for a chunk of '%s'", q_file_path(f), name);
    Q_TRY(q_file_pread(f, p, n, c->v[i].offset, err));
    st = fmt_chunk_unpack(dst, &c->form, p, n, &why);
    if (st != Q_OK)
        Q_FAIL(err, st, "%s: '%s': chunk %zu is damaged: %s: fetch the file again", q_file_path(f),
               name, i, why.msg);
out:
    q_free(p);
    return st;
}
