/* w8a8 on the CPU: int8 activations times int8 weights.
 *
 * The sums are integers, so there is one right answer: codes from the definition (two roundings in
 * f32, spelled out here), sums in 64 bits, and
 *
 *     y = (float)sum * (scale of the row * scale of the token) + bias
 *
 * in f32.  Every backend, number of threads and batch must give these bits; SILU_MUL, which has an
 * exp, is compared with doubles under a bound and must have the same bits everywhere. */
#include "tests/ops/ops.h"

/* what the weights are made of */
typedef enum fill { RANDOM, WIDE, LARGEST } fill; /* WIDE: -128 as well; LARGEST: all +-127 */

typedef struct w8a8_case {
    int64_t M, N, K;
    rt_epi epi;
    int bias;
    float x_scale; /* 0: per token */
    float size;    /* of activations */
    fill fill;
} w8a8_case;

static const w8a8_case cases[] = {
    /* every tail of a chunk of 4, of a panel of 16 rows, of a cache line */
    { 1, 1, 1, RT_EPI_NONE, 0, 0, 1, RANDOM },
    { 1, 15, 3, RT_EPI_NONE, 1, 0, 1, RANDOM },
    { 2, 17, 63, RT_EPI_NONE, 1, 0.01f, 1, RANDOM },
    { 3, 1, 64, RT_EPI_F32, 0, 0, 1, RANDOM },
    { 4, 16, 65, RT_EPI_ADD, 1, 0.02f, 1, RANDOM },
    { 5, 33, 2, RT_EPI_NONE, 0, 0, 1, WIDE },
    { 6, 130, 4096 + 32, RT_EPI_ADD, 1, 0, 1, RANDOM },
    /* each number of tokens that a kernel knows, tiles of 12, groups of 96 */
    { 1, 70, 2050, RT_EPI_NONE, 1, 0, 1, WIDE },
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
    { 2, 20, 70, RT_EPI_NONE, 1, 0, 0, RANDOM },
    { 2, 20, 70, RT_EPI_NONE, 1, 0.5f, 0, RANDOM },
    { 5, 20, 70, RT_EPI_NONE, 0, 0, 1e-7f, RANDOM },
    { 5, 20, 70, RT_EPI_NONE, 0, 0, 3e38f, RANDOM },
    { 5, 20, 70, RT_EPI_NONE, 0, 1e-3f, 3e38f, RANDOM },
    { 5, 20, 70, RT_EPI_NONE, 0, 1e-38f, 1, RANDOM }, /* x / x_scale overflows */
    /* sums as large as they can be: 8 and 16 bits would saturate, then 32 would overflow */
    { 2, 17, 64, RT_EPI_NONE, 0, 1e-3f, 1, LARGEST },
    { 13, 17, 4096, RT_EPI_NONE, 0, 1e-3f, 1, LARGEST },
    { 1, 2, 65536, RT_EPI_NONE, 0, 1e-3f, 1, LARGEST },
    { 2, 2, 140001, RT_EPI_NONE, 0, 1e-3f, 1, LARGEST },
    { 5, 18, 66000, RT_EPI_ADD, 1, 0, 1, WIDE },
    { 8, 1, 1 << 20, RT_EPI_NONE, 0, 0, 1, RANDOM }, /* the most; 7 tokens at a time */
    /* one real shape: Qwen-1.8B's down projection */
    { 1, 2048, 5504, RT_EPI_ADD, 0, 0, 1, RANDOM },
};

#define N_CASES (sizeof cases / sizeof cases[0])

typedef struct w8a8_data {
    float *x, *bias, *y0, *scale; /* scale [N] */
    int8_t *codes;                /* [N, K] */
    size_t n_y;
} w8a8_data;

static void make_data(const w8a8_case *c, w8a8_data *d, uint64_t seed)
{
    uint64_t s = seed * 0x9e3779b97f4a7c15u + 1;

    d->x = op_random((size_t)(c->M * c->K), seed, c->size);
    d->bias = op_random((size_t)c->N, seed + 1, 1);
    d->n_y = (size_t)(c->M * (c->epi == RT_EPI_SILU_MUL ? c->N / 2 : c->N));
    d->y0 = op_random(d->n_y, seed + 2, 1);
    d->scale = op_random((size_t)c->N, seed + 3, 1);
    d->codes = op_host((size_t)(c->N * c->K));
    for (int64_t n = 0; n < c->N; n++)
        d->scale[n] = (0.5f + fabsf(d->scale[n])) / 127 / sqrtf((float)c->K);
    for (int64_t i = 0; i < c->N * c->K; i++) {
        const int r = (int)(op_rand(&s) % (c->fill == WIDE ? 256 : 255));

        d->codes[i] = (int8_t)(c->fill == WIDE ? r - 128 : r - 127);
        if (c->fill == LARGEST) /* rows of one sign, of the other, and signs that cancel */
            d->codes[i] = i / c->K % 3 == 0 || (i / c->K % 3 == 1 && i % 2 == 0) ? 127 : -127;
    }
    for (int64_t i = 0; i < c->M * c->K && c->fill == LARGEST; i++)
        d->x[i] = i / c->K % 2 == 0 ? -1e9f : 1e9f; /* codes -128 and 127 */
    if (c->N > 2 && c->fill == RANDOM)
        memset(d->codes + c->K, 0, (size_t)c->K); /* a row of zeros */
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
    int *q = op_host((size_t)c->K * sizeof *q);

    for (int64_t t = 0; t < c->M; t++) {
        const float of_token = quantize(c, d->x + t * c->K, q);

        for (int64_t n = 0; n < c->N; n++) {
            int64_t sum = 0;
            float v;

            for (int64_t k = 0; k < c->K; k++)
                sum += q[k] * d->codes[n * c->K + k];
            v = (float)sum * (d->scale[n] * of_token);
            z[t * c->N + n] = v + (c->bias ? d->bias[n] : 0.0f);
        }
    }
    q_free(q);
}

static void compare(const w8a8_case *c, const w8a8_data *d, const char *name, const char *backend,
                    const float *y)
{
    const int64_t half = c->N / 2;
    float *z = op_host((size_t)(c->M * c->N) * sizeof *z);
    double *ref = op_host(d->n_y * sizeof *ref);

    reference(c, d, z);
    for (size_t i = 0; i < d->n_y; i++) {
        const float want = c->epi == RT_EPI_ADD ? d->y0[i] + z[i] : z[i];

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

/* y on one backend; NULL: not on this machine */
static float *run(const w8a8_case *c, const w8a8_data *d, const char *backend, int threads)
{
    rt_backend *be = op_open(backend, threads);
    float *y, *tmp;
    q_err err = { 0 };
    rt_weight w;

    if (!be)
        return NULL;
    w = prepared(be, c, d);
    y = op_host(d->n_y * sizeof *y);
    tmp = op_host((size_t)(c->M * c->N) * sizeof *tmp);
    memcpy(y, d->y0, d->n_y * sizeof *y);
    T_OK(be->ops->linear(be,
                         &(rt_linear_args){
                             .x = d->x, .w = &w, .y = y, .tmp = tmp, .n_tok = c->M, .epi = c->epi },
                         &err),
         err);
    be->ops->unprep(be, &w);
    rt_backend_close(be);
    q_free(tmp);
    return y;
}

static void t_linear(void)
{
    for (size_t i = 0; i < N_CASES; i++) {
        const w8a8_case *c = &cases[i];
        float *first = NULL;
        w8a8_data d;
        char name[96];

        make_data(c, &d, i + 1);
        snprintf(name, sizeof name, "w8a8 %lldx%lldx%lld, case %zu", (long long)c->M,
                 (long long)c->N, (long long)c->K, i);
        for (size_t b = 0; b < OP_BACKENDS; b++)
            for (size_t t = 0; t < OP_THREADS; t++) {
                float *y = run(c, &d, op_backends[b], op_threads[t]);

                if (y && !first) {
                    compare(c, &d, name, op_backends[b], y);
                    first = y;
                } else if (y) {
                    op_same_bits(name, op_backends[b], op_threads[t], y, first, d.n_y * sizeof *y);
                    q_free(y);
                }
            }
        q_free(first);
        free_data(&d);
    }
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
    static const int8_t identity[4] = { 1, 0, 0, 1 };

    for (size_t i = 0; i < sizeof round_rows / sizeof round_rows[0]; i++)
        for (size_t b = 0; b < OP_BACKENDS; b++) {
            const round_row *r = &round_rows[i];
            const w8a8_case c = { .M = 1, .N = 2, .K = 2, .x_scale = r->x_scale };
            w8a8_data d = { .n_y = 2, .x = (float[]){ r->x, 127 }, .y0 = (float[]){ 0, 0 } };
            float *y;

            d.scale = (float[]){ 1, 1 };
            d.codes = op_host(sizeof identity);
            memcpy(d.codes, identity, sizeof identity);
            y = run(&c, &d, op_backends[b], 1);
            if (y)
                T_NEAR(y[0], r->want, 0);
            q_free(y);
            q_free(d.codes);
        }
}

/* A token with a value that is not finite is NaN everywhere; its neighbours are as before. */
static void t_not_finite(void)
{
    static const float bad[] = { NAN, -NAN, INFINITY, -INFINITY };
    static const float x_scales[] = { 0, 0.01f };

    for (size_t i = 0; i < 16; i++)
        for (size_t b = 0; b < OP_BACKENDS; b++) {
            const w8a8_case c = { .M = 6,
                                  .N = 40,
                                  .K = 70,
                                  .epi = i < 8 ? RT_EPI_NONE : RT_EPI_SILU_MUL,
                                  .x_scale = x_scales[i / 4 % 2],
                                  .size = 1 };
            w8a8_data d;
            float *before, *y;

            make_data(&c, &d, 7);
            before = run(&c, &d, op_backends[b], 2);
            d.x[3 * c.K + 69] = bad[i % 4];
            y = run(&c, &d, op_backends[b], 2);
            for (size_t j = 0; y && j < d.n_y; j++)
                if (j * 6 / d.n_y == 3)
                    T_TRUE(isnan(y[j]));
                else
                    T_TRUE(memcmp(&y[j], &before[j], sizeof *y) == 0);
            q_free(before);
            q_free(y);
            free_data(&d);
        }
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

static void t_errors(void)
{
    for (size_t b = 0; b < OP_BACKENDS; b++) {
        rt_backend *be = op_open(op_backends[b], 1);

        if (!be)
            continue;
        refused(be, 4, -1, Q_EARG, "weight [1, 4]: activation scale -1; wanted 0 or more");
        refused(be, 4, NAN, Q_EARG, "activation scale nan");
        refused(be, 4, INFINITY, Q_EARG, "activation scale inf");
        refused(be, (1 << 20) + 1, 0, Q_ESHAPE, "w8a8: 1048577 columns, at most 1048576");
        rt_backend_close(be);
    }
}

static const t_case tests[] = { T(t_linear), T(t_rounding), T(t_not_finite), T(t_errors), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, tests);
}
