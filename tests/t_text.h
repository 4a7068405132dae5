/* What the tests and fuzz targets of formats/text share: a vocabulary small enough to know by
 * heart, as the bytes of a .tiktoken file, and UTF-8.
 *
 *     q_buf file = { 0 };
 *     Q_TRY(tiny_vocab(&file, (const char *[]){ "he", "ll", "hell", NULL }, err));
 *
 * Ranks 0..255 are the single bytes in order; more[i] is rank 256 + i.  Functions in a header,
 * because a fuzz target is one file. */
#ifndef T_TEXT_H
#define T_TEXT_H

#include <string.h>

#include "formats/base/q_mem.h"

/* cp, not a surrogate, as 1 to 4 bytes at p; their number */
static inline size_t put_utf8(char *p, uint32_t cp)
{
    const size_t n = cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    static const uint8_t lead[] = { 0, 0, 0xC0, 0xE0, 0xF0 };

    for (size_t i = n - 1; i > 0; i--, cp >>= 6)
        p[i] = (char)(0x80 | (cp & 63));
    p[0] = (char)(lead[n] | cp);
    return n;
}

static inline q_status tiny_line(q_buf *out, const char *token, size_t n, int rank, q_err *err)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    q_status st = Q_OK;

    for (size_t i = 0; i < n; i += 3) {
        uint32_t w = 0;
        char four[4];

        for (size_t k = 0; k < 3; k++)
            w = w << 8 | (i + k < n ? (uint8_t)token[i + k] : 0);
        for (size_t k = 0; k < 4; k++)
            four[k] = i + k <= n ? digit[w >> (18 - 6 * k) & 63] : '=';
        Q_TRY(q_buf_put(out, four, 4, err));
    }
    Q_TRY(q_buf_printf(out, err, " %d\n", rank));
out:
    return st;
}

static inline q_status tiny_vocab(q_buf *out, const char *const *more, q_err *err)
{
    q_status st = Q_OK;

    for (int c = 0; c < 256; c++)
        Q_TRY(tiny_line(out, &(const char){ (char)c }, 1, c, err));
    for (int i = 0; more[i]; i++)
        Q_TRY(tiny_line(out, more[i], strlen(more[i]), 256 + i, err));
out:
    return st;
}

#endif
