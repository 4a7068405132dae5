/* Byte-pair merging by rank, over a vocabulary of byte strings.
 *
 *     Q_TRY(txt_bpe_create(&b, n_tokens, n_bytes, err));
 *     for (i = 0; i < n_tokens; i++)
 *         Q_TRY(txt_bpe_add(b, token[i], size[i], err));     rank i; all 256 single bytes among
 * them Q_TRY(txt_bpe_encode(b, piece, n, &ids, err));
 *
 * Rank and id are the same number.  A piece that is a token becomes that token; otherwise the
 * adjacent pair whose bytes together are the token of lowest rank (leftmost among equals) is
 * joined, until no pair is a token.  Time is O(n log n) in the piece, memory linear. Owns copies of
 * all bytes.  Threads: immutable after the last add, then shared freely. */
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

/* The next rank, 0 first; n is 1..TXT_BPE_MAX_TOKEN and the room must suffice.
 * Errors: Q_EFORMAT (the same bytes were added before; or, in made-up vocabularies only, too many
 * tokens share a place in the hash table). */
q_status txt_bpe_add(txt_bpe *b, const char *p, size_t n, q_err *err);

int32_t txt_bpe_size(const txt_bpe *b);
int32_t txt_bpe_find(const txt_bpe *b, const char *p, size_t n); /* -1: no such token */
/* Bytes of a rank inside 0..size-1, borrowed until free. */
const char *txt_bpe_token(const txt_bpe *b, int32_t rank, size_t *n);

/* Appends the ids of one piece, n > 0.  Needs all 256 single bytes.  Errors: Q_ENOMEM. */
q_status txt_bpe_encode(const txt_bpe *b, const char *p, size_t n, q_ids *ids, q_err *err);

#endif
