/* The persistent decode kernel against the chain of operations it replaces, on the GPU.
 *
 * A model of random weights, a cache filled with random keys and values, one token for each of
 * several sequences with shuffled pages.  Both ways start from the same state; the residual stream
 * after all layers and what was stored into the cache must agree.  Then: the same again gives the
 * same bits, and so does a token beside other neighbours; w8a8 products, whose sums are exact, are
 * the bits of the single operations, and those of other codes what double precision makes of the
 * same halves.  Each case once more with a row of zeros, with one value 1000 times the others, and
 * with one that is not finite.  Cases that the kernel does not take must say so and leave the state
 * alone. */
#include <stdio.h>

#include "runtime/decoder.h"
#include "tests/ops/op_batch.h"
#include "tests/ops/step_cases.h"

#define LAYERS 2

typedef struct scene {
    const step_case *c;
    rt_backend *be;
    rt_model m;
    rt_work work;
    op_batch_shape shape;
    rt_batch b; /* backend memory */
    rt_kv kv;
    size_t kv_bytes, n_x;
    void *kv_first;    /* host: the cache before the step */
    float *x_first;    /* host: [n_tok, hid] */
    float *out, *down; /* host: weights of the last layer */
} scene;

static const rt_kv_format formats[] = { { "f16", FMT_F16 }, { "int8", FMT_I8 } };

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

/* *meant: [N, K] what the codes mean. */
static rt_weight random_weight(rt_backend *be, const step_case *c, int64_t N, int64_t K, int bias,
                               uint64_t seed, float **meant)
{
    const op_groups groups = { .size = c->group, .order = c->order, .sym = c->sym };
    float *v = op_random((size_t)(N * K), seed, 1.7f / sqrtf((float)K));
    float *b = op_random((size_t)N, seed + 1, 0.5f);
    qnt_tensor t = op_tensor_groups(c->scheme, &groups, v, bias ? b : NULL, N, K, v);
    rt_weight w;

    t.x_scale = c->x_scale;
    w = op_weight(be, t);
    q_free(*meant);
    *meant = v;
    q_free(b);
    return w;
}

static void make_layer(scene *s, rt_layer *l, uint64_t seed)
{
    const step_case *c = s->c;
    rt_backend *be = s->be;
    const int64_t q = c->n_head * c->hd;
    float *other = NULL;

    l->norm1 = up_random(be, (size_t)c->hid, seed, 1, 0.3f);
    l->norm2 = up_random(be, (size_t)c->hid, seed + 1, 1, 0.3f);
    if (c->norm) {
        l->q_norm = up_random(be, (size_t)c->hd, seed + 2, 1, 0.3f);
        l->k_norm = up_random(be, (size_t)c->hd, seed + 3, 1, 0.3f);
    }
    l->w[FMT_ATTN_QKV] =
        random_weight(be, c, q + 2 * c->n_kv * c->hd, c->hid, c->bias, seed + 4, &other);
    l->w[FMT_ATTN_OUT] = random_weight(be, c, c->hid, q, 0, seed + 6, &s->out);
    l->w[FMT_FFN_GATE_UP] = random_weight(be, c, 2 * c->ffn, c->hid, c->bias, seed + 8, &other);
    l->w[FMT_FFN_DOWN] = random_weight(be, c, c->hid, c->ffn, 0, seed + 10, &s->down);
    q_free(other);
}

/* One token a sequence after past[i] cached ones. */
static void make_batch(scene *s, const int *past)
{
    op_span seq[MAX_SEQ] = { 0 };
    rt_batch host;

    for (int i = 0; i < s->c->n_seq; i++)
        seq[i] = (op_span){ past[i], 1 };
    host = op_batch(&s->shape, seq, 1);
    for (int i = 0; i < s->c->n_seq && s->c->logn; i++)
        host.q_scale[i] = 1.0f + 0.1f * (float)i;
    s->b = op_batch_up(s->be, &s->shape, &host);
    op_batch_free(&host);
}

/* Random keys and values; what a code is worth differs from head to head. */
static void make_cache(scene *s)
{
    const size_t n = s->kv_bytes / fmt_dtype_bytes(s->kv.format->dtype);
    const float step = s->c->kv8 ? 127 : 1;
    float *v = op_random(n, 77, step);

    s->kv_first = op_host(s->kv_bytes);
    if (s->c->kv8) {
        for (size_t i = 0; i < n; i++)
            ((int8_t *)s->kv_first)[i] = (int8_t)lrintf(v[i]);
        s->kv.k_scale = up_random(s->be, (size_t)(LAYERS * s->c->n_kv), 80, 1.0f / 127, 0.3f / 127);
        s->kv.v_scale = up_random(s->be, (size_t)(LAYERS * s->c->n_kv), 81, 1.0f / 127, 0.3f / 127);
    } else {
        fmt_convert(s->kv_first, FMT_F16, v, FMT_F32, n, NULL);
    }
    s->kv.base = op_alloc(s->be, s->kv_bytes);
    q_free(v);
}

static void open_scene(scene *s, const step_case *c, rt_backend *be)
{
    int longest = 0;
    q_err err = { 0 };

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
    s->shape =
        (op_batch_shape){ .n_seq = c->n_seq, .capacity = longest / RT_PAGE + 1, .rot = c->rot };
    s->shape.n_pages = op_n_pages(c->n_seq, s->shape.capacity);
    s->kv = (rt_kv){ .format = &formats[c->kv8],
                     .n_pages = s->shape.n_pages,
                     .layers = LAYERS,
                     .n_kv = c->n_kv,
                     .hd = c->hd };
    s->kv_bytes = (size_t)(LAYERS * s->kv.n_pages * 2 * c->n_kv * RT_PAGE * c->hd) *
                  fmt_dtype_bytes(s->kv.format->dtype);
    make_cache(s);
    s->n_x = (size_t)(c->n_seq * c->hid);
    s->x_first = op_random(s->n_x, 78, 2);
    make_batch(s, c->past);
}

static void close_scene(scene *s)
{
    rt_backend *be = s->be;

    op_batch_down(be, &s->b);
    rt_work_close(&s->work, &s->m);
    be->ops->free(be, s->kv.base);
    be->ops->free(be, (void *)(uintptr_t)s->kv.k_scale);
    be->ops->free(be, (void *)(uintptr_t)s->kv.v_scale);
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
    q_free(s->out);
    q_free(s->down);
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

static void to_floats(float *out, const void *v, size_t n, fmt_dtype t)
{
    for (size_t i = 0; i < n && t == FMT_I8; i++)
        out[i] = ((const int8_t *)v)[i];
    if (t != FMT_I8)
        fmt_convert(out, FMT_F32, v, t, n, NULL);
}

/* Norms and attention add up in another order, which changes the last bit of a half here and there;
 * where the halves become codes, of activations or of keys and values, some come out one step
 * higher or lower: a step is 1 / 40 of a value. */
static void compare(const step_case *c, const char *what, const void *y, const void *ref, size_t n,
                    fmt_dtype t)
{
    const int coded = c->kv8 || strcmp(c->scheme, "w8a8") == 0;
    float *a = op_host(n * sizeof *a);
    double *r = op_host(n * sizeof *r);
    float *b = op_host(n * sizeof *b);
    char name[96];

    to_floats(a, y, n, t);
    to_floats(b, ref, n, t);
    for (size_t i = 0; i < n; i++)
        r[i] = (double)b[i];
    snprintf(name, sizeof name, "%s: %s", c->name, what);
    op_compare(name, "cuda", a, r, n, coded ? 2e-5 : 2e-6, 2e-2);
    q_free(a);
    q_free(b);
    q_free(r);
}

/* One layer of w8a8: what its last two products added, from the same inputs by single operations.
 */
static void check_exact(scene *s, float *x, float *want, void *cache)
{
    const rt_layer *l = &s->m.layer[0];
    const int n_tok = s->b.n_tok;
    rt_backend *be = s->be;
    q_err err = { 0 };

    s->m.desc.layers = 1;
    T_INT(run(s, 1, x, cache), 1);
    s->m.desc.layers = LAYERS;
    T_OK(be->ops->copy(be, s->work.x, s->x_first, s->n_x * sizeof *x, RT_TO_DEVICE, &err), err);
    T_OK(be->ops->linear(be,
                         &(rt_linear_args){ .x = s->work.att,
                                            .w = &l->w[FMT_ATTN_OUT],
                                            .y = s->work.x,
                                            .n_tok = n_tok,
                                            .epi = RT_EPI_ADD },
                         &err),
         err);
    T_OK(be->ops->linear(be,
                         &(rt_linear_args){ .x = s->work.h,
                                            .w = &l->w[FMT_FFN_DOWN],
                                            .y = s->work.x,
                                            .n_tok = n_tok,
                                            .epi = RT_EPI_ADD },
                         &err),
         err);
    op_down(be, want, s->work.x, s->n_x * sizeof *want);
    for (size_t i = 0; i < s->n_x; i++)
        if (x[i] != want[i])
            t_fail(s->c->name, 0, "x[%zu] %.9g, of single operations %.9g", i, (double)x[i],
                   (double)want[i]);
}

/* y [n_tok, N] += x W' in double precision, x f16 on the device; size: the sums of magnitudes, and
 * of those of W times the row's largest, which is what digits are cut from. */
static void add_product(scene *s, double *y, double *size, const void *x, const float *W, size_t K)
{
    const size_t N = (size_t)s->c->hid, n_tok = (size_t)s->b.n_tok;
    float *v = op_host(n_tok * K * sizeof *v);
    uint16_t *h = op_host(n_tok * K * sizeof *h);

    op_down(s->be, h, x, n_tok * K * sizeof *h);
    fmt_convert(v, FMT_F32, h, FMT_F16, n_tok * K, NULL);
    for (size_t t = 0; t < n_tok; t++) {
        double top = 0;

        for (size_t k = 0; k < K; k++)
            top = fmax(top, fabs((double)v[t * K + k]));
        for (size_t n = 0; n < N; n++) {
            double sum = 0, all = 0, cut = 0;

            for (size_t k = 0; k < K; k++) {
                sum += (double)v[t * K + k] * (double)W[n * K + k];
                all += fabs((double)v[t * K + k] * (double)W[n * K + k]);
                cut += fabs((double)W[n * K + k]);
            }
            y[t * N + n] += sum;
            size[t * N + n] += all + cut * top;
        }
    }
    q_free(v);
    q_free(h);
}

/* The last layer alone: what its last two products added to x, from the same halves.  Digits are
 * cut at 2^-22 of the largest, weights and sums rounded to f32 a few times. */
static void check_double(scene *s, float *x, void *cache)
{
    double *y = op_host(s->n_x * sizeof *y), *size = op_host(s->n_x * sizeof *size), worst = 0;

    s->m.desc.layers = 1;
    s->m.layer += LAYERS - 1;
    T_INT(run(s, 1, x, cache), 1);
    s->m.layer -= LAYERS - 1;
    s->m.desc.layers = LAYERS;
    for (size_t i = 0; i < s->n_x; i++)
        size[i] = fabs(y[i] = (double)s->x_first[i]);
    add_product(s, y, size, s->work.att, s->out, (size_t)(s->c->n_head * s->c->hd));
    add_product(s, y, size, s->work.h, s->down, (size_t)s->c->ffn);
    for (size_t i = 0; i < s->n_x; i++)
        worst = fmax(worst, fabs((double)x[i] - y[i]) / size[i]);
    printf("  %-40s of magnitudes, from double precision %.2g\n", s->c->name, worst);
    if (!(worst < 3e-7))
        t_fail(s->c->name, 0, "products %g of their magnitudes away, at most 3e-7", worst);
    q_free(y);
    q_free(size);
}

/* Rows that are not like others, in the place of the first token's.  x: of the ordinary ones. */
static void check_rows(scene *s, const float *x, void *cache)
{
    static const struct {
        const char *name;
        float value; /* of one column; the others keep theirs, or are 0 with it */
    } rows[] = { { "zeros", 0 }, { "outlier", 2000 }, { "NaN", NAN }, { "inf", -INFINITY } };
    const size_t hid = (size_t)s->c->hid, bytes = hid * sizeof(float);
    float *first = op_host(bytes), *got = op_host(s->n_x * sizeof *got);
    float *want = op_host(s->n_x * sizeof *want);
    char name[96];

    memcpy(first, s->x_first, bytes);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t n_nan = 0;

        memcpy(s->x_first, first, bytes);
        if (rows[i].value == 0)
            memset(s->x_first, 0, bytes);
        s->x_first[5] = rows[i].value;
        T_INT(run(s, 1, got, cache), 1);
        T_TRUE(memcmp(got + hid, x + hid, (s->n_x - hid) * sizeof *x) == 0);
        if (isfinite(rows[i].value)) {
            run(s, 0, want, cache);
            for (size_t k = 0; k < hid; k++) {
                got[k] -= s->x_first[k]; /* what the layers added */
                want[k] -= s->x_first[k];
            }
            snprintf(name, sizeof name, "x, %s", rows[i].name);
            compare(s->c, name, got, want, hid, FMT_F32);
            continue;
        }
        for (size_t k = 0; k < hid; k++)
            n_nan += isnan(got[k]) ? 1u : 0u;
        T_INT((int)n_nan, (int)hid);
    }
    memcpy(s->x_first, first, bytes);
    q_free(first);
    q_free(got);
    q_free(want);
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
        compare(c, "cache", kv, want_kv, s.kv_bytes / fmt_dtype_bytes(s.kv.format->dtype),
                s.kv.format->dtype);
        run(&s, 1, again, kv2);
        T_TRUE(memcmp(x, again, s.n_x * sizeof *x) == 0 && memcmp(kv, kv2, s.kv_bytes) == 0);
        if (strcmp(c->scheme, "w8a8") == 0)
            check_exact(&s, again, want, kv2);
        else if (strcmp(c->scheme, "f16") != 0)
            check_double(&s, again, kv2);
        check_rows(&s, x, kv2);
        /* the first sequence beside shorter neighbours */
        for (int i = 0; i < c->n_seq; i++)
            other[i] = i == 0 ? c->past[0] : c->past[i] / 2;
        op_batch_down(be, &s.b);
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
