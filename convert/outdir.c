/* Output directories.
 *
 * The lock file is removed while it is locked.  A process that waited for it at that moment would
 * then hold a lock on a file without a name, so after locking the name is compared with the
 * descriptor, and the attempt is repeated when they differ. */
#include "convert/outdir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/q_file.h"
#include "formats/base/q_mem.h"

#define LOCK_TRIES 100

struct cvt_outdir {
    char *parent, *path, *part, *old, *lock;
    int lock_fd, dirfd;
    int made_parent, made_part, published;
    const q_log *log;
};

static q_status make_paths(cvt_outdir *d, const char *parent, const char *name, q_err *err)
{
    d->parent = q_strdup(parent);
    d->path = q_path_join(parent, name);
    if (d->path) {
        const int head = (int)(strlen(d->path) - strlen(name));

        d->part = q_format("%.*s.%s.part", head, d->path, name);
        d->old = q_format("%.*s.%s.old", head, d->path, name);
        d->lock = q_format("%.*s.%s.lock", head, d->path, name);
    }
    if (!d->parent || !d->path || !d->part || !d->old || !d->lock)
        return q_fail(err, Q_ENOMEM, "%s: no memory", parent);
    return Q_OK;
}

/* Who holds the lock, for the message; 0 when it cannot be read. */
static long holder(int fd)
{
    char text[32];
    const ssize_t n = pread(fd, text, sizeof text - 1, 0);

    text[n > 0 ? n : 0] = '\0';
    return strtol(text, NULL, 10);
}

static int is_same_file(int fd, const char *path)
{
    struct stat a, b;

    return fstat(fd, &a) == 0 && lstat(path, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

static q_status write_pid(cvt_outdir *d, q_err *err)
{
    q_status st = Q_OK;
    char text[32];
    const int n = snprintf(text, sizeof text, "%ld\n", (long)getpid());

    if (ftruncate(d->lock_fd, 0) != 0 || pwrite(d->lock_fd, text, (size_t)n, 0) < 0)
        Q_FAIL_ERRNO(err, Q_EIO, "%s: write", d->lock);
out:
    return st;
}

static q_status take_lock(cvt_outdir *d, q_err *err)
{
    q_status st = Q_OK;

    for (int i = 0; i < LOCK_TRIES; i++) {
        d->lock_fd = open(d->lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (d->lock_fd < 0)
            Q_FAIL_ERRNO(err, Q_ECREATE, "%s: cannot create the lock", d->lock);
        if (flock(d->lock_fd, LOCK_EX | LOCK_NB) != 0) {
            if (errno == EINTR)
                errno = EWOULDBLOCK;
            if (errno == EWOULDBLOCK)
                Q_FAIL(err, Q_ECREATE, "%s: process %ld is writing it: wait, or stop that process",
                       d->path, holder(d->lock_fd));
            Q_FAIL_ERRNO(err, Q_EOS, "%s: cannot lock", d->lock);
        }
        if (is_same_file(d->lock_fd, d->lock))
            return write_pid(d, err);
        close(d->lock_fd);
        d->lock_fd = -1;
    }
    Q_FAIL(err, Q_ECREATE, "%s: the lock is replaced all the time", d->lock);
out:
    if (d->lock_fd >= 0)
        close(d->lock_fd);
    d->lock_fd = -1;
    return st;
}

static q_status check_free(const char *path, int force, q_err *err)
{
    if (!q_path_exists(path))
        return Q_OK;
    if (!force)
        return q_fail(err, Q_ECREATE, "%s: exists; --force replaces it", path);
    if (!q_path_is_dir(path))
        return q_fail(err, Q_ECREATE, "%s: exists and is not a directory", path);
    return Q_OK;
}

q_status cvt_outdir_check(const char *parent, const char *name, int force, q_err *err)
{
    q_status st = Q_OK;
    char *path = q_path_join(parent, name);

    if (!path)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", parent);
    if (q_path_exists(parent) && !q_path_is_dir(parent))
        Q_FAIL(err, Q_ECREATE, "%s: is a file, wanted a directory to write %s into", parent, name);
    if (q_path_exists(parent) && access(parent, W_OK | X_OK) != 0)
        Q_FAIL_ERRNO(err, Q_ECREATE, "%s: cannot write into it", parent);
    Q_TRY(check_free(path, force, err));
out:
    q_free(path);
    return st;
}

q_status cvt_outdir_open(cvt_outdir **out, const char *parent, const char *name, int force,
                         const q_log *log, q_err *err)
{
    q_status st = Q_OK;
    cvt_outdir *d = q_calloc(1, sizeof *d);

    if (!d)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", parent);
    d->lock_fd = d->dirfd = -1;
    d->log = log;
    Q_TRY(make_paths(d, parent, name, err));
    Q_TRY(check_free(d->path, force, err));
    d->made_parent = !q_path_exists(parent);
    Q_TRY(q_dir_make(parent, err));
    Q_TRY(take_lock(d, err));
    Q_TRY(check_free(d->path, force, err)); /* another run may just have made it */
    if (q_path_exists(d->part))
        q_log_info(log, "%s: left by a run that was killed: removed", d->part);
    Q_TRY(q_dir_remove(d->part, err));
    if (mkdir(d->part, 0777) != 0)
        Q_FAIL_ERRNO(err, Q_ECREATE, "%s: cannot create directory", d->part);
    d->made_part = 1;
    d->dirfd = open(d->part, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (d->dirfd < 0)
        Q_FAIL_ERRNO(err, Q_EIO, "%s: cannot open directory", d->part);
    *out = d;
    d = NULL;
out:
    cvt_outdir_close(d);
    return st;
}

int cvt_outdir_fd(const cvt_outdir *d)
{
    return d->dirfd;
}

const char *cvt_outdir_part(const cvt_outdir *d)
{
    return d->part;
}

const char *cvt_outdir_path(const cvt_outdir *d)
{
    return d->path;
}

/* 1: the kernel or the file system does not know this kind of rename */
static int is_unknown(int errnum)
{
    return errnum == EINVAL || errnum == ENOSYS || errnum == ENOTSUP;
}

/* No directory stands at path: an empty one made meanwhile would be replaced by a plain rename. */
static q_status move_new(const cvt_outdir *d, q_err *err)
{
    q_status st = Q_OK;

    if (renameat2(AT_FDCWD, d->part, AT_FDCWD, d->path, RENAME_NOREPLACE) != 0 &&
        (!is_unknown(errno) || rename(d->part, d->path) != 0))
        Q_FAIL_ERRNO(err, Q_ECREATE, "%s: cannot rename %s to it", d->path, d->part);
out:
    return st;
}

/* A directory stands at path: afterwards it lies at part. */
static q_status swap(const cvt_outdir *d, q_err *err)
{
    q_status st = Q_OK;

    if (renameat2(AT_FDCWD, d->part, AT_FDCWD, d->path, RENAME_EXCHANGE) == 0)
        return Q_OK;
    if (!is_unknown(errno))
        Q_FAIL_ERRNO(err, Q_ECREATE, "%s: cannot exchange it with %s", d->path, d->part);
    Q_TRY(q_dir_remove(d->old, err));
    if (rename(d->path, d->old) != 0)
        Q_FAIL_ERRNO(err, Q_ECREATE, "%s: cannot move it aside", d->path);
    if (rename(d->part, d->path) != 0) {
        const int why = errno;

        if (rename(d->old, d->path) != 0)
            q_log_warn(d->log, "%s: the directory that stood there is now %s", d->path, d->old);
        errno = why;
        Q_FAIL_ERRNO(err, Q_ECREATE, "%s: cannot rename %s to it", d->path, d->part);
    }
out:
    return st;
}

q_status cvt_outdir_publish(cvt_outdir *d, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(q_dir_sync(d->part, err));
    Q_TRY(q_path_exists(d->path) ? swap(d, err) : move_new(d, err));
    d->published = 1;
    Q_TRY(q_dir_sync(d->parent, err));
out:
    return st;
}

/* What cannot be removed is not worth a failure: the next run removes it. */
static void remove_left(const cvt_outdir *d, const char *path)
{
    q_err err = { 0 };

    if (q_dir_remove(path, &err) != Q_OK)
        q_log_warn(d->log, "%s", err.msg);
}

void cvt_outdir_close(cvt_outdir *d)
{
    if (!d)
        return;
    if (d->dirfd >= 0)
        close(d->dirfd);
    if (d->made_part) /* after an exchange it is the old directory */
        remove_left(d, d->part);
    if (d->published)
        remove_left(d, d->old);
    if (d->lock_fd >= 0) {
        unlink(d->lock);
        close(d->lock_fd);
    }
    if (d->made_parent && !d->published)
        rmdir(d->parent); /* only when it is empty */
    q_free(d->parent);
    q_free(d->path);
    q_free(d->part);
    q_free(d->old);
    q_free(d->lock);
    q_free(d);
}
