/* The end of an HDF5 file that is written: closed, hashed, sealed with its last line, and given its
 * name. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/q_file.h"
#include "formats/h5file_impl.h"

#define SEAL_APART ((off_t)64 << 20) /* fewer bytes are not worth a thread */

static void *hash_whole(void *arg)
{
    q_status st = Q_OK;
    fmt_h5_seal *s = arg;
    q_file *f = NULL;

    Q_TRY(q_file_open(&f, s->path, &s->err));
    Q_TRY(q_file_sha256(f, q_file_bytes(f), s->hex, &s->err));
out:
    q_file_close(f);
    s->st = st;
    return NULL;
}

/* Appends the line with the hash of all before it. */
static q_status put_seal(fmt_h5w *w, q_err *err)
{
    q_status st = Q_OK;
    q_buf line = { 0 };
    int fd = -1;

    if (w->seal.running)
        pthread_join(w->seal.id, NULL);
    else
        hash_whole(&w->seal);
    w->seal.running = 0;
    if (w->seal.st != Q_OK)
        Q_FAIL(err, w->seal.st, "%s", w->seal.err.msg);
    Q_TRY(q_buf_printf(&line, err, "%s%s\n", FMT_H5_SEAL, w->seal.hex));
    if ((fd = open(w->part, O_WRONLY | O_APPEND | O_CLOEXEC)) < 0)
        Q_FAIL_ERRNO(err, Q_EIO, "%s: open", w->part);
    if (write(fd, line.data, line.size) != (ssize_t)line.size)
        Q_FAIL_ERRNO(err, Q_EIO, "%s: write", w->path);
    if (fsync(fd) != 0)
        Q_FAIL_ERRNO(err, Q_EIO, "%s: fsync", w->path);
out:
    if (fd >= 0 && close(fd) != 0 && st == Q_OK)
        st = q_fail_errno(err, Q_EIO, errno, "%s: close", w->path);
    q_buf_free(&line);
    return st;
}

q_status fmt_h5_finish(fmt_h5w *w, const char **part, q_err *err)
{
    q_status st = Q_OK;
    herr_t rc = H5Fflush(w->file, H5F_SCOPE_GLOBAL);
    struct stat sb;

    *part = w->part;
    if (rc < 0)
        Q_TRY(fmt_h5_fail(err, Q_EIO, w->path, "", "cannot flush"));
    rc = H5Fclose(w->file);
    w->file = -1;
    if (rc < 0)
        Q_TRY(fmt_h5_fail(err, Q_EIO, w->path, "", "cannot close"));
    w->seal.path = w->part;
    w->seal.running = stat(w->part, &sb) == 0 && sb.st_size >= SEAL_APART &&
                      pthread_create(&w->seal.id, NULL, hash_whole, &w->seal) == 0;
    w->finished = 1;
out:
    return st;
}

q_status fmt_h5_commit(fmt_h5w *w, q_err *err)
{
    q_status st = Q_OK;
    const char *part;

    if (!w->finished)
        Q_TRY(fmt_h5_finish(w, &part, err));
    Q_TRY(put_seal(w, err));
    Q_TRY(q_rename_synced(w->part, w->path, w->force, err));
    w->committed = 1;
out:
    return st;
}

void fmt_h5w_close(fmt_h5w *w)
{
    if (!w)
        return;
    if (w->seal.running)
        pthread_join(w->seal.id, NULL);
    if (w->file >= 0)
        H5Fclose(w->file);
    if (w->set_plist >= 0)
        H5Pclose(w->set_plist);
    if (!w->committed && w->part)
        unlink(w->part);
    q_free(w->path);
    q_free(w->part);
    q_free(w);
}
