/* Memory and growing buffers.  aligned_alloc gives every block the alignment the kernels want, so
 * no second allocator is needed; free() takes it back. */
#include "formats/base/q_mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *q_malloc(size_t bytes)
{
    size_t rounded;

    if (bytes == 0 || !q_add_ok(bytes, Q_ALIGN - 1, &rounded))
        return NULL;
    return aligned_alloc(Q_ALIGN, rounded / Q_ALIGN * Q_ALIGN);
}

void *q_calloc(size_t n, size_t size)
{
    size_t bytes;
    void *p;

    if (!q_mul_ok(n, size, &bytes) || !(p = q_malloc(bytes)))
        return NULL;
    return memset(p, 0, bytes);
}

char *q_strndup(const char *s, size_t n)
{
    size_t bytes;
    char *p;

    if (!q_add_ok(n, 1, &bytes) || !(p = q_malloc(bytes)))
        return NULL;
    memcpy(p, s, n);
    p[n] = '\0';
    return p;
}

char *q_strdup(const char *s)
{
    return q_strndup(s, strlen(s));
}

char *q_format(const char *fmt, ...)
{
    va_list ap;
    int n;
    char *p;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0 || !(p = q_malloc((size_t)n + 1)))
        return NULL;
    va_start(ap, fmt);
    vsnprintf(p, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return p;
}

void q_free(void *p)
{
    free(p);
}

/* Room for `more` elements of `size` bytes behind n: doubles, so appends are linear in total. */
static q_status grow(void **data, size_t *cap, size_t n, size_t more, size_t size, q_err *err)
{
    size_t want, cap2, bytes;
    void *p;

    if (!q_add_ok(n, more, &want))
        return q_fail(err, Q_ENOMEM, "buffer of %zu + %zu elements", n, more);
    if (want <= *cap)
        return Q_OK;
    cap2 = *cap < 64 ? 64 : *cap;
    while (cap2 < want)
        if (!q_mul_ok(cap2, 2, &cap2))
            return q_fail(err, Q_ENOMEM, "buffer of %zu elements", want);
    if (!q_mul_ok(cap2, size, &bytes) || !(p = q_malloc(bytes)))
        return q_fail(err, Q_ENOMEM, "no memory for %zu elements of %zu bytes", cap2, size);
    if (n)
        memcpy(p, *data, n * size);
    q_free(*data);
    *data = p;
    *cap = cap2;
    return Q_OK;
}

q_status q_buf_put(q_buf *b, const void *p, size_t n, q_err *err)
{
    void *data = b->data;
    size_t more;
    q_status st = Q_OK;

    if (!q_add_ok(n, 1, &more))
        Q_FAIL(err, Q_ENOMEM, "buffer of %zu bytes", n);
    Q_TRY(grow(&data, &b->cap, b->size, more, 1, err));
    b->data = data;
    if (n)
        memcpy(b->data + b->size, p, n);
    b->size += n;
    b->data[b->size] = '\0';
out:
    return st;
}

q_status q_buf_puts(q_buf *b, const char *s, q_err *err)
{
    return q_buf_put(b, s, strlen(s), err);
}

q_status q_buf_printf(q_buf *b, q_err *err, const char *fmt, ...)
{
    va_list ap;
    int n;
    void *data = b->data;
    q_status st = Q_OK;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        Q_FAIL(err, Q_EBUG, "bad format '%s'", fmt);
    Q_TRY(grow(&data, &b->cap, b->size, (size_t)n + 1, 1, err));
    b->data = data;
    va_start(ap, fmt);
    vsnprintf(b->data + b->size, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->size += (size_t)n;
out:
    return st;
}

void q_buf_clear(q_buf *b)
{
    b->size = 0;
    if (b->data)
        b->data[0] = '\0';
}

void q_buf_free(q_buf *b)
{
    q_free(b->data);
    memset(b, 0, sizeof *b);
}

q_status q_ids_append(q_ids *a, const int32_t *v, size_t n, q_err *err)
{
    void *data = a->v;
    q_status st = Q_OK;

    Q_TRY(grow(&data, &a->cap, a->n, n, sizeof *v, err));
    a->v = data;
    if (n)
        memcpy(a->v + a->n, v, n * sizeof *v);
    a->n += n;
out:
    return st;
}

q_status q_ids_push(q_ids *a, int32_t id, q_err *err)
{
    return q_ids_append(a, &id, 1, err);
}

void q_ids_clear(q_ids *a)
{
    a->n = 0;
}

void q_ids_free(q_ids *a)
{
    q_free(a->v);
    memset(a, 0, sizeof *a);
}
