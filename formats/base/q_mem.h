/* Memory and checked sizes.
 *
 *     size_t bytes;
 *     if (!q_mul_ok(n, sizeof *v, &bytes))
 *         Q_FAIL(err, Q_ESHAPE, "%s: %zu floats exceed the address space", path, n);
 *     v = q_malloc(bytes);
 *
 * Every size that comes from a file or a user passes q_mul_ok / q_add_ok before it is used.
 * Blocks are 64-byte aligned (a cache line, a zmm register).  q_free(NULL) is fine.
 * Threads: all functions are thread-safe; a q_buf is used by one thread at a time. */
#ifndef Q_MEM_H
#define Q_MEM_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"

#define Q_ALIGN 64

#if defined(__cplusplus)
#define Q_RESTRICT __restrict__
extern "C" {
#else
#define Q_RESTRICT restrict
#endif

void *q_malloc(size_t bytes);             /* uninitialised; NULL when out of memory or bytes == 0 */
void *q_calloc(size_t n, size_t size);    /* zeroed; NULL also when n * size overflows */
char *q_strdup(const char *s);            /* owned by the caller */
char *q_strndup(const char *s, size_t n); /* copies n bytes and adds NUL */
char *q_format(const char *fmt, ...)
    Q_PRINTF(1, 2); /* owned by the caller; NULL when out of memory */
void q_free(void *p);

/* 1 and *out = a * b (a + b) when it fits, else 0 and *out is unchanged. */
static inline int q_mul_ok(size_t a, size_t b, size_t *out)
{
    size_t r;

    if (__builtin_mul_overflow(a, b, &r))
        return 0;
    *out = r;
    return 1;
}

static inline int q_add_ok(size_t a, size_t b, size_t *out)
{
    size_t r;

    if (__builtin_add_overflow(a, b, &r))
        return 0;
    *out = r;
    return 1;
}

/* A growing byte buffer.  Zero-initialise; data is NUL-terminated after every append so that text
 * can be read in place; size does not count that NUL.  Freed with q_buf_free. */
typedef struct q_buf {
    char *data;
    size_t size, cap;
} q_buf;

q_status q_buf_put(q_buf *b, const void *p, size_t n, q_err *err);
q_status q_buf_puts(q_buf *b, const char *s, q_err *err);
q_status q_buf_printf(q_buf *b, q_err *err, const char *fmt, ...) Q_PRINTF(3, 4);
void q_buf_clear(q_buf *b); /* size 0, capacity kept */
void q_buf_free(q_buf *b);

/* A growing array of int32 (token ids).  Same rules. */
typedef struct q_ids {
    int32_t *v;
    size_t n, cap;
} q_ids;

q_status q_ids_push(q_ids *a, int32_t id, q_err *err);
q_status q_ids_append(q_ids *a, const int32_t *v, size_t n, q_err *err);
void q_ids_clear(q_ids *a);
void q_ids_free(q_ids *a);

#ifdef __cplusplus
}
#endif
#endif
