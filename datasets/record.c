/* Cutting JSON records out of a stream.
 *
 * A record is an object or array; it ends where its brackets balance.  Brackets inside strings do
 * not count, and a quote behind a backslash does not end a string: that is all one has to know to
 * find the end, so the scanner keeps five numbers and never looks back.  Wrong nesting ("[}") only
 * moves the cut; the parser that gets the piece reports it.
 *
 * Limits: DS_RECORD_VALUES bounds what the parser can be made to allocate (about 300 bytes for an
 * empty object of jansson); callers bound the bytes. */
#include "datasets/record.h"

#include <inttypes.h>

size_t ds_scan_feed(ds_scan *s, const char *p, size_t n)
{
    for (size_t i = 0; i < n && !s->done; i++) {
        const char c = p[i];

        if (s->in_string) {
            if (s->escaped)
                s->escaped = 0;
            else if (c == '\\')
                s->escaped = 1;
            else if (c == '"')
                s->in_string = 0;
        } else if (c == '"') {
            s->in_string = 1;
        } else if (c == ',') {
            s->n_values++;
        } else if (c == '{' || c == '[') {
            s->n_values++;
            s->depth++;
        } else if ((c == '}' || c == ']') && s->depth > 0 && --s->depth == 0) {
            s->done = 1;
            return i + 1;
        }
    }
    return s->done ? 0 : n;
}

q_status ds_record_id(q_buf *out, const fmt_json *record, uint64_t number, const char *name,
                      q_err *err)
{
    const fmt_json *id = fmt_json_get(record, "id");
    int64_t v = 0;

    q_buf_clear(out);
    if (!id || fmt_json_kind(id) == FMT_JSON_NULL)
        return q_buf_printf(out, err, "%" PRIu64, number);
    if (fmt_json_text(id))
        return q_buf_puts(out, fmt_json_text(id), err);
    if (fmt_json_kind(id) == FMT_JSON_INT &&
        fmt_json_int(record, "id", INT64_MIN, INT64_MAX, &v, err) == Q_OK)
        return q_buf_printf(out, err, "%" PRId64, v);
    return q_fail(err, Q_EFORMAT, "%s: 'id' is neither a string nor an integer", name);
}
