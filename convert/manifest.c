/* Writing and reading manifest.json.
 *
 * The reader takes the values out, checks them, writes the text again and compares: a manifest that
 * differs from what we write in a single bit is found without a rule for each way of differing. */
#include "convert/manifest.h"

#include <stdlib.h>
#include <string.h>

#include "formats/base/q_file.h"
#include "formats/base/q_hash.h"
#include "formats/json.h"

#define FORMAT "qwenkit-ft"

q_status cvt_manifest_add(cvt_manifest *m, const char *name, uint64_t size, const char *sha256,
                          q_err *err)
{
    cvt_entry *e;

    if (m->n == m->cap) {
        const size_t cap = m->cap ? 2 * m->cap : 64;
        cvt_entry *grown = q_calloc(cap, sizeof *grown);

        if (!grown)
            return q_fail(err, Q_ENOMEM, "no memory for a manifest of %zu files", cap);
        if (m->n)
            memcpy(grown, m->entry, m->n * sizeof *grown);
        q_free(m->entry);
        m->entry = grown;
        m->cap = cap;
    }
    e = &m->entry[m->n];
    if (!(e->name = q_strdup(name)))
        return q_fail(err, Q_ENOMEM, "%s: no memory", name);
    e->size = size;
    memcpy(e->sha256, sha256, CVT_HEX - 1);
    m->n++;
    return Q_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const cvt_entry *)a)->name, ((const cvt_entry *)b)->name);
}

void cvt_manifest_sort(cvt_manifest *m)
{
    if (m->n)
        qsort(m->entry, m->n, sizeof *m->entry, by_name);
}

void cvt_manifest_free(cvt_manifest *m)
{
    for (size_t i = 0; i < m->n; i++)
        q_free(m->entry[i].name);
    q_free(m->entry);
    memset(m, 0, sizeof *m);
}

static int is_printable(const char *s)
{
    for (; *s; s++)
        if (*s < 0x20 || *s > 0x7e)
            return 0;
    return 1;
}

int cvt_manifest_name_ok(const char *name)
{
    return q_name_is_plain(name) && strlen(name) <= 255 && is_printable(name);
}

q_status cvt_manifest_root(char root[CVT_HEX], const cvt_manifest *m, q_err *err)
{
    q_status st = Q_OK;
    q_buf line = { 0 };
    q_sha256 h;
    uint8_t digest[32];

    q_sha256_init(&h);
    Q_TRY(q_buf_printf(&line, err, "%s %d\ntool %s\ntensor_parallelism %d\nstore %s\n", FORMAT,
                       CVT_MANIFEST_VERSION, m->tool, m->ranks, fmt_dtype_name(m->store)));
    if (m->kv_copies > 1)
        Q_TRY(q_buf_printf(&line, err, "kv_copies %d\n", m->kv_copies));
    q_sha256_update(&h, line.data, line.size);
    for (size_t i = 0; i < m->n; i++) {
        const cvt_entry *e = &m->entry[i];

        q_buf_clear(&line);
        Q_TRY(q_buf_printf(&line, err, "%s  %llu  %s\n", e->sha256, (unsigned long long)e->size,
                           e->name));
        q_sha256_update(&h, line.data, line.size);
    }
    q_sha256_final(&h, digest);
    q_hex(root, digest, sizeof digest);
out:
    q_buf_free(&line);
    return st;
}

q_status cvt_manifest_text(q_buf *out, const cvt_manifest *m, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *doc = NULL, *files, *file;
    char root[CVT_HEX];

    Q_TRY(cvt_manifest_root(root, m, err));
    Q_TRY(fmt_json_new(&doc, err));
    Q_TRY(fmt_json_put_str(doc, "format", FORMAT, err));
    Q_TRY(fmt_json_put_int(doc, "version", CVT_MANIFEST_VERSION, err));
    Q_TRY(fmt_json_put_str(doc, "tool", m->tool, err));
    Q_TRY(fmt_json_put_int(doc, "tensor_parallelism", m->ranks, err));
    Q_TRY(fmt_json_put_str(doc, "store", fmt_dtype_name(m->store), err));
    if (m->kv_copies > 1)
        Q_TRY(fmt_json_put_int(doc, "kv_copies", m->kv_copies, err));
    Q_TRY(fmt_json_put_str(doc, "root_sha256", root, err));
    Q_TRY(fmt_json_put_arr(&files, doc, "files", err));
    for (size_t i = 0; i < m->n; i++) {
        Q_TRY(fmt_json_put_obj(&file, files, NULL, err));
        Q_TRY(fmt_json_put_str(file, "name", m->entry[i].name, err));
        Q_TRY(fmt_json_put_int(file, "size", (int64_t)m->entry[i].size, err));
        Q_TRY(fmt_json_put_str(file, "sha256", m->entry[i].sha256, err));
    }
    Q_TRY(fmt_json_print(out, doc, 1, err));
    Q_TRY(q_buf_puts(out, "\n", err));
out:
    fmt_json_free(doc);
    return st;
}

/* The text of a member; "" when it is absent, which no check below accepts. */
static const char *text_of(const fmt_json *o, const char *key)
{
    const fmt_json *v = fmt_json_get(o, key);
    const char *s = v ? fmt_json_text(v) : NULL;

    return s ? s : "";
}

static q_status parse_head(cvt_manifest *m, const fmt_json *doc, const char *path, q_err *err)
{
    q_status st = Q_OK;
    const char *tool = text_of(doc, "tool");
    const fmt_json *kv = fmt_json_get(doc, "kv_copies");
    int64_t version = 0, ranks = 0, kv_copies = 1;

    if (fmt_json_kind(doc) != FMT_JSON_OBJECT || strcmp(text_of(doc, "format"), FORMAT) != 0)
        Q_FAIL(err, Q_EFORMAT, "%s: not a manifest of format '%s'", path, FORMAT);
    if (!fmt_json_as_int(fmt_json_get(doc, "version"), 1, INT32_MAX, &version))
        Q_FAIL(err, Q_EFORMAT, "%s: 'version' is missing or no whole number", path);
    if (version > CVT_MANIFEST_VERSION)
        Q_FAIL(err, Q_EUNSUPPORTED,
               "%s: version %lld, this program reads up to %d: use a newer one", path,
               (long long)version, CVT_MANIFEST_VERSION);
    if (!*tool || strlen(tool) >= sizeof m->tool || !is_printable(tool))
        Q_FAIL(err, Q_EFORMAT, "%s: 'tool' is missing or not a short text", path);
    if (!fmt_json_as_int(fmt_json_get(doc, "tensor_parallelism"), 1, INT32_MAX, &ranks))
        Q_FAIL(err, Q_EFORMAT, "%s: 'tensor_parallelism' is missing or no whole number", path);
    if (!fmt_dtype_from_name(text_of(doc, "store"), &m->store))
        Q_FAIL(err, Q_EFORMAT, "%s: 'store' is missing or no element type", path);
    if (kv && !fmt_json_as_int(kv, 2, INT32_MAX, &kv_copies))
        Q_FAIL(err, Q_EFORMAT, "%s: 'kv_copies' is no whole number above 1", path);
    strcpy(m->tool, tool);
    m->kv_copies = (int)kv_copies;
    m->ranks = (int)ranks;
out:
    return st;
}

static q_status parse_files(cvt_manifest *m, const fmt_json *doc, const char *path, q_err *err)
{
    q_status st = Q_OK;
    const fmt_json *files = fmt_json_get(doc, "files");

    if (!files || fmt_json_kind(files) != FMT_JSON_ARRAY)
        Q_FAIL(err, Q_EFORMAT, "%s: 'files' is missing or not a list", path);
    for (size_t i = 0; i < fmt_json_size(files); i++) {
        const fmt_json *f = fmt_json_at(files, i);
        const char *name = text_of(f, "name"), *sha = text_of(f, "sha256");
        int64_t size = 0;

        if (!cvt_manifest_name_ok(name) || strcmp(name, CVT_MANIFEST) == 0)
            Q_FAIL(err, Q_EFORMAT, "%s: file %zu: '%.80s' is no file name", path, i, name);
        if (m->n > 0 && strcmp(m->entry[m->n - 1].name, name) >= 0)
            Q_FAIL(err, Q_EFORMAT, "%s: '%s' is out of order or appears twice", path, name);
        if (!fmt_json_as_int(fmt_json_get(f, "size"), 0, INT64_MAX, &size))
            Q_FAIL(err, Q_EFORMAT, "%s: '%s' has no size", path, name);
        if (strlen(sha) != CVT_HEX - 1 || strspn(sha, "0123456789abcdef") != CVT_HEX - 1)
            Q_FAIL(err, Q_EFORMAT, "%s: '%s' has no sha256 of %d hex digits", path, name,
                   CVT_HEX - 1);
        Q_TRY(cvt_manifest_add(m, name, (uint64_t)size, sha, err));
    }
out:
    return st;
}

q_status cvt_manifest_parse(cvt_manifest *m, const char *text, size_t n, const char *path,
                            q_err *err)
{
    q_status st = Q_OK;
    fmt_json *doc = NULL;
    q_buf again = { 0 };
    char root[CVT_HEX];

    memset(m, 0, sizeof *m);
    Q_TRY(fmt_json_parse(&doc, text, n, path, err));
    Q_TRY(parse_head(m, doc, path, err));
    Q_TRY(parse_files(m, doc, path, err));
    Q_TRY(cvt_manifest_root(root, m, err));
    if (strcmp(text_of(doc, "root_sha256"), root) != 0)
        Q_FAIL(err, Q_EFORMAT, "%s: root_sha256 does not fit the list: the manifest was changed",
               path);
    Q_TRY(cvt_manifest_text(&again, m, err));
    if (again.size != n || memcmp(again.data, text, n) != 0)
        Q_FAIL(err, Q_EFORMAT, "%s: not the text that was written: the manifest was changed", path);
out:
    fmt_json_free(doc);
    q_buf_free(&again);
    if (st != Q_OK)
        cvt_manifest_free(m);
    return st;
}
