/* A byte-level BPE vocabulary in the making: what tokenizer.json and vocab.json have in common.
 *
 *     txt_hf hf = { .name = path };
 *     Q_TRY(txt_hf_add(&hf, "<|im_end|>", 151645, TXT_ADDED_SPECIAL, err));    added tokens first
 *     Q_TRY(txt_hf_vocab(&hf, vocab, err));                  object: byte-level spelling to id
 *     Q_TRY(txt_hf_merges(&hf, n, ignore_merges, err));
 *     for (i = 0; i < n; i++)
 *         Q_TRY(txt_hf_merge(&hf, i, left, n_left, right, n_right, err));
 *     Q_TRY(txt_hf_make(out, &hf, nfc, err));
 *     ... out: txt_hf_free(&hf);
 *
 * Byte-level spelling (GPT-2): the 188 printable bytes of Latin-1 stand for themselves, the other
 * 68 are written as U+0100 .. U+0143 in order.  Ids may have gaps; an id that is an added token as
 * well must have the same text there and is never made by merging.  All 256 bytes are tokens.
 * Threads: one. */
#ifndef TXT_HF_VOCAB_H
#define TXT_HF_VOCAB_H

#include "formats/json.h"
#include "formats/text/tokenizer_impl.h"

typedef struct txt_hf {
    const char *name; /* of the file, for messages; borrowed */
    txt_bpe *bpe;
    txt_added *added; /* [n_added], texts borrowed from the caller until make */
    size_t n_added, cap;
} txt_hf;

/* text: borrowed until make.  Errors: Q_EFORMAT (range of id), Q_ENOMEM. */
q_status txt_hf_add(txt_hf *hf, const char *text, int64_t id, unsigned flags, q_err *err);
/* One added token as an object with content, special, normalized, lstrip, rstrip, single_word.
 * Errors: those of txt_hf_add; Q_ECONFIG (kind of a member); Q_EUNSUPPORTED (lstrip, rstrip or
 * single_word is true). */
q_status txt_hf_add_object(txt_hf *hf, const fmt_json *token, int64_t id, q_err *err);
/* Errors: Q_EFORMAT (no object; id: kind, range, two tokens; spelling; a byte without token). */
q_status txt_hf_vocab(txt_hf *hf, const fmt_json *vocab, q_err *err);
q_status txt_hf_merges(txt_hf *hf, size_t n, int whole, q_err *err);
/* Merge i, from 0.  Errors: Q_EFORMAT (a part or the result is no token; listed before). */
q_status txt_hf_merge(txt_hf *hf, size_t i, const char *left, size_t n_left, const char *right,
                      size_t n_right, q_err *err);
/* Errors: those of txt_tok_make. */
q_status txt_hf_make(txt_tok **out, txt_hf *hf, int nfc, q_err *err);
void txt_hf_free(txt_hf *hf);

#endif
