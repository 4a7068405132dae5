/* The model source: container by content, then reading by boxes over segments.
 *
 * Rows of a box that are whole rows of the stored array are read in one piece.  A transposed box is
 * read in strips of whole stored rows, which are then turned. */
#include "formats/source.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/q_file.h"
#include "formats/base/q_hash.h"
#include "formats/h5file.h"
#include "formats/source_impl.h"
#include "formats/turn.h"

#define STRIP_BYTES ((size_t)4 << 20)

fmt_slot *fmt_src_slot(const fmt_src *s, fmt_ref ref)
{
    const int per_layer = fmt_role_get(ref.role)->per_layer;

    assert(ref.layer >= 0 && ref.layer < (per_layer ? s->model.layers : 1));
    return &s->slot[(ref.layer * FMT_ROLES + (int64_t)ref.role) * FMT_PARTS + (int64_t)ref.part];
}

q_status fmt_src_alloc(fmt_src *s, q_err *err)
{
    s->slot = q_calloc((size_t)s->model.layers * FMT_ROLES * FMT_PARTS, sizeof *s->slot);
    return s->slot ? Q_OK : q_fail(err, Q_ENOMEM, "%s: no memory for the tensor table", s->dir);
}

q_status fmt_src_add_seg(fmt_src *s, fmt_slot *slot, const fmt_seg *seg, q_err *err)
{
    if (s->n_seg == s->cap_seg) {
        const size_t cap = s->cap_seg ? 2 * s->cap_seg : 256;
        fmt_seg *v = q_calloc(cap, sizeof *v);

        if (!v)
            return q_fail(err, Q_ENOMEM, "%s: no memory for %zu segments", s->dir, cap);
        if (s->n_seg)
            memcpy(v, s->seg, s->n_seg * sizeof *v);
        q_free(s->seg);
        s->seg = v;
        s->cap_seg = cap;
    }
    if (slot->n_seg == 0)
        slot->seg0 = s->n_seg;
    assert(slot->seg0 + slot->n_seg == s->n_seg);
    s->seg[s->n_seg++] = *seg;
    slot->n_seg++;
    return Q_OK;
}

static int is_packed(const fmt_src *s, fmt_role role, int64_t layer)
{
    return fmt_src_slot(s, (fmt_ref){ role, layer, FMT_QWEIGHT })->present;
}

/* After binding: every role of the family is present and covered.  Errors name the role. */
static q_status check_bound(const fmt_src *s, q_err *err)
{
    for (int r = 0; r < FMT_ROLES; r++) {
        const fmt_name_row *names = fmt_family_names(s->model.family, (fmt_role)r);
        const fmt_role_row *role = fmt_role_get((fmt_role)r);

        if (!names)
            continue;
        for (int64_t l = 0; l < (role->per_layer ? s->model.layers : 1); l++)
            for (int p = FMT_WEIGHT; p <= (names->bias ? FMT_BIAS : FMT_WEIGHT); p++) {
                const fmt_part part =
                    p == FMT_WEIGHT && is_packed(s, (fmt_role)r, l) ? FMT_QWEIGHT : (fmt_part)p;
                const fmt_slot *slot = fmt_src_slot(s, (fmt_ref){ (fmt_role)r, l, part });
                int64_t covered = 0;

                for (size_t i = 0; i < slot->n_seg; i++) {
                    const fmt_box b = s->seg[slot->seg0 + i].box;

                    covered += (b.n1 - b.n0) * (b.k1 - b.k0);
                }
                if (!slot->present || covered != slot->N * slot->K)
                    return q_fail(err, Q_EFORMAT, "%s: %s of layer %lld is missing or incomplete",
                                  s->dir, role->name, (long long)l);
            }
    }
    return Q_OK;
}

/* The model directory: path itself, else the one `<T>-gpu` below it. */
static q_status resolve(char **out, const char *path, q_err *err)
{
    q_status st = Q_OK;
    DIR *d = opendir(path);
    struct dirent *e;
    char *found = NULL;

    if (!*path)
        Q_FAIL(err, Q_EARG, "the path of the model is empty");
    if (!d && errno == ENOENT)
        Q_FAIL(err, Q_ENOINPUT,
               "%s: no such model directory or archive: name a directory with config.json or "
               "config.ini, or a .h5 file",
               path);
    if (!d && errno == ENOTDIR)
        Q_FAIL(err, Q_EFORMAT,
               "%s: neither a directory nor an HDF5 file; a model is a directory with config.json "
               "or config.ini, or an archive",
               path);
    if (!d)
        Q_FAIL_ERRNO(err, Q_EIO, "%s: cannot open the model directory", path);
    if (faccessat(dirfd(d), "config.json", F_OK, 0) == 0 ||
        faccessat(dirfd(d), "config.ini", F_OK, 0) == 0) {
        if (!(*out = q_strdup(path)))
            Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
        goto out;
    }
    while ((e = readdir(d))) {
        const size_t n = strlen(e->d_name);

        if (n < 5 || strcmp(e->d_name + n - 4, "-gpu") != 0)
            continue;
        if (found)
            Q_FAIL(err, Q_EARG, "%s: holds several models; name one of its *-gpu directories",
                   path);
        if (!(found = q_path_join(path, e->d_name)))
            Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    }
    if (!found)
        Q_FAIL(err, Q_ENOINPUT,
               "%s: no config.json (Hugging Face) and no config.ini (FT) in it: name the directory "
               "that holds one",
               path);
    *out = found;
    found = NULL;
out:
    q_free(found);
    if (d)
        closedir(d);
    return st;
}

q_status fmt_src_open(fmt_src **out, const char *path, q_err *err)
{
    q_status st = Q_OK;
    fmt_src *s = q_calloc(1, sizeof *s);
    char *ini = NULL;

    if (!s)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    s->layout = (fmt_ft_layout){ .ranks = 1, .store = FMT_F16 };
    s->packing.layout = fmt_pack_layout_get(FMT_PACK_GPTQ);
    if (fmt_h5_is_file(path)) {
        s->kind = "h5";
        if (!(s->dir = q_strdup(path)))
            Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
        Q_TRY(fmt_bind_h5(s, err));
    } else {
        Q_TRY(resolve(&s->dir, path, err));
        if (!(ini = q_path_join(s->dir, "config.ini")))
            Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
        s->kind = q_path_exists(ini) ? "ft" : "hf"; /* an FT directory also carries config.json */
        Q_TRY(strcmp(s->kind, "ft") == 0 ? fmt_bind_ft(s, err) : fmt_bind_hf(s, err));
    }
    Q_TRY(check_bound(s, err));
    *out = s;
    s = NULL;
out:
    q_free(ini);
    fmt_src_close(s);
    return st;
}

void fmt_src_close(fmt_src *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n_ft_file; i++)
        q_free(s->ft_file[i].name);
    q_free(s->ft_file);
    q_free(s->slot);
    q_free(s->seg);
    fmt_hf_close(s->hf);
    fmt_arch_close(s->arch);
    fmt_json_free(s->doc);
    q_free(s->dir);
    q_free(s);
}

const fmt_model *fmt_src_model(const fmt_src *s)
{
    return &s->model;
}

const fmt_gen_config *fmt_src_gen(const fmt_src *s)
{
    return &s->gen;
}

q_status fmt_src_output_apart(const fmt_src *s, const char *path, q_err *err)
{
    q_status st = Q_OK;
    char *dir = q_path_dir(path);

    if (!dir)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    if (q_path_same(path, s->dir))
        Q_FAIL(err, Q_EARG, "%s: the output is the input: choose another --output", path);
    if (q_path_same(dir, s->dir))
        Q_FAIL(err, Q_EARG,
               "%s: lies in the directory of the input, which is never changed: choose another "
               "--output",
               path);
out:
    q_free(dir);
    return st;
}

static q_status stamp_file(q_sha256 *h, const char *path, q_err *err)
{
    struct stat sb;
    int64_t v[3];

    if (stat(path, &sb) != 0)
        return q_fail_errno(err, Q_EIO, errno, "%s: stat", path);
    v[0] = (int64_t)sb.st_size;
    v[1] = (int64_t)sb.st_mtim.tv_sec;
    v[2] = (int64_t)sb.st_mtim.tv_nsec;
    q_sha256_update(h, v, sizeof v);
    return Q_OK;
}

q_status fmt_src_stamp(const fmt_src *s, char hex[65], q_err *err)
{
    q_status st = Q_OK;
    const size_t n_hf = s->hf ? fmt_hf_count(s->hf) : 0;
    q_sha256 h;
    uint8_t digest[32];
    char *path = NULL;

    q_sha256_init(&h);
    if (s->arch)
        Q_TRY(stamp_file(&h, s->dir, err));
    for (size_t i = 0; i < n_hf; i++) /* a file is asked once for each of its tensors */
        Q_TRY(stamp_file(&h, fmt_hf_shard_path(s->hf, i), err));
    for (size_t i = 0; i < s->n_ft_file; i++) {
        q_free(path);
        if (!(path = q_path_join(s->dir, s->ft_file[i].name)))
            Q_FAIL(err, Q_ENOMEM, "%s: no memory", s->dir);
        Q_TRY(stamp_file(&h, path, err));
    }
    q_sha256_final(&h, digest);
    q_hex(hex, digest, sizeof digest);
out:
    q_free(path);
    return st;
}

const char *fmt_src_dir(const fmt_src *s)
{
    return s->dir;
}

fmt_files fmt_src_files(const fmt_src *s)
{
    return (fmt_files){ .dir = s->dir, .arch = s->arch };
}

const fmt_packing *fmt_src_packing(const fmt_src *s)
{
    return s->packing.bits ? &s->packing : NULL;
}

const char *fmt_src_kind(const fmt_src *s)
{
    return s->kind;
}

int fmt_src_ranks(const fmt_src *s)
{
    return s->layout.ranks;
}

const fmt_json *fmt_src_config(const fmt_src *s)
{
    return s->config;
}

const fmt_ft_layout *fmt_src_layout(const fmt_src *s)
{
    return &s->layout;
}

const char *fmt_part_name(fmt_part p)
{
    static const char *const name[FMT_PARTS] = {
        [FMT_WEIGHT] = "weight",
        [FMT_BIAS] = "bias",
        [FMT_CODES] = "codes",
        [FMT_CODES_COL] = "codes.col",
        [FMT_SCALE_X] = "scale_x",
        [FMT_SCALE_Y] = "scale_y",
        [FMT_SCALE_W] = "scale_w",
        [FMT_SCALE_ACC] = "scale_acc",
        [FMT_SCALE_W_COL] = "scale_w.col",
        [FMT_SCALE_ACC_COL] = "scale_acc.col",
        [FMT_SMOOTHER] = "smoother",
        [FMT_K_SCALE] = "k_scale",
        [FMT_V_SCALE] = "v_scale",
        [FMT_FACTORS] = "factors",
        [FMT_STAT_ABSMAX] = "absmax",
        [FMT_STAT_H_DIAG] = "h_diag",
        [FMT_STAT_LOSS] = "loss",
        [FMT_QWEIGHT] = "qweight",
        [FMT_QZEROS] = "qzeros",
        [FMT_QSCALES] = "scales",
        [FMT_G_IDX] = "g_idx",
    };

    return name[p];
}

int fmt_src_has(const fmt_src *s, fmt_ref ref)
{
    return fmt_src_slot(s, ref)->present;
}

fmt_box fmt_src_shape(const fmt_src *s, fmt_ref ref)
{
    const fmt_slot *slot = fmt_src_slot(s, ref);

    return (fmt_box){ 0, slot->N, 0, slot->K };
}

fmt_dtype fmt_src_dtype(const fmt_src *s, fmt_ref ref)
{
    return fmt_src_slot(s, ref)->dtype;
}

const char *fmt_src_name(const fmt_src *s, fmt_ref ref, int64_t n)
{
    const fmt_slot *slot = fmt_src_slot(s, ref);

    for (size_t i = 0; i < slot->n_seg; i++) {
        const fmt_seg *g = &s->seg[slot->seg0 + i];

        if (n >= g->box.n0 && n < g->box.n1)
            return s->ft_file ? s->ft_file[g->store].name : fmt_src_tensor(s, g->store)->name;
    }
    return "?";
}

uint64_t fmt_src_bytes(const fmt_src *s)
{
    return s->bytes;
}

/* An open FT file, or nothing for the others, which are open all the time: an FT directory can hold
 * more files than a process may have descriptors. */
static q_status seg_open(q_file **f, const fmt_src *s, const fmt_seg *g, q_err *err)
{
    q_status st = Q_OK;

    if (!s->ft_file)
        return Q_OK;
    Q_TRY(q_file_open_in(f, s->dir, s->ft_file[g->store].name, err));
    if (q_file_bytes(*f) != s->ft_file[g->store].bytes)
        Q_FAIL(err, Q_EFORMAT, "%s: %llu bytes, had %llu when the model was opened",
               q_file_path(*f), (unsigned long long)q_file_bytes(*f),
               (unsigned long long)s->ft_file[g->store].bytes);
out:
    return st;
}

static q_status seg_read(const fmt_src *s, const q_file *f, const fmt_seg *g, uint64_t from,
                         size_t n, void *dst, q_err *err)
{
    return s->ft_file ? q_file_pread(f, dst, n, from, err)
                      : fmt_src_tensor_read(s, g->store, from, n, dst, err);
}

/* b: box inside g->box.  dst: element (n0, k0) of b, rows ld elements apart. */
static q_status read_plain(const fmt_src *s, const q_file *f, const fmt_seg *g, fmt_box b,
                           size_t es, char *dst, int64_t ld, q_err *err)
{
    q_status st = Q_OK;
    const int64_t cols = b.k1 - b.k0, row = g->row0 + (b.n0 - g->box.n0), col = b.k0 - g->box.k0;
    const uint64_t first = (uint64_t)(row * g->ld + col) * es;

    if (cols == g->ld && cols == ld) {
        Q_TRY(seg_read(s, f, g, first, (size_t)((b.n1 - b.n0) * cols) * es, dst, err));
    } else {
        for (int64_t n = 0; n < b.n1 - b.n0; n++)
            Q_TRY(seg_read(s, f, g, first + (uint64_t)(n * g->ld) * es, (size_t)cols * es,
                           dst + (size_t)(n * ld) * es, err));
    }
out:
    return st;
}

static q_status read_turned(const fmt_src *s, const q_file *f, const fmt_seg *g, fmt_box b,
                            size_t es, char *dst, int64_t ld, q_err *err)
{
    q_status st = Q_OK;
    const int64_t N = b.n1 - b.n0, col = g->at + (b.n0 - g->box.n0),
                  row_bytes = g->ld * (int64_t)es;
    const int64_t fit = (int64_t)STRIP_BYTES / row_bytes, rows = fit > 0 ? fit : 1;
    const int64_t strip = rows < b.k1 - b.k0 ? rows : b.k1 - b.k0;
    char *buf = q_malloc((size_t)(strip * row_bytes));

    if (!buf)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %lld bytes", s->dir,
               (long long)(strip * row_bytes));
    for (int64_t k = b.k0; k < b.k1; k += strip) {
        const int64_t n_k = k + strip < b.k1 ? strip : b.k1 - k;

        Q_TRY(seg_read(s, f, g, (uint64_t)((k - g->box.k0) * row_bytes), (size_t)(n_k * row_bytes),
                       buf, err));
        fmt_turn(dst + (size_t)(k - b.k0) * es, ld, buf + (size_t)col * es, g->ld, n_k, N, es);
    }
out:
    q_free(buf);
    return st;
}

int fmt_src_turned(const fmt_src *s, fmt_ref ref)
{
    const fmt_slot *slot = fmt_src_slot(s, ref);

    return slot->n_seg > 0 && s->seg[slot->seg0].transposed;
}

q_status fmt_src_read(const fmt_src *s, fmt_ref ref, fmt_box box, void *dst, q_err *err)
{
    return fmt_src_read_into(s, ref, box, dst, box.k1 - box.k0, err);
}

q_status fmt_src_read_into(const fmt_src *s, fmt_ref ref, fmt_box box, void *dst, int64_t ld,
                           q_err *err)
{
    q_status st = Q_OK;
    const fmt_slot *slot = fmt_src_slot(s, ref);
    const size_t es = fmt_dtype_bytes(slot->dtype);
    q_file *f = NULL;

    assert(slot->present && box.n0 >= 0 && box.n0 <= box.n1 && box.n1 <= slot->N && box.k0 >= 0 &&
           box.k0 <= box.k1 && box.k1 <= slot->K && ld >= box.k1 - box.k0);
    for (size_t i = 0; i < slot->n_seg; i++) {
        const fmt_seg *g = &s->seg[slot->seg0 + i];
        const fmt_box b = { box.n0 > g->box.n0 ? box.n0 : g->box.n0,
                            box.n1 < g->box.n1 ? box.n1 : g->box.n1,
                            box.k0 > g->box.k0 ? box.k0 : g->box.k0,
                            box.k1 < g->box.k1 ? box.k1 : g->box.k1 };
        char *at;

        if (b.n0 >= b.n1 || b.k0 >= b.k1)
            continue;
        at = (char *)dst + (size_t)((b.n0 - box.n0) * ld + (b.k0 - box.k0)) * es;
        Q_TRY(seg_open(&f, s, g, err));
        Q_TRY((g->transposed ? read_turned : read_plain)(s, f, g, b, es, at, ld, err));
        q_file_close(f);
        f = NULL;
    }
out:
    q_file_close(f);
    return st;
}
