/* smooth: a folded layer computes what the given one computes, its ranges are those that would be
 * measured, and every factor is the formula's. */
#include <math.h>
#include <string.h>

#include "formats/base/q_mem.h"
#include "quant/smooth.h"
#include "tests/t.h"

enum { HID = 10, HEADS = 4, KV = 2, HD = 3, FFN = 14, TOKENS = 5, QKV = (HEADS + 2 * KV) * HD };

static const fmt_model model = {
    .hid = HID, .layers = 1, .n_head = HEADS, .n_kv = KV, .hd = HD, .ffn = FFN, .vocab = 5
};

static uint32_t state;

static float uniform(void)
{
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / 8388608.0f - 1.0f;
}

static float *random_values(size_t n, float size)
{
    float *v = q_malloc(n * sizeof *v);

    T_TRUE(v != NULL);
    for (size_t i = 0; i < n; i++)
        v[i] = size * uniform();
    return v;
}

static void make_layer(qnt_layer *l, uint32_t seed)
{
    memset(l, 0, sizeof *l);
    state = seed;
    l->w[FMT_ATTN_NORM] = random_values(HID, 1);
    l->w[FMT_FFN_NORM] = random_values(HID, 3);
    l->w[FMT_ATTN_QKV] = random_values(QKV * HID, 0.5f);
    l->bias[FMT_ATTN_QKV] = random_values(QKV, 2);
    l->w[FMT_ATTN_OUT] = random_values(HID * HEADS * HD, 0.3f);
    l->w[FMT_FFN_GATE_UP] = random_values(2 * FFN * HID, 0.4f);
    l->w[FMT_FFN_DOWN] = random_values(HID * FFN, 0.2f);
    for (int n = 0; n < QKV;
         n++) /* two input channels that stand out, and one that is hardly read */
        l->w[FMT_ATTN_QKV][n * HID + 3] *= 1e-4f;
    l->w[FMT_ATTN_NORM][7] *= 40;
    l->w[FMT_FFN_NORM][2] *= 300;
}

static void free_layer(qnt_layer *l)
{
    for (int r = 0; r < FMT_ROLES; r++) {
        q_free(l->w[r]);
        q_free(l->bias[r]);
    }
}

static void see(float *max, const double *v, int n)
{
    for (int i = 0; i < n; i++)
        max[i] = fabs(v[i]) > (double)max[i] ? (float)fabs(v[i]) : max[i];
}

static void linear(double *y, const double *x, const qnt_layer *l, fmt_role role, int N, int K,
                   qnt_ranges *r)
{
    for (int n = 0; n < N; n++) {
        y[n] = l->bias[role] ? (double)l->bias[role][n] : 0;
        for (int k = 0; k < K; k++)
            y[n] += (double)l->w[role][n * K + k] * x[k];
    }
    see(r->in[role], x, K);
    see(r->out[role], y, N);
}

static void norm(double *y, const double *x, const float *w)
{
    double sum = 0;

    for (int i = 0; i < HID; i++)
        sum += x[i] * x[i];
    for (int i = 0; i < HID; i++)
        y[i] = x[i] / sqrt(sum / HID + 1e-6) * (double)w[i];
}

/* att [HEADS, HD] of token t over the tokens up to it */
static void attention(double *att, double qkv[TOKENS][QKV], int t)
{
    for (int h = 0; h < HEADS; h++) {
        const int k0 = (HEADS + h / (HEADS / KV)) * HD, v0 = k0 + KV * HD;
        double p[TOKENS], sum = 0;

        for (int s = 0; s <= t; s++) {
            double dot = 0;

            for (int c = 0; c < HD; c++)
                dot += qkv[t][h * HD + c] * qkv[s][k0 + c];
            sum += p[s] = exp(dot / sqrt(HD));
        }
        for (int c = 0; c < HD; c++) {
            att[h * HD + c] = 0;
            for (int s = 0; s <= t; s++)
                att[h * HD + c] += p[s] / sum * qkv[s][v0 + c];
        }
    }
}

/* The layer in double on TOKENS rows, and what it shows of ranges. */
static void forward(double y[TOKENS][HID], const qnt_layer *l, qnt_ranges *r)
{
    double qkv[TOKENS][QKV], x[TOKENS][HID], in[HID], att[HEADS * HD], h[2 * FFN], out[HID];

    state = 99;
    for (int t = 0; t < TOKENS; t++)
        for (int i = 0; i < HID; i++)
            x[t][i] = 3 * (double)uniform();
    for (int t = 0; t < TOKENS; t++) {
        norm(in, x[t], l->w[FMT_ATTN_NORM]);
        linear(qkv[t], in, l, FMT_ATTN_QKV, QKV, HID, r);
        see(r->k, qkv[t] + HEADS * HD, KV * HD);
        attention(att, qkv, t);
        linear(out, att, l, FMT_ATTN_OUT, HID, HEADS * HD, r);
        for (int i = 0; i < HID; i++)
            y[t][i] = x[t][i] + out[i];
        norm(in, y[t], l->w[FMT_FFN_NORM]);
        linear(h, in, l, FMT_FFN_GATE_UP, 2 * FFN, HID, r);
        for (int i = 0; i < FFN; i++)
            h[i] = h[i] / (1 + exp(-h[i])) * h[FFN + i];
        linear(out, h, l, FMT_FFN_DOWN, HID, FFN, r);
        for (int i = 0; i < HID; i++)
            y[t][i] += out[i];
    }
}

static void near_all(const float *a, const float *b, int n, const char *what)
{
    for (int i = 0; i < n; i++)
        if (fabs((double)a[i] - (double)b[i]) > 1e-5 * fabs((double)b[i]) + 1e-9)
            t_fail(__FILE__, __LINE__, "%s, channel %d: %g, measured %g", what, i, (double)a[i],
                   (double)b[i]);
}

static void t_same_layer(void)
{
    static const double alphas[] = { 0, 0.3, 0.5, 0.85, 1 };
    static const int in[] = { [FMT_ATTN_QKV] = HID,
                              [FMT_ATTN_OUT] = HEADS * HD,
                              [FMT_FFN_GATE_UP] = HID,
                              [FMT_FFN_DOWN] = FFN };
    static const int out[] = { [FMT_ATTN_QKV] = QKV,
                               [FMT_ATTN_OUT] = HID,
                               [FMT_FFN_GATE_UP] = 2 * FFN,
                               [FMT_FFN_DOWN] = HID };
    q_err err = { 0 };

    for (size_t a = 0; a < 5; a++) {
        double before[TOKENS][HID], after[TOKENS][HID], alpha[FMT_ROLES], size = 0, diff = 0;
        qnt_layer l;
        qnt_ranges r, seen;

        make_layer(&l, (uint32_t)a + 1);
        T_OK(qnt_ranges_alloc(&r, &model, &err), err);
        T_OK(qnt_ranges_alloc(&seen, &model, &err), err);
        forward(before, &l, &r);
        T_OK(qnt_smooth_check(&r, &model, 0, &err), err);
        for (int i = 0; i < FMT_ROLES; i++)
            alpha[i] = alphas[a];
        T_OK(qnt_smooth_layer(&l, &r, &model, alpha, &err), err);
        forward(after, &l, &seen);
        for (int t = 0; t < TOKENS; t++)
            for (int i = 0; i < HID; i++) {
                size = fmax(size, fabs(before[t][i]));
                diff = fmax(diff, fabs(before[t][i] - after[t][i]));
            }
        printf("# alpha %g: relative difference %.2g\n", alphas[a], diff / size);
        T_TRUE(diff > 0 && diff <= 1e-6 * size);
        for (int i = 0; i < FMT_ROLES; i++)
            if (fmt_role_get((fmt_role)i)->quant) {
                near_all(r.in[i], seen.in[i], in[i], fmt_role_get((fmt_role)i)->name);
                near_all(r.out[i], seen.out[i], out[i], fmt_role_get((fmt_role)i)->name);
            }
        near_all(r.k, seen.k, KV * HD, "k");
        free_layer(&l);
        qnt_ranges_free(&r);
        qnt_ranges_free(&seen);
    }
}

static double want_factor(double x, double w, double alpha)
{
    if (x == 0.0)
        return 1;
    return fmax(pow(x, alpha) / pow(fmax(w, 1e-5), 1 - alpha), 1e-5);
}

/* largest magnitude of column k of rows n0 .. n1-1 */
static double column(const float *w, int n0, int n1, int K, int k)
{
    double m = 0;

    for (int n = n0; n < n1; n++)
        m = fmax(m, fabs((double)w[n * K + k]));
    return m;
}

/* The factors, read off what was divided and multiplied. */
static void t_factors(void)
{
    const double a = 0.5, alpha[FMT_ROLES] = {
        [FMT_ATTN_QKV] = a, [FMT_ATTN_OUT] = a, [FMT_FFN_GATE_UP] = a, [FMT_FFN_DOWN] = a
    };
    q_err err = { 0 };
    qnt_layer l, old;
    qnt_ranges r;

    make_layer(&l, 11);
    make_layer(&old, 11);
    T_OK(qnt_ranges_alloc(&r, &model, &err), err);
    for (int k = 0; k < HID; k++) {
        r.in[FMT_ATTN_QKV][k] = k == 4 ? 0 : 0.1f * (float)(1 + k * k); /* 4 is dead */
        r.in[FMT_FFN_GATE_UP][k] = k == 5 ? 1e-20f : 2;                 /* s of 5 has a bound */
    }
    for (int k = 0; k < HEADS * HD; k++)
        r.in[FMT_ATTN_OUT][k] = 1.0f / (float)(1 + k);
    for (int k = 0; k < FFN; k++)
        r.in[FMT_FFN_DOWN][k] = k == 0 ? 0 : 100;
    for (int n = 0; n < HID; n++)
        l.w[FMT_FFN_DOWN][n * FFN + 1] = old.w[FMT_FFN_DOWN][n * FFN + 1] = 0; /* never read */
    T_OK(qnt_smooth_layer(&l, &r, &model, alpha, &err), err);

    for (int g = 0; g < KV; g++)
        for (int c = 0; c < HD; c++) {
            const int k0 = 2 * g * HD + c, k1 = k0 + HD; /* the two heads of the group */
            const float *w = old.w[FMT_ATTN_OUT];
            const double x = 1.0 / (1 + k0);
            const double s = want_factor(
                x, fmax(column(w, 0, HID, HEADS * HD, k0), column(w, 0, HID, HEADS * HD, k1)), a);
            const int row = (HEADS + KV + g) * HD + c;

            T_NEAR(l.w[FMT_ATTN_OUT][k0] / w[k0], s, 1e-6 * s);
            T_NEAR(l.w[FMT_ATTN_OUT][5 * HEADS * HD + k1] / w[5 * HEADS * HD + k1], s, 1e-6 * s);
            T_NEAR(old.bias[FMT_ATTN_QKV][row] / l.bias[FMT_ATTN_QKV][row], s, 1e-6 * s);
            T_NEAR(r.in[FMT_ATTN_OUT][k1], 1 / (double)(1 + k1) / s, 1e-6 / s);
            for (int k = 0; k < HID; k++) /* the v rows, before they get the factor of the norm */
                old.w[FMT_ATTN_QKV][row * HID + k] =
                    (float)((double)old.w[FMT_ATTN_QKV][row * HID + k] / s);
        }
    for (int k = 0; k < FFN; k++) {
        const double s =
            want_factor(k == 0 ? 0 : 100, column(old.w[FMT_FFN_DOWN], 0, HID, FFN, k), a);

        T_NEAR(l.w[FMT_FFN_DOWN][FFN + k], (double)old.w[FMT_FFN_DOWN][FFN + k] * s, 1e-6 * s);
        if (k == 1)
            T_NEAR(s, sqrt(100 / 1e-5), 1e-6);
        for (int i = 0; i < HID; i++)
            old.w[FMT_FFN_GATE_UP][(FFN + k) * HID + i] =
                (float)((double)old.w[FMT_FFN_GATE_UP][(FFN + k) * HID + i] / s);
    }
    for (int k = 0; k < HID; k++) {
        const double x = k == 4 ? 0 : (double)(0.1f * (float)(1 + k * k));
        const double s1 = want_factor(x, column(old.w[FMT_ATTN_QKV], 0, QKV, HID, k), a);
        const double s2 = want_factor(k == 5 ? (double)1e-20f : 2,
                                      column(old.w[FMT_FFN_GATE_UP], 0, 2 * FFN, HID, k), a);

        T_NEAR(old.w[FMT_ATTN_NORM][k] / l.w[FMT_ATTN_NORM][k], s1, 1e-6 * s1);
        T_NEAR(old.w[FMT_FFN_NORM][k] / l.w[FMT_FFN_NORM][k], s2, 1e-6 * s2);
        for (int n = 0; n < QKV; n++)
            T_NEAR(l.w[FMT_ATTN_QKV][n * HID + k], (double)old.w[FMT_ATTN_QKV][n * HID + k] * s1,
                   1e-6 * fabs((double)l.w[FMT_ATTN_QKV][n * HID + k]) + 1e-30);
        if (k == 4)
            T_NEAR(s1, 1, 0);
        if (k == 5)
            T_NEAR(s2, 1e-5, 1e-12);
    }
    free_layer(&l);
    free_layer(&old);
    qnt_ranges_free(&r);
}

static void t_check(void)
{
    static const float bad[] = { NAN, INFINITY, -1 };
    q_err err = { 0 };
    qnt_ranges r;

    T_OK(qnt_ranges_alloc(&r, &model, &err), err);
    T_OK(qnt_smooth_check(&r, &model, 3, &err), err);
    for (int i = 0; i < 3; i++) {
        r.in[FMT_FFN_DOWN][FFN - 1] = bad[i];
        T_ERR(qnt_smooth_check(&r, &model, 3, &err), err, Q_EFORMAT,
              "ranges of layer 3: input of ffn_down is ");
        r.in[FMT_FFN_DOWN][FFN - 1] = 0;
        r.out[FMT_ATTN_QKV][QKV - 1] = bad[i];
        T_ERR(qnt_smooth_check(&r, &model, 3, &err), err, Q_EFORMAT, "output of attn_qkv is ");
        r.out[FMT_ATTN_QKV][QKV - 1] = 0;
        r.k[KV * HD - 1] = bad[i];
        T_ERR(qnt_smooth_check(&r, &model, 3, &err), err, Q_EFORMAT,
              "in channel 5, wanted a finite magnitude: run the calibration again");
        r.k[KV * HD - 1] = 0;
    }
    qnt_ranges_free(&r);
}

static const t_case cases[] = { T(t_same_layer), T(t_factors), T(t_check), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
