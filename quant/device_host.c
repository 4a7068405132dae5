/* The arithmetic of quantization on the host: OpenBLAS below (linalg.h), OpenMP's threads, and the
 * rows of rtn_group.h.  Memory of the device is host memory.  Sums over rows and columns have a
 * fixed order, so nothing depends on the number of threads. */
#include "quant/device.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "formats/base/q_half.h"
#include "formats/base/q_mem.h"
#include "quant/columns_host.h"
#include "quant/fold.h"
#include "quant/linalg.h"
#include "quant/rtn.h"
#include "quant/rtn_group.h"

#define STRIPE     256 /* columns of one thread at a time */
#define CLIP_STEPS 20
#define CLIP_MIN   0.5f
#define STRIP      64 /* rows of one thread's turn */

/* ---- memory ---------------------------------------------------------------------------------- */

static void close_host(qnt_dev *d)
{
    *d = (qnt_dev){ 0 };
}

static q_status alloc_host(const qnt_dev *d, size_t bytes, void **out, q_err *err)
{
    (void)d;
    *out = q_malloc(bytes ? bytes : 1);
    return *out ? Q_OK : q_fail(err, Q_ENOMEM, "no memory for %zu bytes", bytes);
}

static void free_host(const qnt_dev *d, void *p)
{
    (void)d;
    q_free(p);
}

static q_status copy_host(const qnt_dev *d, void *dst, const void *src, size_t bytes, q_err *err)
{
    (void)d, (void)err;
    memcpy(dst, src, bytes);
    return Q_OK;
}

static q_status clear_host(const qnt_dev *d, void *p, size_t bytes, q_err *err)
{
    (void)d, (void)err;
    memset(p, 0, bytes);
    return Q_OK;
}

/* ---- inputs seen ----------------------------------------------------------------------------- */

static q_status gram_host(const qnt_dev *d, float *H, int64_t K, const void *X, fmt_dtype type,
                          int64_t n, q_err *err)
{
    (void)d, (void)err, (void)type;
    assert(type == FMT_F32); /* what activations on the host are */
    qnt_gram(H, K, X, n);
    return Q_OK;
}

/* Bit patterns of magnitudes order like the magnitudes, what is not finite last. */
static void stripe(double *sum, float *max, const float *x, int64_t n, int64_t dim, int64_t width)
{
    uint32_t m[STRIPE];

    for (int64_t k = 0; k < width; k++)
        m[k] = q_f32_to_bits(max[k]);
    for (int64_t i = 0; i < n; i++) {
        const float *row = x + i * dim;

        for (int64_t k = 0; k < width; k++) {
            const uint32_t a = q_f32_to_bits(row[k]) & 0x7fffffffu;

            m[k] = a > m[k] ? a : m[k];
        }
        for (int64_t k = 0; sum && k < width; k++)
            sum[k] += fabs((double)row[k]);
    }
    for (int64_t k = 0; k < width; k++)
        max[k] = q_bits_to_f32(m[k]);
}

static q_status columns_host(const qnt_dev *d, double *sum, float *max, const void *X,
                             fmt_dtype type, int64_t n, int64_t K, q_err *err)
{
    (void)d, (void)err, (void)type;
    assert(type == FMT_F32);
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < K; k += STRIPE)
        stripe(sum ? sum + k : NULL, max + k, (const float *)X + k, n, K,
               K - k < STRIPE ? K - k : STRIPE);
    return Q_OK;
}

/* ---- second moments -------------------------------------------------------------------------- */

/* Row i of a packed triangle holds columns i .. K - 1. */
static size_t packed_row(int64_t i, int64_t K)
{
    return (size_t)(i * K - i * (i - 1) / 2);
}

static q_status triangle_host(const qnt_dev *d, float *P, const float *H, int64_t K, q_err *err)
{
    (void)d, (void)err;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < K; i++)
        memcpy(P + packed_row(i, K), H + i * K + i, (size_t)(K - i) * sizeof *P);
    return Q_OK;
}

static q_status add_triangle_host(const qnt_dev *d, float *H, const float *P, int64_t K, q_err *err)
{
    (void)d, (void)err;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < K; i++) {
        const float *row = P + packed_row(i, K);

        for (int64_t k = i; k < K; k++)
            H[i * K + k] += row[k - i];
    }
    return Q_OK;
}

static q_status mirror_host(const qnt_dev *d, float *H, int64_t K, q_err *err)
{
    (void)d, (void)err;
    qnt_mirror(H, K);
    return Q_OK;
}

static q_status divide_host(const qnt_dev *d, float *H, int64_t K, const double *s, q_err *err)
{
    (void)d, (void)err;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < K; i++)
        for (int64_t j = 0; j < K; j++)
            H[i * K + j] = (float)((double)H[i * K + j] / (s[i] * s[j]));
    return Q_OK;
}

static q_status diagonal_host(const qnt_dev *d, float *host, const float *H, int64_t K, q_err *err)
{
    (void)d, (void)err;
    for (int64_t k = 0; k < K; k++)
        host[k] = H[k * K + k];
    return Q_OK;
}

static q_status arrange_host(const qnt_dev *d, float *U, const float *H, int64_t K,
                             const int32_t *order, const float *diag, q_err *err)
{
    (void)d, (void)err;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < K; i++) {
        const float *row = H + order[i] * K;

        for (int64_t j = i; j < K; j++)
            U[i * K + j] = row[order[j]];
        U[i * K + i] = diag[i];
    }
    return Q_OK;
}

static q_status factor_host(const qnt_dev *d, float *H, int64_t K, int *ok, q_err *err)
{
    (void)d;
    return qnt_factor(H, K, ok, err);
}

static q_status quadratic_host(const qnt_dev *d, double *out, const float *E, int64_t M,
                               const float *H, int64_t K, float *tmp, q_err *err)
{
    (void)d, (void)err;
    qnt_quadratic(out, E, M, H, K, tmp);
    return Q_OK;
}

/* ---- weights --------------------------------------------------------------------------------- */

static q_status scale_columns_host(const qnt_dev *d, float *W, int64_t N, int64_t K,
                                   const double *s, q_err *err)
{
    (void)d, (void)err;
    qnt_fold_columns(W, N, K, s);
    return Q_OK;
}

static q_status divide_rows_host(const qnt_dev *d, float *W, int64_t N, int64_t K, const double *s,
                                 q_err *err)
{
    (void)d, (void)err;
    qnt_fold_rows(W, NULL, N, K, s);
    return Q_OK;
}

static q_status subtract_host(const qnt_dev *d, float *A, const float *B, int64_t n, q_err *err)
{
    (void)d, (void)err;
    for (int64_t i = 0; i < n; i++)
        A[i] -= B[i];
    return Q_OK;
}

static q_status mean_host(const qnt_dev *d, double *w, const float *W, int64_t N, int64_t K,
                          int64_t group, q_err *err)
{
    const int64_t size = group < 1 || group > K ? K : group;
    float *max = q_malloc((size_t)N * sizeof *max);

    (void)d;
    if (!max)
        return q_fail(err, Q_ENOMEM, "no memory for %lld rows", (long long)N);
    for (int64_t k0 = 0; k0 < K; k0 += size) {
        const int64_t end = K - k0 < size ? K : k0 + size;

        for (int64_t n = 0; n < N; n++)
            max[n] = qnt_absmax(W + n * K + k0, end - k0);
        for (int64_t k = k0; k < end; k++)
            w[k] = 0;
        for (int64_t n = 0; n < N; n++)
            for (int64_t k = k0; k < end && max[n] > 0; k++)
                w[k] += fabs((double)W[n * K + k]) / ((double)max[n] * (double)N);
    }
    q_free(max);
    return Q_OK;
}

/* ---- codes ----------------------------------------------------------------------------------- */

static q_status fit_host(const qnt_dev *d, qnt_tensor *t, const float *W, const qnt_group_opts *o,
                         q_err *err)
{
    (void)d, (void)err;
    qnt_group_fit_all(t, W, o->h, o->sym);
    return Q_OK;
}

static q_status round_host(const qnt_dev *d, qnt_tensor *t, const float *W, q_err *err)
{
    (void)d, (void)err;
    qnt_group_round_all(t, W);
    return Q_OK;
}

static q_status means_host(const qnt_dev *d, float *W, const qnt_tensor *t, q_err *err)
{
    (void)d, (void)err;
    qnt_tensor_rows(W, t, 0, t->N);
    return Q_OK;
}

static q_status scaled_error_host(const qnt_dev *d, float *E, const float *W, qnt_tensor *t,
                                  const double *s, int sym, q_err *err)
{
    const int64_t K = t->K;

    (void)d, (void)err;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < t->N; i++) {
        float *e = E + i * K;
        const float *w = W + i * K;
        const qnt_row row = qnt_tensor_row(t, i);

        for (int64_t k = 0; k < K; k++)
            e[k] = s ? (float)((double)w[k] * s[k]) : w[k];
        qnt_rtn_group(t, i, e, sym);
        t->scheme->dequantize(e, &row, 0, K);
        for (int64_t k = 0; k < K; k++)
            e[k] = (s ? (float)((double)e[k] / s[k]) : e[k]) - w[k];
    }
    return Q_OK;
}

static q_status solve_host(const qnt_dev *d, const qnt_columns *a, q_err *err)
{
    (void)d;
    return qnt_columns_host(a) ? Q_OK : q_fail(err, Q_ENOMEM, "no memory for strips of rows");
}

/* ---- ranges by H ----------------------------------------------------------------------------- */

typedef struct clip_strip {
    float *e, *tmp; /* [STRIP, group] */
    double sum[STRIP], least[STRIP];
} clip_strip;

/* Rows n0 .. n0 + n - 1 of one group: every ratio, the best is kept. */
static void clip_group(qnt_tensor *t, const float *W, const float *H, int64_t n0, int64_t n,
                       int64_t g, int sym, clip_strip *p)
{
    const int64_t K = t->K, k0 = g * t->group, groups = qnt_n_groups(t->scheme, K, t->group);
    const int64_t size = K - k0 < t->group ? K - k0 : t->group;

    for (int64_t r = 0; r < n; r++)
        p->least[r] = INFINITY;
    for (int i = 0; i < CLIP_STEPS; i++) {
        const float ratio = 1 - (1 - CLIP_MIN) * (float)i / CLIP_STEPS;
        float scale[STRIP];
        uint8_t zero[STRIP];

        for (int64_t r = 0; r < n; r++) {
            const float *w = W + (n0 + r) * K + k0;

            qnt_group_fit(&scale[r], &zero[r], w, size, t->scheme->bits, sym, ratio);
            qnt_group_error(p->e + r * size, w, size, scale[r], zero[r], t->scheme->bits);
        }
        /* H of this group only: rows K apart */
        qnt_gemm_nt(n, size, size, p->e, size, H + k0 * K + k0, K, 0, p->tmp, size);
        for (int64_t r = 0; r < n; r++) {
            double sum = 0;

            for (int64_t k = 0; k < size; k++)
                sum += (double)p->e[r * size + k] * (double)p->tmp[r * size + k];
            if (sum < p->least[r]) {
                p->least[r] = sum;
                t->scale[(n0 + r) * groups + g] = scale[r];
                t->zero[(n0 + r) * groups + g] = zero[r];
            }
        }
    }
}

/* 0: out of memory */
static int clip_all(qnt_tensor *t, const float *W, const float *H, int sym)
{
    const int64_t groups = qnt_n_groups(t->scheme, t->K, t->group);
    int ok = 1;

#pragma omp parallel reduction(&& : ok)
    {
        clip_strip p = { .e = q_malloc((size_t)(STRIP * t->group) * sizeof *p.e),
                         .tmp = q_malloc((size_t)(STRIP * t->group) * sizeof *p.tmp) };

        ok = p.e && p.tmp;
#pragma omp for schedule(dynamic, 1)
        for (int64_t n0 = 0; n0 < t->N; n0 += STRIP)
            for (int64_t g = 0; ok && g < groups; g++)
                clip_group(t, W, H, n0, t->N - n0 < STRIP ? t->N - n0 : STRIP, g, sym, &p);
        q_free(p.e);
        q_free(p.tmp);
    }
    return ok;
}

static q_status clip_host(const qnt_dev *d, qnt_tensor *t, const float *W, const float *H, int sym,
                          q_err *err)
{
    (void)d;
    return clip_all(t, W, H, sym) ? Q_OK : q_fail(err, Q_ENOMEM, "no memory for ranges of groups");
}

qnt_dev qnt_dev_host(void)
{
    static const qnt_dev_ops ops = {
        .name = "host",
        .close = close_host,
        .alloc = alloc_host,
        .free = free_host,
        .put = copy_host,
        .get = copy_host,
        .copy = copy_host,
        .clear = clear_host,
        .gram = gram_host,
        .columns = columns_host,
        .triangle = triangle_host,
        .add_triangle = add_triangle_host,
        .mirror = mirror_host,
        .divide = divide_host,
        .diagonal = diagonal_host,
        .arrange = arrange_host,
        .factor = factor_host,
        .quadratic = quadratic_host,
        .scale_columns = scale_columns_host,
        .divide_rows = divide_rows_host,
        .subtract = subtract_host,
        .mean = mean_host,
        .fit = fit_host,
        .clip = clip_host,
        .round = round_host,
        .means = means_host,
        .scaled_error = scaled_error_host,
        .solve = solve_host,
    };

    return (qnt_dev){ .ops = &ops };
}
