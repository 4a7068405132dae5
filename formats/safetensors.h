/* safetensors: a strict reader and a streaming writer.
 *
 *     fmt_st *st = NULL;
 *     Q_TRY(fmt_st_open(&st, dir, "model.safetensors", err));
 *     const fmt_tensor *t = fmt_st_find(st, "lm_head.weight");
 *     Q_TRY(fmt_st_read(st, t, 0, t->bytes, buf, err));
 *
 * The reader is as strict as the original implementation: header at most 100 MB and checked against
 * the file size before anything is allocated, header begins with '{', no duplicate keys, known
 * dtypes, shape x dtype equals the byte range, ranges cover the data without holes or overlaps, at
 * most 8 dimensions and 1,000,000 tensors, names at most 512 bytes.  __metadata__ is a string map;
 * null means none.  A git-lfs pointer file is named as such.  Offsets need not be aligned.  Shapes
 * and offsets are whole numbers up to 2^63 - 1; unknown keys of an entry are ignored, as the
 * original does.
 *
 * Writer: tensors are declared first (their sizes fix the header), then written in that order in
 * pieces; nothing is kept in memory.  Source: huggingface/safetensors, format description.
 * Threads: fmt_st_read may be called from several threads; a writer belongs to one. */
#ifndef FMT_SAFETENSORS_H
#define FMT_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/dtype.h"

#define FMT_MAX_DIMS      8
#define FMT_ST_MAX_HEADER 100000000u /* bytes */
#define FMT_ST_MAX_COUNT  1000000u   /* tensors in one file, and in one checkpoint */
#define FMT_ST_MAX_NAME   512u       /* bytes */

typedef struct fmt_tensor {
    const char *name; /* borrowed from the container */
    fmt_dtype dtype;
    int ndim;
    int64_t shape[FMT_MAX_DIMS]; /* each >= 0 */
    uint64_t offset, bytes;      /* from the start of the file */
} fmt_tensor;

typedef struct fmt_st fmt_st;

/* name: a plain file name inside dir (see q_file_open_in).  Errors: Q_ENOINPUT, Q_EFORMAT,
 * Q_ESHAPE, Q_ENOMEM; every message carries file and tensor. */
q_status fmt_st_open(fmt_st **out, const char *dir, const char *name, q_err *err);
void fmt_st_close(fmt_st *s);
const char *fmt_st_path(const fmt_st *s);
size_t fmt_st_count(const fmt_st *s);
const fmt_tensor *fmt_st_at(const fmt_st *s, size_t i);           /* in order of offset */
const fmt_tensor *fmt_st_find(const fmt_st *s, const char *name); /* NULL: absent */
/* n bytes of t from byte `from` of the tensor.  Range checked: Q_ESHAPE. */
q_status fmt_st_read(const fmt_st *s, const fmt_tensor *t, uint64_t from, size_t n, void *dst,
                     q_err *err);

/* Bytes of a tensor of this shape, as declare will count them (hf_write.c sorts tensors into shards
 * by it).  Errors as declare: Q_EARG (name too long), Q_ESHAPE (dimensions, overflow). */
q_status fmt_st_size(uint64_t *bytes, const char *name, fmt_dtype dtype, int ndim,
                     const int64_t *shape, q_err *err);

typedef struct fmt_st_writer fmt_st_writer;

q_status fmt_st_create(fmt_st_writer **out, const char *path, int force, q_err *err);
/* Declare the next tensor.  Only before the first write.
 * Errors: Q_EARG (name used or too long, too many), Q_ESHAPE, Q_ENOMEM. */
q_status fmt_st_declare(fmt_st_writer *w, const char *name, fmt_dtype dtype, int ndim,
                        const int64_t *shape, q_err *err);
/* Bytes of the tensors in the order of declaration; pieces may cross from one to the next.
 * Errors: Q_EARG (more than declared), Q_EIO, Q_ENOMEM. */
q_status fmt_st_write(fmt_st_writer *w, const void *p, size_t n,
                      q_err *err); /* p NULL: a hole of zeros */
/* Q_EARG when bytes are missing; else fsync and rename.  After it only close is allowed. */
q_status fmt_st_commit(fmt_st_writer *w, q_err *err);
void fmt_st_writer_close(fmt_st_writer *w); /* uncommitted: the temporary is removed */

#endif
