/* config.ini.  The grammar is the part of configparser's that its own writer produces: one
 * "key = value" a line, sections in brackets, '#' and ';' comments, continuation lines. */
#include "formats/ini.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct cursor {
    const char *name;
    int line;
    fmt_json *doc, *section; /* section is borrowed from doc */
    q_buf key, value;        /* the entry being collected */
    int open;                /* 1: key and value hold an entry that is not stored yet */
    int key_line;            /* where it began */
} cursor;

static int is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static void trim(const char **p, const char **end)
{
    while (*p < *end && is_blank(**p))
        (*p)++;
    while (*end > *p && is_blank((*end)[-1]))
        (*end)--;
}

/* whole text is a Python int or float literal; inf and nan stay text */
static int is_number(const char *s, int *integer)
{
    const char *p = s + (*s == '-' || *s == '+');
    size_t digits = strspn(p, "0123456789");

    *integer = digits > 0 && p[digits] == '\0';
    if (*integer)
        return 1;
    if (digits == 0 && *p != '.')
        return 0;
    return strspn(p, "0123456789.eE+-") == strlen(p);
}

static q_status put_value(fmt_json *o, const char *key, const char *s, q_err *err)
{
    char *end;
    int integer;

    if (strcmp(s, "True") == 0 || strcmp(s, "False") == 0)
        return fmt_json_put_bool(o, key, *s == 'T', err);
    if (strcmp(s, "None") == 0)
        return fmt_json_put_null(o, key, err);
    if (*s && is_number(s, &integer)) {
        errno = 0;
        if (integer) {
            const long long v = strtoll(s, &end, 10);

            if (errno == 0 && *end == '\0')
                return fmt_json_put_int(o, key, v, err);
        } else {
            const double d = strtod(s, &end);

            if (*end == '\0' && isfinite(d))
                return fmt_json_put_real(o, key, d, err);
        }
    }
    return fmt_json_put_str(o, key, s, err);
}

static void unescape(q_buf *b)
{
    size_t w = 0;

    for (size_t r = 0; r < b->size; r++) {
        b->data[w++] = b->data[r];
        if (b->data[r] == '%' && r + 1 < b->size && b->data[r + 1] == '%')
            r++;
    }
    b->size = w;
    if (b->data)
        b->data[w] = '\0';
}

static q_status store(cursor *c, q_err *err)
{
    q_status st = Q_OK;
    q_err inner = { 0 };

    if (!c->open)
        return Q_OK;
    c->open = 0;
    if (fmt_json_get(c->section, c->key.data))
        Q_FAIL(err, Q_EFORMAT, "%s: line %d: key '%s' appears twice", c->name, c->key_line,
               c->key.data);
    unescape(&c->value);
    st = put_value(c->section, c->key.data, c->value.data ? c->value.data : "", &inner);
    if (st != Q_OK)
        Q_FAIL(err, st, "%s: line %d: %s", c->name, c->key_line, inner.msg);
out:
    return st;
}

static q_status begin_section(cursor *c, const char *p, const char *end, q_err *err)
{
    q_status st = Q_OK;
    q_err inner = { 0 };
    q_buf name = { 0 };

    if (end - p < 3 || end[-1] != ']')
        Q_FAIL(err, Q_EFORMAT, "%s: line %d: section without ']'", c->name, c->line);
    Q_TRY(q_buf_put(&name, p + 1, (size_t)(end - p) - 2, err));
    if (fmt_json_get(c->doc, name.data))
        Q_FAIL(err, Q_EFORMAT, "%s: line %d: section '%s' appears twice", c->name, c->line,
               name.data);
    st = fmt_json_put_obj(&c->section, c->doc, name.data, &inner);
    if (st != Q_OK)
        Q_FAIL(err, st, "%s: line %d: %s", c->name, c->line, inner.msg);
out:
    q_buf_free(&name);
    return st;
}

static q_status begin_entry(cursor *c, const char *p, const char *end, q_err *err)
{
    q_status st = Q_OK;
    const char *eq = p, *key_end;

    while (eq < end && *eq != '=' && *eq != ':')
        eq++;
    key_end = eq;
    trim(&p, &key_end);
    if (eq == end || p == key_end)
        Q_FAIL(err, Q_EFORMAT, "%s: line %d: wanted 'key = value'", c->name, c->line);
    if (!c->section)
        Q_FAIL(err, Q_EFORMAT, "%s: line %d: entry before the first [section]", c->name, c->line);
    q_buf_clear(&c->key);
    q_buf_clear(&c->value);
    for (; p < key_end; p++) {
        const char lower = (char)tolower((unsigned char)*p);

        Q_TRY(q_buf_put(&c->key, &lower, 1, err));
    }
    eq++;
    trim(&eq, &end);
    Q_TRY(q_buf_put(&c->value, eq, (size_t)(end - eq), err));
    c->open = 1;
    c->key_line = c->line;
out:
    return st;
}

static q_status take_line(cursor *c, const char *p, const char *end, q_err *err)
{
    q_status st = Q_OK;
    const int indented = p < end && is_blank(*p);

    trim(&p, &end);
    if (p == end || *p == '#' || *p == ';')
        return Q_OK;
    if (indented && c->open) {
        Q_TRY(q_buf_put(&c->value, "\n", 1, err));
        Q_TRY(q_buf_put(&c->value, p, (size_t)(end - p), err));
        return Q_OK;
    }
    Q_TRY(store(c, err));
    Q_TRY(*p == '[' ? begin_section(c, p, end, err) : begin_entry(c, p, end, err));
out:
    return st;
}

q_status fmt_ini_parse(fmt_json **out, const char *text, size_t n, const char *name, q_err *err)
{
    q_status st = Q_OK;
    cursor c = { .name = name };
    const char *p = text, *stop = text + n;

    if (memchr(text, '\0', n))
        Q_FAIL(err, Q_EFORMAT, "%s: holds a NUL byte", name);
    Q_TRY(fmt_json_new(&c.doc, err));
    while (p < stop) {
        const char *nl = memchr(p, '\n', (size_t)(stop - p));
        const char *end = nl ? nl : stop;

        c.line++;
        Q_TRY(take_line(&c, p, end, err));
        p = nl ? nl + 1 : stop;
    }
    Q_TRY(store(&c, err));
    *out = c.doc;
    c.doc = NULL;
out:
    q_buf_free(&c.key);
    q_buf_free(&c.value);
    fmt_json_free(c.doc);
    return st;
}

q_status fmt_ini_section(q_buf *out, const char *section, q_err *err)
{
    return q_buf_printf(out, err, "%s[%s]\n", out->size ? "\n" : "", section);
}

/* text as part of a value: % doubled, line ends of any kind turned into continuation lines */
static q_status put_text(q_buf *out, const char *s, q_err *err)
{
    q_status st = Q_OK;

    for (; *s; s++)
        Q_TRY(*s == '%'            ? q_buf_puts(out, "%%", err)
              : strchr("\n\r", *s) ? q_buf_puts(out, "\n\t", err)
                                   : q_buf_put(out, s, 1, err));
out:
    return st;
}

static q_status put_repr(q_buf *out, const fmt_json *v, int nested, q_err *err);

static q_status put_container(q_buf *out, const fmt_json *v, q_err *err)
{
    q_status st = Q_OK;
    const int object = fmt_json_kind(v) == FMT_JSON_OBJECT;
    size_t i = 0;

    Q_TRY(q_buf_puts(out, object ? "{" : "[", err));
    if (object)
        for (fmt_json_iter *it = fmt_json_first(v); it; it = fmt_json_next(v, it)) {
            Q_TRY(q_buf_puts(out, i++ ? ", '" : "'", err));
            Q_TRY(put_text(out, fmt_json_key(it), err));
            Q_TRY(q_buf_puts(out, "': ", err));
            Q_TRY(put_repr(out, fmt_json_value(it), 1, err));
        }
    else
        for (; i < fmt_json_size(v); i++) {
            Q_TRY(q_buf_puts(out, i ? ", " : "", err));
            Q_TRY(put_repr(out, fmt_json_at(v, i), 1, err));
        }
    Q_TRY(q_buf_puts(out, object ? "}" : "]", err));
out:
    return st;
}

/* The shortest digits that read back equal, with a point or an exponent, as Python prints reals:
 * plain from 1e-4 to below 1e16, else with an exponent. */
static void shortest(char text[40], double d)
{
    const double a = fabs(d);
    const int plain = a == 0 || (a >= 1e-4 && a < 1e16);

    for (int digits = plain; digits <= 21; digits++) {
        snprintf(text, 40, plain ? "%.*f" : "%.*e", digits, d);
        if (strtod(text, NULL) == d)
            break;
    }
}

/* nested strings carry quotes, as Python's repr of a list does */
static q_status put_repr(q_buf *out, const fmt_json *v, int nested, q_err *err)
{
    q_status st = Q_OK;
    q_buf number = { 0 };
    char text[40];

    switch (fmt_json_kind(v)) {
    case FMT_JSON_TRUE:
        return q_buf_puts(out, "True", err);
    case FMT_JSON_FALSE:
        return q_buf_puts(out, "False", err);
    case FMT_JSON_NULL:
        return q_buf_puts(out, "None", err);
    case FMT_JSON_STRING:
        Q_TRY(q_buf_puts(out, nested ? "'" : "", err));
        Q_TRY(put_text(out, fmt_json_text(v), err));
        Q_TRY(q_buf_puts(out, nested ? "'" : "", err));
        break;
    case FMT_JSON_INT:
        Q_TRY(fmt_json_print(&number, v, 0, err));
        Q_TRY(q_buf_puts(out, number.data, err));
        break;
    case FMT_JSON_REAL:
        Q_TRY(fmt_json_print(&number, v, 0, err));
        shortest(text, strtod(number.data, NULL));
        Q_TRY(q_buf_puts(out, text, err));
        break;
    default:
        Q_TRY(put_container(out, v, err));
        break;
    }
out:
    q_buf_free(&number);
    return st;
}

q_status fmt_ini_put(q_buf *out, const char *key, const fmt_json *value, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(q_buf_printf(out, err, "%s = ", key));
    Q_TRY(put_repr(out, value, 0, err));
    Q_TRY(q_buf_puts(out, "\n", err));
out:
    return st;
}

q_status fmt_ini_put_str(q_buf *out, const char *key, const char *value, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(q_buf_printf(out, err, "%s = ", key));
    Q_TRY(put_text(out, value, err));
    Q_TRY(q_buf_puts(out, "\n", err));
out:
    return st;
}

q_status fmt_ini_put_int(q_buf *out, const char *key, int64_t value, q_err *err)
{
    return q_buf_printf(out, err, "%s = %lld\n", key, (long long)value);
}
