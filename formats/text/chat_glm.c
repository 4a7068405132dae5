/* Prompts of ChatGLM2 and ChatGLM3.  Both begin with [gMASK] sop.
 *
 * ChatGLM2 is one text with numbered rounds, encoded as a whole.  ChatGLM3 has a token for each
 * role; a line that names a tool (empty here) and the content follow, encoded apart, so each of
 * them begins with the blank that sentencepiece puts in front of a text. Source: reference code of
 * the ChatGLM releases. */
#include "formats/text/chat_impl.h"

#include <string.h>

/* One text: "[Round 1]\n\n\u95EE\uFF1Aquestion\n\n\u7B54\uFF1Aanswer\n\n[Round 2] ..." */
q_status txt_render_glm2(q_ids *ids, const txt_render_args *a, q_err *err)
{
    q_status st = Q_OK;
    q_buf text = { 0 };

    for (size_t i = 0; i <= a->n_turns; i++) {
        Q_TRY(q_buf_printf(&text, err, "[Round %zu]\n\n\u95EE\uFF1A", i + 1));
        Q_TRY(q_buf_puts(&text, i < a->n_turns ? a->turns[i].user : a->query, err));
        Q_TRY(q_buf_puts(&text, "\n\n\u7B54\uFF1A", err));
        if (i < a->n_turns) {
            Q_TRY(q_buf_puts(&text, a->turns[i].assistant, err));
            Q_TRY(q_buf_puts(&text, "\n\n", err));
        }
    }
    Q_TRY(txt_encode(a->tok, text.data, text.size, TXT_PROMPT, ids, err));
out:
    q_buf_free(&text);
    return st;
}

/* Role, "\n" (behind an empty tool name), content; nothing ends a message. */
static q_status put_glm3(q_ids *ids, const txt_tok *tok, const char *role, const char *content,
                         q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(txt_put_special(ids, tok, role, err));
    Q_TRY(txt_put_text(ids, tok, "\n", err));
    Q_TRY(txt_put_text(ids, tok, content, err));
out:
    return st;
}

q_status txt_render_glm3(q_ids *ids, const txt_render_args *a, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(txt_encode(a->tok, NULL, 0, TXT_PROMPT, ids, err));
    if (a->system)
        Q_TRY(put_glm3(ids, a->tok, "<|system|>", a->system, err));
    for (size_t i = 0; i < a->n_turns; i++) {
        Q_TRY(put_glm3(ids, a->tok, "<|user|>", a->turns[i].user, err));
        Q_TRY(put_glm3(ids, a->tok, "<|assistant|>", a->turns[i].assistant, err));
    }
    Q_TRY(put_glm3(ids, a->tok, "<|user|>", a->query, err));
    Q_TRY(txt_put_special(ids, a->tok, "<|assistant|>", err));
out:
    return st;
}
