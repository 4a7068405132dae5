/* Writing HDF5.
 *
 * What makes equal calls give equal bytes: object times off, creation order tracked, library bounds
 * fixed, contiguous layout with early allocation, and no library-dependent attribute. */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/q_file.h"
#include "formats/h5file_impl.h"

q_status fmt_h5_create(fmt_h5w **out, const char *path, int force, q_err *err)
{
    q_status st = Q_OK;
    hid_t access = -1, create = -1;
    fmt_h5w *w = q_calloc(1, sizeof *w);

    if (!w)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    w->file = w->set_plist = -1;
    w->force = force;
    q_sha256_init(&w->root);
    fmt_h5_quiet();
    Q_TRY(q_out_check(path, force, err));
    w->path = q_strdup(path);
    w->part = q_format("%s.part.%ld", path, (long)getpid());
    if (!w->path || !w->part)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    access = H5Pcreate(H5P_FILE_ACCESS);
    create = H5Pcreate(H5P_FILE_CREATE);
    w->set_plist = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V110);
    H5Pset_obj_track_times(create, 0);
    H5Pset_link_creation_order(create, H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED);
    H5Pset_obj_track_times(w->set_plist, 0);
    H5Pset_layout(w->set_plist, H5D_CONTIGUOUS);
    H5Pset_alloc_time(w->set_plist, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(w->set_plist, H5D_FILL_TIME_NEVER);
    w->file = H5Fcreate(w->part, H5F_ACC_TRUNC, create, access);
    if (w->file < 0)
        Q_TRY(fmt_h5_fail(err, Q_ECREATE, path, "", "cannot create"));
    *out = w;
    w = NULL;
out:
    if (access >= 0)
        H5Pclose(access);
    if (create >= 0)
        H5Pclose(create);
    fmt_h5w_close(w);
    return st;
}

/* Groups on the way, each with its members in the order of creation. */
static q_status make_groups(fmt_h5w *w, const char *name, q_err *err)
{
    q_status st = Q_OK;
    char part[FMT_H5_NAME];
    const hid_t plist = H5Pcreate(H5P_GROUP_CREATE);

    H5Pset_obj_track_times(plist, 0);
    H5Pset_link_creation_order(plist, H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED);
    for (const char *slash = strchr(name + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        hid_t group;

        memcpy(part, name, (size_t)(slash - name));
        part[slash - name] = '\0';
        if (H5Lexists(w->file, part, H5P_DEFAULT) > 0)
            continue;
        group = H5Gcreate2(w->file, part, H5P_DEFAULT, plist, H5P_DEFAULT);
        if (group < 0)
            Q_TRY(fmt_h5_fail(err, Q_EIO, w->path, part, "cannot make the group"));
        H5Gclose(group);
    }
out:
    H5Pclose(plist);
    return st;
}

/* The hash of a dataset that is complete. */
static q_status put_hash(fmt_h5w *w, const char *name, q_sha256 *h, q_err *err)
{
    char hex[FMT_H5_HEX];
    uint8_t digest[32];

    q_sha256_final(h, digest);
    q_hex(hex, digest, sizeof digest);
    fmt_h5_root_add(&w->root, hex, name);
    return fmt_h5_attr_str(w, name, "sha256", hex, err);
}

#define FRESH ((size_t)64 << 20)

/* The disk begins with what was written; fsync in the end gives the answer that counts. */
static void start_disk(fmt_h5w *w, size_t bytes)
{
    void *fd = NULL;

    w->fresh += bytes;
    if (w->fresh < FRESH || H5Fget_vfd_handle(w->file, H5P_DEFAULT, &fd) < 0)
        return;
    (void)sync_file_range(*(const int *)fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    w->fresh = 0;
}

void fmt_h5_compress(fmt_h5w *w)
{
    w->compress = 1;
}

/* A new dataset, and how it is to be written. */
static q_status make_set(hid_t *set, fmt_h5_rows *rows, fmt_h5w *w, const char *name, hid_t type,
                         hid_t space, int compress, q_err *err)
{
    q_status st = Q_OK;
    const hid_t plist = H5Pcopy(w->set_plist);

    *set = -1;
    Q_TRY(fmt_h5_check_name(w->path, name, err));
    Q_TRY(make_groups(w, name, err));
    if (plist < 0 || fmt_h5_chunk_plan(rows, plist, compress, type, space) != Q_OK ||
        (*set = H5Dcreate2(w->file, name, type, space, H5P_DEFAULT, plist, H5P_DEFAULT)) < 0)
        Q_TRY(fmt_h5_fail(err, Q_EIO, w->path, name, "cannot make the dataset"));
out:
    if (plist >= 0)
        H5Pclose(plist);
    return st;
}

/* type: of the file and of memory; n: elements of the first dimension */
static q_status put(fmt_h5w *w, const char *name, hid_t type, hid_t space, int64_t n, const void *v,
                    size_t bytes, int compress, q_err *err)
{
    q_status st = Q_OK;
    fmt_h5_rows rows;
    hid_t set = -1;
    q_sha256 hash;
    q_sha256_task task = { 0 };

    q_sha256_init(&hash);
    Q_TRY(make_set(&set, &rows, w, name, type, space, compress, err));
    q_sha256_begin(&task, &hash, v, bytes);
    if (rows.chunk_rows)
        Q_TRY(fmt_h5_put_chunks(w->path, name, set, &rows, 0, n, v, err));
    else if (bytes > 0 && H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, v) < 0)
        Q_TRY(fmt_h5_fail(err, Q_EIO, w->path, name, "cannot write"));
    start_disk(w, bytes);
    q_sha256_end(&task);
    Q_TRY(put_hash(w, name, &hash, err));
out:
    q_sha256_end(&task);
    if (set >= 0)
        H5Dclose(set);
    return st;
}

static q_status put_array(fmt_h5w *w, const char *name, fmt_dtype dtype, int ndim,
                          const int64_t *shape, const void *v, int compress, q_err *err)
{
    q_status st = Q_OK;
    hsize_t dims[FMT_H5_DIMS];
    size_t bytes = fmt_dtype_bytes(dtype);
    hid_t space = -1;

    if (ndim < 1 || ndim > FMT_H5_DIMS || fmt_h5_type(dtype) < 0)
        Q_FAIL(err, Q_EBUG, "%s: %s: %d dimensions of %s", w->path, name, ndim,
               fmt_dtype_name(dtype));
    for (int i = 0; i < ndim; i++) {
        dims[i] = (hsize_t)shape[i];
        if (shape[i] < 0 || !q_mul_ok(bytes, (size_t)shape[i], &bytes))
            Q_FAIL(err, Q_EBUG, "%s: %s: dimension %d is %lld", w->path, name, i,
                   (long long)shape[i]);
    }
    space = H5Screate_simple(ndim, dims, NULL);
    Q_TRY(put(w, name, fmt_h5_type(dtype), space, shape[0], v, bytes, compress, err));
    if (dtype == FMT_BF16)
        Q_TRY(fmt_h5_attr_str(w, name, "dtype", "bfloat16", err));
out:
    if (space >= 0)
        H5Sclose(space);
    return st;
}

q_status fmt_h5_put(fmt_h5w *w, const char *name, fmt_dtype dtype, int ndim, const int64_t *shape,
                    const void *v, q_err *err)
{
    return put_array(w, name, dtype, ndim, shape, v, w->compress, err);
}

#define STRIP_BYTES ((size_t)16 << 20)

static q_status write_strip(fmt_h5w *w, const char *name, hid_t set, const fmt_h5_rows *rows,
                            hid_t space, fmt_dtype dtype, const hsize_t *from, const hsize_t *count,
                            const void *v, q_err *err)
{
    q_status st = Q_OK;
    hid_t memory;

    if (rows->chunk_rows)
        return fmt_h5_put_chunks(w->path, name, set, rows, (int64_t)from[0], (int64_t)count[0], v,
                                 err);
    memory = H5Screate_simple(rows->ndim, count, NULL);

    if (memory < 0 || H5Sselect_hyperslab(space, H5S_SELECT_SET, from, NULL, count, NULL) < 0 ||
        H5Dwrite(set, fmt_h5_type(dtype), memory, space, H5P_DEFAULT, v) < 0)
        st = fmt_h5_fail(err, Q_EIO, w->path, name, "cannot write");
    if (memory >= 0)
        H5Sclose(memory);
    return st;
}

q_status fmt_h5_put_rows(fmt_h5w *w, const char *name, fmt_dtype dtype, int ndim,
                         const int64_t *shape, fmt_h5_fill fill, void *self, q_err *err)
{
    q_status st = Q_OK;
    hsize_t count[FMT_H5_DIMS], from[FMT_H5_DIMS] = { 0 };
    size_t row = fmt_dtype_bytes(dtype);
    int64_t strip;
    hid_t space = -1, set = -1;
    fmt_h5_rows rows;
    q_sha256 hash;
    q_sha256_task task = { 0 };
    char *v[2] = { 0 }; /* one is hashed while the other is filled */

    for (int i = 0; i < ndim; i++)
        count[i] = (hsize_t)shape[i];
    for (int i = 1; i < ndim; i++)
        if (!q_mul_ok(row, (size_t)shape[i], &row))
            Q_FAIL(err, Q_EBUG, "%s: %s: dimension %d is %lld", w->path, name, i,
                   (long long)shape[i]);
    space = H5Screate_simple(ndim, count, NULL);
    Q_TRY(make_set(&set, &rows, w, name, fmt_h5_type(dtype), space, w->compress, err));
    strip = row < STRIP_BYTES ? (int64_t)(STRIP_BYTES / row) : 1;
    if (rows.chunk_rows) /* whole chunks */
        strip = strip > rows.chunk_rows ? strip - strip % rows.chunk_rows : rows.chunk_rows;
    strip = strip < shape[0] ? strip : shape[0];
    if (!(v[0] = q_malloc((size_t)strip * row)) || !(v[1] = q_malloc((size_t)strip * row)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %zu bytes", w->path, 2 * (size_t)strip * row);
    q_sha256_init(&hash);
    for (int64_t r = 0; r < shape[0]; r += strip) {
        const int64_t n = r + strip < shape[0] ? strip : shape[0] - r;
        char *p = v[r / strip % 2];

        Q_TRY(fill(self, r, n, p, err));
        from[0] = (hsize_t)r;
        count[0] = (hsize_t)n;
        q_sha256_end(&task);
        q_sha256_begin(&task, &hash, p, (size_t)n * row);
        Q_TRY(write_strip(w, name, set, &rows, space, dtype, from, count, p, err));
        start_disk(w, (size_t)n * row);
    }
    q_sha256_end(&task);
    Q_TRY(put_hash(w, name, &hash, err));
    if (dtype == FMT_BF16)
        Q_TRY(fmt_h5_attr_str(w, name, "dtype", "bfloat16", err));
out:
    q_sha256_end(&task);
    q_free(v[0]);
    q_free(v[1]);
    if (set >= 0)
        H5Dclose(set);
    if (space >= 0)
        H5Sclose(space);
    return st;
}

q_status fmt_h5_put_root(fmt_h5w *w, char hex[65], q_err *err)
{
    char text[FMT_H5_HEX];

    fmt_h5_root_hex(text, &w->root);
    if (hex)
        memcpy(hex, text, sizeof text);
    return fmt_h5_attr_str(w, "/", FMT_H5_ROOT, text, err);
}

static int is_text(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] == '\0')
            return 0;
    return n > 0;
}

static hid_t text_type(size_t n)
{
    const hid_t type = H5Tcopy(H5T_C_S1);

    H5Tset_size(type, n);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

q_status fmt_h5_put_bytes(fmt_h5w *w, const char *name, const void *p, size_t n, q_err *err)
{
    q_status st = Q_OK;
    hid_t type, space;

    if (!is_text(p, n))
        return put_array(w, name, FMT_U8, 1, (int64_t[]){ (int64_t)n }, p, 0, err);
    type = text_type(n);
    space = H5Screate(H5S_SCALAR);
    st = put(w, name, type, space, 1, p, n, 0, err);
    H5Tclose(type);
    H5Sclose(space);
    return st;
}

static q_status put_attr(fmt_h5w *w, const char *name, const char *key, hid_t type, const void *v,
                         q_err *err)
{
    q_status st = Q_OK;
    const hid_t space = H5Screate(H5S_SCALAR);
    hid_t attr =
        H5Acreate_by_name(w->file, name, key, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);

    if (attr < 0 || H5Awrite(attr, type, v) < 0)
        st = fmt_h5_fail(err, Q_EIO, w->path, name, key);
    if (attr >= 0)
        H5Aclose(attr);
    H5Sclose(space);
    return st;
}

q_status fmt_h5_attr_str(fmt_h5w *w, const char *name, const char *key, const char *v, q_err *err)
{
    const hid_t type = text_type(strlen(v) ? strlen(v) : 1);
    const q_status st = put_attr(w, name, key, type, v, err);

    H5Tclose(type);
    return st;
}

q_status fmt_h5_attr_int(fmt_h5w *w, const char *name, const char *key, int64_t v, q_err *err)
{
    return put_attr(w, name, key, H5T_STD_I64LE, &v, err);
}

q_status fmt_h5_attr_real(fmt_h5w *w, const char *name, const char *key, double v, q_err *err)
{
    return put_attr(w, name, key, H5T_IEEE_F64LE, &v, err);
}
