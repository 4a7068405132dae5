/* Writer of checkpoint directories.
 *
 * Declarations are only kept.  The first write fixes the layout: tensors in their order, a new
 * shard when the next one would exceed max_shard (a larger tensor gets a shard of its own), one
 * file when a single shard is enough.  All shard files are opened then, so that a full directory, a
 * name that is taken or too many files show in the first second.
 *
 * Commit order, so that a crash never leaves a directory that looks whole and is not: what names
 * the old checkpoint goes first (--force), then every shard gets its name, the index comes last,
 * and then the shards of an older layout are removed. */
#include "formats/hf_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/q_file.h"
#include "formats/base/q_mem.h"
#include "formats/json.h"

#define SINGLE     FMT_HF_SINGLE
#define INDEX      FMT_HF_INDEX
#define SHARD_GLOB "model-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9].safetensors"
#define SHARDS_MAX 99999 /* five digits in the name */

typedef struct declared {
    char *name;
    fmt_dtype dtype;
    int ndim;
    int64_t shape[FMT_MAX_DIMS];
    uint64_t bytes;
    size_t shard;
} declared;

typedef struct shard {
    fmt_st_writer *w;
    uint64_t left; /* bytes to come */
} shard;

struct fmt_hf_writer {
    char *dir;
    uint64_t max_shard, total;
    int force;
    fmt_json *names; /* every declared name -> its number: the dictionary */
    declared *t;
    size_t n, cap;
    shard *s; /* NULL until the first write */
    size_t n_shards, now;
};

static q_status refuse_existing(const char *dir, q_err *err)
{
    static const char *const names[] = { SINGLE, INDEX };

    for (size_t i = 0; i < 2; i++) {
        char *path = q_path_join(dir, names[i]);
        const int there = path && q_path_exists(path);

        q_free(path);
        if (!path)
            return q_fail(err, Q_ENOMEM, "%s: no memory", dir);
        if (there)
            return q_fail(err, Q_ECREATE, "%s: has a %s; --force overwrites it", dir, names[i]);
    }
    return Q_OK;
}

q_status fmt_hf_create(fmt_hf_writer **out, const char *dir, uint64_t max_shard, int force,
                       q_err *err)
{
    q_status st = Q_OK;
    fmt_hf_writer *w = q_calloc(1, sizeof *w);

    if (!w || !(w->dir = q_strdup(dir)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", dir);
    w->max_shard = max_shard ? max_shard : UINT64_MAX;
    w->force = force;
    Q_TRY(fmt_json_new(&w->names, err));
    Q_TRY(q_dir_make(dir, err));
    if (!force)
        Q_TRY(refuse_existing(dir, err));
    *out = w;
    w = NULL;
out:
    fmt_hf_writer_close(w);
    return st;
}

static q_status grow(fmt_hf_writer *w, q_err *err)
{
    const size_t cap = w->cap ? 2 * w->cap : 256;
    declared *t;

    if (w->n < w->cap)
        return Q_OK;
    if (!(t = q_calloc(cap, sizeof *t)))
        return q_fail(err, Q_ENOMEM, "%s: no memory for %zu tensors", w->dir, cap);
    if (w->n)
        memcpy(t, w->t, w->n * sizeof *t);
    q_free(w->t);
    w->t = t;
    w->cap = cap;
    return Q_OK;
}

q_status fmt_hf_declare(fmt_hf_writer *w, const char *name, fmt_dtype dtype, int ndim,
                        const int64_t *shape, q_err *err)
{
    q_status st = Q_OK;
    declared d = { .dtype = dtype, .ndim = ndim };

    if (w->s)
        Q_FAIL(err, Q_EARG, "%s: '%s' is declared after the first write", w->dir, name);
    if (w->n >= FMT_ST_MAX_COUNT)
        Q_FAIL(err, Q_EARG, "%s: more than %u tensors", w->dir, FMT_ST_MAX_COUNT);
    Q_TRY(fmt_st_size(&d.bytes, name, dtype, ndim, shape, err));
    if (fmt_json_get(w->names, name))
        Q_FAIL(err, Q_EARG, "%s: '%s' is declared twice", w->dir, name);
    if (d.bytes > INT64_MAX - w->total)
        Q_FAIL(err, Q_ESHAPE, "%s: '%s' would end beyond 2^63 bytes", w->dir, name);
    Q_TRY(grow(w, err));
    Q_TRY(fmt_json_put_int(w->names, name, (int64_t)w->n, err));
    if (ndim)
        memcpy(d.shape, shape, (size_t)ndim * sizeof *shape);
    if (!(d.name = q_strdup(name)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", w->dir);
    w->t[w->n++] = d;
    w->total += d.bytes;
out:
    return st;
}

/* ---- layout --------------------------------------------------------------------------------- */

/* Every tensor to its shard; returns the number of shards.  A tensor above the limit is alone. */
static size_t lay_out(fmt_hf_writer *w)
{
    uint64_t room = w->max_shard;
    size_t k = 0;

    for (size_t i = 0; i < w->n; i++) {
        const uint64_t bytes = w->t[i].bytes;

        if (bytes > room && room < w->max_shard) {
            k++;
            room = w->max_shard;
        }
        w->t[i].shard = k;
        room = bytes < room ? room - bytes : 0;
    }
    return k + 1;
}

static void shard_name(char *out, size_t cap, size_t k, size_t n)
{
    if (n == 1)
        snprintf(out, cap, "%s", SINGLE);
    else
        snprintf(out, cap, "model-%05zu-of-%05zu.safetensors", k + 1, n);
}

static q_status open_shards(fmt_hf_writer *w, q_err *err)
{
    q_status st = Q_OK;
    char name[64], *path = NULL;
    const size_t n = lay_out(w);

    if (n > SHARDS_MAX)
        Q_FAIL(err, Q_EARG, "%s: %zu shards of at most %llu bytes, up to %d can be named", w->dir,
               n, (unsigned long long)w->max_shard, SHARDS_MAX);
    if (!(w->s = q_calloc(n, sizeof *w->s)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %zu shards", w->dir, n);
    w->n_shards = n;
    for (size_t k = 0; k < n; k++) {
        shard_name(name, sizeof name, k, n);
        q_free(path);
        if (!(path = q_path_join(w->dir, name)))
            Q_FAIL(err, Q_ENOMEM, "%s: no memory", w->dir);
        Q_TRY(fmt_st_create(&w->s[k].w, path, w->force, err));
    }
    for (size_t i = 0; i < w->n; i++) {
        const declared *t = &w->t[i];

        Q_TRY(fmt_st_declare(w->s[t->shard].w, t->name, t->dtype, t->ndim, t->shape, err));
        w->s[t->shard].left += t->bytes;
    }
out:
    q_free(path);
    return st;
}

q_status fmt_hf_write(fmt_hf_writer *w, const void *p, size_t n, q_err *err)
{
    q_status st = Q_OK;
    const char *s = p;

    if (!w->s)
        Q_TRY(open_shards(w, err));
    while (n > 0) {
        shard *k;
        size_t piece;

        while (w->now < w->n_shards && w->s[w->now].left == 0)
            w->now++;
        if (w->now == w->n_shards)
            Q_FAIL(err, Q_EARG, "%s: %zu bytes more than the %llu declared", w->dir, n,
                   (unsigned long long)w->total);
        k = &w->s[w->now];
        piece = n < k->left ? n : (size_t)k->left;
        Q_TRY(fmt_st_write(k->w, s, piece, err));
        k->left -= piece;
        s = s ? s + piece : NULL;
        n -= piece;
    }
out:
    return st;
}

/* ---- commit --------------------------------------------------------------------------------- */

static q_status remove_file(const char *dir, const char *name, q_err *err)
{
    q_status st = Q_OK;
    char *path = q_path_join(dir, name);

    if (!path)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", dir);
    if (unlink(path) != 0 && errno != ENOENT)
        Q_FAIL_ERRNO(err, Q_ECREATE, "%s: cannot remove the old file", path);
out:
    q_free(path);
    return st;
}

/* Shards of an older layout: same pattern, another total. */
static q_status remove_old_shards(const fmt_hf_writer *w, q_err *err)
{
    q_status st = Q_OK;
    char total[32];
    DIR *d = opendir(w->dir);
    struct dirent *e;

    if (!d)
        Q_FAIL_ERRNO(err, Q_EIO, "%s: cannot open directory", w->dir);
    snprintf(total, sizeof total, "-of-%05zu.", w->n_shards);
    while ((e = readdir(d)))
        if (fnmatch(SHARD_GLOB, e->d_name, 0) == 0 &&
            (w->n_shards == 1 || !strstr(e->d_name, total)))
            Q_TRY(remove_file(w->dir, e->d_name, err));
out:
    if (d)
        closedir(d);
    return st;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const declared *const *)a)->name, (*(const declared *const *)b)->name);
}

static q_status write_index(const fmt_hf_writer *w, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *doc = NULL, *meta, *map;
    const declared **sorted = q_calloc(w->n, sizeof *sorted);
    char *path = q_path_join(w->dir, INDEX), name[64];
    q_buf text = { 0 };

    if (!sorted || !path)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for the index", w->dir);
    for (size_t i = 0; i < w->n; i++)
        sorted[i] = &w->t[i];
    qsort(sorted, w->n, sizeof *sorted, by_name);
    Q_TRY(fmt_json_new(&doc, err));
    Q_TRY(fmt_json_put_obj(&meta, doc, "metadata", err));
    Q_TRY(fmt_json_put_int(meta, "total_size", (int64_t)w->total, err));
    Q_TRY(fmt_json_put_obj(&map, doc, "weight_map", err));
    for (size_t i = 0; i < w->n; i++) {
        shard_name(name, sizeof name, sorted[i]->shard, w->n_shards);
        Q_TRY(fmt_json_put_str(map, sorted[i]->name, name, err));
    }
    Q_TRY(fmt_json_print(&text, doc, 2, err));
    Q_TRY(q_buf_puts(&text, "\n", err));
    Q_TRY(q_out_whole(path, w->force, text.data, text.size, err));
out:
    q_free(sorted);
    q_free(path);
    q_buf_free(&text);
    fmt_json_free(doc);
    return st;
}

q_status fmt_hf_commit(fmt_hf_writer *w, q_err *err)
{
    q_status st = Q_OK;

    if (!w->s)
        Q_TRY(open_shards(w, err));
    for (size_t k = 0; k < w->n_shards; k++)
        if (w->s[k].left != 0)
            Q_FAIL(err, Q_EARG, "%s: shard %zu of %zu lacks %llu bytes", w->dir, k + 1, w->n_shards,
                   (unsigned long long)w->s[k].left);
    if (w->force) {
        Q_TRY(remove_file(w->dir, INDEX, err));
        if (w->n_shards > 1)
            Q_TRY(remove_file(w->dir, SINGLE, err));
    }
    for (size_t k = 0; k < w->n_shards; k++)
        Q_TRY(fmt_st_commit(w->s[k].w, err));
    if (w->n_shards > 1)
        Q_TRY(write_index(w, err));
    if (w->force)
        Q_TRY(remove_old_shards(w, err));
out:
    return st;
}

void fmt_hf_writer_close(fmt_hf_writer *w)
{
    if (!w)
        return;
    for (size_t k = 0; k < w->n_shards; k++)
        fmt_st_writer_close(w->s[k].w);
    for (size_t i = 0; i < w->n; i++)
        q_free(w->t[i].name);
    q_free(w->s);
    q_free(w->t);
    q_free(w->dir);
    fmt_json_free(w->names);
    q_free(w);
}
