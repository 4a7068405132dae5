/* Which chat format belongs to a checkpoint, by what its own files say.
 *
 *     txt_chat_files files = { .files = fmt_src_files(src), .config = fmt_src_config(src) };
 *     Q_TRY(txt_chat_detect(&format, &files, err));
 *
 * Asked in turn: `chat_format` of generation_config.json (Qwen-1); chat_template.jinja; the
 * `chat_template` of tokenizer_config.json, a text or a list with one named "default"; for ChatGLM
 * without a template the name that config.json or tokenizer_config.json gives.  A template is code
 * in another language: it is recognised by the SHA-256 of its text, and one that is not known is
 * refused rather than guessed.  Threads: pure. */
#ifndef TXT_CHAT_DETECT_H
#define TXT_CHAT_DETECT_H

#include "formats/files.h"
#include "formats/json.h"
#include "formats/text/chat.h"

typedef struct txt_chat_files {
    fmt_files files;         /* those of the tokenizer */
    const char *chat_format; /* of generation_config.json, "" or NULL: not given */
    const fmt_json *config;  /* the keys of config.json, or NULL */
} txt_chat_files;

/* Errors: Q_EUNSUPPORTED (nothing known was found: the message says what, and which names
 * --chat-format takes), Q_EFORMAT or Q_ECONFIG (a file that cannot be read), Q_ENOMEM. */
q_status txt_chat_detect(txt_chat_format *out, const txt_chat_files *files, q_err *err);
/* The format of a template text; 0: not known.  hex: its SHA-256, 65 bytes. */
int txt_chat_of_template(txt_chat_format *out, const char *text, size_t n, char *hex);

#endif
