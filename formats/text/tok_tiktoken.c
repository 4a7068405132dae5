/* The .tiktoken file of Qwen-1: one token per line,
 *
 *     base64(bytes) SPACE rank LF            CR LF is accepted: such copies are in circulation
 *
 * Strict, because a vocabulary that is off by one line gives a model that speaks nonsense: ranks
 * are 0, 1, 2 ... in order, base64 is padded and canonical, no token is empty or there twice, all
 * 256 single bytes are tokens (then every text can be encoded), and the last line has its line end.
 * Limits: TXT_BPE_MAX_TOKENS lines, TXT_BPE_MAX_TOKEN bytes per token.  Everything is bounded by
 * the size of the input before it is allocated.
 *
 * The special tokens are not in the file; those of the Qwen-1 release follow the last rank.
 * Messages give the line and never the text of it, which may be anything. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "formats/text/tokenizer_impl.h"

#define N_EXTRA   205 /* <|extra_0|> .. <|extra_204|> */
#define N_SPECIAL (3 + N_EXTRA)

static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decoded size of s[0..n), or -1 when it is not padded canonical base64; n / 4 * 3 fits in out. */
static ptrdiff_t base64_decode(char *out, const char *s, size_t n)
{
    const size_t pad = n < 4 || s[n - 1] != '=' ? 0 : s[n - 2] == '=' ? 2 : 1;
    ptrdiff_t m = 0;
    uint32_t w = 0;

    if (n % 4 != 0)
        return -1;
    for (size_t i = 0; i < n; i++) {
        const int v = i < n - pad ? base64_value(s[i]) : 0;

        if (v < 0)
            return -1;
        w = w << 6 | (uint32_t)v;
        if (i % 4 == 3) {
            out[m++] = (char)(w >> 16 & 0xFF);
            out[m++] = (char)(w >> 8 & 0xFF);
            out[m++] = (char)(w & 0xFF);
            w = 0;
        }
    }
    for (size_t i = 0; i < pad; i++) /* what the padding stands for must be zero bits */
        if (out[--m] != 0)
            return -1;
    return m;
}

/* Decimal without sign or leading zero; -1: not that, or above INT_MAX. */
static int64_t parse_rank(const char *s, size_t n)
{
    int64_t v = 0;

    if (n == 0 || n > 10 || (n > 1 && s[0] == '0'))
        return -1;
    for (size_t i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9')
            return -1;
        v = v * 10 + (s[i] - '0');
    }
    return v <= INT_MAX ? v : -1;
}

/* One line without its LF; the rank must be line - 1. */
static q_status read_line(txt_bpe *b, const char *s, size_t n, const char *name, size_t line,
                          q_err *err)
{
    q_status st = Q_OK;
    char token[TXT_BPE_MAX_TOKEN + 3];
    const char *blank = memchr(s, ' ', n);
    size_t n64;
    ptrdiff_t m;
    int64_t rank;
    q_err why = { 0 };

    if (n > 0 && s[n - 1] == '\r')
        n--;
    if (!blank)
        Q_FAIL(err, Q_EFORMAT, "%s: line %zu: no blank between token and rank", name, line);
    n64 = (size_t)(blank - s);
    if (n64 > (TXT_BPE_MAX_TOKEN + 2) / 3 * 4)
        Q_FAIL(err, Q_EFORMAT, "%s: line %zu: token of about %zu bytes, at most %zu are allowed",
               name, line, n64 / 4 * 3, TXT_BPE_MAX_TOKEN);
    m = base64_decode(token, s, n64);
    if (m < 0)
        Q_FAIL(err, Q_EFORMAT, "%s: line %zu: the token is not base64", name, line);
    if (m == 0 || (size_t)m > TXT_BPE_MAX_TOKEN)
        Q_FAIL(err, Q_EFORMAT, "%s: line %zu: token of %td bytes, wanted 1 to %zu", name, line, m,
               TXT_BPE_MAX_TOKEN);
    rank = parse_rank(blank + 1, n - n64 - 1);
    if (rank < 0)
        Q_FAIL(err, Q_EFORMAT, "%s: line %zu: the rank is not a number", name, line);
    if (rank != (int64_t)line - 1)
        Q_FAIL(err, Q_EFORMAT, "%s: line %zu: rank %lld, wanted %zu: lines are missing or sorted",
               name, line, (long long)rank, line - 1);
    if ((st = txt_bpe_add(b, token, (size_t)m, &why)) != Q_OK)
        Q_FAIL(err, st, "%s: line %zu: %s", name, line, why.msg);
out:
    return st;
}

static q_status read_lines(txt_bpe **out, const char *bytes, size_t n, const char *name, q_err *err)
{
    q_status st = Q_OK;
    txt_bpe *b = NULL;
    size_t lines = 0, line = 1;
    const char *end;

    for (size_t i = 0; i < n; i++)
        lines += bytes[i] == '\n';
    if (n == 0)
        Q_FAIL(err, Q_EFORMAT, "%s: empty: not a vocabulary", name);
    if (bytes[n - 1] != '\n')
        Q_FAIL(err, Q_EFORMAT, "%s: line %zu: no line end: the file is cut, fetch it again", name,
               lines + 1);
    if (lines > TXT_BPE_MAX_TOKENS)
        Q_FAIL(err, Q_EFORMAT, "%s: %zu lines, at most %zu tokens are allowed", name, lines,
               TXT_BPE_MAX_TOKENS);
    Q_TRY(txt_bpe_create(&b, lines, n, err)); /* base64 is longer than what it stands for */
    for (const char *p = bytes; p < bytes + n; p = end + 1, line++) {
        end = memchr(p, '\n', (size_t)(bytes + n - p));
        Q_TRY(read_line(b, p, (size_t)(end - p), name, line, err));
    }
    for (int c = 0; c < 256; c++) {
        const char byte = (char)c;

        if (txt_bpe_find(b, &byte, 1) < 0)
            Q_FAIL(err, Q_EFORMAT,
                   "%s: no token for the single byte 0x%02x in %zu lines: the file "
                   "is cut, fetch it again",
                   name, (unsigned)c, lines);
    }
    *out = b;
    b = NULL;
out:
    txt_bpe_free(b);
    return st;
}

q_status txt_tok_tiktoken(txt_tok **out, const char *bytes, size_t n, const char *name, q_err *err)
{
    q_status st = Q_OK;
    txt_added special[N_SPECIAL] = { { .text = "<|endoftext|>" },
                                     { .text = "<|im_start|>" },
                                     { .text = "<|im_end|>" } };
    char extra[N_EXTRA][24];
    txt_tok_parts parts = { .ops = &txt_bpe_ops, .nfc = 1, .added = special, .n_added = N_SPECIAL };

    Q_TRY(read_lines(&parts.bpe, bytes, n, name, err));
    for (int i = 0; i < N_EXTRA; i++) {
        snprintf(extra[i], sizeof extra[i], "<|extra_%d|>", i);
        special[3 + i].text = extra[i];
    }
    for (int i = 0; i < N_SPECIAL; i++) {
        special[i].id = txt_bpe_size(parts.bpe) + i;
        special[i].flags = TXT_ADDED_SPECIAL | TXT_ADDED_NORMALIZED;
    }
    Q_TRY(txt_tok_make(out, &parts, name, err));
out:
    txt_bpe_free(parts.bpe);
    return st;
}
