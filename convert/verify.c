/* Verification: sizes and names first, they cost nothing; then the hashes, a file per thread. */
#include "convert/verify.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/pool.h"
#include "formats/base/q_file.h"
#include "formats/base/q_hash.h"

#define MANIFEST_MAX ((size_t)64 << 20)
#define PIECE        ((size_t)1 << 20)

typedef struct check {
    const char *dir;
    cvt_manifest m;
    char **wrong; /* [m.n] what is wrong with a file, owned; NULL: nothing */
    q_progress *progress;
} check;

static int by_key(const void *key, const void *entry)
{
    return strcmp(key, ((const cvt_entry *)entry)->name);
}

static q_status note(cvt_verify_report *rep, const char *name, const char *what, q_err *err)
{
    char clean[256];

    rep->n_bad++;
    snprintf(clean, sizeof clean, "%s", name);
    for (char *p = clean; *p; p++) /* a stranger may be called anything */
        if (*p < 0x20 || *p > 0x7e)
            *p = '?';
    return q_buf_printf(&rep->bad, err, "%s: %s\n", clean, what);
}

/* Files that the manifest does not know.  Their order in the report is that of the directory. */
static q_status find_strangers(cvt_verify_report *rep, const check *c, q_err *err)
{
    q_status st = Q_OK;
    DIR *d = opendir(c->dir);
    struct dirent *e;

    if (!d)
        Q_FAIL_ERRNO(err, Q_EIO, "%s: cannot list the directory", c->dir);
    for (errno = 0; (e = readdir(d)); errno = 0) {
        const char *name = e->d_name;

        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, CVT_MANIFEST) == 0 ||
            (c->m.n && bsearch(name, c->m.entry, c->m.n, sizeof *c->m.entry, by_key)))
            continue;
        Q_TRY(note(rep, name, "not in the manifest", err));
    }
    if (errno != 0)
        Q_FAIL_ERRNO(err, Q_EIO, "%s: cannot list the directory", c->dir);
out:
    if (d)
        closedir(d);
    return st;
}

/* *wrong is set when the content differs; a failed read is a failure of the check. */
static q_status hash_file(char **wrong, const check *c, const q_file *f, const cvt_entry *e,
                          q_err *err)
{
    q_status st = Q_OK;
    char *buf = q_malloc(PIECE), hex[CVT_HEX];
    uint8_t digest[32];
    q_sha256 h;

    if (!buf)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", e->name);
    q_sha256_init(&h);
    for (uint64_t at = 0; at < e->size; at += PIECE) {
        const size_t n = e->size - at < PIECE ? (size_t)(e->size - at) : PIECE;

        Q_TRY(q_file_pread(f, buf, n, at, err));
        q_sha256_update(&h, buf, n);
        q_progress_add(c->progress, n);
    }
    q_sha256_final(&h, digest);
    q_hex(hex, digest, sizeof digest);
    if (strcmp(hex, e->sha256) == 0)
        goto out;
    *wrong = q_format("its sha256 is %s, the manifest has %s", hex, e->sha256);
    if (!*wrong)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", e->name);
out:
    q_free(buf);
    return st;
}

static q_status check_one(void *self, int thread, size_t i, q_err *err)
{
    q_status st = Q_OK;
    check *c = self;
    const cvt_entry *e = &c->m.entry[i];
    q_err inner = { 0 };
    q_file *f = NULL;

    (void)thread;
    st = q_file_open_in(&f, c->dir, e->name, &inner);
    if (st == Q_ENOINPUT || st == Q_EFORMAT) { /* absent, or no plain file: the finding, not ours */
        c->wrong[i] = q_strdup(st == Q_ENOINPUT ? "is missing" : "is not a plain file");
        st = c->wrong[i] ? Q_OK : q_fail(err, Q_ENOMEM, "%s: no memory", e->name);
        goto out;
    }
    if (st != Q_OK)
        Q_FAIL(err, st, "%s", inner.msg);
    if (q_file_bytes(f) == e->size) {
        st = hash_file(&c->wrong[i], c, f, e, err);
        goto out;
    }
    c->wrong[i] = q_format("%llu bytes, the manifest has %llu", (unsigned long long)q_file_bytes(f),
                           (unsigned long long)e->size);
    if (!c->wrong[i])
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", e->name);
out:
    q_file_close(f);
    return st;
}

static q_status read_manifest(cvt_verify_report *rep, check *c, q_err *err)
{
    q_status st = Q_OK;
    q_buf text = { 0 };
    char *path = q_path_join(c->dir, CVT_MANIFEST);

    if (!path)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", c->dir);
    if (!q_path_is_dir(c->dir))
        Q_FAIL(err, Q_ENOINPUT, "%s: no such directory or archive", c->dir);
    if (!q_path_exists(path))
        Q_FAIL(err, Q_ENOINPUT, "%s: no %s in it: FT directories of qwen-convert have one", c->dir,
               CVT_MANIFEST);
    Q_TRY(q_file_slurp(&text, path, MANIFEST_MAX, err));
    Q_TRY(cvt_manifest_parse(&c->m, text.data, text.size, path, err));
    Q_TRY(cvt_manifest_root(rep->root_sha256, &c->m, err));
    rep->files = 1;
    rep->bytes = text.size;
out:
    q_buf_free(&text);
    q_free(path);
    return st;
}

static q_status collect(cvt_verify_report *rep, const check *c, q_err *err)
{
    q_status st = Q_OK;

    for (size_t i = 0; i < c->m.n; i++) {
        rep->files++;
        rep->bytes += c->m.entry[i].size;
        if (c->wrong[i])
            Q_TRY(note(rep, c->m.entry[i].name, c->wrong[i], err));
    }
    Q_TRY(find_strangers(rep, c, err));
    if (rep->n_bad == 1)
        Q_FAIL(err, Q_EFORMAT, "%s: %.*s", c->dir, (int)strcspn(rep->bad.data, "\n"),
               rep->bad.data);
    if (rep->n_bad > 1)
        Q_FAIL(err, Q_EFORMAT, "%s: %.*s (and %llu other files)", c->dir,
               (int)strcspn(rep->bad.data, "\n"), rep->bad.data,
               (unsigned long long)rep->n_bad - 1);
out:
    return st;
}

q_status cvt_verify(cvt_verify_report *rep, const char *dir, int threads, const q_log *log,
                    const volatile sig_atomic_t *stop, q_err *err)
{
    q_status st = Q_OK;
    check c = { .dir = dir };
    uint64_t total = 0;

    memset(rep, 0, sizeof *rep);
    Q_TRY(read_manifest(rep, &c, err));
    if (!(c.wrong = q_calloc(c.m.n + 1, sizeof *c.wrong)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %zu files", dir, c.m.n);
    for (size_t i = 0; i < c.m.n; i++)
        total += c.m.entry[i].size;
    c.progress = q_progress_open(log, "verifying", total, "B");
    Q_TRY(cvt_pool_run(
        &(cvt_pool){ .n = c.m.n, .threads = threads, .stop = stop, .job = check_one, .self = &c },
        err));
    Q_TRY(collect(rep, &c, err));
out:
    q_progress_close(c.progress);
    for (size_t i = 0; c.wrong && i < c.m.n; i++)
        q_free(c.wrong[i]);
    q_free(c.wrong);
    cvt_manifest_free(&c.m);
    return st;
}

/* bad: a list of "name: what is wrong" */
q_status cvt_verify_json(fmt_json *doc, const cvt_verify_report *rep, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *list;
    char line[512];

    Q_TRY(fmt_json_put_bool(doc, "ok", rep->n_bad == 0, err));
    Q_TRY(fmt_json_put_int(doc, "files", (int64_t)rep->files, err));
    Q_TRY(fmt_json_put_int(doc, "bytes", (int64_t)rep->bytes, err));
    Q_TRY(fmt_json_put_str(doc, "root_sha256", rep->root_sha256, err));
    Q_TRY(fmt_json_put_arr(&list, doc, "bad", err));
    for (const char *p = rep->n_bad ? rep->bad.data : ""; *p; p += strcspn(p, "\n") + 1) {
        snprintf(line, sizeof line, "%.*s", (int)strcspn(p, "\n"), p);
        Q_TRY(fmt_json_put_str(list, NULL, line, err));
    }
out:
    return st;
}

void cvt_verify_free(cvt_verify_report *rep)
{
    q_buf_free(&rep->bad);
}
