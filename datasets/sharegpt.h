/* ShareGPT conversations, one at a time from a file of any size.
 *
 *     ds_share *s = NULL;
 *     const ds_turns *t;
 *     Q_TRY(ds_share_open(&s, "ShareGPT_V3_unfiltered_cleaned_split.json", NULL, err));
 *     while ((st = ds_share_next(s, &t, err)) == Q_OK && t)
 *         use(t->prompt, t->answer);
 *     ... out: ds_share_close(s);
 *
 * The file is one JSON array of {"id": ..., "conversations": [{"value": ...}, ...]}; the first two
 * values are the prompt and the answer.  Records with fewer than two turns are skipped and counted.
 * A byte order mark at the start is dropped.
 * Memory: the read buffer, and one record as text (at most DS_SHARE_RECORD_MAX) and parsed.
 * Threads: a ds_share belongs to one thread.
 * Source: the files of lmsys/vicuna as vLLM's benchmark reads them. */
#ifndef DS_SHAREGPT_H
#define DS_SHAREGPT_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"

#define DS_SHARE_RECORD_MAX ((size_t)16 << 20) /* bytes of one record */

typedef struct ds_share ds_share;

typedef struct ds_share_opts {
    size_t read_bytes; /* bytes per read, 0: 1 MiB; the records do not depend on it */
} ds_share_opts;

typedef struct ds_turns {
    const char *id; /* "id" of the record, or its number in the file, from 1 */
    const char *prompt, *answer;
    uint64_t number; /* of the record, from 1, skipped ones included */
} ds_turns;

/* o may be NULL.  Errors: those of q_file_open, Q_ENOMEM. */
q_status ds_share_open(ds_share **out, const char *path, const ds_share_opts *o, q_err *err);

/* The next record with two turns, NULL in *out at the end of the array.  The texts are
 * NUL-terminated UTF-8, borrowed until the next call or close.  After an error every call gives
 * Q_EFORMAT. Errors: Q_EFORMAT (not such a file, cut short, record too large or not JSON: file,
 * record and byte are named), Q_EIO, Q_ENOMEM. */
q_status ds_share_next(ds_share *s, const ds_turns **out, q_err *err);

uint64_t ds_share_seen(const ds_share *s);    /* records read so far */
uint64_t ds_share_skipped(const ds_share *s); /* of them with fewer than two turns */
void ds_share_close(ds_share *s);             /* NULL is fine */

#endif
