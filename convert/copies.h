/* Small files of a model that go along byte for byte: tokenizer, generation settings, code,
 * licence.
 *
 *     cvt_copy *v = NULL;
 *     size_t n = 0;
 *     Q_TRY(cvt_copies_list(&v, &n, src, err));
 *     Q_TRY(cvt_copy_read(&bytes, src, &v[i], err));
 *     ... out: cvt_copies_free(v, n);
 *
 * All files beside the tensors, or inside an archive, but for tensor data, hidden files and what a
 * writer makes itself (config.ini, manifest.json).  Threads: pure. */
#ifndef CVT_COPIES_H
#define CVT_COPIES_H

#include "formats/source.h"

typedef struct cvt_copy {
    char *name; /* plain */
    uint64_t bytes;
} cvt_copy;

/* In byte order of the names.  Errors: Q_EFORMAT (a name that is not printable ASCII), Q_EIO,
 * Q_ENOMEM. */
q_status cvt_copies_list(cvt_copy **out, size_t *n, const fmt_src *src, q_err *err);
void cvt_copies_free(cvt_copy *v, size_t n);
/* *out is replaced.  Errors: Q_EIO (something writes the file), Q_EFORMAT (above 1 GiB). */
q_status cvt_copy_read(q_buf *out, const fmt_src *src, const cvt_copy *c, q_err *err);
/* 1: says how the tensors of the source are quantized, so that another container has its own */
int cvt_copy_is_config(const char *name);

#endif
