/* The header of a safetensors file: one JSON object, taken apart member by member.
 *
 *   {"__metadata__": {"format": "pt"}, "name": {"dtype": "F16", "shape": [2, 3],
 *    "data_offsets": [0, 12]}, ...}
 *
 * The outer object is walked here; each name and each entry goes to the JSON parser on its own.  So
 * every message carries the tensor it is about, even for a number that no JSON parser takes, and a
 * hostile header of 100 MB costs its own size and not a document tree of forty times that.  Names
 * are decoded in place, over their own quotes.  Duplicates among the names and the order of the
 * ranges are the business of safetensors.c, which sorts both.
 *
 * Source: huggingface/safetensors, README "Format" and its validation rules. */
#include "formats/st_header.h"

#include <stdio.h>
#include <string.h>

#include "formats/base/q_mem.h"
#include "formats/json.h"

#define ENTRY_MAX ((size_t)64 << 10) /* a real entry has about 100 bytes */
#define META_MAX  ((size_t)16 << 20)

/* ---- the outer object ----------------------------------------------------------------------- */

typedef struct cursor {
    const char *path;
    char *text;
    size_t n, at;
    int metas; /* __metadata__ members so far */
    fmt_tensor *t;
    size_t n_t, cap;
} cursor;

/* The next byte that is not blank, which stays; 0 at the end. */
static char peek(cursor *c)
{
    while (c->at < c->n && strchr(" \t\r\n", c->text[c->at]) && c->text[c->at])
        c->at++;
    return c->at < c->n ? c->text[c->at] : '\0';
}

static q_status unexpected(const cursor *c, const char *wanted, q_err *err)
{
    if (c->at >= c->n)
        return q_fail(err, Q_EFORMAT, "%s: header ends at byte %zu, wanted %s", c->path, c->at,
                      wanted);
    return q_fail(err, Q_EFORMAT, "%s: header byte %zu is 0x%02x, wanted %s", c->path, c->at,
                  (unsigned char)c->text[c->at], wanted);
}

static q_status skip_string(cursor *c, q_err *err)
{
    for (c->at++; c->at < c->n && c->text[c->at] != '"'; c->at++)
        c->at += c->text[c->at] == '\\';
    if (c->at >= c->n) {
        c->at = c->n; /* an escape may have stepped over it */
        return unexpected(c, "the end of a string", err);
    }
    c->at++;
    return Q_OK;
}

/* To the ',' or '}' behind a value.  Only brackets and strings are followed; whether what lies
 * between is JSON is for the parser to say. */
static q_status skip_value(cursor *c, q_err *err)
{
    q_status st = Q_OK;
    size_t depth = 0;

    while (c->at < c->n) {
        const char ch = c->text[c->at];

        if (ch == '"') {
            Q_TRY(skip_string(c, err));
            continue;
        }
        if (depth == 0 && (ch == ',' || ch == '}' || ch == ']'))
            return Q_OK;
        depth += ch == '{' || ch == '[';
        depth -= ch == '}' || ch == ']';
        c->at++;
    }
    return unexpected(c, "the end of a value", err);
out:
    return st;
}

/* A member's name, decoded over its own quotes, which are two bytes longer than needed. */
static q_status read_name(cursor *c, char **name, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *v = NULL;
    char where[Q_ERR_MSG];
    const char *text;
    size_t start;

    if (peek(c) != '"')
        return unexpected(c, "the quote of a name", err);
    start = c->at;
    Q_TRY(skip_string(c, err));
    if (c->at - start > 6 * FMT_ST_MAX_NAME + 2) /* a byte takes at most 6: \u0041 */
        Q_FAIL(err, Q_EFORMAT, "%s: a tensor name of %zu bytes, at most %u are read", c->path,
               c->at - start - 2, FMT_ST_MAX_NAME);
    snprintf(where, sizeof where, "%s: the name at header byte %zu", c->path, start);
    Q_TRY(fmt_json_parse(&v, c->text + start, c->at - start, where, err));
    text = fmt_json_text(v);
    if (strlen(text) > FMT_ST_MAX_NAME)
        Q_FAIL(err, Q_EFORMAT, "%s: a tensor name of %zu bytes, at most %u are read", c->path,
               strlen(text), FMT_ST_MAX_NAME);
    *name = memcpy(c->text + start, text, strlen(text) + 1);
out:
    fmt_json_free(v);
    return st;
}

/* ---- one entry ------------------------------------------------------------------------------ */

static q_status check_metadata(const char *where, const char *text, size_t n, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *v = NULL;

    if (n > META_MAX)
        Q_FAIL(err, Q_EFORMAT, "%s: %zu bytes, at most %zu are read", where, n, META_MAX);
    Q_TRY(fmt_json_parse(&v, text, n, where, err));
    if (fmt_json_kind(v) == FMT_JSON_NULL)
        goto out;
    if (fmt_json_kind(v) != FMT_JSON_OBJECT)
        Q_FAIL(err, Q_EFORMAT, "%s: wanted an object of strings, or null", where);
    for (fmt_json_iter *it = fmt_json_first(v); it; it = fmt_json_next(v, it))
        if (!fmt_json_text(fmt_json_value(it)))
            Q_FAIL(err, Q_EFORMAT, "%s: '%.100s' is not a string", where, fmt_json_key(it));
out:
    fmt_json_free(v);
    return st;
}

/* Element i of a list of whole numbers >= 0.  Reals are refused, 1.0 too. */
static q_status whole(const char *where, const char *what, const fmt_json *list, size_t i,
                      int64_t *out, q_err *err)
{
    const fmt_json *v = fmt_json_at(list, i);

    if (fmt_json_kind(v) != FMT_JSON_INT || !fmt_json_as_int(v, 0, INT64_MAX, out))
        return q_fail(err, Q_EFORMAT, "%s: %s[%zu] is not a whole number >= 0", where, what, i);
    return Q_OK;
}

static q_status list_of(const char *where, const char *what, const fmt_json *entry,
                        const fmt_json **out, q_err *err)
{
    const fmt_json *v = fmt_json_get(entry, what);

    if (!v || fmt_json_kind(v) != FMT_JSON_ARRAY)
        return q_fail(err, Q_EFORMAT, "%s: %s is %s", where, what, v ? "not a list" : "missing");
    *out = v;
    return Q_OK;
}

static q_status read_shape(fmt_tensor *t, const char *where, const fmt_json *entry, q_err *err)
{
    q_status st = Q_OK;
    const fmt_json *list = NULL;
    size_t n = fmt_dtype_bytes(t->dtype);

    Q_TRY(list_of(where, "shape", entry, &list, err));
    if (fmt_json_size(list) > FMT_MAX_DIMS)
        Q_FAIL(err, Q_EFORMAT, "%s: %zu dimensions, at most %d are read", where,
               fmt_json_size(list), FMT_MAX_DIMS);
    t->ndim = (int)fmt_json_size(list);
    for (int i = 0; i < t->ndim; i++) {
        Q_TRY(whole(where, "shape", list, (size_t)i, &t->shape[i], err));
        if (!q_mul_ok(n, (size_t)t->shape[i], &n))
            Q_FAIL(err, Q_ESHAPE, "%s: the product of its shape exceeds 64 bits", where);
    }
    t->bytes = n;
out:
    return st;
}

static q_status read_range(fmt_tensor *t, const char *where, const fmt_json *entry, q_err *err)
{
    q_status st = Q_OK;
    const fmt_json *list = NULL;
    int64_t from, to;

    Q_TRY(list_of(where, "data_offsets", entry, &list, err));
    if (fmt_json_size(list) != 2)
        Q_FAIL(err, Q_EFORMAT, "%s: data_offsets has %zu numbers, wanted 2", where,
               fmt_json_size(list));
    Q_TRY(whole(where, "data_offsets", list, 0, &from, err));
    Q_TRY(whole(where, "data_offsets", list, 1, &to, err));
    if (to < from)
        Q_FAIL(err, Q_EFORMAT, "%s: data_offsets [%lld, %lld] run backwards", where,
               (long long)from, (long long)to);
    if ((uint64_t)(to - from) != t->bytes)
        Q_FAIL(err, Q_ESHAPE, "%s: data_offsets span %lld bytes, its shape in %s takes %llu", where,
               (long long)(to - from), fmt_dtype_st_name(t->dtype), (unsigned long long)t->bytes);
    t->offset = (uint64_t)from;
out:
    return st;
}

static q_status read_tensor(fmt_tensor *t, const char *where, const char *text, size_t n,
                            q_err *err)
{
    q_status st = Q_OK;
    fmt_json *v = NULL;
    const fmt_json *dtype;

    if (n > ENTRY_MAX)
        Q_FAIL(err, Q_EFORMAT, "%s: an entry of %zu bytes, at most %zu are read", where, n,
               ENTRY_MAX);
    Q_TRY(fmt_json_parse(&v, text, n, where, err));
    if (fmt_json_kind(v) != FMT_JSON_OBJECT)
        Q_FAIL(err, Q_EFORMAT, "%s: the entry is not an object", where);
    dtype = fmt_json_get(v, "dtype");
    if (!dtype || !fmt_json_text(dtype))
        Q_FAIL(err, Q_EFORMAT, "%s: dtype is %s", where, dtype ? "not a string" : "missing");
    if (!fmt_dtype_from_st_name(fmt_json_text(dtype), &t->dtype))
        Q_FAIL(err, Q_EFORMAT, "%s: dtype '%.32s' is unknown here", where, fmt_json_text(dtype));
    Q_TRY(read_shape(t, where, v, err));
    Q_TRY(read_range(t, where, v, err));
out:
    fmt_json_free(v);
    return st;
}

/* Room for one more; a header has 40 bytes or more for each, so doubling is bounded by the file. */
static q_status grow(cursor *c, q_err *err)
{
    size_t cap = c->cap ? 2 * c->cap : 256, bytes;
    fmt_tensor *t;

    if (c->n_t < c->cap)
        return Q_OK;
    if (!q_mul_ok(cap, sizeof *t, &bytes) || !(t = q_malloc(bytes)))
        return q_fail(err, Q_ENOMEM, "%s: no memory for %zu tensors", c->path, cap);
    if (c->n_t)
        memcpy(t, c->t, c->n_t * sizeof *t);
    q_free(c->t);
    c->t = t;
    c->cap = cap;
    return Q_OK;
}

static q_status read_member(cursor *c, q_err *err)
{
    q_status st = Q_OK;
    char where[Q_ERR_MSG], *name = NULL;
    fmt_tensor *t;
    size_t start;

    Q_TRY(read_name(c, &name, err));
    if (peek(c) != ':')
        return unexpected(c, "':'", err);
    start = ++c->at;
    Q_TRY(skip_value(c, err));
    snprintf(where, sizeof where, "%s: '%.200s'", c->path, name);
    if (strcmp(name, "__metadata__") == 0) {
        if (c->metas++)
            Q_FAIL(err, Q_EFORMAT, "%s appears twice in the header", where);
        return check_metadata(where, c->text + start, c->at - start, err);
    }
    if (c->n_t >= FMT_ST_MAX_COUNT)
        Q_FAIL(err, Q_EFORMAT, "%s: more than %u tensors", c->path, FMT_ST_MAX_COUNT);
    Q_TRY(grow(c, err));
    t = &c->t[c->n_t];
    *t = (fmt_tensor){ .name = name };
    Q_TRY(read_tensor(t, where, c->text + start, c->at - start, err));
    c->n_t++;
out:
    return st;
}

q_status fmt_st_header(fmt_tensor **t, size_t *n, char *text, size_t bytes, const char *path,
                       q_err *err)
{
    q_status st = Q_OK;
    cursor c = { .path = path, .text = text, .n = bytes, .at = 1 };
    char ch = peek(&c);

    while (ch != '}') {
        Q_TRY(read_member(&c, err));
        ch = peek(&c);
        if (ch != ',' && ch != '}') {
            st = unexpected(&c, "',' or '}'", err);
            goto out;
        }
        c.at += ch == ',';
    }
    c.at++;
    peek(&c);
    if (c.at != c.n) {
        st = unexpected(&c, "blanks up to the data", err);
        goto out;
    }
    *t = c.t;
    *n = c.n_t;
    c.t = NULL;
out:
    q_free(c.t);
    return st;
}
