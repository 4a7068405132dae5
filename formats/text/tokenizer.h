/* Text to token ids and back, for every vocabulary the toolkit knows.
 *
 *     txt_tok *tok = NULL;
 *     Q_TRY(txt_tok_open(&tok, dir, err));
 *     Q_TRY(txt_encode(tok, text, n, TXT_SPECIALS, &ids, err));
 *     Q_TRY(txt_decode(tok, ids.v, ids.n, TXT_SKIP_SPECIALS, &buf, err));
 *
 * The kind of tokenizer is found from the files of the directory: qwen.tiktoken (Qwen-1),
 * tokenizer.json, vocab.json with merges.txt (Qwen1.5 to Qwen3), tokenizer.model (ChatGLM).
 *
 * Tokens that were added to the vocabulary are of two sorts.  Special ones steer the model
 * (<|im_start|>): without TXT_SPECIALS their surface forms are plain text, which is how the
 * contents of a chat are encoded, so that a user cannot inject a role; TXT_SKIP_SPECIALS leaves
 * them out of decoded text.  The others (<think>, <tool_call>) are part of the text, as with
 * Hugging Face: they are recognised in every text and always decoded.
 *
 * Text of the Qwen kinds is normalised to NFC.  Invalid UTF-8 is encoded as U+FFFD per maximal
 * subpart, as Python's errors="replace" does.  Memory and time are linear in the text.
 * Threads: a txt_tok is immutable and may be shared. */
#ifndef TXT_TOKENIZER_H
#define TXT_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/base/q_mem.h"
#include "formats/files.h"

typedef struct txt_tok txt_tok;

#define TXT_SPECIALS      1u /* encode: recognise special tokens in the text */
#define TXT_SKIP_SPECIALS 2u /* decode: leave them out */
#define TXT_PROMPT                                                                                 \
    4u /* encode: begin with the ids that belong in front of every input                           \
        * (ChatGLM: [gMASK] sop; the others have none) */
#define TXT_CONTINUES                                                                              \
    8u /* decode: text came before; keep the blank of the first word, which                        \
        * sentencepiece puts in front of every text and takes away again */

/* Errors: Q_ENOINPUT (no tokenizer there), Q_EFORMAT (file, place), Q_EUNSUPPORTED (a kind of
 * tokenizer that is not known, named), Q_ENOMEM. */
q_status txt_tok_open(txt_tok **out, const char *dir, q_err *err);
/* The same for the files of a model, wherever they lie. */
q_status txt_tok_open_files(txt_tok **out, const fmt_files *files, q_err *err);
/* A Qwen-1 vocabulary from the bytes of a .tiktoken file; name is used in messages.  The special
 * tokens follow the ranks: <|endoftext|>, <|im_start|>, <|im_end|>, <|extra_0|> .. <|extra_204|>.
 */
q_status txt_tok_tiktoken(txt_tok **out, const char *bytes, size_t n, const char *name, q_err *err);
/* The same for the bytes of a tokenizer.json. */
q_status txt_tok_hfjson(txt_tok **out, const char *bytes, size_t n, const char *name, q_err *err);
void txt_tok_close(txt_tok *t);

/* Appends to *ids.  Errors: Q_ENOMEM; with a sentencepiece model also Q_EFORMAT. */
q_status txt_encode(const txt_tok *t, const char *text, size_t n, unsigned flags, q_ids *ids,
                    q_err *err);
/* Appends the bytes of the ids to *out as they are: a token may end inside a character.  Ids inside
 * the vocabulary that stand for nothing have no bytes.
 * Errors: Q_EFORMAT (id outside the vocabulary), Q_ENOMEM. */
q_status txt_decode_bytes(const txt_tok *t, const int32_t *ids, size_t n, unsigned flags,
                          q_buf *out, q_err *err);
/* The same with each invalid UTF-8 subpart replaced by U+FFFD: text that may be printed. */
q_status txt_decode(const txt_tok *t, const int32_t *ids, size_t n, unsigned flags, q_buf *out,
                    q_err *err);

int32_t txt_vocab_size(const txt_tok *t);                   /* the largest id + 1 */
int32_t txt_special_id(const txt_tok *t, const char *name); /* of an added token; -1: none such */
int txt_is_special(const txt_tok *t, int32_t id);           /* of the sort that steers */

/* Length of the longest prefix of p[0..n) that is complete UTF-8: what may be printed while more
 * bytes are still to come.  An invalid byte counts as complete. */
size_t txt_utf8_complete(const char *p, size_t n);

#endif
