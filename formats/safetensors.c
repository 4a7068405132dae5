/* Reader of safetensors files.
 *
 *   byte 0       u64, little-endian: n, the bytes of the header
 *   byte 8       the header, JSON, see st_header.c
 *   byte 8 + n   data; data_offsets count from here
 *
 * Checked in this order: header length against limit and file before allocation, then each entry,
 * then all names for duplicates, then the ranges, sorted by offset, for holes, overlaps and the end
 * of the file.  The header stays in memory because it holds the names.  Reads go through pread.
 * Source: huggingface/safetensors, README "Format" and its validation rules. */
#include "formats/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "formats/base/q_file.h"
#include "formats/base/q_mem.h"
#include "formats/base/q_lfs.h"
#include "formats/st_header.h"

struct fmt_st {
    q_file *f;
    char *header;
    size_t header_bytes;
    uint64_t data; /* byte of the file at which data_offsets are 0 */
    fmt_tensor *t; /* [n] by offset */
    const fmt_tensor **by_name;
    size_t n;
};

static q_status read_header(fmt_st *s, q_err *err)
{
    q_status st = Q_OK;
    const char *path = q_file_path(s->f);
    const uint64_t bytes = q_file_bytes(s->f);
    uint8_t head[sizeof Q_LFS_HEAD - 1];
    uint64_t n = 0;

    if (bytes < 8)
        Q_FAIL(err, Q_EFORMAT,
               "%s: %llu bytes, a safetensors file has at least 8: download is incomplete, "
               "fetch it again",
               path, (unsigned long long)bytes);
    Q_TRY(q_file_pread(s->f, head, bytes < sizeof head ? 8 : sizeof head, 0, err));
    Q_TRY(q_lfs_pointer(head, bytes < sizeof head ? 8 : sizeof head, path, err));
    for (int i = 7; i >= 0; i--)
        n = n << 8 | head[i];
    if (n > FMT_ST_MAX_HEADER)
        Q_FAIL(err, Q_EFORMAT,
               "%s: header of %llu bytes, at most %u are read: not a safetensors file?", path,
               (unsigned long long)n, FMT_ST_MAX_HEADER);
    if (n > bytes - 8)
        Q_FAIL(
            err, Q_EFORMAT,
            "%s: header ends at byte %llu, file has %llu: download is incomplete, fetch it again",
            path, (unsigned long long)n + 8, (unsigned long long)bytes);
    if (n < 2)
        Q_FAIL(err, Q_EFORMAT, "%s: header of %llu bytes, the smallest is '{}'", path,
               (unsigned long long)n);
    s->header_bytes = (size_t)n;
    s->data = n + 8;
    if (!(s->header = q_malloc(s->header_bytes)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for a header of %zu bytes", path, s->header_bytes);
    Q_TRY(q_file_pread(s->f, s->header, s->header_bytes, 8, err));
    if (s->header[0] != '{')
        Q_FAIL(err, Q_EFORMAT, "%s: header begins with byte 0x%02x, wanted '{'", path,
               (unsigned char)s->header[0]);
out:
    return st;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const fmt_tensor *const *)a)->name, (*(const fmt_tensor *const *)b)->name);
}

/* An empty tensor comes before the one that starts at the same byte. */
static int by_offset(const void *a, const void *b)
{
    const fmt_tensor *x = a, *y = b;

    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

static q_status sort_both(fmt_st *s, q_err *err)
{
    if (s->n == 0)
        return Q_OK;
    qsort(s->t, s->n, sizeof *s->t, by_offset);
    if (!(s->by_name = q_calloc(s->n, sizeof *s->by_name)))
        return q_fail(err, Q_ENOMEM, "%s: no memory for %zu names", q_file_path(s->f), s->n);
    for (size_t i = 0; i < s->n; i++)
        s->by_name[i] = &s->t[i];
    qsort(s->by_name, s->n, sizeof *s->by_name, by_name);
    for (size_t i = 1; i < s->n; i++)
        if (strcmp(s->by_name[i - 1]->name, s->by_name[i]->name) == 0)
            return q_fail(err, Q_EFORMAT, "%s: '%.200s' appears twice in the header",
                          q_file_path(s->f), s->by_name[i]->name);
    return Q_OK;
}

static q_status check_layout(const fmt_st *s, q_err *err)
{
    const char *path = q_file_path(s->f);
    const uint64_t file = q_file_bytes(s->f);
    uint64_t pos = s->data;

    for (size_t i = 0; i < s->n; i++) {
        const fmt_tensor *t = &s->t[i];

        if (t->offset > pos)
            return q_fail(err, Q_EFORMAT,
                          "%s: bytes %llu to %llu belong to no tensor (before '%.200s')", path,
                          (unsigned long long)pos, (unsigned long long)t->offset, t->name);
        if (t->offset < pos)
            return q_fail(err, Q_EFORMAT, "%s: '%.200s' at byte %llu overlaps '%.200s'", path,
                          t->name, (unsigned long long)t->offset, t[-1].name);
        if (t->bytes > file - pos)
            return q_fail(err, Q_EFORMAT,
                          "%s: '%.200s' ends at byte %llu, file has %llu: download is incomplete, "
                          "fetch it again",
                          path, t->name, (unsigned long long)(pos + t->bytes),
                          (unsigned long long)file);
        pos += t->bytes;
    }
    if (pos != file)
        return q_fail(err, Q_EFORMAT,
                      "%s: %llu bytes behind the last tensor, which ends at byte %llu: file is "
                      "damaged, fetch it again",
                      path, (unsigned long long)(file - pos), (unsigned long long)pos);
    return Q_OK;
}

q_status fmt_st_open(fmt_st **out, const char *dir, const char *name, q_err *err)
{
    q_status st = Q_OK;
    fmt_st *s = q_calloc(1, sizeof *s);

    if (!s)
        Q_FAIL(err, Q_ENOMEM, "%s/%s: no memory", dir, name);
    Q_TRY(q_file_open_in(&s->f, dir, name, err));
    Q_TRY(read_header(s, err));
    Q_TRY(fmt_st_header(&s->t, &s->n, s->header, s->header_bytes, q_file_path(s->f), err));
    for (size_t i = 0; i < s->n; i++)
        s->t[i].offset += s->data; /* below 2^63 + 10^8 + 8: no overflow */
    Q_TRY(sort_both(s, err));
    Q_TRY(check_layout(s, err));
    *out = s;
    s = NULL;
out:
    fmt_st_close(s);
    return st;
}

void fmt_st_close(fmt_st *s)
{
    if (!s)
        return;
    q_file_close(s->f);
    q_free(s->header);
    q_free(s->t);
    q_free(s->by_name);
    q_free(s);
}

const char *fmt_st_path(const fmt_st *s)
{
    return q_file_path(s->f);
}

size_t fmt_st_count(const fmt_st *s)
{
    return s->n;
}

const fmt_tensor *fmt_st_at(const fmt_st *s, size_t i)
{
    return i < s->n ? &s->t[i] : NULL;
}

const fmt_tensor *fmt_st_find(const fmt_st *s, const char *name)
{
    size_t lo = 0, hi = s->n;

    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        const int c = strcmp(name, s->by_name[mid]->name);

        if (c == 0)
            return s->by_name[mid];
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

q_status fmt_st_read(const fmt_st *s, const fmt_tensor *t, uint64_t from, size_t n, void *dst,
                     q_err *err)
{
    if (from > t->bytes || n > t->bytes - from)
        return q_fail(err, Q_ESHAPE, "%s: '%.200s': %zu bytes from byte %llu wanted, it has %llu",
                      q_file_path(s->f), t->name, n, (unsigned long long)from,
                      (unsigned long long)t->bytes);
    return q_file_pread(s->f, dst, n, t->offset + from, err);
}
