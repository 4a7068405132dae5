/* Files.  Reads go through pread so that several threads can share a descriptor and so that a
 * truncated file gives a message instead of SIGBUS (no mmap).  Outputs follow the usual safe order:
 * temporary in the same directory, write, fsync, rename, fsync of the directory, close checked. */
#include "formats/base/q_file.h"

#include "formats/base/q_hash.h"
#include "formats/base/q_lfs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct q_file {
    int fd;
    uint64_t bytes;
    char *path;
};

struct q_out {
    int fd, force, committed;
    uint64_t pos;
    char *path, *tmp;
};

/* Reads of this size keep the kernel's readahead busy and stay below Linux's 2 GiB call limit. */
#define HASH_BYTES ((size_t)1 << 20)
#define IO_MAX     ((size_t)64 << 20)

static q_status file_from_fd(q_file **out, int fd, char *path, q_err *err)
{
    q_status st = Q_OK;
    struct stat sb;
    q_file *f = NULL;

    if (fstat(fd, &sb) != 0)
        Q_FAIL_ERRNO(err, Q_EIO, "%s: stat", path);
    if (!S_ISREG(sb.st_mode))
        Q_FAIL(err, Q_EFORMAT,
               S_ISDIR(sb.st_mode) ? "%s: is a directory, wanted a file" : "%s: not a regular file",
               path);
    if (!(f = q_calloc(1, sizeof *f)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    f->fd = fd;
    f->bytes = (uint64_t)sb.st_size;
    f->path = path;
    *out = f;
    return Q_OK;
out:
    close(fd);
    q_free(path);
    return st;
}

q_status q_file_open(q_file **out, const char *path, q_err *err)
{
    char *copy = q_strdup(path);
    int fd;

    if (!*path) {
        q_free(copy);
        return q_fail(err, Q_ENOINPUT, "the name of a file is empty: name a file");
    }
    if (!copy)
        return q_fail(err, Q_ENOMEM, "%s: no memory", path);
    /* O_NONBLOCK: opening a FIFO must not hang before fstat can refuse it */
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        q_free(copy);
        return q_fail_errno(err, Q_EIO, errno, "%s: cannot open", path);
    }
    return file_from_fd(out, fd, copy, err);
}

/* snapshots/<rev>/file -> ../../blobs/<hash> is how the Hugging Face cache stores files. */
static int is_cache_link(int dirfd, const char *name)
{
    char target[PATH_MAX];
    ssize_t n = readlinkat(dirfd, name, target, sizeof target - 1);

    if (n <= 0)
        return 0;
    target[n] = '\0';
    if (strncmp(target, "../../blobs/", 12) != 0)
        return 0;
    for (const char *p = target + 12; *p; p++)
        if (!strchr("0123456789abcdef", *p))
            return 0;
    return target[12] != '\0';
}

q_status q_file_open_in(q_file **out, const char *dir, const char *name, q_err *err)
{
    q_status st = Q_OK;
    int dirfd = -1, fd = -1, follow;
    char *path = NULL;

    if (!q_name_is_plain(name))
        Q_FAIL(err, Q_EFORMAT, "%s: file name '%s' leaves the directory: refused", dir, name);
    if (!(path = q_path_join(dir, name)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", dir);
    dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dirfd < 0)
        Q_FAIL_ERRNO(err, Q_EIO, "%s: cannot open directory", dir);
    follow = is_cache_link(dirfd, name);
    fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | (follow ? 0 : O_NOFOLLOW));
    if (fd < 0 && errno == ELOOP)
        Q_FAIL(err, Q_EFORMAT, "%s: is a link: refused, replace it by the file", path);
    if (fd < 0)
        Q_FAIL_ERRNO(err, Q_EIO, "%s: cannot open", path);
    st = file_from_fd(out, fd, path, err); /* takes fd and path, also when it fails */
    path = NULL;
out:
    if (dirfd >= 0)
        close(dirfd);
    q_free(path);
    return st;
}

void q_file_close(q_file *f)
{
    if (!f)
        return;
    close(f->fd);
    q_free(f->path);
    q_free(f);
}

uint64_t q_file_bytes(const q_file *f)
{
    return f->bytes;
}

const char *q_file_path(const q_file *f)
{
    return f->path;
}

q_status q_file_pread(const q_file *f, void *dst, size_t n, uint64_t offset, q_err *err)
{
    char *p = dst;

    if (offset > f->bytes || n > f->bytes - offset)
        return q_fail(err, Q_EFORMAT, "%s: bytes %llu to %llu wanted, file has %llu", f->path,
                      (unsigned long long)offset, (unsigned long long)(offset + n),
                      (unsigned long long)f->bytes);
    while (n > 0) {
        ssize_t r = pread(f->fd, p, n < IO_MAX ? n : IO_MAX, (off_t)offset);

        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return q_fail_errno(err, Q_EIO, errno, "%s: read at byte %llu", f->path,
                                (unsigned long long)offset);
        if (r == 0)
            return q_fail(err, Q_EIO, "%s: became shorter while it was read", f->path);
        p += r;
        n -= (size_t)r;
        offset += (uint64_t)r;
    }
    return Q_OK;
}

q_status q_file_sha256(const q_file *f, uint64_t n, char hex[65], q_err *err)
{
    q_status st = Q_OK;
    q_sha256 h;
    q_sha256_task task = { 0 };
    uint8_t digest[32];
    char *buf = q_malloc(2 * HASH_BYTES); /* one half is read while the other is hashed */

    if (!buf)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", f->path);
    q_sha256_init(&h);
    for (uint64_t at = 0; at < n; at += HASH_BYTES) {
        const size_t piece = n - at < HASH_BYTES ? (size_t)(n - at) : HASH_BYTES;
        char *half = buf + at / HASH_BYTES % 2 * HASH_BYTES;

        Q_TRY(q_file_pread(f, half, piece, at, err));
        q_sha256_end(&task);
        q_sha256_begin(&task, &h, half, piece);
    }
    q_sha256_end(&task);
    q_sha256_final(&h, digest);
    q_hex(hex, digest, sizeof digest);
out:
    q_sha256_end(&task);
    q_free(buf);
    return st;
}

q_status q_file_slurp(q_buf *out, const char *path, size_t max, q_err *err)
{
    q_status st = Q_OK;
    q_file *f = NULL;
    char *p = NULL;

    Q_TRY(q_file_open(&f, path, err));
    if (f->bytes > max)
        Q_FAIL(err, Q_EFORMAT, "%s: %llu bytes, at most %zu are read", path,
               (unsigned long long)f->bytes, max);
    if (!(p = q_malloc((size_t)f->bytes + 1)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %llu bytes", path, (unsigned long long)f->bytes);
    Q_TRY(q_file_pread(f, p, (size_t)f->bytes, 0, err));
    Q_TRY(q_lfs_pointer(p, (size_t)f->bytes, path, err));
    p[f->bytes] = '\0';
    q_buf_free(out);
    *out = (q_buf){ p, (size_t)f->bytes, (size_t)f->bytes + 1 };
    p = NULL;
out:
    q_free(p);
    q_file_close(f);
    return st;
}

q_status q_out_check(const char *path, int force, q_err *err)
{
    q_status st = Q_OK;
    char *dir = q_path_dir(path);
    struct stat sb;

    if (!dir)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    if (!*path)
        Q_FAIL(err, Q_EARG, "the name of the output is empty: name a file");
    if (q_path_is_dir(path))
        Q_FAIL(err, Q_ECREATE, "%s: is a directory, wanted the name of a file", path);
    if (stat(path, &sb) == 0 && !S_ISREG(sb.st_mode)) /* renaming would replace /dev/null itself */
        Q_FAIL(err, Q_ECREATE, "%s: is a device or a pipe, wanted the name of a file", path);
    if (!force && q_path_exists(path))
        Q_FAIL(err, Q_ECREATE, "%s: exists; --force overwrites it", path);
    if (!q_path_is_dir(dir))
        Q_FAIL(err, Q_ECREATE, "%s: there is no directory '%s': make it first", path, dir);
    if (access(dir, W_OK | X_OK) != 0)
        Q_FAIL_ERRNO(err, Q_ECREATE, "%s: cannot write into '%s'", path, dir);
out:
    q_free(dir);
    return st;
}

q_status q_out_apart(const char *path, const char *input, q_err *err)
{
    if (input && q_path_same(path, input))
        return q_fail(err, Q_EARG, "%s: the output is an input: choose another name", path);
    return Q_OK;
}

q_status q_out_open(q_out **out, const char *path, int force, q_err *err)
{
    q_status st = Q_OK;
    q_out *o = q_calloc(1, sizeof *o);

    if (!o)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    o->fd = -1;
    o->force = force;
    Q_TRY(q_out_check(path, force, err));
    o->path = q_strdup(path);
    o->tmp = q_format("%s.part.%ld", path, (long)getpid());
    if (!o->path || !o->tmp)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    o->fd = open(o->tmp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (o->fd < 0)
        Q_FAIL_ERRNO(err, Q_ECREATE, "%s: cannot create", path);
    *out = o;
    o = NULL;
out:
    if (o && o->fd < 0) /* nothing was made: nothing to unlink */
        o->committed = 1;
    q_out_close(o);
    return st;
}

static q_status write_at(const q_out *o, const void *p, size_t n, uint64_t offset, q_err *err)
{
    const char *s = p;

    while (n > 0) {
        ssize_t r = pwrite(o->fd, s, n < IO_MAX ? n : IO_MAX, (off_t)offset);

        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return q_fail_errno(err, Q_EIO, errno, "%s: write at byte %llu", o->path,
                                (unsigned long long)offset);
        s += r;
        n -= (size_t)r;
        offset += (uint64_t)r;
    }
    return Q_OK;
}

q_status q_out_write(q_out *o, const void *p, size_t n, q_err *err)
{
    q_status st = Q_OK;

    if (p)
        Q_TRY(write_at(o, p, n, o->pos, err));
    else if (ftruncate(o->fd, (off_t)(o->pos + n)) != 0)
        Q_FAIL_ERRNO(err, Q_EIO, "%s: hole to byte %llu", o->path,
                     (unsigned long long)(o->pos + n));
    o->pos += n;
out:
    return st;
}

q_status q_out_read_back(const q_out *o, q_file **out, q_err *err)
{
    q_status st = Q_OK;
    char *path = q_strdup(o->path);
    int fd;

    if (!path)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", o->path);
    if ((fd = fcntl(o->fd, F_DUPFD_CLOEXEC, 0)) < 0)
        Q_FAIL_ERRNO(err, Q_EIO, "%s: dup", o->tmp);
    return file_from_fd(out, fd, path, err);
out:
    q_free(path);
    return st;
}

q_status q_out_commit(q_out *o, q_err *err)
{
    q_status st = Q_OK;
    int rc;

    if (fsync(o->fd) != 0)
        Q_FAIL_ERRNO(err, Q_EIO, "%s: fsync", o->path);
    rc = close(o->fd);
    o->fd = -1;
    if (rc != 0)
        Q_FAIL_ERRNO(err, Q_EIO, "%s: close", o->path);
    Q_TRY(q_rename_synced(o->tmp, o->path, o->force, err));
    o->committed = 1;
out:
    return st;
}

void q_out_close(q_out *o)
{
    if (!o)
        return;
    if (o->fd >= 0)
        close(o->fd);
    if (!o->committed && o->tmp)
        unlink(o->tmp);
    q_free(o->path);
    q_free(o->tmp);
    q_free(o);
}

q_status q_out_whole(const char *path, int force, const void *p, size_t n, q_err *err)
{
    q_status st = Q_OK;
    q_out *o = NULL;

    Q_TRY(q_out_open(&o, path, force, err));
    Q_TRY(q_out_write(o, p, n, err));
    Q_TRY(q_out_commit(o, err));
out:
    q_out_close(o);
    return st;
}
