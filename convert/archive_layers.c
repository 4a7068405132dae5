/* What an archive holds for each layer besides tensors: steps of an int8 cache, factors of AWQ, and
 * what calibration saw of each linear.  Given by who calibrated, or taken over from an archive that
 * is rewritten. */
#include <stdio.h>

#include "convert/archive_impl.h"
#include "quant/load.h"

static q_status put_kv(cvt_archive *j, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = fmt_src_model(j->o->src);
    float *k = NULL, *v = NULL;
    char place[FMT_H5_NAME];

    if (!j->o->k_scale && fmt_src_has(j->o->src, (fmt_ref){ FMT_ATTN_QKV, 0, FMT_K_SCALE }))
        Q_TRY(qnt_load_kv_scales(&k, &v, j->o->src, err));
    for (int64_t l = 0; (k || j->o->k_scale) && l < m->layers; l++)
        for (int which = 0; which < 2; which++) {
            const float *all = which ? (v ? v : j->o->v_scale) : (k ? k : j->o->k_scale);

            snprintf(place, sizeof place, "/kv/layers.%lld/%c_scale", (long long)l,
                     which ? 'v' : 'k');
            Q_TRY(fmt_h5_put(j->w, place, FMT_F32, 1, &m->n_kv, all + l * m->n_kv, err));
        }
out:
    q_free(k);
    q_free(v);
    return st;
}

static q_status put_factors(cvt_archive *j, q_err *err)
{
    q_status st = Q_OK;
    const qnt_archive_opts *o = j->o;
    const fmt_model *m = fmt_src_model(o->src);
    float *v = NULL;
    char place[FMT_H5_NAME];

    for (int64_t i = 0; i < m->layers * FMT_ROLES; i++) {
        const fmt_role role = (fmt_role)(i % FMT_ROLES);
        const int64_t layer = i / FMT_ROLES, K = fmt_dim_size(fmt_role_get(role)->cols, m);
        const fmt_ref ref = { role, layer, FMT_FACTORS };

        if (!fmt_role_get(role)->quant)
            continue;
        if (o->factors)
            Q_TRY(o->factors(o->self, role, layer, &v, err));
        else if (!o->weight && fmt_src_has(o->src, ref))
            Q_TRY(qnt_load_f32(&v, o->src, ref, K, err));
        snprintf(place, sizeof place, "/factors/layers.%lld/%s", (long long)layer,
                 fmt_role_get(role)->name);
        if (v)
            Q_TRY(fmt_h5_put(j->w, place, FMT_F32, 1, &K, v, err));
        q_free(v);
        v = NULL;
    }
out:
    q_free(v);
    return st;
}

/* ---- /stats -----------------------------------------------------------------------------------
 */

static const struct {
    fmt_part part;
    const char *dims;
} stats[] = { { FMT_STAT_ABSMAX, "K" },
              { FMT_STAT_H_DIAG, "K" },
              { FMT_STAT_LOSS, "nearest,own" } };
enum { N_STATS = sizeof stats / sizeof stats[0] };

/* Those of one linear while its pieces go by.  What the caller gives holds for all pieces; an
 * archive has a row for each. */
typedef struct linear {
    cvt_archive *j;
    float *v[N_STATS]; /* NULL: not known */
    int64_t piece;
} linear;

static void forget(linear *l)
{
    for (int i = 0; i < N_STATS; i++) {
        q_free(l->v[i]);
        l->v[i] = NULL;
    }
}

static q_status take_stats(linear *l, const cvt_unit *u, q_err *err)
{
    q_status st = Q_OK;
    const qnt_archive_opts *o = l->j->o;

    l->piece = 0;
    for (int i = 0; i < N_STATS; i++) {
        const fmt_ref ref = { u->ref.role, u->ref.layer, stats[i].part };

        if (o->stats)
            Q_TRY(o->stats(o->self, ref, &l->v[i], err));
        else if (!o->weight && fmt_src_has(o->src, ref))
            Q_TRY(qnt_load_f32(&l->v[i], o->src, ref,
                               fmt_src_shape(o->src, ref).n1 * fmt_src_shape(o->src, ref).k1, err));
    }
out:
    return st;
}

static q_status put_stats(void *self, const cvt_unit *u, q_err *err)
{
    q_status st = Q_OK;
    linear *l = self;
    char place[FMT_H5_NAME];

    if (u->what != CVT_CODES)
        return Q_OK;
    if (u->first)
        Q_TRY(take_stats(l, u, err));
    for (int i = 0; i < N_STATS; i++) {
        const int64_t n = stats[i].part == FMT_STAT_LOSS ? 2 : u->K;
        const float *v = l->v[i];

        if (!v)
            continue;
        snprintf(place, sizeof place, "/stats/%s/%s", u->module, fmt_part_name(stats[i].part));
        Q_TRY(
            fmt_h5_put(l->j->w, place, FMT_F32, 1, &n, l->j->o->stats ? v : v + l->piece * n, err));
        Q_TRY(fmt_h5_attr_str(l->j->w, place, "dims_meaning", stats[i].dims, err));
    }
    l->piece++;
    if (u->last)
        forget(l);
out:
    return st;
}

/* ---- all of it --------------------------------------------------------------------------------
 */

q_status cvt_archive_put_layers(cvt_archive *j, q_err *err)
{
    q_status st = Q_OK;
    linear l = { .j = j };

    Q_TRY(put_kv(j, err));
    Q_TRY(put_factors(j, err));
    Q_TRY(cvt_units_each(j->o->src, j->o->weight != NULL, put_stats, &l, err));
out:
    forget(&l);
    return st;
}
