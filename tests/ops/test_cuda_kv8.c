/* The int8 KV cache on the GPU: what is stored, and what attention makes of it.
 *
 * A case is a list of sequences (tokens cached by a first call, tokens of the second).  Codes are
 * compared with the rotation in double divided by the scale: within half a step, and exactly at the
 * ends of the range.  Attention is then compared with double precision over the values that the
 * stored codes stand for, under the bounds of f16 arithmetic.  Widths 64, 128 and 256 are those of
 * the kernels, others are filled up; 8 rows and 16 are where decode changes. */
#include "runtime/kv.h"
#include "tests/ops/ops.h"

#define LAYERS  2
#define LAYER   1 /* the one in use: the other must stay untouched */
#define MAX_SEQ 3
#define PAGES   20 /* of a sequence */

typedef struct kv8_case {
    const char *name;
    int64_t n_head, n_kv, hd;
    float reach; /* absmax over 127 scales: above 1 some values saturate */
    struct {
        int past, now;
    } seq[MAX_SEQ];
} kv8_case;

static const kv8_case cases[] = {
    { "one token", 1, 1, 8, 1, { { 0, 1 } } },
    { "decode, one row a head", 4, 4, 64, 1, { { 150, 1 }, { 63, 1 }, { 64, 1 } } },
    { "decode, Qwen-7B head", 4, 4, 128, 1, { { 1200, 1 }, { 5, 1 }, { 127, 1 } } },
    { "decode, group 7", 14, 2, 48, 1, { { 127, 1 }, { 128, 1 } } },
    { "decode, group 7, 4k", 7, 1, 128, 1, { { 1000, 1 } } },
    { "decode, group 8, two tokens", 8, 1, 128, 1, { { 300, 2 }, { 0, 2 } } },
    { "decode, group 16", 16, 1, 64, 1, { { 190, 1 } } },
    { "decode, group 20", 20, 1, 64, 1, { { 190, 1 } } },
    { "prefill", 4, 4, 64, 1, { { 0, 150 } } },
    { "prefill, group 8", 8, 1, 128, 1, { { 0, 200 } } },
    { "chunks and decode", 4, 2, 80, 1, { { 70, 65 }, { 100, 1 }, { 0, 3 } } },
    { "chunks, 128", 4, 2, 128, 1, { { 200, 300 }, { 700, 1 }, { 0, 64 } } },
    { "widest", 2, 1, 256, 1, { { 60, 40 }, { 0, 130 } } },
    { "widest, decode", 2, 1, 256, 1, { { 400, 1 }, { 63, 1 } } },
    { "odd width", 4, 2, 24, 1, { { 50, 30 }, { 90, 1 } } },
    { "odd width, 136", 4, 2, 136, 1, { { 50, 30 }, { 190, 1 } } },
    { "saturated", 4, 2, 64, 3, { { 90, 1 }, { 10, 20 } } },
};

#define N_CASES (sizeof cases / sizeof cases[0])

typedef struct scene {
    const kv8_case *c;
    rt_backend *be;
    fmt_model m;
    rt_kv_pool pool;
    float *k_scale, *v_scale; /* [LAYERS, n_kv], another for every head */
    int8_t *codes;            /* all pages, read back */
    size_t kv_bytes;
    int n_seq;
} scene;

/* One call: host arrays, and what the backend makes of them. */
typedef struct call {
    rt_batch b, dev;
    float *qkv, *q, *y;
} call;

static scene open_scene(const kv8_case *c, rt_backend *be)
{
    const size_t n = (size_t)(LAYERS * c->n_kv);
    scene s = { .c = c, .be = be };
    q_err err = { 0 };

    while (s.n_seq < MAX_SEQ && c->seq[s.n_seq].now > 0)
        s.n_seq++;
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
        const float unit = (float)n / 127 / c->reach / (float)(i + 1);

        s.k_scale[i] = 1.4143f * unit;
        s.v_scale[i] = unit;
    }
    T_OK(rt_kv_open(&s.pool, s.be, &s.m, "int8", s.n_seq * PAGES + 1,
                    &(rt_kv_scales){ .k = s.k_scale, .v = s.v_scale }, &err),
         err);
    s.kv_bytes = (size_t)s.pool.kv.n_pages * rt_kv_page_bytes(&s.m, s.pool.kv.format);
    s.codes = op_host(s.kv_bytes);
    memset(s.codes, 0x5a, s.kv_bytes);
    T_OK(be->ops->copy(be, s.pool.kv.base, s.codes, s.kv_bytes, RT_TO_DEVICE, &err), err);
    return s;
}

static void close_scene(scene *s)
{
    rt_kv_close(&s->pool, s->be);
    q_free(s->k_scale);
    q_free(s->v_scale);
    q_free(s->codes);
}

/* the arrays of a batch, for all that is done to each of them */
#define ARRAYS(X)                                                                                  \
    X(pos, b->n_tok)                                                                               \
    X(seq, b->n_tok)                                                                               \
    X(q_start, b->n_seq + 1)                                                                       \
    X(kv_len, b->n_seq)                                                                            \
    X(block, b->n_seq *PAGES)                                                                      \
    X(inv_freq, b->n_seq * s->m.rot / 2)                                                           \
    X(q_scale, b->n_tok)

static call make_call(const scene *s, int now)
{
    const int64_t width = (s->m.n_head + 2 * s->m.n_kv) * s->m.hd, pairs = s->m.rot / 2;
    const int n_pages = (int)s->pool.kv.n_pages;
    call k = { .b = { .n_seq = s->n_seq, .max_blocks = PAGES } };
    rt_batch *b = &k.b;
    int t = 0;

    for (int i = 0; i < s->n_seq; i++)
        b->n_tok += now ? s->c->seq[i].now : s->c->seq[i].past;
#define X(name, count) b->name = op_host((size_t)(count) * sizeof *b->name);
    ARRAYS(X)
#undef X
    for (int i = 0; i < s->n_seq; i++) {
        const int from = now ? s->c->seq[i].past : 0;
        const int to = from + (now ? s->c->seq[i].now : s->c->seq[i].past);

        b->q_start[i] = t;
        b->kv_len[i] = to;
        for (int p = 0; p < PAGES; p++)
            b->block[i * PAGES + p] = (5 * (i * PAGES + p) + 3) % n_pages;
        for (int64_t p = 0; p < pairs; p++)
            b->inv_freq[i * pairs + p] = (float)pow(1e4, -2.0 * (double)p / (double)s->m.rot);
        for (int j = from; j < to; j++, t++) {
            b->pos[t] = j;
            b->seq[t] = i;
            b->q_scale[t] = 3; /* the softmax should not be flat */
        }
    }
    b->q_start[s->n_seq] = t;
    k.qkv = op_random((size_t)(t * width), now ? 12 : 11, 1);
    op_round(k.qkv, (size_t)(t * width));
    k.q = op_host((size_t)(t * s->m.n_head * s->m.hd) * sizeof *k.q);
    k.y = op_host((size_t)(t * s->m.n_head * s->m.hd) * sizeof *k.y);
    k.dev = k.b;
#define X(name, count) k.dev.name = op_up(s->be, b->name, (size_t)(count) * sizeof *b->name);
    ARRAYS(X)
#undef X
    return k;
}

static void free_call(const scene *s, call *k)
{
#define X(name, count)                                                                             \
    q_free(k->b.name);                                                                             \
    s->be->ops->free(s->be, k->dev.name);
    ARRAYS(X)
#undef X
    q_free(k->qkv);
    q_free(k->q);
    q_free(k->y);
}

static void run_call(scene *s, call *k)
{
    const rt_backend_ops *ops = s->be->ops;
    const size_t n = (size_t)(k->b.n_tok * s->m.n_head * s->m.hd);
    void *qkv =
        op_act_up(s->be, k->qkv, (size_t)(k->b.n_tok * (s->m.n_head + 2 * s->m.n_kv) * s->m.hd));
    void *q = op_act_alloc(s->be, n), *y = op_act_alloc(s->be, n);
    q_err err = { 0 };

    T_OK(ops->qkv_rope_store(
             s->be,
             &(rt_qkv_args){
                 .b = &k->dev, .m = &s->m, .qkv = qkv, .q = q, .kv = &s->pool.kv, .layer = LAYER },
             &err),
         err);
    T_OK(ops->attention(
             s->be,
             &(rt_attn_args){
                 .b = &k->dev, .m = &s->m, .q = q, .kv = &s->pool.kv, .y = y, .layer = LAYER },
             &err),
         err);
    op_act_down(s->be, k->q, q, n);
    op_act_down(s->be, k->y, y, n);
    op_down(s->be, s->codes, s->pool.kv.base, s->kv_bytes);
    ops->free(s->be, qkv);
    ops->free(s->be, q);
    ops->free(s->be, y);
}

/* ---- what is stored ------------------------------------------------------------------------- */

static const int8_t *code_at(const scene *s, const rt_batch *b, int seq, int j, int64_t h,
                             int which)
{
    const int32_t page = b->block[seq * PAGES + j / RT_PAGE];
    const int64_t at = (((int64_t)LAYER * s->pool.kv.n_pages + page) * 2 + which) * s->m.n_kv + h;

    return s->codes + (at * RT_PAGE + j % RT_PAGE) * s->m.hd;
}

/* Elements i and i + hd / 2 turn together. */
static double rotated(const scene *s, const rt_batch *b, int t, const float *x, int64_t i)
{
    const int64_t half = s->m.rot / 2, p = i % half;
    const float angle = (float)b->pos[t] * b->inv_freq[b->seq[t] * half + p];
    const double c = cos((double)angle), sn = sin((double)angle);
    const double x0 = (double)x[p], x1 = (double)x[p + half];

    return i < half ? x0 * c - x1 * sn : x1 * c + x0 * sn;
}

static void check_code(const scene *s, const char *what, double exact, int code, double slack)
{
    if (exact >= 127 + slack || exact <= -128 - slack)
        T_INT(code, exact > 0 ? 127 : -128);
    else if (!(fabs(exact - code) <= 0.5 + slack))
        t_fail(s->c->name, 0, "%s code %d, wanted %.9g", what, code, exact);
}

static void check_stored(const scene *s, const call *k)
{
    const int64_t hd = s->m.hd, n_kv = s->m.n_kv, width = (s->m.n_head + 2 * n_kv) * hd;

    for (int t = 0; t < k->b.n_tok; t++)
        for (int64_t h = 0; h < n_kv; h++) {
            const float *key = k->qkv + t * width + (s->m.n_head + h) * hd, *v = key + n_kv * hd;
            const int8_t *kc = code_at(s, &k->b, k->b.seq[t], k->b.pos[t], h, 0);
            const int8_t *vc = code_at(s, &k->b, k->b.seq[t], k->b.pos[t], h, 1);
            const double ks = (double)s->k_scale[LAYER * n_kv + h];
            const double vs = (double)s->v_scale[LAYER * n_kv + h];

            for (int64_t i = 0; i < hd; i++) {
                check_code(s, "key", rotated(s, &k->b, t, key, i) / ks, kc[i], 1e-3);
                check_code(s, "value", (double)v[i] / vs, vc[i], 1e-5);
            }
        }
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
    op_compare(s->c->name, "cuda", k->y, y, (size_t)(n * hd), OP_F16, OP_F16_MAX);
    q_free(y);
}

static void t_cases(void)
{
    rt_backend *be = op_need_cuda();

    for (size_t i = 0; i < N_CASES; i++) {
        scene s = open_scene(&cases[i], be);
        call past = make_call(&s, 0), now = make_call(&s, 1), again = make_call(&s, 1);
        const size_t bytes = (size_t)(now.b.n_tok * s.m.n_head * s.m.hd) * sizeof *now.y;

        if (past.b.n_tok > 0) {
            run_call(&s, &past);
            check_stored(&s, &past);
            check_attention(&s, &past);
        }
        run_call(&s, &now);
        check_stored(&s, &now);
        check_attention(&s, &now);
        run_call(&s, &again);
        op_same_bits(cases[i].name, "cuda", 1, again.y, now.y, bytes);
        free_call(&s, &past);
        free_call(&s, &now);
        free_call(&s, &again);
        close_scene(&s);
    }
}

/* Values at position 0 of head 0, where the scale is 0.5: ties to even, both ends, and NaN, which
 * has no code and becomes 0. */
static void t_codes(void)
{
    static const kv8_case c = { "codes", 1, 1, 16, 1, { { 0, 1 } } };
    const float v[16] = { 0.25f, 0.75f,    -0.25f,    -0.75f, 63.5f, 63.75f, 63.8f, -64,
                          -66,   INFINITY, -INFINITY, NAN,    -NAN,  6e4f,   -0.0f, 6e-8f };
    static const int codes[16] = { 0,    2,   0,    -2, 127, 127, 127, -128,
                                   -128, 127, -128, 0,  0,   127, 0,   0 };
    rt_backend *be = op_need_cuda();
    scene s = open_scene(&c, be);
    const float half[2] = { 0.5f, 0.5f };
    q_err err = { 0 };
    call k;

    s.m.rot = 0; /* infinity times the sine of 0 would be NaN */
    k = make_call(&s, 1);
    T_OK(be->ops->copy(be, s.pool.scale, half, sizeof half, RT_TO_DEVICE, &err), err);
    T_OK(be->ops->copy(be, s.pool.scale + LAYERS, half, sizeof half, RT_TO_DEVICE, &err), err);
    memcpy(k.qkv + 16, v, sizeof v);
    memcpy(k.qkv + 32, v, sizeof v);
    run_call(&s, &k);
    for (int i = 0; i < 16; i++) {
        T_INT(code_at(&s, &k.b, 0, 0, 0, 0)[i], codes[i]);
        T_INT(code_at(&s, &k.b, 0, 0, 0, 1)[i], codes[i]);
        T_NEAR(k.y[i], 0.5 * codes[i], 0); /* one position: its value */
    }
    free_call(&s, &k);
    close_scene(&s);
}

/* A NaN in a query is not hidden by the codes: in prefill, and in decode. */
static void t_nan(void)
{
    static const kv8_case cases_nan[] = { { "nan, prefill", 2, 2, 16, 1, { { 0, 70 } } },
                                          { "nan, decode", 2, 2, 16, 1, { { 0, 1 } } } };

    for (int i = 0; i < 2; i++) {
        scene s = open_scene(&cases_nan[i], op_need_cuda());
        call k = make_call(&s, 1);
        const int last = k.b.n_tok - 1;

        k.qkv[last * 6 * 16] = NAN; /* last token, head 0 */
        run_call(&s, &k);
        for (int j = 0; j < (last + 1) * 32; j++)
            T_INT(isnan(k.y[j]) != 0, j >= last * 32 && j < last * 32 + 16);
        free_call(&s, &k);
        close_scene(&s);
    }
}

static const t_case tests[] = { T(t_cases), T(t_codes), T(t_nan), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, tests);
}
