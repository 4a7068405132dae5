/* Binds named tensors, of a Hugging Face directory or of an archive, to roles by the names of the
 * family.
 *
 * Every tensor must be used, be on the ignore list of the family, or be a bias of zeros (quantizers
 * of 2023 wrote those for every linear): anything else would change the result silently. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/source_impl.h"

/* ---- tensors by name --------------------------------------------------------------------------
 */

static size_t count_tensors(const fmt_src *s)
{
    return s->hf ? fmt_hf_count(s->hf) : fmt_arch_count(s->arch);
}

const fmt_tensor *fmt_src_tensor(const fmt_src *s, size_t i)
{
    return s->hf ? fmt_hf_tensor(s->hf, i) : fmt_arch_tensor(s->arch, i);
}

size_t fmt_src_find(const fmt_src *s, const char *name)
{
    return s->hf ? fmt_hf_find(s->hf, name) : fmt_arch_find(s->arch, name);
}

const char *fmt_src_holder(const fmt_src *s, size_t i)
{
    return s->hf ? fmt_hf_shard_path(s->hf, i) : fmt_arch_path(s->arch);
}

q_status fmt_src_tensor_read(const fmt_src *s, size_t i, uint64_t from, size_t n, void *dst,
                             q_err *err)
{
    return s->hf ? fmt_hf_read(s->hf, i, from, n, dst, err)
                 : fmt_arch_read(s->arch, i, from, n, dst, err);
}

/* ---- roles ------------------------------------------------------------------------------------
 */

q_status fmt_src_check_shape(const fmt_src *s, const fmt_tensor *t, int64_t rows, int64_t cols,
                             q_err *err)
{
    const int vector = cols == 0;
    char found[128] = "", wanted[64];

    if (t->ndim == (vector ? 1 : 2) && t->shape[0] == rows && (vector || t->shape[1] == cols))
        return Q_OK;
    for (int i = 0; i < t->ndim && i < 6; i++)
        snprintf(found + strlen(found), sizeof found - strlen(found), "%s%lld", i ? ", " : "",
                 (long long)t->shape[i]);
    snprintf(wanted, sizeof wanted, vector ? "%lld" : "%lld, %lld", (long long)rows,
             (long long)cols);
    return q_fail(err, Q_ESHAPE, "%s: '%s' is [%s], config.json wants [%s]", s->dir, t->name, found,
                  wanted);
}

void fmt_src_use(fmt_src *s, size_t i, char *used)
{
    if (!used[i])
        s->bytes += fmt_src_tensor(s, i)->bytes;
    used[i] = 1;
}

/* The tensor `name` covers rows n0 .. n0 + rows of the slot. */
static q_status bind_tensor(fmt_src *s, fmt_slot *slot, const char *name, int64_t n0, int64_t rows,
                            char *used, q_err *err)
{
    q_status st = Q_OK;
    const size_t i = fmt_src_find(s, name);
    const fmt_tensor *t;

    if (i == FMT_NONE)
        Q_FAIL(err, Q_EFORMAT, "%s: tensor '%s' is missing", s->dir, name);
    t = fmt_src_tensor(s, i);
    Q_TRY(fmt_src_check_shape(s, t, rows, slot->K == 1 ? 0 : slot->K, err));
    if (!fmt_dtype_is_float(t->dtype))
        Q_FAIL(err, Q_EUNSUPPORTED, "%s: '%s' is %s, wanted F32, F16 or BF16", fmt_src_holder(s, i),
               name, fmt_dtype_st_name(t->dtype));
    if (slot->n_seg > 0 && slot->dtype != t->dtype)
        Q_FAIL(err, Q_EUNSUPPORTED, "%s: '%s' is %s, its sibling is %s: one type is needed",
               fmt_src_holder(s, i), name, fmt_dtype_st_name(t->dtype),
               fmt_dtype_st_name(slot->dtype));
    slot->dtype = t->dtype;
    fmt_src_use(s, i, used);
    Q_TRY(fmt_src_add_seg(
        s, slot, &(fmt_seg){ .box = { n0, n0 + rows, 0, slot->K }, .store = i, .ld = slot->K },
        err));
out:
    return st;
}

static q_status bind_slot(fmt_src *s, const fmt_name_row *names, int64_t layer, fmt_part part,
                          char *used, q_err *err)
{
    q_status st = Q_OK;
    const fmt_role_row *role = fmt_role_get(names->role);
    fmt_slot *slot = fmt_src_slot(s, (fmt_ref){ names->role, layer, part });
    char name[FMT_NAME_CAP];
    int64_t n0 = 0;

    slot->present = 1;
    slot->N = fmt_role_rows(role, &s->model);
    slot->K = part == FMT_BIAS ? 1 : fmt_dim_size(role->cols, &s->model);
    for (int p = 0; p < FMT_MAX_PIECES && names->tensor[p]; p++) {
        const int64_t rows = fmt_piece_rows(names, p, &s->model);

        if (!fmt_name_make(name, sizeof name, names->tensor[p], layer,
                           part == FMT_BIAS ? ".bias" : ".weight"))
            Q_FAIL(err, Q_EBUG, "tensor name of %s is too long", role->name);
        Q_TRY(bind_tensor(s, slot, name, n0, rows, used, err));
        n0 += rows;
    }
out:
    return st;
}

static q_status bind_role(fmt_src *s, const fmt_name_row *names, int64_t layer, char *used,
                          q_err *err)
{
    q_status st = Q_OK;
    int packed = 0;

    Q_TRY(fmt_bind_packed(&packed, s, names, layer, used, err));
    if (!packed)
        Q_TRY(bind_slot(s, names, layer, FMT_WEIGHT, used, err));
    if (names->bias)
        Q_TRY(bind_slot(s, names, layer, FMT_BIAS, used, err));
out:
    return st;
}

static q_status bind_roles(fmt_src *s, char *used, q_err *err)
{
    q_status st = Q_OK;
    const fmt_family *f = s->model.family;
    const fmt_name_row *embd = fmt_family_names(f, FMT_TOK_EMBD);

    for (int i = 0; i < FMT_MAX_NAMES && f->names[i].tensor[0]; i++) {
        fmt_name_row names = f->names[i];
        const int64_t layers = fmt_role_get(names.role)->per_layer ? s->model.layers : 1;

        if (names.role == FMT_LM_HEAD && s->model.tied)
            names.tensor[0] = embd->tensor[0];
        for (int64_t l = 0; l < layers; l++)
            Q_TRY(bind_role(s, &names, l, used, err));
    }
out:
    return st;
}

/* ---- what is left over ------------------------------------------------------------------------
 */

/* A bias of a linear that the family has without one. */
static int is_foreign_bias(const fmt_src *s, const char *name)
{
    const fmt_family *f = s->model.family;
    char pattern[FMT_NAME_CAP];
    int64_t layer = 0;

    for (int i = 0; i < FMT_MAX_NAMES && f->names[i].tensor[0]; i++)
        for (int p = 0; p < FMT_MAX_PIECES && f->names[i].tensor[p]; p++) {
            snprintf(pattern, sizeof pattern, "%s.bias", f->names[i].tensor[p]);
            if (!f->names[i].bias && fmt_role_get(f->names[i].role)->quant &&
                fmt_name_match(pattern, name, &layer) && layer < s->model.layers)
                return 1;
        }
    return 0;
}

static q_status check_zero(const fmt_src *s, size_t i, q_err *err)
{
    q_status st = Q_OK;
    const fmt_tensor *t = fmt_src_tensor(s, i);
    char buf[4096];

    for (uint64_t at = 0; at < t->bytes; at += sizeof buf) {
        const size_t n = t->bytes - at < sizeof buf ? (size_t)(t->bytes - at) : sizeof buf;

        Q_TRY(fmt_src_tensor_read(s, i, at, n, buf, err));
        for (size_t k = 0; k < n; k++)
            if (buf[k] != 0)
                Q_FAIL(err, Q_EUNSUPPORTED, "%s: '%s' is not zero, family %s has no such bias",
                       fmt_src_holder(s, i), t->name, s->model.family->model_type);
    }
out:
    return st;
}

static q_status check_unused(const fmt_src *s, const char *used, q_err *err)
{
    q_status st = Q_OK;
    const fmt_family *f = s->model.family;
    char head[FMT_NAME_CAP];

    snprintf(head, sizeof head, "%s.weight", fmt_family_names(f, FMT_LM_HEAD)->tensor[0]);
    for (size_t i = 0; i < count_tensors(s); i++) {
        const char *name = fmt_src_tensor(s, i)->name;
        int64_t layer = 0;
        int ignored = s->model.tied && fmt_name_match(head, name, &layer);

        for (int k = 0; k < FMT_MAX_IGNORE && f->ignore[k]; k++)
            ignored |= fmt_name_match(f->ignore[k], name, &layer);
        if (used[i] || ignored)
            continue;
        if (!is_foreign_bias(s, name))
            Q_FAIL(err, Q_EUNSUPPORTED,
                   "%s: tensor '%s' is not part of family %s: refused, because "
                   "leaving it out would change the model",
                   fmt_src_holder(s, i), name, f->model_type);
        Q_TRY(check_zero(s, i, err));
    }
out:
    return st;
}

/* ---- all of it --------------------------------------------------------------------------------
 */

/* A vector of floats [n] that only archives have. */
static q_status bind_vector(fmt_src *s, fmt_ref ref, const char *name, int64_t n, char *used,
                            q_err *err)
{
    q_status st = Q_OK;
    fmt_slot *slot = fmt_src_slot(s, ref);

    slot->present = 1;
    slot->N = n;
    slot->K = 1;
    Q_TRY(bind_tensor(s, slot, name, 0, n, used, err));
    if (slot->dtype != FMT_F32)
        Q_FAIL(err, Q_EFORMAT, "%s: '%s' is %s, wanted F32", s->dir, name,
               fmt_dtype_st_name(slot->dtype));
out:
    return st;
}

/* Scales of an int8 key/value cache: of all heads, or none. */
static q_status bind_kv(fmt_src *s, char *used, q_err *err)
{
    q_status st = Q_OK;
    char name[FMT_NAME_CAP];

    for (int64_t l = 0; l < s->model.layers; l++)
        for (int v = 0; v < 2; v++) {
            const fmt_ref ref = { FMT_ATTN_QKV, l, v ? FMT_V_SCALE : FMT_K_SCALE };

            snprintf(name, sizeof name, "/kv/layers.%lld/%c_scale", (long long)l, v ? 'v' : 'k');
            if (fmt_src_find(s, name) == FMT_NONE && l == 0 && !v)
                return Q_OK; /* none at all */
            Q_TRY(bind_vector(s, ref, name, s->model.n_kv, used, err));
        }
    s->layout.sets |= FMT_FT_KV8;
out:
    return st;
}

/* Factors of AWQ, of any linear. */
static q_status bind_factors(fmt_src *s, char *used, q_err *err)
{
    q_status st = Q_OK;
    char name[FMT_NAME_CAP];

    for (int64_t i = 0; i < s->model.layers * FMT_ROLES; i++) {
        const fmt_ref ref = { (fmt_role)(i % FMT_ROLES), i / FMT_ROLES, FMT_FACTORS };
        const fmt_role_row *role = fmt_role_get(ref.role);

        snprintf(name, sizeof name, "/factors/layers.%lld/%s", (long long)ref.layer, role->name);
        if (role->quant && fmt_src_find(s, name) != FMT_NONE)
            Q_TRY(bind_vector(s, ref, name, fmt_dim_size(role->cols, &s->model), used, err));
    }
out:
    return st;
}

/* "/stats/<module>/<leaf>" of a piece; its tensor, FMT_NONE: absent */
static size_t find_stat(char name[FMT_NAME_CAP], const fmt_src *s, fmt_ref ref, const char *piece)
{
    char module[FMT_NAME_CAP];

    if (!fmt_name_make(module, sizeof module, piece, ref.layer, "") ||
        snprintf(name, FMT_NAME_CAP, "/stats/%s/%s", module, fmt_part_name(ref.part)) >=
            FMT_NAME_CAP)
        return FMT_NONE;
    return fmt_src_find(s, name);
}

/* One statistic of a linear, [n] for each of its pieces; of all of them, or none. */
static q_status bind_stat(fmt_src *s, fmt_ref ref, int64_t n, char *used, q_err *err)
{
    q_status st = Q_OK;
    const char *const *piece = fmt_family_names(s->model.family, ref.role)->tensor;
    fmt_slot *slot = fmt_src_slot(s, ref);
    char name[FMT_NAME_CAP];
    int any = 0;

    for (int p = 0; p < FMT_MAX_PIECES && piece[p]; p++)
        any |= find_stat(name, s, ref, piece[p]) != FMT_NONE;
    for (int p = 0; any && p < FMT_MAX_PIECES && piece[p]; p++) {
        const size_t i = find_stat(name, s, ref, piece[p]);

        if (i == FMT_NONE)
            Q_FAIL(err, Q_EFORMAT, "%s: '%s' is missing, its sibling is there", s->dir, name);
        Q_TRY(fmt_src_check_shape(s, fmt_src_tensor(s, i), n, 0, err));
        if (fmt_src_tensor(s, i)->dtype != FMT_F32)
            Q_FAIL(err, Q_EFORMAT, "%s: '%s' is %s, wanted F32", s->dir, name,
                   fmt_dtype_st_name(fmt_src_tensor(s, i)->dtype));
        fmt_src_use(s, i, used);
        Q_TRY(fmt_src_add_seg(s, slot, &(fmt_seg){ .box = { p, p + 1, 0, n }, .store = i, .ld = n },
                              err));
        slot->N = p + 1;
    }
    slot->present = any;
    slot->dtype = FMT_F32;
    slot->K = n;
out:
    return st;
}

static q_status bind_stats(fmt_src *s, char *used, q_err *err)
{
    q_status st = Q_OK;

    for (int64_t i = 0; i < s->model.layers * FMT_ROLES; i++) {
        const fmt_role role = (fmt_role)(i % FMT_ROLES);
        const int64_t layer = i / FMT_ROLES;
        const int64_t K = fmt_dim_size(fmt_role_get(role)->cols, &s->model);

        if (!fmt_role_get(role)->quant)
            continue;
        Q_TRY(bind_stat(s, (fmt_ref){ role, layer, FMT_STAT_ABSMAX }, K, used, err));
        Q_TRY(bind_stat(s, (fmt_ref){ role, layer, FMT_STAT_H_DIAG }, K, used, err));
        Q_TRY(bind_stat(s, (fmt_ref){ role, layer, FMT_STAT_LOSS }, 2, used, err));
    }
out:
    return st;
}

q_status fmt_bind_names(fmt_src *s, q_err *err)
{
    q_status st = Q_OK;
    char *used = q_calloc(count_tensors(s) + 1, 1);

    if (!used)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", s->dir);
    Q_TRY(fmt_src_alloc(s, err));
    Q_TRY(bind_roles(s, used, err));
    if (s->arch) {
        Q_TRY(bind_kv(s, used, err));
        Q_TRY(bind_factors(s, used, err));
        Q_TRY(bind_stats(s, used, err));
    }
    Q_TRY(check_unused(s, used, err));
out:
    q_free(used);
    return st;
}
