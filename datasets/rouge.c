/* ROUGE of one pair of texts.
 *
 * Both texts are cut into tokens once; equal tokens get the same small number (ids by rank after a
 * sort: no hash to attack), and everything after that works on numbers:
 *
 *   ROUGE-N     ids, or pairs of ids as one 64-bit key, sorted on both sides; matches are counted
 *               by a merge, so a key counts as often as in the side that has fewer of it
 *   ROUGE-L     length of the longest common subsequence (LCS), two rows of the table
 *   ROUGE-Lsum  lines are sentences.  For each target sentence the union, over the prediction's
 *               sentences, of the target tokens in their LCS; a token of the union counts only
 * while both texts have an unused one of it, so nothing counts twice
 *
 * Which LCS the union sees depends on the way back through the table: on a mismatch one step in the
 * prediction if t[i][j-1] > t[i-1][j], else one in the target.  Only that bit is kept per cell.
 *
 * Limits: DS_ROUGE_MAX_CELLS bounds time (all sentence pairs together have as many cells as the
 * two texts) and the bits (32 MiB).  Python lower-cases Unicode: U+212A becomes "k" and U+0130 "i"
 * with a combining dot; no other character beyond ASCII turns into [a-z0-9]. */
#include "datasets/rouge.h"

#include <stdlib.h>
#include <string.h>

#include "datasets/porter.h"
#include "formats/base/q_mem.h"
#include "formats/text/unicode.h"

typedef struct token {
    const char *p;
    size_t len, line; /* line of the text it stands in */
    int32_t *id;      /* where its number goes */
} token;

typedef struct side {
    int32_t *id; /* [n] numbers of the tokens */
    size_t *end; /* [n_sent] index behind the last token of each line that has tokens */
    size_t n, n_sent;
} side;

typedef struct pair {
    char *chars;     /* letters of all tokens, both sides */
    token *tok;      /* [n] target, then prediction */
    token **order;   /* [n] sorted by letters */
    int32_t *ids;    /* [n] */
    size_t *ends;    /* [n] */
    size_t n, n_ids; /* tokens of both sides, distinct ones */
    side t, p;
} pair;

static void *array(size_t n, size_t size)
{
    size_t bytes;

    return q_mul_ok(n + 1, size, &bytes) ? q_malloc(bytes) : NULL; /* + 1: n may be 0 */
}

/* Letter that one or more bytes become: 'a'..'z', '0'..'9', 0 for a separator.  *used: its bytes.
 */
static char fold(const char *s, size_t n, size_t *used)
{
    const unsigned char c = (unsigned char)s[0];

    *used = 1;
    if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'))
        return s[0];
    if (c >= 'A' && c <= 'Z')
        return (char)(c - 'A' + 'a');
    if (c == 0xe2 && n >= 3 && memcmp(s, "\xe2\x84\xaa", 3) == 0) { /* kelvin sign */
        *used = 3;
        return 'k';
    }
    return 0;
}

/* Bytes of the character at s when it is written without blanks between words, else 0. */
static size_t cjk(const char *s, size_t n)
{
    static const uint32_t range[][2] = {
        { 0x3040, 0x30ff }, { 0x3400, 0x4dbf }, { 0x4e00, 0x9fff },
        { 0xac00, 0xd7a3 }, { 0xf900, 0xfaff }, { 0x20000, 0x323af },
    };
    uint32_t c;
    size_t used = txt_utf8_next(&c, s, n);

    for (size_t i = 0; i < sizeof range / sizeof *range; i++)
        if (c >= range[i][0] && c <= range[i][1])
            return used;
    return 0;
}

/* Appends the tokens of s to w->tok; letters go to *chars, which moves on.  A token needs one byte
 * and a separator, a CJK one three bytes: at most (n + 1) / 2 tokens. */
static void tokenize(pair *w, char **chars, const char *s, size_t n, unsigned flags)
{
    size_t line = 0, used, len;
    char *p = *chars, c;

    for (size_t i = 0; i < n;) {
        token *t = &w->tok[w->n];

        for (len = 0; i < n && (c = fold(s + i, n - i, &used)); i += used)
            p[len++] = c;
        if (i + 1 < n && memcmp(s + i, "\xc4\xb0", 2) == 0) { /* U+0130: "i", then a separator */
            p[len++] = 'i';
            i += 2;
        } else if (len == 0 && (flags & DS_ROUGE_CJK) && (used = cjk(s + i, n - i))) {
            memcpy(p, s + i, used);
            *t = (token){ p, used, line, NULL };
            w->n++;
            p += used;
            i += used;
            continue;
        } else if (len == 0) {
            line += s[i++] == '\n';
            continue;
        }
        if ((flags & DS_ROUGE_STEM) && len > 3)
            len = ds_porter_stem(p, len);
        *t = (token){ p, len, line, NULL };
        w->n++;
        p += len;
    }
    *chars = p;
}

static int by_letters(const void *a, const void *b)
{
    const token *x = *(token *const *)a, *y = *(token *const *)b;
    const int c = memcmp(x->p, y->p, x->len < y->len ? x->len : y->len);

    return c != 0 ? c : (x->len > y->len) - (x->len < y->len);
}

static void number_tokens(pair *w)
{
    for (size_t i = 0; i < w->n; i++) {
        w->tok[i].id = &w->ids[i];
        w->order[i] = &w->tok[i];
    }
    if (w->n > 1)
        qsort(w->order, w->n, sizeof(token *), by_letters);
    for (size_t i = 0; i < w->n; i++) {
        if (i > 0 && by_letters(&w->order[i - 1], &w->order[i]) != 0)
            w->n_ids++;
        *w->order[i]->id = (int32_t)w->n_ids;
    }
    w->n_ids += w->n > 0;
}

static void set_side(pair *w, side *d, size_t first, size_t n)
{
    *d = (side){ w->ids + first, w->ends + first, n, 0 };
    for (size_t i = 0; i < n; i++)
        if (i + 1 == n || w->tok[first + i].line != w->tok[first + i + 1].line)
            d->end[d->n_sent++] = i + 1;
}

static void set_prf(double *v, size_t hits, size_t n_prediction, size_t n_target)
{
    const double p = (double)hits / (double)(n_prediction ? n_prediction : 1);
    const double r = (double)hits / (double)(n_target ? n_target : 1);

    v[DS_P] = p;
    v[DS_R] = r;
    v[DS_F] = p + r > 0 ? 2 * p * r / (p + r) : 0;
}

static int by_key(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* Sorted keys of the n-grams (order 1 or 2) of d. */
static size_t ngrams(uint64_t *key, const side *d, size_t order)
{
    const size_t n = d->n >= order ? d->n - order + 1 : 0;

    for (size_t i = 0; i < n; i++) {
        key[i] = (uint64_t)d->id[i];
        if (order == 2)
            key[i] = key[i] << 32 | (uint64_t)d->id[i + 1];
    }
    if (n > 1)
        qsort(key, n, sizeof *key, by_key);
    return n;
}

static q_status score_ngrams(double *v, const pair *w, size_t order, q_err *err)
{
    uint64_t *a = array(w->n, sizeof *a), *b = a ? a + w->t.n : NULL;
    size_t na, nb, hits = 0;

    if (!a)
        return q_fail(err, Q_ENOMEM, "ROUGE: no memory for %zu tokens", w->n);
    na = ngrams(a, &w->t, order);
    nb = ngrams(b, &w->p, order);
    for (size_t i = 0, j = 0; i < na && j < nb;) {
        hits += a[i] == b[j];
        if (a[i] == b[j])
            i++, j++;
        else if (a[i] < b[j])
            i++;
        else
            j++;
    }
    set_prf(v, hits, nb, na);
    q_free(a);
    return Q_OK;
}

/* One row of the LCS table: row[j] = t[i][j] from t[i-1][j], in place.  bits, when not NULL, gets
 * t[i][j-1] > t[i-1][j] at bit first + j. */
static void lcs_row(uint32_t *row, int32_t id, const int32_t *p, size_t n, uint8_t *bits,
                    size_t first)
{
    uint32_t diagonal = 0, left = 0;

    for (size_t j = 0; j < n; j++) {
        const uint32_t up = row[j + 1];

        if (bits && left > up)
            bits[(first + j) >> 3] |= (uint8_t)(1u << ((first + j) & 7));
        if (id == p[j])
            left = diagonal + 1;
        else if (left < up)
            left = up;
        row[j + 1] = left;
        diagonal = up;
    }
}

static q_status score_lcs(double *v, const pair *w, q_err *err)
{
    uint32_t *row = q_calloc(w->p.n + 1, sizeof *row);

    if (!row)
        return q_fail(err, Q_ENOMEM, "ROUGE: no memory for %zu tokens", w->p.n);
    for (size_t i = 0; i < w->t.n; i++)
        lcs_row(row, w->t.id[i], w->p.id, w->p.n, NULL, 0);
    set_prf(v, row[w->p.n], w->p.n, w->t.n);
    q_free(row);
    return Q_OK;
}

/* Sets used[i] for the tokens t[i] in the LCS of two sentences.  row [np + 1] and bits [nt * np]
 * are scratch. */
static void mark_lcs(uint8_t *used, const int32_t *t, size_t nt, const int32_t *p, size_t np,
                     uint32_t *row, uint8_t *bits)
{
    size_t i = nt, j = np;

    memset(row, 0, (np + 1) * sizeof *row);
    memset(bits, 0, nt * np / 8 + 1);
    for (size_t k = 0; k < nt; k++)
        lcs_row(row, t[k], p, np, bits, k * np);
    while (i > 0 && j > 0) {
        const size_t cell = (i - 1) * np + j - 1;

        if (t[i - 1] == p[j - 1]) {
            used[i - 1] = 1;
            i--;
            j--;
        } else if (bits[cell >> 3] >> (cell & 7) & 1) {
            j--;
        } else {
            i--;
        }
    }
}

/* Longest line of d in tokens. */
static size_t longest(const side *d)
{
    size_t most = 0;

    for (size_t k = 0, at = 0; k < d->n_sent; at = d->end[k++])
        if (d->end[k] - at > most)
            most = d->end[k] - at;
    return most;
}

static void count_ids(uint32_t *count, const side *d)
{
    for (size_t i = 0; i < d->n; i++)
        count[d->id[i]]++;
}

static q_status score_lsum(double *v, const pair *w, q_err *err)
{
    const size_t np = longest(&w->p), nt = longest(&w->t);
    q_status st = Q_OK;
    uint32_t *row = array(np, sizeof *row);
    uint8_t *bits = array(nt * np / 8, 1); /* nt * np is below DS_ROUGE_MAX_CELLS */
    uint8_t *used = q_calloc(w->t.n + 1, 1);
    uint32_t *left_t = q_calloc(w->n_ids + 1, sizeof *left_t);
    uint32_t *left_p = q_calloc(w->n_ids + 1, sizeof *left_p);
    size_t hits = 0;

    if (!row || !bits || !used || !left_t || !left_p)
        Q_FAIL(err, Q_ENOMEM, "ROUGE: no memory for %zu x %zu tokens", nt, np);
    count_ids(left_t, &w->t);
    count_ids(left_p, &w->p);
    for (size_t a = 0, ta = 0; a < w->t.n_sent; ta = w->t.end[a++])
        for (size_t b = 0, pb = 0; b < w->p.n_sent; pb = w->p.end[b++])
            mark_lcs(used + ta, w->t.id + ta, w->t.end[a] - ta, w->p.id + pb, w->p.end[b] - pb, row,
                     bits);
    for (size_t i = 0; i < w->t.n; i++) {
        const int32_t id = w->t.id[i];

        if (!used[i] || left_t[id] == 0 || left_p[id] == 0)
            continue;
        hits++;
        left_t[id]--;
        left_p[id]--;
    }
    set_prf(v, hits, w->p.n, w->t.n);
out:
    q_free(row);
    q_free(bits);
    q_free(used);
    q_free(left_t);
    q_free(left_p);
    return st;
}

static q_status pair_fill(pair *w, const char *target, size_t n_target, const char *prediction,
                          size_t n_prediction, unsigned flags, q_err *err)
{
    size_t most, bytes, cells;
    char *chars;

    if (!q_add_ok(n_target, n_prediction, &bytes) || bytes > INT32_MAX)
        return q_fail(err, Q_ESHAPE, "ROUGE: texts of %zu and %zu bytes, at most 2 GiB are scored",
                      n_target, n_prediction);
    most = bytes / 2 + 2;
    w->chars = array(bytes, 1);
    w->tok = array(most, sizeof *w->tok);
    if (!w->chars || !w->tok)
        return q_fail(err, Q_ENOMEM, "ROUGE: no memory for %zu bytes of text", bytes);
    chars = w->chars;
    tokenize(w, &chars, target, n_target, flags);
    w->t.n = w->n;
    tokenize(w, &chars, prediction, n_prediction, flags);
    w->p.n = w->n - w->t.n;
    if (!q_mul_ok(w->t.n, w->p.n, &cells) || cells > DS_ROUGE_MAX_CELLS)
        return q_fail(err, Q_ESHAPE,
                      "ROUGE: %zu target tokens x %zu prediction tokens, at most %zu cells are "
                      "scored: shorten the prediction",
                      w->t.n, w->p.n, DS_ROUGE_MAX_CELLS);
    w->order = array(w->n, sizeof(token *));
    w->ids = array(w->n, sizeof *w->ids);
    w->ends = array(w->n, sizeof *w->ends);
    if (!w->order || !w->ids || !w->ends)
        return q_fail(err, Q_ENOMEM, "ROUGE: no memory for %zu tokens", w->n);
    number_tokens(w);
    set_side(w, &w->t, 0, w->t.n);
    set_side(w, &w->p, w->t.n, w->p.n);
    return Q_OK;
}

const char *ds_rouge_name(ds_rouge_type t)
{
    static const char *const names[DS_ROUGE_TYPES] = { "rouge1", "rouge2", "rougeL", "rougeLsum" };

    return (unsigned)t < DS_ROUGE_TYPES ? names[t] : "?";
}

q_status ds_rouge_score(ds_rouge *out, const char *target, size_t n_target, const char *prediction,
                        size_t n_prediction, unsigned flags, q_err *err)
{
    q_status st = Q_OK;
    pair w = { 0 };

    if (flags & ~(DS_ROUGE_STEM | DS_ROUGE_CJK))
        Q_FAIL(err, Q_EARG, "ROUGE: unknown flags 0x%x", flags);
    memset(out, 0, sizeof *out);
    Q_TRY(pair_fill(&w, target, n_target, prediction, n_prediction, flags, err));
    if (w.t.n == 0 || w.p.n == 0)
        goto out; /* zeros */
    Q_TRY(score_ngrams(out->v[DS_ROUGE_1], &w, 1, err));
    Q_TRY(score_ngrams(out->v[DS_ROUGE_2], &w, 2, err));
    Q_TRY(score_lcs(out->v[DS_ROUGE_L], &w, err));
    Q_TRY(score_lsum(out->v[DS_ROUGE_LSUM], &w, err));
out:
    q_free(w.chars);
    q_free(w.tok);
    q_free(w.order);
    q_free(w.ids);
    q_free(w.ends);
    return st;
}
