/* The int8 KV cache: what is stored, what attention makes of it, and what opening a pool refuses.
 *
 * A case is a list of sequences (tokens cached by a first call, tokens of the second).  Codes are
 * compared with the rotation in double divided by the scale: within half a step, and exactly at the
 * ends of the range.  Attention is then compared with double precision over the values that the
 * stored codes stand for, so the bound is that of float32 sums, or of f16 on the GPU.  Its kernels
 * have widths 64, 128 and 256, others are filled up; 8 rows and 16 are where decode changes. */
#include "runtime/kv.h"
#include "tests/ops/op_batch.h"

#define LAYERS  2
#define LAYER   1 /* the one in use: the other must stay untouched */
#define MAX_SEQ 4
#define LONG    20 /* pages of a sequence: of longer ones only the last call is checked */

/* f32 sums of up to 500 positions; those of the GPU have the bound of f16 */
#define NMSE 5e-13
#define MAX  1e-5

typedef struct kv8_case {
    const char *name;
    int64_t n_head, n_kv, hd;
    float reach; /* absmax over 127 scales: above 1 some values saturate */
    float size;  /* of keys and values */
    op_span seq[MAX_SEQ];
} kv8_case;

static const kv8_case cases[] = {
    { "one token", 1, 1, 4, 1, 1, { { 0, 1 } } },
    { "one token, width 8", 1, 1, 8, 1, 1, { { 0, 1 } } },
    { "decode, one row a head", 4, 4, 64, 1, 2, { { 150, 1 }, { 63, 1 }, { 64, 1 } } },
    { "decode, Qwen-7B head", 4, 4, 128, 1, 1, { { 1200, 1 }, { 5, 1 }, { 127, 1 } } },
    { "decode, group 4", 8, 2, 128, 1, 2, { { 300, 1 }, { 5, 1 } } },
    { "decode, group 7", 14, 2, 48, 1, 1, { { 127, 1 }, { 128, 1 } } },
    { "decode, group 7, 1k", 7, 1, 128, 1, 1, { { 1000, 1 } } },
    { "decode, 4095 to 4097",
      2,
      1,
      128,
      1,
      1,
      { { 4094, 1 }, { 4095, 1 }, { 4096, 1 }, { 0, 1 } } },
    { "decode, group 7, 4096",
      7,
      1,
      128,
      1,
      1,
      { { 4095, 1 }, { 63, 1 }, { 4094, 2 }, { 64, 1 } } },
    { "decode, width 72, 4097", 2, 1, 72, 1, 1, { { 4096, 1 }, { 62, 2 } } },
    { "decode, group 8, two tokens", 8, 1, 128, 1, 1, { { 300, 2 }, { 0, 2 } } },
    { "decode, group 16", 16, 1, 64, 1, 1, { { 190, 1 } } },
    { "decode, group 20", 20, 1, 64, 1, 1, { { 190, 1 } } },
    { "prefill", 4, 4, 64, 1, 1, { { 0, 150 } } },
    { "prefill, group 8", 8, 1, 128, 1, 1, { { 0, 200 } } },
    { "chunks and decode", 4, 2, 80, 1, 1, { { 70, 65 }, { 100, 1 }, { 0, 3 } } },
    { "chunks, 128", 4, 2, 128, 1, 1, { { 200, 300 }, { 700, 1 }, { 0, 64 } } },
    { "widest", 2, 1, 256, 1, 1, { { 60, 40 }, { 0, 130 } } },
    { "widest, decode", 2, 1, 256, 1, 1, { { 400, 1 }, { 63, 1 } } },
    { "widest, one row", 1, 1, 256, 1, 1, { { 200, 1 } } },
    { "odd width, 20", 4, 2, 20, 1, 1, { { 50, 30 }, { 90, 1 } } },
    { "odd width, 24", 4, 2, 24, 1, 1, { { 50, 30 }, { 90, 1 } } },
    { "odd width, 136", 4, 2, 136, 1, 1, { { 50, 30 }, { 190, 1 } } },
    { "saturated", 4, 2, 64, 3, 2, { { 90, 1 }, { 10, 20 } } },
    { "tiny values", 4, 2, 64, 1, 1e-20f, { { 90, 1 }, { 10, 20 } } },
    { "zeros", 2, 1, 32, 1, 0, { { 9, 3 } } },
};

#define N_CASES (sizeof cases / sizeof cases[0])

typedef struct scene {
    const kv8_case *c;
    const char *backend;
    rt_backend *be;
    fmt_model m;
    rt_kv_pool pool;
    float *k_scale, *v_scale; /* [LAYERS, n_kv], another for every head */
    int8_t *codes;            /* all pages, read back */
    op_batch_shape shape;
    size_t kv_bytes;
} scene;

/* One call in host memory; q and y as the backend left them. */
typedef struct call {
    rt_batch b;
    float *qkv, *q, *y;
} call;

static const int8_t *code_at(const scene *s, const rt_batch *b, int seq, int j, int64_t h,
                             int which)
{
    const int32_t page = b->block[seq * s->shape.capacity + j / RT_PAGE];
    const int64_t at = ((LAYER * s->pool.kv.n_pages + page) * 2 + which) * s->m.n_kv + h;

    return s->codes + (at * RT_PAGE + j % RT_PAGE) * s->m.hd;
}

static call make_call(const scene *s, int now)
{
    const float size = s->c->size;
    const int64_t width = (s->m.n_head + 2 * s->m.n_kv) * s->m.hd, n_q = s->m.n_head * s->m.hd;
    call k = { .b = op_batch(&s->shape, s->c->seq, now) };
    const int n = k.b.n_tok;

    k.qkv = op_random((size_t)(n * width), now ? 12 : 11, size);
    k.q = op_host((size_t)(n * n_q) * sizeof *k.q);
    k.y = op_host((size_t)(n * n_q) * sizeof *k.y);
    for (int t = 0; t < n; t++) { /* the softmax should not be flat, whatever the size of keys */
        k.b.q_scale[t] = 3;
        for (int64_t i = 0; i < n_q; i++)
            k.qkv[t * width + i] /= size > 0 ? size : 1;
    }
    if (s->be->ops->act == FMT_F16)
        op_round(k.qkv, (size_t)(n * width));
    return k;
}

static void free_call(call *k)
{
    op_batch_free(&k->b);
    q_free(k->qkv);
    q_free(k->q);
    q_free(k->y);
}

static void run_call(scene *s, call *k)
{
    const rt_backend_ops *ops = s->be->ops;
    const size_t n_q = (size_t)(k->b.n_tok * s->m.n_head * s->m.hd);
    const size_t n = (size_t)(k->b.n_tok * (s->m.n_head + 2 * s->m.n_kv) * s->m.hd);
    rt_batch b = op_batch_up(s->be, &s->shape, &k->b);
    void *qkv = op_act_up(s->be, k->qkv, n);
    void *q = op_act_alloc(s->be, n_q), *y = op_act_alloc(s->be, n_q);
    const rt_qkv_args store = {
        .b = &b, .m = &s->m, .qkv = qkv, .q = q, .kv = &s->pool.kv, .layer = LAYER
    };
    const rt_attn_args attend = {
        .b = &b, .m = &s->m, .q = q, .kv = &s->pool.kv, .y = y, .layer = LAYER
    };
    q_err err = { 0 };

    T_OK(ops->qkv_rope_store(s->be, &store, &err), err);
    T_OK(ops->attention(s->be, &attend, &err), err);
    op_act_down(s->be, k->q, q, n_q);
    op_act_down(s->be, k->y, y, n_q);
    op_down(s->be, s->codes, s->pool.kv.base, s->kv_bytes);
    op_batch_down(s->be, &b);
    ops->free(s->be, qkv);
    ops->free(s->be, q);
    ops->free(s->be, y);
}

/* ---- what is stored ------------------------------------------------------------------------- */

/* Elements i and i + hd / 2 turn together. */
static double rotated(const scene *s, const rt_batch *b, int t, const float *x, int64_t i)
{
    const int64_t half = s->m.rot / 2, p = i % half;
    const float angle = (float)b->pos[t] * b->inv_freq[b->seq[t] * half + p];
    const double c = cos((double)angle), sn = sin((double)angle);
    const double x0 = (double)x[p], x1 = (double)x[p + half];

    return i < half ? x0 * c - x1 * sn : x1 * c + x0 * sn;
}

/* One code against the exact quotient; slack: of what was rounded before, in codes */
static void check_code(const scene *s, const char *what, double exact, int code, double slack)
{
    if (exact >= 127 + slack || exact <= -128 - slack) {
        T_INT(code, exact > 0 ? 127 : -128);
    } else if (!(fabs(exact - code) <= 0.5 + slack)) {
        t_fail(s->c->name, 0, "%s: %s code %d, wanted %.9g", s->backend, what, code, exact);
    }
}

static void check_stored(const scene *s, const call *k)
{
    const int64_t hd = s->m.hd, n_kv = s->m.n_kv, width = (s->m.n_head + 2 * n_kv) * hd;
    const double turned = op_is_cuda(s->backend) ? 1e-3 : 1e-4;

    for (int t = 0; t < k->b.n_tok; t++)
        for (int64_t h = 0; h < n_kv; h++) {
            const float *key = k->qkv + t * width + (s->m.n_head + h) * hd, *v = key + n_kv * hd;
            const int seq = k->b.seq[t], pos = k->b.pos[t];
            const int8_t *kc = code_at(s, &k->b, seq, pos, h, 0);
            const int8_t *vc = code_at(s, &k->b, seq, pos, h, 1);
            const double ks = (double)s->k_scale[LAYER * n_kv + h];
            const double vs = (double)s->v_scale[LAYER * n_kv + h];

            for (int64_t i = 0; i < hd; i++) {
                check_code(s, "key", rotated(s, &k->b, t, key, i) / ks, kc[i], turned);
                check_code(s, "value", (double)v[i] / vs, vc[i], 1e-5);
            }
        }
}

static void check_untouched(const scene *s)
{
    for (size_t i = 0; i < s->kv_bytes / LAYERS; i++)
        if (s->codes[i] != 0x5a)
            t_fail(s->c->name, 0, "layer 0 was written at byte %zu", i);
}

/* ---- attention ------------------------------------------------------------------------------ */

static void attend_ref(const scene *s, const call *k, int t, int64_t h, double *y)
{
    const int64_t hd = s->m.hd, kvh = h * s->m.n_kv / s->m.n_head;
    const double ks = (double)s->k_scale[LAYER * s->m.n_kv + kvh];
    const double vs = (double)s->v_scale[LAYER * s->m.n_kv + kvh];
    const float *q = k->q + (t * s->m.n_head + h) * hd;
    const int n = k->b.pos[t] + 1, seq = k->b.seq[t];
    double *p = op_host((size_t)n * sizeof *p), max = -1e300, sum = 0;

    for (int j = 0; j < n; j++) {
        const int8_t *code = code_at(s, &k->b, seq, j, kvh, 0);

        for (int64_t i = 0; i < hd; i++)
            p[j] += (double)q[i] * (double)code[i] * ks / sqrt((double)hd);
        max = p[j] > max ? p[j] : max;
    }
    for (int j = 0; j < n; j++)
        sum += p[j] = exp(p[j] - max);
    for (int j = 0; j < n; j++) {
        const int8_t *code = code_at(s, &k->b, seq, j, kvh, 1);

        for (int64_t i = 0; i < hd; i++)
            y[i] += p[j] / sum * (double)code[i] * vs;
    }
    q_free(p);
}

static void check_attention(const scene *s, const call *k)
{
    const int64_t hd = s->m.hd, n = k->b.n_tok * s->m.n_head;
    double *y = op_host((size_t)(n * hd) * sizeof *y);

    for (int64_t i = 0; i < n; i++)
        attend_ref(s, k, (int)(i / s->m.n_head), i % s->m.n_head, y + i * hd);
    op_compare(s->c->name, s->backend, k->y, y, (size_t)(n * hd), NMSE, MAX);
    q_free(y);
}

/* ---- cases ---------------------------------------------------------------------------------- */

static scene open_scene(const kv8_case *c, const char *backend, int threads)
{
    const int n_seq = op_n_seq(c->seq, MAX_SEQ), capacity = op_capacity(c->seq, n_seq);
    const size_t n = (size_t)(LAYERS * c->n_kv);
    scene s = { .c = c,
                .backend = backend,
                .be = op_open(backend, threads),
                .shape = { n_seq, capacity, op_n_pages(n_seq, capacity), c->hd } };
    q_err err = { 0 };

    if (!s.be)
        return s;
    s.m = (fmt_model){ .layers = LAYERS,
                       .n_head = c->n_head,
                       .n_kv = c->n_kv,
                       .hd = c->hd,
                       .rot = c->hd,
                       .rope_step = 1,
                       .rope_gap = c->hd / 2,
                       .rope_mscale = 1 };
    s.k_scale = op_host(n * sizeof(float));
    s.v_scale = op_host(n * sizeof(float));
    for (size_t i = 0; i < n; i++) { /* a rotation makes an element up to sqrt 2 larger */
        const float unit = (c->size > 0 ? c->size : 1) / 127 / c->reach / (float)(i + 1);

        s.k_scale[i] = 1.4143f * unit * (float)n;
        s.v_scale[i] = unit * (float)n;
    }
    T_OK(rt_kv_open(&s.pool, s.be, &s.m, "int8", (int)s.shape.n_pages,
                    &(rt_kv_scales){ .k = s.k_scale, .v = s.v_scale }, &err),
         err);
    s.kv_bytes = (size_t)s.pool.kv.n_pages * rt_kv_page_bytes(&s.m, s.pool.kv.format);
    s.codes = op_host(s.kv_bytes);
    memset(s.codes, 0x5a, s.kv_bytes);
    T_OK(s.be->ops->copy(s.be, s.pool.kv.base, s.codes, s.kv_bytes, RT_TO_DEVICE, &err), err);
    return s;
}

static void close_scene(scene *s)
{
    if (s->be)
        rt_kv_close(&s->pool, s->be);
    q_free(s->k_scale);
    q_free(s->v_scale);
    q_free(s->codes);
    op_close(s->be);
}

/* *y: of the same backend; *codes: of any that is on the same kind of machine; both are made by the
 * first run */
static void run_case(const kv8_case *c, const char *backend, int threads, float **y, char **codes)
{
    scene s = open_scene(c, backend, threads);
    call k[2];
    size_t bytes;

    if (!s.be)
        return;
    for (int now = 0; now < 2; now++) {
        k[now] = make_call(&s, now);
        if (k[now].b.n_tok > 0)
            run_call(&s, &k[now]);
        if (*y)
            continue;
        check_stored(&s, &k[now]);
        if (now || s.shape.capacity <= LONG) /* its reference is quadratic */
            check_attention(&s, &k[now]);
    }
    bytes = (size_t)(k[1].b.n_tok * s.m.n_head * s.m.hd) * sizeof **y;
    if (!*y) {
        check_untouched(&s);
        *y = op_host(bytes);
        memcpy(*y, k[1].y, bytes);
    }
    op_same_bits(c->name, backend, threads, k[1].y, *y, bytes);
    if (!*codes) {
        *codes = op_host(s.kv_bytes);
        memcpy(*codes, s.codes, s.kv_bytes);
    }
    op_same_bits(c->name, backend, threads, s.codes, *codes, s.kv_bytes);
    free_call(&k[0]);
    free_call(&k[1]);
    close_scene(&s);
}

static void t_cases(void)
{
    for (size_t i = 0; i < N_CASES; i++) {
        char *codes = NULL;

        if (op_capacity(cases[i].seq, MAX_SEQ) > 8) /* for the GPU, which cuts the cache in parts */
            continue;
        for (size_t b = 0; b < OP_BACKENDS; b++) {
            float *y = NULL;

            for (size_t t = 0; t < OP_THREADS; t++)
                run_case(&cases[i], op_backends[b], op_threads[t], &y, &codes);
            q_free(y);
        }
        q_free(codes);
    }
}

static void t_cases_cuda(void)
{
    op_need_cuda();
    for (size_t i = 0; i < N_CASES; i++) {
        char *codes = NULL;
        float *y = NULL;

        if (cases[i].hd % 8 != 0 || (cases[i].size > 0 && cases[i].size < 1e-3f))
            continue; /* a width that it refuses: test_cuda; values that are 0 as f16 */
        for (size_t t = 0; t < op_runs("cuda"); t++)
            run_case(&cases[i], "cuda", op_threads[t], &y, &codes);
        q_free(y);
        q_free(codes);
    }
}

/* Values at position 0 of head 0, where the scale is 0.5: ties to even, both ends, and NaN, which
 * has no code and becomes 0.  The codes are the same for values that are rounded to f16 first. */
static void codes_on(const char *backend)
{
    static const kv8_case c = { "codes", 1, 1, 24, 1, 1, { { 0, 1 } } };
    const float v[24] = {
        0.25f, 0.75f,  -0.25f,   -0.75f,    63.5f, 63.7f, 63.8f,
        -64,   -64.3f, INFINITY, -INFINITY, NAN,   -NAN,  q_bits_to_f32(0xffc00055u),
        1e38f, -0.0f,  1e-44f,   63.75f,    -66,   6e4f,  6e-8f,
        0.5f,  -1,     0
    };
    static const int codes[24] = { 0, 2, 0,   -2, 127, 127, 127,  -128, -128, 127, -128, 0,
                                   0, 0, 127, 0,  0,   127, -128, 127,  0,    1,   -2,   0 };
    const float half[2] = { 0.5f, 0.5f }; /* of both layers */
    scene s = open_scene(&c, backend, 1);
    q_err err = { 0 };
    call k;

    if (s.be) {
        s.m.rot = s.shape.rot = 0; /* infinity times the sine of 0 would be NaN */
        k = make_call(&s, 1);
        T_OK(s.be->ops->copy(s.be, s.pool.scale, half, sizeof half, RT_TO_DEVICE, &err), err);
        T_OK(s.be->ops->copy(s.be, s.pool.scale + LAYERS, half, sizeof half, RT_TO_DEVICE, &err),
             err);
        memcpy(k.qkv + 24, v, sizeof v);
        memcpy(k.qkv + 48, v, sizeof v);
        run_call(&s, &k);
        for (int i = 0; i < 24; i++) {
            T_INT(code_at(&s, &k.b, 0, 0, 0, 0)[i], codes[i]);
            T_INT(code_at(&s, &k.b, 0, 0, 0, 1)[i], codes[i]);
            T_NEAR(k.y[i], 0.5 * codes[i], 0); /* one position: its value */
        }
        free_call(&k);
    }
    close_scene(&s);
}

static void t_codes(void)
{
    for (size_t b = 0; b < OP_BACKENDS; b++)
        codes_on(op_backends[b]);
}

static void t_codes_cuda(void)
{
    op_need_cuda();
    codes_on("cuda");
}

/* A NaN in a query is not hidden by the codes: in prefill, and in decode. */
static void nan_on(const char *backend)
{
    static const kv8_case c[] = { { "nan, prefill", 2, 2, 16, 1, 1, { { 0, 70 } } },
                                  { "nan, decode", 2, 2, 16, 1, 1, { { 0, 1 } } } };

    for (int i = 0; i < 2; i++) {
        scene s = open_scene(&c[i], backend, 2);

        if (s.be) {
            call k = make_call(&s, 1);
            const int last = k.b.n_tok - 1;

            k.qkv[last * 6 * 16] = NAN; /* last token, head 0 */
            run_call(&s, &k);
            for (int j = 0; j < (last + 1) * 32; j++)
                T_INT(isnan(k.y[j]) != 0, j >= last * 32 && j < last * 32 + 16);
            free_call(&k);
        }
        close_scene(&s);
    }
}

static void t_nan(void)
{
    for (size_t b = 0; b < OP_BACKENDS; b++)
        nan_on(op_backends[b]);
}

static void t_nan_cuda(void)
{
    op_need_cuda();
    nan_on("cuda");
}

/* ---- opening -------------------------------------------------------------------------------- */

static void t_open(void)
{
    const fmt_model m = { .layers = 2, .n_kv = 3, .hd = 8 };
    static const float bad[] = { 0, -1, NAN, INFINITY };
    float k[6] = { 1, 2, 3, 4, 5, 6 }, v[6] = { 7, 8, 9, 10, 11, 12 };
    const rt_kv_scales scales = { k, v };
    rt_backend *be = op_open("cpu-ref", 1);
    rt_kv_pool p;
    q_err err = { 0 };

    T_ERR(rt_kv_open(&p, be, &m, "int4", 1, NULL, &err), err, Q_EARG, "wanted f32, f16 or int8");
    T_ERR(rt_kv_open(&p, be, &m, "int8", 1, NULL, &err), err, Q_ECONFIG,
          "calibrate first: qwen-calibrate-kv");
    T_ERR(rt_kv_open(&p, be, &m, "int8", 1, &(rt_kv_scales){ k, NULL }, &err), err, Q_ECONFIG,
          "calibrate first: qwen-calibrate-kv");
    for (size_t i = 0; i < 4; i++) {
        k[4] = bad[i];
        T_ERR(rt_kv_open(&p, be, &m, "int8", 1, &scales, &err), err, Q_ECONFIG,
              "key scale of layer 1, head 1 is");
        k[4] = 5;
    }
    v[2] = 0;
    T_ERR(rt_kv_open(&p, be, &m, "int8", 1, &scales, &err), err, Q_ECONFIG,
          "value scale of layer 0, head 2 is 0");
    T_OK(rt_kv_open(&p, be, &m, "f32", 1, &scales, &err), err); /* not asked for: not looked at */
    T_TRUE(!p.kv.k_scale && !p.kv.v_scale);
    rt_kv_close(&p, be);
    v[2] = 9;
    T_OK(rt_kv_open(&p, be, &m, "int8", 4, &scales, &err), err);
    T_INT(rt_kv_page_bytes(&m, p.kv.format), 2 * 2 * 3 * RT_PAGE * 8);
    T_TRUE(memcmp(p.kv.k_scale, k, sizeof k) == 0 && memcmp(p.kv.v_scale, v, sizeof v) == 0);
    rt_kv_close(&p, be);
    T_TRUE(!p.scale && !p.kv.k_scale);
    rt_backend_close(be);
}

static const t_case tests[] = { T(t_cases), T(t_cases_cuda), T(t_codes), T(t_codes_cuda),
                                T(t_nan),   T(t_nan_cuda),   T(t_open),  { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, tests);
}
