/* JSON over jansson, the only file that includes it.  A fmt_json is a json_t seen through an opaque
 * type, so there is no second tree.
 *
 * Memory.  The parser and the printer of jansson 2.14 do not survive a failed allocation: a token
 * loses bytes and is then read past its end (lex_save ignores strbuffer_append_byte), a key is left
 * out of the text (do_dump ignores dump_string).  So while one of them runs, a failed allocation
 * does not return to it: all it has taken is given back and the call ends with Q_ENOMEM.  For that
 * each block has a head that links it to the others of the same run. */
#include "formats/json.h"

#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_file.h"

typedef struct block {
    alignas(max_align_t) struct block *next;
    int dead; /* freed while the run goes on: kept until its end */
} block;

/* Of this thread, while the parser or the printer runs: where a failed allocation goes, and the
 * blocks so far. */
static _Thread_local jmp_buf *back;
static _Thread_local block *taken;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void *take(size_t n)
{
    size_t bytes;
    block *b = q_add_ok(n, sizeof *b, &bytes) ? malloc(bytes) : NULL;

    if (!b && back)
        longjmp(*back, 1);
    if (!b)
        return NULL;
    *b = (block){ .next = taken };
    if (back)
        taken = b;
    return b + 1;
}

static void give(void *p)
{
    block *b = p ? (block *)p - 1 : NULL;

    if (b && back)
        b->dead = 1;
    else
        free(b);
}

static void set_allocators(void)
{
    json_set_alloc_funcs(take, give);
}

/* The end of a run: the blocks it freed go, after a failure all of them. */
static void end_run(int failed)
{
    block *b = taken;

    back = NULL;
    taken = NULL;
    while (b) {
        block *next = b->next;

        if (b->dead || failed)
            free(b);
        b = next;
    }
}

/* Text of a value, freed with give; NULL when there is no memory. */
static char *dumps(const json_t *v, size_t flags)
{
    jmp_buf here;
    char *text;

    if (setjmp(here) != 0) {
        end_run(1);
        return NULL;
    }
    back = &here;
    text = json_dumps(v, flags | JSON_ENCODE_ANY);
    end_run(0);
    return text;
}

static const json_t *in(const fmt_json *v)
{
    return (const json_t *)(const void *)v;
}

static json_t *in_mut(fmt_json *v)
{
    return (json_t *)(void *)v;
}

static const fmt_json *out_view(const json_t *v)
{
    return (const fmt_json *)(const void *)v;
}

q_status fmt_json_parse(fmt_json **out, const char *text, size_t n, const char *name, q_err *err)
{
    jmp_buf here;
    json_error_t e;
    json_t *v;

    pthread_once(&once, set_allocators);
    if (setjmp(here) != 0) {
        end_run(1);
        return q_fail(err, Q_ENOMEM, "%s: no memory to parse %zu bytes", name, n);
    }
    back = &here;
    v = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &e);
    end_run(0);
    if (!v)
        return q_fail(err, Q_EFORMAT, "%s: line %d column %d: %s", name, e.line, e.column, e.text);
    *out = (fmt_json *)(void *)v;
    return Q_OK;
}

q_status fmt_json_read(fmt_json **out, const char *path, size_t max, q_err *err)
{
    q_buf text = { 0 };
    q_status st = q_file_slurp(&text, path, max, err);

    if (st == Q_OK)
        st = fmt_json_parse(out, text.data, text.size, path, err);
    q_buf_free(&text);
    return st;
}

void fmt_json_free(fmt_json *doc)
{
    if (doc)
        json_decref(in_mut(doc));
}

fmt_json_type fmt_json_kind(const fmt_json *v)
{
    if (!v)
        return FMT_JSON_NULL;
    switch (json_typeof(in(v))) {
    case JSON_OBJECT:
        return FMT_JSON_OBJECT;
    case JSON_ARRAY:
        return FMT_JSON_ARRAY;
    case JSON_STRING:
        return FMT_JSON_STRING;
    case JSON_INTEGER:
        return FMT_JSON_INT;
    case JSON_REAL:
        return FMT_JSON_REAL;
    case JSON_TRUE:
        return FMT_JSON_TRUE;
    case JSON_FALSE:
        return FMT_JSON_FALSE;
    default:
        return FMT_JSON_NULL;
    }
}

const fmt_json *fmt_json_get(const fmt_json *object, const char *key)
{
    return out_view(json_object_get(in(object), key));
}

size_t fmt_json_size(const fmt_json *v)
{
    return json_is_array(in(v)) ? json_array_size(in(v)) : json_object_size(in(v));
}

const fmt_json *fmt_json_at(const fmt_json *array, size_t i)
{
    return out_view(json_array_get(in(array), i));
}

const char *fmt_json_text(const fmt_json *string)
{
    return json_string_value(in(string));
}

/* NULL for an absent or null member */
static const json_t *member(const fmt_json *o, const char *key)
{
    const json_t *v = json_object_get(in(o), key);

    return json_is_null(v) ? NULL : v;
}

/* The value as it stands in the file, cut to fit a message. */
static q_status wrong(const json_t *v, const char *key, const char *wanted, q_err *err)
{
    char *text = dumps(v, JSON_COMPACT);

    q_fail(err, Q_ECONFIG, "'%s' is %.80s, wanted %s", key, text ? text : "?", wanted);
    give(text);
    return Q_ECONFIG;
}

int fmt_json_as_int(const fmt_json *value, int64_t min, int64_t max, int64_t *out)
{
    const json_t *v = in(value);
    int64_t i;

    if (json_is_integer(v)) {
        i = json_integer_value(v);
    } else if (json_is_real(v)) {
        const double d = json_real_value(v);

        if (d != floor(d) || fabs(d) >= 0x1p53)
            return 0;
        i = (int64_t)d;
    } else {
        return 0;
    }
    if (i < min || i > max)
        return 0;
    *out = i;
    return 1;
}

q_status fmt_json_int_opt(const fmt_json *o, const char *key, int64_t min, int64_t max,
                          int64_t *out, q_err *err)
{
    const json_t *v = member(o, key);
    char wanted[80];

    if (!v || fmt_json_as_int(out_view(v), min, max, out))
        return Q_OK;
    snprintf(wanted, sizeof wanted, "a whole number from %lld to %lld", (long long)min,
             (long long)max);
    return wrong(v, key, wanted, err);
}

q_status fmt_json_int(const fmt_json *o, const char *key, int64_t min, int64_t max, int64_t *out,
                      q_err *err)
{
    if (!member(o, key))
        return q_fail(err, Q_ECONFIG, "'%s' is missing", key);
    return fmt_json_int_opt(o, key, min, max, out, err);
}

q_status fmt_json_real_opt(const fmt_json *o, const char *key, double min, double max, double *out,
                           q_err *err)
{
    const json_t *v = member(o, key);
    char wanted[80];
    double d;

    if (!v)
        return Q_OK;
    d = json_number_value(v);
    if (!json_is_number(v) || !isfinite(d) || d < min || d > max) {
        snprintf(wanted, sizeof wanted, "a number from %g to %g", min, max);
        return wrong(v, key, wanted, err);
    }
    *out = d;
    return Q_OK;
}

q_status fmt_json_bool_opt(const fmt_json *o, const char *key, int *out, q_err *err)
{
    const json_t *v = member(o, key);

    if (v && !json_is_boolean(v))
        return wrong(v, key, "true or false", err);
    if (v)
        *out = json_is_true(v);
    return Q_OK;
}

q_status fmt_json_str_opt(const fmt_json *o, const char *key, const char **out, q_err *err)
{
    const json_t *v = member(o, key);

    if (v && !json_is_string(v))
        return wrong(v, key, "a string", err);
    if (v)
        *out = json_string_value(v);
    return Q_OK;
}

fmt_json_iter *fmt_json_first(const fmt_json *object)
{
    return json_object_iter(in_mut((fmt_json *)(uintptr_t)object));
}

fmt_json_iter *fmt_json_next(const fmt_json *object, fmt_json_iter *it)
{
    return json_object_iter_next(in_mut((fmt_json *)(uintptr_t)object), it);
}

const char *fmt_json_key(const fmt_json_iter *it)
{
    return json_object_iter_key((void *)(uintptr_t)it);
}

const fmt_json *fmt_json_value(const fmt_json_iter *it)
{
    return out_view(json_object_iter_value((void *)(uintptr_t)it));
}

q_status fmt_json_new(fmt_json **out, q_err *err)
{
    json_t *v;

    pthread_once(&once, set_allocators);
    v = json_object();
    if (!v)
        return q_fail(err, Q_ENOMEM, "JSON: no memory");
    *out = (fmt_json *)(void *)v;
    return Q_OK;
}

/* jansson takes nothing else, and does not say why it failed. */
static int is_utf8(const char *s)
{
    const unsigned char *p = (const unsigned char *)s;

    while (*p) {
        const int more = *p < 0x80 ? 0 : *p < 0xc2 ? -1 : *p < 0xe0 ? 1 : *p < 0xf0 ? 2 : 3;
        unsigned long c = more > 0 ? *p & (0x3fu >> more) : *p;

        if (more < 0 || *p > 0xf4)
            return 0;
        for (int i = 1; i <= more; i++) {
            if ((p[i] & 0xc0) != 0x80) /* the NUL at the end too */
                return 0;
            c = c << 6 | (p[i] & 0x3f);
        }
        if ((more == 2 && (c < 0x800 || (c >= 0xd800 && c < 0xe000))) ||
            (more == 3 && (c < 0x10000 || c > 0x10ffff)))
            return 0;
        p += more + 1;
    }
    return 1;
}

/* takes v; NULL: no memory */
static q_status put(fmt_json *parent, const char *key, json_t *v, q_err *err)
{
    int rc;

    if (key && !is_utf8(key)) {
        json_decref(v);
        return q_fail(err, Q_EFORMAT, "JSON: key '%s' is not UTF-8", key);
    }
    if (!v)
        return q_fail(err, Q_ENOMEM, "JSON: no memory for '%s'", key ? key : "[]");
    rc = key ? json_object_set_new(in_mut(parent), key, v)
             : json_array_append_new(in_mut(parent), v);
    return rc == 0 ? Q_OK : q_fail(err, Q_ENOMEM, "JSON: no memory for '%s'", key ? key : "[]");
}

q_status fmt_json_put_int(fmt_json *parent, const char *key, int64_t v, q_err *err)
{
    return put(parent, key, json_integer(v), err);
}

q_status fmt_json_put_real(fmt_json *parent, const char *key, double v, q_err *err)
{
    if (!isfinite(v))
        return q_fail(err, Q_EFORMAT, "JSON: the value of '%s' is not finite", key ? key : "[]");
    return put(parent, key, json_real(v), err);
}

q_status fmt_json_put_str(fmt_json *parent, const char *key, const char *v, q_err *err)
{
    if (!is_utf8(v))
        return q_fail(err, Q_EFORMAT, "JSON: the value of '%s' is not UTF-8", key ? key : "[]");
    return put(parent, key, json_string(v), err);
}

q_status fmt_json_put_null(fmt_json *parent, const char *key, q_err *err)
{
    return put(parent, key, json_null(), err);
}

q_status fmt_json_put_bool(fmt_json *parent, const char *key, int v, q_err *err)
{
    return put(parent, key, json_boolean(v), err);
}

q_status fmt_json_put_copy(fmt_json *parent, const char *key, const fmt_json *v, q_err *err)
{
    return put(parent, key, json_deep_copy(in(v)), err);
}

q_status fmt_json_put_obj(fmt_json **out, fmt_json *parent, const char *key, q_err *err)
{
    json_t *v = json_object();
    q_status st = put(parent, key, v, err);

    if (st == Q_OK)
        *out = (fmt_json *)(void *)v;
    return st;
}

q_status fmt_json_put_arr(fmt_json **out, fmt_json *parent, const char *key, q_err *err)
{
    json_t *v = json_array();
    q_status st = put(parent, key, v, err);

    if (st == Q_OK)
        *out = (fmt_json *)(void *)v;
    return st;
}

q_status fmt_json_print(q_buf *out, const fmt_json *doc, int indent, q_err *err)
{
    q_status st;
    char *text = dumps(in(doc), indent ? JSON_INDENT((size_t)indent) : 0);

    if (!text)
        return q_fail(err, Q_ENOMEM, "JSON: no memory");
    q_buf_clear(out);
    st = q_buf_puts(out, text, err);
    give(text);
    return st;
}
