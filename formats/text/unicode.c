/* Decoding, character classes and NFC over utf8proc.
 *
 * Normalisation is done piece by piece.  Most text consists of stable code points: starters that
 * are their own NFC and never compose with what stands before them.  A span of these is copied as
 * it is.  Only a run of other code points, with the one stable code point before it (a mark may
 * compose with that), goes through the three steps of Unicode Standard Annex 15:
 *
 *     stable stable [stable mark mark jamo mark] stable ...
 *                    decompose, order marks, compose
 *
 * "Stable" errs on the safe side (every mark and jamo and unknown code point counts as unstable),
 * so it depends on no table but the library's.  The ordering step is ours: the library's own swaps
 * neighbours and is quadratic in the length of a run of marks, which hostile text makes long.
 *
 * Classes come from the general category.  White_Space is Z* and seven controls; U+180E, once a
 * space, is none since Unicode 6.3. */
#include "formats/text/unicode.h"

#include <string.h>
#include <utf8proc.h>

#include "formats/text/tokenizer.h"

#define REPLACEMENT 0xFFFDu
#define SORT_SHORT  16 /* marks on one letter in real text: insertion sort wins by far */

static const char replacement[3] = { '\xEF', '\xBF', '\xBD' };

/* Continuation bytes that a lead byte asks for; -1: not a lead byte. */
static int utf8_need(uint8_t c)
{
    if (c < 0x80)
        return 0;
    if (c < 0xC2 || c > 0xF4)
        return -1;
    return c < 0xE0 ? 1 : c < 0xF0 ? 2 : 3;
}

size_t txt_utf8_next(uint32_t *cp, const char *p, size_t n)
{
    const uint8_t *s = (const uint8_t *)p;
    const int need = utf8_need(s[0]);
    /* the second byte is limited by the first: no overlong forms, surrogates, or beyond U+10FFFF */
    uint8_t lo = s[0] == 0xE0 ? 0xA0 : s[0] == 0xF0 ? 0x90 : 0x80;
    uint8_t hi = s[0] == 0xED ? 0x9F : s[0] == 0xF4 ? 0x8F : 0xBF;
    uint32_t v;

    *cp = REPLACEMENT;
    if (need < 0)
        return 1;
    v = need == 0 ? s[0] : s[0] & (0x3Fu >> need);
    for (size_t i = 1; i <= (size_t)need; i++) {
        if (i >= n || s[i] < lo || s[i] > hi)
            return i;
        v = v << 6 | (s[i] & 0x3Fu);
        lo = 0x80;
        hi = 0xBF;
    }
    *cp = v;
    return (size_t)need + 1;
}

size_t txt_utf8_complete(const char *p, size_t n)
{
    uint32_t cp;

    for (size_t back = 1; back <= 3 && back <= n; back++) {
        const char *q = p + n - back;
        const uint8_t c = (uint8_t)*q;

        if ((c & 0xC0u) == 0x80)
            continue;
        /* a lead byte that wants more, and all that follows it is right so far */
        if (utf8_need(c) >= (int)back && txt_utf8_next(&cp, q, back) == back)
            return n - back;
        break;
    }
    return n;
}

/* 1: what txt_utf8_next read at p was invalid, not a U+FFFD that is in the text */
static int was_invalid(uint32_t cp, const char *p, size_t len)
{
    return cp == REPLACEMENT && !(len == 3 && memcmp(p, replacement, 3) == 0);
}

q_status txt_utf8_repair(q_buf *out, const char *p, size_t n, q_err *err)
{
    q_status st = Q_OK;
    size_t i = 0, from = 0;
    uint32_t cp;

    while (i < n) {
        const size_t len = txt_utf8_next(&cp, p + i, n - i);

        if (was_invalid(cp, p + i, len)) {
            Q_TRY(q_buf_put(out, p + from, i - from, err));
            Q_TRY(q_buf_put(out, replacement, sizeof replacement, err));
            from = i + len;
        }
        i += len;
    }
    Q_TRY(q_buf_put(out, p + from, n - from, err));
out:
    return st;
}

txt_class txt_class_of(uint32_t cp)
{
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return TXT_LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return TXT_NUMBER;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return TXT_SPACE;
    default:
        return (cp >= 0x09 && cp <= 0x0D) || cp == 0x85 ? TXT_SPACE : TXT_OTHER;
    }
}

static uint8_t combining_class(int32_t cp)
{
    return (uint8_t)utf8proc_get_property(cp)->combining_class;
}

/* Canonical decomposition, in full: at most 4 code points in all versions of Unicode, and the
 * library asks for no more than 18 in any mode. */
static size_t decompose(int32_t out[18], uint32_t cp)
{
    return (size_t)utf8proc_decompose_char((utf8proc_int32_t)cp, out, 18, UTF8PROC_DECOMPOSE, NULL);
}

static size_t compose(int32_t *v, size_t n)
{
    return (size_t)utf8proc_normalize_utf32(v, (utf8proc_ssize_t)n,
                                            UTF8PROC_COMPOSE | UTF8PROC_STABLE);
}

static int is_stable(uint32_t cp)
{
    const utf8proc_property_t *pr;
    int32_t d[18];

    if (cp < 0x300) /* before the first mark: all of Latin-1 and the extended Latin blocks */
        return 1;
    pr = utf8proc_get_property((utf8proc_int32_t)cp);
    if (pr->combining_class != 0 || (cp >= 0x1100 && cp <= 0x11FF)) /* conjoining jamo */
        return 0;
    switch (pr->category) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
        return 0;
    case UTF8PROC_CATEGORY_SO: /* emoji */
        break;
    default: /* a few vowel signs beyond the BMP are letters and compose with the one before */
        if (cp > 0xFFFF)
            return 0;
    }
    if (pr->decomp_seqindex == UINT16_MAX || pr->decomp_type != 0) /* none, or compatibility only */
        return 1;
    return compose(d, decompose(d, cp)) == 1 && d[0] == (int32_t)cp;
}

int txt_nfc_sure(const char *p, size_t n)
{
    size_t i = 0;
    uint64_t w;
    uint32_t cp;

    while (i < n) {
        size_t len;

        for (; n - i >= sizeof w; i += sizeof w) { /* eight bytes of ASCII at a time */
            memcpy(&w, p + i, sizeof w);
            if (w & 0x8080808080808080u)
                break;
        }
        if (i == n)
            break;
        len = txt_utf8_next(&cp, p + i, n - i);
        if (!is_stable(cp) || was_invalid(cp, p + i, len))
            return 0;
        i += len;
    }
    return 1;
}

/* Stable counting sort by combining class; tmp has room for n. */
static void sort_long(int32_t *v, int32_t *tmp, size_t n)
{
    size_t at[257] = { 0 };

    for (size_t i = 0; i < n; i++)
        at[combining_class(v[i]) + 1]++;
    for (size_t c = 1; c < 257; c++)
        at[c] += at[c - 1];
    for (size_t i = 0; i < n; i++)
        tmp[at[combining_class(v[i])]++] = v[i];
    memcpy(v, tmp, n * sizeof *v);
}

static void sort_short(int32_t *v, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        const int32_t x = v[i];
        const uint8_t c = combining_class(x);
        size_t k = i;

        for (; k > 0 && combining_class(v[k - 1]) > c; k--)
            v[k] = v[k - 1];
        v[k] = x;
    }
}

/* Canonical ordering: each maximal run of marks (class not 0) is sorted by class. */
static q_status order_marks(q_ids *a, q_ids *tmp, q_err *err)
{
    q_status st = Q_OK;
    size_t end;

    for (size_t i = 0; i < a->n; i = end) {
        if (combining_class(a->v[i]) == 0) {
            end = i + 1;
            continue;
        }
        for (end = i; end < a->n && combining_class(a->v[end]) != 0; end++)
            ;
        if (end - i <= SORT_SHORT) {
            sort_short(a->v + i, end - i);
            continue;
        }
        q_ids_clear(tmp);
        Q_TRY(q_ids_append(tmp, a->v + i, end - i, err)); /* as room only */
        sort_long(a->v + i, tmp->v, end - i);
    }
out:
    return st;
}

/* Appends the NFC of the code points in a, which is used up. */
static q_status put_nfc(q_buf *out, q_ids *a, q_ids *tmp, q_err *err)
{
    q_status st = Q_OK;
    utf8proc_uint8_t bytes[4];

    Q_TRY(order_marks(a, tmp, err));
    a->n = compose(a->v, a->n);
    for (size_t i = 0; i < a->n; i++)
        Q_TRY(q_buf_put(out, bytes, (size_t)utf8proc_encode_char(a->v[i], bytes), err));
    q_ids_clear(a);
out:
    return st;
}

q_status txt_nfc(q_buf *out, const char *p, size_t n, q_err *err)
{
    q_status st = Q_OK;
    q_ids run = { 0 }, tmp = { 0 };
    size_t i = 0, len, from = 0, last = 0; /* p[from..i) waits to be copied, last begins its end */
    int32_t d[18];
    uint32_t cp;

    while (i < n) {
        len = txt_utf8_next(&cp, p + i, n - i);
        if (was_invalid(cp, p + i, len)) {
            Q_TRY(q_buf_put(out, p + from, i - from, err));
            Q_TRY(q_buf_put(out, replacement, sizeof replacement, err));
            from = last = i += len;
            continue;
        }
        if (is_stable(cp)) {
            last = i;
            i += len;
            continue;
        }
        Q_TRY(q_buf_put(out, p + from, last - from, err));
        for (i = last; i < n; i += len) { /* the stable one, if any, and all unstable ones */
            len = txt_utf8_next(&cp, p + i, n - i);
            if (run.n > 0 && is_stable(cp)) /* U+FFFD is stable: an invalid byte ends the run */
                break;
            Q_TRY(q_ids_append(&run, d, decompose(d, cp), err));
        }
        Q_TRY(put_nfc(out, &run, &tmp, err));
        from = last = i;
    }
    Q_TRY(q_buf_put(out, p + from, n - from, err));
out:
    q_ids_free(&run);
    q_ids_free(&tmp);
    return st;
}
