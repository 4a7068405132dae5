/* Packed pieces of arrays, byte for byte what the filters of HDF5 make of a chunk: shuffle,
 * deflate, fletcher32.
 *
 *     const fmt_chunk_form f = { .bytes = 1 << 20, .element = 4, .shuffle = 1, .deflate = 1,
 *                                .sum = 1 };
 *     void *p = q_malloc(fmt_chunk_bound(&f));
 *     Q_TRY(fmt_chunk_pack(p, &n, &f, data, err));
 *     Q_TRY(fmt_chunk_unpack(data, &f, p, n, err));
 *
 * Done here and not by the library, because its filters run one after another under one lock, and
 * because it was not written for damaged files: zlib was, and the rest is arithmetic.  h5dump and
 * every other reader of HDF5 read what is packed here.  Threads: pure.
 * Source: HDF5 File Format Specification 3.0, IV.A.2.l; zlib. */
#ifndef FMT_CHUNK_H
#define FMT_CHUNK_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"

#define FMT_CHUNK_MAX   ((uint64_t)16 << 20) /* bytes of a chunk that is read */
#define FMT_CHUNK_LEVEL 1 /* of deflate: higher ones take 0.4 % more off int4 codes, and longer */

typedef struct fmt_chunk_form {
    uint64_t bytes;   /* of a chunk, unpacked: at most FMT_CHUNK_MAX */
    uint32_t element; /* bytes that shuffle takes apart */
    uint8_t shuffle, deflate, sum;
} fmt_chunk_form;

/* 1: numbers that pack and unpack take */
int fmt_chunk_form_ok(const fmt_chunk_form *f);
/* 1: a chunk of f can have been packed into n bytes */
int fmt_chunk_packed_ok(const fmt_chunk_form *f, uint64_t n);
size_t fmt_chunk_bound(const fmt_chunk_form *f); /* most bytes of a packed chunk */

/* src [bytes] into dst [bound], *n bytes of it.  Errors: Q_ENOMEM. */
q_status fmt_chunk_pack(void *dst, size_t *n, const fmt_chunk_form *f, const void *src, q_err *err);
/* The n bytes of src into dst [bytes].  Errors: Q_EFORMAT (what is damaged, without a name),
 * Q_ENOMEM; dst is undefined then. */
q_status fmt_chunk_unpack(void *dst, const fmt_chunk_form *f, const void *src, size_t n,
                          q_err *err);

#endif
