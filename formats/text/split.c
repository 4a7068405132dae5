/* Qwen's pattern, coded by hand.  The seven alternatives are tried in order and the first that
 * matches wins (backtracking semantics, greedy repeats):
 *
 *     1  (?i:'s|'t|'re|'ve|'m|'ll|'d)       the only non-ASCII fold among these is U+017F for s
 *     2  [^\r\n\p{L}\p{N}]?\p{L}+           a word with the blank or sign before it
 *     3  \p{N}                              one digit
 *     4   ?[^\s\p{L}\p{N}]+[\r\n]*          punctuation with the line ends behind it
 *     5  \s*[\r\n]+                         blanks up to the last line end of a run
 *     6  \s+(?!\S)                          a run but for its last blank, or up to the end
 *     7  \s+                                that last blank
 *
 * Only 5 and 6 backtrack, both inside one run of white space, so a scan of the run that remembers
 * its last line end and its last character decides them.  Such a run is scanned at most three
 * times (cut after the line end, cut before the last blank, the last blank), hence linear time.
 * Source: the tokenizer definition of the Qwen-1 release; the oracle is a regular expression
 * library in test_split.c. */
#include "formats/text/split.h"

#include "formats/text/unicode.h"

static inline txt_class class_at(const char *p, size_t n, size_t *len)
{
    /* o: other, s: space, d: digit, a: letter */
    enum { o = TXT_OTHER, s = TXT_SPACE, d = TXT_NUMBER, a = TXT_LETTER };
    static const uint8_t ascii[128] = {
        o, o, o, o, o, o, o, o, o, s, s, s, s, s, o, o, /* 00 */
        o, o, o, o, o, o, o, o, o, o, o, o, o, o, o, o, /* 10 */
        s, o, o, o, o, o, o, o, o, o, o, o, o, o, o, o, /* 20 */
        d, d, d, d, d, d, d, d, d, d, o, o, o, o, o, o, /* 30 */
        o, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, /* 40 */
        a, a, a, a, a, a, a, a, a, a, a, o, o, o, o, o, /* 50 */
        o, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, /* 60 */
        a, a, a, a, a, a, a, a, a, a, a, o, o, o, o, o, /* 70 */
    };
    uint32_t cp;

    if ((uint8_t)*p < 128) {
        *len = 1;
        return (txt_class)ascii[(uint8_t)*p];
    }
    *len = txt_utf8_next(&cp, p, n);
    return txt_class_of(cp);
}

static int is_line_end(char c)
{
    return c == '\r' || c == '\n';
}

/* End of the run of class c that begins at or after i. */
static size_t run_end(const char *p, size_t n, size_t i, txt_class c)
{
    size_t len;

    while (i < n && class_at(p + i, n - i, &len) == c)
        i += len;
    return i;
}

/* Alternative 1 at an apostrophe: its length, or 0. */
static size_t contraction(const char *p, size_t n)
{
    const char a = n > 1 ? (char)(p[1] | 0x20) : 0, b = n > 2 ? (char)(p[2] | 0x20) : 0;

    switch (a) { /* | 0x20 maps only the two cases of a letter to a lower-case letter */
    case 's':
    case 't':
    case 'm':
    case 'd':
        return 2;
    case 'r':
    case 'v':
        return b == 'e' ? 3 : 0;
    case 'l':
        return b == 'l' ? 3 : 0;
    default:
        return n > 2 && p[1] == '\xC5' && p[2] == '\xBF' ? 3 : 0; /* U+017F, the long s */
    }
}

/* Alternatives 5 to 7; p[0] begins a run of white space. */
static size_t white_space(const char *p, size_t n)
{
    size_t i = 0, len, last = 0, line_end = 0;

    while (i < n && class_at(p + i, n - i, &len) == TXT_SPACE) {
        last = i;
        i += len;
        if (is_line_end(p[last]))
            line_end = i;
    }
    if (line_end > 0)
        return line_end;
    return i == n || last == 0 ? i : last;
}

size_t txt_split_next(const char *p, size_t n)
{
    size_t len, next, i;
    txt_class c;

    if (p[0] == '\'' && (len = contraction(p, n)) > 0)
        return len;
    c = class_at(p, n, &len);
    if (c == TXT_LETTER)
        return run_end(p, n, len, TXT_LETTER);
    if (c == TXT_NUMBER)
        return len;
    if (!is_line_end(p[0]) && len < n && class_at(p + len, n - len, &next) == TXT_LETTER)
        return run_end(p, n, len + next, TXT_LETTER);
    i = run_end(p, n, p[0] == ' ' ? 1 : 0, TXT_OTHER);
    if (i > (p[0] == ' ' ? 1u : 0u)) {
        while (i < n && is_line_end(p[i]))
            i++;
        return i;
    }
    return white_space(p, n);
}
