/* A clone without git-lfs leaves small text files where the data should be:
 *
 *   version https://git-lfs.github.com/spec/v1
 *   oid sha256:<64 hex digits>
 *   size <bytes>
 *
 * Each reader of a large file asks here first, so that all of them say the same. */
#include "formats/base/q_lfs.h"

#include <string.h>

q_status q_lfs_pointer(const void *head, size_t n, const char *path, q_err *err)
{
    const size_t want = sizeof Q_LFS_HEAD - 1;

    if (n < want || memcmp(head, Q_LFS_HEAD, want) != 0)
        return Q_OK;
    return q_fail(err, Q_EFORMAT,
                  "%s: is a git-lfs pointer, not the data: run 'git lfs pull' in its directory, or "
                  "download the file itself",
                  path);
}
