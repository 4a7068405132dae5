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

/* A byte of the byte-level spelling of Hugging Face, as JSON text */
static inline q_status tiny_spell(q_buf *out, uint8_t c, q_err *err)
{
    const int printable = (c > 32 && c < 127) || (c > 160 && c != 173);
    const unsigned cp = printable ? c : c <= 32 ? 256u + c : c == 173 ? 323u : 256u + c - 94u;

    return q_buf_printf(out, err, "\\u%04x", cp);
}

/* The bytes of a tokenizer.json: ids 0..255 are the single bytes, more[i] is merge i and id 256 + i
 * ("h e": its parts with a blank between), added tokens follow; the first n_special are special. */
static inline q_status tiny_hfjson(q_buf *out, const char *const *more, const char *const *added,
                                   int n_special, q_err *err)
{
    q_status st = Q_OK;
    int n = 0;

    Q_TRY(q_buf_puts(out,
                     "{\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\","
                     "\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"
                     "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|"
                     "\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|"
                     "\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\",\"invert\":false},"
                     "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},"
                     "\"model\":{\"type\":\"BPE\",\"vocab\":{",
                     err));
    for (int c = 0; c < 256; c++) {
        Q_TRY(q_buf_puts(out, c ? ",\"" : "\"", err));
        Q_TRY(tiny_spell(out, (uint8_t)c, err));
        Q_TRY(q_buf_printf(out, err, "\":%d", c));
    }
    for (; more[n]; n++) {
        Q_TRY(q_buf_puts(out, ",\"", err));
        for (const char *p = more[n]; *p; p++)
            if (*p != ' ')
                Q_TRY(tiny_spell(out, (uint8_t)*p, err));
        Q_TRY(q_buf_printf(out, err, "\":%d", 256 + n));
    }
    Q_TRY(q_buf_puts(out, "},\"merges\":[", err));
    for (int i = 0; more[i]; i++) {
        Q_TRY(q_buf_puts(out, i ? ",\"" : "\"", err));
        for (const char *p = more[i]; *p; p++)
            Q_TRY(*p == ' ' ? q_buf_puts(out, " ", err) : tiny_spell(out, (uint8_t)*p, err));
        Q_TRY(q_buf_puts(out, "\"", err));
    }
    Q_TRY(q_buf_puts(out, "]},\"added_tokens\":[", err));
    for (int i = 0; added[i]; i++)
        Q_TRY(q_buf_printf(out, err,
                           "%s{\"id\":%d,\"content\":\"%s\",\"normalized\":false,\"special\":%s}",
                           i ? "," : "", 256 + n + i, added[i], i < n_special ? "true" : "false"));
    Q_TRY(q_buf_puts(out, "]}", err));
out:
    return st;
}

#endif
