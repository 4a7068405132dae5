/* JSON: what parses prints, and what is printed parses again and prints the same. */
#include <assert.h>
#include <string.h>

#include "formats/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t walk(const fmt_json *v, int depth)
{
    size_t n = 1;
    int64_t i;

    if (depth > 64)
        return n;
    switch (fmt_json_kind(v)) {
    case FMT_JSON_OBJECT:
        for (fmt_json_iter *it = fmt_json_first(v); it; it = fmt_json_next(v, it)) {
            assert(fmt_json_get(v, fmt_json_key(it)) == fmt_json_value(it));
            n += walk(fmt_json_value(it), depth + 1);
        }
        break;
    case FMT_JSON_ARRAY:
        for (size_t k = 0; k < fmt_json_size(v); k++)
            n += walk(fmt_json_at(v, k), depth + 1);
        assert(!fmt_json_at(v, fmt_json_size(v)));
        break;
    case FMT_JSON_STRING:
        assert(fmt_json_text(v));
        break;
    case FMT_JSON_INT:
        assert(fmt_json_as_int(v, INT64_MIN, INT64_MAX, &i));
        break;
    case FMT_JSON_REAL:
    case FMT_JSON_TRUE:
    case FMT_JSON_FALSE:
    case FMT_JSON_NULL:
        assert(!fmt_json_text(v) && fmt_json_size(v) == 0 && !fmt_json_first(v));
        break;
    }
    return n;
}

/* every getter on a key of any kind gives a value in range or a message */
static void get(const fmt_json *v, const char *key)
{
    q_err err[4] = { 0 };
    int64_t i = 7;
    double d = 0.5;
    int b = 2;
    const char *s = "";

    if (fmt_json_int(v, key, 1, 9, &i, &err[0]) != Q_OK)
        assert(err[0].code == Q_ECONFIG && strstr(err[0].msg, key));
    assert(i >= 1 && i <= 9);
    if (fmt_json_real_opt(v, key, 0, 1, &d, &err[1]) != Q_OK)
        assert(err[1].code == Q_ECONFIG);
    assert(d >= 0 && d <= 1);
    if (fmt_json_bool_opt(v, key, &b, &err[2]) != Q_OK)
        assert(err[2].code == Q_ECONFIG);
    assert(b >= 0 && b <= 2);
    if (fmt_json_str_opt(v, key, &s, &err[3]) != Q_OK)
        assert(err[3].code == Q_ECONFIG);
    assert(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    q_err err = { 0 };
    fmt_json *v = NULL, *again = NULL;
    q_buf a = { 0 }, b = { 0 };
    q_status st = fmt_json_parse(&v, (const char *)data, size, "input", &err);

    if (st != Q_OK) {
        assert(!v && st == Q_EFORMAT && strncmp(err.msg, "input: line ", 12) == 0);
        return 0;
    }
    walk(v, 0);
    get(v, "k");
    st = fmt_json_print(&a, v, 0, &err);
    assert(st == Q_OK);
    st = fmt_json_parse(&again, a.data, a.size, "printed", &err);
    assert(st == Q_OK);
    st = fmt_json_print(&b, again, 0, &err);
    assert(st == Q_OK && a.size == b.size && memcmp(a.data, b.data, a.size) == 0);
    fmt_json_free(v);
    fmt_json_free(again);
    q_buf_free(&a);
    q_buf_free(&b);
    return 0;
}
