/* The layers of a decode step as one launch: who may have it, and its arguments.
 *
 * The kernel (step.cuh) takes a few sequences of one token each (the table below) on Hopper,
 * linears of one scheme (f16, w8, w4, w8a8, w4g in groups of 128 and whole pairs of them) with
 * sizes that are the same in every layer, heads of 64 or 128, an f16 or int8 cache.  Everything
 * else goes the way of single operations.
 *
 * A weight is shown to the copy engine as a matrix of bytes [N, row_bytes] in three dimensions: 128
 * bytes, rows, columns of 128 bytes; a box is 8 rows of 1 KB.  The descriptions and all pointers
 * travel as kernel arguments, so nothing is allocated and a captured launch is complete.  A model
 * of more than STEP_LAYERS layers takes several launches. */
#include "runtime/cuda/step.h"

#include <math.h>
#include <string.h>

#include "runtime/model.h"

/* most of a block on Hopper, less what the kernel declares itself and what aligning costs */
#define SHARED_MOST  ((size_t)227 * 1024 - 512)
#define SHARED_ALIGN ((size_t)1024)
#define STAGE_BYTES  ((size_t)16 * 1024)
#define STAGES_MOST  12

static const fmt_role roles[STEP_ROLES] = { FMT_ATTN_QKV, FMT_ATTN_OUT, FMT_FFN_GATE_UP,
                                            FMT_FFN_DOWN };

/* Tokens: up to there the kernel is faster than single operations.  With more of them preparing x
 * and adding up sums costs more than the gaps between kernels. */
typedef struct step_scheme {
    const char *name;
    int bits, tokens; /* bits: of a weight in the place of a half of x */
    int whole;        /* rows of x are coded whole, up to so many columns; 0: a part at a time */
    int groups;       /* bytes of a stage beside its codes */
    q_status (*run)(const cu_be *c, const step_args *a, q_err *err);
} step_scheme;

static const step_scheme known[] = {
    { "f16", 16, 4, 0, 0, cu_step_f16 },
    { "w8", 8, 4, 0, 0, cu_step_w8 },
    { "w4", 4, 4, 0, 0, cu_step_w4 },
    { "w8a8", 16, 2, 24576, 0, cu_step_w8a8 },
    { "w4g", 4, 4, 0, STEP_GROUPS, cu_step_w4g },
};

static const step_scheme *scheme_of(const rt_weight *w) /* NULL: the kernel does not know it */
{
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (w->scheme && strcmp(w->scheme->name, known[i].name) == 0)
            return &known[i];
    return NULL;
}

/* Static scales that the kernel divides by: quotients and remainders of halves stay far from the
 * ends of f32. */
static int fits_scale(float x_scale)
{
    return x_scale == 0 || (x_scale > 1e-15f && x_scale < 1e15f);
}

/* Groups, if any, come by the pair (128 bytes of a row), in order, and cover whole units of rows.
 */
static int fits_groups(const rt_weight *w)
{
    return !w->scheme->grouped ||
           (w->group == STEP_GROUP && !w->g_idx && w->K % (2 * STEP_GROUP) == 0 && w->N % 16 == 0);
}

/* Every layer like the first, and of a shape the kernel has. */
static int fits_model(const rt_layers_args *a)
{
    const fmt_model *m = a->m;
    const step_scheme *f = scheme_of(&a->layer[0].w[roles[0]]);

    if (!f || a->b->n_tok > f->tokens || (m->hd != 64 && m->hd != 128) || m->hid > 8192 ||
        m->n_head * m->hd > 8192 || (f->whole && m->ffn > f->whole))
        return 0;
    for (int64_t l = 0; l < m->layers; l++)
        for (int i = 0; i < STEP_ROLES; i++) {
            const rt_weight *w = &a->layer[l].w[roles[i]], *first = &a->layer[0].w[roles[i]];

            if (scheme_of(w) != f || w->N != first->N || w->K != first->K || w->K % 8 != 0 ||
                w->row_bytes != first->row_bytes || w->row_bytes % 128 != 0 ||
                !fits_scale(w->x_scale) || !fits_groups(w))
                return 0;
        }
    return 1;
}

static size_t most(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t x_bytes(const step_args *s, int columns, int bits)
{
    return 2 * (size_t)s->n_tok * ((size_t)columns * 128 * 8 / (size_t)bits + 32);
}

static int wider(int a, int b)
{
    return a > b ? a : b;
}

/* Shared memory: x and sums, or what attention needs; stages of the ring fill the rest.  x is all
 * of the two inputs that are normalized; of the others a window, all of the wider one if that costs
 * the ring at most 2 stages.  0: the ring gets too short. */
static int fit_shared(step_args *s, const step_scheme *f)
{
    const int bits = f->bits;
    const size_t hd = (size_t)s->hd, attn = 2 * 8 * (hd + 32) + 4 * 56 * (hd + 4);
    const size_t stage = STAGE_BYTES + (size_t)f->groups;
    const size_t sums = 2 * sizeof(float) * STEP_UNITS * STEP_WARPS * 16 * (size_t)s->n_tok;
    const int normed = s->w[STEP_QKV].row_bytes / 128;
    const int other = wider(s->w[STEP_OUT].row_bytes, s->w[STEP_DOWN].row_bytes) / 128;
    size_t x = x_bytes(s, normed, bits), scratch, stages;

    s->window = normed / 8 * 8 > 8 ? normed / 8 * 8 : 8;
    x = most(x, x_bytes(s, s->window, bits));
    if (f->whole || x_bytes(s, other, bits) + sums <= most(x + sums, attn) + 2 * stage) {
        s->window = (other + 7) / 8 * 8;
        x = most(x, x_bytes(s, other, bits));
    }
    s->sums = (x + 127) / 128 * 128;
    scratch = (most(attn, s->sums + sums) + 127) / 128 * 128;
    if (scratch + SHARED_ALIGN + STEP_UNITS * stage > SHARED_MOST)
        return 0;
    stages = (SHARED_MOST - SHARED_ALIGN - scratch) / stage;
    s->stages = (int)(stages < STAGES_MOST ? stages : STAGES_MOST);
    s->shared = SHARED_ALIGN + (size_t)s->stages * stage + scratch;
    return 1;
}

static void fill_shapes(step_args *s, const cu_be *c, const rt_layers_args *a)
{
    const fmt_model *m = a->m;
    int groups;

    for (int i = 0; i < STEP_ROLES; i++) {
        const rt_weight *w = &a->layer[0].w[roles[i]];

        s->w[i] = (step_shape){ (int)w->N, (int)w->K, (int)w->row_bytes };
    }
    s->n_tok = a->b->n_tok;
    s->n_head = (int)m->n_head;
    s->n_kv = (int)m->n_kv;
    s->group = (int)(m->n_head / m->n_kv);
    s->tiles = (s->group + 7) / 8;
    s->hd = (int)m->hd;
    s->pairs = (int)(m->rot / 2);
    s->rope_step = (int)m->rope_step;
    s->rope_gap = (int)m->rope_gap;
    groups = s->n_tok * s->n_kv * s->tiles;
    s->splits = groups < c->sms ? c->sms / groups : 1;
    s->max_blocks = a->b->max_blocks;
    s->n_pages = (int)a->kv->n_pages;
    s->eps = (float)m->eps;
    s->mscale = (float)m->rope_mscale;
    s->attn_scale = (float)(1.4426950408889634 / sqrt((double)m->hd));
    s->x = a->x;
    s->qkv = a->qkv;
    s->att = a->att;
    s->h = a->h;
    s->pages = a->kv->base;
    s->k_scale = a->kv->k_scale;
    s->v_scale = a->kv->v_scale;
    s->block = a->b->block;
    s->pos = a->b->pos;
    s->seq = a->b->seq;
    s->inv_freq = a->b->inv_freq;
    s->q_scale = a->b->q_scale;
    s->part = c->part;
    s->arrived = c->arrived;
    s->barrier = c->barrier;
}

q_status cu_layers(rt_backend *be, const rt_layers_args *a, int *done, q_err *err)
{
    q_status st = Q_OK;
    const cu_be *c = cu_of(be);
    const step_scheme *f;
    step_args s;

    *done = 0;
    if (c->cc / 10 != 9 || a->b->n_tok < 1 || a->b->n_tok != a->b->n_seq ||
        (a->kv->format->dtype != FMT_F16 && a->kv->format->dtype != FMT_I8) ||
        a->kv->n_pages > INT32_MAX || !fits_model(a))
        return Q_OK;
    f = scheme_of(&a->layer[0].w[roles[0]]);
    memset(&s, 0, sizeof s);
    fill_shapes(&s, c, a);
    if (!fit_shared(&s, f))
        return Q_OK;
    for (int64_t l0 = 0; l0 < a->m->layers; l0 += s.n_layers) {
        const int64_t left = a->m->layers - l0;

        s.first = (int)l0;
        s.n_layers = (int)(left < STEP_LAYERS ? left : STEP_LAYERS);
        for (int l = 0; l < s.n_layers; l++) {
            const rt_layer *L = &a->layer[l0 + l];
            step_layer *to = &s.layer[l];

            for (int i = 0; i < STEP_ROLES; i++) {
                Q_TRY(cu_map_rows(&to->map[i], L->w[roles[i]].data, L->w[roles[i]].N,
                                  L->w[roles[i]].row_bytes, err));
                to->scale[i] = L->w[roles[i]].scale;
                to->bias[i] = L->w[roles[i]].bias;
                if (f->groups)
                    to->zero[i] = L->w[roles[i]].zero;
                else
                    to->x_scale[i] = L->w[roles[i]].x_scale;
            }
            to->norm1 = L->norm1;
            to->norm2 = L->norm2;
            to->q_norm = L->q_norm;
            to->k_norm = L->k_norm;
        }
        Q_TRY(f->run(c, &s, err));
    }
    *done = 1;
out:
    return st;
}
