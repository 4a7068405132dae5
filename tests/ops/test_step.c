/* The persistent decode kernel against the chain of operations it replaces, on the GPU.
 *
 * A model of random weights, a cache filled with random keys and values, one token for each of
 * several sequences with shuffled pages.  Both ways start from the same state; the residual stream
 * after all layers and what was stored into the cache must agree.  Then: the same again gives the
 * same bits, and so does a token beside other neighbours.  Cases that the kernel does not take must
 * say so and leave the state alone. */
#include <stdio.h>

#include "runtime/decoder.h"
#include "tests/ops/ops.h"

#define MAX_SEQ 16
#define LAYERS  2
#define BASE    10000.0

typedef struct step_case {
    const char *name, *scheme;
    int64_t hid, n_head, n_kv, hd, ffn, rot, step, gap;
    int bias, norm, logn;
    int taken; /* by the kernel */
    int n_seq, past[MAX_SEQ];
} step_case;

#define HALVES(hd)     (hd), 1, (hd) / 2
#define HALF_PAIRS(hd) (hd) / 2, 2, 1
#define RAGGED                                                                                     \
    2,                                                                                             \
    {                                                                                              \
        1000, 63                                                                                   \
    }

static const step_case cases[] = {
    { "first token", "f16", 256, 2, 2, 128, 768, HALVES(128), 1, 0, 0, 1, 1, { 0 } },
    { "f16, mha", "f16", 256, 4, 4, 64, 512, HALVES(64), 1, 0, 1, 1, RAGGED },
    { "w8, mha", "w8", 256, 2, 2, 128, 1536, HALVES(128), 1, 0, 0, 1, RAGGED },
    { "w4, mha", "w4", 256, 2, 2, 128, 1536, HALVES(128), 1, 0, 0, 1, 1, { 1000 } },
    { "f16, gqa 2, q and k norm", "f16", 256, 4, 2, 128, 512, HALVES(128), 0, 1, 0, 1, RAGGED },
    { "w8, gqa 7", "w8", 896, 14, 2, 64, 1000, HALVES(64), 1, 0, 0, 1, 2, { 700, 64 } },
    { "w4, gqa 16, half pairs",
      "w4",
      512,
      16,
      1,
      128,
      1408,
      HALF_PAIRS(128),
      1,
      0,
      0,
      1,
      1,
      { 2000 } },
    { "f16, gqa 8, half pairs",
      "f16",
      512,
      8,
      1,
      64,
      1368,
      HALF_PAIRS(64),
      1,
      0,
      0,
      1,
      1,
      { 4000 } },
    { "w8, units of every number",
      "w8",
      2048,
      16,
      16,
      128,
      5504,
      HALVES(128),
      1,
      0,
      0,
      1,
      1,
      { 300 } },
    { "w4, the same", "w4", 2048, 16, 4, 128, 5504, HALVES(128), 0, 0, 0, 1, 1, { 31 } },
    { "width 32", "f16", 128, 4, 4, 32, 256, HALVES(32), 0, 0, 0, 0, 1, { 9 } },
    { "odd ffn", "f16", 128, 2, 2, 64, 258, HALVES(64), 0, 0, 0, 0, 1, { 9 } },
    { "w4, 4 sequences", "w4", 256, 2, 2, 128, 768, HALVES(128), 0, 0, 0, 0, 4, { 9, 100 } },
};

typedef struct scene {
    const step_case *c;
    rt_backend *be;
    rt_model m;
    rt_work work;
    rt_batch b;
    rt_kv kv;
    size_t kv_bytes, n_x;
    void *kv_first; /* host: the cache before the step */
    float *x_first; /* host: [n_tok, hid] */
} scene;

static const rt_kv_format f16 = { "f16", FMT_F16 };

static float *up_random(rt_backend *be, size_t n, uint64_t seed, float middle, float size)
{
    float *v = op_random(n, seed, size), *p;

    for (size_t i = 0; i < n; i++)
        v[i] += middle;
    p = op_up(be, v, n * sizeof *v);
    T_OK(be->ops->sync(be, &(q_err){ 0 }), (q_err){ 0 });
    q_free(v);
    return p;
}

static rt_weight random_weight(rt_backend *be, const step_case *c, int64_t N, int64_t K, int bias,
                               uint64_t seed)
{
    float *v = op_random((size_t)(N * K), seed, 1.7f / sqrtf((float)K));
    float *b = op_random((size_t)N, seed + 1, 0.5f);
    const rt_weight w = op_weight(be, op_tensor(c->scheme, v, bias ? b : NULL, N, K, v));

    q_free(v);
    q_free(b);
    return w;
}

static void make_layer(scene *s, rt_layer *l, uint64_t seed)
{
    const step_case *c = s->c;
    rt_backend *be = s->be;
    const int64_t q = c->n_head * c->hd;

    l->norm1 = up_random(be, (size_t)c->hid, seed, 1, 0.3f);
    l->norm2 = up_random(be, (size_t)c->hid, seed + 1, 1, 0.3f);
    if (c->norm) {
        l->q_norm = up_random(be, (size_t)c->hd, seed + 2, 1, 0.3f);
        l->k_norm = up_random(be, (size_t)c->hd, seed + 3, 1, 0.3f);
    }
    l->w[FMT_ATTN_QKV] = random_weight(be, c, q + 2 * c->n_kv * c->hd, c->hid, c->bias, seed + 4);
    l->w[FMT_ATTN_OUT] = random_weight(be, c, c->hid, q, 0, seed + 6);
    l->w[FMT_FFN_GATE_UP] = random_weight(be, c, 2 * c->ffn, c->hid, c->bias, seed + 8);
    l->w[FMT_FFN_DOWN] = random_weight(be, c, c->hid, c->ffn, 0, seed + 10);
}

/* One token a sequence after past[i] cached ones; pages in an order of their own. */
static void make_batch(scene *s, const int *past)
{
    const step_case *c = s->c;
    const int n = c->n_seq, pages = (int)s->kv.n_pages, each = pages / n;
    int32_t ints[5 * MAX_SEQ + 1], *block = op_host((size_t)pages * sizeof *block);
    int32_t *pos = ints, *seq = pos + n, *len = seq + n, *start = len + n;
    float *freq = op_host((size_t)(n * (c->rot / 2) + 1) * sizeof *freq), scale[MAX_SEQ];

    start[0] = 0;
    for (int i = 0; i < n; i++) {
        pos[i] = past[i];
        seq[i] = i;
        len[i] = past[i] + 1;
        start[i + 1] = i + 1;
        scale[i] = c->logn ? 1.0f + 0.1f * (float)i : 1.0f;
        for (int j = 0; j < each; j++)
            block[i * each + j] = (i * each + j) * 7 % pages;
        for (int p = 0; p < c->rot / 2; p++)
            freq[i * (c->rot / 2) + p] =
                (float)pow(BASE, -2.0 * p / (double)c->rot) / (float)(1 + i % 2);
    }
    s->b =
        (rt_batch){ .n_tok = n,
                    .n_seq = n,
                    .max_blocks = each,
                    .pos = op_up(s->be, pos, sizeof *pos * (size_t)n),
                    .seq = op_up(s->be, seq, sizeof *seq * (size_t)n),
                    .kv_len = op_up(s->be, len, sizeof *len * (size_t)n),
                    .q_start = op_up(s->be, start, sizeof *start * (size_t)(n + 1)),
                    .block = op_up(s->be, block, sizeof *block * (size_t)pages),
                    .inv_freq = op_up(s->be, freq, sizeof *freq * (size_t)(n * (c->rot / 2) + 1)),
                    .q_scale = op_up(s->be, scale, sizeof *scale * (size_t)n) };
    T_OK(s->be->ops->sync(s->be, &(q_err){ 0 }), (q_err){ 0 });
    q_free(block);
    q_free(freq);
}

static void free_batch(scene *s)
{
    void *all[] = { s->b.pos,   s->b.seq,      s->b.kv_len, s->b.q_start,
                    s->b.block, s->b.inv_freq, s->b.q_scale };

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        s->be->ops->free(s->be, all[i]);
}

static void open_scene(scene *s, const step_case *c, rt_backend *be)
{
    int64_t longest = 0, pages;
    q_err err = { 0 };
    float *v;

    memset(s, 0, sizeof *s);
    s->c = c;
    s->be = be;
    s->m.desc = (fmt_model){ .hid = c->hid,
                             .layers = LAYERS,
                             .n_head = c->n_head,
                             .n_kv = c->n_kv,
                             .hd = c->hd,
                             .ffn = c->ffn,
                             .vocab = 8,
                             .eps = 1e-6,
                             .rot = c->rot,
                             .rope_step = c->step,
                             .rope_gap = c->gap,
                             .rope_mscale = 1 };
    s->m.be = be;
    s->m.layer = op_host(LAYERS * sizeof *s->m.layer);
    for (int l = 0; l < LAYERS; l++)
        make_layer(s, &s->m.layer[l], 100 * (uint64_t)l + 1);
    T_OK(rt_work_open(&s->work, &s->m, c->n_seq, 1, &err), err);
    for (int i = 0; i < c->n_seq; i++)
        longest = c->past[i] > longest ? c->past[i] : longest;
    pages = (longest / RT_PAGE + 1) * c->n_seq;
    pages += pages % 7 == 0; /* so that 7 j mod pages meets every page */
    while (pages % c->n_seq != 0 || pages % 7 == 0)
        pages++;
    s->kv =
        (rt_kv){ .format = &f16, .n_pages = pages, .layers = LAYERS, .n_kv = c->n_kv, .hd = c->hd };
    s->kv_bytes = (size_t)(LAYERS * pages * 2 * c->n_kv * RT_PAGE * c->hd) * 2;
    v = op_random(s->kv_bytes / 2, 77, 1);
    s->kv_first = op_host(s->kv_bytes);
    fmt_convert(s->kv_first, FMT_F16, v, FMT_F32, s->kv_bytes / 2, NULL);
    q_free(v);
    s->kv.base = op_alloc(be, s->kv_bytes);
    s->n_x = (size_t)(c->n_seq * c->hid);
    s->x_first = op_random(s->n_x, 78, 2);
    make_batch(s, c->past);
}

static void close_scene(scene *s)
{
    rt_backend *be = s->be;

    free_batch(s);
    rt_work_close(&s->work, &s->m);
    be->ops->free(be, s->kv.base);
    for (int l = 0; l < LAYERS; l++) {
        rt_layer *L = &s->m.layer[l];

        be->ops->free(be, L->norm1);
        be->ops->free(be, L->norm2);
        be->ops->free(be, L->q_norm);
        be->ops->free(be, L->k_norm);
        for (int r = 0; r < FMT_ROLES; r++)
            be->ops->unprep(be, &L->w[r]);
    }
    q_free(s->m.layer);
    q_free(s->kv_first);
    q_free(s->x_first);
}

/* From the first state: x and the cache afterwards, host.  one: by the kernel; returns whether it
 * took the batch. */
static int run(scene *s, int one, float *x, void *cache)
{
    rt_backend *be = s->be;
    q_err err = { 0 };
    int done = 0;

    T_OK(be->ops->copy(be, s->work.x, s->x_first, s->n_x * sizeof *x, RT_TO_DEVICE, &err), err);
    T_OK(be->ops->copy(be, s->kv.base, s->kv_first, s->kv_bytes, RT_TO_DEVICE, &err), err);
    if (one)
        T_OK(be->ops->layers(be,
                             &(rt_layers_args){ .b = &s->b,
                                                .m = &s->m.desc,
                                                .layer = s->m.layer,
                                                .kv = &s->kv,
                                                .x = s->work.x,
                                                .qkv = s->work.qkv,
                                                .att = s->work.att,
                                                .h = s->work.h },
                             &done, &err),
             err);
    for (int l = 0; l < LAYERS && !one; l++)
        T_OK(rt_layer_forward(&s->m, &s->work, &s->b, &s->kv, l, &err), err);
    op_down(be, x, s->work.x, s->n_x * sizeof *x);
    op_down(be, cache, s->kv.base, s->kv_bytes);
    return done;
}

static void compare(const step_case *c, const char *what, const void *y, const void *ref, size_t n,
                    fmt_dtype t)
{
    float *a = op_host(n * sizeof *a);
    double *r = op_host(n * sizeof *r);
    float *b = op_host(n * sizeof *b);
    char name[96];

    fmt_convert(a, FMT_F32, y, t, n, NULL);
    fmt_convert(b, FMT_F32, ref, t, n, NULL);
    for (size_t i = 0; i < n; i++)
        r[i] = (double)b[i];
    snprintf(name, sizeof name, "%s: %s", c->name, what);
    op_compare(name, "cuda", a, r, n, 2e-6, 2e-2);
    q_free(a);
    q_free(b);
    q_free(r);
}

static void check(rt_backend *be, const step_case *c)
{
    scene s;
    float *want, *x, *again;
    void *want_kv, *kv, *kv2;
    int other[MAX_SEQ];

    open_scene(&s, c, be);
    want = op_host(s.n_x * sizeof *want);
    x = op_host(s.n_x * sizeof *x);
    again = op_host(s.n_x * sizeof *again);
    want_kv = op_host(s.kv_bytes);
    kv = op_host(s.kv_bytes);
    kv2 = op_host(s.kv_bytes);
    if (run(&s, 1, x, kv) != c->taken)
        t_fail(c->name, 0, "wanted %s", c->taken ? "the kernel to take it" : "it left alone");
    if (c->taken) {
        run(&s, 0, want, want_kv);
        compare(c, "x", x, want, s.n_x, FMT_F32);
        compare(c, "cache", kv, want_kv, s.kv_bytes / 2, FMT_F16);
        run(&s, 1, again, kv2);
        T_TRUE(memcmp(x, again, s.n_x * sizeof *x) == 0 && memcmp(kv, kv2, s.kv_bytes) == 0);
        /* the first sequence beside shorter neighbours */
        for (int i = 0; i < c->n_seq; i++)
            other[i] = i == 0 ? c->past[0] : c->past[i] / 2;
        free_batch(&s);
        make_batch(&s, other);
        run(&s, 1, again, kv2);
        T_TRUE(memcmp(x, again, (size_t)c->hid * sizeof *x) == 0);
    } else {
        T_TRUE(memcmp(x, s.x_first, s.n_x * sizeof *x) == 0);
        T_TRUE(memcmp(kv, s.kv_first, s.kv_bytes) == 0);
    }
    q_free(want);
    q_free(x);
    q_free(again);
    q_free(want_kv);
    q_free(kv);
    q_free(kv2);
    close_scene(&s);
}

static void t_step(void)
{
    rt_backend *be = op_need_cuda();
    q_err err = { 0 };
    int done = 1;

    /* an older GPU takes none: then there is nothing to compare */
    T_OK(be->ops->layers(be, &(rt_layers_args){ .b = &(rt_batch){ .n_tok = 2, .n_seq = 1 } }, &done,
                         &err),
         err);
    T_INT(done, 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check(be, &cases[i]);
}

static const t_case tests[] = { T(t_step), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, tests);
}
