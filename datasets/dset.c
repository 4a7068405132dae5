/* Samples from JSON Lines and plain text.
 *
 * JSON Lines and the rows of a text are read the same way: a line reader over a fixed chunk hands
 * out one line at a time, and a parser makes a sample of it.  In file order that is all.  To draw
 * samples, the first pass keeps only where lines are (24 bytes each, as many as samples are wanted)
 * and the second reads the chosen ones, so a huge file costs no more memory than its samples.
 *
 * Limits: DS_LINE_MAX per line, DS_RECORD_VALUES JSON values per line, DS_TEXT_MAX for a text that
 * is one sample. */
#include "datasets/dset.h"

#include <inttypes.h>
#include <string.h>

#include "datasets/lines.h"
#include "datasets/record.h"
#include "datasets/stats.h"
#include "formats/base/q_file.h"
#include "formats/json.h"
#include "formats/text/unicode.h"

typedef enum kind { JSONL, TEXT, ROWS } kind;

struct ds_set {
    ds_sample *v;
    size_t n, cap;
    char *field_text; /* NULL: article and highlights */
};

/* Room for one more element of size bytes in a list of n. */
static q_status grow(void **list, size_t *cap, size_t n, size_t size, q_err *err)
{
    size_t cap2 = *cap ? *cap : 32, bytes;
    void *p;

    if (n < *cap)
        return Q_OK;
    if (!q_mul_ok(cap2, 2, &cap2) || !q_mul_ok(cap2, size, &bytes) || !(p = q_malloc(bytes)))
        return q_fail(err, Q_ENOMEM, "no memory for %zu samples", cap2);
    if (n)
        memcpy(p, *list, n * size);
    q_free(*list);
    *list = p;
    *cap = cap2;
    return Q_OK;
}

/* Takes what s points to, also when it fails. */
static q_status add_sample(ds_set *set, ds_sample s, q_err *err)
{
    q_status st = Q_OK;
    void *list = set->v;

    if (!s.id || !s.article)
        Q_FAIL(err, Q_ENOMEM, "no memory for sample %zu", set->n + 1);
    Q_TRY(grow(&list, &set->cap, set->n, sizeof s, err));
    set->v = list;
    set->v[set->n++] = s;
    return Q_OK;
out:
    q_free(s.id);
    q_free(s.article);
    q_free(s.highlights);
    return st;
}

/* Refuses NUL and invalid UTF-8 in plain text. */
static q_status check_text(const char *p, size_t n, const char *path, uint64_t at, q_err *err)
{
    uint32_t c;

    for (size_t i = 0, k; i < n; i += k) {
        k = txt_utf8_next(&c, p + i, n - i);
        if (c == 0xfffd && (k != 3 || memcmp(p + i, "\xef\xbf\xbd", 3) != 0))
            return q_fail(err, Q_EFORMAT,
                          "%s: byte %" PRIu64 " (0x%02x) is not UTF-8: wanted text or JSON Lines",
                          path, at + i, (unsigned char)p[i]);
        if (c == 0)
            return q_fail(err, Q_EFORMAT, "%s: byte %" PRIu64 " is NUL: wanted text or JSON Lines",
                          path, at + i);
    }
    return Q_OK;
}

static q_status add_row(ds_set *set, const q_buf *line, const ds_place *at, const char *path,
                        q_err *err)
{
    const size_t n = ds_is_blank(line->data, line->size) ? 0 : line->size;
    q_status st = check_text(line->data, line->size, path, at->at, err);

    if (st != Q_OK)
        return st;
    return add_sample(
        set, (ds_sample){ .id = q_format("%zu", at->number), .article = q_strndup(line->data, n) },
        err);
}

/* A copy of the string member `field`. */
static q_status copy_field(char **out, const fmt_json *record, const char *field, const char *name,
                           q_err *err)
{
    const fmt_json *v = fmt_json_get(record, field);

    if (!v)
        return q_fail(err, Q_EFORMAT, "%s: field '%s' is missing: every line needs it", name,
                      field);
    if (!fmt_json_text(v))
        return q_fail(err, Q_EFORMAT, "%s: field '%s' is not a string", name, field);
    *out = q_strdup(fmt_json_text(v));
    return *out ? Q_OK : q_fail(err, Q_ENOMEM, "%s: no memory", name);
}

static q_status add_record(ds_set *set, const q_buf *line, const ds_place *at, const char *path,
                           q_err *err)
{
    q_status st = Q_OK;
    char *name = q_format("%s:%zu", path, at->number);
    fmt_json *doc = NULL;
    q_buf id = { 0 };
    ds_scan scan = { 0 };
    ds_sample s = { 0 };

    if (!name)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    ds_scan_feed(&scan, line->data, line->size);
    if (scan.n_values > DS_RECORD_VALUES)
        Q_FAIL(err, Q_EFORMAT, "%s: more than %zu JSON values", name, DS_RECORD_VALUES);
    Q_TRY(fmt_json_parse(&doc, line->data, line->size, name, err));
    if (fmt_json_kind(doc) != FMT_JSON_OBJECT)
        Q_FAIL(err, Q_EFORMAT, "%s: not a JSON object: wanted one object per line", name);
    Q_TRY(copy_field(&s.article, doc, set->field_text ? set->field_text : "article", name, err));
    if (!set->field_text)
        Q_TRY(copy_field(&s.highlights, doc, "highlights", name, err));
    Q_TRY(ds_record_id(&id, doc, at->number, name, err));
    s.id = q_strdup(id.data);
    st = add_sample(set, s, err); /* takes the texts */
    s = (ds_sample){ 0 };
out:
    q_free(s.article);
    q_free(s.highlights);
    q_buf_free(&id);
    fmt_json_free(doc);
    q_free(name);
    return st;
}

static q_status add_line(ds_set *set, kind k, const q_buf *line, const ds_place *at,
                         const char *path, q_err *err)
{
    return k == ROWS ? add_row(set, line, at, path, err) : add_record(set, line, at, path, err);
}

/* Next line that is a sample: blank ones count only as rows. */
static q_status next_sample(ds_lines *r, kind k, int *more, q_err *err)
{
    q_status st;

    do
        st = ds_lines_next(r, more, err);
    while (st == Q_OK && *more && k == JSONL && ds_is_blank(r->line.data, r->line.size));
    return st;
}

static q_status load_in_order(ds_set *set, ds_lines *r, kind k, const ds_opts *o, q_err *err)
{
    q_status st = Q_OK;
    int more;

    while (o->max_samples == 0 || set->n < o->max_samples) {
        Q_TRY(next_sample(r, k, &more, err));
        if (!more)
            break;
        Q_TRY(add_line(set, k, &r->line, &r->place, q_file_path(r->f), err));
    }
out:
    return st;
}

static q_status load_drawn(ds_set *set, ds_lines *r, kind k, const ds_opts *o, q_err *err)
{
    q_status st = Q_OK;
    ds_rng rng = { o->shuffle_seed };
    ds_place *v = NULL;
    size_t n = 0, cap = 0;
    int more;

    for (uint64_t i = 0;; i++) {
        void *list = v;

        Q_TRY(next_sample(r, k, &more, err));
        if (!more)
            break;
        if (o->max_samples && n == o->max_samples) {
            const uint64_t j = ds_rng_below(&rng, i + 1);

            if (j < n)
                v[j] = r->place;
            continue;
        }
        Q_TRY(grow(&list, &cap, n, sizeof *v, err));
        v = list;
        v[n++] = r->place;
    }
    for (size_t i = n; i > 1; i--) {
        const size_t j = (size_t)ds_rng_below(&rng, i);
        const ds_place t = v[i - 1];

        v[i - 1] = v[j];
        v[j] = t;
    }
    for (size_t i = 0; i < n; i++) {
        Q_TRY(ds_lines_again(r, &v[i], err));
        Q_TRY(add_line(set, k, &r->line, &r->place, q_file_path(r->f), err));
    }
out:
    q_free(v);
    return st;
}

static q_status load_text(ds_set *set, const char *path, size_t skip, q_err *err)
{
    q_status st = Q_OK;
    q_buf b = { 0 };
    ds_sample s = { 0 };

    Q_TRY(q_file_slurp(&b, path, DS_TEXT_MAX, err));
    if (b.size <= skip)
        goto out; /* no sample: ds_open says so */
    Q_TRY(check_text(b.data + skip, b.size - skip, path, skip, err));
    s.id = q_strdup("1");
    if (skip)
        memmove(b.data, b.data + skip, b.size - skip + 1);
    s.article = b.data;
    b = (q_buf){ 0 };
    st = add_sample(set, s, err);
out:
    q_buf_free(&b);
    return st;
}

static int has_suffix(const char *path, const char *suffix)
{
    const size_t n = strlen(path), k = strlen(suffix);

    return n > k && strcmp(path + n - k, suffix) == 0;
}

/* Kind of the file, from its name or its first chunk. */
static q_status find_kind(kind *out, const ds_lines *r, const ds_opts *o, q_err *err)
{
    const char *path = q_file_path(r->f);
    q_status st = Q_OK;
    size_t n, i = 0;
    const char *p = ds_lines_peek(r, &n);
    char first;

    while (i < n && ds_is_blank(p + i, 1))
        i++;
    first = i < n ? p[i] : '\0';
    *out = o->rows ? ROWS : TEXT;
    if (has_suffix(path, ".jsonl") || has_suffix(path, ".ndjson") || has_suffix(path, ".json"))
        *out = JSONL;
    else if (first == '{' && !has_suffix(path, ".txt") && !has_suffix(path, ".raw"))
        *out = JSONL;
    if (*out == JSONL && o->rows)
        Q_FAIL(err, Q_EARG, "%s: rows are lines of a plain text, this is JSON Lines", path);
    if (*out == JSONL && first == '[')
        Q_FAIL(err, Q_EFORMAT, "%s: a JSON array, wanted one object per line: jq -c '.[]' %s", path,
               path);
out:
    return st;
}

q_status ds_open(ds_set **out, const char *path, const ds_opts *o, q_err *err)
{
    static const ds_opts plain = { 0 };
    q_status st = Q_OK;
    ds_lines r = { 0 };
    ds_set *set = q_calloc(1, sizeof *set);
    kind k;

    if (!o)
        o = &plain;
    if (!set)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    if (o->field_text && !(set->field_text = q_strdup(o->field_text)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    Q_TRY(ds_lines_open(&r, path, err));
    Q_TRY(find_kind(&k, &r, o, err));
    if (k == TEXT)
        Q_TRY(load_text(set, path, r.at, err));
    else if (o->shuffle)
        Q_TRY(load_drawn(set, &r, k, o, err));
    else
        Q_TRY(load_in_order(set, &r, k, o, err));
    if (set->n == 0)
        Q_FAIL(err, Q_EFORMAT, "%s: no samples in it", path);
    *out = set;
    set = NULL;
out:
    ds_lines_close(&r);
    ds_close(set);
    return st;
}

size_t ds_count(const ds_set *set)
{
    return set->n;
}

const ds_sample *ds_at(const ds_set *set, size_t i)
{
    return i < set->n ? &set->v[i] : NULL;
}

void ds_close(ds_set *set)
{
    if (!set)
        return;
    for (size_t i = 0; i < set->n; i++) {
        q_free(set->v[i].id);
        q_free(set->v[i].article);
        q_free(set->v[i].highlights);
    }
    q_free(set->v);
    q_free(set->field_text);
    q_free(set);
}

q_status ds_join(const ds_set *set, const char *field, const char *sep, q_buf *out, q_err *err)
{
    const char *text = set->field_text ? set->field_text : "article";
    const int reference = field && strcmp(field, text) != 0;
    q_status st = Q_OK;

    if (reference && (set->field_text || strcmp(field, "highlights") != 0))
        Q_FAIL(err, Q_EARG, "field '%s' was not read, only '%s'%s", field, text,
               set->field_text ? "" : " and 'highlights'");
    for (size_t i = 0; i < set->n; i++) {
        const char *s = reference ? set->v[i].highlights : set->v[i].article;

        if (!s)
            Q_FAIL(err, Q_EARG, "field '%s': a plain text has none", field);
        if (i > 0)
            Q_TRY(q_buf_puts(out, sep, err));
        Q_TRY(q_buf_puts(out, s, err));
    }
out:
    return st;
}
