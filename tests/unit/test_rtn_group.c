/* Rounding in groups against its formulas in double, and the storage of codes: packing, short
 * groups, g_idx, all schemes at any offset. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_half.h"
#include "formats/base/q_mem.h"
#include "quant/rtn_group.h"
#include "tests/t.h"

static uint64_t state = 1;

static float uniform(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(state >> 40) / (float)(1 << 23) - 1;
}

static q_err err;

static double as_f16(double v)
{
    return (double)q_f16_to_f32(q_f32_to_f16((float)v));
}

static int code_of(const qnt_tensor *t, int64_t n, int64_t k)
{
    const uint8_t *row = (const uint8_t *)t->codes + (size_t)n * qnt_row_bytes(t->scheme, t->K);

    if (t->scheme->bits == 8)
        return row[k];
    return k % 2 == 0 ? row[k / 2] & 15 : row[k / 2] >> 4;
}

/* one group by the formulas: scale, zero, codes */
static void check_group(const qnt_tensor *t, int64_t n, int64_t g, const float *w, int sym)
{
    const int64_t k0 = g * t->group, end = k0 + t->group < t->K ? k0 + t->group : t->K;
    const int64_t at = n * qnt_n_groups(t->scheme, t->K, t->group) + g;
    const double q = (1 << t->scheme->bits) - 1;
    double min = 0, max = 0, scale, zero, step;

    for (int64_t k = k0; k < end; k++) {
        min = fmin(min, (double)w[k]);
        max = fmax(max, (double)w[k]);
    }
    scale = as_f16(sym ? 2 * fmax(-min, max) / q : (double)(float)((float)max - (float)min) / q);
    scale = scale == 0 ? 1 : scale;
    zero = sym ? (q + 1) / 2 : fmin(fmax(-nearbyint(min / scale), 0), q);
    step = fabs((double)t->scale[at] - scale); /* a float division may fall beside the double's */
    T_TRUE(step <= scale * 0x1p-10);
    T_NEAR(t->zero[at], zero, step == 0 ? 0 : 1);
    for (int64_t k = k0; k < end; k++) {
        const double v = (double)w[k] / (double)t->scale[at] + t->zero[at];
        const double want = fmin(fmax(nearbyint(v), 0), q);

        T_NEAR(code_of(t, n, k), want, fabs(v - floor(v) - 0.5) < 1e-5 ? 1 : 0);
    }
}

static void t_formulas(void)
{
    static const struct {
        int64_t K, group;
        int bits;
    } cases[] = { { 1, 128, 4 },   { 7, 3, 4 },      { 64, 32, 4 },   { 200, 64, 8 },
                  { 512, 128, 4 }, { 513, 128, 4 },  { 1100, -1, 4 }, { 1030, 100, 8 },
                  { 33, -1, 8 },   { 1024, 1024, 4 } };
    enum { N = 12, MAX_K = 1100 };
    static float w[N * MAX_K], back[MAX_K];

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int sym = 0; sym < 2; sym++) {
            const int64_t K = cases[i].K;
            qnt_tensor t;

            T_OK(qnt_group_alloc(&t, cases[i].bits, N, K, cases[i].group, &err), err);
            for (int64_t k = 0; k < N * K; k++)
                w[k] = uniform() * (k / K == 1 ? 1e-3f : 1) + (k / K == 2 ? 0.9f : 0);
            memset(w + 3 * K, 0, (size_t)K * sizeof *w); /* row 3: zeros */
            qnt_group_fit_all(&t, w, NULL, sym);
            qnt_group_round_all(&t, w);
            T_INT(qnt_group_bad_row(&t), -1);
            for (int64_t n = 0; n < N; n++) {
                const qnt_row r = qnt_tensor_row(&t, n);

                for (int64_t g = 0; g < qnt_n_groups(t.scheme, K, t.group); g++)
                    check_group(&t, n, g, w + n * K, sym);
                t.scheme->dequantize(back, &r, 0, K);
                for (int64_t k = 0; k < K; k++) {
                    const int64_t g = k / t.group;

                    T_NEAR(back[k], (float)(code_of(&t, n, k) - r.zero[g]) * r.scale[g], 0);
                    T_NEAR(back[k], w[n * K + k], 0.51 * (double)r.scale[g] + 1e-3);
                }
            }
            T_NEAR(t.scale[3 * qnt_n_groups(t.scheme, K, t.group)], 1, 0);
            qnt_tensor_free(&t);
        }
}

/* A search may only lower the weighted error, and does where two weights are far out. */
static void t_search(void)
{
    enum { N = 128 };
    float w[N], h[N], e[N];

    for (int sym = 0; sym < 2; sym++) {
        double error[2] = { 0, 0 };

        for (int k = 0; k < N; k++) {
            w[k] = 0.1f * uniform();
            h[k] = 1 + uniform();
        }
        w[5] = 0.18f;
        w[6] = -0.18f;
        h[5] = h[6] = 0.01f; /* inputs that are nearly always zero */
        for (int searched = 0; searched < 2; searched++) {
            float scale;
            uint8_t zero;

            if (searched)
                qnt_group_search(&scale, &zero, w, h, N, 4, sym);
            else
                qnt_group_fit(&scale, &zero, w, N, 4, sym, 1);
            qnt_group_error(e, w, N, scale, zero, 4);
            for (int k = 0; k < N; k++)
                error[searched] += (double)h[k] * (double)e[k] * (double)e[k];
        }
        T_TRUE(error[1] < 0.8 * error[0]);
    }
}

/* Every offset and length gives the values of the whole row; g_idx gives any order. */
static void t_offsets(void)
{
    enum { K = 41, GROUP = 8 };
    float w[K], all[K], part[K];
    int32_t order[K];

    for (int bits = 4; bits <= 8; bits += 4)
        for (int ordered = 0; ordered < 2; ordered++) {
            qnt_tensor t;
            qnt_row r;

            T_OK(qnt_group_alloc(&t, bits, 1, K, GROUP, &err), err);
            for (int k = 0; k < K; k++) {
                w[k] = uniform();
                order[k] = (int32_t)((k * 17) % K / GROUP);
            }
            qnt_rtn_group(&t, 0, w, 0);
            r = qnt_tensor_row(&t, 0);
            r.g_idx = ordered ? order : NULL;
            t.scheme->dequantize(all, &r, 0, K);
            for (int k = 0; k < K; k++) {
                const int g = ordered ? order[k] : k / GROUP;

                T_NEAR(all[k], (float)(code_of(&t, 0, k) - t.zero[g]) * t.scale[g], 0);
            }
            for (int k0 = 0; k0 < K; k0++)
                for (int n = 0; k0 + n <= K; n++) {
                    t.scheme->dequantize(part, &r, k0, n);
                    T_TRUE(memcmp(part, all + k0, (size_t)n * sizeof *part) == 0);
                }
            qnt_tensor_free(&t);
        }
}

static void t_hostile(void)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY, 1e9f };
    float w[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    qnt_tensor t;

    for (size_t i = 0; i < 4; i++)
        for (int sym = 0; sym < 2; sym++) {
            T_OK(qnt_group_alloc(&t, 4, 2, 8, 4, &err), err);
            qnt_rtn_group(&t, 0, w, sym);
            T_INT(qnt_group_bad_row(&t), -1);
            w[5] = bad[i];
            qnt_rtn_group(&t, 1, w, sym);
            T_INT(qnt_group_bad_row(&t), 1);
            w[5] = 6;
            qnt_tensor_free(&t);
        }
    for (int sym = 0; sym < 2; sym++) { /* too small for a scale in f16: nothing, not a NaN */
        const float tiny[8] = { 1e-40f, -3e-40f, 0, 1e-38f, 1e-9f, -2e-9f, 5e-9f, 0 };
        float back[8];
        qnt_row r;

        T_OK(qnt_group_alloc(&t, 4, 1, 8, 4, &err), err);
        qnt_rtn_group(&t, 0, tiny, sym);
        T_INT(qnt_group_bad_row(&t), -1);
        r = qnt_tensor_row(&t, 0);
        t.scheme->dequantize(back, &r, 0, 8);
        for (int k = 0; k < 8; k++)
            T_NEAR(back[k], tiny[k], 6e-9);
        qnt_tensor_free(&t);
    }
    T_ERR(qnt_group_alloc(&t, 3, 2, 8, 4, &err), err, Q_EARG, "3 bits");
    T_ERR(qnt_group_alloc(&t, 4, 2, 8, 0, &err), err, Q_EARG, "groups of 0 columns");
    T_ERR(qnt_group_alloc(&t, 4, 2, 0, 4, &err), err, Q_ESHAPE, "[2, 0]");
    T_ERR(qnt_group_alloc(&t, 8, INT64_MAX / 2, 1 << 20, 4, &err), err, Q_ESHAPE, "address space");
}

static const t_case cases[] = { T(t_formulas), T(t_search), T(t_offsets), T(t_hostile), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
