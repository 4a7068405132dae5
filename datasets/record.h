/* JSON records of untrusted files: where a value ends, how much it may hold, what it is called.
 *
 *     ds_scan s = { 0 };
 *     size_t used = ds_scan_feed(&s, p, n);     (again with the next piece while !s.done)
 *     if (s.n_values > DS_RECORD_VALUES) ...    (refuse before parsing)
 *
 * The scanner only follows brackets and strings, so that a file of any size can be cut into records
 * with a small buffer; whether a record is JSON is decided by fmt_json_parse.  The number of values
 * is bounded because a parsed "{}" takes a hundred times the memory of its two bytes.
 * Threads: a ds_scan belongs to one thread. */
#ifndef DS_RECORD_H
#define DS_RECORD_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/base/q_mem.h"
#include "formats/json.h"

#define DS_RECORD_VALUES ((size_t)1 << 18) /* objects, arrays and commas: at most 80 MB parsed */

typedef struct ds_scan {
    size_t depth;    /* open brackets */
    size_t n_values; /* openers and commas outside strings so far */
    int in_string, escaped, done;
} ds_scan;

/* Reads p[0..n), a piece of a JSON object or array that starts at the first byte ever fed.  Returns
 * the number of bytes that belong to it: n while it is open; less, with done set, after the bracket
 * that closes it.  Kinds of brackets are not compared.  Linear; split points do not matter. */
size_t ds_scan_feed(ds_scan *s, const char *p, size_t n);

/* Replaces *out by the "id" of a record: a string as it is, an integer in decimal; without one the
 * number of the record in its file.  Errors: Q_EFORMAT (another kind; the message starts with
 * name), Q_ENOMEM. */
q_status ds_record_id(q_buf *out, const fmt_json *record, uint64_t number, const char *name,
                      q_err *err);

#endif
