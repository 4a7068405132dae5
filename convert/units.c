/* Walking tensors, and comparing what came out with what went in. */
#include "convert/units.h"

#include <string.h>

#include "formats/base/q_file.h"
#include "formats/base/q_mem.h"
#include "quant/repack.h"

#define MODULE_CAP 600 /* safetensors names are at most 512 bytes */

/* ---- walking ----------------------------------------------------------------------------------
 */

typedef struct walk {
    const fmt_src *src;
    int all_codes;
    cvt_unit_fn fn;
    void *self;
} walk;

static q_status walk_role(const walk *w, const fmt_name_row *names, int64_t layer, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = fmt_src_model(w->src);
    const fmt_role_row *role = fmt_role_get(names->role);
    const fmt_ref codes = { names->role, layer, FMT_QWEIGHT };
    const int packed = role->quant && (w->all_codes || fmt_src_has(w->src, codes));
    char module[MODULE_CAP];
    cvt_unit u = { .module = module, .K = fmt_dim_size(role->cols, m) };

    for (int p = 0; p < FMT_MAX_PIECES && names->tensor[p]; p++) {
        if (!fmt_name_make(module, sizeof module, names->tensor[p], layer, ""))
            Q_FAIL(err, Q_EBUG, "tensor name of %s is too long", role->name);
        u.first = p == 0;
        u.last = p + 1 == FMT_MAX_PIECES || !names->tensor[p + 1];
        u.n0 = u.n1;
        u.n1 += fmt_piece_rows(names, p, m);
        u.what = packed ? CVT_CODES : CVT_FLOAT;
        u.ref = (fmt_ref){ names->role, layer, packed ? FMT_QWEIGHT : FMT_WEIGHT };
        Q_TRY(w->fn(w->self, &u, err));
        if (names->bias) {
            cvt_unit bias = u;

            bias.what = CVT_BIAS;
            bias.ref.part = FMT_BIAS;
            bias.K = 1;
            bias.in_module = packed;
            Q_TRY(w->fn(w->self, &bias, err));
        }
    }
out:
    return st;
}

q_status cvt_units_each(const fmt_src *src, int all_codes, cvt_unit_fn fn, void *self, q_err *err)
{
    q_status st = Q_OK;
    const walk w = { src, all_codes, fn, self };
    const fmt_model *m = fmt_src_model(src);

    for (int64_t l = -1; l <= m->layers; l++) { /* -1: before the layers, m->layers: behind them */
        const int in_layer = l >= 0 && l < m->layers;

        for (int r = 0; r < FMT_ROLES; r++) {
            const fmt_name_row *names = fmt_family_names(m->family, (fmt_role)r);
            const int before = r == FMT_TOK_EMBD;

            if (!names || fmt_role_get((fmt_role)r)->per_layer != in_layer ||
                (!in_layer && before != (l < 0)) || (r == FMT_LM_HEAD && m->tied))
                continue;
            Q_TRY(walk_role(&w, names, in_layer ? l : 0, err));
        }
    }
out:
    return st;
}

q_status cvt_unit_read(const fmt_src *src, const cvt_unit *u, int64_t r0, int64_t n,
                       const float *values, void *dst, q_err *err)
{
    const fmt_box box = { u->n0 + r0, u->n0 + r0 + n, 0, u->K };

    if (!values)
        return fmt_src_read(src, u->ref, box, dst, err);
    fmt_convert(dst, fmt_src_dtype(src, u->ref), values + box.n0, FMT_F32, (size_t)n, NULL);
    return Q_OK;
}

/* ---- comparing --------------------------------------------------------------------------------
 */

q_status cvt_digests_alloc(cvt_digests *d, const fmt_model *m, q_err *err)
{
    *d = (cvt_digests){ .layers = m->layers };
    d->v = q_calloc((size_t)m->layers * FMT_ROLES, sizeof *d->v);
    return d->v ? Q_OK
                : q_fail(err, Q_ENOMEM, "no memory for the hashes of %lld layers",
                         (long long)m->layers);
}

void cvt_digests_set(cvt_digests *d, fmt_role role, int64_t layer, const qnt_tensor *t)
{
    qnt_tensor_hash(d->v[layer * FMT_ROLES + (int64_t)role], t);
}

static q_status compare_role(const cvt_digests *d, const fmt_src *src, fmt_role role, int64_t layer,
                             const char *name, q_err *err)
{
    static const uint8_t none[32];
    q_status st = Q_OK;
    const uint8_t *want = d->v[layer * FMT_ROLES + (int64_t)role];
    const int wanted = memcmp(want, none, sizeof none) != 0;
    uint8_t got[32];
    qnt_tensor t = { 0 };

    if (wanted != fmt_src_has(src, (fmt_ref){ role, layer, FMT_QWEIGHT }))
        Q_FAIL(err, Q_EFORMAT, "%s: %s of layer %lld is %s", name, fmt_role_get(role)->name,
               (long long)layer, wanted ? "not quantized" : "quantized");
    if (!wanted)
        goto out;
    Q_TRY(qnt_load_grouped(&t, src, role, layer, err));
    qnt_tensor_hash(got, &t);
    if (memcmp(got, want, sizeof got) != 0)
        Q_FAIL(err, Q_EFORMAT, "%s: %s of layer %lld has other codes than were written", name,
               fmt_role_get(role)->name, (long long)layer);
out:
    qnt_tensor_free(&t);
    return st;
}

q_status cvt_digests_compare(const cvt_digests *d, const char *path, const char *name, q_err *err)
{
    q_status st = Q_OK;
    fmt_src *src = NULL;
    q_err why = { 0 };

    Q_TRY(fmt_src_open(&src, path, &why));
    for (int64_t l = 0; l < d->layers; l++)
        for (int r = 0; r < FMT_ROLES; r++)
            if (fmt_role_get((fmt_role)r)->quant)
                Q_TRY(compare_role(d, src, (fmt_role)r, l, name, &why));
out:
    fmt_src_close(src);
    if (st != Q_OK)
        st = q_fail(err, st, "read back: %s: memory or disk is at fault, nothing was written",
                    why.msg);
    return st;
}

void cvt_digests_free(cvt_digests *d)
{
    q_free(d->v);
    *d = (cvt_digests){ 0 };
}

q_status cvt_check_space(const char *path, uint64_t need, q_err *err)
{
    q_status st = Q_OK;
    uint64_t have = 0;

    Q_TRY(q_disk_free(path, &have, err));
    if (have < need)
        Q_FAIL(err, Q_EIO, "%s: %llu bytes needed, %llu free: make room or choose another --output",
               path, (unsigned long long)need, (unsigned long long)have);
out:
    return st;
}
