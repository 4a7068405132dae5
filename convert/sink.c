/* The sink.  Data goes out in pieces that are hashed and written while they are in the cache of the
 * processor; writing them in one call of many megabytes would read memory twice. */
#include "convert/sink.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PIECE ((size_t)256 << 10) /* stays in a second-level cache */

void cvt_sink_init(cvt_sink *s, int dirfd, const char *dir, int lag)
{
    assert(lag >= 1 && lag <= CVT_SINK_LAG);
    memset(s, 0, sizeof *s);
    s->dirfd = dirfd;
    s->dir = dir;
    s->fd = -1;
    s->lag = lag;
}

/* Waits for the oldest late file. */
static q_status settle(cvt_sink *s, q_err *err)
{
    q_status st = Q_OK;
    const int fd = s->late[s->first].fd;
    const char *name = s->late[s->first].name;
    int rc;

    s->first = (s->first + 1) % CVT_SINK_LAG;
    s->n_late--;
    do
        rc = fsync(fd);
    while (rc != 0 && errno == EINTR);
    if (rc != 0)
        st = q_fail_errno(err, Q_EIO, errno, "%s/%s: fsync", s->dir, name);
    if (close(fd) != 0 && st == Q_OK)
        st = q_fail_errno(err, Q_EIO, errno, "%s/%s: close", s->dir, name);
    return st;
}

q_status cvt_sink_open(cvt_sink *s, const char *name, q_err *err)
{
    q_status st = Q_OK;
    const int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW;

    assert(s->fd < 0 && strlen(name) < sizeof s->name);
    strcpy(s->name, name);
    while ((s->fd = openat(s->dirfd, name, flags, 0666)) < 0) {
        if (errno != EMFILE || s->n_late == 0)
            Q_FAIL_ERRNO(err, Q_ECREATE, "%s/%s: cannot create", s->dir, name);
        Q_TRY(settle(s, err));
    }
    s->pos = 0;
    q_sha256_init(&s->hash);
out:
    return st;
}

static q_status write_all(cvt_sink *s, const char *p, size_t n, q_err *err)
{
    while (n > 0) {
        const ssize_t r = write(s->fd, p, n);

        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return q_fail_errno(err, Q_EIO, errno, "%s/%s: write at byte %llu", s->dir, s->name,
                                (unsigned long long)s->pos);
        p += r;
        n -= (size_t)r;
        s->pos += (uint64_t)r;
    }
    return Q_OK;
}

q_status cvt_sink_write(cvt_sink *s, const void *p, size_t n, q_err *err)
{
    q_status st = Q_OK;
    const char *at = p;

    assert(s->fd >= 0);
    while (n > 0) {
        const size_t piece = n < PIECE ? n : PIECE;

        q_sha256_update(&s->hash, at, piece);
        Q_TRY(write_all(s, at, piece, err));
        at += piece;
        n -= piece;
    }
out:
    return st;
}

q_status cvt_sink_close(cvt_sink *s, uint64_t *size, char sha256[CVT_HEX], q_err *err)
{
    q_status st = Q_OK;
    uint8_t digest[32];
    int last;

    q_sha256_final(&s->hash, digest);
    q_hex(sha256, digest, sizeof digest);
    *size = s->pos;
    /* start the disk; fsync gives the answer that counts */
    (void)sync_file_range(s->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    if (s->n_late == s->lag)
        Q_TRY(settle(s, err));
    last = (s->first + s->n_late++) % CVT_SINK_LAG;
    s->late[last].fd = s->fd;
    strcpy(s->late[last].name, s->name);
    s->fd = -1;
out:
    return st;
}

q_status cvt_sink_flush(cvt_sink *s, q_err *err)
{
    q_status st = Q_OK;

    while (s->n_late > 0)
        Q_TRY(settle(s, err));
out:
    return st;
}

void cvt_sink_free(cvt_sink *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    for (; s->n_late > 0; s->n_late--) {
        close(s->late[s->first].fd);
        s->first = (s->first + 1) % CVT_SINK_LAG;
    }
}
