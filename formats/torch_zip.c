/* Reader of PyTorch's zip format.
 *
 *   <top>/data.pkl    pickle: names, types, shapes, and where in which storage   (see pickle.h)
 *   <top>/byteorder   "little"; absent before PyTorch 2.1, which knew no other
 *   <top>/data/<key>  the bytes of a storage, aligned to 64
 *   <top>/version     and other small entries that say nothing about the tensors
 *
 * <top> is the file's first name and differs from file to file.  The CRC of the pickle and the byte
 * order are checked; that of the data is not, as for safetensors.  The size of each storage in the
 * pickle must be exactly that of its entry, so that a file whose halves come from two downloads is
 * named.  The text of the pickle stays in memory because it holds the names.
 *
 * Source: PyTorch, torch/serialization.py (_save), caffe2/serialize/inline_container.cc. */
#include "formats/torch_zip.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_file.h"
#include "formats/base/q_mem.h"
#include "formats/base/q_lfs.h"
#include "formats/pickle.h"
#include "formats/zip_dir.h"

#define PICKLE "/data.pkl"
/* the number that begins a file of torch.save before 1.6, as a pickled int, behind PROTO */
#define LEGACY "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."

struct fmt_tz {
    q_file *f;
    char *text;    /* of the pickle */
    fmt_tensor *t; /* [n] by name */
    size_t n;
};

/* What the file is, by its first bytes. */
static q_status check_head(const fmt_tz *z, q_err *err)
{
    q_status st = Q_OK;
    const char *path = q_file_path(z->f);
    const uint64_t bytes = q_file_bytes(z->f);
    uint8_t head[sizeof Q_LFS_HEAD - 1];
    const size_t n = bytes < sizeof head ? (size_t)bytes : sizeof head;

    if (n < 4)
        Q_FAIL(err, Q_EFORMAT,
               "%s: %zu bytes, a PyTorch checkpoint has more: download is incomplete, fetch it "
               "again",
               path, n);
    Q_TRY(q_file_pread(z->f, head, n, 0, err));
    Q_TRY(q_lfs_pointer(head, n, path, err));
    if (n > 2 + sizeof LEGACY - 1 && head[0] == 0x80 &&
        memcmp(head + 2, LEGACY, sizeof LEGACY - 1) == 0)
        Q_FAIL(err, Q_EFORMAT,
               "%s: is in the format of PyTorch before 1.6, a row of pickles and no zip archive: "
               "load and save it again with PyTorch (torch.save(torch.load(f, weights_only=True), "
               "g)), or convert it to safetensors",
               path);
    if (memcmp(head, "PK\3\4", 4) != 0 && memcmp(head, "PK\5\6", 4) != 0)
        Q_FAIL(err, Q_EFORMAT,
               "%s: begins with bytes %02x %02x %02x %02x, wanted a zip archive of torch.save: not "
               "a PyTorch checkpoint, fetch it again",
               path, head[0], head[1], head[2], head[3]);
out:
    return st;
}

/* The entry <top>/data.pkl, of which there is one; everything else is below the same <top>. */
static q_status find_pickle(const fmt_zip_entry **out, const fmt_zip *zip, const char *path,
                            q_err *err)
{
    const fmt_zip_entry *found = NULL;

    for (size_t i = 0; i < fmt_zip_count(zip); i++) {
        const fmt_zip_entry *e = fmt_zip_at(zip, i);
        const char *slash = strchr(e->name, '/');

        if (!slash || strcmp(slash, PICKLE) != 0)
            continue;
        if (found)
            return q_fail(err, Q_EFORMAT, "%s: has '%s' and '%s', wanted one data.pkl: refused",
                          path, found->name, e->name);
        found = e;
    }
    if (!found)
        return q_fail(err, Q_EFORMAT,
                      "%s: zip archive without a data.pkl: not a checkpoint of torch.save", path);
    if (found->bytes == 0 || found->bytes > FMT_PICKLE_MAX)
        return q_fail(err, Q_EFORMAT, "%s: '%s' has %llu bytes, from 1 to %zu are read", path,
                      found->name, (unsigned long long)found->bytes, FMT_PICKLE_MAX);
    *out = found;
    return Q_OK;
}

/* <top>/<tail> beside the pickle; NULL when it is not there */
static const fmt_zip_entry *beside(const fmt_zip *zip, const fmt_zip_entry *pickle,
                                   const char *tail)
{
    char name[FMT_ZIP_MAX_NAME + 64];
    const size_t top = strlen(pickle->name) - (sizeof PICKLE - 1);

    snprintf(name, sizeof name, "%.*s/%s", (int)top, pickle->name, tail);
    return fmt_zip_find(zip, name);
}

static q_status check_order(const fmt_zip *zip, const fmt_zip_entry *pickle, const char *path,
                            q_err *err)
{
    q_status st = Q_OK;
    const fmt_zip_entry *e = beside(zip, pickle, "byteorder");
    char order[6];

    if (!e)
        return Q_OK;
    if (e->bytes == sizeof order)
        Q_TRY(fmt_zip_read(zip, e, order, err));
    if (e->bytes != sizeof order || memcmp(order, "little", sizeof order) != 0)
        Q_FAIL(err, Q_EFORMAT, "%s: byte order is not 'little': save it on such a machine", path);
out:
    return st;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const fmt_tensor *)a)->name, ((const fmt_tensor *)b)->name);
}

/* From the pickle's storages to bytes of the file. */
static q_status place(fmt_tz *z, const fmt_zip *zip, const fmt_zip_entry *pickle,
                      const fmt_pickled *p, size_t n, q_err *err)
{
    const char *path = q_file_path(z->f);
    char tail[40];

    if (n && !(z->t = q_calloc(n, sizeof *z->t)))
        return q_fail(err, Q_ENOMEM, "%s: no memory for %zu tensors", path, n);
    for (; z->n < n; z->n++, p++) {
        fmt_tensor *t = &z->t[z->n];
        const fmt_zip_entry *e;

        snprintf(tail, sizeof tail, "data/%s", p->key);
        if (!(e = beside(zip, pickle, tail)))
            return q_fail(err, Q_EFORMAT, "%s: '%.200s' is in entry %s, which is not there", path,
                          p->name, tail);
        if (e->bytes != p->storage_bytes)
            return q_fail(err, Q_EFORMAT,
                          "%s: '%.200s' is in entry %s of %llu bytes, wanted %llu: file is damaged",
                          path, p->name, tail, (unsigned long long)e->bytes,
                          (unsigned long long)p->storage_bytes);
        *t = (fmt_tensor){ .name = p->name, .dtype = p->dtype, .ndim = p->ndim };
        memcpy(t->shape, p->shape, sizeof t->shape);
        t->offset = e->offset + p->from; /* inside the entry, which is inside the file */
        t->bytes = p->bytes;
    }
    if (n)
        qsort(z->t, n, sizeof *z->t, by_name);
    return Q_OK;
}

q_status fmt_tz_open(fmt_tz **out, const char *dir, const char *name, q_err *err)
{
    q_status st = Q_OK;
    fmt_tz *z = q_calloc(1, sizeof *z);
    fmt_zip *zip = NULL;
    fmt_pickled *p = NULL;
    const fmt_zip_entry *pickle = NULL;
    const char *path;
    size_t n = 0;

    if (!z)
        Q_FAIL(err, Q_ENOMEM, "%s/%s: no memory", dir, name);
    Q_TRY(q_file_open_in(&z->f, dir, name, err));
    path = q_file_path(z->f);
    Q_TRY(check_head(z, err));
    Q_TRY(fmt_zip_open(&zip, z->f, err));
    Q_TRY(find_pickle(&pickle, zip, path, err));
    Q_TRY(check_order(zip, pickle, path, err));
    if (!(z->text = q_malloc((size_t)pickle->bytes)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %llu bytes", path,
               (unsigned long long)pickle->bytes);
    Q_TRY(fmt_zip_read(zip, pickle, z->text, err));
    Q_TRY(fmt_unpickle(&p, &n, z->text, (size_t)pickle->bytes, path, err));
    Q_TRY(place(z, zip, pickle, p, n, err));
    *out = z;
    z = NULL;
out:
    q_free(p);
    fmt_zip_close(zip);
    fmt_tz_close(z);
    return st;
}

void fmt_tz_close(fmt_tz *z)
{
    if (!z)
        return;
    q_file_close(z->f);
    q_free(z->text);
    q_free(z->t);
    q_free(z);
}

const char *fmt_tz_path(const fmt_tz *z)
{
    return q_file_path(z->f);
}

size_t fmt_tz_count(const fmt_tz *z)
{
    return z->n;
}

const fmt_tensor *fmt_tz_at(const fmt_tz *z, size_t i)
{
    return i < z->n ? &z->t[i] : NULL;
}

const fmt_tensor *fmt_tz_find(const fmt_tz *z, const char *name)
{
    const fmt_tensor key = { .name = name };

    return z->n ? bsearch(&key, z->t, z->n, sizeof *z->t, by_name) : NULL;
}

q_status fmt_tz_read(const fmt_tz *z, const fmt_tensor *t, uint64_t from, size_t n, void *dst,
                     q_err *err)
{
    if (from > t->bytes || n > t->bytes - from)
        return q_fail(err, Q_ESHAPE, "%s: '%.200s': %zu bytes from byte %llu wanted, it has %llu",
                      q_file_path(z->f), t->name, n, (unsigned long long)from,
                      (unsigned long long)t->bytes);
    return q_file_pread(z->f, dst, n, t->offset + from, err);
}
