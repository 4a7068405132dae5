/* Lines of a file, one at a time, whatever the size of the file.
 *
 *     ds_lines r = { 0 };
 *     Q_TRY(ds_lines_open(&r, path, err));
 *     for (;;) {
 *         Q_TRY(ds_lines_next(&r, &more, err));
 *         if (!more)
 *             break;
 *         use(r.line.data, r.line.size, r.place.number);
 *     }
 *     ... out: ds_lines_close(&r);
 *
 * A byte order mark at the start of the file is dropped.  Threads: a ds_lines belongs to one
 * thread. */
#ifndef DS_LINES_H
#define DS_LINES_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/base/q_file.h"
#include "formats/base/q_mem.h"

#define DS_LINE_MAX ((size_t)64 << 20) /* bytes of one line */

typedef struct ds_place {
    uint64_t at;   /* offset of the line in the file */
    size_t bytes;  /* its LF included */
    size_t number; /* from 1 */
} ds_place;

typedef struct ds_lines {
    q_file *f;
    char *chunk; /* what was read last: have bytes, at is the next to look at */
    size_t have, at;
    uint64_t read;  /* bytes of the file taken into chunk so far */
    q_buf line;     /* the current line with its LF; valid until the next call */
    ds_place place; /* where it is */
} ds_lines;

/* Opens and reads the first chunk.  Errors: those of q_file_open, Q_EIO, Q_ENOMEM. */
q_status ds_lines_open(ds_lines *r, const char *path, q_err *err);
/* The next line, *more 0 at the end.  Errors: Q_EFORMAT (longer than DS_LINE_MAX, with the line
 * number), Q_EIO, Q_ENOMEM. */
q_status ds_lines_next(ds_lines *r, int *more, q_err *err);
/* A line seen before; ds_lines_next must not be used after it. */
q_status ds_lines_again(ds_lines *r, const ds_place *place, q_err *err);
void ds_lines_close(ds_lines *r);
/* First bytes of the file without a byte order mark, before the first ds_lines_next. */
const char *ds_lines_peek(const ds_lines *r, size_t *n);
int ds_is_blank(const char *p, size_t n); /* blanks, tabs, CR and LF only */

#endif
