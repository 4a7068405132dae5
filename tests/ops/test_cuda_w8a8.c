/* w8a8 on the GPU: int8 activations times int8 weights.
 *
 * Sums are integers and every other operation rounds once, so results are those of the definition,
 * spelled out here, to the last bit; what is stored as f16 is that value rounded.  SILU_MUL, which
 * has an exp, is compared under a bound. */
#include "tests/ops/ops.h"

typedef struct w8a8_case {
    int64_t M, N, K;
    rt_epi epi;
    int bias;
    float x_scale; /* 0: per token */
    float size;    /* of activations; < 0: all codes +-127, so that sums are as large as can be */
    int per_tensor;
} w8a8_case;

static const w8a8_case cases[] = {
    /* the smallest; K that is no multiple of anything */
    { 1, 1, 1, RT_EPI_F32, 0, 0, 1, 0 },
    { 1, 15, 3, RT_EPI_F32, 1, 0, 1, 0 },
    { 2, 17, 63, RT_EPI_ADD, 1, 0.01f, 1, 1 },
    { 5, 33, 129, RT_EPI_NONE, 1, 0, 1, 0 },
    /* each number of tokens that a kernel knows */
    { 1, 70, 2050, RT_EPI_F32, 1, 0, 1, 0 },
    { 8, 70, 1088, RT_EPI_F32, 0, 0, 1, 1 },
    { 9, 100, 1024, RT_EPI_ADD, 1, 0, 1, 0 },
    { 16, 5000, 640, RT_EPI_F32, 0, 0.02f, 1, 0 }, /* wide */
    { 17, 100, 1152, RT_EPI_F32, 1, 0, 1, 0 },
    { 33, 90, 520, RT_EPI_ADD, 0, 0, 1, 0 },
    { 64, 90, 520, RT_EPI_NONE, 1, 0.01f, 1, 1 },
    { 1, 2048, 5504, RT_EPI_ADD, 0, 0, 1, 0 },
    /* tiles: of tokens, of rows, of K, edges of each */
    { 65, 8, 16, RT_EPI_F32, 1, 0, 1, 0 },
    { 65, 1, 1, RT_EPI_F32, 0, 0, 1, 0 },
    { 128, 256, 128, RT_EPI_F32, 0, 0, 1, 0 },
    { 129, 257, 200, RT_EPI_ADD, 1, 0, 1, 0 },
    { 256, 264, 1000, RT_EPI_NONE, 1, 0, 1, 1 },
    { 257, 520, 640, RT_EPI_ADD, 1, 0.015f, 1, 0 },
    { 300, 1000, 513, RT_EPI_F32, 1, 0, 1, 0 },
    { 700, 2056, 1096, RT_EPI_ADD, 1, 0, 1, 0 }, /* more tiles than clusters at a time */
    { 2500, 264, 1664, RT_EPI_NONE, 0, 0, 1, 0 },
    /* gate and up */
    { 3, 66, 100, RT_EPI_SILU_MUL, 1, 0.01f, 1, 0 },
    { 40, 270, 600, RT_EPI_SILU_MUL, 0, 0, 1, 0 },
    { 65, 528, 264, RT_EPI_SILU_MUL, 1, 0, 1, 0 },
    { 200, 1030, 384, RT_EPI_SILU_MUL, 1, 0, 1, 1 },
    { 130, 256, 160, RT_EPI_SILU_MUL, 1, 0, 1, 0 }, /* as many columns as a box has rows */
    /* zeros, values below the smallest maximum, values near the largest half */
    { 2, 24, 70, RT_EPI_F32, 1, 0, 0, 0 },
    { 70, 24, 72, RT_EPI_F32, 1, 0.5f, 0, 0 },
    { 5, 24, 70, RT_EPI_F32, 0, 0, 5e-7f, 0 },
    { 70, 24, 70, RT_EPI_F32, 0, 0, 6e4f, 0 },
    { 5, 24, 70, RT_EPI_F32, 0, 1e-38f, 1, 0 }, /* x / x_scale overflows */
    /* sums as large as they can be */
    { 2, 17, 131071, RT_EPI_F32, 0, 1e-3f, -1, 0 },
    { 66, 24, 131071, RT_EPI_F32, 0, 0, -1, 0 },
    /* more tokens than have room for their codes */
    { 300, 16, 131071, RT_EPI_ADD, 0, 0, 1, 0 },
};

#define N_CASES (sizeof cases / sizeof cases[0])

typedef struct w8a8_data {
    float *x, *bias, *y0, *scale;
    int8_t *codes; /* [N, K] */
    size_t n_y;
} w8a8_data;

static void make_data(const w8a8_case *c, w8a8_data *d, uint64_t seed)
{
    const size_t n_x = (size_t)(c->M * c->K);
    uint64_t s = seed * 0x9e3779b97f4a7c15u + 1;

    d->x = op_random(n_x, seed, c->size < 0 ? 1 : c->size);
    op_round(d->x, n_x);
    d->bias = op_random((size_t)c->N, seed + 1, 1);
    d->n_y = (size_t)(c->M * (c->epi == RT_EPI_SILU_MUL ? c->N / 2 : c->N));
    d->y0 = op_random(d->n_y, seed + 2, 1);
    d->scale = op_random((size_t)c->N, seed + 3, 1);
    d->codes = op_host((size_t)(c->N * c->K));
    for (int64_t n = 0; n < c->N; n++)
        d->scale[n] =
            (0.5f + fabsf(c->per_tensor ? d->scale[0] : d->scale[n])) / 127 / sqrtf((float)c->K);
    for (int64_t i = 0; i < c->N * c->K; i++)
        d->codes[i] = (int8_t)((int)(op_rand(&s) % 256) - 128);
    if (c->size >= 0)
        return;
    for (int64_t i = 0; i < c->N * c->K; i++)
        d->codes[i] = i / c->K % 2 == 0 ? -128 : 127;
    for (size_t i = 0; i < n_x; i++)
        d->x[i] = (int64_t)i / c->K % 2 == 0 ? -1 : 1;
}

static void free_data(w8a8_data *d)
{
    q_free(d->x);
    q_free(d->bias);
    q_free(d->y0);
    q_free(d->scale);
    q_free(d->codes);
}

static float quantize(const w8a8_case *c, const float *x, int8_t *q)
{
    float amax = 1e-6f, f;

    for (int64_t k = 0; k < c->K; k++)
        amax = fabsf(x[k]) > amax ? fabsf(x[k]) : amax;
    f = 127.0f / amax;
    for (int64_t k = 0; k < c->K; k++) {
        const double v = nearbyint((double)(c->x_scale > 0 ? x[k] / c->x_scale : x[k] * f));

        q[k] = (int8_t)(v < -128 ? -128 : v > 127 ? 127 : v);
    }
    return c->x_scale > 0 ? c->x_scale : amax / 127.0f;
}

/* z [M, N]: the product with bias, rounded as defined */
static float *reference(const w8a8_case *c, const w8a8_data *d)
{
    float *z = op_host((size_t)(c->M * c->N) * sizeof *z);

#pragma omp parallel for
    for (int64_t t = 0; t < c->M; t++) {
        int8_t *q = q_malloc((size_t)c->K);
        const float of_token = quantize(c, d->x + t * c->K, q);

        for (int64_t n = 0; n < c->N; n++) {
            const int8_t *w = d->codes + n * c->K;
            int32_t sum = 0; /* K <= 131071: at most 2^31 - 16384 */
            float v;

            for (int64_t k = 0; k < c->K; k++)
                sum += q[k] * w[k];
            v = (float)sum * (d->scale[n] * of_token);
            z[t * c->N + n] = v + (c->bias ? d->bias[n] : 0.0f);
        }
        q_free(q);
    }
    return z;
}

static void compare(const w8a8_case *c, const w8a8_data *d, const char *name, const float *y)
{
    const int64_t half = c->N / 2;
    float *z = reference(c, d);
    double *ref = op_host(d->n_y * sizeof *ref);

    for (size_t i = 0; i < d->n_y; i++) {
        float want = c->epi == RT_EPI_ADD ? d->y0[i] + z[i] : z[i];

        if (c->epi == RT_EPI_SILU_MUL) {
            const float *row = z + (int64_t)i / half * c->N + (int64_t)i % half;

            ref[i] = (double)row[0] / (1 + exp(-(double)row[0])) * (double)row[half];
            continue;
        }
        if (c->epi == RT_EPI_NONE)
            op_round(&want, 1);
        if (memcmp(&want, &y[i], sizeof want) != 0)
            t_fail(name, 0, "y[%zu] is %.9g, wanted exactly %.9g", i, (double)y[i], (double)want);
    }
    if (c->epi == RT_EPI_SILU_MUL)
        op_compare(name, "cuda", y, ref, d->n_y, OP_F16, OP_F16_MAX);
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

/* The product of what lies at x (device) into y (host, d->n_y). */
static void multiply(rt_backend *be, const w8a8_case *c, const w8a8_data *d, const rt_weight *w,
                     const void *x, int coded, float *y)
{
    const int f32 = c->epi == RT_EPI_ADD || c->epi == RT_EPI_F32;
    void *out = f32 ? op_up(be, d->y0, d->n_y * sizeof *y) : op_act_up(be, d->y0, d->n_y);
    q_err err = { 0 };

    T_OK(be->ops->linear(
             be,
             &(rt_linear_args){
                 .x = x, .w = w, .y = out, .n_tok = c->M, .epi = c->epi, .coded = coded },
             &err),
         err);
    if (f32)
        op_down(be, y, out, d->n_y * sizeof *y);
    else
        op_act_down(be, y, out, d->n_y);
    be->ops->free(be, out);
}

static void t_w8a8(void)
{
    rt_backend *be = op_need_cuda();

    for (size_t i = 0; i < N_CASES; i++) {
        const w8a8_case *c = &cases[i];
        w8a8_data d;
        char name[96];
        rt_weight w;
        float *y[2];
        void *x;

        make_data(c, &d, i + 1);
        snprintf(name, sizeof name, "w8a8 %lldx%lldx%lld, case %zu", (long long)c->M,
                 (long long)c->N, (long long)c->K, i);
        w = prepared(be, c, &d);
        x = op_act_up(be, d.x, (size_t)(c->M * c->K));
        for (int k = 0; k < 2; k++) {
            y[k] = op_host(d.n_y * sizeof(float));
            multiply(be, c, &d, &w, x, 0, y[k]);
        }
        compare(c, &d, name, y[0]);
        op_same_bits(name, "cuda", 1, y[1], y[0], d.n_y * sizeof(float));
        be->ops->free(be, x);
        be->ops->unprep(be, &w);
        q_free(y[0]);
        q_free(y[1]);
        free_data(&d);
    }
}

/* A token with a value that is not finite is NaN everywhere; its neighbours are as before. */
static void t_not_finite(void)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    rt_backend *be = op_need_cuda();

    for (int i = 0; i < 24; i++) {
        const w8a8_case c = { .M = i < 12 ? 6 : 70,
                              .N = 40,
                              .K = 70,
                              .epi = i % 2 ? RT_EPI_NONE : RT_EPI_SILU_MUL,
                              .x_scale = i / 2 % 2 ? 0.01f : 0,
                              .size = 1 };
        const size_t row = 3, cols = c.epi == RT_EPI_NONE ? 40 : 20;
        w8a8_data d;
        rt_weight w;
        float *before, *y;
        void *x;

        make_data(&c, &d, 7);
        before = op_host(d.n_y * sizeof *before);
        y = op_host(d.n_y * sizeof *y);
        w = prepared(be, &c, &d);
        x = op_act_up(be, d.x, (size_t)(c.M * c.K));
        multiply(be, &c, &d, &w, x, 0, before);
        be->ops->free(be, x);
        d.x[row * 70 + 69] = bad[i / 4 % 3];
        x = op_act_up(be, d.x, (size_t)(c.M * c.K));
        multiply(be, &c, &d, &w, x, 0, y);
        for (size_t j = 0; j < d.n_y; j++)
            if (j / cols == row)
                T_TRUE(isnan(y[j]));
            else
                T_TRUE(memcmp(&y[j], &before[j], sizeof *y) == 0);
        be->ops->free(be, x);
        be->ops->unprep(be, &w);
        q_free(before);
        q_free(y);
        free_data(&d);
    }
}

/* A norm that hands codes to its reader gives the bits of one that writes halves. */
static void t_norm(void)
{
    static const w8a8_case c[] = { { 1, 40, 1000, RT_EPI_F32, 0, 0, 3, 0 },
                                   { 9, 40, 4096, RT_EPI_F32, 0, 0.02f, 3, 0 },
                                   { 70, 40, 4097, RT_EPI_ADD, 0, 0, 3, 0 },
                                   { 300, 64, 131071, RT_EPI_F32, 0, 0, 3, 0 } }; /* no room */
    rt_backend *be = op_need_cuda();

    for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
        const size_t n = (size_t)(c[i].M * c[i].K);
        float *norm = op_random((size_t)c[i].K, 5, 2), *y[2];
        w8a8_data d;
        rt_weight w;
        void *x, *norm_be = op_up(be, norm, (size_t)c[i].K * sizeof *norm);
        void *xn = op_act_alloc(be, n);

        make_data(&c[i], &d, i + 50);
        x = op_up(be, d.x, n * sizeof *d.x);
        w = prepared(be, &c[i], &d);
        for (int k = 0; k < 2; k++) {
            q_err err = { 0 };

            y[k] = op_host(d.n_y * sizeof(float));
            T_OK(be->ops->rmsnorm(be,
                                  &(rt_rmsnorm_args){ .x = x,
                                                      .w = norm_be,
                                                      .y = xn,
                                                      .n_rows = c[i].M,
                                                      .dim = c[i].K,
                                                      .eps = 1e-6,
                                                      .reader = k ? &w : NULL },
                                  &err),
                 err);
            multiply(be, &c[i], &d, &w, xn, k, y[k]);
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
}

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

static void t_refused(void)
{
    rt_backend *be = op_need_cuda();

    refused(be, 4, -1, Q_EARG, "weight [1, 4]: activation scale -1; wanted 0 or more");
    refused(be, 4, NAN, Q_EARG, "activation scale nan");
    refused(be, 4, INFINITY, Q_EARG, "activation scale inf");
    refused(be, 131072, 0, Q_EUNSUPPORTED, "w8a8 of 131072 columns, at most 131071");
}

static const t_case tests[] = { T(t_w8a8), T(t_not_finite), T(t_norm), T(t_refused), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, tests);
}
