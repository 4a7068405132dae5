/* AWQ against brute force: the quadratic form against explicit forwards, the chosen range of every
 * group against all of them; and folding, which must not change what a layer computes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#if defined(_OPENMP)
#include <omp.h>
#endif

#include "formats/base/q_mem.h"
#include "quant/awq.h"
#include "quant/fold.h"
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

enum { N = 24, K = 96, ROWS = 150, GROUP = 32 };

typedef struct problem {
    float X[ROWS * K], W[N * K], H[K * K];
    double x[K], w[K];
} problem;

/* a few inputs are thirty times the others */
static problem *make_problem(void)
{
    problem *p = q_calloc(1, sizeof *p);

    T_TRUE(p);
    for (int i = 0; i < ROWS * K; i++)
        p->X[i] = uniform() * (i % K % 17 == 2 ? 30 : 1);
    for (int i = 0; i < N * K; i++)
        p->W[i] = uniform() + uniform();
    qnt_gram(p->H, K, p->X, ROWS);
    qnt_mirror(p->H, K);
    for (int i = 0; i < ROWS * K; i++)
        p->x[i % K] += fabs((double)p->X[i]) / ROWS;
    T_OK(dev.ops->mean(&dev, p->w, p->W, N, K, GROUP, &err), err);
    return p;
}

static void t_weight_mean(void)
{
    const float W[] = { 1, -2, 4, 0, 0, 3, 0, 0 };
    double w[4];

    T_OK(dev.ops->mean(&dev, w, W, 2, 4, 2, &err), err);
    T_NEAR(w[0], (0.5 + 0) / 2, 1e-12);
    T_NEAR(w[1], (1.0 + 1.0) / 2, 1e-12);
    T_NEAR(w[2], (1.0 + 0) / 2, 1e-12); /* a group of zeros adds nothing */
    T_NEAR(w[3], 0, 0);
}

/* |X W' - X V'|^2 / |X W'|^2, the long way */
static double forward_error(const problem *p, const double *V)
{
    double lost = 0, all = 0;

    for (int i = 0; i < ROWS; i++)
        for (int n = 0; n < N; n++) {
            double y = 0, z = 0;

            for (int k = 0; k < K; k++) {
                y += (double)p->X[i * K + k] * (double)p->W[n * K + k];
                z += (double)p->X[i * K + k] * V[n * K + k];
            }
            lost += (z - y) * (z - y);
            all += y * y;
        }
    return lost / all;
}

/* Q(W s) / s */
static void scaled(const problem *p, const double *s, int sym, double *V)
{
    qnt_tensor t;
    float row[K];

    T_OK(qnt_group_alloc(&t, 4, N, K, GROUP, &err), err);
    for (int n = 0; n < N; n++) {
        const qnt_row r = qnt_tensor_row(&t, n);

        for (int k = 0; k < K; k++)
            row[k] = (float)((double)p->W[n * K + k] * s[k]);
        qnt_rtn_group(&t, n, row, sym);
        t.scheme->dequantize(row, &r, 0, K);
        for (int k = 0; k < K; k++)
            V[n * K + k] = (double)row[k] / s[k];
    }
    qnt_tensor_free(&t);
}

static void t_search(void)
{
    for (int sym = 0; sym < 2; sym++) {
        const qnt_round_opts o = { .name = "test", .bits = 4, .group = GROUP, .sym = sym };
        problem *p = make_problem();
        double s[K], least = 1e9, plain = 0, V[N * K];
        int best = -1;
        qnt_awq_result r;

        T_OK(qnt_awq_search(&dev, s, p->W, p->x, p->w, p->H, N, K, &o, &r, &err), err);
        scaled(p, s, sym, V);
        T_NEAR(r.error, forward_error(p, V), 1e-4 * r.error);
        for (int i = 0; i < 40; i++) {
            const double a = i % 20 / 20.0;
            double all[K], min = 1e30, max = 0, e;

            for (int k = 0; k < K; k++) {
                all[k] = pow(p->x[k], a) / (i < 20 ? 1 : pow(p->w[k], 1 - a));
                min = fmin(min, all[k]);
                max = fmax(max, all[k]);
            }
            for (int k = 0; k < K; k++)
                all[k] /= sqrt(min * max);
            scaled(p, all, sym, V);
            e = forward_error(p, V);
            plain = i == 0 ? e : plain;
            if (e < least) {
                least = e;
                best = i;
            }
        }
        T_NEAR(r.alpha, best % 20 / 20.0, 1e-12);
        T_INT(r.by_weight, best >= 20);
        T_NEAR(r.nearest, plain, 1e-4 * plain);
        T_TRUE(r.alpha > 0 && r.error < 0.8 * r.nearest);
        q_free(p);
    }
}

/* What is lost with one choice, in a product of its own: M rows that are all scored. */
static double lost_alone(const float *W, const float *H, const double *x, const double *w, int i,
                         int64_t M, int64_t wide)
{
    const double a = i % QNT_AWQ_STEPS / (double)QNT_AWQ_STEPS;
    const size_t n = (size_t)(M * wide);
    double *s = q_malloc((size_t)wide * sizeof *s), *sum = q_malloc((size_t)M * sizeof *sum);
    float *E = q_malloc(n * sizeof *E), *tmp = q_malloc(n * sizeof *tmp);
    double min = 1e30, max = 0, all = 0;
    qnt_tensor t;

    T_TRUE(s && sum && E && tmp);
    T_OK(qnt_group_alloc(&t, 4, M, wide, 128, &err), err);
    for (int64_t k = 0; k < wide; k++) {
        s[k] = pow(x[k], a);
        if (i >= QNT_AWQ_STEPS)
            s[k] /= pow(w[k], 1 - a);
        min = fmin(min, s[k]);
        max = fmax(max, s[k]);
    }
    min = sqrt(min * max);
    for (int64_t k = 0; k < wide; k++)
        s[k] /= min;
    T_OK(dev.ops->scaled_error(&dev, E, W, &t, s, 0, &err), err);
    T_OK(dev.ops->quadratic(&dev, sum, E, M, H, wide, tmp, &err), err);
    for (int64_t m = 0; m < M; m++)
        all += sum[m];
    qnt_tensor_free(&t);
    q_free(s);
    q_free(sum);
    q_free(E);
    q_free(tmp);
    return all;
}

/* 1536 columns: three choices in a product, and one in the last.  The bits are those of one. */
static void t_batches(void)
{
    enum { M = 256, WIDE = 1536, SEEN = 64 };
    const qnt_round_opts o = { .name = "test", .bits = 4, .group = 128 };
    float *X = q_malloc(SEEN * WIDE * sizeof *X), *W = q_malloc(M * WIDE * sizeof *W);
    float *H = q_calloc((size_t)WIDE * WIDE, sizeof *H);
    double *x = q_calloc(WIDE, sizeof *x), *w = q_malloc(WIDE * sizeof *w);
    double *s = q_malloc(WIDE * sizeof *s), first;
    qnt_awq_result r;

    T_TRUE(X && W && H && x && w && s);
    for (int i = 0; i < SEEN * WIDE; i++)
        X[i] = uniform() * (i % WIDE % 37 == 2 ? 30 : 1);
    for (int i = 0; i < M * WIDE; i++)
        W[i] = uniform() + uniform();
    qnt_gram(H, WIDE, X, SEEN);
    qnt_mirror(H, WIDE);
    for (int i = 0; i < SEEN * WIDE; i++)
        x[i % WIDE] += fabs((double)X[i]) / SEEN;
    T_OK(dev.ops->mean(&dev, w, W, M, WIDE, 128, &err), err);
    T_OK(qnt_awq_search(&dev, s, W, x, w, H, M, WIDE, &o, &r, &err), err);
    first = lost_alone(W, H, x, w, 0, M, WIDE) / r.curve[0][0];
    for (int i = 1; i < 2 * QNT_AWQ_STEPS; i += 19) { /* in the middle and at both ends */
        const double alone = lost_alone(W, H, x, w, i, M, WIDE) / first;
        const double batch = r.curve[i / QNT_AWQ_STEPS][i % QNT_AWQ_STEPS];

        printf("# choice %d: %.17g alone, %.17g with others\n", i, alone, batch);
        T_NEAR(batch, alone, 1e-14 * alone);
    }
    q_free(X);
    q_free(W);
    q_free(H);
    q_free(x);
    q_free(w);
    q_free(s);
}

/* error of a group of a row in its block of H */
static double block_error(const problem *p, int n, int g, float scale, int zero)
{
    float e[GROUP];
    double sum = 0;

    qnt_group_error(e, p->W + n * K + g * GROUP, GROUP, scale, zero, 4);
    for (int i = 0; i < GROUP; i++)
        for (int j = 0; j < GROUP; j++)
            sum += (double)e[i] * (double)e[j] * (double)p->H[(g * GROUP + i) * K + g * GROUP + j];
    return sum;
}

static void t_clip(void)
{
    for (int sym = 0; sym < 2; sym++) {
        qnt_round_opts o = { .name = "test", .bits = 4, .group = GROUP, .sym = sym, .clip = 1 };
        problem *p = make_problem();
        qnt_tensor t;
        int narrower = 0;

        T_OK(qnt_round_groups(&dev, &t, p->W, p->H, NULL, N, K, &o, &err), err);
        for (int n = 0; n < N; n++)
            for (int g = 0; g < K / GROUP; g++) {
                const int at = n * (K / GROUP) + g;
                double least = 1e30, got = block_error(p, n, g, t.scale[at], t.zero[at]);
                float scale;
                uint8_t zero;

                for (int i = 0; i < 20; i++) {
                    qnt_group_fit(&scale, &zero, p->W + n * K + g * GROUP, GROUP, 4, sym,
                                  1 - 0.5f * (float)i / 20);
                    least = fmin(least, block_error(p, n, g, scale, zero));
                }
                T_NEAR(got, least, 1e-4 * least);
                qnt_group_fit(&scale, &zero, p->W + n * K + g * GROUP, GROUP, 4, sym, 1);
                narrower += t.scale[at] < scale;
            }
        T_TRUE(narrower > N / 4);
        qnt_tensor_free(&t);
        p->W[3 * K + 1] = INFINITY;
        T_ERR(qnt_round_groups(&dev, &t, p->W, p->H, NULL, N, K, &o, &err), err, Q_EFORMAT,
              "test: row 3 needs a scale outside the range of f16");
        q_free(p);
    }
}

static void t_threads(void)
{
    const qnt_round_opts o = { .name = "test", .bits = 4, .group = GROUP, .clip = 1 };
    problem *p = make_problem();
    qnt_tensor t[2];
    double s[2][K];
    qnt_awq_result r[2];

    for (int i = 0; i < 2; i++) {
#if defined(_OPENMP)
        omp_set_num_threads(i == 0 ? 1 : 3);
#endif
        T_OK(qnt_awq_search(&dev, s[i], p->W, p->x, p->w, p->H, N, K, &o, &r[i], &err), err);
        T_OK(qnt_round_groups(&dev, &t[i], p->W, p->H, NULL, N, K, &o, &err), err);
    }
    T_TRUE(memcmp(s[0], s[1], sizeof s[0]) == 0 && r[0].error == r[1].error);
    T_TRUE(memcmp(t[0].codes, t[1].codes, N * K / 2) == 0);
    T_TRUE(memcmp(t[0].scale, t[1].scale, N * K / GROUP * sizeof(float)) == 0);
    qnt_tensor_free(&t[0]);
    qnt_tensor_free(&t[1]);
    q_free(p);
}

/* Inputs that were always zero: one channel, then all of them.  No NaN comes of it, and where
 * nothing can be lost no factor is looked for. */
static void t_zeros(void)
{
    const qnt_round_opts o = { .name = "test", .bits = 4, .group = GROUP, .clip = 1 };
    problem *p = make_problem();
    double s[K];
    qnt_awq_result r;
    qnt_tensor t;

    for (int all = 0; all < 2; all++) {
        for (int k = 0; k < K; k++)
            for (int j = 0; j < K; j++)
                if (all || k == 5 || j == 5)
                    p->H[k * K + j] = 0;
        for (int k = 0; k < K; k++)
            p->x[k] *= !all && k != 5;
        for (int n = 0; n < N; n++) /* and weights of zero */
            p->W[n * K + 7] = 0;
        T_OK(dev.ops->mean(&dev, p->w, p->W, N, K, GROUP, &err), err);
        T_OK(qnt_awq_search(&dev, s, p->W, p->x, p->w, p->H, N, K, &o, &r, &err), err);
        for (int k = 0; k < K; k++)
            T_TRUE(isfinite(s[k]) && s[k] > 0);
        T_TRUE(all ? r.error == 0 && r.alpha == 0 : r.error > 0 && r.error < r.nearest);
        T_OK(qnt_round_groups(&dev, &t, p->W, p->H, NULL, N, K, &o, &err), err);
        for (int i = 0; i < N * K / GROUP; i++)
            T_TRUE(isfinite(t.scale[i]) && t.scale[i] > 0);
        qnt_tensor_free(&t);
    }
    q_free(p);
}

/* ---- folding --------------------------------------------------------------------------------- */

enum { HID = 20, HD = 6, HEADS = 4, FFN = 14 };

typedef struct layer_data {
    float norm1[HID], norm2[HID], qkv[(HEADS + 2 * HEADS) * HD * HID], bias[3 * HEADS * HD];
    float out[HID * HEADS * HD], gate_up[2 * FFN * HID], down[HID * FFN];
} layer_data;

static void fill(float *v, size_t n, float middle)
{
    for (size_t i = 0; i < n; i++)
        v[i] = middle + uniform();
}

/* y = what a token's attention gives when it looks at itself alone: its own v; then the MLP.  The
 * norms only multiply: that is the part of them that a fold changes. */
static void forward(const layer_data *d, const fmt_model *m, const double *x, double *qk, double *y)
{
    const int Q = HEADS * HD, KV = (int)m->n_kv * HD, group = HEADS / (int)m->n_kv;
    double v[3 * HEADS * HD], g[2 * FFN];

    for (int r = 0; r < Q + 2 * KV; r++) {
        v[r] = (double)d->bias[r];
        for (int k = 0; k < HID; k++)
            v[r] += (double)d->qkv[r * HID + k] * x[k] * (double)d->norm1[k];
        if (r < Q + KV)
            qk[r] = v[r];
    }
    for (int n = 0; n < HID; n++) {
        y[n] = 0;
        for (int k = 0; k < Q; k++)
            y[n] += (double)d->out[n * Q + k] * v[Q + KV + k / HD / group * HD + k % HD];
    }
    for (int r = 0; r < 2 * FFN; r++) {
        g[r] = 0;
        for (int k = 0; k < HID; k++)
            g[r] += (double)d->gate_up[r * HID + k] * x[k] * (double)d->norm2[k];
    }
    for (int n = 0; n < HID; n++)
        for (int k = 0; k < FFN; k++)
            y[n] += (double)d->down[n * FFN + k] * g[k] / (1 + exp(-g[k])) * g[FFN + k];
}

static void t_fold(void)
{
    static const fmt_role order[] = { FMT_ATTN_OUT, FMT_FFN_DOWN, FMT_ATTN_QKV, FMT_FFN_GATE_UP };
    static const fmt_dtype types[] = { FMT_F32, FMT_F16, FMT_BF16 };

    for (int n_kv = 1; n_kv <= HEADS; n_kv *= 2)
        for (size_t t = 0; t < 3; t++) {
            const fmt_model m = {
                .hid = HID, .n_head = HEADS, .n_kv = n_kv, .hd = HD, .ffn = FFN, .layers = 1
            };
            const int qk = (HEADS + n_kv) * HD;
            layer_data d;
            qnt_layer l = { .w = { [FMT_ATTN_NORM] = d.norm1,
                                   [FMT_FFN_NORM] = d.norm2,
                                   [FMT_ATTN_QKV] = d.qkv,
                                   [FMT_ATTN_OUT] = d.out,
                                   [FMT_FFN_GATE_UP] = d.gate_up,
                                   [FMT_FFN_DOWN] = d.down },
                            .bias = { [FMT_ATTN_QKV] = d.bias } };
            double x[HID], was[HID], is[HID], qk_was[2 * HEADS * HD], qk_is[2 * HEADS * HD];

            fill(d.norm1, HID, 2);
            fill(d.norm2, HID, 2);
            fill(d.qkv, sizeof d.qkv / 4, 0);
            fill(d.bias, sizeof d.bias / 4, 0);
            fill(d.out, sizeof d.out / 4, 0);
            fill(d.gate_up, sizeof d.gate_up / 4, 0);
            fill(d.down, sizeof d.down / 4, 0);
            for (int k = 0; k < HID; k++)
                x[k] = (double)uniform();
            d.norm1[3] = 0; /* nothing to divide: the factor becomes 1 */
            forward(&d, &m, x, qk_was, was);
            for (int i = 0; i < 4; i++) {
                double s[HEADS * HD], before[HEADS * HD];

                for (int k = 0; k < HEADS * HD; k++)
                    s[k] = exp(3 * (double)uniform());
                qnt_fold_tie(s, order[i], &m);
                memcpy(before, s, sizeof s);
                T_OK(qnt_fold(&dev, &l, order[i], s, types[t], &m, &err), err);
                for (int k = 0; k < HID && i >= 2; k++) /* as used, close to what was asked for */
                    T_TRUE(fabs(s[k] / before[k] - 1) < 0.01 || (i == 2 && k == 3 && s[k] == 1));
            }
            for (int k = 0; k < HID; k++) { /* norms can be stored as they are */
                float back;
                uint32_t raw;

                fmt_convert(&raw, types[t], &d.norm1[k], FMT_F32, 1, NULL);
                fmt_convert(&back, FMT_F32, &raw, types[t], 1, NULL);
                T_NEAR(back, d.norm1[k], 0);
            }
            forward(&d, &m, x, qk_is, is);
            for (int n = 0; n < HID; n++)
                T_NEAR(is[n], was[n], 1e-5 * (1 + fabs(was[n])));
            for (int n = 0; n < qk; n++)
                T_NEAR(qk_is[n], qk_was[n], 1e-5 * (1 + fabs(qk_was[n])));
        }
}

static const t_case cases[] = { T(t_weight_mean), T(t_search), T(t_batches), T(t_clip),
                                T(t_threads),     T(t_zeros),  T(t_fold),    { 0 } };

int main(int argc, char **argv)
{
    qnt_linalg_init();
    dev = qnt_dev_host();
    return t_main(argc, argv, cases);
}
