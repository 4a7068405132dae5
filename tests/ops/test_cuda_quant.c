/* The arithmetic of quantization on the GPU (quant/device.h) against the host's, operation by
 * operation and as whole solvers, on problems of odd and of true shapes; with LONG=1 also its speed
 * on the shapes of Qwen-7B.
 *
 * Bounds: second moments are f32 sums of the same products in another order; codes of the two
 * devices differ where a value lies within rounding of a boundary, which is rare. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_half.h"
#include "formats/base/q_log.h"
#include "quant/awq.h"
#include "quant/gptq.h"
#include "quant/linalg.h"
#include "tests/ops/ops.h"

static q_err err;
static qnt_dev host, gpu;
static uint64_t state = 1;

static float uniform(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(state >> 40) / (float)(1 << 23) - 1;
}

static void *need(size_t n)
{
    void *p = q_calloc(n ? n : 1, 1);

    T_TRUE(p);
    return p;
}

static void open_gpu(void)
{
    rt_backend *be = op_need_cuda();

    host = qnt_dev_host();
    T_OK(be->ops->math(be, &gpu, &err), err);
}

static void *on_gpu(const void *v, size_t bytes)
{
    void *p = NULL;

    T_OK(gpu.ops->alloc(&gpu, bytes, &p, &err), err);
    if (v)
        T_OK(gpu.ops->put(&gpu, p, v, bytes, &err), err);
    else
        T_OK(gpu.ops->clear(&gpu, p, bytes, &err), err);
    return p;
}

static void fetch(void *v, const void *p, size_t bytes)
{
    T_OK(gpu.ops->get(&gpu, v, p, bytes, &err), err);
}

/* Correlated inputs; a few channels are ten times the others, some are dead. */
static float *inputs(int64_t n, int64_t K, int dead)
{
    float *X = need((size_t)(n * K) * sizeof *X);

    for (int64_t i = 0; i < n; i++) {
        const float common = uniform();

        for (int64_t k = 0; k < K; k++)
            X[i * K + k] = q_f16_to_f32(
                q_f32_to_f16(k < dead ? 0 : (uniform() + common) * (k % 29 == 3 ? 10 : 1)));
    }
    return X;
}

static uint16_t *halves(const float *x, size_t n)
{
    uint16_t *h = need(n * sizeof *h);

    for (size_t i = 0; i < n; i++)
        h[i] = q_f32_to_f16(x[i]);
    return h;
}

static float *weights(int64_t N, int64_t K)
{
    float *w = need((size_t)(N * K) * sizeof *w);

    for (int64_t i = 0; i < N * K; i++)
        w[i] = 0.05f * (uniform() + uniform() + uniform());
    return w;
}

/* H of both devices, both triangles. */
static void moments(float **H, float **dev, int64_t K, int64_t n, int dead)
{
    float *X = inputs(n, K, dead);

    *H = need((size_t)(K * K) * sizeof **H);
    qnt_gram(*H, K, X, n);
    qnt_mirror(*H, K);
    *dev = on_gpu(*H, (size_t)(K * K) * sizeof **H);
    q_free(X);
}

/* The same of inputs that are all but the same: whole numbers below 2^24, a rank of one and 1 on
 * the diagonal, which roundings of f32 hide and those of f64 do not (see test_gptq.c). */
static void alike(float **H, float **dev, int64_t K)
{
    float *v = need((size_t)K * sizeof *v);

    *H = need((size_t)(K * K) * sizeof **H);
    for (int64_t k = 0; k < K; k++)
        v[k] = copysignf(floorf(3071 + 1024 * uniform()), uniform());
    for (int64_t i = 0; i < K; i++)
        for (int64_t j = 0; j < K; j++)
            (*H)[i * K + j] = v[i] * v[j] + (i == j);
    *dev = on_gpu(*H, (size_t)(K * K) * sizeof **H);
    q_free(v);
}

static double distance(const float *a, const float *b, size_t n)
{
    double d = 0, all = 0;

    for (size_t i = 0; i < n; i++) {
        d += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        all += (double)b[i] * (double)b[i];
    }
    return all > 0 ? sqrt(d / all) : d;
}

/* ---- what is seen ---------------------------------------------------------------------------- */

static void one_gram(int64_t K, int64_t n)
{
    const size_t size = (size_t)(K * K) * sizeof(float);
    float *X = inputs(n, K, 2), *H = need(size), *got = need(size), *again = need(size);
    uint16_t *h = halves(X, (size_t)(n * K));
    double *sum = need((size_t)K * sizeof *sum), *sum2 = need((size_t)K * sizeof *sum);
    float *max = need((size_t)K * sizeof *max), *max2 = need((size_t)K * sizeof *max);
    void *dx = on_gpu(h, (size_t)(n * K) * sizeof *h), *dh = on_gpu(NULL, size);
    void *ds = on_gpu(NULL, (size_t)K * sizeof *sum), *dm = on_gpu(NULL, (size_t)K * sizeof *max);

    for (int twice = 0; twice < 2; twice++) { /* sums add up */
        T_OK(host.ops->gram(&host, H, K, X, FMT_F32, n, &err), err);
        T_OK(host.ops->columns(&host, sum, max, X, FMT_F32, n, K, &err), err);
        T_OK(gpu.ops->gram(&gpu, dh, K, dx, FMT_F16, n, &err), err);
        T_OK(gpu.ops->columns(&gpu, ds, dm, dx, FMT_F16, n, K, &err), err);
    }
    T_OK(host.ops->mirror(&host, H, K, &err), err);
    T_OK(gpu.ops->mirror(&gpu, dh, K, &err), err);
    fetch(got, dh, size);
    fetch(sum2, ds, (size_t)K * sizeof *sum);
    fetch(max2, dm, (size_t)K * sizeof *max);
    T_NEAR(distance(got, H, (size_t)(K * K)), 0, 2e-6);
    for (int64_t k = 0; k < K; k++) {
        T_NEAR(sum2[k], sum[k], 1e-9 * sum[k]);
        T_NEAR(max2[k], max[k], 0);
    }
    T_OK(gpu.ops->clear(&gpu, dh, size, &err), err); /* the same bits again */
    for (int twice = 0; twice < 2; twice++)
        T_OK(gpu.ops->gram(&gpu, dh, K, dx, FMT_F16, n, &err), err);
    T_OK(gpu.ops->mirror(&gpu, dh, K, &err), err);
    fetch(again, dh, size);
    T_TRUE(memcmp(got, again, size) == 0);
    h[K + 5] = 0x7e00; /* a NaN */
    T_OK(gpu.ops->put(&gpu, dx, h, (size_t)(n * K) * sizeof *h, &err), err);
    T_OK(gpu.ops->columns(&gpu, ds, dm, dx, FMT_F16, n, K, &err), err);
    fetch(max2, dm, (size_t)K * sizeof *max);
    T_TRUE(!isfinite(max2[5]) && isfinite(max2[4]) && isfinite(max2[6]));
    gpu.ops->free(&gpu, dx);
    gpu.ops->free(&gpu, dh);
    gpu.ops->free(&gpu, ds);
    gpu.ops->free(&gpu, dm);
    q_free(X), q_free(H), q_free(got), q_free(again), q_free(h);
    q_free(sum), q_free(sum2), q_free(max), q_free(max2);
}

/* The triangle of H, and H with it once more: copies and single sums, equal to the bit. */
static void one_triangle(int64_t K)
{
    const size_t size = (size_t)(K * K) * sizeof(float);
    const size_t half = (size_t)(K * (K + 1) / 2) * sizeof(float);
    float *H = weights(K, K), *P = need(half), *got = need(size), *got_p = need(half);
    void *dh = on_gpu(H, size), *dp = on_gpu(NULL, half);

    T_OK(host.ops->triangle(&host, P, H, K, &err), err);
    T_OK(gpu.ops->triangle(&gpu, dp, dh, K, &err), err);
    fetch(got_p, dp, half);
    T_TRUE(memcmp(got_p, P, half) == 0);
    T_TRUE(P[K - 1] == H[K - 1] && P[half / sizeof *P - 1] == H[K * K - 1]);
    T_OK(host.ops->add_triangle(&host, H, P, K, &err), err);
    T_OK(gpu.ops->add_triangle(&gpu, dh, dp, K, &err), err);
    fetch(got, dh, size);
    T_TRUE(memcmp(got, H, size) == 0);
    T_TRUE(got[K - 1] == 2 * P[K - 1]);
    gpu.ops->free(&gpu, dh);
    gpu.ops->free(&gpu, dp);
    q_free(H), q_free(P), q_free(got), q_free(got_p);
}

static void t_moments(void)
{
    open_gpu();
    one_gram(8, 3);
    one_gram(64, 33);
    one_gram(136, 200);
    one_gram(384, 511);
    one_gram(1000, 96);
    one_gram(2056, 700); /* tiles in turn on every GPU */
    one_triangle(8);
    one_triangle(500);
    one_triangle(4200);
    gpu.ops->close(&gpu);
}

/* ---- factorization --------------------------------------------------------------------------- */

static void t_factor(void)
{
    static const int64_t sizes[] = { 1, 7, 64, 128, 130, 300, 512, 1000 };

    open_gpu();
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const int64_t K = sizes[i];
        const size_t size = (size_t)(K * K) * sizeof(float);
        float *H, *dev, *got = need(size), *diag = need((size_t)K * sizeof *diag);
        int32_t *order = need((size_t)K * sizeof *order);
        float *U = need(size), *dU = on_gpu(NULL, size);
        int ok = 0;

        moments(&H, &dev, K, 2 * K + 5, 0);
        for (int64_t k = 0; k < K; k++) {
            order[k] = (int32_t)((k * 3 + 1) % K); /* a permutation where 3 does not divide K */
            if (K % 3 == 0)
                order[k] = (int32_t)(K - 1 - k);
            diag[k] = H[order[k] * K + order[k]] * 1.01f + 1;
        }
        T_OK(host.ops->arrange(&host, U, H, K, order, diag, &err), err);
        T_OK(gpu.ops->arrange(&gpu, dU, dev, K, order, diag, &err), err);
        T_OK(host.ops->factor(&host, U, K, &ok, &err), err);
        T_INT(ok, 1);
        T_OK(gpu.ops->factor(&gpu, dU, K, &ok, &err), err);
        T_INT(ok, 1);
        fetch(got, dU, size);
        T_NEAR(distance(got, U, (size_t)(K * K)), 0, 2e-4);
        for (int64_t r = 0; r < K; r++) /* zeros below */
            for (int64_t c = 0; c < r; c++)
                T_TRUE(got[r * K + c] == 0);
        diag[K / 2] = K % 2 ? -1 : NAN; /* not positive definite, not finite */
        T_OK(gpu.ops->arrange(&gpu, dU, dev, K, order, diag, &err), err);
        T_OK(gpu.ops->factor(&gpu, dU, K, &ok, &err), err);
        T_INT(ok, 0);
        gpu.ops->free(&gpu, dev);
        gpu.ops->free(&gpu, dU);
        q_free(H), q_free(got), q_free(diag), q_free(order), q_free(U);
    }
    gpu.ops->close(&gpu);
}

/* ---- solvers --------------------------------------------------------------------------------- */

static double same_codes(const qnt_tensor *a, const qnt_tensor *b)
{
    const int64_t bytes = (int64_t)qnt_row_bytes(a->scheme, a->K);
    const uint8_t *x = a->codes, *y = b->codes;
    int64_t same = 0;

    for (int64_t i = 0; i < a->N * bytes; i++)
        same += a->scheme->bits == 8 ? 2 * (x[i] == y[i])
                                     : (x[i] % 16 == y[i] % 16) + (x[i] / 16 == y[i] / 16);
    return (double)same / (double)(2 * a->N * bytes);
}

typedef struct row {
    const char *name;
    int64_t N, K;
    int dead, f64;
    qnt_gptq_opts o;
} row;

static void t_gptq(void)
{
    static const row rows[] = {
        { "sym 128", 96, 512, 0, 0, { .bits = 4, .sym = 1, .group = 128 } },
        { "asym 64, dead", 65, 384, 3, 0, { .bits = 4, .group = 64 } },
        { "asym 32, odd end", 40, 424, 0, 0, { .bits = 4, .group = 32 } },
        { "8 bits, whole rows", 33, 264, 0, 0, { .bits = 8, .sym = 1, .group = -1 } },
        { "groups above a block", 30, 640, 0, 0, { .bits = 4, .group = 192 } },
        { "act-order", 64, 512, 2, 0, { .bits = 4, .group = 128, .act_order = 1 } },
        { "plain", 64, 256, 0, 0, { .bits = 4, .group = 128, .plain_scale = 1 } },
        { "in f64 by the host", 40, 300, 0, 1, { .bits = 4, .group = 64, .damp = 1e-9 } },
    };

    open_gpu();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const row *c = &rows[i];
        const size_t size = (size_t)(c->N * c->K) * sizeof(float);
        float *H, *dev, *W = weights(c->N, c->K), *V = need(size), *got = need(size);
        float *dW = on_gpu(W, size);
        qnt_gptq_opts o = c->o;
        qnt_gptq_result r[2];
        qnt_tensor t[3];
        double e[2], same;

        o.name = "test";
        if (c->f64)
            alike(&H, &dev, c->K);
        else
            moments(&H, &dev, c->K, 3 * c->K, c->dead);
        memcpy(V, W, size);
        T_OK(qnt_gptq_solve(&host, &t[0], V, H, c->N, c->K, &o, &r[0], &err), err);
        T_OK(qnt_gptq_solve(&gpu, &t[1], dW, dev, c->N, c->K, &o, &r[1], &err), err);
        T_INT(r[1].dead, c->dead);
        T_NEAR(r[1].damp, r[0].damp, 0);
        T_INT(r[0].f64, c->f64);
        T_INT(r[1].f64, c->f64);
        same = same_codes(&t[0], &t[1]);
        fetch(got, dW, size);
        T_OK(qnt_output_error(&host, &e[0], V, W, H, c->N, c->K, &err), err);
        T_OK(qnt_output_error(&host, &e[1], got, W, H, c->N, c->K, &err), err);
        printf("# gptq %-22s %.4f of the codes, error %.5f and %.5f\n", c->name, same, e[0], e[1]);
        if (same < 0.97)
            t_fail(__FILE__, __LINE__, "%s: %.4f of the codes are the same", c->name, same);
        T_NEAR(e[1], e[0], 0.01 * e[0]);
        T_OK(gpu.ops->put(&gpu, dW, W, size, &err), err); /* the same bits again */
        T_OK(qnt_gptq_solve(&gpu, &t[2], dW, dev, c->N, c->K, &o, &r[1], &err), err);
        T_NEAR(same_codes(&t[1], &t[2]), 1, 0);
        for (int k = 0; k < 3; k++)
            qnt_tensor_free(&t[k]);
        gpu.ops->free(&gpu, dev);
        gpu.ops->free(&gpu, dW);
        q_free(H), q_free(W), q_free(V), q_free(got);
    }
    gpu.ops->close(&gpu);
}

static void t_awq(void)
{
    static const struct {
        const char *name;
        int64_t N, K, group;
        int bits, sym;
    } rows[] = { { "sym 128", 96, 512, 128, 4, 1 },
                 { "asym 64, odd end", 300, 424, 64, 4, 0 },
                 { "8 bits, whole rows", 33, 264, -1, 8, 0 } };

    open_gpu();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const int64_t N = rows[i].N, K = rows[i].K;
        const size_t size = (size_t)(N * K) * sizeof(float), vec = (size_t)K * sizeof(double);
        const qnt_round_opts o = { .name = "test",
                                   .bits = rows[i].bits,
                                   .group = rows[i].group,
                                   .sym = rows[i].sym,
                                   .clip = 1 };
        float *H, *dev, *W = weights(N, K), *dW = on_gpu(W, size), *means = need(size);
        float *got = need(size);
        double *x = need(vec), *w[2] = { need(vec), need(vec) }, *s[2] = { need(vec), need(vec) };
        double e[2];
        qnt_awq_result r[2];
        qnt_tensor t[2];

        moments(&H, &dev, K, 3 * K, 0);
        for (int64_t k = 0; k < K; k++)
            x[k] = sqrt((double)H[k * K + k]);
        T_OK(host.ops->mean(&host, w[0], W, N, K, o.group, &err), err);
        T_OK(gpu.ops->mean(&gpu, w[1], dW, N, K, o.group, &err), err);
        for (int64_t k = 0; k < K; k++)
            T_NEAR(w[1][k], w[0][k], 1e-12);
        T_OK(qnt_awq_search(&host, s[0], W, x, w[0], H, N, K, &o, &r[0], &err), err);
        T_OK(qnt_awq_search(&gpu, s[1], dW, x, w[0], dev, N, K, &o, &r[1], &err), err);
        for (int k = 0; k < 2 * QNT_AWQ_STEPS; k++)
            T_NEAR(r[1].curve[k / QNT_AWQ_STEPS][k % QNT_AWQ_STEPS],
                   r[0].curve[k / QNT_AWQ_STEPS][k % QNT_AWQ_STEPS], 1e-4 * r[0].nearest);
        T_NEAR(r[1].alpha, r[0].alpha, 1e-9);
        T_OK(host.ops->scale_columns(&host, W, N, K, s[0], &err), err);
        T_OK(gpu.ops->scale_columns(&gpu, dW, N, K, s[0], &err), err);
        T_OK(qnt_round_groups(&host, &t[0], W, H, means, N, K, &o, &err), err);
        T_OK(qnt_nearest_error(&host, &e[0], W, H, N, K, &o, &err), err);
        T_OK(qnt_nearest_error(&gpu, &e[1], dW, dev, N, K, &o, &err), err);
        T_NEAR(e[1], e[0], 1e-4 * e[0]);
        T_OK(qnt_round_groups(&gpu, &t[1], dW, dev, dW, N, K, &o, &err), err);
        fetch(got, dW, size);
        printf("# awq %-22s %.4f of the codes, alpha %.2f\n", rows[i].name,
               same_codes(&t[0], &t[1]), r[1].alpha);
        T_TRUE(same_codes(&t[0], &t[1]) > 0.99);
        T_NEAR(distance(got, means, (size_t)(N * K)), 0, 0.01);
        T_OK(gpu.ops->put(&gpu, dW, W, size, &err), err);
        T_OK(host.ops->divide(&host, H, K, s[0], &err), err);
        T_OK(gpu.ops->divide(&gpu, dev, K, s[0], &err), err);
        T_OK(host.ops->divide_rows(&host, W, 5, K, s[0], &err), err);
        T_OK(gpu.ops->divide_rows(&gpu, dW, 5, K, s[0], &err), err);
        fetch(got, dW, size);
        T_NEAR(distance(got, W, (size_t)(N * K)), 0, 0);
        for (int k = 0; k < 2; k++) {
            qnt_tensor_free(&t[k]);
            q_free(w[k]), q_free(s[k]);
        }
        gpu.ops->free(&gpu, dev);
        gpu.ops->free(&gpu, dW);
        q_free(H), q_free(W), q_free(means), q_free(got), q_free(x);
    }
    gpu.ops->close(&gpu);
}

/* ---- speed ----------------------------------------------------------------------------------- */

static double took(double since)
{
    T_OK(op_gpu->ops->sync(op_gpu, &err), err);
    return q_now() - since;
}

/* One linear of Qwen-7B, on inputs of one step. */
static void perf(int64_t N, int64_t K)
{
    enum { TOK = 2048, TIMES = 8 };
    const qnt_gptq_opts o = { .name = "perf", .bits = 4, .sym = 1, .group = 128 };
    const qnt_round_opts ro = { .name = "perf", .bits = 4, .sym = 1, .group = 128, .clip = 1 };
    const size_t size = (size_t)(N * K) * sizeof(float), sq = (size_t)(K * K) * sizeof(float);
    float *X = inputs(TOK, K, 0), *W = weights(N, K), *dW = on_gpu(W, size);
    float *diag = need((size_t)K * sizeof *diag);
    int32_t *order = need((size_t)K * sizeof *order);
    uint16_t *h = halves(X, (size_t)(TOK * K));
    void *dx = on_gpu(h, (size_t)(TOK * K) * 2), *H = on_gpu(NULL, sq), *U = on_gpu(NULL, sq);
    void *max = on_gpu(NULL, (size_t)K * 4);
    qnt_gptq_result r;
    qnt_tensor t;
    double since, s[4];
    int ok = 0;

    T_OK(gpu.ops->gram(&gpu, H, K, dx, FMT_F16, TOK, &err), err); /* loads the kernel */
    (void)took(0);
    since = q_now();
    for (int i = 0; i < TIMES; i++)
        T_OK(gpu.ops->gram(&gpu, H, K, dx, FMT_F16, TOK, &err), err);
    s[0] = took(since) / TIMES;
    since = q_now();
    for (int i = 0; i < TIMES; i++)
        T_OK(gpu.ops->columns(&gpu, NULL, max, dx, FMT_F16, TOK, K, &err), err);
    s[1] = took(since) / TIMES;
    T_OK(gpu.ops->mirror(&gpu, H, K, &err), err);
    T_OK(gpu.ops->diagonal(&gpu, diag, H, K, &err), err);
    for (int64_t k = 0; k < K; k++) {
        order[k] = (int32_t)k;
        diag[k] *= 1.01f;
    }
    for (int i = 0; i < 2; i++) {
        T_OK(gpu.ops->arrange(&gpu, U, H, K, order, diag, &err), err);
        (void)took(0);
        since = q_now();
        T_OK(gpu.ops->factor(&gpu, U, K, &ok, &err), err);
        s[2] = took(since);
    }
    since = q_now();
    T_OK(qnt_gptq_solve(&gpu, &t, dW, H, N, K, &o, &r, &err), err);
    s[3] = took(since);
    printf("# [%5lld, %5lld] gram %.3f ms = %.0f TF, maxima %.3f ms, factor %.1f ms (ok %d), "
           "gptq with it %.1f ms\n",
           (long long)N, (long long)K, 1e3 * s[0], 1e-12 * (double)(K * K) * TOK / s[0], 1e3 * s[1],
           1e3 * s[2], ok, 1e3 * s[3]);
    qnt_tensor_free(&t);
    T_OK(gpu.ops->put(&gpu, dW, W, size, &err), err);
    since = q_now();
    T_OK(qnt_round_groups(&gpu, &t, dW, H, NULL, N, K, &ro, &err), err);
    s[0] = took(since);
    since = q_now();
    T_OK(qnt_nearest_error(&gpu, &s[2], dW, H, N, K, &ro, &err), err);
    s[1] = took(since);
    printf("# [%5lld, %5lld] rounding with clip %.1f ms, an error %.2f ms\n", (long long)N,
           (long long)K, 1e3 * s[0], 1e3 * s[1]);
    qnt_tensor_free(&t);
    gpu.ops->free(&gpu, dx);
    gpu.ops->free(&gpu, H);
    gpu.ops->free(&gpu, U);
    gpu.ops->free(&gpu, max);
    gpu.ops->free(&gpu, dW);
    q_free(X), q_free(W), q_free(diag), q_free(order), q_free(h);
}

static void t_speed(void)
{
    T_LONG();
    open_gpu();
    perf(12288, 4096);
    perf(4096, 4096);
    perf(22016, 4096);
    perf(4096, 11008);
    gpu.ops->close(&gpu);
}

static const t_case cases[] = { T(t_moments), T(t_factor), T(t_gptq), T(t_awq), T(t_speed), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
