/* A vocabulary with its special tokens: opening, encoding, decoding.
 *
 *     text -> NFC -> cut out special tokens (only with TXT_SPECIALS)
 *                 -> every stretch between them: split into pieces -> merge each piece
 *
 * A stretch ends where a special token begins, also for the splitter's look-ahead.  Text that is
 * surely in NFC already is read in place.
 *
 * Special tokens have the ids after the last rank.  At every byte that begins one, the list sorted
 * by name is narrowed one character at a time, so that text full of half-written special tokens
 * costs no more than their length; the longest match wins.
 *
 * Adding a kind of vocabulary file: a loader that ends with txt_tok_make, and a row in kinds. */
#include "formats/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "formats/base/q_file.h"
#include "formats/text/split.h"
#include "formats/text/tokenizer_impl.h"
#include "formats/text/unicode.h"

#define FILE_MAX ((size_t)64 << 20) /* bytes of a vocabulary file; that of Qwen has 2.6 million */

static const struct {
    const char *file;
    q_status (*load)(txt_tok **out, const char *bytes, size_t n, const char *name, q_err *err);
} kinds[] = {
    { "qwen.tiktoken", txt_tok_tiktoken },
};

q_status txt_tok_open(txt_tok **out, const char *dir, q_err *err)
{
    q_status st = Q_OK;
    q_buf text = { 0 };
    char *path = NULL;
    size_t k = 0;

    if (!q_path_is_dir(dir))
        Q_FAIL(err, Q_ENOINPUT, "%s: not a directory: wanted one with a tokenizer", dir);
    for (; k < sizeof kinds / sizeof kinds[0]; k++) {
        q_free(path);
        if (!(path = q_path_join(dir, kinds[k].file)))
            Q_FAIL(err, Q_ENOMEM, "%s: no memory", dir);
        if (q_path_exists(path))
            break;
    }
    if (k == sizeof kinds / sizeof kinds[0])
        Q_FAIL(err, Q_ENOINPUT, "%s: no qwen.tiktoken: copy it from the original checkpoint", dir);
    Q_TRY(q_file_slurp(&text, path, FILE_MAX, err));
    Q_TRY(kinds[k].load(out, text.data, text.size, path, err));
out:
    q_buf_free(&text);
    q_free(path);
    return st;
}

/* names are NUL-terminated and distinct, so strcmp decides every pair */
static int by_name(const void *a, const void *b, void *special)
{
    const txt_special *s = special;

    return strcmp(s[*(const int32_t *)a].name, s[*(const int32_t *)b].name);
}

q_status txt_tok_make(txt_tok **out, txt_bpe **bpe, const char *const *names, int32_t n, q_err *err)
{
    q_status st = Q_OK;
    txt_tok *t = q_calloc(1, sizeof *t);
    size_t bytes = 1, at = 0;

    for (int32_t i = 0; i < n; i++)
        bytes += strlen(names[i]) + 1;
    if (!t || !(t->names = q_malloc(bytes)) ||
        !(t->special = q_calloc((size_t)n + 1, sizeof *t->special)) ||
        !(t->by_name = q_calloc((size_t)n + 1, sizeof *t->by_name)))
        Q_FAIL(err, Q_ENOMEM, "no memory for %d special tokens", n);
    t->n_special = n;
    for (int32_t i = 0; i < n; i++) {
        const size_t len = strlen(names[i]);

        memcpy(t->names + at, names[i], len + 1);
        t->special[i] = (txt_special){ t->names + at, len };
        t->by_name[i] = i;
        t->first[(uint8_t)names[i][0]] = 1;
        at += len + 1;
    }
    qsort_r(t->by_name, (size_t)n, sizeof *t->by_name, by_name, t->special);
    t->bpe = *bpe;
    *bpe = NULL;
    *out = t;
    t = NULL;
out:
    txt_tok_close(t);
    return st;
}

void txt_tok_close(txt_tok *t)
{
    if (!t)
        return;
    txt_bpe_free(t->bpe);
    q_free(t->names);
    q_free(t->special);
    q_free(t->by_name);
    q_free(t);
}

int32_t txt_vocab_size(const txt_tok *t)
{
    return txt_bpe_size(t->bpe) + t->n_special;
}

int txt_is_special(const txt_tok *t, int32_t id)
{
    return id >= txt_bpe_size(t->bpe) && id < txt_vocab_size(t);
}

/* First place in by_name[lo..hi) whose character at depth is at least c.  All names there agree
 * before depth; one that ends at depth has NUL there and stands first. */
static int32_t lower(const txt_tok *t, int32_t lo, int32_t hi, size_t depth, int c)
{
    while (lo < hi) {
        const int32_t mid = lo + (hi - lo) / 2;

        if ((uint8_t)t->special[t->by_name[mid]].name[depth] < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The longest special token that p[0..n) begins with, as an index; -1: none. */
static int32_t match_special(const txt_tok *t, const char *p, size_t n)
{
    int32_t lo = 0, hi = t->n_special, found = -1;

    for (size_t depth = 0; depth < n && p[depth] != '\0'; depth++) {
        const int c = (uint8_t)p[depth];

        lo = lower(t, lo, hi, depth, c);
        hi = lower(t, lo, hi, depth, c + 1);
        if (lo == hi)
            break;
        if (t->special[t->by_name[lo]].n == depth + 1)
            found = t->by_name[lo];
    }
    return found;
}

int32_t txt_special_id(const txt_tok *t, const char *name)
{
    const size_t n = strlen(name);
    const int32_t i = match_special(t, name, n);

    return i >= 0 && t->special[i].n == n ? txt_bpe_size(t->bpe) + i : -1;
}

static q_status encode_plain(const txt_tok *t, const char *p, size_t n, q_ids *ids, q_err *err)
{
    q_status st = Q_OK;

    while (n > 0) {
        const size_t len = txt_split_next(p, n);

        Q_TRY(txt_bpe_encode(t->bpe, p, len, ids, err));
        p += len;
        n -= len;
    }
out:
    return st;
}

static q_status encode_specials(const txt_tok *t, const char *p, size_t n, q_ids *ids, q_err *err)
{
    q_status st = Q_OK;
    size_t from = 0;

    for (size_t i = 0; i < n;) {
        const int32_t s = t->first[(uint8_t)p[i]] ? match_special(t, p + i, n - i) : -1;

        if (s < 0) {
            i++;
            continue;
        }
        Q_TRY(encode_plain(t, p + from, i - from, ids, err));
        Q_TRY(q_ids_push(ids, txt_bpe_size(t->bpe) + s, err));
        from = i += t->special[s].n;
    }
    Q_TRY(encode_plain(t, p + from, n - from, ids, err));
out:
    return st;
}

q_status txt_encode(const txt_tok *t, const char *text, size_t n, unsigned flags, q_ids *ids,
                    q_err *err)
{
    q_status st = Q_OK;
    const size_t start = ids->n;
    q_buf nfc = { 0 };

    if (n == 0) /* text may be NULL */
        return Q_OK;
    if (!txt_nfc_sure(text, n)) {
        Q_TRY(txt_nfc(&nfc, text, n, err));
        text = nfc.data;
        n = nfc.size;
    }
    if (flags & TXT_SPECIALS)
        Q_TRY(encode_specials(t, text, n, ids, err));
    else
        Q_TRY(encode_plain(t, text, n, ids, err));
out:
    if (st != Q_OK)
        ids->n = start;
    q_buf_free(&nfc);
    return st;
}

q_status txt_decode_bytes(const txt_tok *t, const int32_t *ids, size_t n, unsigned flags,
                          q_buf *out, q_err *err)
{
    q_status st = Q_OK;
    const int32_t ranks = txt_bpe_size(t->bpe), size = txt_vocab_size(t);

    for (size_t i = 0; i < n; i++) {
        const char *p;
        size_t len;

        if (ids[i] < 0 || ids[i] >= size)
            Q_FAIL(err, Q_EFORMAT, "token id %d at place %zu: the vocabulary has 0 to %d", ids[i],
                   i, size - 1);
        if (ids[i] < ranks) {
            p = txt_bpe_token(t->bpe, ids[i], &len);
        } else if (flags & TXT_SKIP_SPECIALS) {
            continue;
        } else {
            p = t->special[ids[i] - ranks].name;
            len = t->special[ids[i] - ranks].n;
        }
        Q_TRY(q_buf_put(out, p, len, err));
    }
out:
    return st;
}

q_status txt_decode(const txt_tok *t, const int32_t *ids, size_t n, unsigned flags, q_buf *out,
                    q_err *err)
{
    q_status st = Q_OK;
    q_buf raw = { 0 };

    Q_TRY(txt_decode_bytes(t, ids, n, flags, &raw, err));
    Q_TRY(txt_utf8_repair(out, raw.size ? raw.data : "", raw.size, err));
out:
    q_buf_free(&raw);
    return st;
}
