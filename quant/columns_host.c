/* The columns of GPTQ on the host (quant/device.h, gptq.h).  A thread works on a strip of STRIP
 * rows from the first column to the last, so nothing is shared but U and the order:
 *
 *     w      [STRIP, K]  the rows in the order of the columns, as they are now
 *     block  [BLOCK][STRIP]  the current block turned, so that a loop over rows is one vector
 *     e      [STRIP, BLOCK]  what the columns of the block lost
 *
 * A block never crosses the start of a group whose scale comes from current weights: groups up to
 * 128 columns fill a block together, larger ones are cut into blocks. */
#include "quant/columns_host.h"

#include <string.h>

#include "formats/base/q_mem.h"
#include "quant/linalg.h"
#include "quant/rtn_group.h"

#define BLOCK 128
#define STRIP 64

typedef struct strip {
    float *w, *e; /* [STRIP, K], [STRIP, BLOCK] */
    float (*block)[STRIP];
    uint8_t *codes; /* [STRIP, K] natural order */
    int64_t n0, n;
} strip;

int64_t qnt_block_columns(const qnt_columns *c, int64_t k0)
{
    const int64_t K = c->t->K, group = c->t->group;
    int64_t n = BLOCK;

    if (!c->is_static && group < BLOCK)
        n = BLOCK / group * group;
    else if (!c->is_static && group - k0 % group < BLOCK)
        n = group - k0 % group;
    return K - k0 < n ? K - k0 : n;
}

static int64_t groups_of(const qnt_columns *s)
{
    return qnt_n_groups(s->t->scheme, s->t->K, s->t->group);
}

/* ---- scales ---------------------------------------------------------------------------------- */

static void fit(const qnt_columns *s, int64_t n, int64_t g, const float *w)
{
    const int64_t k = g * s->t->group, left = s->t->K - k, at = n * groups_of(s) + g;
    const int64_t size = left < s->t->group ? left : s->t->group;
    const int bits = s->t->scheme->bits;

    if (s->plain_scale)
        qnt_group_fit(&s->t->scale[at], &s->t->zero[at], w, size, bits, s->sym, 1);
    else
        qnt_group_search(&s->t->scale[at], &s->t->zero[at], w, s->diag + k, size, bits, s->sym);
}

/* Scales of the group that starts at column c of a block that starts at column k0. */
static void fit_current(const qnt_columns *s, const strip *p, int64_t k0, int c)
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
static void round_column(const qnt_columns *s, const strip *p, int64_t k, int c, float u,
                         float *lost)
{
    const int64_t K = s->t->K, g = k / s->t->group;
    const int bits = s->t->scheme->bits;

    for (int64_t r = 0; r < p->n; r++) {
        const int64_t at = (p->n0 + r) * groups_of(s) + g;
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

static void do_block(const qnt_columns *s, strip *p, int64_t k0, int n)
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

static void do_strip(const qnt_columns *s, strip *p)
{
    const int64_t K = s->t->K;

    for (int64_t r = 0; r < p->n; r++) {
        const float *row = s->W + (p->n0 + r) * K;

        for (int64_t g = 0; s->is_static && g < groups_of(s); g++)
            fit(s, p->n0 + r, g, row + g * s->t->group);
        for (int64_t k = 0; k < K; k++)
            p->w[r * K + k] = row[s->order[k]];
    }
    for (int64_t k = 0, n; k < K; k += n) {
        n = qnt_block_columns(s, k);
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

int qnt_columns_host(const qnt_columns *s)
{
    int ok = 1;

#pragma omp parallel reduction(&& : ok)
    {
        strip p;

        ok = alloc_strip(&p, s->t->K);
#pragma omp for schedule(dynamic, 1)
        for (int64_t n0 = 0; n0 < s->t->N; n0 += STRIP) {
            if (!ok || (s->stop && *s->stop))
                continue;
            p.n0 = n0;
            p.n = s->t->N - n0 < STRIP ? s->t->N - n0 : STRIP;
            do_strip(s, &p);
        }
        free_strip(&p);
    }
    return ok;
}
