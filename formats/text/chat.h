/* Chats to token ids: one renderer per known template, chosen by name.
 *
 *     txt_chat chat = { .format = TXT_CHATML, .system = "You are a helpful assistant.",
 *                       .max_window = 6144, .max_input = 2048 };
 *     Q_TRY(txt_chat_build(&ids, tok, &chat, turns, n_turns, query, err));
 *
 * ChatML of Qwen-1 (make_context of the original code): roles and contents are encoded with special
 * tokens taken as text.  History is scanned from the newest turn to the oldest; a turn is kept while
 * system + kept turns + this turn stay below max_window tokens, and the first that does not fit
 * stops the scan; the query does not count.  The finished list is cut to its LAST max_input ids.
 * The raw format is the text alone with special tokens recognised, with the same cut; it takes no
 * system prompt and no history.  Threads: pure. */
#ifndef TXT_CHAT_H
#define TXT_CHAT_H

#include "formats/text/tokenizer.h"

typedef enum txt_chat_format { TXT_CHAT_RAW, TXT_CHATML, TXT_CHAT_FORMATS } txt_chat_format;

typedef struct txt_chat {
    txt_chat_format format;
    const char *system;      /* NULL: the default of the format */
    int64_t max_window;      /* tokens of history and system, 0: 6144 */
    int64_t max_input;       /* tokens of the result, 0: no cut */
} txt_chat;

typedef struct txt_turn {
    const char *user, *assistant;
} txt_turn;

const char *txt_chat_format_name(txt_chat_format f);                    /* "raw", "chatml" */
int txt_chat_format_from_name(const char *name, txt_chat_format *out);  /* 0: unknown */

/* Appends to *ids.  Errors: Q_EUNSUPPORTED (the vocabulary lacks the special tokens of the format),
 * Q_ENOMEM. */
q_status txt_chat_build(q_ids *ids, const txt_tok *tok, const txt_chat *chat, const txt_turn *turns,
                        size_t n_turns, const char *query, q_err *err);
/* Ids that end a reply in this format (chatml: im_end, im_start; raw: none besides endoftext).
 * Appends to *ids. */
q_status txt_chat_stop_ids(q_ids *ids, const txt_tok *tok, txt_chat_format f, q_err *err);

#endif
