/* Byte-pair merging by rank, over a vocabulary of byte strings.
 *
 *     Q_TRY(txt_bpe_create(&b, n_tokens, n_bytes, err));
 *     for (i = 0; i < n_tokens; i++)
 *         Q_TRY(txt_bpe_add(b, token[i], size[i], err));      id i; all 256 single bytes among them
 *     Q_TRY(txt_bpe_encode(b, piece, n, &ids, err));
 *
 * Two rules of merging, both from the lowest rank up and leftmost among equals:
 *   by bytes (tiktoken): any two neighbours whose bytes together are a token; its id is the rank.
 *     A piece that is a token becomes that token without merging.
 *   by pairs (Hugging Face), after txt_bpe_pairs: only the listed pairs of tokens; the place in the
 *     list is the rank.  A piece that is a token is merged like any other, unless whole is set.
 * Time is O(n log n) in the piece, memory linear.  Owns copies of all bytes.  Threads: immutable
 * after the last add or merge, then shared freely. */
#ifndef TXT_BPE_H
#define TXT_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/base/q_mem.h"

#define TXT_BPE_MAX_TOKENS ((size_t)1 << 20) /* known vocabularies end near 2^18 */
#define TXT_BPE_MAX_TOKEN  ((size_t)1024)    /* bytes of one token; the longest known has 128 */

typedef struct txt_bpe txt_bpe;

/* Room for n_tokens (1..TXT_BPE_MAX_TOKENS) of n_bytes together.  Errors: Q_ESHAPE, Q_ENOMEM. */
q_status txt_bpe_create(txt_bpe **out, size_t n_tokens, size_t n_bytes, q_err *err);
void txt_bpe_free(txt_bpe *b); /* NULL is fine */

/* The next id, 0 first; n is 1..TXT_BPE_MAX_TOKEN and the room must suffice.
 * Errors: Q_EFORMAT (the same bytes were added before; or, in made-up vocabularies only, too many
 * tokens share a place in the hash table). */
q_status txt_bpe_add(txt_bpe *b, const char *p, size_t n, q_err *err);

/* The next id stands for nothing: a gap in the vocabulary.  The room must suffice. */
void txt_bpe_skip(txt_bpe *b);

/* From here on merging is by pairs, at most n_merges of them (0..TXT_BPE_MAX_TOKENS).  whole: the
 * `ignore_merges` of tokenizer.json.  Errors: Q_ESHAPE, Q_ENOMEM. */
q_status txt_bpe_pairs(txt_bpe *b, size_t n_merges, int whole, q_err *err);
/* The pair of the next rank, 0 first: two ids of tokens.
 * Errors: Q_EFORMAT (listed before; together they are no token; too many pairs share a place). */
q_status txt_bpe_merge(txt_bpe *b, int32_t left, int32_t right, q_err *err);

int32_t txt_bpe_size(const txt_bpe *b);
int32_t txt_bpe_find(const txt_bpe *b, const char *p, size_t n); /* -1: no such token */
/* Bytes of an id inside 0..size-1, none for a gap; borrowed until free. */
const char *txt_bpe_token(const txt_bpe *b, int32_t id, size_t *n);

/* Appends the ids of one piece, n > 0.  Needs all 256 single bytes.  Errors: Q_ENOMEM. */
q_status txt_bpe_encode(const txt_bpe *b, const char *p, size_t n, q_ids *ids, q_err *err);

#endif
