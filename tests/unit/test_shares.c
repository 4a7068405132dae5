/* Shares of samples: which samples are whose, and second moments as the tree of eight shares that
 * ranks can have branches of; against sums of the shares added up here. */
#include <math.h>
#include <string.h>

#include "calibrate/obs_gram.h"
#include "formats/base/q_mem.h"
#include "quant/linalg.h"
#include "tests/t.h"

static void t_shares_of_samples(void)
{
    for (size_t n = 1; n < 40; n++) {
        const cal_data d = { .n = n };
        size_t seen = 0;

        T_INT(cal_share_begin(&d, 0), 0);
        T_INT(cal_share_begin(&d, CAL_SHARES), n);
        for (int s = 0; s < CAL_SHARES; s++) {
            const size_t a = cal_share_begin(&d, s), b = cal_share_begin(&d, s + 1);

            T_TRUE(b >= a && b - a <= n / CAL_SHARES + 1);
            for (size_t i = a; i < b; i++, seen++)
                T_INT(cal_share_end(&d, i), b);
        }
        T_INT(seen, n);
        for (int ranks = 2; ranks <= CAL_SHARES; ranks *= 2) /* a rank has a sample if there are */
            for (int r = 0; r < ranks && (size_t)ranks <= n; r++)
                T_TRUE(cal_share_begin(&d, r * CAL_SHARES / ranks) <
                       cal_share_begin(&d, (r + 1) * CAL_SHARES / ranks));
    }
}

enum { HID = 24, FFN = 40, ROWS = 5 }; /* ROWS of a step */

static const fmt_model model = {
    .layers = 1, .hid = HID, .n_head = 3, .n_kv = 3, .hd = 8, .ffn = FFN
};

static float value(int share, int64_t i)
{
    const uint32_t h = ((uint32_t)i * 2654435761u) ^ ((uint32_t)share * 977u + 40503u);

    return ((float)(h >> 8 & 0xffff) - 30000) / (float)(1 + (h & 1023));
}

/* Leaves and their tree, made here. */
static void naive(float *H, double *sum, int first, int n)
{
    static float X[2][ROWS * FFN]; /* deeper levels are done with it */
    float *right;
    double *right_sum;

    memset(H, 0, FFN * FFN * sizeof *H);
    memset(sum, 0, FFN * sizeof *sum);
    if (n == 1) {
        for (int step = 0; step < 2; step++) {
            for (int64_t i = 0; i < ROWS * FFN; i++) {
                X[step][i] = value(first, i + step * 1000);
                sum[i % FFN] += fabs((double)X[step][i]);
            }
            qnt_gram(H, FFN, X[step], ROWS);
        }
        return;
    }
    right = q_malloc(FFN * FFN * sizeof *right);
    right_sum = q_malloc(FFN * sizeof *right_sum);
    T_TRUE(right && right_sum);
    naive(H, sum, first, n / 2);
    naive(right, right_sum, first + n / 2, n / 2);
    for (int64_t i = 0; i < FFN * FFN; i++)
        H[i] += right[i];
    for (int64_t k = 0; k < FFN; k++)
        sum[k] += right_sum[k];
    q_free(right);
    q_free(right_sum);
}

static void see(cal_gram *g, int share)
{
    float X[ROWS * FFN];
    q_err err = { 0 };

    for (int step = 0; step < 2; step++) {
        for (int64_t i = 0; i < ROWS * FFN; i++)
            X[i] = value(share, i + step * 1000);
        T_OK(
            cal_gram_see(
                g,
                &(cal_view){ .point = CAL_FFN_MID, .x = X, .type = FMT_F32, .n = ROWS, .dim = FFN },
                &err),
            err);
    }
}

/* What an archive keeps of it, against all values in turn in f64. */
static void check_copy(const cal_gram *g, int shares)
{
    q_err err = { 0 };
    float *most = NULL, *diag = NULL;
    double worst = 0;

    T_OK(cal_gram_copy(g, FMT_FFN_DOWN, &most, &diag, &err), err);
    for (int64_t k = 0; k < FFN; k++) {
        double largest = 0, sum = 0, off;

        for (int s = 0; s < shares; s++)
            for (int64_t i = 0; i < 2 * ROWS; i++) {
                const double x = (double)value(s, i / ROWS * 1000 + i % ROWS * FFN + k);

                largest = fabs(x) > largest ? fabs(x) : largest;
                sum += x * x;
            }
        T_NEAR(most[k], largest, 0);
        off = fabs((double)diag[k] * 2 * ROWS * shares / sum - 1);
        worst = off > worst ? off : worst;
    }
    printf("# %d shares: mean squares differ by %.1e at most\n", shares, worst);
    T_TRUE(worst < 1e-6); /* f32 sums of up to 80 values, one way round */
    q_free(most);
    q_free(diag);
}

static void t_tree(void)
{
    static float H[FFN * FFN];
    const uint32_t points = CAL_BIT(CAL_FFN_MID);
    double sum[FFN];
    q_err err = { 0 };
    cal_gram g;

    T_OK(cal_gram_open(&g, &model, qnt_dev_host(), NULL, &err), err);
    for (int shares = 1; shares <= CAL_SHARES; shares *= 2) {
        int64_t chained = 0;

        for (int s = 0; s < shares; s++) {
            see(&g, s);
            T_OK(cal_gram_share(&g, points, s + 1, shares, &err), err);
        }
        T_TRUE(g.waiting == NULL);
        T_OK(cal_gram_end(&g, points, 0, &err), err);
        check_copy(&g, shares);
        naive(H, sum, 0, shares);
        T_INT(g.n[FMT_FFN_DOWN], 2 * ROWS * shares);
        for (int64_t i = 0; i < FFN; i++) {
            T_TRUE(g.x[FMT_FFN_DOWN][i] == sum[i] / (2 * ROWS * shares));
            for (int64_t k = i; k < FFN; k++) {
                T_TRUE(g.H[FMT_FFN_DOWN][i * FFN + k] == H[i * FFN + k]);
                T_TRUE(g.H[FMT_FFN_DOWN][k * FFN + i] == H[i * FFN + k]);
            }
        }
        T_OK(cal_gram_begin(&g, points, &err), err);
        for (int s = 0; s < shares; s++) /* all in one: other bits, so the tree is seen */
            see(&g, s);
        for (int64_t i = 0; i < FFN * FFN; i++)
            chained += i % FFN >= i / FFN && g.H[FMT_FFN_DOWN][i] != H[i];
        printf("# %d shares: %lld of %d sums differ from those in a row\n", shares,
               (long long)chained, FFN * (FFN + 1) / 2);
        T_TRUE(shares == 1 ? chained == 0 : chained > 0);
        T_OK(cal_gram_begin(&g, points, &err), err);
    }
    T_TRUE(cal_gram_waiting_bytes(&model) ==
           3 * 4 * (3 * (uint64_t)HID * (HID + 1) / 2 + FFN * (FFN + 1) / 2));
    cal_gram_close(&g);
}

static const t_case cases[] = { T(t_shares_of_samples), T(t_tree), { 0 } };

int main(int argc, char **argv)
{
    qnt_linalg_init();
    return t_main(argc, argv, cases);
}
