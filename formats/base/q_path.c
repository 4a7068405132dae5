/* Paths and directories: names taken apart and put together, what stands at a path, directories
 * that are made, made durable and removed.  Nothing here changes the working directory, and
 * messages name the path as it was given. */
#include "formats/base/q_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* ---- names ----------------------------------------------------------------------------------- */

int q_name_is_plain(const char *name)
{
    return name[0] != '\0' && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 &&
           !strchr(name, '/');
}

char *q_path_dir(const char *path)
{
    const char *slash = strrchr(path, '/');

    if (!slash)
        return q_strdup(".");
    return slash == path ? q_strdup("/") : q_strndup(path, (size_t)(slash - path));
}

char *q_path_join(const char *dir, const char *name)
{
    size_t n = strlen(dir);

    return q_format("%s%s%s", dir, n > 0 && dir[n - 1] == '/' ? "" : "/", name);
}

/* ---- what is there --------------------------------------------------------------------------- */

int q_path_exists(const char *path)
{
    struct stat sb;

    return lstat(path, &sb) == 0;
}

int q_path_is_dir(const char *path)
{
    struct stat sb;

    return stat(path, &sb) == 0 && S_ISDIR(sb.st_mode);
}

int q_path_same(const char *a, const char *b)
{
    struct stat sa, sb;

    return stat(a, &sa) == 0 && stat(b, &sb) == 0 && sa.st_dev == sb.st_dev &&
           sa.st_ino == sb.st_ino;
}

q_status q_disk_free(const char *path, uint64_t *bytes, q_err *err)
{
    q_status st = Q_OK;
    struct statvfs sv;
    char *p = q_strdup(path);

    if (!p)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    while (!q_path_exists(p)) {
        char *up = q_path_dir(p);

        q_free(p);
        if (!(p = up))
            Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    }
    if (statvfs(p, &sv) != 0)
        Q_FAIL_ERRNO(err, Q_EIO, "%s: free space", p);
    *bytes = (uint64_t)sv.f_bavail * sv.f_frsize;
out:
    q_free(p);
    return st;
}

/* ---- directories ----------------------------------------------------------------------------- */

q_status q_dir_make(const char *path, q_err *err)
{
    q_status st = Q_OK;
    char *copy = q_strdup(path);

    if (!copy)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    for (char *p = copy + 1;; p++) {
        char c = *p;

        if (c != '/' && c != '\0')
            continue;
        *p = '\0';
        if (mkdir(copy, 0777) != 0 && errno != EEXIST)
            Q_FAIL_ERRNO(err, Q_ECREATE, "%s: cannot create directory", copy);
        *p = c;
        if (c == '\0')
            break;
    }
    if (!q_path_is_dir(path))
        Q_FAIL(err, Q_ECREATE, "%s: exists and is not a directory", path);
out:
    q_free(copy);
    return st;
}

q_status q_dir_sync(const char *path, q_err *err)
{
    q_status st = Q_OK;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        Q_FAIL_ERRNO(err, Q_EIO, "%s: cannot open directory", path);
    if (fsync(fd) != 0 && errno != EINVAL) /* EINVAL: the file system has no such thing */
        Q_FAIL_ERRNO(err, Q_EIO, "%s: fsync of the directory", path);
out:
    if (fd >= 0)
        close(fd);
    return st;
}

q_status q_dir_remove(const char *path, q_err *err)
{
    q_status st = Q_OK;
    char *child = NULL;
    struct dirent *e;
    struct stat sb;
    DIR *d = NULL;

    if (lstat(path, &sb) != 0)
        return errno == ENOENT ? Q_OK : q_fail_errno(err, Q_EIO, errno, "%s: stat", path);
    if (!S_ISDIR(sb.st_mode)) {
        if (unlink(path) != 0)
            Q_FAIL_ERRNO(err, Q_EIO, "%s: remove", path);
        return Q_OK;
    }
    if (!(d = opendir(path)))
        Q_FAIL_ERRNO(err, Q_EIO, "%s: cannot open directory", path);
    while ((e = readdir(d))) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        q_free(child);
        if (!(child = q_path_join(path, e->d_name)))
            Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
        Q_TRY(q_dir_remove(child, err));
    }
    if (rmdir(path) != 0)
        Q_FAIL_ERRNO(err, Q_EIO, "%s: remove", path);
out:
    q_free(child);
    if (d)
        closedir(d);
    return st;
}

/* A file system that cannot look first gives what it can. */
static int move_file(const char *from, const char *to, int force)
{
    if (!force) {
        if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
            return 0;
        if (errno != EINVAL && errno != ENOSYS)
            return -1;
    }
    return rename(from, to);
}

q_status q_rename_synced(const char *from, const char *to, int force, q_err *err)
{
    q_status st = Q_OK;
    struct stat sb;
    char *dir = NULL;

    if (stat(to, &sb) == 0 && !S_ISREG(sb.st_mode) && !S_ISDIR(sb.st_mode))
        Q_FAIL(err, Q_ECREATE, "%s: is a device or a pipe, wanted the name of a file", to);
    if (move_file(from, to, force) != 0) {
        if (errno == EEXIST)
            Q_FAIL(err, Q_ECREATE, "%s: was made by another run meanwhile; --force overwrites it",
                   to);
        Q_FAIL_ERRNO(err, Q_ECREATE, "%s: rename", to);
    }
    if (!(dir = q_path_dir(to)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", to);
    Q_TRY(q_dir_sync(dir, err));
out:
    q_free(dir);
    return st;
}
