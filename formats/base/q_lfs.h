/* A git-lfs pointer in the place of a file: the commonest way to a checkpoint without its data.
 *
 *     Q_TRY(q_lfs_pointer(head, n, path, err));
 *
 * Threads: pure.  Source: git-lfs, docs/spec.md. */
#ifndef Q_LFS_H
#define Q_LFS_H

#include <stddef.h>

#include "formats/base/q_err.h"

#define Q_LFS_HEAD "version https://git-lfs" /* the spec lets the rest of the line vary */

/* Q_EFORMAT with what to do when a file begins as a pointer does, else Q_OK.
 *
 *   head   [n] first bytes of the file; sizeof Q_LFS_HEAD - 1 of them decide, fewer are no
 * pointer path   for the message */
q_status q_lfs_pointer(const void *head, size_t n, const char *path, q_err *err);

#endif
