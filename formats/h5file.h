/* HDF5 files: datasets with names, types, shapes and hashes.  The only place that knows the
 * library.
 *
 *     fmt_h5w *w = NULL;
 *     Q_TRY(fmt_h5_create(&w, "stats.h5", force, err));
 *     Q_TRY(fmt_h5_put(w, "/stats/layers.0/attn_in", FMT_F32, 1, (int64_t[]){ 4096 }, v, err));
 *     Q_TRY(fmt_h5_attr_str(w, "/", "format", "qwenkit-stats", err));
 *     Q_TRY(fmt_h5_commit(w, err));       ... out: fmt_h5w_close(w);
 *
 *     fmt_h5 *h = NULL;
 *     Q_TRY(fmt_h5_open(&h, "stats.h5", err));
 *     Q_TRY(fmt_h5_read(h, "/stats/layers.0/attn_in", FMT_F32, 1, (int64_t[]){ 4096 }, v, err));
 *     ... out: fmt_h5_close(h);
 *
 * Files are plain HDF5 that h5ls, h5dump and h5py read: little-endian arrays of standard types,
 * contiguous or compressed (bfloat16 as 16-bit integers with the attribute dtype), texts as UTF-8
 * strings.  Equal calls give equal bytes: no times, creation order kept.  Every dataset carries the
 * attribute sha256 of its bytes, and behind the end of the HDF5 data stands one line with the
 * SHA-256 of all before it, so that fmt_h5_verify finds any flipped bit; HDF5 ignores what follows
 * its data. A writer appears under its name with fmt_h5_commit only.  Threads: one at a time for
 * the whole library (Debian's build has no locks). */
#ifndef FMT_H5FILE_H
#define FMT_H5FILE_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/base/q_mem.h"
#include "formats/chunk.h"
#include "formats/dtype.h"

#define FMT_H5_DIMS 4
#define FMT_H5_NAME 512 /* bytes of a path inside the file, NUL included */

typedef struct fmt_h5w fmt_h5w;
typedef struct fmt_h5 fmt_h5;

/* Errors of all: Q_ECREATE, Q_EIO (with what the library says), Q_ENOMEM. */
q_status fmt_h5_create(fmt_h5w **out, const char *path, int force, q_err *err);
/* From now on datasets of 4 KiB and more are written in chunks with the filters shuffle, deflate
 * and fletcher32; their hashes are those of what is in them. */
void fmt_h5_compress(fmt_h5w *w);
/* Groups on the way are made.  v [shape], row-major. */
q_status fmt_h5_put(fmt_h5w *w, const char *name, fmt_dtype dtype, int ndim, const int64_t *shape,
                    const void *v, q_err *err);
/* A file's bytes: a string when they are text without NUL, else 8-bit integers. */
q_status fmt_h5_put_bytes(fmt_h5w *w, const char *name, const void *p, size_t n, q_err *err);
/* Attributes of a dataset or group that exists, "/" is the file. */
q_status fmt_h5_attr_str(fmt_h5w *w, const char *name, const char *key, const char *v, q_err *err);
q_status fmt_h5_attr_int(fmt_h5w *w, const char *name, const char *key, int64_t v, q_err *err);
q_status fmt_h5_attr_real(fmt_h5w *w, const char *name, const char *key, double v, q_err *err);
/* The same as fmt_h5_put with the data in strips: fill writes rows r0 .. r0 + n - 1 of the first
 * dimension into dst. */
typedef q_status (*fmt_h5_fill)(void *self, int64_t r0, int64_t n, void *dst, q_err *err);
q_status fmt_h5_put_rows(fmt_h5w *w, const char *name, fmt_dtype dtype, int ndim,
                         const int64_t *shape, fmt_h5_fill fill, void *self, q_err *err);
/* The attribute content_root_sha256 of the file: SHA-256 of a line "<sha256>  <name>" LF for every
 * dataset, in order.  After it no dataset may be put.  hex may be NULL. */
#define FMT_H5_ROOT "content_root_sha256"
q_status fmt_h5_put_root(fmt_h5w *w, char hex[65], q_err *err);
/* The file is complete but for its last line, under a temporary name, which *part tells (valid
 * until close), and may be looked at, while a thread hashes it; then commit adds the line, waits
 * for the disk and gives it its name.  Commit alone does both. */
q_status fmt_h5_finish(fmt_h5w *w, const char **part, q_err *err);
q_status fmt_h5_commit(fmt_h5w *w, q_err *err);
void fmt_h5w_close(fmt_h5w *w); /* without a commit nothing is left */

/* Errors: Q_ENOINPUT, Q_EFORMAT (no HDF5 file, cut short, wrong type or shape, absent), Q_EIO. */
q_status fmt_h5_open(fmt_h5 **out, const char *path, q_err *err);
void fmt_h5_close(fmt_h5 *h);
int fmt_h5_is_file(const char *path); /* 1: a regular file with the signature of HDF5 */
/* *yes: there is a dataset or group of this name; an attribute of one that is there; it is a group.
 * What cannot be looked up in a damaged file is an error, never absent. */
q_status fmt_h5_has(const fmt_h5 *h, const char *name, int *yes, q_err *err);
q_status fmt_h5_has_attr(const fmt_h5 *h, const char *name, const char *key, int *yes, q_err *err);
q_status fmt_h5_is_group(const fmt_h5 *h, const char *name, int *yes, q_err *err);
typedef struct fmt_h5_info {
    fmt_dtype dtype;
    int ndim;
    int64_t shape[FMT_H5_DIMS];
    uint64_t bytes;
} fmt_h5_info;
q_status fmt_h5_stat(const fmt_h5 *h, const char *name, fmt_h5_info *out, q_err *err);
/* Where the bytes of a dataset of any type lie in the file, for reading them without the library.
 * Errors: Q_EFORMAT (in chunks: it has no one place). */
q_status fmt_h5_place(const fmt_h5 *h, const char *name, uint64_t *offset, uint64_t *bytes,
                      q_err *err);
/* A dataset in chunks: chunk i holds bytes i * form.bytes and on of the array, the last one zeros
 * behind its end. */
typedef struct fmt_h5_chunk {
    uint64_t offset, bytes; /* in the file */
} fmt_h5_chunk;
typedef struct fmt_h5_chunks {
    fmt_chunk_form form;
    size_t n;        /* 0: the dataset is not in chunks */
    fmt_h5_chunk *v; /* [n] */
} fmt_h5_chunks;
/* out->v is freed by the caller with q_free.  Errors: Q_EUNSUPPORTED (other filters, chunks that
 * are no whole rows, or too large), Q_EFORMAT. */
q_status fmt_h5_find_chunks(const fmt_h5 *h, const char *name, fmt_h5_chunks *out, q_err *err);
/* Whether all of them can be what they say, in a file of so many bytes. */
q_status fmt_h5_check_chunks(const char *path, const char *name, const fmt_h5_chunks *c,
                             uint64_t file_bytes, q_err *err);
struct q_file;
/* Chunk i of checked ones into dst [form.bytes], without the library.  Threads: several at once.
 * Errors: Q_EFORMAT naming file, dataset and chunk. */
q_status fmt_h5_read_chunk(void *dst, const struct q_file *f, const char *name,
                           const fmt_h5_chunks *c, size_t i, q_err *err);
/* The dataset must have this type and shape.  v [shape]. */
q_status fmt_h5_read(const fmt_h5 *h, const char *name, fmt_dtype dtype, int ndim,
                     const int64_t *shape, void *v, q_err *err);
q_status fmt_h5_get_str(const fmt_h5 *h, const char *name, const char *key, char *out, size_t cap,
                        q_err *err);
q_status fmt_h5_get_int(const fmt_h5 *h, const char *name, const char *key, int64_t *out,
                        q_err *err);
q_status fmt_h5_get_real(const fmt_h5 *h, const char *name, const char *key, double *out,
                         q_err *err);
/* Calls fn for every member of a group, in the order of creation. */
q_status fmt_h5_each(const fmt_h5 *h, const char *group,
                     q_status (*fn)(void *self, const char *member, q_err *err), void *self,
                     q_err *err);
/* Compares the whole file with its last line, every dataset with its sha256, and these with
 * content_root_sha256 where the file has one.  A file without
 * the line was rewritten by another program: then only the datasets are compared, and *whole is 0.
 * Errors: Q_EFORMAT naming what differs. */
q_status fmt_h5_verify(const char *path, int *whole, q_err *err);

#endif
