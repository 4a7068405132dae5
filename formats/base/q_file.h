/* Files: reading with checked offsets, and outputs that appear whole or not at all.
 *
 *     q_file *f = NULL;
 *     Q_TRY(q_file_open(&f, path, err));
 *     Q_TRY(q_file_pread(f, buf, n, offset, err));
 *
 *     q_out *o = NULL;
 *     Q_TRY(q_out_open(&o, "dir/result.json", force, err));
 *     Q_TRY(q_out_write(o, data, n, err));
 *     Q_TRY(q_out_commit(o, err));            (write, fsync, rename, fsync of the directory)
 *     ... out: q_out_close(o);                (not committed: the temporary is removed)
 *
 * A q_file reads regular files only: FIFOs, devices and directories are refused.  Thread rule:
 * q_file_pread may be called from several threads at once; a q_out belongs to one thread. */
#ifndef Q_FILE_H
#define Q_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/base/q_mem.h"

typedef struct q_file q_file;
typedef struct q_out q_out;

/* Errors: Q_ENOINPUT (absent), Q_EPERM, Q_EFORMAT (not a regular file). */
q_status q_file_open(q_file **out, const char *path, q_err *err);
/* The same for a plain file name inside dir: a name with '/', "", "." or ".." is refused with
 * Q_EFORMAT, and so is a link (O_NOFOLLOW): names come from untrusted indexes.  Links are followed
 * only when their target stays inside a Hugging Face cache layout (../../blobs/<hex>). */
q_status q_file_open_in(q_file **out, const char *dir, const char *name, q_err *err);
void q_file_close(q_file *f);
uint64_t q_file_bytes(const q_file *f);   /* size when opened */
const char *q_file_path(const q_file *f); /* as given; valid until close */
/* Exactly n bytes at offset; a range outside the file is Q_EFORMAT, a failed read Q_EIO. */
q_status q_file_pread(const q_file *f, void *dst, size_t n, uint64_t offset, q_err *err);
/* SHA-256 of the first n bytes, as 64 hex digits and NUL. */
q_status q_file_sha256(const q_file *f, uint64_t n, char hex[65], q_err *err);
/* Whole file into *out (NUL appended, not counted).  max: refused with Q_EFORMAT when
 * larger; so is a git-lfs pointer in the place of the file. */
q_status q_file_slurp(q_buf *out, const char *path, size_t max, q_err *err);

/* Whether path can become an output, for a program to know before it works for hours.  Errors:
 * Q_EARG (no name), Q_ECREATE (exists and !force; a directory, device or pipe; no such directory),
 * Q_EPERM. */
q_status q_out_check(const char *path, int force, q_err *err);
/* An input, or NULL, is never replaced, also with force.  Errors: Q_EARG (they are the same file).
 */
q_status q_out_apart(const char *path, const char *input, q_err *err);
/* Output file under a temporary name in the directory of path.  Errors: those of q_out_check. */
q_status q_out_open(q_out **out, const char *path, int force, q_err *err);
q_status q_out_write(q_out *o, const void *p, size_t n, q_err *err); /* p NULL: a hole of zeros */
/* What was written so far, as a file to read; it stays readable after commit and close. */
q_status q_out_read_back(const q_out *o, q_file **out, q_err *err);
q_status q_out_commit(q_out *o,
                      q_err *err); /* after it the file is there, and only close is allowed */
void q_out_close(q_out *o);
q_status q_out_whole(const char *path, int force, const void *p, size_t n,
                     q_err *err); /* all four */

q_status q_dir_make(const char *path, q_err *err); /* with parents; existing is fine */
/* rename, then fsync of the directory: after it the file stands under its new name for good. force:
 * whatever stood there is replaced, else it is Q_ECREATE. */
q_status q_rename_synced(const char *from, const char *to, int force, q_err *err);
q_status q_dir_sync(const char *path, q_err *err);   /* fsync of a directory */
q_status q_dir_remove(const char *path, q_err *err); /* with contents; absent is fine */
q_status q_disk_free(const char *path, uint64_t *bytes, q_err *err); /* nearest existing parent */
int q_path_exists(const char *path);
int q_path_is_dir(const char *path);
int q_path_same(const char *a, const char *b); /* same device and inode, not the same string */
/* The directory part of path, "." when there is none; owned by the caller; NULL when no memory. */
char *q_path_dir(const char *path);
char *q_path_join(const char *dir, const char *name); /* owned by the caller; NULL when no memory */
int q_name_is_plain(const char *name); /* 1: one path component, not "", "." or ".." */

#endif
