/* The header of a safetensors file, for safetensors.c alone.
 *
 *     fmt_tensor *t = NULL;
 *     size_t n;
 *     Q_TRY(fmt_st_header(&t, &n, text, bytes, path, err));
 *     ... out: q_free(t);
 *
 * Threads: pure. */
#ifndef FMT_ST_HEADER_H
#define FMT_ST_HEADER_H

#include "formats/safetensors.h"

/* Tensors in the order of the text, owned by the caller (NULL when there are none).  Each is right
 * by itself: known dtype, shape x dtype equal to its range; `offset` counts from the start of the
 * data.
 *
 *   text   [bytes] begins with '{'; changed: names are decoded in place and borrowed by *t
 *   path   for messages
 *
 * Errors: Q_EFORMAT, Q_ESHAPE, Q_ENOMEM. */
q_status fmt_st_header(fmt_tensor **t, size_t *n, char *text, size_t bytes, const char *path,
                       q_err *err);

#endif
