/* What a model archive holds, by the HDF5 library.  Runs in a process of its own.
 *
 * One walk over the groups collects every dataset: its name, type, shape and place in the file, or
 * the places of its chunks.  All numbers come from the file and are checked before they are used.
 * Filters and chunks of other programs are refused with the command that undoes them.  Attributes
 * of a module are checked against the shapes of its arrays; the shapes are checked against
 * config.json by the binder. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "formats/arch_impl.h"
#include "formats/h5file.h"

/* ---- the walk ---------------------------------------------------------------------------------
 */

typedef struct walk {
    fmt_arch *a;
    const fmt_h5 *h;
    const char *group, *module; /* path of the group; name of the module, NULL outside one */
    fmt_packing p;              /* of this module */
    fmt_lost lost;              /* of this module */
    int64_t in, out;            /* of this module */
    int has_codes;
} walk;

static q_status path_of(char path[FMT_H5_NAME], const walk *w, const char *member, q_err *err)
{
    return snprintf(path, FMT_H5_NAME, "%s/%s", w->group, member) < FMT_H5_NAME
               ? Q_OK
               : q_fail(err, Q_EFORMAT, "%s: '%s/%.80s...' is too long a name", w->a->path,
                        w->group, member);
}

/* The dataset at path becomes the tensor `name`. */
static q_status add_tensor(const walk *w, const char *path, const char *name, q_err *err)
{
    q_status st = Q_OK;
    fmt_h5_info info;
    fmt_arch_entry *e = NULL;

    Q_TRY(fmt_h5_stat(w->h, path, &info, err));
    Q_TRY(fmt_arch_add(&e, &w->a->tensors, name, err));
    e->lost = w->lost;
    e->t.dtype = info.dtype;
    e->t.ndim = info.ndim;
    memcpy(e->t.shape, info.shape, sizeof info.shape);
    Q_TRY(fmt_h5_find_chunks(w->h, path, &e->chunks, err));
    e->t.bytes = info.bytes;
    if (e->chunks.n == 0)
        Q_TRY(fmt_h5_place(w->h, path, &e->t.offset, &e->t.bytes, err));
out:
    return st;
}

static q_status on_leaf(void *self, const char *member, q_err *err)
{
    q_status st = Q_OK;
    walk *w = self;
    char path[FMT_H5_NAME], name[FMT_H5_NAME];
    fmt_h5_info info;

    Q_TRY(path_of(path, w, member, err));
    snprintf(name, sizeof name, "%s.%s", w->module, member); /* shorter than path */
    Q_TRY(add_tensor(w, path, name, err));
    if (strcmp(member, "qweight") != 0)
        goto out;
    w->has_codes = 1;
    Q_TRY(fmt_h5_stat(w->h, path, &info, err));
    if (info.ndim != 2 || info.shape[0] != w->in / fmt_packing_per_word(&w->p) ||
        info.shape[1] != w->out)
        Q_FAIL(err, Q_ESHAPE,
               "%s: '%s' is [%lld, %lld], its module has %lld inputs and %lld outputs in %d bits",
               w->a->path, path, (long long)info.shape[0], (long long)info.shape[1],
               (long long)w->in, (long long)w->out, w->p.bits);
out:
    return st;
}

/* An attribute that need not be there. */
static q_status read_real(const walk *w, const char *key, double *v, q_err *err)
{
    q_status st = Q_OK;
    int yes;

    Q_TRY(fmt_h5_has_attr(w->h, w->group, key, &yes, err));
    if (yes)
        Q_TRY(fmt_h5_get_real(w->h, w->group, key, v, err));
out:
    return st;
}

/* The attributes that say how the words of a module are to be read, and what they lost. */
static q_status read_module(walk *w, q_err *err)
{
    q_status st = Q_OK;
    const fmt_h5 *h = w->h;
    const char *g = w->group;
    int64_t bits = 0, sym = 0, desc = 0, zero = 0;
    char axis[8];

    w->p = (fmt_packing){ .kind = FMT_PACK_H5, .layout = fmt_pack_layout_get(FMT_PACK_H5) };
    Q_TRY(fmt_h5_get_str(h, g, "quant_method", w->p.method, sizeof w->p.method, err));
    Q_TRY(fmt_h5_get_int(h, g, "bits", &bits, err));
    Q_TRY(fmt_h5_get_int(h, g, "group_size", &w->p.group, err));
    Q_TRY(fmt_h5_get_int(h, g, "sym", &sym, err));
    Q_TRY(fmt_h5_get_int(h, g, "desc_act", &desc, err));
    Q_TRY(fmt_h5_get_int(h, g, "zero_offset", &zero, err));
    Q_TRY(fmt_h5_get_str(h, g, "pack_axis", axis, sizeof axis, err));
    Q_TRY(fmt_h5_get_int(h, g, "in_features", &w->in, err));
    Q_TRY(fmt_h5_get_int(h, g, "out_features", &w->out, err));
    if ((bits != 4 && bits != 8) || w->p.group < -1 || w->p.group == 0 || zero != 0 ||
        strcmp(axis, "K") != 0)
        Q_FAIL(
            err, Q_EUNSUPPORTED,
            "%s: '%s' has bits %lld, group_size %lld, zero_offset %lld, pack_axis '%s': wanted 4 "
            "or 8, -1 or more, 0, 'K'",
            w->a->path, g, (long long)bits, (long long)w->p.group, (long long)zero, axis);
    w->p.bits = (int)bits;
    w->p.sym = sym != 0;
    w->p.desc_act = desc != 0;
    Q_TRY(read_real(w, "error_rel", &w->lost.error_rel, err));
    Q_TRY(read_real(w, "damp", &w->lost.damp, err));
out:
    return st;
}

/* All modules of an archive are packed alike, but for zeros in the middle and the order of groups.
 */
static q_status merge_packing(walk *w, q_err *err)
{
    fmt_packing *all = &w->a->packing;

    if (!all->bits) {
        *all = w->p;
        return Q_OK;
    }
    if (all->bits != w->p.bits || all->group != w->p.group)
        return q_fail(err, Q_EUNSUPPORTED,
                      "%s: '%s' has %d bits and groups of %lld, the modules before %d and %lld: "
                      "mixed archives are not read",
                      w->a->path, w->group, w->p.bits, (long long)w->p.group, all->bits,
                      (long long)all->group);
    all->sym &= w->p.sym;
    all->desc_act |= w->p.desc_act;
    return Q_OK;
}

static q_status on_tensor(void *self, const char *member, q_err *err)
{
    q_status st = Q_OK;
    const walk *w = self;
    char path[FMT_H5_NAME];
    walk in = { .a = w->a, .h = w->h, .group = path, .module = member, .lost = { NAN, NAN } };
    int group;

    Q_TRY(path_of(path, w, member, err));
    Q_TRY(fmt_h5_is_group(w->h, path, &group, err));
    if (!group) {
        Q_TRY(add_tensor(&in, path, member, err));
        goto out;
    }
    Q_TRY(read_module(&in, err));
    Q_TRY(fmt_h5_each(w->h, path, on_leaf, &in, err));
    if (!in.has_codes)
        Q_FAIL(err, Q_EFORMAT, "%s: '%s/qweight' is missing", w->a->path, path);
    Q_TRY(merge_packing(&in, err));
out:
    return st;
}

static q_status on_path(void *self, const char *member, q_err *err)
{
    q_status st = Q_OK;
    const walk *w = self;
    char path[FMT_H5_NAME];

    Q_TRY(path_of(path, w, member, err));
    Q_TRY(add_tensor(w, path, path, err)); /* a path cannot be taken for a name of a checkpoint */
out:
    return st;
}

static q_status on_group(void *self, const char *member, q_err *err)
{
    q_status st = Q_OK;
    const walk *w = self;
    char path[FMT_H5_NAME];

    Q_TRY(path_of(path, w, member, err));
    Q_TRY(fmt_h5_each(w->h, path, on_path,
                      &(walk){ .a = w->a, .h = w->h, .group = path, .lost = w->lost }, err));
out:
    return st;
}

static q_status on_file(void *self, const char *member, q_err *err)
{
    q_status st = Q_OK;
    walk *w = self;
    char path[FMT_H5_NAME];
    fmt_arch_entry *e = NULL;
    int group;

    Q_TRY(path_of(path, w, member, err));
    Q_TRY(fmt_h5_is_group(w->h, path, &group, err));
    if (group) {
        if (strcmp(path, "/meta/tokenizer") != 0)
            Q_FAIL(err, Q_EFORMAT, "%s: '%s' is a group, wanted a file", w->a->path, path);
        Q_TRY(
            fmt_h5_each(w->h, path, on_file, &(walk){ .a = w->a, .h = w->h, .group = path }, err));
        goto out;
    }
    if (!q_name_is_plain(member) || fmt_arch_file_find(w->a, member) != FMT_NONE)
        Q_FAIL(err, Q_EFORMAT, "%s: '%s' is there twice, or no plain file name", w->a->path, path);
    Q_TRY(fmt_arch_add(&e, &w->a->files, member, err));
    Q_TRY(fmt_h5_place(w->h, path, &e->t.offset, &e->t.bytes, err));
out:
    return st;
}

/* ---- all of it --------------------------------------------------------------------------------
 */

static q_status check_format(const fmt_h5 *h, const char *path, q_err *err)
{
    q_status st = Q_OK;
    char format[64];
    int64_t version = 0;
    int yes;

    Q_TRY(fmt_h5_has_attr(h, "/", "format", &yes, err)); /* a damaged file is not a foreign one */
    if (!yes || fmt_h5_get_str(h, "/", "format", format, sizeof format, NULL) != Q_OK ||
        strcmp(format, FMT_ARCH_FORMAT) != 0)
        Q_FAIL(err, Q_EFORMAT,
               "%s: is HDF5, but no model archive: its attribute 'format' is not '%s'", path,
               FMT_ARCH_FORMAT);
    Q_TRY(fmt_h5_get_int(h, "/", "format_version", &version, err));
    if (version < 1 || version > FMT_ARCH_VERSION)
        Q_FAIL(err, Q_EUNSUPPORTED,
               "%s: format_version %lld, up to %d is read: use a later version of this program",
               path, (long long)version, FMT_ARCH_VERSION);
out:
    return st;
}

/* What is there besides tensors, in groups of a layer or module: "/kv", "/factors", "/stats". */
static q_status walk_groups(fmt_arch *a, const fmt_h5 *h, const char *group, q_err *err)
{
    q_status st = Q_OK;
    int yes;

    Q_TRY(fmt_h5_has(h, group, &yes, err));
    if (yes)
        Q_TRY(fmt_h5_each(h, group, on_group,
                          &(walk){ .a = a, .h = h, .group = group, .lost = { NAN, NAN } }, err));
out:
    return st;
}

q_status fmt_arch_walk(fmt_arch *a, q_err *err)
{
    q_status st = Q_OK;
    fmt_h5 *h = NULL;
    walk w = { 0 };

    Q_TRY(fmt_h5_open(&h, a->path, err));
    Q_TRY(check_format(h, a->path, err));
    w = (walk){ .a = a, .h = h, .group = "/meta" };
    Q_TRY(fmt_h5_each(h, "/meta", on_file, &w, err));
    w.group = "/tensors";
    Q_TRY(fmt_h5_each(h, "/tensors", on_tensor, &w, err));
    Q_TRY(walk_groups(a, h, "/kv", err));
    Q_TRY(walk_groups(a, h, "/factors", err));
    Q_TRY(walk_groups(a, h, "/stats", err));
out:
    fmt_h5_close(h);
    return st;
}
