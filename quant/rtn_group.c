/* Rounding in groups.  Codes are made one byte each in a buffer on the stack, a stretch of columns
 * at a time, and packed from there.
 *
 * Rounding half to even without a library call: adding 1.5 * 2^23 to a float leaves no bits behind
 * the point, and the addition itself rounds half to even.  The value is clamped before, which gives
 * the same code because the bounds are integers, and keeps NaN and huge values harmless.
 *
 * The search narrows the range: large weights are clipped so that the many small ones get finer
 * steps.  The error is weighted by the second moment of each column's input, because that is what
 * the output sees. */
#include "quant/rtn_group.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "formats/base/q_half.h"
#include "formats/base/q_mem.h"
#include "quant/rtn.h"

#define STRETCH   512 /* codes on the stack, an even number */
#define N_STEPS   20
#define RATIO_MIN 0.6f

q_status qnt_group_shape(qnt_tensor *t, int bits, int64_t N, int64_t K, int64_t group, q_err *err)
{
    q_status st = Q_OK;
    size_t n;

    memset(t, 0, sizeof *t);
    t->scheme = qnt_scheme_grouped(bits);
    if (!t->scheme)
        Q_FAIL(err, Q_EARG, "%d bits for codes in groups: wanted 4 or 8", bits);
    if (group != -1 && group < 1)
        Q_FAIL(err, Q_EARG, "groups of %lld columns: wanted 1 or more, or -1 for all",
               (long long)group);
    if (N < 1 || K < 1 || K > INT32_MAX || !q_mul_ok((size_t)N, (size_t)K * sizeof(float), &n))
        Q_FAIL(err, Q_ESHAPE, "weight [%lld, %lld] exceeds the address space", (long long)N,
               (long long)K);
    t->N = N;
    t->K = K;
    t->group = group == -1 || group > K ? K : group;
out:
    return st;
}

q_status qnt_group_alloc(qnt_tensor *t, int bits, int64_t N, int64_t K, int64_t group, q_err *err)
{
    q_status st = Q_OK;
    size_t groups;

    Q_TRY(qnt_group_shape(t, bits, N, K, group, err));
    groups = (size_t)(N * qnt_n_groups(t->scheme, K, t->group));
    t->codes = q_calloc((size_t)N, qnt_row_bytes(t->scheme, K));
    t->scale = q_calloc(groups, sizeof *t->scale);
    t->zero = q_calloc(groups, 1);
    if (!t->codes || !t->scale || !t->zero)
        Q_FAIL(err, Q_ENOMEM, "no memory for the codes of [%lld, %lld]", (long long)N,
               (long long)K);
out:
    if (st != Q_OK)
        qnt_tensor_free(t);
    return st;
}

static inline float round_even(float v) /* |v| <= 2^22 */
{
    return (v + 0x1.8p23f) - 0x1.8p23f;
}

static inline float clamp(float v, float lo, float hi)
{
    v = v > lo ? v : lo; /* NaN becomes lo */
    return v < hi ? v : hi;
}

static float stored(float scale)
{
    const float s = q_f16_to_f32(q_f32_to_f16(scale));

    return s == 0 ? 1.0f : s; /* NaN and infinity stay */
}

void qnt_group_fit(float *scale, uint8_t *zero, const float *w, int64_t n, int bits, int sym,
                   float ratio)
{
    const float q = (float)((1 << bits) - 1), largest = qnt_absmax(w, n);
    float min = 0, max = 0;

    if (sym || !isfinite(largest)) {
        *scale = stored(2 * ratio * largest / q);
        *zero = (uint8_t)(1 << (bits - 1));
        return;
    }
    for (int64_t k = 0; k < n; k++) {
        min = w[k] < min ? w[k] : min;
        max = w[k] > max ? w[k] : max;
    }
    *scale = stored((max - min) * ratio / q);
    *zero = (uint8_t)clamp(round_even(clamp(-(min * ratio) / *scale, 0, q)), 0, q);
}

/* sum of h (w' - w)^2, in sixteen partial sums that any compiler puts into vectors */
static float group_error(const float *w, const float *h, int64_t n, float scale, int zero, int bits)
{
    enum { LANES = 16 };
    const float lo = (float)-zero, hi = (float)((1 << bits) - 1 - zero);
    float acc[LANES] = { 0 }, sum = 0;
    int64_t k = 0;

    for (; k + LANES <= n; k += LANES)
        for (int l = 0; l < LANES; l++) {
            const float e = round_even(clamp(w[k + l] / scale, lo, hi)) * scale - w[k + l];

            acc[l] += h[k + l] * e * e;
        }
    for (int l = 0; k < n; k++, l++) {
        const float e = round_even(clamp(w[k] / scale, lo, hi)) * scale - w[k];

        acc[l] += h[k] * e * e;
    }
    for (int l = 0; l < LANES; l++)
        sum += acc[l];
    return sum;
}

void qnt_group_search(float *scale, uint8_t *zero, const float *w, const float *h, int64_t n,
                      int bits, int sym)
{
    float best = INFINITY;

    qnt_group_fit(scale, zero, w, n, bits, sym, 1);
    for (int i = 0; i < N_STEPS; i++) {
        const float ratio = 1 - (1 - RATIO_MIN) * (float)i / N_STEPS;
        float s, error;
        uint8_t z;

        qnt_group_fit(&s, &z, w, n, bits, sym, ratio);
        error = group_error(w, h, n, s, z, bits);
        if (error < best) {
            best = error;
            *scale = s;
            *zero = z;
        }
    }
}

void qnt_group_codes(uint8_t *codes, const float *w, int64_t n, float scale, int zero, int bits)
{
    const float lo = (float)-zero, hi = (float)((1 << bits) - 1 - zero);

    for (int64_t k = 0; k < n; k++)
        codes[k] = (uint8_t)((int)round_even(clamp(w[k] / scale, lo, hi)) + zero);
}

void qnt_group_error(float *e, const float *w, int64_t n, float scale, int zero, int bits)
{
    const float lo = (float)-zero, hi = (float)((1 << bits) - 1 - zero);

    for (int64_t k = 0; k < n; k++)
        e[k] = round_even(clamp(w[k] / scale, lo, hi)) * scale - w[k];
}

/* n codes from column k0 on, which is even */
static void pack(qnt_tensor *t, int64_t row, int64_t k0, const uint8_t *codes, int64_t n)
{
    uint8_t *to = (uint8_t *)t->codes + (size_t)row * qnt_row_bytes(t->scheme, t->K);

    if (t->scheme->bits == 8) {
        memcpy(to + k0, codes, (size_t)n);
        return;
    }
    to += k0 / 2;
    for (int64_t i = 0; i < n / 2; i++)
        to[i] = (uint8_t)(codes[2 * i] | codes[2 * i + 1] << 4);
    if (n % 2 != 0)
        to[n / 2] = codes[n - 1];
}

void qnt_group_pack(qnt_tensor *t, int64_t n, const uint8_t *codes)
{
    pack(t, n, 0, codes, t->K);
}

static void fit_row(qnt_tensor *t, int64_t n, const float *row, const float *h, int sym)
{
    const int64_t groups = qnt_n_groups(t->scheme, t->K, t->group);
    float *scale = t->scale + n * groups;
    uint8_t *zero = t->zero + n * groups;

    for (int64_t g = 0; g < groups; g++) {
        const int64_t k = g * t->group, left = t->K - k, size = left < t->group ? left : t->group;

        if (h)
            qnt_group_search(&scale[g], &zero[g], row + k, h + k, size, t->scheme->bits, sym);
        else
            qnt_group_fit(&scale[g], &zero[g], row + k, size, t->scheme->bits, sym, 1);
    }
}

static void round_row(qnt_tensor *t, int64_t n, const float *row)
{
    const int64_t at = n * qnt_n_groups(t->scheme, t->K, t->group);
    uint8_t codes[STRETCH];

    for (int64_t k0 = 0; k0 < t->K; k0 += STRETCH) {
        const int64_t end = t->K - k0 < STRETCH ? t->K : k0 + STRETCH;
        int64_t next;

        for (int64_t k = k0; k < end; k = next) {
            const int64_t g = k / t->group;

            next = (g + 1) * t->group < end ? (g + 1) * t->group : end;
            qnt_group_codes(codes + (k - k0), row + k, next - k, t->scale[at + g], t->zero[at + g],
                            t->scheme->bits);
        }
        pack(t, n, k0, codes, end - k0);
    }
}

void qnt_rtn_group(qnt_tensor *t, int64_t n, const float *row, int sym)
{
    fit_row(t, n, row, NULL, sym);
    round_row(t, n, row);
}

void qnt_group_fit_all(qnt_tensor *t, const float *w, const float *h, int sym)
{
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < t->N; n++)
        fit_row(t, n, w + n * t->K, h, sym);
}

void qnt_group_round_all(qnt_tensor *t, const float *w)
{
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < t->N; n++)
        round_row(t, n, w + n * t->K);
}

int64_t qnt_group_bad_row(const qnt_tensor *t)
{
    const int64_t groups = qnt_n_groups(t->scheme, t->K, t->group);

    for (int64_t i = 0; i < t->N * groups; i++)
        if (!isfinite(t->scale[i]))
            return i / groups;
    return -1;
}
