/* The solver.  A thread works on a strip of STRIP rows from the first column to the last, so
 * nothing is shared but U and the order:
 *
 *     w      [STRIP, K]  the rows in the order of the columns, as they are now
 *     block  [BLOCK][STRIP]  the current block turned, so that a loop over rows is one vector
 *     e      [STRIP, BLOCK]  what the columns of the block lost
 *
 * A block never crosses the start of a group whose scale comes from current weights: groups up to
 * 128 columns fill a block together, larger ones are cut into blocks. */
#include "quant/gptq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_mem.h"
#include "quant/linalg.h"
#include "quant/rtn_group.h"

#define BLOCK    128
#define STRIP    64
#define DAMP     0.01
#define DAMP_MAX 10.0

typedef struct solver {
    const qnt_gptq_opts *o;
    qnt_tensor *t;
    float *W;
    const float *diag; /* [K] of H, natural order */
    float *U;          /* [K, K] in the order of the columns */
    int64_t *order;    /* [K] natural column at each place */
    int64_t groups;
    int is_static;
} solver;

typedef struct strip {
    float *w, *e; /* [STRIP, K], [STRIP, BLOCK] */
    float (*block)[STRIP];
    uint8_t *codes; /* [STRIP, K] natural order */
    int64_t n0, n;
} strip;

/* ---- the order and U ------------------------------------------------------------------------- */

typedef struct place {
    float moment;
    int64_t k;
} place;

static int by_moment(const void *a, const void *b)
{
    const place *x = a, *y = b;

    if (x->moment != y->moment)
        return x->moment < y->moment ? 1 : -1;
    return x->k < y->k ? -1 : 1;
}

static q_status make_order(solver *s, q_err *err)
{
    const int64_t K = s->t->K;
    place *p = q_malloc((size_t)K * sizeof *p);

    if (!p)
        return q_fail(err, Q_ENOMEM, "%s: no memory for %lld columns", s->o->name, (long long)K);
    for (int64_t k = 0; k < K; k++)
        p[k] = (place){ s->diag[k], k };
    if (s->o->act_order)
        qsort(p, (size_t)K, sizeof *p, by_moment);
    for (int64_t k = 0; k < K; k++)
        s->order[k] = p[k].k;
    q_free(p);
    return Q_OK;
}

/* U = the damped H in the order of the columns; dead columns get a diagonal of 1. */
static void fill(const solver *s, const float *H, double damp)
{
    const int64_t K = s->t->K;
    double mean = 0;

    for (int64_t k = 0; k < K; k++)
        mean += (s->diag[k] == 0 ? 1 : (double)s->diag[k]) / (double)K;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < K; i++) {
        const float *row = H + s->order[i] * K;
        const float own = s->diag[s->order[i]];

        for (int64_t j = i; j < K; j++)
            s->U[i * K + j] = row[s->order[j]];
        s->U[i * K + i] = (float)((own == 0 ? 1 : (double)own) + damp * mean);
    }
}

static q_status factor(const solver *s, const float *H, qnt_gptq_result *r, q_err *err)
{
    for (r->damp = s->o->damp > 0 ? s->o->damp : DAMP; r->damp <= DAMP_MAX * 1.001; r->damp *= 10) {
        fill(s, H, r->damp);
        if (qnt_factor(s->U, s->t->K))
            return Q_OK;
    }
    return q_fail(err, Q_EFAIL,
                  "%s: the second moments of its %lld inputs cannot be factored, even damped by %g "
                  "of their mean: calibrate on more text",
                  s->o->name, (long long)s->t->K, DAMP_MAX);
}

/* ---- scales ---------------------------------------------------------------------------------- */

static void fit(const solver *s, int64_t n, int64_t g, const float *w)
{
    const int64_t k = g * s->t->group, left = s->t->K - k, at = n * s->groups + g;
    const int64_t size = left < s->t->group ? left : s->t->group;
    const int bits = s->t->scheme->bits;

    if (s->o->plain_scale)
        qnt_group_fit(&s->t->scale[at], &s->t->zero[at], w, size, bits, s->o->sym, 1);
    else
        qnt_group_search(&s->t->scale[at], &s->t->zero[at], w, s->diag + k, size, bits, s->o->sym);
}

/* Scales of the group that starts at column c of a block that starts at column k0. */
static void fit_current(const solver *s, const strip *p, int64_t k0, int c)
{
    const int64_t K = s->t->K, g = (k0 + c) / s->t->group;
    const int64_t size = K - k0 - c < s->t->group ? K - k0 - c : s->t->group;
    float now[BLOCK];

    for (int64_t r = 0; r < p->n; r++) {
        const float *w = p->w + r * K + k0;

        if (c > 0) { /* the group lies in this block, which is newer than w */
            for (int64_t i = 0; i < size; i++)
                now[i] = p->block[c + i][r];
            w = now;
        }
        fit(s, p->n0 + r, g, w);
    }
}

/* ---- columns --------------------------------------------------------------------------------- */

/* Column k: its codes, what they mean (into W), and what is lost (into e, scaled). */
static void round_column(const solver *s, const strip *p, int64_t k, int c, float u, float *lost)
{
    const int64_t K = s->t->K, g = k / s->t->group;
    const int bits = s->t->scheme->bits;

    for (int64_t r = 0; r < p->n; r++) {
        const int64_t at = (p->n0 + r) * s->groups + g;
        const float v = p->block[c][r], scale = s->t->scale[at];
        const int zero = s->t->zero[at];
        uint8_t *code = p->codes + r * K + k;
        float means;

        qnt_group_codes(code, &v, 1, scale, zero, bits);
        means = (float)(*code - zero) * scale;
        s->W[(p->n0 + r) * K + k] = means;
        lost[r] = (v - means) / u;
        p->e[r * BLOCK + c] = lost[r];
    }
}

static void do_block(const solver *s, strip *p, int64_t k0, int n)
{
    const int64_t K = s->t->K;

    for (int64_t r = 0; r < p->n; r++)
        for (int c = 0; c < n; c++)
            p->block[c][r] = p->w[r * K + k0 + c];
    for (int c = 0; c < n; c++) {
        const float *u = s->U + (k0 + c) * K + k0;
        float lost[STRIP] = { 0 };

        if (!s->is_static && (k0 + c) % s->t->group == 0)
            fit_current(s, p, k0, c);
        round_column(s, p, s->order[k0 + c], c, u[c], lost);
        for (int j = c + 1; j < n; j++)
            for (int r = 0; r < STRIP; r++)
                p->block[j][r] -= lost[r] * u[j];
    }
    if (k0 + n < K)
        qnt_gemm_sub(p->n, K - k0 - n, n, p->e, BLOCK, s->U + k0 * K + k0 + n, K, p->w + k0 + n, K);
}

/* Columns of the block that starts at k0. */
static int block_size(const solver *s, int64_t k0)
{
    const int64_t K = s->t->K, group = s->t->group;
    int64_t n = BLOCK;

    if (!s->is_static && group < BLOCK)
        n = BLOCK / group * group;
    else if (!s->is_static && group - k0 % group < BLOCK)
        n = group - k0 % group;
    return (int)(K - k0 < n ? K - k0 : n);
}

static void do_strip(const solver *s, strip *p)
{
    const int64_t K = s->t->K;

    for (int64_t r = 0; r < p->n; r++) {
        const float *row = s->W + (p->n0 + r) * K;

        for (int64_t g = 0; s->is_static && g < s->groups; g++)
            fit(s, p->n0 + r, g, row + g * s->t->group);
        for (int64_t k = 0; k < K; k++)
            p->w[r * K + k] = row[s->order[k]];
    }
    for (int64_t k = 0, n; k < K; k += n) {
        n = block_size(s, k);
        do_block(s, p, k, (int)n);
    }
    for (int64_t r = 0; r < p->n; r++)
        qnt_group_pack(s->t, p->n0 + r, p->codes + r * K);
}

static void free_strip(strip *p)
{
    q_free(p->w);
    q_free(p->e);
    q_free(p->block);
    q_free(p->codes);
}

static int alloc_strip(strip *p, int64_t K)
{
    memset(p, 0, sizeof *p);
    p->w = q_malloc((size_t)(STRIP * K) * sizeof *p->w);
    p->e = q_malloc(STRIP * BLOCK * sizeof *p->e);
    p->block = q_calloc(BLOCK, sizeof *p->block);
    p->codes = q_malloc((size_t)(STRIP * K));
    return p->w && p->e && p->block && p->codes;
}

/* 0: out of memory */
static int all_strips(const solver *s)
{
    int ok = 1;

#pragma omp parallel reduction(&& : ok)
    {
        strip p;

        ok = alloc_strip(&p, s->t->K);
#pragma omp for schedule(dynamic, 1)
        for (int64_t n0 = 0; n0 < s->t->N; n0 += STRIP) {
            if (!ok || (s->o->stop && *s->o->stop))
                continue;
            p.n0 = n0;
            p.n = s->t->N - n0 < STRIP ? s->t->N - n0 : STRIP;
            do_strip(s, &p);
        }
        free_strip(&p);
    }
    return ok;
}

/* ---- all of it ------------------------------------------------------------------------------- */

/* The diagonal; weights of dead columns become zero. */
static q_status look_at(const solver *s, float *diag, const float *H, int64_t *dead, q_err *err)
{
    const int64_t N = s->t->N, K = s->t->K;

    for (int64_t k = 0; k < K; k++) {
        diag[k] = H[k * K + k];
        if (!isfinite(diag[k]) || diag[k] < 0)
            return q_fail(err, Q_EFORMAT,
                          "%s: the second moment of input %lld is %g: is the model damaged?",
                          s->o->name, (long long)k, (double)diag[k]);
        if (diag[k] != 0)
            continue;
        (*dead)++;
        for (int64_t n = 0; n < N; n++)
            s->W[n * K + k] = 0;
    }
    return Q_OK;
}

q_status qnt_gptq_solve(qnt_tensor *t, float *W, const float *H, int64_t N, int64_t K,
                        const qnt_gptq_opts *o, qnt_gptq_result *r, q_err *err)
{
    q_status st = Q_OK;
    solver s = { .o = o, .t = t, .W = W, .is_static = o->act_order || o->static_scale };
    float *diag = NULL;
    size_t bytes;
    int64_t bad;

    *r = (qnt_gptq_result){ 0 };
    Q_TRY(qnt_group_alloc(t, o->bits, N, K, o->group, err));
    s.groups = qnt_n_groups(t->scheme, K, t->group);
    diag = q_malloc((size_t)K * sizeof *diag);
    s.order = q_malloc((size_t)K * sizeof *s.order);
    s.U = q_mul_ok((size_t)K, (size_t)K * sizeof *s.U, &bytes) ? q_malloc(bytes) : NULL;
    s.diag = diag;
    if (!diag || !s.order || !s.U)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for the inverse of [%lld, %lld]", o->name,
               (long long)K, (long long)K);
    Q_TRY(look_at(&s, diag, H, &r->dead, err));
    Q_TRY(make_order(&s, err));
    Q_TRY(factor(&s, H, r, err));
    if (!all_strips(&s))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for strips of rows", o->name);
    if (o->stop && *o->stop)
        Q_FAIL(err, Q_ECANCEL, "stopped by a signal");
    bad = qnt_group_bad_row(t);
    if (bad >= 0)
        Q_FAIL(err, Q_EFORMAT, "%s: row %lld needs a scale outside the range of f16", o->name,
               (long long)bad);
out:
    q_free(diag);
    q_free(s.order);
    q_free(s.U);
    if (st != Q_OK)
        qnt_tensor_free(t);
    return st;
}
