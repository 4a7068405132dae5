/* Groups on their way to the device: scales, zeros, and columns in the order of their groups.
 *
 * Layout: cu.h.  A file with g_idx (act-order) has its columns in an order in which neighbours are
 * of different groups.  Sorted by group, and as they came inside a group, they give the same
 * product of an x that is sorted the same way.  That works when every group but the last one has
 * t->group columns; else (no known tool writes such a file) each column gets a group of its own,
 * which costs 3 bytes a weight and is right. */
#include <string.h>

#include "formats/base/q_mem.h"
#include "runtime/cuda/cu.h"

/* Where column k goes so that groups follow each other; 0: they have different sizes. */
static int sort_columns(int32_t *place, int64_t *next, const qnt_tensor *t, int64_t G)
{
    for (int64_t g = 0; g < G; g++)
        next[g] = g * t->group;
    for (int64_t k = 0; k < t->K; k++)
        place[k] = (int32_t)next[t->g_idx[k]]++;
    for (int64_t g = 0; g < G; g++)
        if (next[g] != (g + 1 < G ? (g + 1) * t->group : t->K))
            return 0;
    return 1;
}

/* place, and w->g_idx; or columns stay and w->group is 1 */
static q_status order_columns(rt_backend *be, const qnt_tensor *t, rt_weight *w, int32_t **out,
                              q_err *err)
{
    q_status st = Q_OK;
    const int64_t G = qnt_n_groups(t->scheme, t->K, t->group);
    const size_t bytes = 2 * (size_t)t->K * sizeof(int32_t);
    int32_t *place = q_malloc(bytes);
    int64_t *next = q_malloc((size_t)G * sizeof *next);
    void *p = NULL;

    if (!place || !next)
        Q_FAIL(err, Q_ENOMEM, "cuda: no memory for the order of %lld columns", (long long)t->K);
    if (!sort_columns(place, next, t, G)) {
        w->group = 1;
        goto out;
    }
    for (int64_t k = 0; k < t->K; k++)
        place[t->K + place[k]] = (int32_t)k;
    Q_TRY(cu_alloc(be, bytes, &p, err));
    w->g_idx = p;
    Q_TRY(cu_upload(be, p, place, bytes, err));
    *out = place;
    place = NULL;
out:
    q_free(place);
    q_free(next);
    return st;
}

/* Row by row into the order of the device; of: the group of t that each of the G comes from, or
 * NULL for the same. */
static void fill(uint16_t *scale, uint8_t *zero, const qnt_tensor *t, const int32_t *of, int64_t G)
{
    const int64_t G0 = qnt_n_groups(t->scheme, t->K, t->group);

#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < t->N; n++)
        for (int64_t g = 0; g < G; g++) {
            const int64_t from = n * G0 + (of ? of[g] : g);
            const int64_t to = (n / 8 * G + g) * 8 + n % 8;

            fmt_convert(&scale[to], FMT_F16, &t->scale[from], FMT_F32, 1, NULL);
            zero[to] = t->zero[from];
        }
}

static int all_middle(const qnt_tensor *t)
{
    const int64_t n = t->N * qnt_n_groups(t->scheme, t->K, t->group);
    int64_t i = 0;

    while (i < n && t->zero[i] == 1 << (t->scheme->bits - 1))
        i++;
    return i == n;
}

/* as infinities they would spoil every token */
static q_status check_scales(const qnt_tensor *t, q_err *err)
{
    const int64_t G = qnt_n_groups(t->scheme, t->K, t->group);

    for (int64_t i = 0; i < t->N * G; i++)
        if (!(t->scale[i] >= -65504.0f && t->scale[i] <= 65504.0f))
            return q_fail(err, Q_EUNSUPPORTED,
                          "cuda: the scale of row %lld, group %lld is %g, outside the f16 range: "
                          "use --device cpu",
                          (long long)(i / G), (long long)(i % G), (double)t->scale[i]);
    return Q_OK;
}

q_status cu_prep_groups(rt_backend *be, const qnt_tensor *t, rt_weight *w, int32_t **place,
                        q_err *err)
{
    q_status st = Q_OK;
    const size_t rows = (size_t)(t->N + 7) / 8 * 8;
    uint16_t *scale = NULL;
    uint8_t *zero = NULL;
    size_t cells, G;
    void *p = NULL;

    Q_TRY(check_scales(t, err));
    w->group = t->group;
    if (t->g_idx)
        Q_TRY(order_columns(be, t, w, place, err));
    G = (size_t)qnt_n_groups(t->scheme, t->K, w->group);
    if (!q_mul_ok(rows, G, &cells) || cells > SIZE_MAX / sizeof *scale)
        Q_FAIL(err, Q_ENOMEM, "weight [%lld, %lld] has too many groups", (long long)t->N,
               (long long)t->K);
    scale = q_calloc(cells, sizeof *scale);
    zero = q_calloc(cells, 1);
    if (!scale || !zero)
        Q_FAIL(err, Q_ENOMEM, "cuda: no memory for %zu scales", cells);
    fill(scale, zero, t, t->g_idx && !*place ? t->g_idx : NULL, (int64_t)G);
    Q_TRY(cu_alloc(be, cells * sizeof *scale, &p, err));
    w->scale = p;
    Q_TRY(cu_upload(be, p, scale, cells * sizeof *scale, err));
    w->group_bytes = 2;
    if (!all_middle(t)) {
        w->group_bytes = 3;
        Q_TRY(cu_alloc(be, cells, &p, err));
        w->zero = p;
        Q_TRY(cu_upload(be, p, zero, cells, err));
    }
out:
    q_free(scale);
    q_free(zero);
    return st;
}
