/* The Unicode that a tokenizer needs: decoding, character classes, NFC.
 *
 *     for (size_t i = 0; i < n; i += txt_utf8_next(&cp, p + i, n - i))
 *         letters += txt_class_of(cp) == TXT_LETTER;
 *
 *     if (!txt_nfc_sure(p, n))
 *         Q_TRY(txt_nfc(&buf, p, n, err));      buf: valid UTF-8 in NFC
 *
 * Invalid UTF-8 is read as one U+FFFD per maximal subpart (Unicode 15.0, section 3.9, table 3-8),
 * which is what Python's errors="replace" gives.  Text is bytes with a length: NUL is a character
 * like any other.  Time and memory are linear in the text, also for long runs of combining marks.
 * unicode.c is the only file that sees the Unicode library.  Threads: pure. */
#ifndef TXT_UNICODE_H
#define TXT_UNICODE_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/base/q_mem.h"

/* \p{L}, \p{N}, White_Space (\s of Unicode regular expressions), and all the rest */
typedef enum txt_class { TXT_OTHER, TXT_LETTER, TXT_NUMBER, TXT_SPACE } txt_class;

txt_class txt_class_of(uint32_t cp);

/* First code point of p[0..n), n > 0; the result is the number of its bytes, 1 to 4.  An invalid
 * subpart gives U+FFFD and its length. */
size_t txt_utf8_next(uint32_t *cp, const char *p, size_t n);
/* Appends p[0..n) with each invalid subpart replaced by U+FFFD.  Errors: Q_ENOMEM. */
q_status txt_utf8_repair(q_buf *out, const char *p, size_t n, q_err *err);

/* 1: p[0..n) is valid UTF-8 and surely in NFC, nothing is to be done.  0 says nothing. */
int txt_nfc_sure(const char *p, size_t n);
/* Appends the NFC of the repaired text.  Errors: Q_ENOMEM. */
q_status txt_nfc(q_buf *out, const char *p, size_t n, q_err *err);

#endif
