/* Listing and reading the files that go along. */
#include "convert/copies.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "convert/manifest.h"
#include "formats/arch.h"
#include "formats/base/q_file.h"

#define FILE_MAX ((size_t)1 << 30)

static int has_suffix(const char *name, const char *suffix)
{
    const size_t n = strlen(name), k = strlen(suffix);

    return n >= k && strcmp(name + n - k, suffix) == 0;
}

/* Tensor data, what it needs around it, and what we write ourselves do not go along. */
static int is_left_behind(const char *name)
{
    static const char *const weights[] = { ".safetensors", ".bin",  ".index.json", ".h5",  ".pt",
                                           ".pth",         ".gguf", ".msgpack",    ".onnx" };

    for (size_t i = 0; i < sizeof weights / sizeof weights[0]; i++)
        if (has_suffix(name, weights[i]))
            return 1;
    return name[0] == '.' || strcmp(name, "config.ini") == 0 || strcmp(name, CVT_MANIFEST) == 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const cvt_copy *)a)->name, ((const cvt_copy *)b)->name);
}

typedef struct copies {
    cvt_copy *v;
    size_t n, cap;
} copies;

static q_status add(copies *c, const char *dir, const char *name, uint64_t bytes, q_err *err)
{
    q_status st = Q_OK;

    if (!cvt_manifest_name_ok(name))
        Q_FAIL(err, Q_EFORMAT, "%s: file name '%s' is not printable ASCII: rename or remove it",
               dir, name);
    if (c->n == c->cap) {
        const size_t more = c->cap ? 2 * c->cap : 16;
        cvt_copy *grown = q_calloc(more, sizeof *grown);

        if (!grown)
            Q_FAIL(err, Q_ENOMEM, "%s: no memory for %zu file names", dir, more);
        if (c->n)
            memcpy(grown, c->v, c->n * sizeof *grown);
        q_free(c->v);
        c->v = grown;
        c->cap = more;
    }
    if (!(c->v[c->n].name = q_strdup(name)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", dir);
    c->v[c->n++].bytes = bytes;
out:
    return st;
}

/* Plain files only; a directory, a FIFO or a device is none, a link is judged when it is opened. */
static q_status is_candidate(int *yes, int dirfd, const char *dir, const char *name, q_err *err)
{
    q_status st = Q_OK;
    struct stat sb;

    *yes = 0;
    if (is_left_behind(name))
        return Q_OK;
    if (fstatat(dirfd, name, &sb, AT_SYMLINK_NOFOLLOW) != 0)
        Q_FAIL_ERRNO(err, Q_EIO, "%s/%s: stat", dir, name);
    *yes = S_ISREG(sb.st_mode) || S_ISLNK(sb.st_mode);
out:
    return st;
}

static q_status list_dir(copies *c, const char *dir, q_err *err)
{
    q_status st = Q_OK;
    DIR *d = opendir(dir);
    struct dirent *e;
    q_file *f = NULL;
    int yes = 0;

    if (!d)
        Q_FAIL_ERRNO(err, Q_EIO, "%s: cannot list the directory", dir);
    for (errno = 0; (e = readdir(d)); errno = 0) {
        Q_TRY(is_candidate(&yes, dirfd(d), dir, e->d_name, err));
        if (!yes)
            continue;
        Q_TRY(q_file_open_in(&f, dir, e->d_name, err));
        Q_TRY(add(c, dir, e->d_name, q_file_bytes(f), err));
        q_file_close(f);
        f = NULL;
    }
    if (errno != 0)
        Q_FAIL_ERRNO(err, Q_EIO, "%s: cannot list the directory", dir);
out:
    q_file_close(f);
    if (d)
        closedir(d);
    return st;
}

static q_status list_archive(copies *c, const fmt_arch *a, q_err *err)
{
    q_status st = Q_OK;

    for (size_t i = 0; i < fmt_arch_files(a); i++) {
        uint64_t bytes;
        const char *name = fmt_arch_file_name(a, i, &bytes);

        if (!is_left_behind(name))
            Q_TRY(add(c, fmt_arch_path(a), name, bytes, err));
    }
out:
    return st;
}

q_status cvt_copies_list(cvt_copy **out, size_t *n, const fmt_src *src, q_err *err)
{
    q_status st = Q_OK;
    const fmt_files files = fmt_src_files(src);
    copies c = { 0 };

    Q_TRY(files.arch ? list_archive(&c, files.arch, err) : list_dir(&c, files.dir, err));
    if (c.n)
        qsort(c.v, c.n, sizeof *c.v, by_name);
    *out = c.v;
    *n = c.n;
    c = (copies){ 0 };
out:
    cvt_copies_free(c.v, c.n);
    return st;
}

void cvt_copies_free(cvt_copy *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        q_free(v[i].name);
    q_free(v);
}

static q_status read_in_dir(q_buf *out, const char *dir, const cvt_copy *c, q_err *err)
{
    q_status st = Q_OK;
    q_file *f = NULL;
    char *p = NULL;

    Q_TRY(q_file_open_in(&f, dir, c->name, err));
    if (q_file_bytes(f) != c->bytes)
        Q_FAIL(err, Q_EIO, "%s: %llu bytes, had %llu before: something writes it", q_file_path(f),
               (unsigned long long)q_file_bytes(f), (unsigned long long)c->bytes);
    q_buf_clear(out);
    Q_TRY(q_buf_puts(out, "", err));
    if (c->bytes == 0)
        goto out;
    if (!(p = q_malloc((size_t)c->bytes)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", q_file_path(f));
    Q_TRY(q_file_pread(f, p, (size_t)c->bytes, 0, err));
    Q_TRY(q_buf_put(out, p, (size_t)c->bytes, err));
out:
    q_free(p);
    q_file_close(f);
    return st;
}

q_status cvt_copy_read(q_buf *out, const fmt_src *src, const cvt_copy *c, q_err *err)
{
    const fmt_files files = fmt_src_files(src);

    if (c->bytes > FILE_MAX)
        return q_fail(err, Q_EFORMAT, "%s: %s has %llu bytes, at most %zu go along", files.dir,
                      c->name, (unsigned long long)c->bytes, FILE_MAX);
    return files.arch ? fmt_arch_file_read(files.arch, c->name, FILE_MAX, out, err)
                      : read_in_dir(out, files.dir, c, err);
}

int cvt_copy_is_config(const char *name)
{
    static const char *const names[] = { "config.json", "quantization_config.json",
                                         "quantize_config.json", "quant_config.json" };

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0)
            return 1;
    return 0;
}
