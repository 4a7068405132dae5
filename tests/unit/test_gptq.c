/* GPTQ against a naive solver in double without blocks, and its promises: damping, dead inputs,
 * threads, messages.  Also the factorization under it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#if defined(_OPENMP)
#include <omp.h>
#endif

#include "formats/base/q_mem.h"
#include "quant/awq.h"
#include "quant/gptq.h"
#include "quant/linalg.h"
#include "quant/rtn_group.h"
#include "tests/t.h"

static uint64_t state = 1;

static float uniform(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(state >> 40) / (float)(1 << 23) - 1;
}

static q_err err;
static qnt_dev dev;

static void threads(int n)
{
#if defined(_OPENMP)
    omp_set_num_threads(n);
#else
    (void)n;
#endif
}

static void *need(size_t n)
{
    void *p = q_calloc(n, 1);

    T_TRUE(p);
    return p;
}

/* Second moments of correlated inputs; a few channels are ten times the others. */
static float *moments(int64_t K, int64_t rows, int dead)
{
    float *X = need((size_t)(rows * K) * sizeof *X), *H = need((size_t)(K * K) * sizeof *H);

    for (int64_t i = 0; i < rows; i++) {
        const float common = uniform();

        for (int64_t k = 0; k < K; k++)
            X[i * K + k] = (uniform() + common) * (k % 29 == 3 ? 10 : 1) * (k < dead ? 0 : 1);
    }
    qnt_gram(H, K, X, rows);
    qnt_mirror(H, K);
    q_free(X);
    return H;
}

static float *weights(int64_t N, int64_t K)
{
    float *w = need((size_t)(N * K) * sizeof *w);

    for (int64_t i = 0; i < N * K; i++)
        w[i] = 0.05f * (uniform() + uniform() + uniform());
    return w;
}

/* ---- the naive solver ------------------------------------------------------------------------ */

/* upper U with inverse(H) = U'U: invert by elimination, then Cholesky */
static void naive_factor(double *U, const double *H, int64_t K)
{
    double *a = need((size_t)(K * 2 * K) * sizeof *a);

    for (int64_t i = 0; i < K; i++) {
        memcpy(a + i * 2 * K, H + i * K, (size_t)K * sizeof *a);
        a[i * 2 * K + K + i] = 1;
    }
    for (int64_t i = 0; i < K; i++) {
        const double p = a[i * 2 * K + i];

        for (int64_t j = 0; j < 2 * K; j++)
            a[i * 2 * K + j] /= p;
        for (int64_t r = 0; r < K; r++) {
            const double f = a[r * 2 * K + i];

            for (int64_t j = i; r != i && f != 0 && j < 2 * K; j++)
                a[r * 2 * K + j] -= f * a[i * 2 * K + j];
        }
    }
    for (int64_t i = 0; i < K; i++)
        for (int64_t j = i; j < K; j++) {
            double s = a[i * 2 * K + K + j];

            for (int64_t m = 0; m < i; m++)
                s -= U[m * K + i] * U[m * K + j];
            U[i * K + j] = i == j ? sqrt(s) : s / U[i * K + i];
        }
    q_free(a);
}

static void naive_fit(const qnt_gptq_opts *o, const float *diag, const double *w, int64_t k0,
                      int64_t n, float *scale, uint8_t *zero)
{
    float now[512];

    for (int64_t k = 0; k < n; k++)
        now[k] = (float)w[k0 + k];
    if (o->plain_scale)
        qnt_group_fit(scale, zero, now, n, o->bits, o->sym, 1);
    else
        qnt_group_search(scale, zero, now, diag + k0, n, o->bits, o->sym);
}

static void naive_row(const qnt_gptq_opts *o, const double *U, const int64_t *order,
                      const float *diag, double *w, int64_t K, uint8_t *codes)
{
    const int64_t group = o->group < 0 ? K : o->group;
    const int fixed = o->act_order || o->static_scale;
    float scale[512];
    uint8_t zero[512];

    for (int64_t k = 0; fixed && k < K; k += group)
        naive_fit(o, diag, w, k, K - k < group ? K - k : group, &scale[k / group],
                  &zero[k / group]);
    for (int64_t i = 0; i < K; i++) {
        const int64_t k = order[i], g = k / group;
        double v, e;

        if (!fixed && k % group == 0)
            naive_fit(o, diag, w, k, K - k < group ? K - k : group, &scale[g], &zero[g]);
        v = nearbyint(w[k] / (double)scale[g]) + zero[g];
        v = fmin(fmax(v, 0), (1 << o->bits) - 1);
        codes[k] = (uint8_t)v;
        e = (w[k] - (v - zero[g]) * (double)scale[g]) / U[i * K + i];
        for (int64_t j = i + 1; j < K; j++)
            w[order[j]] -= e * U[i * K + j];
    }
}

/* Share of codes that are the same; damp as it was used. */
static double agreement(const qnt_tensor *t, const float *W, const float *H, const qnt_gptq_opts *o,
                        double damp)
{
    const int64_t N = t->N, K = t->K;
    double *Hp = need((size_t)(K * K) * sizeof *Hp), *U = need((size_t)(K * K) * sizeof *U),
           mean = 0;
    double *w = need((size_t)K * sizeof *w);
    int64_t *order = need((size_t)K * sizeof *order), same = 0;
    float *diag = need((size_t)K * sizeof *diag);
    uint8_t *codes = need((size_t)K);

    for (int64_t k = 0; k < K; k++) {
        diag[k] = H[k * K + k];
        mean += (diag[k] == 0 ? 1 : (double)diag[k]) / (double)K;
        order[k] = k;
    }
    for (int64_t i = 1; o->act_order && i < K; i++) /* insertion: stable */
        for (int64_t j = i; j > 0 && diag[order[j]] > diag[order[j - 1]]; j--) {
            const int64_t x = order[j];

            order[j] = order[j - 1];
            order[j - 1] = x;
        }
    for (int64_t i = 0; i < K; i++)
        for (int64_t j = 0; j < K; j++) {
            Hp[i * K + j] = (double)H[order[i] * K + order[j]];
            if (i == j)
                Hp[i * K + j] = (diag[order[i]] == 0 ? 1 : Hp[i * K + j]) + damp * mean;
        }
    naive_factor(U, Hp, K);
    for (int64_t n = 0; n < N; n++) {
        const uint8_t *row = (const uint8_t *)t->codes + (size_t)n * qnt_row_bytes(t->scheme, K);

        for (int64_t k = 0; k < K; k++)
            w[k] = diag[k] == 0 ? 0 : (double)W[n * K + k];
        naive_row(o, U, order, diag, w, K, codes);
        for (int64_t k = 0; k < K; k++)
            same += codes[k] == (o->bits == 8 ? row[k] : row[k / 2] >> (k % 2 * 4) & 15);
    }
    q_free(Hp);
    q_free(U);
    q_free(w);
    q_free(order);
    q_free(diag);
    q_free(codes);
    return (double)same / (double)(N * K);
}

static void t_naive(void)
{
    static const struct {
        int64_t N, K;
        int dead;
        qnt_gptq_opts o;
    } rows[] = {
        { 3, 5, 0, { .bits = 4, .group = 128, .sym = 1 } },
        { 70, 96, 0, { .bits = 4, .group = 32, .sym = 1 } },
        { 40, 200, 0, { .bits = 4, .group = 64 } },
        { 65, 300, 0, { .bits = 4, .group = 128, .sym = 1 } },
        { 20, 300, 0, { .bits = 4, .group = -1 } },
        { 20, 280, 0, { .bits = 4, .group = 200, .sym = 1 } },
        { 20, 150, 0, { .bits = 4, .group = 48 } },
        { 64, 256, 0, { .bits = 4, .group = 64, .sym = 1, .act_order = 1 } },
        { 30, 170, 0, { .bits = 4, .group = 128, .act_order = 1 } },
        { 30, 256, 0, { .bits = 4, .group = 128, .static_scale = 1, .plain_scale = 1 } },
        { 20, 256, 0, { .bits = 8, .group = 128, .plain_scale = 1, .sym = 1 } },
        { 20, 130, 7, { .bits = 4, .group = 64, .sym = 1 } },
        { 20, 130, 7, { .bits = 8, .group = 64, .act_order = 1 } },
        { 20, 130, 130, { .bits = 4, .group = 64, .sym = 1 } }, /* no input at all */
        { 20, 130, 130, { .bits = 4, .group = 64, .act_order = 1 } },
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const int64_t N = rows[i].N, K = rows[i].K;
        qnt_gptq_opts o = rows[i].o;
        float *H = moments(K, 4 * K, rows[i].dead), *W = weights(N, K);
        float *V = need((size_t)(N * K) * sizeof *V), *back = need((size_t)(N * K) * sizeof *back);
        qnt_gptq_result r;
        qnt_tensor t;
        double share;

        o.name = "test";
        memcpy(V, W, (size_t)(N * K) * sizeof *V);
        T_OK(qnt_gptq_solve(&dev, &t, V, H, N, K, &o, &r, &err), err);
        T_NEAR(r.damp, 0.01, 0);
        T_INT(r.dead, rows[i].dead);
        T_INT(r.f64, 0);
        share = agreement(&t, W, H, &o, r.damp);
        if (share < 0.999)
            t_fail(__FILE__, __LINE__, "row %zu: %.4f of the codes agree", i, share);
        qnt_tensor_rows(back, &t, 0, N);
        T_TRUE(memcmp(back, V, (size_t)(N * K) * sizeof *V) == 0); /* V is what codes mean */
        for (int64_t k = 0; k < rows[i].dead; k++)
            T_NEAR(V[k], 0, 0);
        q_free(H);
        q_free(W);
        q_free(V);
        q_free(back);
        qnt_tensor_free(&t);
    }
}

/* It must be worth it, by the measure it minimises. */
static void t_better_than_nearest(void)
{
    enum { N = 64, K = 256 };
    const qnt_round_opts ro = { .name = "test", .bits = 4, .group = 64 };
    float *H = moments(K, 300, 0), *W = weights(N, K), *V = weights(N, K);
    qnt_tensor t;
    qnt_gptq_result r;
    double nearest, error;

    T_OK(qnt_round_groups(&dev, &t, W, NULL, NULL, N, K, &ro, &err), err);
    qnt_tensor_rows(V, &t, 0, N);
    T_OK(qnt_output_error(&dev, &nearest, V, W, H, N, K, &err), err);
    qnt_tensor_free(&t);
    memcpy(V, W, N * K * sizeof *V);
    T_OK(qnt_gptq_solve(&dev, &t, V, H, N, K,
                        &(qnt_gptq_opts){ .name = "test", .bits = 4, .group = 64 }, &r, &err),
         err);
    T_OK(qnt_output_error(&dev, &error, V, W, H, N, K, &err), err);
    T_TRUE(error > 0 && error < 0.6 * nearest);
    T_OK(qnt_output_error(&dev, &error, W, W, H, N, K, &err), err);
    T_NEAR(error, 0, 0);
    qnt_tensor_free(&t);
    q_free(H);
    q_free(W);
    q_free(V);
}

static void t_threads(void)
{
    enum { N = 300, K = 600 };
    float *W = weights(N, K), *first = NULL;
    qnt_tensor t[3];

    for (int i = 0; i < 3; i++) {
        float *V = need(N * K * sizeof *V), *H;
        qnt_gptq_result r;

        threads(i == 0 ? 1 : i == 1 ? 3 : 2);
        state = 77;
        H = moments(K, 700, 0);
        memcpy(V, W, N * K * sizeof *V);
        T_OK(qnt_gptq_solve(&dev, &t[i], V, H, N, K,
                            &(qnt_gptq_opts){ .name = "t", .bits = 4, .group = 128, .sym = 1 }, &r,
                            &err),
             err);
        if (!first)
            first = V;
        T_TRUE(memcmp(first, V, N * K * sizeof *V) == 0);
        T_TRUE(memcmp(t[0].codes, t[i].codes, N * K / 2) == 0);
        T_TRUE(memcmp(t[0].scale, t[i].scale, N * 5 * sizeof(float)) == 0);
        if (V != first)
            q_free(V);
        q_free(H);
    }
    for (int i = 0; i < 3; i++)
        qnt_tensor_free(&t[i]);
    q_free(first);
    q_free(W);
}

/* Fewer rows than inputs and next to no damping: raised until it works. */
static void t_damping(void)
{
    enum { N = 8, K = 300 };
    const qnt_gptq_opts o = { .name = "thin", .bits = 4, .group = 64, .damp = 1e-9 };
    float *H = moments(K, 20, 0), *W = weights(N, K);
    qnt_gptq_result r;
    qnt_tensor t;

    T_OK(qnt_gptq_solve(&dev, &t, W, H, N, K, &o, &r, &err), err);
    T_TRUE(r.damp > 5e-9 && r.damp < 1e-2);
    for (int64_t i = 0; i < N * K; i++)
        T_TRUE(isfinite(W[i]));
    qnt_tensor_free(&t);
    for (int64_t i = 0; i < K; i++) /* no damping makes this one definite */
        for (int64_t j = 0; j < K; j++)
            H[i * K + j] = i == j ? 1 : 5000;
    T_ERR(qnt_gptq_solve(&dev, &t, W, H, N, K, &o, &r, &err), err, Q_EFAIL,
          "thin: the second moments of its 300 inputs cannot be factored");
    T_TRUE(!t.codes);
    q_free(H);
    q_free(W);
}

/* v v' + own on the diagonal, whole numbers below 2^24, which f32 has exactly: inputs that are all
 * but the same.  Behind the first column own is left (and a little more); rounding in f32 leaves an
 * error of about 1 in every cell instead, whose least eigenvalue is some -sqrt(K).  So f32 fails
 * with own 1, in any order of sums, and f64, with errors of 1e-9, does not. */
static float *alike(int64_t K, float own)
{
    float *H = need((size_t)(K * K) * sizeof *H), *v = need((size_t)K * sizeof *v);

    for (int64_t k = 0; k < K; k++)
        v[k] = copysignf(floorf(3071 + 1024 * uniform()), uniform());
    for (int64_t i = 0; i < K; i++)
        for (int64_t j = 0; j < K; j++)
            H[i * K + j] = v[i] * v[j] + (i == j ? own : 0);
    q_free(v);
    return H;
}

/* What f32 cannot factor: f64 with the damping asked for, and more only where that fails too. */
static void t_f64(void)
{
    static const struct {
        int64_t N, K;
        float own;
        double damp, most, least; /* asked for; used: at most; codes that agree: at least */
        qnt_gptq_opts o;
    } rows[] = {
        { 40, 200, 1, 1e-9, 1e-9, 0.999, { .bits = 4, .group = 64, .sym = 1 } },
        { 20, 300, 1, 1e-9, 1e-9, 0.999, { .bits = 4, .group = 128 } },
        { 20, 257, 1, 1e-9, 1e-9, 0.999, { .bits = 8, .group = 64, .act_order = 1 } },
        { 20, 300, 0, 1e-9, 1e-9, 0.999, { .bits = 4, .group = 64 } },  /* damping alone */
        { 20, 300, 0, 1e-20, 1e-11, 0.95, { .bits = 4, .group = 64 } }, /* also for f64 */
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const int64_t N = rows[i].N, K = rows[i].K;
        qnt_gptq_opts o = rows[i].o;
        float *H = alike(K, rows[i].own), *W = weights(N, K);
        float *V = need((size_t)(N * K) * sizeof *V), *U = need((size_t)(K * K) * sizeof *U);
        qnt_gptq_result r;
        qnt_tensor t;
        double share;
        int ok;

        memcpy(U, H, (size_t)(K * K) * sizeof *U);
        T_OK(qnt_factor(U, K, &ok, &err), err);
        T_INT(ok, 0);
        o.name = "alike";
        o.damp = rows[i].damp;
        memcpy(V, W, (size_t)(N * K) * sizeof *V);
        T_OK(qnt_gptq_solve(&dev, &t, V, H, N, K, &o, &r, &err), err);
        share = agreement(&t, W, H, &o, r.damp);
        printf("# row %zu: damping %g, used %g, %.4f of the codes agree\n", i, o.damp, r.damp,
               share);
        T_INT(r.f64, 1);
        T_TRUE(r.damp <= rows[i].most * 1.001);
        T_TRUE((r.damp > 2 * o.damp) == (rows[i].most > o.damp));
        T_TRUE(share >= rows[i].least); /* the last is at the end of the naive one's digits too */
        q_free(H);
        q_free(W);
        q_free(V);
        q_free(U);
        qnt_tensor_free(&t);
    }
}

static void t_refused(void)
{
    enum { N = 4, K = 16 };
    static volatile sig_atomic_t stop = 1;
    qnt_gptq_opts o = { .name = "layer 3, attn_out", .bits = 4, .group = 8 };
    float *H = moments(K, 40, 0), *W = weights(N, K), *copy = need(N * K * sizeof *copy);
    qnt_gptq_result r;
    qnt_tensor t;

    memcpy(copy, W, N * K * sizeof *copy);
    H[5 * K + 5] = NAN;
    T_ERR(qnt_gptq_solve(&dev, &t, W, H, N, K, &o, &r, &err), err, Q_EFORMAT,
          "layer 3, attn_out: the second moment of input 5 is");
    H[5 * K + 5] = -1;
    T_ERR(qnt_gptq_solve(&dev, &t, W, H, N, K, &o, &r, &err), err, Q_EFORMAT, "input 5 is -1");
    H[5 * K + 5] = 40;
    H[3 * K + 7] = H[7 * K + 3] = INFINITY;
    T_ERR(qnt_gptq_solve(&dev, &t, W, H, N, K, &o, &r, &err), err, Q_EFORMAT,
          "layer 3, attn_out: the second moment of inputs 3 and 7 is inf");
    T_TRUE(!t.codes);
    q_free(H);
    H = moments(K, 40, 0);
    W[2 * K + 3] = 1e9f;
    T_ERR(qnt_gptq_solve(&dev, &t, W, H, N, K, &o, &r, &err), err, Q_EFORMAT,
          "layer 3, attn_out: row 2 needs a scale outside the range of f16");
    memcpy(W, copy, N * K * sizeof *copy);
    o.stop = &stop;
    T_ERR(qnt_gptq_solve(&dev, &t, W, H, N, K, &o, &r, &err), err, Q_ECANCEL, "stopped");
    o.bits = 5;
    T_ERR(qnt_gptq_solve(&dev, &t, W, H, N, K, &o, &r, &err), err, Q_EARG, "5 bits");
    q_free(H);
    q_free(W);
    q_free(copy);
}

/* U H U' = 1, as far as f32 (or f64) goes; nothing below the diagonal. */
static void check_factor(const double *U, const float *H, int64_t K, double bound)
{
    for (int64_t a = 0; a < K; a += 1 + K / 20)
        for (int64_t b = 0; b < K; b += 1 + K / 20) {
            double s = 0;

            for (int64_t j = a; j < K; j++)
                for (int64_t k = b; k < K; k++)
                    s += U[a * K + j] * (double)H[j * K + k] * U[b * K + k];
            T_NEAR(s, a == b, bound);
            T_TRUE(b >= a || U[a * K + b] == 0);
        }
}

static void widen(double *out, const float *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (double)v[i];
}

/* around the size of a tile */
static void t_factor(void)
{
    static const int64_t sizes[] = { 1, 2, 17, 255, 256, 257, 530 };

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const int64_t K = sizes[i];
        const size_t n = (size_t)(K * K);
        float *H = moments(K, 2 * K + 10, 0), *U = need(n * sizeof *U);
        double *D = need(n * sizeof *D);
        int ok;

        for (int64_t k = 0; k < K; k++)
            H[k * K + k] *= 1.1f;
        memcpy(U, H, n * sizeof *U);
        T_OK(qnt_factor(U, K, &ok, &err), err);
        T_INT(ok, 1);
        widen(D, U, n);
        check_factor(D, H, K, 1e-4);
        widen(D, H, n);
        T_OK(qnt_factor_f64(D, K, &ok, &err), err);
        T_INT(ok, 1);
        check_factor(D, H, K, 1e-11);
        H[n - 1] = K > 1 ? -1 : NAN;
        widen(D, H, n);
        T_OK(qnt_factor_f64(D, K, &ok, &err), err);
        T_INT(ok, 0);
        T_OK(qnt_factor(H, K, &ok, &err), err);
        T_INT(ok, 0);
        q_free(H);
        q_free(U);
        q_free(D);
    }
}

static const t_case cases[] = { T(t_naive),   T(t_better_than_nearest),
                                T(t_threads), T(t_damping),
                                T(t_f64),     T(t_refused),
                                T(t_factor),  { 0 } };

int main(int argc, char **argv)
{
    qnt_linalg_init();
    dev = qnt_dev_host();
    return t_main(argc, argv, cases);
}
