/* Byte-level BPE vocabularies of Hugging Face tokenizers.
 *
 * The ids of a vocabulary come in the order of a JSON object, so spellings are first put in their
 * places, [id], and then added to the merger one after the other; an empty place becomes a gap.
 * The room asked for is bounded by the size of the JSON text: a place costs 8 bytes and the largest
 * id is below TXT_BPE_MAX_TOKENS.
 *
 * Source: the Hugging Face tokenizers file format; the byte alphabet is that of GPT-2. */
#include "formats/text/hf_vocab.h"

#include <string.h>

#include "formats/text/unicode.h"

/* The byte that a character of the byte-level spelling stands for; -1: none. */
static int byte_of(uint32_t cp)
{
    const uint32_t k = cp - 0x100; /* number of a byte that is not printable */

    if ((cp >= 0x21 && cp <= 0x7E) || (cp >= 0xA1 && cp <= 0xFF && cp != 0xAD))
        return (int)cp;
    if (cp < 0x100 || k > 67)
        return -1;
    return k < 0x21 ? (int)k : k < 67 ? (int)(k - 0x21 + 0x7F) : 0xAD;
}

/* Bytes of a spelling; -1: another character is in it, or there are more than TXT_BPE_MAX_TOKEN. */
static int spell_bytes(char bytes[TXT_BPE_MAX_TOKEN], const char *p, size_t n)
{
    int m = 0;
    uint32_t cp;

    for (size_t i = 0; i < n; m++) {
        int byte;

        i += txt_utf8_next(&cp, p + i, n - i);
        byte = byte_of(cp);
        if (byte < 0 || m == (int)TXT_BPE_MAX_TOKEN)
            return -1;
        bytes[m] = (char)byte;
    }
    return m;
}

q_status txt_hf_add(txt_hf *hf, const char *text, int64_t id, unsigned flags, q_err *err)
{
    if (id < 0 || (uint64_t)id >= TXT_BPE_MAX_TOKENS)
        return q_fail(err, Q_EFORMAT, "%s: added token '%.80s' has id %lld, wanted 0 to %zu",
                      hf->name, text, (long long)id, TXT_BPE_MAX_TOKENS - 1);
    if (hf->n_added == hf->cap) {
        const size_t cap = hf->cap ? 2 * hf->cap : 64;
        txt_added *v = q_calloc(cap, sizeof *v);

        if (!v)
            return q_fail(err, Q_ENOMEM, "%s: no memory for %zu added tokens", hf->name, cap);
        if (hf->n_added)
            memcpy(v, hf->added, hf->n_added * sizeof *v);
        q_free(hf->added);
        hf->added = v;
        hf->cap = cap;
    }
    hf->added[hf->n_added++] = (txt_added){ text, (int32_t)id, flags };
    return Q_OK;
}

q_status txt_hf_add_object(txt_hf *hf, const fmt_json *token, int64_t id, q_err *err)
{
    static const char *const sides[] = { "lstrip", "rstrip", "single_word" };
    const char *text = fmt_json_text(fmt_json_get(token, "content"));
    int special = 0, normalized = 1;
    q_status st = Q_OK;
    q_err why = { 0 };

    if (!text)
        Q_FAIL(err, Q_EFORMAT, "%s: the added token with id %lld has no text 'content'", hf->name,
               (long long)id);
    if ((st = fmt_json_bool_opt(token, "special", &special, &why)) != Q_OK)
        Q_FAIL(err, st, "%s: added token '%.80s': %s", hf->name, text, why.msg);
    normalized = !special; /* when nothing is said */
    if ((st = fmt_json_bool_opt(token, "normalized", &normalized, &why)) != Q_OK)
        Q_FAIL(err, st, "%s: added token '%.80s': %s", hf->name, text, why.msg);
    for (size_t i = 0; i < sizeof sides / sizeof sides[0]; i++) {
        int on = 0;

        if ((st = fmt_json_bool_opt(token, sides[i], &on, &why)) != Q_OK)
            Q_FAIL(err, st, "%s: added token '%.80s': %s", hf->name, text, why.msg);
        if (on)
            Q_FAIL(err, Q_EUNSUPPORTED,
                   "%s: added token '%.80s' has '%s': true, wanted false: Qwen checkpoints have no "
                   "such token",
                   hf->name, text, sides[i]);
    }
    if (normalized && !txt_nfc_sure(text, strlen(text)))
        Q_FAIL(err, Q_EUNSUPPORTED,
               "%s: added token '%.80s' has 'normalized': true, and its text is not in NFC",
               hf->name, text);
    Q_TRY(txt_hf_add(hf, text, id,
                     (special ? TXT_ADDED_SPECIAL : 0u) | (normalized ? TXT_ADDED_NORMALIZED : 0u),
                     err));
out:
    return st;
}

/* Spellings to their places: *out [*n], owned by the caller; bytes: upper bound of all together. */
static q_status place_all(const char ***out, size_t *n, size_t *bytes, const char *name,
                          const fmt_json *vocab, q_err *err)
{
    q_status st = Q_OK;
    const char **at = NULL;
    int64_t id, last = -1;

    if (fmt_json_kind(vocab) != FMT_JSON_OBJECT || fmt_json_size(vocab) == 0)
        Q_FAIL(err, Q_EFORMAT, "%s: the vocabulary is not an object with tokens", name);
    for (fmt_json_iter *it = fmt_json_first(vocab); it; it = fmt_json_next(vocab, it)) {
        if (!fmt_json_as_int(fmt_json_value(it), 0, (int64_t)TXT_BPE_MAX_TOKENS - 1, &id))
            Q_FAIL(err, Q_EFORMAT, "%s: token '%.80s': the id is not a number from 0 to %zu", name,
                   fmt_json_key(it), TXT_BPE_MAX_TOKENS - 1);
        last = id > last ? id : last;
        *bytes += strlen(fmt_json_key(it));
    }
    *n = (size_t)last + 1;
    if (!(at = q_calloc(*n, sizeof *at)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %zu tokens", name, *n);
    for (fmt_json_iter *it = fmt_json_first(vocab); it; it = fmt_json_next(vocab, it)) {
        fmt_json_as_int(fmt_json_value(it), 0, last, &id);
        if (at[id])
            Q_FAIL(err, Q_EFORMAT, "%s: tokens '%.80s' and '%.80s' have the same id %lld", name,
                   at[id], fmt_json_key(it), (long long)id);
        at[id] = fmt_json_key(it);
    }
    *out = at;
    at = NULL;
out:
    q_free(at);
    return st;
}

/* Added tokens leave their places in the vocabulary. */
static q_status clear_added(const txt_hf *hf, const char **at, size_t n, q_err *err)
{
    for (size_t i = 0; i < hf->n_added; i++) {
        const txt_added *a = &hf->added[i];

        if ((size_t)a->id >= n || !at[a->id])
            continue;
        if (strcmp(at[a->id], a->text) != 0)
            return q_fail(err, Q_EFORMAT,
                          "%s: id %d is '%.80s' in the vocabulary and '%.80s' among the added "
                          "tokens",
                          hf->name, a->id, at[a->id], a->text);
        at[a->id] = NULL;
    }
    return Q_OK;
}

q_status txt_hf_vocab(txt_hf *hf, const fmt_json *vocab, q_err *err)
{
    q_status st = Q_OK;
    const char **at = NULL;
    char bytes[TXT_BPE_MAX_TOKEN];
    size_t n = 0, total = 0;
    q_err why = { 0 };

    Q_TRY(place_all(&at, &n, &total, hf->name, vocab, err));
    Q_TRY(clear_added(hf, at, n, err));
    Q_TRY(txt_bpe_create(&hf->bpe, n, total, err));
    for (size_t i = 0; i < n; i++) {
        int m = 0;

        if (!at[i]) {
            txt_bpe_skip(hf->bpe);
            continue;
        }
        m = spell_bytes(bytes, at[i], strlen(at[i]));
        if (m <= 0)
            Q_FAIL(err, Q_EFORMAT,
                   "%s: token %zu '%.80s' is not 1 to %zu bytes in byte-level spelling: not a "
                   "vocabulary of this family",
                   hf->name, i, at[i], TXT_BPE_MAX_TOKEN);
        if ((st = txt_bpe_add(hf->bpe, bytes, (size_t)m, &why)) != Q_OK)
            Q_FAIL(err, st, "%s: token %zu: %s", hf->name, i, why.msg);
    }
    for (int c = 0; c < 256; c++)
        if (txt_bpe_find(hf->bpe, &(const char){ (char)c }, 1) < 0)
            Q_FAIL(err, Q_EFORMAT, "%s: no token for the single byte 0x%02x", hf->name,
                   (unsigned)c);
out:
    q_free(at);
    return st;
}

q_status txt_hf_merges(txt_hf *hf, size_t n, int whole, q_err *err)
{
    q_err why = { 0 };
    const q_status st = txt_bpe_pairs(hf->bpe, n, whole, &why);

    return st == Q_OK ? Q_OK : q_fail(err, st, "%s: %s", hf->name, why.msg);
}

/* The id of a part of a merge; -1: no token. */
static int32_t part_id(const txt_hf *hf, const char *p, size_t n)
{
    char bytes[TXT_BPE_MAX_TOKEN];
    const int m = spell_bytes(bytes, p, n);

    return m <= 0 ? -1 : txt_bpe_find(hf->bpe, bytes, (size_t)m);
}

q_status txt_hf_merge(txt_hf *hf, size_t i, const char *left, size_t n_left, const char *right,
                      size_t n_right, q_err *err)
{
    const int32_t l = part_id(hf, left, n_left), r = part_id(hf, right, n_right);
    q_status st = Q_OK;
    q_err why = { 0 };

    if (l < 0 || r < 0)
        return q_fail(err, Q_EFORMAT, "%s: merge %zu: '%.*s' is no token", hf->name, i,
                      (int)(l < 0 ? n_left : n_right), l < 0 ? left : right);
    if ((st = txt_bpe_merge(hf->bpe, l, r, &why)) != Q_OK)
        return q_fail(err, st, "%s: merge %zu '%.*s %.*s': %s", hf->name, i, (int)n_left, left,
                      (int)n_right, right, why.msg);
    return Q_OK;
}

q_status txt_hf_make(txt_tok **out, txt_hf *hf, int nfc, q_err *err)
{
    txt_tok_parts parts = {
        .ops = &txt_bpe_ops, .bpe = hf->bpe, .nfc = nfc, .added = hf->added, .n_added = hf->n_added
    };
    const q_status st = txt_tok_make(out, &parts, hf->name, err);

    hf->bpe = parts.bpe;
    return st;
}

void txt_hf_free(txt_hf *hf)
{
    txt_bpe_free(hf->bpe);
    q_free(hf->added);
    memset(hf, 0, sizeof *hf);
}
