/* Inside of the chat renderers: chat.c, chat_qwen.c and chat_glm.c only.
 *
 *     q_status txt_render_qwen2(q_ids *ids, const txt_render_args *a, q_err *err);
 *
 * A renderer appends the whole prompt.  The special tokens of its row are in the vocabulary: that
 * was checked before.  Threads: pure. */
#ifndef TXT_CHAT_IMPL_H
#define TXT_CHAT_IMPL_H

#include "formats/text/chat.h"

/* The arguments of txt_chat_build, the default system prompt filled in. */
typedef struct txt_render_args {
    const txt_tok *tok;
    const txt_chat *chat;
    const char *system; /* NULL: none */
    const txt_turn *turns;
    size_t n_turns;
    const char *query;
} txt_render_args;

/* Text with special tokens taken as text; one special token by name. */
q_status txt_put_text(q_ids *ids, const txt_tok *tok, const char *text, q_err *err);
q_status txt_put_special(q_ids *ids, const txt_tok *tok, const char *name, q_err *err);

q_status txt_render_qwen2(q_ids *ids, const txt_render_args *a, q_err *err);
q_status txt_render_qwen3(q_ids *ids, const txt_render_args *a, q_err *err);
q_status txt_render_glm2(q_ids *ids, const txt_render_args *a, q_err *err);
q_status txt_render_glm3(q_ids *ids, const txt_render_args *a, q_err *err);

#endif
