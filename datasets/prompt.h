/* The summary prompt of the reference implementation, as text.
 *
 *     q_buf user = { 0 };
 *     Q_TRY(ds_prompt_summary(&user, sample->article, err));
 *     chat.system = ds_prompt_system;
 *     Q_TRY(txt_chat_build(&ids, tok, &chat, NULL, 0, user.data, err));
 *
 * Calibration and summarization must use the same bytes, so both take them from here.
 * Threads: pure. */
#ifndef DS_PROMPT_H
#define DS_PROMPT_H

#include "formats/base/q_err.h"
#include "formats/base/q_mem.h"

/* System prompt of the summary task. */
extern const char ds_prompt_system[];

/* Appends to *out the user text for one article: article + " TL;DR: ", white space stripped at both
 * ends (Python's str.strip: Unicode White_Space and U+001C to U+001F), then each " n't" made "n't".
 * The text therefore ends with " TL;DR:".  article: NUL-terminated, not NULL; bytes that are not
 * UTF-8 are kept.  Errors: Q_ENOMEM. */
q_status ds_prompt_summary(q_buf *out, const char *article, q_err *err);

#endif
