/* JSON documents over jansson: strict reading with messages that name file and key, and building
 * objects for output.
 *
 *     fmt_json *doc = NULL;
 *     int64_t hid;
 *     Q_TRY(fmt_json_parse(&doc, text, n, "config.json", err));
 *     Q_TRY(fmt_json_int(doc, "hidden_size", 1, INT32_MAX, &hid, err));
 *     ... out: fmt_json_free(doc);
 *
 * Strict: duplicate keys, invalid UTF-8, NUL in strings and trailing text are refused; depth is
 * bounded by jansson (2048).  Documents own, values borrow: every fmt_json pointer from get / at /
 * iteration is valid until the document is freed.  The name given to parse is used in messages.
 * Threads: a document is used by one thread at a time. */
#ifndef FMT_JSON_H
#define FMT_JSON_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/base/q_mem.h"

typedef struct fmt_json fmt_json; /* an object, array, string, number, true, false or null */

/* Errors: Q_EFORMAT with name, line and column; Q_ENOMEM. */
q_status fmt_json_parse(fmt_json **out, const char *text, size_t n, const char *name, q_err *err);
/* Whole file, at most max bytes. */
q_status fmt_json_read(fmt_json **out, const char *path, size_t max, q_err *err);
void fmt_json_free(fmt_json *doc); /* only what parse, read or new gave; NULL is fine */

typedef enum fmt_json_type {
    FMT_JSON_OBJECT,
    FMT_JSON_ARRAY,
    FMT_JSON_STRING,
    FMT_JSON_INT,
    FMT_JSON_REAL,
    FMT_JSON_TRUE,
    FMT_JSON_FALSE,
    FMT_JSON_NULL
} fmt_json_type;

fmt_json_type fmt_json_kind(const fmt_json *v); /* of an absent member (NULL): FMT_JSON_NULL */
const fmt_json *fmt_json_get(const fmt_json *object,
                             const char *key);                /* NULL: no such key, or no object */
size_t fmt_json_size(const fmt_json *array_or_object);        /* 0 for other kinds */
const fmt_json *fmt_json_at(const fmt_json *array, size_t i); /* NULL outside */
const char *fmt_json_text(
    const fmt_json *string); /* NUL-terminated UTF-8; NULL when not a string */
/* 1 and *out when v is a number with an integral value (1e6 and 1.0 too) in [min, max]; NULL v: 0
 */
int fmt_json_as_int(const fmt_json *v, int64_t min, int64_t max, int64_t *out);

/* Values of object members by key.  Wrong kind or range: Q_ECONFIG naming key and value.  The `opt`
 * forms leave *out as it is when the key is absent or null; the others fail with Q_ECONFIG.
 * A number with an integral value in real form (1e6, 1.0) is accepted as an int. */
q_status fmt_json_int(const fmt_json *o, const char *key, int64_t min, int64_t max, int64_t *out,
                      q_err *err);
q_status fmt_json_int_opt(const fmt_json *o, const char *key, int64_t min, int64_t max,
                          int64_t *out, q_err *err);
q_status fmt_json_real_opt(const fmt_json *o, const char *key, double min, double max, double *out,
                           q_err *err);
q_status fmt_json_bool_opt(const fmt_json *o, const char *key, int *out, q_err *err);
q_status fmt_json_str_opt(const fmt_json *o, const char *key, const char **out, q_err *err);

/* Members in file order:  for (it = fmt_json_first(o); it; it = fmt_json_next(o, it)) */
typedef struct fmt_json_iter fmt_json_iter;
fmt_json_iter *fmt_json_first(const fmt_json *object);
fmt_json_iter *fmt_json_next(const fmt_json *object, fmt_json_iter *it);
const char *fmt_json_key(const fmt_json_iter *it);
const fmt_json *fmt_json_value(const fmt_json_iter *it);

/* Building.  Each returns Q_ENOMEM or Q_EFORMAT (invalid UTF-8, NaN, infinity).  put_obj / put_arr
 * return the new child in *out, borrowed from the parent.  In arrays key is NULL. */
q_status fmt_json_new(fmt_json **out, q_err *err); /* an empty object, owned */
q_status fmt_json_put_int(fmt_json *parent, const char *key, int64_t v, q_err *err);
q_status fmt_json_put_real(fmt_json *parent, const char *key, double v, q_err *err);
q_status fmt_json_put_str(fmt_json *parent, const char *key, const char *v, q_err *err);
q_status fmt_json_put_null(fmt_json *parent, const char *key, q_err *err);
q_status fmt_json_put_bool(fmt_json *parent, const char *key, int v, q_err *err);
/* A deep copy of v. */
q_status fmt_json_put_copy(fmt_json *parent, const char *key, const fmt_json *v, q_err *err);
q_status fmt_json_put_obj(fmt_json **out, fmt_json *parent, const char *key, q_err *err);
q_status fmt_json_put_arr(fmt_json **out, fmt_json *parent, const char *key, q_err *err);
/* Text of a document: indent 0 gives one line; keys stay in insertion order; reals have
 * 17 digits.  *out is replaced. */
q_status fmt_json_print(q_buf *out, const fmt_json *doc, int indent, q_err *err);

#endif
