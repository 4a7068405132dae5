/* smooth_search: the exponent it takes is nearly the best by the true error of the int8 product,
 * computed here in double with rounded weights and rounded tokens. */
#include "quant/smooth_search.h"

#include <math.h>
#include <string.h>

#include "formats/base/q_mem.h"
#include "tests/t.h"

enum { HID = 48, HEADS = 4, KV = 2, HD = 12, FFN = 96, TOKENS = 200 };

static const fmt_model model = {
    .hid = HID, .layers = 1, .n_head = HEADS, .n_kv = KV, .hd = HD, .ffn = FFN, .vocab = 5
};

static uint32_t state;

static double normal(void)
{
    double sum = 0;

    for (int i = 0; i < 12; i++) {
        state = state * 1664525u + 1013904223u;
        sum += (double)(state >> 8) / 16777216.0;
    }
    return sum - 6;
}

static float *values(size_t n, double size)
{
    float *v = q_malloc(n * sizeof *v);

    T_TRUE(v != NULL);
    for (size_t i = 0; i < n; i++)
        v[i] = (float)(size * normal());
    return v;
}

typedef struct fixture {
    qnt_layer l;
    qnt_ranges r;
    qnt_smooth_inputs in;
} fixture;

/* loud: a few input channels of every linear are that much larger */
static void make(fixture *f, uint32_t seed, double loud)
{
    q_err err = { 0 };

    memset(f, 0, sizeof *f);
    state = seed;
    f->in.d = qnt_dev_host();
    f->in.n = f->in.n_x = TOKENS;
    T_OK(qnt_ranges_alloc(&f->r, &model, &err), err);
    f->l.w[FMT_ATTN_NORM] = values(HID, 1);
    f->l.w[FMT_FFN_NORM] = values(HID, 1);
    for (int i = 0; i < FMT_ROLES; i++) {
        const fmt_role_row *row = fmt_role_get((fmt_role)i);
        const int64_t N = fmt_role_rows(row, &model), K = fmt_dim_size(row->cols, &model);
        float *x, *H;

        if (!row->quant)
            continue;
        f->l.w[i] = values((size_t)(N * K), 0.1);
        x = f->in.x[i] = values((size_t)(TOKENS * K), 1);
        H = f->in.H[i] = q_calloc((size_t)(K * K), sizeof *H);
        for (int64_t t = 0; t < TOKENS; t++)
            for (int64_t k = 0; k < K; k++) {
                if (k % 16 == 5)
                    x[t * K + k] *= (float)loud;
                f->r.in[i][k] = fmaxf(f->r.in[i][k], fabsf(x[t * K + k]));
            }
        for (int64_t a = 0; a < K; a++)
            for (int64_t b = 0; b < K; b++) {
                double sum = 0;

                for (int64_t t = 0; t < TOKENS; t++)
                    sum += (double)x[t * K + a] * (double)x[t * K + b];
                H[a * K + b] = (float)sum;
            }
    }
}

static void destroy(fixture *f)
{
    for (int i = 0; i < FMT_ROLES; i++) {
        q_free(f->l.w[i]);
        q_free(f->in.x[i]);
        q_free(f->in.H[i]);
    }
    qnt_ranges_free(&f->r);
}

static double rounded(double v, double max)
{
    return max > 0 ? nearbyint(v * 127 / max) * max / 127 : 0;
}

/* sum over tokens and rows of the squared difference of the int8 product with factors s */
static double true_error(const float *W, const float *x, const double *s, int64_t N, int64_t K)
{
    double *w = q_malloc((size_t)(N * K) * sizeof *w), *q = q_malloc((size_t)K * sizeof *q);
    double sum = 0;

    for (int64_t n = 0; n < N; n++) {
        double max = 0;

        for (int64_t k = 0; k < K; k++)
            max = fmax(max, fabs((double)W[n * K + k] * s[k]));
        for (int64_t k = 0; k < K; k++)
            w[n * K + k] = rounded((double)W[n * K + k] * s[k], max);
    }
    for (int64_t t = 0; t < TOKENS; t++) {
        double max = 0;

        for (int64_t k = 0; k < K; k++)
            max = fmax(max, fabs((double)x[t * K + k] / s[k]));
        for (int64_t k = 0; k < K; k++)
            q[k] = rounded((double)x[t * K + k] / s[k], max);
        for (int64_t n = 0; n < N; n++) {
            double d = 0;

            for (int64_t k = 0; k < K; k++)
                d += q[k] * w[n * K + k] - (double)x[t * K + k] * (double)W[n * K + k];
            sum += d * d;
        }
    }
    q_free(w);
    q_free(q);
    return sum;
}

/* The two linears whose weights no other one changes before they are looked at. */
static void t_nearly_best(void)
{
    static const fmt_role roles[] = { FMT_ATTN_OUT, FMT_FFN_DOWN };
    static const double loud[] = { 1, 8, 60 };
    double s[FFN];
    q_err err = { 0 };

    for (size_t i = 0; i < 6; i++) {
        const fmt_role role = roles[i % 2];
        const int64_t K = fmt_dim_size(fmt_role_get(role)->cols, &model);
        double least = INFINITY, half = 0, found;
        fixture f, g;

        make(&f, (uint32_t)i + 1, loud[i / 2]);
        make(&g, (uint32_t)i + 1, loud[i / 2]);
        for (int a = 0; a <= 20; a++) {
            double e;

            T_OK(qnt_smooth_factors(s, &g.l, &g.r, role, &model, a / 20.0, &err), err);
            e = true_error(g.l.w[role], g.in.x[role], s, HID, K);
            least = fmin(least, e);
            half = a == 10 ? e : half;
        }
        T_OK(qnt_smooth_search(&f.r, &f.l, &f.in, &model, &err), err);
        T_INT(f.r.searched, 1);
        T_TRUE(f.r.alpha[role] >= 0 && f.r.alpha[role] <= 1);
        T_OK(qnt_smooth_factors(s, &g.l, &g.r, role, &model, f.r.alpha[role], &err), err);
        found = true_error(g.l.w[role], g.in.x[role], s, HID, K);
        printf("# %s, channels x %g: alpha %.2f, error %.4g, best %.4g, of 0.5 %.4g\n",
               fmt_role_get(role)->name, loud[i / 2], f.r.alpha[role], found, least, half);
        T_TRUE(found <= 1.05 * least);
        destroy(&f);
        destroy(&g);
    }
}

/* What the search leaves behind: ranges as they were, the layer smoothed by what it chose. */
static void t_same_as_smoothing(void)
{
    q_err err = { 0 };
    fixture f, g;

    make(&f, 9, 20);
    make(&g, 9, 20);
    T_OK(qnt_smooth_search(&f.r, &f.l, &f.in, &model, &err), err);
    T_INT(memcmp(f.r.in[FMT_FFN_DOWN], g.r.in[FMT_FFN_DOWN], FFN * sizeof(float)), 0);
    T_OK(qnt_smooth_layer(&g.l, &g.r, &model, f.r.alpha, &err), err);
    for (int i = 0; i < QNT_SMOOTHED; i++) {
        const fmt_role role = qnt_smooth_order[i];
        const fmt_role_row *row = fmt_role_get(role);

        T_INT(memcmp(f.l.w[role], g.l.w[role],
                     (size_t)(fmt_role_rows(row, &model) * fmt_dim_size(row->cols, &model)) *
                         sizeof(float)),
              0);
    }
    T_INT(memcmp(f.l.w[FMT_ATTN_NORM], g.l.w[FMT_ATTN_NORM], HID * sizeof(float)), 0);
    destroy(&f);
    destroy(&g);
}

/* A negative exponent leaves a linear alone; an input that was always zero is no reason to fail. */
static void t_none_and_zero(void)
{
    double alpha[FMT_ROLES];
    q_err err = { 0 };
    fixture f, g;

    make(&f, 3, 5);
    make(&g, 3, 5);
    for (int i = 0; i < FMT_ROLES; i++)
        alpha[i] = -1;
    T_OK(qnt_smooth_layer(&f.l, &f.r, &model, alpha, &err), err);
    T_INT(memcmp(f.l.w[FMT_FFN_DOWN], g.l.w[FMT_FFN_DOWN], HID * FFN * sizeof(float)), 0);
    memset(f.in.x[FMT_FFN_DOWN], 0, TOKENS * FFN * sizeof(float));
    memset(f.in.H[FMT_FFN_DOWN], 0, FFN * FFN * sizeof(float));
    memset(f.r.in[FMT_FFN_DOWN], 0, FFN * sizeof(float));
    T_OK(qnt_smooth_search(&f.r, &f.l, &f.in, &model, &err), err);
    T_NEAR(f.r.alpha[FMT_FFN_DOWN], 0.5, 0);
    destroy(&f);
    destroy(&g);
}

static const t_case cases[] = {
    T(t_nearly_best), T(t_same_as_smoothing), T(t_none_and_zero), { 0 }
};

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
