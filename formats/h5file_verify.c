/* Walking an HDF5 file, and finding what was changed in it: first the whole file against its last
 * line, then every dataset against its attribute sha256.  What the first look finds, the second
 * can often name.  Data are hashed from the file as they lie there, chunks as they are unpacked,
 * without a buffer of their size. */
#include <string.h>

#include "formats/apart.h"
#include "formats/base/q_file.h"
#include "formats/h5file_impl.h"

#define MAX_DEPTH 16
#define MAX_READ  ((uint64_t)1 << 32) /* of a dataset that is not contiguous */

typedef struct walk {
    q_status (*fn)(void *self, const char *member, q_err *err);
    void *self;
    q_err *err;
    q_status st;
} walk;

static herr_t visit(hid_t group, const char *name, const H5L_info_t *info, void *self)
{
    walk *w = self;

    (void)group, (void)info;
    w->st = w->fn(w->self, name, w->err);
    return w->st == Q_OK ? 0 : 1;
}

q_status fmt_h5_each(const fmt_h5 *h, const char *group,
                     q_status (*fn)(void *self, const char *member, q_err *err), void *self,
                     q_err *err)
{
    q_status st = Q_OK;
    walk w = { fn, self, err, Q_OK };
    hid_t g = -1;
    hsize_t at = 0;
    herr_t rc;
    int yes;

    Q_TRY(fmt_h5_has(h, group, &yes, err));
    if (!yes || (g = H5Gopen2(h->file, group, H5P_DEFAULT)) < 0)
        Q_FAIL(err, Q_EFORMAT, "%s: '%s' is no group", h->path, group);
    rc = H5Literate(g, H5_INDEX_CRT_ORDER, H5_ITER_INC, &at, visit, &w);
    if (rc < 0 && at == 0) /* of another program, without that order */
        rc = H5Literate(g, H5_INDEX_NAME, H5_ITER_INC, &at, visit, &w);
    Q_TRY(w.st);
    if (rc < 0)
        Q_TRY(fmt_h5_fail(err, Q_EFORMAT, h->path, group, "cannot list"));
out:
    if (g >= 0)
        H5Gclose(g);
    return st;
}

/* ---- hashes --------------------------------------------------------------------------------- */

static q_status hash_at(char hex[FMT_H5_HEX], const q_file *f, uint64_t at, uint64_t n, q_err *err)
{
    q_status st = Q_OK;
    enum { PIECE = 1 << 20 };
    q_sha256 h;
    uint8_t digest[32];
    char *buf = q_malloc(PIECE);

    if (!buf)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", q_file_path(f));
    q_sha256_init(&h);
    for (uint64_t end = at + n; at < end;) {
        const size_t piece = end - at < PIECE ? (size_t)(end - at) : PIECE;

        Q_TRY(q_file_pread(f, buf, piece, at, err));
        q_sha256_update(&h, buf, piece);
        at += piece;
    }
    q_sha256_final(&h, digest);
    q_hex(hex, digest, sizeof digest);
out:
    q_free(buf);
    return st;
}

static q_status hash_chunks(char hex[FMT_H5_HEX], const q_file *f, const char *name,
                            const fmt_h5_chunks *c, uint64_t bytes, q_err *err)
{
    q_status st = Q_OK;
    q_sha256 h;
    uint8_t digest[32];
    char *p = q_malloc((size_t)c->form.bytes);

    if (!p)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for a chunk of '%s'", q_file_path(f), name);
    q_sha256_init(&h);
    for (size_t i = 0; i < c->n; i++) {
        const uint64_t n = bytes < c->form.bytes ? bytes : c->form.bytes;

        Q_TRY(fmt_h5_read_chunk(p, f, name, c, i, err));
        q_sha256_update(&h, p, (size_t)n);
        bytes -= n;
    }
    q_sha256_final(&h, digest);
    q_hex(hex, digest, sizeof digest);
out:
    q_free(p);
    return st;
}

static q_status hash_read(char hex[FMT_H5_HEX], const fmt_h5 *h, hid_t set, hid_t type,
                          const char *name, q_err *err)
{
    q_status st = Q_OK;
    const hid_t space = H5Dget_space(set);
    const hssize_t n = H5Sget_simple_extent_npoints(space);
    size_t bytes = 0;
    char *p = NULL;

    if (n < 0 || !q_mul_ok((size_t)n, H5Tget_size(type), &bytes) || bytes > MAX_READ)
        Q_FAIL(err, Q_EFORMAT, "%s: '%s' is too large to be read at once", h->path, name);
    if (bytes > 0 && !(p = q_malloc(bytes)))
        Q_FAIL(err, Q_ENOMEM, "%s: '%s': no memory for %zu bytes", h->path, name, bytes);
    if (bytes > 0 && H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, p) < 0)
        Q_TRY(fmt_h5_fail(err, Q_EFORMAT, h->path, name, "cannot read"));
    fmt_h5_hash(hex, p, bytes);
out:
    q_free(p);
    if (space >= 0)
        H5Sclose(space);
    return st;
}

typedef struct check {
    const fmt_h5 *h;
    const q_file *f;
    const char *group;
    int depth;
    q_sha256 *root; /* over the datasets so far */
} check;

static q_status check_set(const check *c, const char *name, q_err *err)
{
    q_status st = Q_OK;
    hid_t set = -1, type = -1;
    char want[FMT_H5_HEX], got[FMT_H5_HEX];
    fmt_h5_chunks chunks = { 0 };
    fmt_h5_info info;
    haddr_t at;

    Q_TRY(fmt_h5_open_set(&set, c->h, name, err));
    type = H5Dget_type(set);
    Q_TRY(fmt_h5_get_str(c->h, name, "sha256", want, sizeof want, err));
    at = H5Dget_offset(set);
    st = fmt_h5_find_chunks(c->h, name, &chunks, err);
    if (st != Q_EUNSUPPORTED) /* what only the library can unpack */
        Q_TRY(st);
    st = Q_OK;
    if (chunks.n) {
        Q_TRY(fmt_h5_stat(c->h, name, &info, err));
        Q_TRY(hash_chunks(got, c->f, name, &chunks, info.bytes, err));
    } else if (at != HADDR_UNDEF) {
        Q_TRY(hash_at(got, c->f, at, H5Dget_storage_size(set), err));
    } else {
        Q_TRY(hash_read(got, c->h, set, type, name, err));
    }
    if (strcmp(got, want) != 0)
        Q_FAIL(err, Q_EFORMAT, "%s: '%s' was changed: its sha256 is %s, the file says %s",
               c->h->path, name, got, want);
    fmt_h5_root_add(c->root, got, name);
out:
    q_free(chunks.v);
    if (type >= 0)
        H5Tclose(type);
    if (set >= 0)
        H5Dclose(set);
    return st;
}

static q_status check_member(void *self, const char *member, q_err *err)
{
    q_status st = Q_OK;
    const check *c = self;
    char name[FMT_H5_NAME];
    H5O_info_t info;

    if (snprintf(name, sizeof name, "%s/%s", c->group, member) >= (int)sizeof name ||
        c->depth > MAX_DEPTH)
        Q_FAIL(err, Q_EFORMAT, "%s: '%s' lies too deep", c->h->path, c->group);
    if (H5Oget_info_by_name(c->h->file, name, &info, H5P_DEFAULT) < 0)
        Q_TRY(fmt_h5_fail(err, Q_EFORMAT, c->h->path, name, "cannot look at it"));
    if (info.type == H5O_TYPE_GROUP)
        Q_TRY(fmt_h5_each(c->h, name, check_member,
                          &(check){ c->h, c->f, name, c->depth + 1, c->root }, err));
    else
        Q_TRY(check_set(c, name, err));
out:
    return st;
}

/* *whole 0: there is no last line of ours */
static q_status check_seal(const q_file *f, int *whole, q_err *err)
{
    q_status st = Q_OK;
    const uint64_t n = q_file_bytes(f);
    char line[FMT_H5_SEALN + 1] = "", hex[FMT_H5_HEX];

    *whole = 0;
    if (n < FMT_H5_SEALN)
        return Q_OK;
    Q_TRY(q_file_pread(f, line, FMT_H5_SEALN, n - FMT_H5_SEALN, err));
    if (strncmp(line, FMT_H5_SEAL, strlen(FMT_H5_SEAL)) != 0)
        return Q_OK;
    Q_TRY(q_file_sha256(f, n - FMT_H5_SEALN, hex, err));
    if (strncmp(line + strlen(FMT_H5_SEAL), hex, 64) != 0 || line[FMT_H5_SEALN - 1] != '\n')
        Q_FAIL(err, Q_EFORMAT, "%s: was changed: its sha256 is %s, its last line says %.*s",
               q_file_path(f), hex, (int)strspn(line + strlen(FMT_H5_SEAL), "0123456789abcdef"),
               line + strlen(FMT_H5_SEAL));
    *whole = 1;
out:
    return st;
}

/* The hash of all datasets against the attribute of the file, where there is one. */
static q_status check_root(const fmt_h5 *h, q_sha256 *root, q_err *err)
{
    q_status st = Q_OK;
    char want[FMT_H5_HEX], got[FMT_H5_HEX];
    int yes;

    Q_TRY(fmt_h5_has_attr(h, "/", FMT_H5_ROOT, &yes, err));
    if (!yes)
        goto out;
    Q_TRY(fmt_h5_get_str(h, "/", FMT_H5_ROOT, want, sizeof want, err));
    fmt_h5_root_hex(got, root);
    if (strcmp(got, want) != 0)
        Q_FAIL(err, Q_EFORMAT,
               "%s: its datasets were changed: " FMT_H5_ROOT " is %s, the file says %s", h->path,
               got, want);
out:
    return st;
}

/* In a process of its own: the file may be anything. */
static q_status check_sets(void *self, q_buf *out, q_err *err)
{
    q_status st = Q_OK;
    const char *path = self;
    q_file *f = NULL;
    fmt_h5 *h = NULL;
    q_sha256 root;

    (void)out;
    q_sha256_init(&root);
    Q_TRY(q_file_open(&f, path, err));
    Q_TRY(fmt_h5_open(&h, path, err));
    Q_TRY(fmt_h5_each(h, "/", check_member, &(check){ h, f, "", 0, &root }, err));
    Q_TRY(check_root(h, &root, err));
out:
    fmt_h5_close(h);
    q_file_close(f);
    return st;
}

q_status fmt_h5_verify(const char *path, int *whole, q_err *err)
{
    q_status st = Q_OK;
    q_file *f = NULL;
    char *copy = q_strdup(path);
    q_buf none = { 0 };
    q_err sealed = { 0 }, named = { 0 };
    q_status seal, sets;
    const char *what = named.msg;

    if (!copy)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    Q_TRY(q_file_open(&f, path, err));
    seal = check_seal(f, whole, &sealed);
    sets = fmt_apart(&none, path, check_sets, copy, &named);
    if (strncmp(what, path, strlen(path)) == 0 && what[strlen(path)] == ':')
        what += strlen(path) + 2;
    if (seal != Q_OK && sets != Q_OK)
        Q_FAIL(err, seal, "%s: was changed: %s", path, what);
    if (seal != Q_OK || sets != Q_OK)
        Q_FAIL(err, seal != Q_OK ? seal : sets, "%s", seal != Q_OK ? sealed.msg : named.msg);
out:
    q_buf_free(&none);
    q_free(copy);
    q_file_close(f);
    return st;
}
