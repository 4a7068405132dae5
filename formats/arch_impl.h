/* Inside of fmt_arch: what arch_walk.c collects and arch.c keeps. */
#ifndef FMT_ARCH_IMPL_H
#define FMT_ARCH_IMPL_H

#include "formats/arch.h"
#include "formats/base/q_file.h"
#include "formats/h5file.h"

typedef struct fmt_arch_entry {
    char *name;
    fmt_tensor t;         /* name borrowed from it; of a file only offset and bytes */
    fmt_lost lost;        /* of a module, at its qweight */
    fmt_h5_chunks chunks; /* n 0: contiguous, at t.offset */
} fmt_arch_entry;

typedef struct fmt_arch_list {
    fmt_arch_entry *e;
    size_t n, cap;
} fmt_arch_list;

typedef struct fmt_arch_cache fmt_arch_cache;

struct fmt_arch {
    char *path;
    q_file *f;
    fmt_arch_cache *cache; /* of unpacked chunks */
    fmt_arch_list tensors, files;
    fmt_packing packing;
};

/* A new entry with a name of its own. */
q_status fmt_arch_add(fmt_arch_entry **out, fmt_arch_list *l, const char *name, q_err *err);
/* Collects everything with the HDF5 library, which may not survive a damaged file.  a->path and
 * a->f are set. */
q_status fmt_arch_walk(fmt_arch *a, q_err *err);

/* ---- tensors in chunks (arch_chunk.c) -------------------------------------------------------- */

q_status fmt_arch_cache_open(fmt_arch_cache **out, q_err *err);
void fmt_arch_cache_close(fmt_arch_cache *c);
/* Bytes from .. from + n - 1, which lie inside of it.  Threads: several at once. */
q_status fmt_arch_read_chunks(const fmt_arch *a, const fmt_arch_entry *e, uint64_t from, size_t n,
                              void *dst, q_err *err);

#endif
