/* A sentencepiece model behind C: the only door to libsentencepiece.
 *
 *     txt_spm *s = NULL;
 *     Q_TRY(txt_spm_load(&s, bytes, n, "tokenizer.model", err));
 *     Q_TRY(txt_spm_encode(s, text, n_text, &ids, err));
 *     ... out: txt_spm_free(s);
 *
 * No exception of the library passes: it becomes a status.  Optional: a build without the library
 * has none of these functions (see tok_spm.c).  Threads: immutable, may be shared. */
#ifndef TXT_SPM_H
#define TXT_SPM_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/base/q_mem.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct txt_spm txt_spm;

typedef enum txt_spm_kind {
    TXT_SPM_TEXT,    /* a piece of text, blanks written as U+2581 */
    TXT_SPM_BYTE,    /* <0xNN> */
    TXT_SPM_CONTROL, /* no text */
    TXT_SPM_UNKNOWN
} txt_spm_kind;

/* Errors: Q_EFORMAT (the library's reason), Q_ENOMEM. */
q_status txt_spm_load(txt_spm **out, const char *bytes, size_t n, const char *name, q_err *err);
void txt_spm_free(txt_spm *s); /* NULL is fine */

int32_t txt_spm_size(const txt_spm *s);
/* The piece of an id inside 0..size-1 with a NUL behind it, borrowed until free. */
const char *txt_spm_piece(const txt_spm *s, int32_t id, size_t *n, txt_spm_kind *kind);
/* Appends the ids of valid UTF-8.  Errors: Q_EFORMAT (the library's reason), Q_ENOMEM. */
q_status txt_spm_encode(const txt_spm *s, const char *p, size_t n, q_ids *ids, q_err *err);

#ifdef __cplusplus
}
#endif

#endif
