/* Reader of checkpoint directories.
 *
 *   model.safetensors                      one file, or
 *   model.safetensors.index.json           {"metadata": {...}, "weight_map": {tensor: file}}
 *   model-00001-of-0000N.safetensors ...   the shards it names, or, when there is neither,
 *   pytorch_model.bin                      one file, or
 *   pytorch_model.bin.index.json           the same index
 *   pytorch_model-00001-of-0000N.bin ...   the shards it names
 *
 * The two layouts differ in names and container only: see layouts[] and shard.h.
 *
 * The index is not trusted: its file names must be plain names, and every header is read at once
 * and compared with it, in both directions, so that a missing, cut, swapped or foreign shard is
 * named before any work begins.  Files that the index does not name are not opened.
 * metadata.total_size is not compared: real checkpoints count tied tensors once or twice, and the
 * shards say it better.
 *
 * An entry is (name, shard, tensor); entries are sorted by file to find the shards, then by name,
 * and stay so.  Names belong to the shard headers in the end. Source: transformers, modeling_utils
 * (sharded checkpoints). */
#include "formats/hf_dir.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_file.h"
#include "formats/base/q_mem.h"
#include "formats/json.h"
#include "formats/base/q_lfs.h"
#include "formats/shard.h"

#define INDEX_MAX ((size_t)100 * 1000 * 1000)

/* in order of preference */
typedef struct layout {
    fmt_shard_kind kind;
    const char *single, *index;
} layout;

static const layout layouts[] = {
    { FMT_SHARD_SAFETENSORS, FMT_HF_SINGLE, FMT_HF_INDEX },
    { FMT_SHARD_TORCH, FMT_HF_BIN, FMT_HF_BIN_INDEX },
};

typedef struct entry {
    const char *name, *file; /* of the index until attach() has run; file is not used after it */
    const fmt_tensor *t;
    size_t shard;
} entry;

struct fmt_hf {
    const layout *l;
    fmt_shard *shard;
    size_t n_shards;
    entry *e; /* [n] by name */
    size_t n;
};

static int by_file(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->file, ((const entry *)b)->file);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->name, ((const entry *)b)->name);
}

static q_status alloc_entries(fmt_hf *hf, size_t n, const char *path, q_err *err)
{
    if (n > FMT_ST_MAX_COUNT)
        return q_fail(err, Q_EFORMAT, "%s: %zu tensors, at most %u are read", path, n,
                      FMT_ST_MAX_COUNT);
    if (n && !(hf->e = q_calloc(n, sizeof *hf->e)))
        return q_fail(err, Q_ENOMEM, "%s: no memory for %zu tensors", path, n);
    return Q_OK;
}

/* ---- one file ------------------------------------------------------------------------------- */

static q_status open_single(fmt_hf *hf, const char *dir, q_err *err)
{
    q_status st = Q_OK;

    if (!(hf->shard = q_calloc(1, sizeof *hf->shard)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", dir);
    Q_TRY(fmt_shard_open(&hf->shard[0], hf->l->kind, dir, hf->l->single, err));
    hf->n_shards = 1;
    Q_TRY(alloc_entries(hf, fmt_shard_count(&hf->shard[0]), fmt_shard_path(&hf->shard[0]), err));
    for (; hf->n < fmt_shard_count(&hf->shard[0]); hf->n++) {
        hf->e[hf->n].t = fmt_shard_at(&hf->shard[0], hf->n);
        hf->e[hf->n].name = hf->e[hf->n].t->name;
    }
    if (hf->n)
        qsort(hf->e, hf->n, sizeof *hf->e, by_name);
out:
    return st;
}

/* ---- index and shards ----------------------------------------------------------------------- */

static q_status read_index(fmt_json **out, const char *dir, const char *name, q_err *err)
{
    q_status st = Q_OK;
    q_file *f = NULL;
    char *text = NULL;
    size_t n;

    Q_TRY(q_file_open_in(&f, dir, name, err));
    if (q_file_bytes(f) == 0 || q_file_bytes(f) > INDEX_MAX)
        Q_FAIL(err, Q_EFORMAT, "%s: %llu bytes, from 1 to %zu are read", q_file_path(f),
               (unsigned long long)q_file_bytes(f), INDEX_MAX);
    n = (size_t)q_file_bytes(f);
    if (!(text = q_malloc(n)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %zu bytes", q_file_path(f), n);
    Q_TRY(q_file_pread(f, text, n, 0, err));
    Q_TRY(q_lfs_pointer(text, n, q_file_path(f), err));
    Q_TRY(fmt_json_parse(out, text, n, q_file_path(f), err));
out:
    q_free(text);
    q_file_close(f);
    return st;
}

/* weight_map -> entries.  Names and files are borrowed from the document. */
static q_status read_map(fmt_hf *hf, const fmt_json *index, const char *dir, q_err *err)
{
    q_status st = Q_OK;
    const fmt_json *map = fmt_json_get(index, "weight_map");

    if (!map || fmt_json_kind(map) != FMT_JSON_OBJECT)
        Q_FAIL(err, Q_EFORMAT, "%s/%s: 'weight_map' is %s", dir, hf->l->index,
               map ? "not an object" : "missing");
    Q_TRY(alloc_entries(hf, fmt_json_size(map), hf->l->index, err));
    for (fmt_json_iter *it = fmt_json_first(map); it; it = fmt_json_next(map, it)) {
        entry *e = &hf->e[hf->n++];

        e->name = fmt_json_key(it);
        e->file = fmt_json_text(fmt_json_value(it));
        if (!e->file)
            Q_FAIL(err, Q_EFORMAT, "%s/%s: the file of '%.100s' is not a string", dir, hf->l->index,
                   e->name);
        if (!q_name_is_plain(e->file))
            Q_FAIL(err, Q_EFORMAT,
                   "%s/%s: '%.100s' is in '%.100s', wanted a plain file name: refused", dir,
                   hf->l->index, e->name, e->file);
    }
out:
    return st;
}

static q_status open_shard(fmt_hf *hf, const char *dir, const entry *e, q_err *err)
{
    q_err mine = { 0 };
    q_status st = fmt_shard_open(&hf->shard[hf->n_shards], hf->l->kind, dir, e->file, &mine);

    if (st == Q_ENOINPUT)
        return q_fail(err, st, "%s/%.100s: shard is missing, %s names it for '%.100s': fetch it",
                      dir, e->file, hf->l->index, e->name);
    if (st != Q_OK)
        return q_fail(err, st, "%s", mine.msg);
    hf->n_shards++;
    return Q_OK;
}

static q_status open_shards(fmt_hf *hf, const char *dir, q_err *err)
{
    q_status st = Q_OK;
    size_t n = 0;

    if (hf->n == 0)
        return Q_OK;
    qsort(hf->e, hf->n, sizeof *hf->e, by_file);
    for (size_t i = 0; i < hf->n; i++) {
        n += i == 0 || by_file(&hf->e[i - 1], &hf->e[i]) != 0;
        hf->e[i].shard = n - 1;
    }
    if (!(hf->shard = q_calloc(n, sizeof *hf->shard)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %zu shards", dir, n);
    for (size_t i = 0; i < hf->n; i++)
        if (hf->e[i].shard == hf->n_shards)
            Q_TRY(open_shard(hf, dir, &hf->e[i], err));
    qsort(hf->e, hf->n, sizeof *hf->e, by_name);
out:
    return st;
}

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

/* One tensor of a shard to its entry. */
static q_status attach(fmt_hf *hf, size_t shard, const fmt_tensor *t, const char *dir, q_err *err)
{
    const char *path = fmt_shard_path(&hf->shard[shard]);
    const size_t i = fmt_hf_find(hf, t->name);

    if (i == FMT_NONE)
        return q_fail(err, Q_EFORMAT,
                      "%s: '%.100s' is not in %s: shards and index are of different downloads",
                      path, t->name, hf->l->index);
    if (hf->e[i].shard != shard && fmt_shard_find(&hf->shard[hf->e[i].shard], t->name))
        return q_fail(err, Q_EFORMAT, "%s: '%.100s' is also in %s", path, t->name,
                      fmt_shard_path(&hf->shard[hf->e[i].shard]));
    if (hf->e[i].shard != shard)
        return q_fail(err, Q_EFORMAT,
                      "%s/%s: '%.100s' should be in %.100s and is in %s: files swapped or of "
                      "different downloads",
                      dir, hf->l->index, t->name, hf->e[i].file, base_of(path));
    hf->e[i].t = t;
    return Q_OK;
}

static q_status open_sharded(fmt_hf *hf, const char *dir, int single, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *index = NULL;

    Q_TRY(read_index(&index, dir, hf->l->index, err));
    Q_TRY(read_map(hf, index, dir, err));
    for (size_t i = 0; i < hf->n && single; i++)
        single = strcmp(hf->e[i].file, hf->l->single) != 0;
    if (single)
        Q_FAIL(err, Q_EFORMAT,
               "%s: has %s and an index that does not name it: remove the one that is out of date",
               dir, hf->l->single);
    Q_TRY(open_shards(hf, dir, err));
    for (size_t s = 0; s < hf->n_shards; s++)
        for (size_t i = 0; i < fmt_shard_count(&hf->shard[s]); i++)
            Q_TRY(attach(hf, s, fmt_shard_at(&hf->shard[s], i), dir, err));
    for (size_t i = 0; i < hf->n; i++) {
        if (!hf->e[i].t)
            Q_FAIL(err, Q_EFORMAT, "%s/%s: '%.100s' should be in %.100s, which does not have it",
                   dir, hf->l->index, hf->e[i].name, hf->e[i].file);
        hf->e[i].name = hf->e[i].t->name;
        hf->e[i].file = NULL;
    }
out:
    fmt_json_free(index);
    return st;
}

/* ---- the directory -------------------------------------------------------------------------- */

/* *yes: dir holds an entry of this name, a broken link counts */
static q_status has(int *yes, const char *dir, const char *name, q_err *err)
{
    char *path = q_path_join(dir, name);

    if (!path)
        return q_fail(err, Q_ENOMEM, "%s: no memory", dir);
    *yes = q_path_exists(path);
    q_free(path);
    return Q_OK;
}

q_status fmt_hf_open(fmt_hf **out, const char *dir, q_err *err)
{
    q_status st = Q_OK;
    fmt_hf *hf = NULL;
    int single = 0, index = 0;

    if (!q_path_is_dir(dir))
        Q_FAIL(err, Q_ENOINPUT, "%s: %s", dir,
               q_path_exists(dir) ? "not a directory: give the folder of the checkpoint"
                                  : "no such directory");
    if (!(hf = q_calloc(1, sizeof *hf)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", dir);
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0] && !single && !index; i++) {
        hf->l = &layouts[i];
        Q_TRY(has(&single, dir, hf->l->single, err));
        Q_TRY(has(&index, dir, hf->l->index, err));
    }
    if (index)
        Q_TRY(open_sharded(hf, dir, single, err));
    else if (single)
        Q_TRY(open_single(hf, dir, err));
    else
        Q_FAIL(err, Q_ENOINPUT,
               "%s: no " FMT_HF_SINGLE ", no " FMT_HF_INDEX " and no " FMT_HF_BIN
               ": give the folder of the checkpoint",
               dir);
    *out = hf;
    hf = NULL;
out:
    fmt_hf_close(hf);
    return st;
}

void fmt_hf_close(fmt_hf *hf)
{
    if (!hf)
        return;
    for (size_t s = 0; s < hf->n_shards; s++)
        fmt_shard_close(&hf->shard[s]);
    q_free(hf->shard);
    q_free(hf->e);
    q_free(hf);
}

size_t fmt_hf_count(const fmt_hf *hf)
{
    return hf->n;
}

const fmt_tensor *fmt_hf_tensor(const fmt_hf *hf, size_t i)
{
    return i < hf->n ? hf->e[i].t : NULL;
}

const char *fmt_hf_shard_path(const fmt_hf *hf, size_t i)
{
    return i < hf->n ? fmt_shard_path(&hf->shard[hf->e[i].shard]) : NULL;
}

size_t fmt_hf_find(const fmt_hf *hf, const char *name)
{
    const entry key = { .name = name };
    const entry *e = hf->n ? bsearch(&key, hf->e, hf->n, sizeof *hf->e, by_name) : NULL;

    return e ? (size_t)(e - hf->e) : FMT_NONE;
}

q_status fmt_hf_read(const fmt_hf *hf, size_t i, uint64_t from, size_t n, void *dst, q_err *err)
{
    assert(i < hf->n);
    return fmt_shard_read(&hf->shard[hf->e[i].shard], hf->e[i].t, from, n, dst, err);
}
