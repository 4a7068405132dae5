/* The tensors that the pickle of a PyTorch checkpoint describes, without running it.
 *
 *     fmt_pickled *t = NULL;
 *     size_t n;
 *     Q_TRY(fmt_unpickle(&t, &n, text, bytes, path, err));
 *     ... out: q_free(t);
 *
 * A pickle is a program.  This reader knows the opcodes that build plain values (None, bool, int,
 * float, str, tuple, list, dict) and six kinds of names: torch._utils._rebuild_tensor_v2 and
 * _rebuild_parameter, the storage classes of torch, collections.OrderedDict.  Any other opcode or
 * name is refused by its name, and nothing is ever imported or called.
 *
 * Wanted is a dictionary (or OrderedDict) from names to tensors, or a single tensor, which gets the
 * empty name.  Plain values beside the tensors and the `_metadata` that state_dict() leaves on its
 * OrderedDict are ignored; a tensor below such a value is refused, so that none is lost.
 *
 * Limits: 64 MiB of pickle, 4 Mi objects, 100 open marks, 100 levels of nesting, 16 Mi values when
 * shared ones are written out (a cheap test against pickles that unfold without end).  Time and
 * memory are linear in the size of the pickle, but for one sort of the names; no function recurses.
 * Protocols 2 to 5.
 * Source: Python, Lib/pickletools.py; PyTorch, torch/_utils.py and torch/serialization.py.
 * Threads: pure. */
#ifndef FMT_PICKLE_H
#define FMT_PICKLE_H

#include "formats/safetensors.h"

#define FMT_PICKLE_MAX ((size_t)64 << 20) /* bytes */

typedef struct fmt_pickled {
    const char *name; /* UTF-8, at most FMT_ST_MAX_NAME bytes */
    const char *key;  /* of its storage: digits, at most 20 */
    fmt_dtype dtype;
    int ndim;
    int64_t shape[FMT_MAX_DIMS]; /* each >= 0 */
    uint64_t bytes;              /* shape x dtype */
    uint64_t from;               /* bytes of the storage in front of the tensor */
    uint64_t storage_bytes;      /* from + bytes <= storage_bytes */
} fmt_pickled;

/* Tensors in the order of the pickle, owned by the caller (NULL when there are none).  Names are
 * unique.  Each tensor lies inside its storage and is contiguous, rows first: other strides are
 * refused with its name.
 *
 *   text   [bytes] changed: names are terminated in place and borrowed by *t
 *   path   for messages
 *
 * Errors: Q_EFORMAT with path, opcode and byte, or tensor; Q_ENOMEM. */
q_status fmt_unpickle(fmt_pickled **t, size_t *n, char *text, size_t bytes, const char *path,
                      q_err *err);

#endif
