/* Line reader.
 *
 * The file is read in chunks of a fixed size; a line is copied into a buffer that grows to the
 * longest line met, at most DS_LINE_MAX, so neither the size of the file nor a file without any LF
 * costs more.  NUL is a byte like any other: whoever takes the line decides. */
#include "datasets/lines.h"

#include <string.h>

#define READ_BYTES ((size_t)1 << 18) /* per read: readahead does the rest */

int ds_is_blank(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != ' ' && p[i] != '\t' && p[i] != '\r' && p[i] != '\n')
            return 0;
    return 1;
}

/* The next chunk; have is 0 at the end of the file. */
static q_status refill(ds_lines *r, q_err *err)
{
    const uint64_t rest = q_file_bytes(r->f) - r->read;
    q_status st = Q_OK;

    r->at = 0;
    r->have = rest < READ_BYTES ? (size_t)rest : READ_BYTES;
    Q_TRY(q_file_pread(r->f, r->chunk, r->have, r->read, err));
    r->read += r->have;
out:
    return st;
}

q_status ds_lines_open(ds_lines *r, const char *path, q_err *err)
{
    q_status st = Q_OK;
    size_t n;

    Q_TRY(q_file_open(&r->f, path, err));
    n = q_file_bytes(r->f) < READ_BYTES ? (size_t)q_file_bytes(r->f) + 1 : READ_BYTES;
    if (!(r->chunk = q_malloc(n))) /* no read is longer than the file */
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    Q_TRY(refill(r, err));
    if (r->have >= 3 && memcmp(r->chunk, "\xef\xbb\xbf", 3) == 0)
        r->at = 3;
out:
    return st;
}

void ds_lines_close(ds_lines *r)
{
    q_file_close(r->f);
    q_free(r->chunk);
    q_buf_free(&r->line);
}

const char *ds_lines_peek(const ds_lines *r, size_t *n)
{
    *n = r->have - r->at;
    return r->chunk + r->at;
}

q_status ds_lines_next(ds_lines *r, int *more, q_err *err)
{
    q_status st = Q_OK;
    const char *end = NULL;

    q_buf_clear(&r->line);
    r->place.number++;
    r->place.at = r->read - (r->have - r->at);
    while (!end) {
        size_t n;

        if (r->at == r->have) {
            Q_TRY(refill(r, err));
            if (r->have == 0)
                break;
        }
        n = r->have - r->at;
        end = memchr(r->chunk + r->at, '\n', n);
        if (end)
            n = (size_t)(end - (r->chunk + r->at)) + 1;
        if (n > DS_LINE_MAX - r->line.size)
            Q_FAIL(err, Q_EFORMAT, "%s:%zu: line is longer than %zu bytes", q_file_path(r->f),
                   r->place.number, DS_LINE_MAX);
        Q_TRY(q_buf_put(&r->line, r->chunk + r->at, n, err));
        r->at += n;
    }
    r->place.bytes = r->line.size;
    *more = r->line.size > 0;
out:
    return st;
}

q_status ds_lines_again(ds_lines *r, const ds_place *place, q_err *err)
{
    q_status st = Q_OK;

    q_buf_clear(&r->line);
    for (size_t done = 0, n; done < place->bytes; done += n) {
        n = place->bytes - done < READ_BYTES ? place->bytes - done : READ_BYTES;
        Q_TRY(q_file_pread(r->f, r->chunk, n, place->at + done, err));
        Q_TRY(q_buf_put(&r->line, r->chunk, n, err));
    }
    r->place = *place;
out:
    return st;
}
