/* ShareGPT files, streamed.
 *
 * The usual file is 0.65 GB in one array: parsing it whole would take several GB.  So the array is
 * cut into records first:
 *
 *   [ {record} , {record} , ... ]
 *   ^START ^FIRST/^RECORD ^AFTER  ^END
 *
 * Between records only white space, commas and the closing bracket may stand; a record goes from
 * its '{' to the matching '}' (ds_scan), is collected in a buffer and parsed on its own.  The state
 * lives across reads, so records do not depend on where a read ends.  The reader never looks back.
 *
 * Limits: DS_SHARE_RECORD_MAX bytes and DS_RECORD_VALUES values per record; the depth is bounded by
 * the parser. */
#include "datasets/sharegpt.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "datasets/record.h"
#include "formats/base/q_file.h"
#include "formats/base/q_mem.h"
#include "formats/json.h"

typedef enum state { START, FIRST, RECORD, AFTER, END, BROKEN } state;

struct ds_share {
    q_file *f;
    char *chunk; /* [read_bytes], have of them read, at: next to look at */
    size_t read_bytes, have, at;
    uint64_t read; /* bytes of the file taken into chunk so far */
    state state;
    q_buf record, id, name; /* text of the record, its id, "file: record 7 (byte 1234)" */
    fmt_json *doc;          /* the record handed out */
    ds_turns turns;
    uint64_t n_seen, n_skipped;
};

q_status ds_share_open(ds_share **out, const char *path, const ds_share_opts *o, q_err *err)
{
    q_status st = Q_OK;
    ds_share *s = q_calloc(1, sizeof *s);
    char first[3];

    if (!s)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    Q_TRY(q_file_open(&s->f, path, err));
    s->read_bytes = o && o->read_bytes ? o->read_bytes : (size_t)1 << 20;
    if (s->read_bytes > q_file_bytes(s->f)) /* + 1: an empty file is one to complain about later */
        s->read_bytes = (size_t)q_file_bytes(s->f) + 1;
    if (!(s->chunk = q_malloc(s->read_bytes)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %zu bytes", path, s->read_bytes);
    if (q_file_bytes(s->f) >= sizeof first) {
        Q_TRY(q_file_pread(s->f, first, sizeof first, 0, err));
        if (memcmp(first, "\xef\xbb\xbf", sizeof first) == 0) /* byte order mark */
            s->read = sizeof first;
    }
    *out = s;
    s = NULL;
out:
    ds_share_close(s);
    return st;
}

void ds_share_close(ds_share *s)
{
    if (!s)
        return;
    fmt_json_free(s->doc);
    q_buf_free(&s->record);
    q_buf_free(&s->id);
    q_buf_free(&s->name);
    q_file_close(s->f);
    q_free(s->chunk);
    q_free(s);
}

uint64_t ds_share_seen(const ds_share *s)
{
    return s->n_seen;
}

uint64_t ds_share_skipped(const ds_share *s)
{
    return s->n_skipped;
}

/* Offset in the file of the next byte. */
static uint64_t here(const ds_share *s)
{
    return s->read - (s->have - s->at);
}

/* Makes sure a byte is there to look at; *more is 0 at the end of the file. */
static q_status fill(ds_share *s, int *more, q_err *err)
{
    const uint64_t rest = q_file_bytes(s->f) - s->read;
    q_status st = Q_OK;
    size_t n;

    *more = s->at < s->have || rest > 0;
    if (s->at < s->have || rest == 0)
        return Q_OK;
    n = rest < s->read_bytes ? (size_t)rest : s->read_bytes;
    Q_TRY(q_file_pread(s->f, s->chunk, n, s->read, err));
    s->read += n;
    s->have = n;
    s->at = 0;
out:
    return st;
}

/* What may stand between records. */
static q_status between(ds_share *s, char c, q_err *err)
{
    static const char *const wanted[] = { [START] = "'[': a ShareGPT file is one JSON array",
                                          [FIRST] = "'{' or ']'",
                                          [RECORD] = "'{'",
                                          [AFTER] = "',' or ']'",
                                          [END] = "nothing behind the array" };
    state next = BROKEN;
    char shown[8];

    if (s->state == START && c == '[')
        next = FIRST;
    else if (s->state == AFTER && c == ',')
        next = RECORD;
    else if ((s->state == FIRST || s->state == AFTER) && c == ']')
        next = END;
    if (next == BROKEN) {
        snprintf(shown, sizeof shown, c > ' ' && c < 0x7f ? "'%c'" : "0x%02x", (unsigned char)c);
        return q_fail(err, Q_EFORMAT, "%s: byte %" PRIu64 " is %s, wanted %s", q_file_path(s->f),
                      here(s), shown, wanted[s->state]);
    }
    s->state = next;
    s->at++;
    return Q_OK;
}

/* Collects the record that starts at the next byte and names it. */
static q_status collect(ds_share *s, q_err *err)
{
    q_status st = Q_OK;
    ds_scan scan = { 0 };
    int more;

    q_buf_clear(&s->record);
    q_buf_clear(&s->name);
    s->n_seen++;
    Q_TRY(q_buf_printf(&s->name, err, "%s: record %" PRIu64 " (byte %" PRIu64 ")",
                       q_file_path(s->f), s->n_seen, here(s)));
    while (!scan.done) {
        size_t n;

        Q_TRY(fill(s, &more, err));
        if (!more)
            Q_FAIL(err, Q_EFORMAT, "%s is cut off by the end of the file: fetch it again",
                   s->name.data);
        n = ds_scan_feed(&scan, s->chunk + s->at, s->have - s->at);
        if (scan.n_values > DS_RECORD_VALUES)
            Q_FAIL(err, Q_EFORMAT, "%s: more than %zu JSON values", s->name.data, DS_RECORD_VALUES);
        if (n > DS_SHARE_RECORD_MAX - s->record.size)
            Q_FAIL(err, Q_EFORMAT, "%s: longer than %zu bytes", s->name.data, DS_SHARE_RECORD_MAX);
        Q_TRY(q_buf_put(&s->record, s->chunk + s->at, n, err));
        s->at += n;
    }
    s->state = AFTER;
out:
    return st;
}

/* Finds the next record; *found is 0 at the end of the array. */
static q_status next_record(ds_share *s, int *found, q_err *err)
{
    q_status st = Q_OK;
    int more;

    *found = 0;
    for (;;) {
        char c;

        Q_TRY(fill(s, &more, err));
        if (!more)
            break;
        c = s->chunk[s->at];
        if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
            s->at++;
        } else if ((s->state == FIRST || s->state == RECORD) && c == '{') {
            *found = 1;
            return collect(s, err);
        } else {
            Q_TRY(between(s, c, err));
        }
    }
    if (s->state != END)
        Q_FAIL(err, Q_EFORMAT,
               "%s: ends at byte %" PRIu64 " before the array is closed: fetch it again",
               q_file_path(s->f), here(s));
out:
    return st;
}

/* conversations[i].value, borrowed from the document */
static q_status turn_value(const char **out, const ds_share *s, const fmt_json *turns, size_t i,
                           q_err *err)
{
    const fmt_json *v = fmt_json_get(fmt_json_at(turns, i), "value");

    if (!v || !fmt_json_text(v))
        return q_fail(err, Q_EFORMAT, "%s: conversations[%zu] has no text 'value'", s->name.data,
                      i);
    *out = fmt_json_text(v);
    return Q_OK;
}

/* Parses the collected record; *usable is 0 when it has fewer than two turns. */
static q_status take_record(ds_share *s, int *usable, q_err *err)
{
    q_status st = Q_OK;
    const fmt_json *turns;

    fmt_json_free(s->doc);
    s->doc = NULL;
    Q_TRY(fmt_json_parse(&s->doc, s->record.data, s->record.size, s->name.data, err));
    turns = fmt_json_get(s->doc, "conversations");
    if (!turns || fmt_json_kind(turns) != FMT_JSON_ARRAY)
        Q_FAIL(err, Q_EFORMAT, "%s: no array 'conversations'", s->name.data);
    *usable = fmt_json_size(turns) >= 2;
    s->n_skipped += !*usable;
    if (!*usable)
        return Q_OK;
    Q_TRY(turn_value(&s->turns.prompt, s, turns, 0, err));
    Q_TRY(turn_value(&s->turns.answer, s, turns, 1, err));
    Q_TRY(ds_record_id(&s->id, s->doc, s->n_seen, s->name.data, err));
    s->turns.id = s->id.data;
    s->turns.number = s->n_seen;
out:
    return st;
}

q_status ds_share_next(ds_share *s, const ds_turns **out, q_err *err)
{
    q_status st = Q_OK;
    int found, usable = 0;

    *out = NULL;
    if (s->state == BROKEN)
        Q_FAIL(err, Q_EFORMAT, "%s: not read further after an error", q_file_path(s->f));
    do {
        Q_TRY(next_record(s, &found, err));
        if (!found)
            return Q_OK;
        Q_TRY(take_record(s, &usable, err));
    } while (!usable);
    *out = &s->turns;
out:
    if (st != Q_OK)
        s->state = BROKEN;
    return st;
}
