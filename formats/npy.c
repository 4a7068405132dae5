/* .npy files.  The header is a Python dictionary; only its three known keys are looked for, each in
 * the spelling NumPy writes. */
#include "formats/npy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_file.h"

#define FILE_MAX   ((size_t)256 << 20)
#define HEADER_MAX 4096

/* The text behind "'key':" in the dictionary, or NULL. */
static const char *value_of(const char *header, const char *key)
{
    char quoted[32];
    const char *p;

    snprintf(quoted, sizeof quoted, "'%s':", key);
    p = strstr(header, quoted);
    return p ? p + strlen(quoted) + strspn(p + strlen(quoted), " ") : NULL;
}

static q_status parse_shape(const char *p, int64_t *rows, int64_t *cols, const char *name,
                            q_err *err)
{
    long long dim[2] = { 1, 1 };
    int n = 0;
    char *end;

    if (!p || *p != '(')
        return q_fail(err, Q_EFORMAT, "%s: header without a shape", name);
    for (p++; *p && *p != ')';) {
        errno = 0;
        if (n == 2 || *p < '0' || *p > '9')
            return q_fail(err, Q_EUNSUPPORTED, "%s: wanted one or two dimensions", name);
        dim[n] = strtoll(p, &end, 10);
        if (errno != 0 || dim[n] < 0)
            return q_fail(err, Q_EFORMAT, "%s: bad shape", name);
        n++;
        p = end + strspn(end, ", ");
    }
    if (n == 0)
        return q_fail(err, Q_EUNSUPPORTED, "%s: a scalar, wanted one or two dimensions", name);
    *rows = n == 2 ? dim[0] : 1;
    *cols = n == 2 ? dim[1] : dim[0];
    return Q_OK;
}

static q_status parse_header(const char *bytes, size_t n, size_t *data_at, size_t *item,
                             int64_t *rows, int64_t *cols, const char *name, q_err *err)
{
    char header[HEADER_MAX + 1];
    size_t start = 10, size;
    const char *descr;
    const unsigned char *u = (const unsigned char *)bytes;

    if (n < 12 || memcmp(bytes, "\x93NUMPY", 6) != 0 || u[6] < 1 || u[6] > 3)
        return q_fail(err, Q_EFORMAT, "%s: not a .npy file", name);
    size = u[8] + ((size_t)u[9] << 8);
    if (u[6] > 1) {
        start = 12;
        size += ((size_t)u[10] << 16) + ((size_t)u[11] << 24);
    }
    if (size > HEADER_MAX || size > n - start)
        return q_fail(err, Q_EFORMAT, "%s: header of %zu bytes, file has %zu", name, size, n);
    memcpy(header, bytes + start, size);
    header[size] = '\0';
    descr = value_of(header, "descr");
    *item = !descr                            ? 0
            : strncmp(descr, "'<i4'", 5) == 0 ? 4
            : strncmp(descr, "'<i8'", 5) == 0 ? 8
                                              : 0;
    if (*item == 0)
        return q_fail(err, Q_EUNSUPPORTED, "%s: wanted int32 or int64 (little-endian)", name);
    if (!value_of(header, "fortran_order") ||
        strncmp(value_of(header, "fortran_order"), "False", 5) != 0)
        return q_fail(err, Q_EUNSUPPORTED, "%s: wanted C order", name);
    *data_at = start + size;
    return parse_shape(value_of(header, "shape"), rows, cols, name, err);
}

static q_status parse_ids(q_ids *out, int64_t *rows, int64_t *cols, const char *bytes, size_t n,
                          const char *name, q_err *err)
{
    q_status st = Q_OK;
    size_t at = 0, item = 0, count, want;

    Q_TRY(parse_header(bytes, n, &at, &item, rows, cols, name, err));
    if (!q_mul_ok((size_t)*rows, (size_t)*cols, &count) || !q_mul_ok(count, item, &want) ||
        n - at != want)
        Q_FAIL(err, Q_EFORMAT, "%s: shape [%lld, %lld] does not fit %zu bytes of data", name,
               (long long)*rows, (long long)*cols, n - at);
    for (size_t i = 0; i < count; i++) {
        int64_t v = 0;
        int32_t v32;

        if (item == 4) {
            memcpy(&v32, bytes + at + 4 * i, 4);
            v = v32;
        } else {
            memcpy(&v, bytes + at + 8 * i, 8);
        }
        if (v < INT32_MIN || v > INT32_MAX)
            Q_FAIL(err, Q_EFORMAT, "%s: value %lld at index %zu is no token id", name, (long long)v,
                   i);
        Q_TRY(q_ids_push(out, (int32_t)v, err));
    }
out:
    return st;
}

q_status fmt_npy_read_ids(q_ids *out, int64_t *rows, int64_t *cols, const char *path, q_err *err)
{
    q_buf b = { 0 };
    q_status st = q_file_slurp(&b, path, FILE_MAX, err);

    if (st == Q_OK)
        st = parse_ids(out, rows, cols, b.data, b.size, path, err);
    q_buf_free(&b);
    return st;
}

q_status fmt_npy_write_f32(const char *path, int force, const float *data, int64_t rows,
                           int64_t cols, q_err *err)
{
    q_status st = Q_OK;
    q_out *o = NULL;
    char header[129];
    int n;

    /* magic, version, length 118, dictionary padded with blanks, line end: 128 bytes */
    memcpy(header, "\x93NUMPY\x01\x00\x76\x00", 10);
    n = snprintf(header + 10, 118,
                 "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld, %lld), }",
                 (long long)rows, (long long)cols);
    memset(header + 10 + n, ' ', (size_t)(117 - n));
    header[127] = '\n';
    Q_TRY(q_out_open(&o, path, force, err));
    Q_TRY(q_out_write(o, header, 128, err));
    Q_TRY(q_out_write(o, data, (size_t)(rows * cols) * sizeof *data, err));
    Q_TRY(q_out_commit(o, err));
out:
    q_out_close(o);
    return st;
}
