/* Second moments.  A largest value that is not finite stays so: it is looked at once, in the end.
 */
#include "calibrate/obs_gram.h"

#include <math.h>
#include <string.h>

static const struct {
    cal_point point;
    fmt_role role;
} rows[] = {
    { CAL_ATTN_IN, FMT_ATTN_QKV },
    { CAL_ATTN_OUT, FMT_ATTN_OUT },
    { CAL_FFN_IN, FMT_FFN_GATE_UP },
    { CAL_FFN_MID, FMT_FFN_DOWN },
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

fmt_role cal_input_role(cal_point p)
{
    for (int i = 0; i < N_ROWS; i++)
        if (rows[i].point == p)
            return rows[i].role;
    return FMT_ROLES;
}

cal_point cal_input_point(int i)
{
    return rows[i].point;
}

static int64_t width(fmt_role role, const fmt_model *m)
{
    return fmt_dim_size(fmt_role_get(role)->cols, m);
}

uint64_t cal_gram_bytes(const fmt_model *m)
{
    uint64_t bytes = 0;

    for (int i = 0; i < N_ROWS; i++) {
        const uint64_t K = (uint64_t)width(rows[i].role, m);

        bytes += K * K * sizeof(float) + K * (sizeof(double) + sizeof(float));
    }
    return bytes;
}

/* Elements of a packed triangle. */
static size_t packed(int64_t K)
{
    return (size_t)(K * (K + 1) / 2);
}

uint64_t cal_gram_waiting_bytes(const fmt_model *m)
{
    uint64_t all = 0;

    for (int i = 0; i < N_ROWS; i++)
        all += CAL_BRANCHES * packed(width(rows[i].role, m)) * sizeof(float);
    return all;
}

static q_status open_role(cal_gram *g, fmt_role role, q_err *err)
{
    q_status st = Q_OK;
    const int64_t K = width(role, g->m);
    const char *what = "second moments";

    Q_TRY(qnt_dev_alloc(&g->d, K, K, sizeof *g->H[role], &g->H[role], what, err));
    Q_TRY(qnt_dev_alloc(&g->d, K, 1, sizeof *g->sum[role], &g->sum[role], what, err));
    Q_TRY(qnt_dev_alloc(&g->d, K, 1, sizeof *g->most[role], &g->most[role], what, err));
    if (!(g->x[role] = q_calloc((size_t)K, sizeof *g->x[role])) ||
        !(g->max[role] = q_calloc((size_t)K, sizeof *g->max[role])))
        Q_FAIL(err, Q_ENOMEM, "no memory for %lld inputs of %s", (long long)K,
               fmt_role_get(role)->name);
    for (int l = 0; l <= CAL_BRANCHES; l++)
        if (!(g->part_sum[l][role] = q_calloc((size_t)K, sizeof(double))))
            Q_FAIL(err, Q_ENOMEM, "no memory for %lld inputs of %s", (long long)K,
                   fmt_role_get(role)->name);
out:
    return st;
}

q_status cal_gram_open(cal_gram *g, const fmt_model *m, qnt_dev d, rt_comm *comm, q_err *err)
{
    q_status st = Q_OK;

    memset(g, 0, sizeof *g);
    g->m = m;
    g->d = d;
    g->comm = comm;
    for (int i = 0; i < N_ROWS; i++)
        Q_TRY(open_role(g, rows[i].role, err));
    Q_TRY(cal_gram_begin(g, CAL_INPUTS, err));
out:
    if (st != Q_OK)
        cal_gram_close(g);
    return st;
}

void cal_gram_close(cal_gram *g)
{
    for (int i = 0; g->m && i < FMT_ROLES; i++) {
        g->d.ops->free(&g->d, g->H[i]);
        g->d.ops->free(&g->d, g->sum[i]);
        g->d.ops->free(&g->d, g->most[i]);
        q_free(g->x[i]);
        for (int l = 0; l <= CAL_BRANCHES; l++)
            q_free(g->part_sum[l][i]);
        q_free(g->max[i]);
    }
    if (g->m)
        g->d.ops->free(&g->d, g->waiting);
    memset(g, 0, sizeof *g);
}

q_status cal_gram_begin(cal_gram *g, uint32_t points, q_err *err)
{
    q_status st = Q_OK;

    for (int i = 0; i < N_ROWS; i++) {
        const fmt_role role = rows[i].role;
        const size_t K = (size_t)width(role, g->m);

        if (!(points & CAL_BIT(rows[i].point)))
            continue;
        Q_TRY(g->d.ops->clear(&g->d, g->H[role], K * K * sizeof *g->H[role], err));
        Q_TRY(g->d.ops->clear(&g->d, g->sum[role], K * sizeof *g->sum[role], err));
        Q_TRY(g->d.ops->clear(&g->d, g->most[role], K * sizeof *g->most[role], err));
        g->n[role] = 0;
    }
out:
    return st;
}

q_status cal_gram_see(cal_gram *g, const cal_view *v, q_err *err)
{
    q_status st = Q_OK;
    const fmt_role role = cal_input_role(v->point);

    Q_TRY(g->d.ops->gram(&g->d, g->H[role], v->dim, v->x, v->type, v->n, err));
    Q_TRY(g->d.ops->columns(&g->d, g->sum[role], g->most[role], v->x, v->type, v->n, v->dim, err));
    g->n[role] += v->n;
out:
    return st;
}

/* ---- the tree of shares ---------------------------------------------------------------------- */

/* Room for the branches of these points that will wait. */
static q_status open_branches(cal_gram *g, uint32_t points, int shares, q_err *err)
{
    q_status st = Q_OK;
    size_t all = 0;
    int64_t branches = 0;
    float *at;

    for (int i = 0; i < N_ROWS; i++)
        if (points & CAL_BIT(rows[i].point))
            all += packed(width(rows[i].role, g->m));
    for (int n = 1; n < shares; n *= 2)
        branches++;
    Q_TRY(qnt_dev_alloc(&g->d, (int64_t)all, branches, sizeof *at, &g->waiting, "second moments",
                        err));
    at = g->waiting;
    for (int l = 0; l < branches; l++)
        for (int i = 0; i < N_ROWS; i++)
            if (points & CAL_BIT(rows[i].point)) {
                g->part[l][rows[i].role] = at;
                at += packed(width(rows[i].role, g->m));
            }
out:
    return st;
}

/* What was just seen meets the branches that wait for it, and waits itself unless it is the last.
 */
static q_status share_role(cal_gram *g, fmt_role role, int done, int shares, q_err *err)
{
    q_status st = Q_OK;
    const int64_t K = width(role, g->m);
    double *sum = g->part_sum[CAL_BRANCHES][role];
    int l = 0;

    Q_TRY(g->d.ops->get(&g->d, sum, g->sum[role], (size_t)K * sizeof *sum, err));
    for (; (done - 1) >> l & 1; l++) {
        Q_TRY(g->d.ops->add_triangle(&g->d, g->H[role], g->part[l][role], K, err));
        for (int64_t k = 0; k < K; k++)
            sum[k] += g->part_sum[l][role][k];
    }
    if (done == shares)
        goto out;
    Q_TRY(g->d.ops->triangle(&g->d, g->part[l][role], g->H[role], K, err));
    memcpy(g->part_sum[l][role], sum, (size_t)K * sizeof *sum);
    Q_TRY(g->d.ops->clear(&g->d, g->H[role], (size_t)(K * K) * sizeof *g->H[role], err));
    Q_TRY(g->d.ops->clear(&g->d, g->sum[role], (size_t)K * sizeof *sum, err));
out:
    return st;
}

q_status cal_gram_share(cal_gram *g, uint32_t points, int done, int shares, q_err *err)
{
    q_status st = Q_OK;

    if (done == 1 && shares > 1)
        Q_TRY(open_branches(g, points, shares, err));
    for (int i = 0; i < N_ROWS; i++)
        if (points & CAL_BIT(rows[i].point))
            Q_TRY(share_role(g, rows[i].role, done, shares, err));
out:
    if (done == shares) {
        g->d.ops->free(&g->d, g->waiting);
        g->waiting = NULL;
    }
    return st;
}

/* ---- the end --------------------------------------------------------------------------------- */

/* Sums and largest values of all ranks. */
static q_status join_ranks(cal_gram *g, fmt_role role, q_err *err)
{
    q_status st = Q_OK;
    const int64_t K = width(role, g->m);
    double n = (double)g->n[role];

    Q_TRY(rt_comm_sum(g->comm, g->H[role], K * K, err));
    Q_TRY(rt_comm_reduce(g->comm, g->x[role], K, RT_SUM_F64, err));
    Q_TRY(rt_comm_reduce(g->comm, &n, 1, RT_SUM_F64, err));
    /* magnitudes order like their bits */
    Q_TRY(rt_comm_reduce(g->comm, g->max[role], K, RT_MAX_U32, err));
    g->n[role] = (int64_t)n;
out:
    return st;
}

static q_status end_role(cal_gram *g, fmt_role role, int64_t layer, q_err *err)
{
    q_status st = Q_OK;
    const int64_t K = width(role, g->m);

    memcpy(g->x[role], g->part_sum[CAL_BRANCHES][role], (size_t)K * sizeof *g->x[role]);
    Q_TRY(g->d.ops->get(&g->d, g->max[role], g->most[role], (size_t)K * sizeof *g->max[role], err));
    Q_TRY(join_ranks(g, role, err));
    for (int64_t k = 0; k < K; k++) {
        if (!isfinite(g->max[role][k]))
            Q_FAIL(err, Q_EFORMAT,
                   "layer %lld: channel %lld of the input of %s is not finite: is the model "
                   "damaged?",
                   (long long)layer, (long long)k, fmt_role_get(role)->name);
        g->x[role][k] /= (double)g->n[role];
    }
    Q_TRY(g->d.ops->mirror(&g->d, g->H[role], K, err));
out:
    return st;
}

q_status cal_gram_end(cal_gram *g, uint32_t points, int64_t layer, q_err *err)
{
    q_status st = Q_OK;

    for (int i = 0; i < N_ROWS; i++)
        if (points & CAL_BIT(rows[i].point))
            Q_TRY(end_role(g, rows[i].role, layer, err));
out:
    return st;
}

q_status cal_gram_divide(cal_gram *g, fmt_role role, const double *s, q_err *err)
{
    q_status st = Q_OK;
    const int64_t K = width(role, g->m);

    Q_TRY(g->d.ops->divide(&g->d, g->H[role], K, s, err));
    for (int64_t i = 0; i < K; i++) {
        g->x[role][i] /= s[i];
        g->max[role][i] = (float)((double)g->max[role][i] / s[i]);
    }
out:
    return st;
}

q_status cal_gram_copy(const cal_gram *g, fmt_role role, float **absmax, float **h_diag, q_err *err)
{
    q_status st = Q_OK;
    const int64_t K = width(role, g->m);
    float *most = q_malloc((size_t)K * sizeof *most), *diag = q_malloc((size_t)K * sizeof *diag);

    if (!most || !diag)
        Q_FAIL(err, Q_ENOMEM, "no memory for %lld inputs of %s", (long long)K,
               fmt_role_get(role)->name);
    memcpy(most, g->max[role], (size_t)K * sizeof *most);
    Q_TRY(g->d.ops->diagonal(&g->d, diag, g->H[role], K, err));
    for (int64_t k = 0; k < K; k++)
        diag[k] = (float)((double)diag[k] / (double)g->n[role]);
    *absmax = most;
    *h_diag = diag;
    most = diag = NULL;
out:
    q_free(most);
    q_free(diag);
    return st;
}
