/* Streaming text.  A token may end inside a character: its bytes wait for the next token. */
#include "formats/text/stream.h"

#include <string.h>

#include "formats/text/unicode.h"

/* The first n pending bytes, repaired, become the text of this call. */
static q_status give(txt_stream *s, size_t n, const char **text, size_t *n_text, q_err *err)
{
    q_status st = Q_OK;

    q_buf_clear(&s->text);
    if (n > 0) {
        Q_TRY(txt_utf8_repair(&s->text, s->pending.data, n, err));
        memmove(s->pending.data, s->pending.data + n, s->pending.size - n);
        s->pending.size -= n;
    }
    *text = s->text.data;
    *n_text = s->text.size;
out:
    return st;
}

q_status txt_stream_push(txt_stream *s, int32_t id, const char **text, size_t *n, q_err *err)
{
    const unsigned flags = TXT_SKIP_SPECIALS | (s->started ? TXT_CONTINUES : 0);
    q_status st = Q_OK;

    Q_TRY(txt_decode_bytes(s->tok, &id, 1, flags, &s->pending, err));
    s->started |= !txt_is_special(s->tok, id);
    Q_TRY(give(s, s->pending.size ? txt_utf8_complete(s->pending.data, s->pending.size) : 0, text,
               n, err));
out:
    return st;
}

q_status txt_stream_end(txt_stream *s, const char **text, size_t *n, q_err *err)
{
    return give(s, s->pending.size, text, n, err);
}

void txt_stream_free(txt_stream *s)
{
    q_buf_free(&s->pending);
    q_buf_free(&s->text);
}
