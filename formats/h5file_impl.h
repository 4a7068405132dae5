/* Inside of the HDF5 reader and writer: type table, error text, names.  The one include of the
 * library. */
#ifndef FMT_H5FILE_IMPL_H
#define FMT_H5FILE_IMPL_H

#include <hdf5.h>
#include <pthread.h>

#include "formats/base/q_hash.h"
#include "formats/h5file.h"

#define FMT_H5_HEX   65
#define FMT_H5_SEAL  "qwenkit sha256 " /* the last line of a file, before 64 digits and LF */
#define FMT_H5_SEALN (sizeof FMT_H5_SEAL - 1 + 64 + 1)

#define FMT_H5_DAMAGED "cannot be looked up, the file is damaged: fetch it again, or make it anew"

/* The hash of the closed file, made in a thread of its own while the file is looked at.  That forks
 * (apart.h), which the allocators of sanitizers do not survive while a thread allocates. */
typedef struct fmt_h5_seal {
    pthread_t id;
    int running;
    const char *path;
    char hex[FMT_H5_HEX];
    q_status st;
    q_err err;
} fmt_h5_seal;

struct fmt_h5w {
    char *path, *part;
    hid_t file, set_plist;
    int force, compress;
    int finished, committed;
    q_sha256 root; /* over the names and hashes of all datasets */
    size_t fresh;  /* bytes the disk was not yet told to take */
    fmt_h5_seal seal;
};

struct fmt_h5 {
    char *path;
    hid_t file;
    uint64_t bytes; /* of the file */
};

/* How a dataset is written: chunk_rows 0: as it is; else in chunks of so many rows. */
typedef struct fmt_h5_rows {
    int ndim;
    int64_t chunk_rows;
    size_t row_bytes; /* of chunks only */
    fmt_chunk_form form;
} fmt_h5_rows;

/* Decides, and completes the properties of a new dataset; Q_EIO: the library refuses them. */
q_status fmt_h5_chunk_plan(fmt_h5_rows *r, hid_t plist, int compress, hid_t type, hid_t space);
/* Rows r0 .. r0 + n - 1, where r0 begins a chunk, and the last one ends one or the dataset. */
q_status fmt_h5_put_chunks(const char *path, const char *name, hid_t set, const fmt_h5_rows *r,
                           int64_t r0, int64_t n, const void *v, q_err *err);

/* A dataset of this file: no link, no other file, not larger than the file says. */
q_status fmt_h5_open_set(hid_t *set, const fmt_h5 *h, const char *name, q_err *err);
/* The library prints its errors unless told not to. */
void fmt_h5_quiet(void);
/* q_fail with what the library has to say, in the place of `what`. */
q_status fmt_h5_fail(q_err *err, q_status st, const char *path, const char *name, const char *what);
hid_t fmt_h5_type(fmt_dtype t); /* of the file and of memory alike; -1: none.  Not to be closed. */
/* "/a/b": absolute, no empty part, no dots, printable ASCII */
q_status fmt_h5_check_name(const char *path, const char *name, q_err *err);
void fmt_h5_hash(char hex[FMT_H5_HEX], const void *v, size_t n);
/* One dataset more in the hash of all; hex of what was added so far (root is used up). */
void fmt_h5_root_add(q_sha256 *root, const char *hex, const char *name);
void fmt_h5_root_hex(char hex[FMT_H5_HEX], q_sha256 *root);

#endif
