/* Factors in double, each product rounded to f32 once: the folded layer differs from the given one
 * by half a unit in the last place of every weight.  Loops over rows or blocks of columns run in
 * parallel; maxima and element-wise products do not depend on how they are shared out.
 *
 *      norm1 --> [ q ]                                norm2 --> [ gate ]
 *       1/s      [ k ]    --> attention --> out         1/s     [ up   ] --> * silu --> down
 *                [ v ] 1/s                   s                     1/s                   s
 */
#include "quant/smooth.h"

#include <assert.h>
#include <math.h>

#include "formats/base/q_mem.h"

#define BLOCK 512 /* columns of one thread's turn: their maxima stay in the first-level cache */
#define MIN_W 1e-5
#define MIN_S 1e-5

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static q_status check_values(const float *v, int64_t n, const char *role, const char *what,
                             int64_t layer, q_err *err)
{
    for (int64_t i = 0; i < n; i++)
        if (!(v[i] >= 0 && isfinite(v[i])))
            return q_fail(err, Q_EFORMAT,
                          "ranges of layer %lld: %s of %s is %g in channel %lld, wanted a finite "
                          "magnitude: run the calibration again",
                          (long long)layer, what, role, (double)v[i], (long long)i);
    return Q_OK;
}

q_status qnt_smooth_check(const qnt_ranges *r, const fmt_model *m, int64_t layer, q_err *err)
{
    q_status st = Q_OK;

    for (int i = 0; i < FMT_ROLES; i++) {
        const fmt_role_row *role = fmt_role_get((fmt_role)i);

        if (!role->quant)
            continue;
        Q_TRY(check_values(r->in[i], fmt_dim_size(role->cols, m), role->name, "input", layer, err));
        Q_TRY(check_values(r->out[i], fmt_role_rows(role, m), role->name, "output", layer, err));
    }
    Q_TRY(check_values(r->k, m->n_kv * m->hd, "attention", "key", layer, err));
out:
    return st;
}

/* max [K] = largest magnitude of each column of w [N, K] */
static void column_absmax(float *max, const float *w, int64_t N, int64_t K)
{
#pragma omp parallel for schedule(static)
    for (int64_t k0 = 0; k0 < K; k0 += BLOCK) {
        const int64_t k1 = k0 + BLOCK < K ? k0 + BLOCK : K;

        for (int64_t k = k0; k < k1; k++)
            max[k] = 0;
        for (int64_t n = 0; n < N; n++)
            for (int64_t k = k0; k < k1; k++) {
                const float a = fabsf(w[n * K + k]);

                max[k] = a > max[k] ? a : max[k];
            }
    }
}

static double factor(double x, double w, double alpha)
{
    const double s = pow(x, alpha) / pow(w > MIN_W ? w : MIN_W, 1 - alpha);

    if (x <= 0) /* never used: nothing to smooth, and 0^0 would be 1 / w */
        return 1;
    return s > MIN_S ? s : MIN_S;
}

static float divided(float v, double s)
{
    return (float)((double)v / s);
}

/* ---- the four places ------------------------------------------------------------------------ */

/* w [N, K]: column k times s[k], its input range divided by it */
static void multiply_columns(const qnt_layer *l, const qnt_ranges *r, fmt_role role, int64_t N,
                             int64_t K, const double *s)
{
    float *w = l->w[role];

#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++)
        for (int64_t k = 0; k < K; k++)
            w[n * K + k] = (float)((double)w[n * K + k] * s[k]);
    for (int64_t k = 0; k < K; k++)
        r->in[role][k] = divided(r->in[role][k], s[k]);
}

/* row n0 + i, its bias and its output range divided by s[i] */
static void divide_rows(const qnt_layer *l, const qnt_ranges *r, fmt_role role, int64_t n0,
                        int64_t n, int64_t K, const double *s)
{
    float *bias = l->bias[role], *out = r->out[role];

#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        float *row = l->w[role] + (n0 + i) * K;

        for (int64_t k = 0; k < K; k++)
            row[k] = divided(row[k], s[i]);
        if (bias)
            bias[n0 + i] = divided(bias[n0 + i], s[i]);
        out[n0 + i] = divided(out[n0 + i], s[i]);
    }
}

/* The factors of a linear whose input comes from a norm. */
static void smooth_norm(const qnt_layer *l, const qnt_ranges *r, fmt_role role, fmt_role norm,
                        const fmt_model *m, double alpha, float *max, double *s)
{
    const int64_t N = fmt_role_rows(fmt_role_get(role), m);

    column_absmax(max, l->w[role], N, m->hid);
    for (int64_t k = 0; k < m->hid; k++)
        s[k] = factor((double)r->in[role][k], (double)max[k], alpha);
    multiply_columns(l, r, role, N, m->hid, s);
    for (int64_t k = 0; k < m->hid; k++)
        l->w[norm][k] = divided(l->w[norm][k], s[k]);
}

/* One factor per key/value head and channel: v [n_kv * hd] of them, then copied to every head. */
static void smooth_attention(const qnt_layer *l, const qnt_ranges *r, const fmt_model *m,
                             double alpha, float *max, double *s, double *v)
{
    const int64_t group = m->n_head / m->n_kv, Q = m->n_head * m->hd, KV = m->n_kv * m->hd;
    const float *in = r->in[FMT_ATTN_OUT];

    column_absmax(max, l->w[FMT_ATTN_OUT], m->hid, Q);
    for (int64_t i = 0; i < KV; i++) {
        const int64_t first = i / m->hd * group * m->hd + i % m->hd;
        float x = 0, w = 0;

        for (int64_t k = first; k < first + group * m->hd; k += m->hd) {
            x = in[k] > x ? in[k] : x;
            w = max[k] > w ? max[k] : w;
        }
        v[i] = factor((double)x, (double)w, alpha);
    }
    for (int64_t k = 0; k < Q; k++)
        s[k] = v[k / m->hd / group * m->hd + k % m->hd];
    multiply_columns(l, r, FMT_ATTN_OUT, m->hid, Q, s);
    divide_rows(l, r, FMT_ATTN_QKV, Q + KV, KV, m->hid, v);
}

static void smooth_mlp(const qnt_layer *l, const qnt_ranges *r, const fmt_model *m, double alpha,
                       float *max, double *s)
{
    column_absmax(max, l->w[FMT_FFN_DOWN], m->hid, m->ffn);
    for (int64_t k = 0; k < m->ffn; k++)
        s[k] = factor((double)r->in[FMT_FFN_DOWN][k], (double)max[k], alpha);
    multiply_columns(l, r, FMT_FFN_DOWN, m->hid, m->ffn, s);
    divide_rows(l, r, FMT_FFN_GATE_UP, m->ffn, m->ffn, m->hid, s); /* gate rows come first */
}

q_status qnt_smooth_layer(qnt_layer *l, qnt_ranges *r, const fmt_model *m, double alpha, q_err *err)
{
    q_status st = Q_OK;
    const int64_t Q = m->n_head * m->hd;
    const size_t widest = (size_t)larger(larger(m->hid, m->ffn), Q);
    float *max = q_calloc(widest, sizeof *max);
    double *s = q_calloc(widest, sizeof *s), *v = q_calloc(widest, sizeof *v);

    assert(alpha >= 0 && alpha <= 1);
    if (!max || !s || !v)
        Q_FAIL(err, Q_ENOMEM, "no memory to smooth a layer of %zu channels", widest);
    smooth_attention(l, r, m, alpha, max, s, v);
    smooth_mlp(l, r, m, alpha, max, s);
    smooth_norm(l, r, FMT_ATTN_QKV, FMT_ATTN_NORM, m, alpha, max, s);
    smooth_norm(l, r, FMT_FFN_GATE_UP, FMT_FFN_NORM, m, alpha, max, s);
out:
    q_free(max);
    q_free(s);
    q_free(v);
    return st;
}
