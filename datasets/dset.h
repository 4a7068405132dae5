/* Text samples from files: JSON Lines with the field names of CNN/DailyMail, or plain text.
 *
 *     ds_set *set = NULL;
 *     ds_opts o = { .max_samples = 512 };
 *     Q_TRY(ds_open(&set, "cnn_dailymail/test.jsonl", &o, err));
 *     for (size_t i = 0; i < ds_count(set); i++)
 *         use(ds_at(set, i)->article, ds_at(set, i)->highlights);
 *     ... out: ds_close(set);
 *
 * The kind is found from the name (.jsonl, .ndjson, .json: JSON Lines; .txt, .raw: text), else from
 * the first byte that is not white space ('{': JSON Lines).  Texts are NUL-terminated UTF-8 without
 * NUL inside; anything else in a file is refused.  A byte order mark at the start is dropped.
 * A set owns its samples.  Threads: an open set is immutable and may be shared. */
#ifndef DS_DSET_H
#define DS_DSET_H

#include <stddef.h>
#include <stdint.h>

#include "datasets/lines.h"
#include "formats/base/q_err.h"
#include "formats/base/q_mem.h"

#define DS_TEXT_MAX ((size_t)1 << 30) /* bytes of a plain text */

typedef struct ds_sample {
    char *id;         /* "id" of the record, or the number of its line, from 1 */
    char *article;    /* the text */
    char *highlights; /* the reference; NULL for plain text and with field_text */
} ds_sample;

typedef struct ds_opts {
    size_t max_samples;     /* 0: all */
    int shuffle;            /* 0: the first ones in file order; 1: drawn at random */
    uint64_t shuffle_seed;  /* same seed, same file, same samples in the same order */
    const char *field_text; /* JSON Lines: only this member is read, into article, and a reference
                             * is not needed; NULL: "article" and "highlights", both needed */
    int rows;               /* plain text: each line is a sample and keeps its LF, a line of blanks
                             * becomes ""; joined with "\n\n" that is WikiText in GPTQ's form */
} ds_opts;

typedef struct ds_set ds_set;

/* Loads the samples; o may be NULL.  In file order reading stops after max_samples, and what stands
 * behind is not looked at.  Drawing (shuffle) keeps max_samples places of lines while it runs
 * through the file once (reservoir: line i, from 0, replaces place ds_rng_below(i + 1) when that is
 * below max_samples) and then shuffles them (Fisher-Yates, last place first), all from one ds_rng.
 * Errors, with file and line (plain text: byte): Q_EFORMAT (not JSON, a field missing or no string,
 * invalid UTF-8, a line above DS_LINE_MAX, no samples at all), those of q_file_open, Q_EIO,
 * Q_ENOMEM. */
q_status ds_open(ds_set **out, const char *path, const ds_opts *o, q_err *err);
size_t ds_count(const ds_set *set);
const ds_sample *ds_at(const ds_set *set, size_t i); /* valid until close; NULL outside */
void ds_close(ds_set *set);                          /* NULL is fine */

/* Appends one field of every sample to *out, sep between two.  field: "article", "highlights" or
 * the field_text of the set; NULL: the text. Errors: Q_EARG (another field, or the set has no
 * highlights), Q_ENOMEM. */
q_status ds_join(const ds_set *set, const char *field, const char *sep, q_buf *out, q_err *err);

#endif
