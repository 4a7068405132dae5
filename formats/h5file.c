/* Reading HDF5, and what reader and writer share.
 *
 * The library is old and was not written for hostile files: sizes are taken from it, checked
 * against the size of the file, and only then is memory allocated; filters, external storage, links
 * to other files and types outside the table are refused. */
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_file.h"
#include "formats/h5file_impl.h"

void fmt_h5_quiet(void)
{
    (void)
        H5dont_atexit(); /* what a damaged file left behind makes the clean-up at exit fall over */
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

static herr_t first_text(unsigned n, const H5E_error2_t *e, void *text)
{
    (void)n;
    if (!*(const char **)text && e->desc && *e->desc)
        *(const char **)text = e->desc;
    return 0;
}

q_status fmt_h5_fail(q_err *err, q_status st, const char *path, const char *name, const char *what)
{
    const char *text = NULL, *number;

    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, first_text, &text);
    number = text ? strstr(text, "errno = ") : NULL; /* of the system, among much else */
    if (number)
        st = q_fail_errno(err, st, (int)strtol(number + 8, NULL, 10),
                          *name ? "%s: '%s': %s" : "%s%s: %s", path, name, what);
    else
        q_fail(err, st, *name ? "%s: '%s': %s%s%s" : "%s%s: %s%s%s", path, name, what,
               text ? ": " : "", text ? text : "");
    H5Eclear2(H5E_DEFAULT);
    return st;
}

/* Not constants: the library fills its type ids in when it starts. */
hid_t fmt_h5_type(fmt_dtype t)
{
    static hid_t f16 = -1;

    if (t == FMT_F16 && f16 < 0) {
        f16 = H5Tcopy(H5T_IEEE_F32LE);
        H5Tset_fields(f16, 15, 10, 5, 0, 10);
        H5Tset_size(f16, 2);
        H5Tset_ebias(f16, 15);
    }
    switch (t) {
    case FMT_F16:
        return f16;
    case FMT_BF16:
    case FMT_U16:
        return H5T_STD_U16LE;
    case FMT_F32:
        return H5T_IEEE_F32LE;
    case FMT_F64:
        return H5T_IEEE_F64LE;
    case FMT_I8:
        return H5T_STD_I8LE;
    case FMT_U8:
        return H5T_STD_U8LE;
    case FMT_I32:
        return H5T_STD_I32LE;
    case FMT_U32:
        return H5T_STD_U32LE;
    case FMT_I64:
        return H5T_STD_I64LE;
    default:
        return -1;
    }
}

q_status fmt_h5_check_name(const char *path, const char *name, q_err *err)
{
    const size_t n = strlen(name);
    int ok = n > 1 && n < FMT_H5_NAME && name[0] == '/' && name[n - 1] != '/';

    for (size_t i = 0; ok && i < n; i++) {
        if (name[i] < 0x21 || name[i] > 0x7e)
            ok = 0;
        if (name[i] == '/' &&
            (name[i + 1] == '/' || strcmp(name + i, "/.") == 0 || strcmp(name + i, "/..") == 0 ||
             strncmp(name + i, "/./", 3) == 0 || strncmp(name + i, "/../", 4) == 0))
            ok = 0;
    }
    return ok ? Q_OK : q_fail(err, Q_EFORMAT, "%s: '%.80s' is no name for a dataset", path, name);
}

void fmt_h5_hash(char hex[FMT_H5_HEX], const void *v, size_t n)
{
    q_sha256 h;
    uint8_t digest[32];

    q_sha256_init(&h);
    q_sha256_update(&h, v, n);
    q_sha256_final(&h, digest);
    q_hex(hex, digest, sizeof digest);
}

void fmt_h5_root_add(q_sha256 *root, const char *hex, const char *name)
{
    q_sha256_update(root, hex, 64);
    q_sha256_update(root, "  ", 2);
    q_sha256_update(root, name, strlen(name));
    q_sha256_update(root, "\n", 1);
}

void fmt_h5_root_hex(char hex[FMT_H5_HEX], q_sha256 *root)
{
    uint8_t digest[32];

    q_sha256_final(root, digest);
    q_hex(hex, digest, sizeof digest);
}

/* The header says how long the file was (version 2 and 3, which the writer makes, with 8 bytes an
 * address): a download or copy that ended early is told from other damage. */
static q_status check_length(const q_file *f, q_err *err)
{
    q_status st = Q_OK;
    uint8_t head[36];
    uint64_t length = 0;

    if (q_file_bytes(f) < sizeof head)
        return Q_OK;
    Q_TRY(q_file_pread(f, head, sizeof head, 0, err));
    if (memcmp(head, "\x89HDF\r\n\x1a\n", 8) != 0 || head[8] < 2 || head[8] > 3 || head[9] != 8)
        return Q_OK;
    for (int i = 7; i >= 0; i--)
        length = length << 8 | head[28 + i];
    if (q_file_bytes(f) < length)
        Q_FAIL(err, Q_EFORMAT,
               "%s: has %llu bytes, its header says %llu: the copy is incomplete, fetch it again",
               q_file_path(f), (unsigned long long)q_file_bytes(f), (unsigned long long)length);
out:
    return st;
}

q_status fmt_h5_open(fmt_h5 **out, const char *path, q_err *err)
{
    q_status st = Q_OK;
    q_file *f = NULL;
    fmt_h5 *h = q_calloc(1, sizeof *h);

    if (!h)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    h->file = -1;
    fmt_h5_quiet();
    Q_TRY(q_file_open(&f, path, err)); /* says what is wrong with a path */
    h->bytes = q_file_bytes(f);
    if (!(h->path = q_strdup(path)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    if (H5Fis_hdf5(path) <= 0)
        Q_FAIL(err, Q_EFORMAT, "%s: not an HDF5 file: wanted a .h5 file of this toolkit", path);
    Q_TRY(check_length(f, err));
    h->file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (h->file < 0)
        Q_TRY(fmt_h5_fail(err, Q_EFORMAT, path, "", "cannot open"));
    *out = h;
    h = NULL;
out:
    q_file_close(f);
    fmt_h5_close(h);
    return st;
}

int fmt_h5_is_file(const char *path)
{
    static const char sign[] = { '\x89', 'H', 'D', 'F', '\r', '\n', '\x1a', '\n' };
    q_file *f = NULL;
    char head[sizeof sign];
    const int yes = q_file_open(&f, path, NULL) == Q_OK &&
                    q_file_pread(f, head, sizeof head, 0, NULL) == Q_OK &&
                    memcmp(head, sign, sizeof sign) == 0;

    q_file_close(f);
    return yes;
}

void fmt_h5_close(fmt_h5 *h)
{
    if (!h)
        return;
    if (h->file >= 0)
        H5Fclose(h->file);
    q_free(h->path);
    q_free(h);
}

/* ---- datasets -------------------------------------------------------------------------------- */

/* Only links inside the file: others could name any file of the machine. */
static q_status check_link(const fmt_h5 *h, const char *name, q_err *err)
{
    q_status st = Q_OK;
    H5L_info_t info;
    int yes;

    Q_TRY(fmt_h5_has(h, name, &yes, err));
    if (!yes)
        Q_FAIL(err, Q_EFORMAT, "%s: '%s' is missing", h->path, name);
    if (H5Lget_info(h->file, name, &info, H5P_DEFAULT) < 0)
        Q_TRY(fmt_h5_fail(err, Q_EFORMAT, h->path, name, FMT_H5_DAMAGED));
    if (info.type != H5L_TYPE_HARD)
        Q_FAIL(err, Q_EFORMAT, "%s: '%s' is a link: refused", h->path, name);
out:
    return st;
}

q_status fmt_h5_open_set(hid_t *set, const fmt_h5 *h, const char *name, q_err *err)
{
    q_status st = Q_OK;
    hid_t plist = -1;

    *set = -1;
    Q_TRY(check_link(h, name, err));
    *set = H5Dopen2(h->file, name, H5P_DEFAULT);
    if (*set < 0)
        Q_TRY(fmt_h5_fail(err, Q_EFORMAT, h->path, name, "is no dataset"));
    plist = H5Dget_create_plist(*set);
    if (plist < 0 || H5Pget_external_count(plist) != 0 || H5Pget_layout(plist) == H5D_VIRTUAL)
        Q_FAIL(err, Q_EFORMAT, "%s: '%s' lies in another file: refused", h->path, name);
    if (H5Dget_storage_size(*set) > h->bytes && H5Pget_nfilters(plist) == 0)
        Q_FAIL(err, Q_EFORMAT, "%s: '%s' is larger than the file", h->path, name);
out:
    if (plist >= 0)
        H5Pclose(plist);
    if (st != Q_OK && *set >= 0) {
        H5Dclose(*set);
        *set = -1;
    }
    return st;
}

static int type_of(hid_t type, fmt_dtype *out)
{
    for (int t = 0; t < FMT_DTYPES; t++)
        if (t != FMT_BF16 && fmt_h5_type((fmt_dtype)t) >= 0 &&
            H5Tequal(type, fmt_h5_type((fmt_dtype)t)) > 0) {
            *out = (fmt_dtype)t;
            return 1;
        }
    return 0;
}

static q_status stat_set(const fmt_h5 *h, hid_t set, const char *name, fmt_h5_info *out, q_err *err)
{
    q_status st = Q_OK;
    const hid_t type = H5Dget_type(set), space = H5Dget_space(set);
    hsize_t dims[H5S_MAX_RANK];
    char dtype[32];
    size_t bytes;
    int tagged = 0;

    memset(out, 0, sizeof *out);
    if (type < 0 || space < 0 || !type_of(type, &out->dtype))
        Q_FAIL(err, Q_EFORMAT, "%s: '%s' has a type that is not used here", h->path, name);
    out->ndim = H5Sget_simple_extent_dims(space, dims, NULL);
    if (out->ndim < 1 || out->ndim > FMT_H5_DIMS)
        Q_FAIL(err, Q_EFORMAT, "%s: '%s' has %d dimensions, wanted 1 to %d", h->path, name,
               out->ndim, FMT_H5_DIMS);
    bytes = fmt_dtype_bytes(out->dtype);
    for (int i = 0; i < out->ndim; i++) {
        if (dims[i] > INT64_MAX || !q_mul_ok(bytes, (size_t)dims[i], &bytes))
            Q_FAIL(err, Q_ESHAPE, "%s: '%s': dimension %d is %llu", h->path, name, i,
                   (unsigned long long)dims[i]);
        out->shape[i] = (int64_t)dims[i];
    }
    out->bytes = bytes;
    if (out->dtype == FMT_U16)
        Q_TRY(fmt_h5_has_attr(h, name, "dtype", &tagged, err));
    if (tagged) {
        Q_TRY(fmt_h5_get_str(h, name, "dtype", dtype, sizeof dtype, err));
        if (strcmp(dtype, "bfloat16") == 0)
            out->dtype = FMT_BF16;
    }
out:
    if (type >= 0)
        H5Tclose(type);
    if (space >= 0)
        H5Sclose(space);
    return st;
}

q_status fmt_h5_stat(const fmt_h5 *h, const char *name, fmt_h5_info *out, q_err *err)
{
    q_status st = Q_OK;
    hid_t set = -1;

    Q_TRY(fmt_h5_open_set(&set, h, name, err));
    Q_TRY(stat_set(h, set, name, out, err));
out:
    if (set >= 0)
        H5Dclose(set);
    return st;
}

q_status fmt_h5_place(const fmt_h5 *h, const char *name, uint64_t *offset, uint64_t *bytes,
                      q_err *err)
{
    q_status st = Q_OK;
    hid_t set = -1;
    haddr_t at;

    Q_TRY(fmt_h5_open_set(&set, h, name, err));
    *bytes = H5Dget_storage_size(set);
    at = H5Dget_offset(set);
    *offset = 0;
    if (*bytes > 0 && at == HADDR_UNDEF)
        Q_FAIL(err, Q_EFORMAT,
               "%s: '%s' is in chunks, wanted as it is: undo it with h5repack -l CONTI -f NONE",
               h->path, name);
    if (*bytes > 0)
        *offset = at;
out:
    if (set >= 0)
        H5Dclose(set);
    return st;
}

q_status fmt_h5_read(const fmt_h5 *h, const char *name, fmt_dtype dtype, int ndim,
                     const int64_t *shape, void *v, q_err *err)
{
    q_status st = Q_OK;
    fmt_h5_info info;
    hid_t set = -1;

    Q_TRY(fmt_h5_open_set(&set, h, name, err));
    Q_TRY(stat_set(h, set, name, &info, err));
    if (info.dtype != dtype)
        Q_FAIL(err, Q_EFORMAT, "%s: '%s' is %s, wanted %s", h->path, name,
               fmt_dtype_name(info.dtype), fmt_dtype_name(dtype));
    if (info.ndim != ndim)
        Q_FAIL(err, Q_ESHAPE, "%s: '%s' has %d dimensions, wanted %d", h->path, name, info.ndim,
               ndim);
    for (int i = 0; i < ndim; i++)
        if (info.shape[i] != shape[i])
            Q_FAIL(err, Q_ESHAPE, "%s: '%s': dimension %d is %lld, wanted %lld", h->path, name, i,
                   (long long)info.shape[i], (long long)shape[i]);
    if (info.bytes > 0 && H5Dread(set, fmt_h5_type(dtype), H5S_ALL, H5S_ALL, H5P_DEFAULT, v) < 0)
        Q_TRY(fmt_h5_fail(err, Q_EIO, h->path, name, "cannot read"));
out:
    if (set >= 0)
        H5Dclose(set);
    return st;
}
