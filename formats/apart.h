/* Work in a process of its own: for a library that may fall over a damaged or hostile file.
 *
 *     Q_TRY(fmt_apart(&bytes, path, list, self, err));      (bytes: what `list` put into out)
 *
 * The function runs in a forked child, on a copy of memory; what comes back is its status, its
 * message and the bytes it put out.  A child that dies, or is busy for more than a minute (and a
 * second for each 16 MiB of the file), is a Q_EFORMAT that names the file.  Threads: may be called
 * while others run; the function must not wait for them. */
#ifndef FMT_APART_H
#define FMT_APART_H

#include "formats/base/q_err.h"
#include "formats/base/q_mem.h"

typedef q_status (*fmt_apart_fn)(void *self, q_buf *out, q_err *err);

/* *result is replaced.  Errors: those of fn, Q_EFORMAT, Q_EOS, Q_ENOMEM. */
q_status fmt_apart(q_buf *result, const char *path, fmt_apart_fn fn, void *self, q_err *err);

#endif
