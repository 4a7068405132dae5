/* Token ids to text that may be printed at once: only complete characters come out.
 *
 *     txt_stream s = { .tok = tok };
 *     Q_TRY(txt_stream_push(&s, id, &text, &n, err));      n bytes of text, may be 0
 *     Q_TRY(txt_stream_end(&s, &text, &n, err));           what is left, U+FFFD for a cut character
 *     ... out: txt_stream_free(&s);
 *
 * The pieces of one stream joined are txt_decode of all its ids.  Text is borrowed until the next
 * call.  Special tokens are left out.  Threads: one per stream. */
#ifndef TXT_STREAM_H
#define TXT_STREAM_H

#include "formats/text/tokenizer.h"

typedef struct txt_stream {
    const txt_tok *tok;  /* borrowed */
    q_buf pending, text; /* bytes not yet complete; what the last call gave */
    int started;         /* a token that is part of the text came */
} txt_stream;

q_status txt_stream_push(txt_stream *s, int32_t id, const char **text, size_t *n, q_err *err);
q_status txt_stream_end(txt_stream *s, const char **text, size_t *n, q_err *err);
void txt_stream_free(txt_stream *s);

#endif
