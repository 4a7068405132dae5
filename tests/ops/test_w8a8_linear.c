/* w8a8: int8 activations times int8 weights.
 *
 * The sums are integers, so there is one right answer: codes from the definition (two roundings in
 * f32, spelled out here), sums in 64 bits, and
 *
 *     y = (float)sum * (scale of the row * scale of the token) + bias
 *
 * in f32.  Every backend, number of threads and batch must give these bits, and what the GPU stores
 * as f16 is that value rounded.  SILU_MUL, which has an exp, is compared with doubles under a
 * bound; all backends of the CPU and all numbers of threads give the same bits. */
#include "tests/ops/ops.h"

/* what the weights are made of; WIDE: -128 as well; LARGEST: all at the ends, sums as well */
typedef enum fill { RANDOM, WIDE, LARGEST } fill;
/* CPU: what no f16 holds, more columns than the GPU takes; GPU: too long for the reference backend
 */
typedef enum only { BOTH, CPU, GPU } only;

typedef struct w8a8_case {
    int64_t M, N, K;
    rt_epi epi;
    int bias;
    float x_scale; /* 0: per token */
    float size;    /* of activations */
    fill fill;
    int per_tensor; /* one scale for all rows */
    only only;
} w8a8_case;

static const w8a8_case cases[] = {
    /* every tail of a chunk of 4, of a panel of 16 rows, of a cache line */
    { 1, 1, 1, RT_EPI_F32, 0, 0, 1, RANDOM },
    { 1, 15, 3, RT_EPI_F32, 1, 0, 1, RANDOM },
    { 3, 1, 64, RT_EPI_F32, 0, 0, 1, RANDOM },
    { 4, 16, 65, RT_EPI_ADD, 1, 0.02f, 1, RANDOM },
    { 5, 33, 2, RT_EPI_NONE, 0, 0, 1, WIDE },
    { 6, 130, 4096 + 32, RT_EPI_ADD, 1, 0, 1, RANDOM },
    /* each number of tokens that a kernel knows, tiles of 12, groups of 96 */
    { 2, 70, 2050, RT_EPI_NONE, 1, 0, 1, WIDE },
    { 3, 70, 130, RT_EPI_NONE, 0, 0, 1, WIDE },
    { 4, 70, 130, RT_EPI_NONE, 0, 0, 1, WIDE },
    { 7, 70, 130, RT_EPI_NONE, 0, 0, 1, WIDE },
    { 8, 40, 130, RT_EPI_ADD, 0, 0, 1, RANDOM },
    { 9, 40, 130, RT_EPI_ADD, 0, 0, 1, RANDOM },
    { 10, 40, 130, RT_EPI_ADD, 0, 0, 1, RANDOM },
    { 11, 40, 130, RT_EPI_ADD, 0, 0, 1, RANDOM },
    { 12, 40, 2100, RT_EPI_NONE, 0, 0, 1, RANDOM },
    { 97, 150, 260, RT_EPI_NONE, 1, 0.01f, 1, RANDOM },
    /* more tokens than are quantized at a time */
    { 600, 5, 40, RT_EPI_ADD, 1, 0, 1, RANDOM },
    { 1100, 6, 9, RT_EPI_SILU_MUL, 1, 0, 1, RANDOM },
    /* gate and up, halves that start inside a panel */
    { 1, 2, 5, RT_EPI_SILU_MUL, 0, 0, 1, RANDOM },
    { 3, 66, 100, RT_EPI_SILU_MUL, 1, 0.01f, 1, RANDOM },
    { 35, 270, 600, RT_EPI_SILU_MUL, 0, 0, 1, RANDOM },
    /* zeros, values below the smallest maximum, values near the largest float */
    { 2, 24, 70, RT_EPI_F32, 1, 0, 0, RANDOM },
    { 2, 20, 70, RT_EPI_NONE, 1, 0.5f, 0, RANDOM },
    { 5, 24, 70, RT_EPI_F32, 0, 0, 5e-7f, RANDOM },
    { 5, 20, 70, RT_EPI_NONE, 0, 0, 3e38f, RANDOM, 0, CPU },
    { 5, 20, 70, RT_EPI_NONE, 0, 1e-3f, 3e38f, RANDOM, 0, CPU },
    { 5, 24, 70, RT_EPI_F32, 0, 1e-38f, 1, RANDOM }, /* x / x_scale overflows */
    /* sums as large as they can be: 8 and 16 bits would saturate, then 32 would overflow */
    { 2, 17, 64, RT_EPI_NONE, 0, 1e-3f, 1, LARGEST },
    { 13, 17, 4096, RT_EPI_NONE, 0, 1e-3f, 1, LARGEST },
    { 1, 2, 65536, RT_EPI_NONE, 0, 1e-3f, 1, LARGEST },
    { 2, 2, 140001, RT_EPI_NONE, 0, 1e-3f, 1, LARGEST, 0, CPU },
    { 5, 18, 66000, RT_EPI_ADD, 1, 0, 1, WIDE },
    { 8, 1, 1 << 20, RT_EPI_NONE, 0, 0, 1, RANDOM, 0, CPU }, /* the most; 7 tokens at a time */
    /* one real shape: Qwen-1.8B's down projection */
    { 1, 2048, 5504, RT_EPI_ADD, 0, 0, 1, RANDOM },
    /* for the GPU: K that is no multiple of anything */
    { 2, 17, 63, RT_EPI_ADD, 1, 0.01f, 1, WIDE, 1 },
    { 5, 33, 129, RT_EPI_NONE, 1, 0, 1, WIDE },
    /* each number of tokens that a kernel of the GPU knows */
    { 1, 70, 2050, RT_EPI_F32, 1, 0, 1, WIDE },
    { 8, 70, 1088, RT_EPI_F32, 0, 0, 1, WIDE, 1 },
    { 9, 100, 1024, RT_EPI_ADD, 1, 0, 1, WIDE },
    { 16, 5000, 640, RT_EPI_F32, 0, 0.02f, 1, WIDE, 0, GPU }, /* wide */
    { 17, 100, 1152, RT_EPI_F32, 1, 0, 1, WIDE },
    { 33, 90, 520, RT_EPI_ADD, 0, 0, 1, WIDE },
    { 64, 90, 520, RT_EPI_NONE, 1, 0.01f, 1, WIDE, 1 },
    /* its tiles: of tokens, of rows, of K, edges of each */
    { 65, 8, 16, RT_EPI_F32, 1, 0, 1, WIDE },
    { 65, 1, 1, RT_EPI_F32, 0, 0, 1, WIDE },
    { 128, 256, 128, RT_EPI_F32, 0, 0, 1, WIDE },
    { 129, 257, 200, RT_EPI_ADD, 1, 0, 1, WIDE },
    { 256, 264, 1000, RT_EPI_NONE, 1, 0, 1, WIDE, 1, GPU },
    { 257, 520, 640, RT_EPI_ADD, 1, 0.015f, 1, WIDE, 0, GPU },
    { 300, 1000, 513, RT_EPI_F32, 1, 0, 1, WIDE, 0, GPU },
    { 700, 2056, 1096, RT_EPI_ADD, 1, 0, 1, WIDE, 0, GPU }, /* more tiles than clusters at a time */
    { 2500, 264, 1664, RT_EPI_NONE, 0, 0, 1, WIDE, 0, GPU },
    /* gate and up */
    { 65, 528, 264, RT_EPI_SILU_MUL, 1, 0, 1, WIDE },
    { 200, 1030, 384, RT_EPI_SILU_MUL, 1, 0, 1, WIDE, 1, GPU },
    { 130, 256, 160, RT_EPI_SILU_MUL, 1, 0, 1, WIDE }, /* as many columns as a box has rows */
    /* the same values again, up to the largest half */
    { 70, 24, 72, RT_EPI_F32, 1, 0.5f, 0, WIDE },
    { 70, 24, 70, RT_EPI_F32, 0, 0, 6e4f, WIDE },
    /* the most columns of the GPU, sums as large as they can be */
    { 2, 17, 131071, RT_EPI_F32, 0, 1e-3f, 1, LARGEST },
    { 66, 24, 131071, RT_EPI_F32, 0, 0, 1, LARGEST, 0, GPU },
    /* more tokens than have room for their codes */
    { 300, 16, 131071, RT_EPI_ADD, 0, 0, 1, WIDE, 0, GPU },
};

#define N_CASES (sizeof cases / sizeof cases[0])

typedef struct w8a8_data {
    float *x, *bias, *y0, *scale; /* scale [N] */
    int8_t *codes;                /* [N, K] */
    size_t n_y;
} w8a8_data;

/* f16: activations that halves hold, as the GPU needs them */
static void make_data(const w8a8_case *c, w8a8_data *d, uint64_t seed, int f16)
{
    const int64_t n_codes = c->N * c->K, n_x = c->M * c->K;
    uint64_t s = seed * 0x9e3779b97f4a7c15u + 1;

    d->x = op_random((size_t)n_x, seed, c->size);
    d->bias = op_random((size_t)c->N, seed + 1, 1);
    d->n_y = (size_t)(c->M * (c->epi == RT_EPI_SILU_MUL ? c->N / 2 : c->N));
    d->y0 = op_random(d->n_y, seed + 2, 1);
    d->scale = op_random((size_t)c->N, seed + 3, 1);
    d->codes = op_host((size_t)n_codes);
    for (int64_t n = 0; n < c->N; n++)
        d->scale[n] = c->per_tensor && n > 0
                          ? d->scale[0]
                          : (0.5f + fabsf(d->scale[n])) / 127 / sqrtf((float)c->K);
    for (int64_t i = 0; i < n_codes; i++) {
        const int r = (int)(op_rand(&s) % (c->fill == WIDE ? 256 : 255));
        const int64_t n = i / c->K % 4; /* rows of one sign, signs that cancel, of the other */

        d->codes[i] = (int8_t)(c->fill == WIDE ? r - 128 : r - 127);
        if (c->fill == LARGEST)
            d->codes[i] = (int8_t)(n == 0 || (n == 1 && i % 2 == 0) ? 127 : n < 3 ? -127 : -128);
    }
    for (int64_t i = 0; i < n_x && c->fill == LARGEST; i++)
        d->x[i] = i / c->K % 2 == 0 ? -6e4f : 6e4f; /* codes -128 and 127, or -127 */
    if (c->N > 2 && c->fill == RANDOM)
        memset(d->codes + c->K, 0, (size_t)c->K); /* a row of zeros */
    if (f16)
        op_round(d->x, (size_t)n_x);
}

static void free_data(w8a8_data *d)
{
    q_free(d->x);
    q_free(d->bias);
    q_free(d->y0);
    q_free(d->scale);
    q_free(d->codes);
}

static double clamp(double v)
{
    return v < -128 ? -128 : v > 127 ? 127 : v;
}

/* codes of one token; returns its scale */
static float quantize(const w8a8_case *c, const float *x, int *q)
{
    float amax = 1e-6f, f;

    for (int64_t k = 0; k < c->K; k++)
        amax = fabsf(x[k]) > amax ? fabsf(x[k]) : amax;
    f = 127.0f / amax;
    for (int64_t k = 0; k < c->K; k++) {
        const float v = c->x_scale > 0 ? x[k] / c->x_scale : x[k] * f;

        q[k] = (int)clamp(nearbyint((double)v));
    }
    return c->x_scale > 0 ? c->x_scale : amax / 127.0f;
}

/* z [M, N]: the product with bias, rounded as defined */
static void reference(const w8a8_case *c, const w8a8_data *d, float *z)
{
#pragma omp parallel for
    for (int64_t t = 0; t < c->M; t++) {
        int *q = q_malloc((size_t)c->K * sizeof *q);
        const float of_token = quantize(c, d->x + t * c->K, q);

        for (int64_t n = 0; n < c->N; n++) {
            const int8_t *w = d->codes + n * c->K;
            int64_t sum = 0;
            float v;

            for (int64_t k = 0; k < c->K; k++)
                sum += q[k] * w[k];
            v = (float)sum * (d->scale[n] * of_token);
            z[t * c->N + n] = v + (c->bias ? d->bias[n] : 0.0f);
        }
        q_free(q);
    }
}

static void compare(const w8a8_case *c, const w8a8_data *d, const char *name, const char *backend,
                    const float *y)
{
    const int64_t half = c->N / 2;
    float *z = op_host((size_t)(c->M * c->N) * sizeof *z);
    double *ref = op_host(d->n_y * sizeof *ref);

    reference(c, d, z);
    for (size_t i = 0; i < d->n_y; i++) {
        float want = c->epi == RT_EPI_ADD ? d->y0[i] + z[i] : z[i];

        if (c->epi == RT_EPI_NONE && op_is_cuda(backend))
            op_round(&want, 1);
        if (c->epi == RT_EPI_SILU_MUL) {
            const float *row = z + (int64_t)i / half * c->N + (int64_t)i % half;

            ref[i] = (double)row[0] / (1 + exp(-(double)row[0])) * (double)row[half];
        } else if (memcmp(&want, &y[i], sizeof want) != 0) {
            t_fail(name, 0, "%s: y[%zu] is %.9g, wanted exactly %.9g", backend, i, (double)y[i],
                   (double)want);
        }
    }
    if (c->epi == RT_EPI_SILU_MUL)
        op_compare(name, backend, y, ref, d->n_y, 1e-13, 2e-6);
    q_free(z);
    q_free(ref);
}

static rt_weight prepared(rt_backend *be, const w8a8_case *c, const w8a8_data *d)
{
    const size_t n = (size_t)c->N, bytes = n * (size_t)c->K;
    qnt_tensor t = {
        .scheme = qnt_scheme_find("w8a8"), .N = c->N, .K = c->K, .x_scale = c->x_scale
    };

    t.codes = op_host(bytes);
    memcpy(t.codes, d->codes, bytes);
    t.scale = op_host(n * sizeof *t.scale);
    memcpy(t.scale, d->scale, n * sizeof *t.scale);
    if (c->bias) {
        t.bias = op_host(n * sizeof *t.bias);
        memcpy(t.bias, d->bias, n * sizeof *t.bias);
    }
    return op_weight(be, t);
}

/* The product of what lies at x (backend) into y (host, d->n_y). */
static void multiply(rt_backend *be, const w8a8_case *c, const w8a8_data *d, const rt_weight *w,
                     const void *x, int coded, float *y)
{
    const int f32 = c->epi == RT_EPI_ADD || c->epi == RT_EPI_F32;
    void *out = f32 ? op_up(be, d->y0, d->n_y * sizeof *y) : op_act_up(be, d->y0, d->n_y);
    void *tmp = op_alloc(be, (size_t)(c->M * c->N) * sizeof(float));
    const rt_linear_args a = {
        .x = x, .w = w, .y = out, .tmp = tmp, .n_tok = c->M, .epi = c->epi, .coded = coded
    };
    q_err err = { 0 };

    T_OK(be->ops->linear(be, &a, &err), err);
    f32 ? op_down(be, y, out, d->n_y * sizeof *y) : op_act_down(be, y, out, d->n_y);
    be->ops->free(be, tmp);
    be->ops->free(be, out);
}

/* y on one backend; NULL: not on this machine */
static float *run(const w8a8_case *c, const w8a8_data *d, const char *backend, int threads)
{
    rt_backend *be = op_open(backend, threads);
    rt_weight w;
    float *y;
    void *x;

    if (!be)
        return NULL;
    w = prepared(be, c, d);
    x = op_act_up(be, d->x, (size_t)(c->M * c->K));
    y = op_host(d->n_y * sizeof *y);
    multiply(be, c, d, &w, x, 0, y);
    be->ops->free(be, x);
    be->ops->unprep(be, &w);
    op_close(be);
    return y;
}

/* All runs of one case on some backends: equal bits, those of the definition. */
static void check(const w8a8_case *c, size_t i, const char *const *backends, size_t n)
{
    float *first = NULL;
    w8a8_data d;
    char name[96];

    make_data(c, &d, i + 1, op_is_cuda(backends[0]));
    snprintf(name, sizeof name, "w8a8 %lldx%lldx%lld, case %zu", (long long)c->M, (long long)c->N,
             (long long)c->K, i);
    for (size_t b = 0; b < n; b++)
        for (size_t t = 0; t < op_runs(backends[b]); t++) {
            float *y = run(c, &d, backends[b], op_threads[t]);

            if (y && !first) {
                compare(c, &d, name, backends[b], y);
                first = y;
            } else if (y) {
                op_same_bits(name, backends[b], op_threads[t], y, first, d.n_y * sizeof *y);
                q_free(y);
            }
        }
    q_free(first);
    free_data(&d);
}

static void t_linear(void)
{
    for (size_t i = 0; i < N_CASES; i++)
        if (cases[i].only != GPU)
            check(&cases[i], i, op_backends, OP_BACKENDS);
}

static void t_linear_cuda(void)
{
    const char *const cuda = "cuda";

    op_need_cuda();
    for (size_t i = 0; i < N_CASES; i++)
        if (cases[i].only != CPU)
            check(&cases[i], i, &cuda, 1);
}

/* ---- single activations --------------------------------------------------------------------- */

typedef struct round_row {
    float x_scale, x, want; /* want: code * scale */
} round_row;

/* The second activation of the token is 127, so the dynamic scale is 1. */
static const round_row round_rows[] = {
    { 0, 0.5f, 0 },      { 0, 1.5f, 2 },   { 0, -2.5f, -2 },  { 0, -0.75f, -1 },
    { 0, -127, -127 },   { 2, 1, 0 },      { 2, 3, 4 },       { 2, -5, -4 },
    { 2, 253, 252 },     { 2, 254, 254 },  { 2, 1e30f, 254 }, { 2, -255, -256 },
    { 2, -1e30f, -256 }, { 2, 1e-40f, 0 }, { 2, -0.0f, 0 },   { 0.25f, 31.8f, 31.75f },
    { 0.25f, -33, -32 },
};

static void t_rounding(void)
{
    for (size_t i = 0; i < sizeof round_rows / sizeof round_rows[0]; i++)
        for (size_t b = 0; b < OP_BACKENDS; b++) {
            const round_row *r = &round_rows[i];
            const w8a8_case c = { .M = 1, .N = 2, .K = 2, .x_scale = r->x_scale };
            const w8a8_data d = { .n_y = 2,
                                  .x = (float[]){ r->x, 127 },
                                  .y0 = (float[]){ 0, 0 },
                                  .scale = (float[]){ 1, 1 },
                                  .codes = (int8_t[]){ 1, 0, 0, 1 } };
            float *y = run(&c, &d, op_backends[b], 1);

            if (y)
                T_NEAR(y[0], r->want, 0);
            q_free(y);
        }
}

/* A token with a value that is not finite is NaN everywhere; its neighbours are as before. */
static void not_finite_on(const char *backend)
{
    static const float bad[] = { NAN, -NAN, INFINITY, -INFINITY };

    for (int i = 0; i < 32; i++) {
        const w8a8_case c = { .M = i < 16 ? 6 : 70,
                              .N = 40,
                              .K = 70,
                              .epi = i % 2 ? RT_EPI_NONE : RT_EPI_SILU_MUL,
                              .x_scale = i / 2 % 2 ? 0.01f : 0,
                              .size = 1,
                              .fill = WIDE };
        const size_t row = 3, cols = c.epi == RT_EPI_NONE ? 40 : 20;
        w8a8_data d;
        float *before, *y;

        make_data(&c, &d, 7, op_is_cuda(backend));
        before = run(&c, &d, backend, 2);
        d.x[row * 70 + 69] = bad[i / 4 % 4];
        y = run(&c, &d, backend, 2);
        for (size_t j = 0; y && j < d.n_y; j++)
            if (j / cols == row)
                T_TRUE(isnan(y[j]));
            else
                T_TRUE(memcmp(&y[j], &before[j], sizeof *y) == 0);
        q_free(before);
        q_free(y);
        free_data(&d);
    }
}

static void t_not_finite(void)
{
    for (size_t b = 0; b < OP_BACKENDS; b++)
        not_finite_on(op_backends[b]);
}

static void t_not_finite_cuda(void)
{
    op_need_cuda();
    not_finite_on("cuda");
}

/* ---- codes from the norm before -------------------------------------------------------------- */

/* A norm that hands codes to its reader gives the bits of one that writes halves. */
static void norm_on(rt_backend *be, const w8a8_case *c, uint64_t seed)
{
    const size_t n = (size_t)(c->M * c->K);
    float *norm = op_random((size_t)c->K, 5, 2), *y[2];
    void *x, *norm_be = op_up(be, norm, (size_t)c->K * sizeof *norm), *xn = op_act_alloc(be, n);
    q_err err = { 0 };
    w8a8_data d;
    rt_weight w;

    make_data(c, &d, seed, 1);
    x = op_up(be, d.x, n * sizeof *d.x);
    w = prepared(be, c, &d);
    for (int k = 0; k < 2; k++) {
        const rt_rmsnorm_args a = { x, norm_be, xn, NULL, c->M, c->K, 1e-6, k ? &w : NULL };

        y[k] = op_host(d.n_y * sizeof(float));
        T_OK(be->ops->rmsnorm(be, &a, &err), err);
        multiply(be, c, &d, &w, xn, k, y[k]);
    }
    op_same_bits("norm", "cuda", 1, y[1], y[0], d.n_y * sizeof(float));
    be->ops->free(be, x);
    be->ops->free(be, xn);
    be->ops->free(be, norm_be);
    be->ops->unprep(be, &w);
    q_free(norm);
    q_free(y[0]);
    q_free(y[1]);
    free_data(&d);
}

static void t_norm_cuda(void)
{
    static const w8a8_case c[] = { { 1, 40, 1000, RT_EPI_F32, 0, 0, 3, WIDE },
                                   { 9, 40, 4096, RT_EPI_F32, 0, 0.02f, 3, WIDE },
                                   { 70, 40, 4097, RT_EPI_ADD, 0, 0, 3, WIDE },
                                   { 300, 64, 131071, RT_EPI_F32, 0, 0, 3, WIDE } }; /* no room */
    rt_backend *be = op_need_cuda();

    for (size_t i = 0; i < sizeof c / sizeof c[0]; i++)
        norm_on(be, &c[i], i + 50);
}

/* ---- what is refused ------------------------------------------------------------------------ */

static void refused(rt_backend *be, int64_t K, float x_scale, q_status want, const char *part)
{
    qnt_tensor t = { .scheme = qnt_scheme_find("w8a8"), .N = 1, .K = K, .x_scale = x_scale };
    rt_weight w = { 0 };
    q_err err = { 0 };

    t.codes = op_host((size_t)K);
    t.scale = op_host(sizeof *t.scale);
    T_ERR(be->ops->prep(be, &t, &w, &err), err, want, part);
    T_TRUE(t.codes && t.scale && !w.data); /* still the caller's */
    qnt_tensor_free(&t);
}

static void errors_on(const char *backend)
{
    rt_backend *be = op_open(backend, 1);

    if (!be)
        return;
    refused(be, 4, -1, Q_EARG, "weight [1, 4]: activation scale -1; wanted 0 or more");
    refused(be, 4, NAN, Q_EARG, "activation scale nan");
    refused(be, 4, INFINITY, Q_EARG, "activation scale inf");
    if (op_is_cuda(backend))
        refused(be, 131072, 0, Q_EUNSUPPORTED, "w8a8 of 131072 columns, at most 131071");
    else
        refused(be, (1 << 20) + 1, 0, Q_ESHAPE, "w8a8: 1048577 columns, at most 1048576");
    op_close(be);
}

static void t_errors(void)
{
    for (size_t b = 0; b < OP_BACKENDS; b++)
        errors_on(op_backends[b]);
}

static void t_errors_cuda(void)
{
    op_need_cuda();
    errors_on("cuda");
}

static const t_case tests[] = { T(t_linear),     T(t_linear_cuda),     T(t_rounding),
                                T(t_not_finite), T(t_not_finite_cuda), T(t_norm_cuda),
                                T(t_errors),     T(t_errors_cuda),     { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, tests);
}
