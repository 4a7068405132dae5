/* qkv_rope_store and attention over ragged batches with shuffled pages, against double precision.
 *
 * A case is a list of sequences (tokens already cached, tokens of this call).  The cached tokens
 * are stored by a first call of the same operations, so prefill, chunked prefill, decode and
 * mixtures are all covered.  The stored keys and values are read back page by page: once to be
 * compared with the rotation done in double, and once as the input of attention's reference, so
 * that the rounding to f16 is not counted twice. */
#include "tests/ops/op_batch.h"

#define MAX_SEQ 4
#define LAYERS  2
#define LAYER   1    /* the one in use: the other must stay untouched */
#define FILL    0xff /* NaN in every type: what was not stored is not used */
#define LONG    8    /* pages: sequences of more are for the GPU, which cuts them into parts */

typedef struct attn_case {
    const char *name;
    int64_t n_head, n_kv, hd, rot, step, gap;
    fmt_dtype kv;
    int norm, logn;
    op_span seq[MAX_SEQ];
    double nmse, max;       /* of attention */
    double kv_nmse, kv_max; /* of q, k and v after the rotation */
} attn_case;

/* f32 sums of at most 384 positions; a rotation is two products; f16 keeps 11 bits: 2^-11 / 2 of a
 * value, up to 3 rms */
#define F32 1e-12, 1e-5
#define ROT 1e-13, 2e-6
#define F16 1e-7, 1.5e-3

/* a head of which all turns, elements i and i + hd / 2 together */
#define HALVES(hd) (hd), (hd), 1, (hd) / 2

static const attn_case cases[] = {
    { "one token", 1, 1, HALVES(4), FMT_F32, 0, 0, { { 0, 1 } }, F32, ROT },
    { "prefill 3", 8, 8, HALVES(4), FMT_F32, 0, 0, { { 0, 3 } }, F32, ROT },
    { "prefill over pages", 2, 2, HALVES(64), FMT_F32, 0, 0, { { 0, 150 } }, F32, ROT },
    { "decode at page ends",
      4,
      4,
      HALVES(16),
      FMT_F32,
      0,
      0,
      { { 63, 1 }, { 64, 1 }, { 127, 1 }, { 128, 1 } },
      F32,
      ROT },
    { "chunked prefill", 2, 1, HALVES(32), FMT_F32, 0, 0, { { 70, 65 } }, F32, ROT },
    { "gqa 7, decode", 14, 2, HALVES(64), FMT_F32, 0, 0, { { 200, 1 }, { 5, 1 } }, F32, ROT },
    { "gqa 8, prefill", 8, 1, HALVES(128), FMT_F32, 0, 0, { { 0, 80 } }, F32, ROT },
    { "mixed batch",
      4,
      2,
      HALVES(40),
      FMT_F32,
      0,
      0,
      { { 0, 70 }, { 100, 1 }, { 0, 1 }, { 30, 40 } },
      F32,
      ROT },
    { "qk norm (qwen3)", 4, 2, HALVES(128), FMT_F32, 1, 0, { { 0, 20 }, { 90, 1 } }, F32, ROT },
    { "logn", 2, 2, HALVES(32), FMT_F32, 0, 1, { { 0, 100 }, { 140, 2 } }, F32, ROT },
    { "half rotated pairs", 4, 2, 128, 64, 2, 1, FMT_F32, 0, 0, { { 10, 70 } }, F32, ROT },
    { "no rotation", 2, 2, 24, 0, 1, 0, FMT_F32, 0, 0, { { 3, 9 } }, F32, ROT },
    { "widest head", 2, 1, HALVES(256), FMT_F32, 0, 0, { { 60, 40 } }, F32, ROT },
    { "gqa 3, width 80", 6, 2, HALVES(80), FMT_F32, 0, 0, { { 130, 1 }, { 63, 2 } }, F32, ROT },
    { "gqa 4, width 48", 8, 2, HALVES(48), FMT_F16, 0, 0, { { 100, 1 }, { 0, 97 } }, F32, F16 },
    { "f16, prefill", 4, 4, HALVES(128), FMT_F16, 0, 0, { { 0, 130 } }, F32, F16 },
    { "f16, decode", 4, 2, HALVES(128), FMT_F16, 0, 0, { { 300, 1 }, { 64, 1 } }, F32, F16 },
    { "f16, gqa, odd width", 6, 2, HALVES(20), FMT_F16, 1, 1, { { 50, 30 }, { 90, 1 } }, F32, F16 },
    /* the GPU's ways: few rows split over many pages, tiles of 64 rows, more than 16 rows a head */
    { "f16, long decode",
      8,
      8,
      HALVES(128),
      FMT_F16,
      0,
      0,
      { { 383, 1 }, { 320, 1 }, { 0, 1 } },
      F32,
      F16 },
    { "f16, gqa 7, chunk", 14, 2, HALVES(64), FMT_F16, 0, 0, { { 90, 33 }, { 7, 2 } }, F32, F16 },
    { "f16, gqa 20, decode", 20, 1, HALVES(64), FMT_F16, 0, 0, { { 90, 1 }, { 7, 1 } }, F32, F16 },
    { "f16, widest, decode", 2, 1, HALVES(256), FMT_F16, 0, 0, { { 200, 1 } }, 4e-12, 2e-5, F16 },
    { "f16, 4095 to 4097",
      2,
      1,
      HALVES(128),
      FMT_F16,
      0,
      0,
      { { 4094, 1 }, { 4095, 1 }, { 4096, 1 }, { 0, 1 } },
      F32,
      F16 },
    { "f16, gqa 7, 4096",
      7,
      1,
      HALVES(128),
      FMT_F16,
      0,
      0,
      { { 4095, 1 }, { 63, 1 }, { 4094, 2 }, { 64, 1 } },
      F32,
      F16 },
    { "f16, width 72, 4097",
      2,
      1,
      HALVES(72),
      FMT_F16,
      0,
      0,
      { { 4096, 1 }, { 62, 2 } },
      F32,
      F16 },
    /* Hopper's prefill: blocks of 128 rows, tiles of 128 keys from the last to the first */
    { "f16, 127 to 129",
      2,
      2,
      HALVES(128),
      FMT_F16,
      0,
      0,
      { { 0, 127 }, { 0, 128 }, { 0, 129 } },
      F32,
      F16 },
    { "f16, 255 to 257",
      1,
      1,
      HALVES(64),
      FMT_F16,
      0,
      0,
      { { 0, 255 }, { 0, 256 }, { 0, 257 } },
      F32,
      F16 },
    { "f16, chunks",
      2,
      2,
      HALVES(128),
      FMT_F16,
      0,
      0,
      { { 63, 130 }, { 300, 17 }, { 128, 128 }, { 511, 65 } },
      F32,
      F16 },
    { "f16, chunks and decode",
      4,
      4,
      HALVES(128),
      FMT_F16,
      0,
      0,
      { { 250, 140 }, { 400, 1 }, { 0, 3 }, { 1, 20 } },
      F32,
      F16 },
    { "f16, gqa 7, tiles", 7, 1, HALVES(128), FMT_F16, 0, 0, { { 0, 77 }, { 200, 40 } }, F32, F16 },
    { "f16, gqa 7, width 64",
      14,
      2,
      HALVES(64),
      FMT_F16,
      0,
      1,
      { { 100, 60 }, { 0, 19 } },
      F32,
      F16 },
    { "f16, width 80", 3, 3, HALVES(80), FMT_F16, 0, 0, { { 0, 140 }, { 129, 50 } }, F32, F16 },
    { "f16, gqa 20, one page",
      20,
      1,
      HALVES(128),
      FMT_F16,
      0,
      0,
      { { 0, 9 }, { 63, 1 }, { 64, 1 } },
      F32,
      F16 },
    { "f32, 4097", 2, 1, HALVES(64), FMT_F32, 0, 0, { { 4096, 1 }, { 127, 1 } }, F32, ROT },
    { "bf16", 4, 2, HALVES(64), FMT_BF16, 0, 0, { { 20, 50 } }, F32, 1e-5, 1.5e-2 },
};

static const rt_kv_format formats[] = { [FMT_F32] = { "f32", FMT_F32 },
                                        [FMT_F16] = { "f16", FMT_F16 },
                                        [FMT_BF16] = { "bf16", FMT_BF16 } };

#define N_CASES (sizeof cases / sizeof cases[0])

/* One call in host memory. */
typedef struct call {
    rt_batch b;
    float *qkv; /* [n_tok, (n_head + 2 n_kv) hd] */
    float *q, *y;
} call;

typedef struct scene {
    const attn_case *c;
    const char *backend;
    rt_backend *be;
    fmt_model m;
    op_batch_shape shape;
    rt_kv kv;
    char *pages; /* host copy of kv.base */
    size_t kv_bytes;
    float *q_norm, *k_norm; /* [hd] or NULL, host; backend memory below */
    void *q_norm_be, *k_norm_be;
} scene;

/* values of token j of sequence s: the same whether it was cached or is in this call */
static void token_values(const scene *s, int seq, int j, float *row)
{
    const int64_t n = (s->m.n_head + 2 * s->m.n_kv) * s->m.hd;
    float *v = op_random((size_t)n, (uint64_t)(1000 * seq + j + 1), 2);

    op_round(v, (size_t)n);
    memcpy(row, v, (size_t)n * sizeof *v);
    q_free(v);
}

static float logn_of(const scene *s, int j)
{
    return s->c->logn && j > 50 ? (float)(log(j + 1.0) / log(51.0)) : 1.0f;
}

/* now: the tokens of the call; else those before it */
static call make_call(const scene *s, int now)
{
    const int64_t width = (s->m.n_head + 2 * s->m.n_kv) * s->m.hd;
    call k = { .b = op_batch(&s->shape, s->c->seq, now) };

    k.qkv = op_host((size_t)(k.b.n_tok * width) * sizeof *k.qkv);
    for (int t = 0; t < k.b.n_tok; t++) {
        k.b.q_scale[t] = logn_of(s, k.b.pos[t]);
        token_values(s, k.b.seq[t], k.b.pos[t], k.qkv + t * width);
    }
    return k;
}

static void free_call(call *k)
{
    op_batch_free(&k->b);
    q_free(k->qkv);
    q_free(k->q);
    q_free(k->y);
}

/* Both operations on the backend; results into k->q and k->y. */
static void run_call(scene *s, call *k)
{
    const rt_backend_ops *ops = s->be->ops;
    const size_t n = (size_t)k->b.n_tok;
    const size_t width = (size_t)((s->m.n_head + 2 * s->m.n_kv) * s->m.hd);
    const size_t out = n * (size_t)(s->m.n_head * s->m.hd);
    rt_batch b = op_batch_up(s->be, &s->shape, &k->b);
    q_err err = { 0 };
    void *qkv = op_act_up(s->be, k->qkv, n * width);
    void *q = op_act_alloc(s->be, out), *y = op_act_alloc(s->be, out);

    T_OK(ops->qkv_rope_store(s->be,
                             &(rt_qkv_args){ .b = &b,
                                             .m = &s->m,
                                             .qkv = qkv,
                                             .q = q,
                                             .kv = &s->kv,
                                             .q_norm = s->q_norm_be,
                                             .k_norm = s->k_norm_be,
                                             .layer = LAYER },
                             &err),
         err);
    T_OK(ops->attention(
             s->be,
             &(rt_attn_args){ .b = &b, .m = &s->m, .q = q, .kv = &s->kv, .y = y, .layer = LAYER },
             &err),
         err);
    k->q = op_host(out * sizeof(float));
    k->y = op_host(out * sizeof(float));
    op_act_down(s->be, k->q, q, out);
    op_act_down(s->be, k->y, y, out);
    op_down(s->be, s->pages, s->kv.base, s->kv_bytes);
    op_batch_down(s->be, &b);
    ops->free(s->be, qkv);
    ops->free(s->be, q);
    ops->free(s->be, y);
}

/* Stored key (which 0) or value (1) of position j as f32. */
static void read_kv(const scene *s, const rt_batch *b, int seq, int j, int64_t h, int which,
                    float *v)
{
    const int32_t page = b->block[seq * s->shape.capacity + j / RT_PAGE];
    const int64_t at = ((LAYER * s->kv.n_pages + page) * 2 + which) * s->m.n_kv + h;
    const size_t i = (size_t)((at * RT_PAGE + j % RT_PAGE) * s->m.hd);

    fmt_convert(v, FMT_F32, s->pages + i * fmt_dtype_bytes(s->c->kv), s->c->kv, (size_t)s->m.hd,
                NULL);
}

/* One head: norm, rotation with the float32 angle, factor. */
static void rotate_ref(const scene *s, const rt_batch *b, int t, const float *x, const float *norm,
                       double factor, double *out)
{
    const fmt_model *m = &s->m;
    double sq = 0;

    for (int64_t i = 0; i < m->hd; i++)
        sq += (double)x[i] * (double)x[i];
    for (int64_t i = 0; i < m->hd; i++)
        out[i] = (double)x[i] * (norm ? (double)norm[i] / sqrt(sq / (double)m->hd + m->eps) : 1);
    for (int64_t i = 0; i < m->rot / 2; i++) {
        const float f = b->inv_freq[b->seq[t] * (m->rot / 2) + i], angle = (float)b->pos[t] * f;
        double *p = out + i * m->rope_step, *q = p + m->rope_gap, p0 = *p, q0 = *q;

        const double c1 = cos((double)angle) * m->rope_mscale,
                     s1 = sin((double)angle) * m->rope_mscale;

        *p = p0 * c1 - q0 * s1;
        *q = q0 * c1 + p0 * s1;
    }
    for (int64_t i = 0; i < m->hd; i++)
        out[i] *= factor;
}

static void check_rotation(const scene *s, const call *k)
{
    const attn_case *c = s->c;
    const int64_t hd = s->m.hd, heads = s->m.n_head + 2 * s->m.n_kv;
    const size_t n_q = (size_t)(k->b.n_tok * s->m.n_head * hd);
    const size_t n_kv = (size_t)(k->b.n_tok * 2 * s->m.n_kv * hd);
    double *q = op_host(n_q * sizeof *q), *kv = op_host(n_kv * sizeof *kv), *kv_at = kv;
    float *stored = op_host(n_kv * sizeof *stored), *at = stored;

    for (int t = 0; t < k->b.n_tok; t++) {
        const float *row = k->qkv + t * heads * hd;

        for (int64_t h = 0; h < s->m.n_head; h++, row += hd)
            rotate_ref(s, &k->b, t, row, s->q_norm, (double)k->b.q_scale[t],
                       q + (t * s->m.n_head + h) * hd);
        for (int64_t h = 0; h < 2 * s->m.n_kv; h++, row += hd, kv_at += hd, at += hd) {
            if (h < s->m.n_kv)
                rotate_ref(s, &k->b, t, row, s->k_norm, 1, kv_at);
            else
                for (int64_t i = 0; i < hd; i++)
                    kv_at[i] = (double)row[i];
            read_kv(s, &k->b, k->b.seq[t], k->b.pos[t], h % s->m.n_kv, h >= s->m.n_kv, at);
        }
    }
    op_compare(c->name, s->backend, k->q, q, n_q, 1e-13, 2e-6);
    op_compare(c->name, s->backend, stored, kv, n_kv, c->kv_nmse, c->kv_max);
    q_free(q);
    q_free(kv);
    q_free(stored);
}

static void attend_ref(const scene *s, const call *k, int t, int64_t h, double *y)
{
    const int64_t hd = s->m.hd, kvh = h * s->m.n_kv / s->m.n_head;
    const float *q = k->q + (t * s->m.n_head + h) * hd;
    const int n = k->b.pos[t] + 1;
    double *p = op_host((size_t)n * sizeof *p), max = -1e300, sum = 0;
    float *v = op_host((size_t)hd * sizeof *v);

    for (int j = 0; j < n; j++) {
        read_kv(s, &k->b, k->b.seq[t], j, kvh, 0, v);
        for (int64_t i = 0; i < hd; i++)
            p[j] += (double)q[i] * (double)v[i] / sqrt((double)hd);
        max = p[j] > max ? p[j] : max;
    }
    for (int j = 0; j < n; j++)
        sum += p[j] = exp(p[j] - max);
    for (int j = 0; j < n; j++) {
        read_kv(s, &k->b, k->b.seq[t], j, kvh, 1, v);
        for (int64_t i = 0; i < hd; i++)
            y[i] += p[j] / sum * (double)v[i];
    }
    q_free(p);
    q_free(v);
}

static void check_attention(const scene *s, const call *k)
{
    const int64_t hd = s->m.hd, n = k->b.n_tok * s->m.n_head;
    double *y = op_host((size_t)(n * hd) * sizeof *y);

    for (int64_t i = 0; i < n; i++)
        attend_ref(s, k, (int)(i / s->m.n_head), i % s->m.n_head, y + i * hd);
    op_compare(s->c->name, s->backend, k->y, y, (size_t)(n * hd), s->c->nmse, s->c->max);
    q_free(y);
}

static void check_untouched(const scene *s) /* the other layer still holds the fill byte */
{
    for (size_t i = 0; i < s->kv_bytes / LAYERS; i++)
        if ((unsigned char)s->pages[i] != FILL)
            t_fail(s->c->name, 0, "%s: layer 0 was written at byte %zu", s->backend, i);
}

static scene open_scene(const attn_case *c, const char *backend, int threads)
{
    scene s = { .c = c, .backend = backend };
    const int n_seq = op_n_seq(c->seq, MAX_SEQ), capacity = op_capacity(c->seq, n_seq);

    s.be = op_open(backend, threads);
    s.m = (fmt_model){ .n_head = c->n_head,
                       .n_kv = c->n_kv,
                       .hd = c->hd,
                       .rot = c->rot,
                       .rope_step = c->step,
                       .rope_gap = c->gap,
                       .rope_mscale = c->step == 1 ? 1.125 : 1, /* YaRN, exact in f32 */
                       .eps = 1e-6 };
    s.shape = (op_batch_shape){ n_seq, capacity, op_n_pages(n_seq, capacity), c->rot };
    s.kv = (rt_kv){ .format = &formats[c->kv],
                    .n_pages = s.shape.n_pages,
                    .layers = LAYERS,
                    .n_kv = c->n_kv,
                    .hd = c->hd };
    s.kv_bytes =
        (size_t)(LAYERS * s.kv.n_pages * 2 * c->n_kv * RT_PAGE * c->hd) * fmt_dtype_bytes(c->kv);
    s.pages = op_host(s.kv_bytes);
    memset(s.pages, FILL, s.kv_bytes);
    if (!s.be)
        return s;
    s.kv.base = op_up(s.be, s.pages, s.kv_bytes);
    if (c->norm) {
        s.q_norm = op_random((size_t)c->hd, 77, 1.5f);
        s.k_norm = op_random((size_t)c->hd, 78, 1.5f);
        s.q_norm_be = op_up(s.be, s.q_norm, (size_t)c->hd * sizeof(float));
        s.k_norm_be = op_up(s.be, s.k_norm, (size_t)c->hd * sizeof(float));
    }
    return s;
}

static void close_scene(scene *s)
{
    if (s->be) {
        s->be->ops->free(s->be, s->kv.base);
        s->be->ops->free(s->be, s->q_norm_be);
        s->be->ops->free(s->be, s->k_norm_be);
    }
    op_close(s->be);
    q_free(s->pages);
    q_free(s->q_norm);
    q_free(s->k_norm);
}

static void run_case(const attn_case *c, const char *backend)
{
    float *first = NULL;

    for (size_t i = 0; i < op_runs(backend); i++) {
        scene s = open_scene(c, backend, op_threads[i]);
        call past, now;

        if (!s.be) {
            close_scene(&s);
            break;
        }
        past = make_call(&s, 0);
        now = make_call(&s, 1);
        run_call(&s, &past);
        run_call(&s, &now);
        if (!first) {
            check_rotation(&s, &now);
            check_attention(&s, &now);
            check_untouched(&s);
            first = now.y;
            now.y = NULL;
        } else {
            op_same_bits(c->name, backend, op_threads[i], now.y, first,
                         (size_t)(now.b.n_tok * s.m.n_head * s.m.hd) * sizeof *first);
        }
        free_call(&past);
        free_call(&now);
        close_scene(&s);
    }
    q_free(first);
}

static void t_attention(void)
{
    for (size_t i = 0; i < N_CASES; i++)
        for (size_t b = 0; b < OP_BACKENDS && op_capacity(cases[i].seq, MAX_SEQ) <= LONG; b++)
            run_case(&cases[i], op_backends[b]);
}

static void t_attention_cuda(void)
{
    op_need_cuda();
    for (size_t i = 0; i < N_CASES; i++)
        if (cases[i].hd % 8 == 0 && cases[i].kv != FMT_BF16) /* the others it refuses: test_cuda */
            run_case(&cases[i], "cuda");
}

/* A NaN in one query stays in the rows of its head and is not smoothed away. */
static void nan_on(const char *backend)
{
    static const attn_case c = {
        "nan", 2, 2, 16, 16, 1, 8, FMT_F32, 0, 0, { { 0, 70 } }, F32, ROT
    };
    scene s = open_scene(&c, backend, 2);
    call k;

    if (s.be) {
        k = make_call(&s, 1);
        k.qkv[69 * 6 * 16] = NAN; /* last token, head 0 */
        run_call(&s, &k);
        for (int j = 0; j < 70 * 32; j++)
            T_INT(isnan(k.y[j]) != 0, j >= 69 * 32 && j < 69 * 32 + 16);
        free_call(&k);
    }
    close_scene(&s);
}

static void t_nan(void)
{
    for (size_t i = 0; i < OP_BACKENDS; i++)
        nan_on(op_backends[i]);
}

static void t_nan_cuda(void)
{
    op_need_cuda();
    nan_on("cuda");
}

static void t_limits(void)
{
    const attn_case wide = { "too wide", 1, 1, 260,          260, 1,  130,
                             FMT_F32,    0, 0, { { 0, 1 } }, F32, ROT };
    scene s = open_scene(&wide, "cpu-ref", 1);
    call k = make_call(&s, 1);
    q_err err = { 0 };

    T_ERR(
        s.be->ops->qkv_rope_store(s.be, &(rt_qkv_args){ .b = &k.b, .m = &s.m, .kv = &s.kv }, &err),
        err, Q_EUNSUPPORTED, "head width 260");
    T_ERR(s.be->ops->attention(s.be, &(rt_attn_args){ .b = &k.b, .m = &s.m, .kv = &s.kv }, &err),
          err, Q_EUNSUPPORTED, "width 260");
    free_call(&k);
    close_scene(&s);
}

static const t_case tests[] = { T(t_attention), T(t_attention_cuda), T(t_nan),
                                T(t_nan_cuda),  T(t_limits),         { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, tests);
}
