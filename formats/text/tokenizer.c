/* A vocabulary with its added tokens: opening, encoding, decoding.
 *
 *     text -> cut out added tokens of the first kind
 *          -> every stretch between them: NFC, or at least valid UTF-8
 *          -> cut out added tokens of the second kind
 *          -> every stretch between these: txt_tok_ops (split into pieces and merge each)
 *
 * tokenizer.json says for each added token whether it is looked for before or after normalisation
 * (it makes a difference for a token with a combining mark behind it); those of Qwen-1 are looked
 * for after it.  A stretch ends where a token begins, also for the splitter's look-ahead.  Text
 * that is surely in NFC already is read in place.
 *
 * At every byte that begins an added token, the list sorted by name is narrowed one character at a
 * time, so that text full of half-written tokens costs no more than their length; the longest
 * match wins.
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

static q_status load_tiktoken(txt_tok **out, const fmt_files *files, const char *path, q_err *err)
{
    q_status st = Q_OK;
    q_buf text = { 0 };

    Q_TRY(fmt_files_slurp(&text, files, "qwen.tiktoken", FILE_MAX, err));
    Q_TRY(txt_tok_tiktoken(out, text.data, text.size, path, err));
out:
    q_buf_free(&text);
    return st;
}

/* The first file that is there decides: a checkpoint with tokenizer.json has vocab.json too. */
static const struct {
    const char *file;
    q_status (*load)(txt_tok **out, const fmt_files *files, const char *path, q_err *err);
} kinds[] = {
    { "qwen.tiktoken", load_tiktoken },
    { "tokenizer.json", txt_tok_load_hfjson },
    { "vocab.json", txt_tok_load_vocab },
    { "tokenizer.model", txt_tok_load_spm },
};

q_status txt_tok_open_files(txt_tok **out, const fmt_files *files, q_err *err)
{
    q_status st = Q_OK;
    char *path = NULL;
    size_t k = 0;

    while (k < sizeof kinds / sizeof kinds[0] && !fmt_files_has(files, kinds[k].file))
        k++;
    if (k == sizeof kinds / sizeof kinds[0])
        Q_FAIL(err, Q_ENOINPUT,
               "%s: no qwen.tiktoken, tokenizer.json, vocab.json or tokenizer.model: copy the "
               "tokenizer from the original checkpoint",
               files->dir);
    if (!(path = fmt_files_path(files, kinds[k].file)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", files->dir);
    Q_TRY(kinds[k].load(out, files, path, err));
out:
    q_free(path);
    return st;
}

q_status txt_tok_open(txt_tok **out, const char *dir, q_err *err)
{
    if (!q_path_is_dir(dir))
        return q_fail(err, Q_ENOINPUT, "%s: not a directory: wanted one with a tokenizer", dir);
    return txt_tok_open_files(out, &(fmt_files){ .dir = dir }, err);
}

static int by_id(const void *a, const void *b)
{
    const txt_added_token *x = a, *y = b;

    return (x->id > y->id) - (x->id < y->id);
}

/* names are NUL-terminated and distinct, so strcmp decides every pair */
static int by_name(const void *a, const void *b, void *added)
{
    const txt_added_token *v = added;

    return strcmp(v[*(const int32_t *)a].name, v[*(const int32_t *)b].name);
}

/* Copies the added tokens and puts them in order. */
static q_status take_added(txt_tok *t, const txt_tok_parts *parts, const char *name, q_err *err)
{
    q_status st = Q_OK;
    const size_t n = parts->n_added;
    size_t bytes = 1, at = 0;

    if (n > TXT_BPE_MAX_TOKENS)
        Q_FAIL(err, Q_EFORMAT, "%s: %zu added tokens, at most %zu", name, n, TXT_BPE_MAX_TOKENS);
    for (size_t i = 0; i < n; i++)
        bytes += strlen(parts->added[i].text) + 1;
    if (!(t->names = q_malloc(bytes)) || !(t->added = q_calloc(n + 1, sizeof *t->added)) ||
        !(t->by_name = q_calloc(n + 1, sizeof *t->by_name)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %zu added tokens", name, n);
    for (size_t i = 0; i < n; i++) {
        const txt_added *a = &parts->added[i];
        const size_t len = strlen(a->text);

        if (len == 0)
            Q_FAIL(err, Q_EFORMAT, "%s: the added token with id %d is empty", name, a->id);
        if (a->id < 0 || (size_t)a->id >= TXT_BPE_MAX_TOKENS)
            Q_FAIL(err, Q_EFORMAT, "%s: added token '%.80s' has id %d, wanted 0 to %zu", name,
                   a->text, a->id, TXT_BPE_MAX_TOKENS - 1);
        memcpy(t->names + at, a->text, len + 1);
        t->added[i] = (txt_added_token){ t->names + at, len, a->id, a->flags };
        at += len + 1;
    }
    t->n_added = (int32_t)n;
    qsort(t->added, n, sizeof *t->added, by_id);
    for (int32_t i = 0; i < t->n_added; i++)
        t->by_name[i] = i;
    qsort_r(t->by_name, n, sizeof *t->by_name, by_name, t->added);
    for (size_t i = 1; i < n; i++) {
        const txt_added_token *a = &t->added[i - 1], *b = &t->added[i];
        const txt_added_token *c = &t->added[t->by_name[i - 1]], *d = &t->added[t->by_name[i]];

        if (a->id == b->id)
            Q_FAIL(err, Q_EFORMAT, "%s: added tokens '%.80s' and '%.80s' have the same id %d", name,
                   a->name, b->name, a->id);
        if (strcmp(c->name, d->name) == 0)
            Q_FAIL(err, Q_EFORMAT, "%s: added token '%.80s' has two ids, %d and %d", name, c->name,
                   c->id, d->id);
    }
out:
    return st;
}

q_status txt_tok_make(txt_tok **out, txt_tok_parts *parts, const char *name, q_err *err)
{
    q_status st = Q_OK;
    txt_tok *t = q_calloc(1, sizeof *t);

    if (!t)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", name);
    Q_TRY(take_added(t, parts, name, err));
    for (int32_t i = 0; i < t->n_added; i++) {
        const txt_added_token *a = &t->added[i];

        if (a->flags & TXT_ADDED_WORD)
            continue;
        t->first[(uint8_t)a->name[0]] = 1;
        t->kinds[!!(a->flags & TXT_ADDED_NORMALIZED)] |= a->flags & TXT_ADDED_SPECIAL ? 1 : 2;
    }
    t->ops = parts->ops;
    t->nfc = parts->nfc;
    memcpy(t->prefix, parts->prefix, sizeof t->prefix);
    t->n_prefix = parts->n_prefix;
    t->bpe = parts->bpe;
    t->spm = parts->spm;
    t->n_ids = t->ops->size(t);
    if (t->n_added > 0 && t->added[t->n_added - 1].id >= t->n_ids)
        t->n_ids = t->added[t->n_added - 1].id + 1;
    parts->bpe = NULL;
    parts->spm = NULL;
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
    if (t->spm)
        t->ops->close(t);
    q_free(t->names);
    q_free(t->added);
    q_free(t->by_name);
    q_free(t);
}

int32_t txt_vocab_size(const txt_tok *t)
{
    return t->n_ids;
}

/* The added token with this id, or NULL. */
static const txt_added_token *added_at(const txt_tok *t, int32_t id)
{
    const txt_added_token key = { .id = id };

    return bsearch(&key, t->added, (size_t)t->n_added, sizeof *t->added, by_id);
}

int txt_is_special(const txt_tok *t, int32_t id)
{
    const txt_added_token *a = added_at(t, id);

    return a && a->flags & TXT_ADDED_SPECIAL;
}

/* First place in by_name[lo..hi) whose character at depth is at least c.  All names there agree
 * before depth; one that ends at depth has NUL there and stands first. */
static int32_t lower(const txt_tok *t, int32_t lo, int32_t hi, size_t depth, int c)
{
    while (lo < hi) {
        const int32_t mid = lo + (hi - lo) / 2;

        if ((uint8_t)t->added[t->by_name[mid]].name[depth] < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The longest added token that p[0..n) begins with, among those whose flags under mask are want. */
static const txt_added_token *match(const txt_tok *t, const char *p, size_t n, unsigned mask,
                                    unsigned want)
{
    const txt_added_token *found = NULL;
    int32_t lo = 0, hi = t->n_added;

    for (size_t depth = 0; depth < n && p[depth] != '\0'; depth++) {
        const int c = (uint8_t)p[depth];
        const txt_added_token *a;

        lo = lower(t, lo, hi, depth, c);
        hi = lower(t, lo, hi, depth, c + 1);
        if (lo == hi)
            break;
        a = &t->added[t->by_name[lo]];
        if (a->n == depth + 1 && (a->flags & mask) == want)
            found = a;
    }
    return found;
}

int32_t txt_special_id(const txt_tok *t, const char *name)
{
    const size_t n = strlen(name);
    const txt_added_token *a = match(t, name, n, 0, 0);

    return a && a->n == n ? a->id : -1;
}

static q_status bpe_encode(const txt_tok *t, const char *p, size_t n, q_ids *ids, q_err *err)
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

static q_status bpe_spell(const txt_tok *t, int32_t id, int first, q_buf *out, q_err *err)
{
    size_t n;
    const char *p = txt_bpe_token(t->bpe, id, &n);

    (void)first;
    return q_buf_put(out, p, n, err);
}

static int32_t bpe_size(const txt_tok *t)
{
    return txt_bpe_size(t->bpe);
}

const txt_tok_ops txt_bpe_ops = { .size = bpe_size, .encode = bpe_encode, .spell = bpe_spell };

static q_status encode_stretch(const txt_tok *t, const char *p, size_t n, unsigned flags,
                               int normalized, q_ids *ids, q_err *err);

/* What lies between the added tokens of one kind. */
static q_status encode_between(const txt_tok *t, const char *p, size_t n, unsigned flags,
                               int normalized, q_ids *ids, q_err *err)
{
    q_status st = Q_OK;
    q_buf clean = { 0 };

    if (n == 0)
        return Q_OK;
    if (normalized)
        return t->ops->encode(t, p, n, ids, err);
    if (!txt_nfc_sure(p, n)) {
        Q_TRY(t->nfc ? txt_nfc(&clean, p, n, err) : txt_utf8_repair(&clean, p, n, err));
        p = clean.data;
        n = clean.size;
    }
    Q_TRY(encode_stretch(t, p, n, flags, 1, ids, err));
out:
    q_buf_free(&clean);
    return st;
}

/* Cuts out the added tokens that are looked for before (after) normalisation. */
static q_status encode_stretch(const txt_tok *t, const char *p, size_t n, unsigned flags,
                               int normalized, q_ids *ids, q_err *err)
{
    const int all = (flags & TXT_SPECIALS) != 0;
    const unsigned mask = TXT_ADDED_WORD | TXT_ADDED_NORMALIZED | (all ? 0 : TXT_ADDED_SPECIAL);
    const unsigned want = normalized ? TXT_ADDED_NORMALIZED : 0;
    q_status st = Q_OK;
    size_t from = 0;

    if (t->kinds[normalized] & (all ? 3u : 2u))
        for (size_t i = 0; i < n;) {
            const txt_added_token *a =
                t->first[(uint8_t)p[i]] ? match(t, p + i, n - i, mask, want) : NULL;

            if (!a) {
                i++;
                continue;
            }
            Q_TRY(encode_between(t, p + from, i - from, flags, normalized, ids, err));
            Q_TRY(q_ids_push(ids, a->id, err));
            from = i += a->n;
        }
    Q_TRY(encode_between(t, p + from, n - from, flags, normalized, ids, err));
out:
    return st;
}

q_status txt_encode(const txt_tok *t, const char *text, size_t n, unsigned flags, q_ids *ids,
                    q_err *err)
{
    q_status st = Q_OK;
    const size_t start = ids->n;

    if (flags & TXT_PROMPT)
        Q_TRY(q_ids_append(ids, t->prefix, (size_t)t->n_prefix, err));
    if (n > 0) /* text may be NULL */
        Q_TRY(encode_stretch(t, text, n, flags, 0, ids, err));
out:
    if (st != Q_OK)
        ids->n = start;
    return st;
}

q_status txt_decode_bytes(const txt_tok *t, const int32_t *ids, size_t n, unsigned flags,
                          q_buf *out, q_err *err)
{
    const int32_t size = t->ops->size(t);
    q_status st = Q_OK;
    int first = !(flags & TXT_CONTINUES);

    for (size_t i = 0; i < n; i++) {
        const txt_added_token *a;

        if (ids[i] < 0 || ids[i] >= t->n_ids)
            Q_FAIL(err, Q_EFORMAT, "token id %d at place %zu: the vocabulary has 0 to %d", ids[i],
                   i, t->n_ids - 1);
        a = added_at(t, ids[i]);
        if (a && (a->flags & TXT_ADDED_SILENT ||
                  (a->flags & TXT_ADDED_SPECIAL && flags & TXT_SKIP_SPECIALS)))
            continue;
        if (a)
            Q_TRY(q_buf_put(out, a->name, a->n, err));
        else if (ids[i] < size)
            Q_TRY(t->ops->spell(t, ids[i], first, out, err));
        first = 0;
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
