/* Hidden states. */
#include "calibrate/hidden.h"

#include <string.h>
#include <unistd.h>

static size_t row_bytes(const cal_hidden *h)
{
    return (size_t)h->width * sizeof(float);
}

q_status cal_hidden_open(cal_hidden *h, int64_t rows, int64_t width, int spilled, q_err *err)
{
    size_t bytes = 0;

    *h = (cal_hidden){ .rows = rows, .width = width };
    if (spilled)
        return Q_OK;
    if (!q_mul_ok((size_t)rows, row_bytes(h), &bytes) || !(h->mem = q_malloc(bytes)))
        return q_fail(err, Q_ENOMEM, "no memory for %zu bytes of hidden states: use --max-ram",
                      bytes);
    return Q_OK;
}

void cal_hidden_close(cal_hidden *h)
{
    q_free(h->mem);
    q_file_close(h->was);
    q_out_close(h->next);
    q_free(h->path);
    memset(h, 0, sizeof *h);
}

q_status cal_hidden_get(const cal_hidden *h, int64_t row, int64_t n, float *dst, q_err *err)
{
    if (!h->mem)
        return q_file_pread(h->was, dst, (size_t)n * row_bytes(h), (uint64_t)row * row_bytes(h),
                            err);
    memcpy(dst, h->mem + row * h->width, (size_t)n * row_bytes(h));
    return Q_OK;
}

q_status cal_hidden_put(cal_hidden *h, const char *path, int64_t row, int64_t n, const float *src,
                        q_err *err)
{
    q_status st = Q_OK;

    if (h->mem) {
        memcpy(h->mem + row * h->width, src, (size_t)n * row_bytes(h));
        return Q_OK;
    }
    if (!h->next)
        Q_TRY(q_out_open(&h->next, path, 1, err));
    Q_TRY(q_out_write(h->next, src, (size_t)n * row_bytes(h), err));
out:
    return st;
}

q_status cal_hidden_turn(cal_hidden *h, const char *path, q_err *err)
{
    q_status st = Q_OK;
    char *name = NULL;

    if (h->mem)
        return Q_OK;
    if (!(name = q_strdup(path)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    Q_TRY(q_out_commit(h->next, err));
    q_out_close(h->next);
    h->next = NULL;
    q_file_close(h->was);
    h->was = NULL;
    if (h->path)
        unlink(h->path);
    q_free(h->path);
    h->path = name;
    name = NULL;
    Q_TRY(q_file_open(&h->was, path, err));
out:
    q_free(name);
    return st;
}

q_status cal_hidden_save(const cal_hidden *h, const char *path, q_err *err)
{
    return h->mem ? q_out_whole(path, 1, h->mem, (size_t)h->rows * row_bytes(h), err) : Q_OK;
}

q_status cal_hidden_load(cal_hidden *h, const char *path, q_err *err)
{
    q_status st = Q_OK;
    const uint64_t want = (uint64_t)h->rows * row_bytes(h);
    q_file *f = NULL;

    Q_TRY(q_file_open(&f, path, err));
    if (q_file_bytes(f) != want)
        Q_FAIL(err, Q_EFORMAT, "%s: %llu bytes, wanted %llu: --no-resume starts anew", path,
               (unsigned long long)q_file_bytes(f), (unsigned long long)want);
    if (h->mem) {
        Q_TRY(q_file_pread(f, h->mem, (size_t)want, 0, err));
        goto out;
    }
    if (!(h->path = q_strdup(path)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    h->was = f;
    f = NULL;
out:
    q_file_close(f);
    return st;
}
