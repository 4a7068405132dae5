/* Products with weights in groups (w4g, w8g) on the CPU: one table of cases, every backend, against
 * double precision.
 *
 * Activations become codes by parts (runtime/cpu/group.h), so there are two references: the codes
 * and what they stand for, worked out here once more, to float32's rounding; and the activations as
 * they came, to that of 8 bits: steps of amax / 127, so errors of some 0.5 % of x (nmse 3e-5),
 * which average out over a row.  All backends, numbers of threads and of tokens give the same bits.
 *
 * Sizes are one less than, equal to and one more than blocks (32), parts (64), spans (128), panels
 * (16), quads (64), tiles (12 tokens) and stretches (2048 columns). */
#include "tests/ops/ops.h"

typedef enum order { IN_ORDER, SHUFFLED, UNEVEN } order; /* UNEVEN: groups of any size */
typedef enum fill { RANDOM, LARGEST, TINY, HUGE_X, ZEROS } fill;

typedef struct group_case {
    int bits;
    int64_t M, N, K, group; /* group 0: K */
    int sym;
    order order;
    rt_epi epi;
    int bias;
    fill fill;
} group_case;

static const group_case cases[] = {
    /* the smallest, and odd tails */
    { 4, 1, 1, 1, 0, 1 },
    { 8, 1, 1, 1, 0, 0 },
    { 4, 1, 5, 33, 32, 1 },
    { 8, 2, 5, 33, 32, 0, IN_ORDER, RT_EPI_NONE, 1 },
    { 4, 3, 15, 127, 128, 0, IN_ORDER, RT_EPI_ADD, 1 },
    { 4, 4, 16, 128, 128, 1 },
    { 4, 5, 17, 129, 128, 0, IN_ORDER, RT_EPI_NONE, 1 },
    { 8, 6, 31, 255, 128, 1, IN_ORDER, RT_EPI_ADD },
    /* group sizes: whole rows, those of files, others */
    { 4, 1, 40, 300, 0, 0 },
    { 8, 7, 40, 300, 0, 1, IN_ORDER, RT_EPI_NONE, 1 },
    { 4, 8, 70, 256, 32, 0, IN_ORDER, RT_EPI_ADD, 1 },
    { 8, 9, 70, 320, 64, 0 },
    { 4, 12, 33, 256, 64, 1 },
    { 4, 13, 33, 400, 100, 0 },
    { 8, 2, 33, 500, 7, 0 },
    { 4, 10, 20, 1000, 160, 1 },
    { 4, 11, 20, 64, 1, 0 },
    /* groups out of order */
    { 4, 1, 37, 256, 128, 0, SHUFFLED, RT_EPI_NONE, 1 },
    { 4, 14, 50, 384, 64, 1, SHUFFLED, RT_EPI_ADD },
    { 8, 3, 50, 300, 32, 0, SHUFFLED },
    { 4, 6, 50, 500, 100, 0, UNEVEN, RT_EPI_NONE, 1 },
    { 8, 25, 50, 200, 40, 0, UNEVEN },
    /* several tiles in tokens, rows and columns */
    { 4, 24, 130, 2048, 128, 0, IN_ORDER, RT_EPI_ADD, 1 },
    { 4, 40, 129, 2049, 128, 1 },
    { 8, 70, 150, 4200, 128, 0, IN_ORDER, RT_EPI_ADD },
    { 4, 70, 20, 2304, 96, 0, SHUFFLED },
    /* more tokens than are quantized at a time */
    { 4, 600, 5, 40, 32, 0, IN_ORDER, RT_EPI_ADD, 1 },
    /* gate and up, halves that start inside a panel */
    { 4, 1, 2, 5, 0, 1, IN_ORDER, RT_EPI_SILU_MUL },
    { 8, 3, 66, 100, 32, 0, IN_ORDER, RT_EPI_SILU_MUL, 1 },
    { 4, 35, 270, 600, 128, 0, SHUFFLED, RT_EPI_SILU_MUL },
    /* the largest sums: 16 and 24 bits hold them; tiny, huge and no activations */
    { 4, 13, 17, 512, 128, 0, IN_ORDER, RT_EPI_NONE, 0, LARGEST },
    { 8, 13, 17, 512, 128, 0, IN_ORDER, RT_EPI_NONE, 0, LARGEST },
    { 4, 5, 20, 70, 32, 0, IN_ORDER, RT_EPI_NONE, 0, TINY },
    { 8, 5, 20, 70, 32, 0, IN_ORDER, RT_EPI_NONE, 0, HUGE_X },
    { 4, 2, 20, 70, 32, 0, IN_ORDER, RT_EPI_ADD, 1, ZEROS },
    /* one real shape: Qwen-1.8B's down projection */
    { 4, 1, 2048, 5504, 128, 0, IN_ORDER, RT_EPI_ADD },
};

#define N_CASES (sizeof cases / sizeof cases[0])

typedef struct group_data {
    float *x, *bias, *y0;
    qnt_tensor t;      /* canonical, kept */
    int32_t *group_of; /* [K] */
    size_t n_y;
} group_data;

static void make_groups(const group_case *c, group_data *d, int64_t group, int64_t G, uint64_t *s)
{
    for (int64_t k = 0; k < c->K; k++)
        d->group_of[k] = (int32_t)(c->order == UNEVEN ? op_rand(s) % (uint32_t)G : k / group);
    for (int64_t k = c->K - 1; k > 0 && c->order == SHUFFLED; k--) {
        const int64_t j = op_rand(s) % (uint32_t)(k + 1);
        const int32_t v = d->group_of[k];

        d->group_of[k] = d->group_of[j];
        d->group_of[j] = v;
    }
}

static void make_data(const group_case *c, group_data *d, uint64_t seed)
{
    static const float sizes[] = { 1, 1, 1e-33f, 1e34f, 0 };
    const int64_t group = c->group ? c->group : c->K, G = (c->K + group - 1) / group;
    const int top = (1 << c->bits) - 1;
    uint64_t s = seed * 0x9e3779b97f4a7c15u + 1;
    qnt_tensor *t = &d->t;
    size_t row;

    *t =
        (qnt_tensor){ .scheme = qnt_scheme_grouped(c->bits), .N = c->N, .K = c->K, .group = group };
    row = qnt_row_bytes(t->scheme, c->K);
    t->codes = op_host((size_t)c->N * row);
    t->scale = op_host((size_t)(c->N * G) * sizeof *t->scale);
    t->zero = op_host((size_t)(c->N * G));
    d->group_of = op_host((size_t)c->K * sizeof *d->group_of);
    make_groups(c, d, group, G, &s);
    for (size_t i = 0; i < (size_t)c->N * row; i++)
        ((uint8_t *)t->codes)[i] = c->fill == LARGEST ? 255 : (uint8_t)op_rand(&s);
    for (int64_t i = 0; i < c->N * G; i++) {
        t->scale[i] = q_f16_to_f32(q_f32_to_f16((2 + op_uniform(&s)) / (float)top));
        t->zero[i] = (uint8_t)(c->sym ? (top + 1) / 2 : (int)(op_rand(&s) % (uint32_t)(top + 1)));
        if (c->fill == LARGEST)
            t->zero[i] = 0;
    }
    d->x = op_random((size_t)(c->M * c->K), seed + 1, sizes[c->fill]);
    for (int64_t i = 0; i < c->M * c->K && c->fill == LARGEST; i++)
        d->x[i] = i / c->K % 2 == 0 ? -1 : 1;
    d->bias = op_random((size_t)c->N, seed + 2, 1);
    d->n_y = (size_t)(c->M * (c->epi == RT_EPI_SILU_MUL ? c->N / 2 : c->N));
    d->y0 = op_random(d->n_y, seed + 3, 1);
}

static void free_data(group_data *d)
{
    qnt_tensor_free(&d->t);
    q_free(d->group_of);
    q_free(d->x);
    q_free(d->bias);
    q_free(d->y0);
}

/* v [K]: what the codes of a token stand for: the columns of a group, a part at a time */
static void quantize(const group_data *d, const float *x, double *v)
{
    const int64_t G = qnt_n_groups(d->t.scheme, d->t.K, d->t.group);
    int64_t block[64];

    for (int64_t g = 0; g < G; g++)
        for (int64_t k = 0, n = 0, done = 0; k <= d->t.K; k++) {
            float amax = 1e-30f;

            if (k < d->t.K && d->group_of[k] == g)
                block[n++] = k;
            if (n < op_part(&d->t, done) && k < d->t.K)
                continue;
            for (int64_t i = 0; i < n; i++)
                amax = fabsf(x[block[i]]) > amax ? fabsf(x[block[i]]) : amax;
            for (int64_t i = 0; i < n; i++)
                v[block[i]] =
                    nearbyint((double)(x[block[i]] * (127.0f / amax))) * (double)(amax / 127.0f);
            done += n;
            n = 0;
        }
}

static double weight(const group_data *d, int64_t n, int64_t k)
{
    const qnt_row r = qnt_tensor_row(&d->t, n);
    const uint8_t *codes = r.codes;
    const int code = d->t.scheme->bits == 8 ? codes[k] : codes[k / 2] >> k % 2 * 4 & 15;

    return (double)(code - r.zero[d->group_of[k]]) * (double)r.scale[d->group_of[k]];
}

/* ref [n_y]; in_codes: of the quantized activations */
static void reference(const group_case *c, const group_data *d, int in_codes, double *ref)
{
    const int64_t half = c->N / 2;
    double *v = op_host((size_t)c->K * sizeof *v), *z = op_host((size_t)c->N * sizeof *z);

    for (int64_t t = 0; t < c->M; t++) {
        const float *x = d->x + t * c->K;

        for (int64_t k = 0; k < c->K; k++)
            v[k] = (double)x[k];
        if (in_codes)
            quantize(d, x, v);
        for (int64_t n = 0; n < c->N; n++) {
            z[n] = c->bias ? (double)d->bias[n] : 0;
            for (int64_t k = 0; k < c->K; k++)
                z[n] += v[k] * weight(d, n, k);
        }
        for (int64_t n = 0; n < (c->epi == RT_EPI_SILU_MUL ? half : c->N); n++)
            if (c->epi == RT_EPI_SILU_MUL)
                ref[t * half + n] = z[n] / (1 + exp(-z[n])) * z[half + n];
            else
                ref[t * c->N + n] = z[n] + (c->epi == RT_EPI_ADD ? (double)d->y0[t * c->N + n] : 0);
    }
    q_free(v);
    q_free(z);
}

static qnt_tensor copy_of(const group_case *c, const group_data *d)
{
    const size_t G = (size_t)qnt_n_groups(d->t.scheme, c->K, d->t.group);
    const size_t cells = (size_t)c->N * G, bytes = (size_t)c->N * qnt_row_bytes(d->t.scheme, c->K);
    qnt_tensor t = d->t;

    t.codes = memcpy(op_host(bytes), d->t.codes, bytes);
    t.scale = memcpy(op_host(cells * sizeof *t.scale), d->t.scale, cells * sizeof *t.scale);
    t.zero = memcpy(op_host(cells), d->t.zero, cells);
    if (c->order != IN_ORDER)
        t.g_idx = memcpy(op_host((size_t)c->K * sizeof *t.g_idx), d->group_of,
                         (size_t)c->K * sizeof *t.g_idx);
    if (c->bias)
        t.bias =
            memcpy(op_host((size_t)c->N * sizeof *t.bias), d->bias, (size_t)c->N * sizeof *t.bias);
    return t;
}

/* y of the first M tokens on one backend; NULL: not on this machine */
static float *run(const group_case *c, const group_data *d, const char *backend, int threads,
                  int64_t M)
{
    rt_backend *be = op_open(backend, threads);
    float *y, *tmp;
    q_err err = { 0 };
    rt_weight w;

    if (!be)
        return NULL;
    w = op_weight(be, copy_of(c, d));
    y = op_host(d->n_y * sizeof *y);
    tmp = op_host((size_t)(c->M * c->N) * sizeof *tmp);
    memcpy(y, d->y0, d->n_y * sizeof *y);
    T_OK(be->ops->linear(
             be,
             &(rt_linear_args){ .x = d->x, .w = &w, .y = y, .tmp = tmp, .n_tok = M, .epi = c->epi },
             &err),
         err);
    be->ops->unprep(be, &w);
    rt_backend_close(be);
    q_free(tmp);
    return y;
}

static void compare(const group_case *c, const group_data *d, const char *name, const char *backend,
                    const float *y)
{
    const int silu = c->epi == RT_EPI_SILU_MUL;
    double *ref = op_host(d->n_y * sizeof *ref);

    reference(c, d, 1, ref); /* sums of float32, of terms some times the result */
    op_compare(name, backend, y, ref, d->n_y, silu ? 1e-11 : 1e-12, silu ? 2e-5 : 4e-6);
    /* below the smallest maximum all codes are 0; a single output may cancel */
    if (c->fill != TINY && d->n_y >= 16) {
        reference(c, d, 0, ref);
        op_compare(name, "8 bits", y, ref, d->n_y, silu ? 2e-4 : 1e-4, 0.08);
    }
    q_free(ref);
}

static void t_linear(void)
{
    for (size_t i = 0; i < N_CASES; i++) {
        const group_case *c = &cases[i];
        float *first = NULL;
        group_data d;
        char name[96];

        make_data(c, &d, i + 1);
        snprintf(name, sizeof name, "w%dg %lldx%lldx%lld, case %zu", c->bits, (long long)c->M,
                 (long long)c->N, (long long)c->K, i);
        for (size_t b = 0; b < OP_BACKENDS; b++)
            for (size_t t = 0; t < OP_THREADS; t++) {
                float *y = run(c, &d, op_backends[b], op_threads[t], c->M);

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

/* Every number of tokens of a tile gives a token the bits that it has alone. */
static void t_tokens(void)
{
    static const group_case both[] = { { 4, 26, 72, 416, 128, 0 },
                                       { 8, 26, 72, 416, 128, 0, SHUFFLED } };

    for (size_t i = 0; i < 2 * OP_BACKENDS; i++) {
        const group_case *c = &both[i % 2];
        group_data d;
        float *all;

        make_data(c, &d, i + 50);
        all = run(c, &d, op_backends[i / 2], 2, c->M);
        for (int64_t m = 1; all && m < c->M; m++) {
            float *some = run(c, &d, op_backends[i / 2], 2, m);

            T_TRUE(memcmp(some, all, (size_t)(m * c->N) * sizeof *all) == 0);
            q_free(some);
        }
        q_free(all);
        free_data(&d);
    }
}

/* A token with a value that is not finite is NaN everywhere; its neighbours are as before. */
static void t_not_finite(void)
{
    static const float bad[] = { NAN, -NAN, INFINITY, -INFINITY };

    for (size_t i = 0; i < 8; i++)
        for (size_t b = 0; b < OP_BACKENDS; b++) {
            const group_case c = { i % 2 ? 4 : 8, 6, 40, 70, 32, 1 };
            float *before, *y;
            group_data d;

            make_data(&c, &d, 7);
            before = run(&c, &d, op_backends[b], 2, c.M);
            d.x[3 * c.K + 69] = bad[i / 2];
            y = run(&c, &d, op_backends[b], 2, c.M);
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

static void refused(rt_backend *be, qnt_tensor t, q_status want, const char *part)
{
    const int64_t G = t.group > 0 ? qnt_n_groups(t.scheme, t.K, t.group) : 1;
    rt_weight w = { 0 };
    q_err err = { 0 };

    t.codes = op_host(qnt_row_bytes(t.scheme, t.K));
    t.scale = op_host((size_t)G * sizeof *t.scale);
    t.zero = op_host((size_t)G);
    T_ERR(be->ops->prep(be, &t, &w, &err), err, want, part);
    T_TRUE(t.codes && t.scale && t.zero && !w.data); /* still the caller's */
    t.g_idx = NULL;
    qnt_tensor_free(&t);
}

static void t_errors(void)
{
    static int32_t above[] = { 0, 1, 2, 0 }, below[] = { 0, 1, -1, 0 };
    const qnt_scheme *s = qnt_scheme_find("w4g");

    for (size_t b = 0; b < OP_BACKENDS; b++) {
        rt_backend *be = op_open(op_backends[b], 1);

        if (!be)
            continue;
        refused(be, (qnt_tensor){ .scheme = s, .N = 1, .K = 4 }, Q_EARG,
                "weight [1, 4]: groups of 0 columns; wanted 1 or more");
        refused(be, (qnt_tensor){ .scheme = s, .N = 1, .K = 4, .group = 2, .g_idx = above },
                Q_EFORMAT, "w4g: column 2 is in group 2; wanted 0 .. 1");
        refused(be, (qnt_tensor){ .scheme = s, .N = 1, .K = 4, .group = 2, .g_idx = below },
                Q_EFORMAT, "column 2 is in group -1");
        refused(be, (qnt_tensor){ .scheme = s, .N = 1, .K = 20000, .group = 1 }, Q_ESHAPE,
                "w4g: 20000 columns in groups of 1 take 640000 places, at most 524288");
        rt_backend_close(be);
    }
}

static const t_case tests[] = { T(t_linear), T(t_tokens), T(t_not_finite), T(t_errors), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, tests);
}
