/* Writer of safetensors files.
 *
 * Declarations build the header as a JSON object, which is also the dictionary of used names.  The
 * first write prints it: u64 length, header padded with blanks so that the data starts at a
 * multiple of eight (readers that map the file like that), then the bytes as they come.  Nothing of
 * the data is kept.  {"format": "pt"} is there because Transformers refuses files without it.
 *
 * The file appears under its name at commit.  Source: huggingface/safetensors, README "Format". */
#include "formats/safetensors.h"

#include <string.h>

#include "formats/base/q_file.h"
#include "formats/base/q_mem.h"
#include "formats/json.h"

struct fmt_st_writer {
    q_out *out;
    char *path;
    fmt_json *header;
    size_t n;
    uint64_t declared, written; /* bytes of data */
    int started;                /* the header is out */
};

q_status fmt_st_create(fmt_st_writer **out, const char *path, int force, q_err *err)
{
    q_status st = Q_OK;
    fmt_st_writer *w = q_calloc(1, sizeof *w);
    fmt_json *meta;

    if (!w || !(w->path = q_strdup(path)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    Q_TRY(fmt_json_new(&w->header, err));
    Q_TRY(fmt_json_put_obj(&meta, w->header, "__metadata__", err));
    Q_TRY(fmt_json_put_str(meta, "format", "pt", err));
    Q_TRY(q_out_open(&w->out, path, force, err));
    *out = w;
    w = NULL;
out:
    fmt_st_writer_close(w);
    return st;
}

/* Bytes of a tensor that is about to be declared, every number of it checked. */
q_status fmt_st_size(uint64_t *bytes, const char *name, fmt_dtype dtype, int ndim,
                     const int64_t *shape, q_err *err)
{
    size_t n = fmt_dtype_bytes(dtype);

    if (strlen(name) > FMT_ST_MAX_NAME)
        return q_fail(err, Q_EARG, "'%.64s...': a name of %zu bytes, at most %u are written", name,
                      strlen(name), FMT_ST_MAX_NAME);
    if (ndim < 0 || ndim > FMT_MAX_DIMS)
        return q_fail(err, Q_ESHAPE, "'%s': %d dimensions, at most %d are written", name, ndim,
                      FMT_MAX_DIMS);
    for (int i = 0; i < ndim; i++)
        if (shape[i] < 0 || !q_mul_ok(n, (size_t)shape[i], &n) || n > INT64_MAX)
            return q_fail(err, Q_ESHAPE, "'%s': shape[%d] = %lld does not fit a file", name, i,
                          (long long)shape[i]);
    *bytes = n;
    return Q_OK;
}

q_status fmt_st_declare(fmt_st_writer *w, const char *name, fmt_dtype dtype, int ndim,
                        const int64_t *shape, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *entry, *list;
    uint64_t bytes;

    if (w->started)
        Q_FAIL(err, Q_EARG, "%s: '%s' is declared after the first write", w->path, name);
    if (w->n >= FMT_ST_MAX_COUNT)
        Q_FAIL(err, Q_EARG, "%s: more than %u tensors", w->path, FMT_ST_MAX_COUNT);
    Q_TRY(fmt_st_size(&bytes, name, dtype, ndim, shape, err));
    if (fmt_json_get(w->header, name))
        Q_FAIL(err, Q_EARG, "%s: '%s' is declared twice", w->path, name);
    if (bytes > INT64_MAX - w->declared)
        Q_FAIL(err, Q_ESHAPE, "%s: '%s' would end beyond 2^63 bytes", w->path, name);
    Q_TRY(fmt_json_put_obj(&entry, w->header, name, err));
    Q_TRY(fmt_json_put_str(entry, "dtype", fmt_dtype_st_name(dtype), err));
    Q_TRY(fmt_json_put_arr(&list, entry, "shape", err));
    for (int i = 0; i < ndim; i++)
        Q_TRY(fmt_json_put_int(list, NULL, shape[i], err));
    Q_TRY(fmt_json_put_arr(&list, entry, "data_offsets", err));
    Q_TRY(fmt_json_put_int(list, NULL, (int64_t)w->declared, err));
    Q_TRY(fmt_json_put_int(list, NULL, (int64_t)(w->declared + bytes), err));
    w->declared += bytes;
    w->n++;
out:
    return st;
}

static q_status start(fmt_st_writer *w, q_err *err)
{
    q_status st = Q_OK;
    q_buf text = { 0 };
    uint8_t head[8];

    Q_TRY(fmt_json_print(&text, w->header, 0, err));
    while (text.size % 8 != 0)
        Q_TRY(q_buf_puts(&text, " ", err));
    if (text.size > FMT_ST_MAX_HEADER)
        Q_FAIL(err, Q_EARG, "%s: header of %zu bytes, at most %u are written: use more shards",
               w->path, text.size, FMT_ST_MAX_HEADER);
    for (int i = 0; i < 8; i++)
        head[i] = (uint8_t)((uint64_t)text.size >> 8 * i);
    Q_TRY(q_out_write(w->out, head, sizeof head, err));
    Q_TRY(q_out_write(w->out, text.data, text.size, err));
    w->started = 1;
out:
    q_buf_free(&text);
    return st;
}

q_status fmt_st_write(fmt_st_writer *w, const void *p, size_t n, q_err *err)
{
    q_status st = Q_OK;

    if (n > w->declared - w->written)
        Q_FAIL(err, Q_EARG, "%s: %zu bytes written, %llu are left of what was declared", w->path, n,
               (unsigned long long)(w->declared - w->written));
    if (!w->started)
        Q_TRY(start(w, err));
    Q_TRY(q_out_write(w->out, p, n, err));
    w->written += n;
out:
    return st;
}

q_status fmt_st_commit(fmt_st_writer *w, q_err *err)
{
    q_status st = Q_OK;

    if (w->written != w->declared)
        Q_FAIL(err, Q_EARG, "%s: %llu bytes written, %llu were declared", w->path,
               (unsigned long long)w->written, (unsigned long long)w->declared);
    if (!w->started)
        Q_TRY(start(w, err));
    Q_TRY(q_out_commit(w->out, err));
out:
    return st;
}

void fmt_st_writer_close(fmt_st_writer *w)
{
    if (!w)
        return;
    q_out_close(w->out);
    fmt_json_free(w->header);
    q_free(w->path);
    q_free(w);
}
