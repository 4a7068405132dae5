/* Chats to token ids: one renderer per family of templates, chosen by name.
 *
 *     txt_chat chat = { .format = TXT_CHATML, .system = "You are a helpful assistant.",
 *                       .max_window = 6144, .max_input = 2048 };
 *     Q_TRY(txt_chat_build(&ids, tok, &chat, turns, n_turns, query, err));
 *
 *   raw        the text alone, special tokens recognised; no system prompt, no history
 *   chatml     Qwen-1 (make_context of the original code).  History is scanned from the newest turn
 *              to the oldest; a turn is kept while system + kept turns + this turn stay below
 *              max_window tokens, and the first that does not fit stops the scan; the query does
 *              not count
 *   qwen1.5, qwen2, qwen2.5   the templates of these releases; they differ in the default system
 *              prompt
 *   qwen3      the same layout without a default system prompt; what earlier answers hold before
 *              </think> is left out, and thinking can be turned off
 *   chatglm2   numbered rounds of one text; no system prompt
 *   chatglm3   role tokens; no default system prompt
 *
 * Contents are encoded with special tokens taken as text, except in raw.  In all formats the
 * finished list is cut to its LAST max_input ids.  Which format belongs to a checkpoint:
 * chat_detect.h.  Threads: pure. */
#ifndef TXT_CHAT_H
#define TXT_CHAT_H

#include "formats/text/tokenizer.h"

typedef enum txt_chat_format {
    TXT_CHAT_RAW,
    TXT_CHATML,
    TXT_CHAT_QWEN15,
    TXT_CHAT_QWEN2,
    TXT_CHAT_QWEN25,
    TXT_CHAT_QWEN3,
    TXT_CHAT_GLM2,
    TXT_CHAT_GLM3,
    TXT_CHAT_FORMATS
} txt_chat_format;

/* for messages and help */
#define TXT_CHAT_NAMES "raw, chatml, qwen1.5, qwen2, qwen2.5, qwen3, chatglm2 or chatglm3"

typedef enum txt_thinking { TXT_THINKING_DEFAULT, TXT_THINKING_ON, TXT_THINKING_OFF } txt_thinking;

typedef struct txt_chat {
    txt_chat_format format;
    txt_thinking thinking; /* qwen3: off opens the answer with an empty thought */
    const char *system;    /* NULL: the default of the format */
    int64_t max_window;    /* chatml: tokens of history and system, 0: 6144 */
    int64_t max_input;     /* tokens of the result, 0: no cut */
} txt_chat;

typedef struct txt_turn {
    const char *user, *assistant;
} txt_turn;

const char *txt_chat_format_name(txt_chat_format f);                   /* "raw", "chatml" */
int txt_chat_format_from_name(const char *name, txt_chat_format *out); /* 0: unknown */
int txt_chat_has_system(txt_chat_format f); /* 0: a system prompt is left out */

/* Appends to *ids.  Errors: Q_EUNSUPPORTED (the vocabulary lacks the special tokens of the format;
 * thinking is turned on or off in a format without it), Q_ENOMEM. */
q_status txt_chat_build(q_ids *ids, const txt_tok *tok, const txt_chat *chat, const txt_turn *turns,
                        size_t n_turns, const char *query, q_err *err);
/* Ids that end a reply in this format (chatml: im_end, im_start; raw: the end-of-text tokens that
 * the vocabulary has).  Appends to *ids.  Errors: those of txt_chat_build. */
q_status txt_chat_stop_ids(q_ids *ids, const txt_tok *tok, txt_chat_format f, q_err *err);

#endif
