/* The pre-tokenizer of Qwen: cuts text into the pieces that are merged on their own.
 *
 *     for (; n > 0; p += len, n -= len) {
 *         len = txt_split_next(p, n);
 *         Q_TRY(txt_bpe_encode(bpe, p, len, ids, err));
 *     }
 *
 * Pieces are cut by what follows them, never by what stands before, so that cutting piece after
 * piece is the same as matching the pattern over the whole text.  Threads: pure. */
#ifndef TXT_SPLIT_H
#define TXT_SPLIT_H

#include <stddef.h>

/* Length of the first piece of p[0..n), n > 0.  The end of p is the end of the text for the rule
 * that looks ahead.  Invalid UTF-8 counts as U+FFFD.  Allocates nothing; calls until the text is
 * used up take linear time together. */
size_t txt_split_next(const char *p, size_t n);

#endif
