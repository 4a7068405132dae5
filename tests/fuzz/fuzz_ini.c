/* config.ini.  What parses is written again and must come back equal: sections, keys and values.
 * Values with a carriage return inside are left out, they become line ends. */
#include <assert.h>
#include <string.h>

#include "formats/family.h"
#include "formats/ini.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* 1: the text of every value survives */
static int write_again(q_buf *out, const fmt_json *doc)
{
    for (fmt_json_iter *s = fmt_json_first(doc); s; s = fmt_json_next(doc, s)) {
        const fmt_json *section = fmt_json_value(s);

        assert(fmt_json_kind(section) == FMT_JSON_OBJECT);
        assert(fmt_ini_section(out, fmt_json_key(s), NULL) == Q_OK);
        for (fmt_json_iter *it = fmt_json_first(section); it; it = fmt_json_next(section, it)) {
            const char *text = fmt_json_text(fmt_json_value(it));

            if (text && strchr(text, '\r'))
                return 0;
            assert(fmt_ini_put(out, fmt_json_key(it), fmt_json_value(it), NULL) == Q_OK);
        }
    }
    return 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    q_err err = { 0 };
    fmt_json *doc = NULL, *back = NULL;
    q_buf text = { 0 }, a = { 0 }, b = { 0 };
    const q_status st = fmt_ini_parse(&doc, (const char *)data, size, "config.ini", &err);

    if (st != Q_OK) {
        assert(!doc && err.code == Q_EFORMAT && strncmp(err.msg, "config.ini: ", 12) == 0);
        return 0;
    }
    if (write_again(&text, doc) && text.data) {
        assert(fmt_ini_parse(&back, text.data, text.size, "again", &err) == Q_OK);
        assert(fmt_json_print(&a, doc, 0, NULL) == Q_OK);
        assert(fmt_json_print(&b, back, 0, NULL) == Q_OK);
        assert(strcmp(a.data, b.data) == 0);
    }
    fmt_json_free(doc);
    fmt_json_free(back);
    q_buf_free(&text);
    q_buf_free(&a);
    q_buf_free(&b);
    return 0;
}
