/* Writing many files into one directory: each is hashed on the way and synchronised a little later.
 *
 *     cvt_sink s;
 *     cvt_sink_init(&s, dirfd, "out/.1-gpu.part", 64);
 *     Q_TRY(cvt_sink_open(&s, "ln_f.weight.bin", err));
 *     Q_TRY(cvt_sink_write(&s, p, n, err)); ...
 *     Q_TRY(cvt_sink_close(&s, &size, sha256, err));
 *     ... all files ...
 *     Q_TRY(cvt_sink_flush(&s, err));         (now they are on the disk)
 *     ... out: cvt_sink_free(&s);
 *
 * fsync waits for the disk, and on a journalling file system for more than its own file, so a file
 * is only pushed towards the disk when it is closed, and waited for when many later ones have been
 * written.  It stays open until then: the kernel reports a failed write to descriptors that were
 * open at that time, not surely to later ones.  Every file is synchronised and closed, and both
 * answers are checked, before flush returns Q_OK.  Threads: a sink belongs to one thread. */
#ifndef CVT_SINK_H
#define CVT_SINK_H

#include <stddef.h>
#include <stdint.h>

#include "convert/manifest.h"
#include "formats/base/q_err.h"
#include "formats/base/q_hash.h"

#define CVT_SINK_LAG 128 /* files closed and not yet waited for, at most */

typedef struct cvt_sink {
    int dirfd;       /* borrowed */
    const char *dir; /* for messages, borrowed */
    int fd;          /* of the open file, else -1 */
    char name[256];
    uint64_t pos;
    q_sha256 hash;
    struct {
        int fd;
        char name[256];
    } late[CVT_SINK_LAG]; /* a ring */
    int first, n_late, lag;
} cvt_sink;

/* lag: 1 .. CVT_SINK_LAG.  When descriptors run out, late files are waited for earlier. */
void cvt_sink_init(cvt_sink *s, int dirfd, const char *dir, int lag);
/* A new file; it must not exist.  Errors: Q_ECREATE, Q_EIO, Q_EPERM. */
q_status cvt_sink_open(cvt_sink *s, const char *name, q_err *err);
q_status cvt_sink_write(cvt_sink *s, const void *p, size_t n, q_err *err);
q_status cvt_sink_close(cvt_sink *s, uint64_t *size, char sha256[CVT_HEX], q_err *err);
q_status cvt_sink_flush(cvt_sink *s, q_err *err);
void cvt_sink_free(cvt_sink *s); /* closes what is open */

#endif
