/* Conversion with smoothing: every file of a directory against a second computation, one value at a
 * time in double from the layout notes, and what is read back of them. */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "convert/verify.h"
#include "formats/base/q_half.h"
#include "quant/load.h"
#include "tests/t.h"
#include "tests/t_convert.h"

static const tiny_hf tiny = {
    .hid = 24, .layers = 2, .heads = 4, .ffn = 20, .vocab = 37, .dtype = FMT_BF16
};

/* ---- one smoothed layer, naively --------------------------------------------------------------
 */

enum { QKV, DENSE, UP, GATE, DOWN, NAMES }; /* the linears as files have them */

typedef struct ref {
    const fmt_model *m;
    int64_t H, I, Q, KV; /* hid, ffn, query and key/value width */
    int T;
    fmt_dtype store;
    double alpha;
    float *norm[2], *bias;
    float *w[NAMES];           /* [N, K] */
    double x[NAMES], y[NAMES]; /* largest input and output */
    double *max[NAMES];        /* [N] of each row of w */
    double *kmax, *vmax;       /* [n_kv] */
    char dir[300];
    int64_t layer;
    int files;
} ref;

static int64_t rows_of(const ref *r, int i)
{
    return i == QKV ? r->Q + 2 * r->KV : i == UP || i == GATE ? r->I : r->H;
}

static int64_t cols_of(const ref *r, int i)
{
    return i == DENSE ? r->Q : i == DOWN ? r->I : r->H;
}

static float *read_f32(const fmt_src *s, fmt_role role, int64_t layer, fmt_part part)
{
    q_err err = { 0 };
    const fmt_ref at = { role, layer, part };
    float *v = NULL;

    if (!fmt_src_has(s, at))
        return NULL;
    T_OK(qnt_load_f32(&v, s, at, fmt_src_shape(s, at).n1 * fmt_src_shape(s, at).k1, &err), err);
    return v;
}

static double factor(const ref *r, double x, double w)
{
    return x == 0.0 ? 1 : fmax(pow(x, r->alpha) / pow(fmax(w, 1e-5), 1 - r->alpha), 1e-5);
}

static double column(const float *w, int64_t N, int64_t K, int64_t k)
{
    double max = 0;

    for (int64_t n = 0; n < N; n++)
        max = fmax(max, fabs((double)w[n * K + k]));
    return max;
}

static void times_column(float *w, int64_t N, int64_t K, int64_t k, double s)
{
    for (int64_t n = 0; n < N; n++)
        w[n * K + k] = (float)((double)w[n * K + k] * s);
}

static void over(float *v, int64_t n, double s)
{
    for (int64_t i = 0; i < n; i++)
        v[i] = (float)((double)v[i] / s);
}

static float stored(const ref *r, float v)
{
    return r->store == FMT_F16    ? q_f16_to_f32(q_f32_to_f16(v))
           : r->store == FMT_BF16 ? q_bf16_to_f32(q_f32_to_bf16(v))
                                  : v;
}

static void store_all(const ref *r, float *v, int64_t n)
{
    for (int64_t i = 0; v && i < n; i++)
        v[i] = stored(r, v[i]);
}

static void smooth(ref *r, const qnt_ranges *q)
{
    const fmt_model *m = r->m;
    const int64_t group = m->n_head / m->n_kv, hd = m->hd, ld = r->Q;
    double s;

    memset(r->y, 0, sizeof r->y);
    memset(r->x, 0, sizeof r->x);
    for (int64_t g = 0; g < m->n_kv; g++)
        r->kmax[g] = r->vmax[g] = 0;
    for (int64_t i = 0; i < r->KV; i++) { /* v and the heads that read it */
        const int64_t row = r->Q + r->KV + i;
        double x = 0, w = 0;

        for (int64_t h = i / hd * group; h < (i / hd + 1) * group; h++) {
            x = fmax(x, (double)q->in[FMT_ATTN_OUT][h * hd + i % hd]);
            w = fmax(w, column(r->w[DENSE], r->H, ld, h * hd + i % hd));
        }
        s = factor(r, x, w);
        for (int64_t h = i / hd * group; h < (i / hd + 1) * group; h++) {
            times_column(r->w[DENSE], r->H, ld, h * hd + i % hd, s);
            r->x[DENSE] = fmax(r->x[DENSE], (double)q->in[FMT_ATTN_OUT][h * hd + i % hd] / s);
        }
        over(r->w[QKV] + row * r->H, r->H, s);
        if (r->bias)
            over(r->bias + row, 1, s);
        r->vmax[i / hd] = fmax(r->vmax[i / hd], (double)q->out[FMT_ATTN_QKV][row] / s);
        r->kmax[i / hd] = fmax(r->kmax[i / hd], (double)q->k[i]);
        r->y[QKV] = fmax(r->y[QKV], (double)q->out[FMT_ATTN_QKV][row] / s);
    }
    for (int64_t n = 0; n < r->Q + r->KV; n++)
        r->y[QKV] = fmax(r->y[QKV], (double)q->out[FMT_ATTN_QKV][n]);
    for (int64_t k = 0; k < r->I; k++) {
        const double x = (double)q->in[FMT_FFN_DOWN][k];

        s = factor(r, x, column(r->w[DOWN], r->H, r->I, k));
        times_column(r->w[DOWN], r->H, r->I, k, s);
        over(r->w[UP] + k * r->H, r->H, s);
        r->x[DOWN] = fmax(r->x[DOWN], x / s);
        r->y[UP] = fmax(r->y[UP], (double)q->out[FMT_FFN_GATE_UP][r->I + k] / s);
        r->y[GATE] = fmax(r->y[GATE], (double)q->out[FMT_FFN_GATE_UP][k]);
    }
    for (int64_t k = 0; k < r->H; k++) {
        const double x1 = (double)q->in[FMT_ATTN_QKV][k], x2 = (double)q->in[FMT_FFN_GATE_UP][k];

        s = factor(r, x1, column(r->w[QKV], rows_of(r, QKV), r->H, k));
        times_column(r->w[QKV], rows_of(r, QKV), r->H, k, s);
        over(r->norm[0] + k, 1, s);
        r->x[QKV] = fmax(r->x[QKV], x1 / s);
        s = factor(r, x2, fmax(column(r->w[UP], r->I, r->H, k), column(r->w[GATE], r->I, r->H, k)));
        times_column(r->w[UP], r->I, r->H, k, s);
        times_column(r->w[GATE], r->I, r->H, k, s);
        over(r->norm[1] + k, 1, s);
        r->x[UP] = r->x[GATE] = fmax(r->x[UP], x2 / s);
        r->y[DENSE] = fmax(r->y[DENSE], (double)q->out[FMT_ATTN_OUT][k]);
        r->y[DOWN] = fmax(r->y[DOWN], (double)q->out[FMT_FFN_DOWN][k]);
    }
    for (int i = 0; i < NAMES; i++) {
        store_all(r, r->w[i], rows_of(r, i) * cols_of(r, i));
        for (int64_t n = 0; n < rows_of(r, i); n++)
            r->max[i][n] = column(r->w[i] + n * cols_of(r, i), cols_of(r, i), 1, 0);
    }
    store_all(r, r->bias, rows_of(r, QKV));
    store_all(r, r->norm[0], r->H);
    store_all(r, r->norm[1], r->H);
}

static void open_layer(ref *r, const fmt_src *s, int64_t layer)
{
    float *both = read_f32(s, FMT_FFN_GATE_UP, layer, FMT_WEIGHT);
    const size_t half = (size_t)(r->I * r->H);

    r->layer = layer;
    r->norm[0] = read_f32(s, FMT_ATTN_NORM, layer, FMT_WEIGHT);
    r->norm[1] = read_f32(s, FMT_FFN_NORM, layer, FMT_WEIGHT);
    r->bias = read_f32(s, FMT_ATTN_QKV, layer, FMT_BIAS);
    r->w[QKV] = read_f32(s, FMT_ATTN_QKV, layer, FMT_WEIGHT);
    r->w[DENSE] = read_f32(s, FMT_ATTN_OUT, layer, FMT_WEIGHT);
    r->w[DOWN] = read_f32(s, FMT_FFN_DOWN, layer, FMT_WEIGHT);
    r->w[GATE] = q_malloc(half * sizeof(float));
    r->w[UP] = q_malloc(half * sizeof(float));
    T_TRUE(r->w[GATE] && r->w[UP]);
    memcpy(r->w[GATE], both, half * sizeof(float));
    memcpy(r->w[UP], both + half, half * sizeof(float));
    q_free(both);
    for (int i = 0; i < NAMES; i++)
        T_TRUE((r->max[i] = q_calloc((size_t)rows_of(r, i), sizeof(double))) != NULL);
}

static void close_layer(ref *r)
{
    q_free(r->norm[0]);
    q_free(r->norm[1]);
    q_free(r->bias);
    for (int i = 0; i < NAMES; i++) {
        q_free(r->w[i]);
        q_free(r->max[i]);
    }
}

/* ---- files ------------------------------------------------------------------------------------
 */

static const char *const x_name[NAMES] = { "attention.qkv", "attention.dense", "mlp.w1", "mlp.w2",
                                           "mlp.c_proj" };

static void slurp(q_buf *b, ref *r, size_t bytes, const char *x, const char *end, int rank)
{
    q_err err = { 0 };
    char path[512], number[16] = "";

    if (rank >= 0)
        snprintf(number, sizeof number, "%d.", rank);
    snprintf(path, sizeof path, "%s/model.layers.%lld.%s.%s%sbin", r->dir, (long long)r->layer, x,
             end, number);
    T_OK(q_file_slurp(b, path, (size_t)1 << 28, &err), err);
    if (b->size != bytes)
        t_fail(path, 0, "%zu bytes, wanted %zu", b->size, bytes);
    r->files++;
}

static int is_by_row(int i)
{
    return i != DENSE && i != DOWN;
}

/* row of the stack [q; k; v] that column c of a rank holds; *piece: which of the three */
static int64_t qkv_row(const ref *r, int rank, int64_t c, int *piece)
{
    const int64_t hd = r->m->hd, q = r->Q / r->T;
    const int64_t heads = r->m->n_kv >= r->T ? r->m->n_kv / r->T : 1;
    const int64_t first = rank * r->m->n_kv / r->T * hd, kv = heads * hd;

    *piece = c < q ? 0 : c < q + kv ? 1 : 2;
    return c < q ? rank * q + c : r->Q + (*piece - 1) * r->KV + first + (c - q) % kv;
}

static int64_t width_of(const ref *r, int i) /* outputs in the file of a rank */
{
    const int64_t heads = r->m->n_kv >= r->T ? r->m->n_kv / r->T : 1;

    return i == QKV       ? r->Q / r->T + 2 * heads * r->m->hd
           : is_by_row(i) ? rows_of(r, i) / r->T
                          : rows_of(r, i);
}

static int64_t row_at(const ref *r, int i, int rank, int64_t c, int *piece)
{
    *piece = 0;
    if (i == QKV)
        return qkv_row(r, rank, c, piece);
    return is_by_row(i) ? rank * width_of(r, i) + c : c;
}

/* of q, of k, of v, or of all rows */
static double piece_max(const ref *r, int i, int piece)
{
    const int64_t n0 = i == QKV && piece ? r->Q + (piece - 1) * r->KV : 0;
    const int64_t n1 = i != QKV ? rows_of(r, i) : n0 + (piece ? r->KV : r->Q);
    double max = 0;

    for (int64_t n = n0; n < n1; n++)
        max = fmax(max, r->max[i][n]);
    return max;
}

static int code_of(float w, double max)
{
    return max > 0 ? (int)nearbyint((double)w * 127 / max) : 0;
}

static float float_at(const ref *r, const q_buf *b, int64_t i)
{
    uint16_t h;
    float f;

    if (r->store == FMT_F32) {
        memcpy(&f, b->data + 4 * i, sizeof f);
        return f;
    }
    memcpy(&h, b->data + 2 * i, sizeof h);
    return r->store == FMT_F16 ? q_f16_to_f32(h) : q_bf16_to_f32(h);
}

/* The float file and both files of codes of rank `rank`. */
static void check_matrices(ref *r, int i, int rank)
{
    const int64_t K = cols_of(r, i), rows = is_by_row(i) ? K : K / r->T, cols = width_of(r, i);
    const size_t n = (size_t)(rows * cols);
    q_buf f = { 0 }, t = { 0 }, c = { 0 };
    double all[3];

    for (int p = 0; p < 3; p++)
        all[p] = piece_max(r, i, p);
    slurp(&f, r, n * fmt_dtype_bytes(r->store), x_name[i], "weight.", rank);
    slurp(&t, r, n, x_name[i], "weight.int8.", rank);
    slurp(&c, r, n, x_name[i], "weight.int8.col.", rank);
    for (int64_t col = 0; col < cols; col++) {
        int piece;
        const int64_t row = row_at(r, i, rank, col, &piece);
        const double max = r->max[i][row];

        for (int64_t k = 0; k < rows; k++) {
            const float w = r->w[i][row * K + k + (is_by_row(i) ? 0 : rank * rows)];
            const int64_t at = k * cols + col;

            if (float_at(r, &f, at) != w || (int8_t)t.data[at] != code_of(w, all[piece]) ||
                (int8_t)c.data[at] != code_of(w, max))
                t_fail(x_name[i], 0,
                       "layer %lld rank %d, input %lld output %lld: %g %d %d, wanted "
                       "%g %d %d",
                       (long long)r->layer, rank, (long long)k, (long long)row,
                       (double)float_at(r, &f, at), (int8_t)t.data[at], (int8_t)c.data[at],
                       (double)w, code_of(w, all[piece]), code_of(w, max));
        }
    }
    q_buf_free(&f);
    q_buf_free(&t);
    q_buf_free(&c);
}

static void near_value(const q_buf *b, int64_t i, double want, const char *what)
{
    float f;

    memcpy(&f, b->data + 4 * i, sizeof f);
    if (fabs((double)f - want) > 3e-7 * fabs(want))
        t_fail(what, 0, "value %lld is %.9g, wanted %.9g", (long long)i, (double)f, want);
}

/* A file of one value. */
static void check_one(ref *r, int i, const char *end, double want)
{
    q_buf b = { 0 };

    slurp(&b, r, 4, x_name[i], end, -1);
    near_value(&b, 0, want, end);
    q_buf_free(&b);
}

/* Scales of outputs: shared files (rank -1: all rows) or those of a rank.  by: 1 per channel. */
static void check_outputs(ref *r, int i, int rank, const char *scale, const char *acc, int by)
{
    const double x = r->x[i] / 127, y = r->y[i] / 127;
    const int64_t n = rank < 0 ? rows_of(r, i) : width_of(r, i);
    q_buf a = { 0 }, b = { 0 };
    double all[3];

    for (int p = 0; p < 3; p++)
        all[p] = piece_max(r, i, p);
    slurp(&a, r, (size_t)n * 4, x_name[i], scale, rank);
    slurp(&b, r, (size_t)n * 4, x_name[i], acc, rank);
    for (int64_t c = 0; c < n; c++) {
        int piece = rank < 0 && i == QKV ? (c >= r->Q) + (c >= r->Q + r->KV) : 0;
        const int64_t row = rank < 0 ? c : row_at(r, i, rank, c, &piece);
        const double w = (by ? r->max[i][row] : all[piece]) / 127;

        near_value(&a, c, w, scale);
        near_value(&b, c, x * w / y, acc);
    }
    q_buf_free(&a);
    q_buf_free(&b);
}

static void check_scales(ref *r, int i)
{
    static const char w[] = "scale_w_quant_orig.", acc[] = "scale_y_accum_quant.";
    static const char w_col[] = "scale_w_quant_orig.col.", acc_col[] = "scale_y_accum_quant.col.";

    check_one(r, i, "scale_x_orig_quant.", 127 / r->x[i]);
    check_one(r, i, "scale_y_quant_orig.", r->y[i] / 127);
    if (i == QKV) {
        check_outputs(r, i, -1, w, acc, 0);
    } else {
        check_one(r, i, w, piece_max(r, i, 0) / 127);
        check_one(r, i, acc, r->x[i] / 127 * piece_max(r, i, 0) / 127 / (r->y[i] / 127));
    }
    if (!is_by_row(i))
        check_outputs(r, i, -1, w_col, acc_col, 1);
    for (int rank = 0; is_by_row(i) && rank < r->T; rank++)
        check_outputs(r, i, rank, w_col, acc_col, 1);
}

static void check_vectors(ref *r, int kv)
{
    q_buf b = { 0 };

    for (int k = 0; k < 2; k++) {
        slurp(&b, r, (size_t)r->H * fmt_dtype_bytes(r->store), k ? "ln_2" : "ln_1", "weight.", -1);
        for (int64_t i = 0; i < r->H; i++)
            T_NEAR(float_at(r, &b, i), r->norm[k][i], 0);
        q_buf_clear(&b);
    }
    for (int rank = 0; rank < r->T; rank++) {
        int piece;

        if (r->bias) {
            slurp(&b, r, (size_t)width_of(r, QKV) * fmt_dtype_bytes(r->store), "attention.qkv",
                  "bias.", rank);
            for (int64_t c = 0; c < width_of(r, QKV); c++)
                T_NEAR(float_at(r, &b, c), r->bias[qkv_row(r, rank, c, &piece)], 0);
            q_buf_clear(&b);
        }
        for (int k = 0; k < 2; k++) {
            const int64_t n = cols_of(r, k ? DOWN : DENSE) / r->T;

            slurp(&b, r, (size_t)n * 4, x_name[k ? DOWN : DENSE], "smoother.", rank);
            for (int64_t i = 0; i < n; i++)
                near_value(&b, i, 1, "smoother");
            q_buf_clear(&b);
        }
    }
    for (int k = 0; kv && k < 2; k++) {
        slurp(&b, r, (size_t)r->m->n_kv * 4, "attention", k ? "v_scale." : "k_scale.", -1);
        for (int64_t i = 0; i < r->m->n_kv; i++)
            near_value(&b, i, (k ? r->vmax[i] : r->kmax[i]) / 127, "k_scale, v_scale");
        q_buf_clear(&b);
    }
    q_buf_free(&b);
}

/* ---- what is read back ------------------------------------------------------------------------
 */

/* name index of row n of a stacked role, and the row in it */
static int file_of(const ref *r, fmt_role role, int64_t *n)
{
    if (role != FMT_FFN_GATE_UP)
        return role == FMT_ATTN_QKV ? QKV : role == FMT_ATTN_OUT ? DENSE : DOWN;
    if (*n < r->I)
        return GATE;
    *n -= r->I;
    return UP;
}

static void check_load(const ref *r, const fmt_src *s, fmt_role role, int per_tensor, int static_x)
{
    q_err err = { 0 };
    const qnt_load_opts o = { .scheme = qnt_scheme_find("w8a8"),
                              .per_tensor = per_tensor,
                              .static_x = static_x };
    qnt_tensor t;
    double all[NAMES][3];

    for (int i = 0; i < NAMES * 3; i++)
        all[i / 3][i % 3] = piece_max(r, i / 3, i % 3);
    T_OK(qnt_load(&t, s, role, r->layer, &o, &err), err);
    T_INT(t.bias != NULL, role == FMT_ATTN_QKV && r->bias != NULL);
    for (int64_t i = 0; i < t.N; i++) {
        int64_t n = i;
        const int f = file_of(r, role, &n);
        const int piece = f == QKV ? (n >= r->Q) + (n >= r->Q + r->KV) : 0;
        const double max = per_tensor ? all[f][piece] : r->max[f][n];

        T_INT(t.K, cols_of(r, f));
        T_NEAR(t.scale[i], max / 127, 1e-7 * max);
        if (static_x)
            T_NEAR(t.x_scale, r->x[f] / 127, 1e-7 * r->x[f]);
        else
            T_NEAR(t.x_scale, 0, 0);
        for (int64_t k = 0; k < t.K; k++)
            T_INT(((int8_t *)t.codes)[i * t.K + k], code_of(r->w[f][n * t.K + k], max));
    }
    qnt_tensor_free(&t);
}

/* ---- whole directories ------------------------------------------------------------------------
 */

static void check_dir(const char *in, const char *out, int T, fmt_dtype store, double alpha, int kv,
                      const qnt_ranges *q)
{
    static const fmt_role roles[] = { FMT_ATTN_QKV, FMT_ATTN_OUT, FMT_FFN_GATE_UP, FMT_FFN_DOWN };
    q_err err = { 0 };
    fmt_src *src = NULL, *ft = NULL;
    ref r = { .T = T, .store = store, .alpha = alpha };
    const fmt_model *m;
    int64_t per_rank;

    T_OK(fmt_src_open(&src, in, &err), err);
    snprintf(r.dir, sizeof r.dir, "%s/%d-gpu", out, T);
    T_OK(fmt_src_open(&ft, r.dir, &err), err);
    r.m = m = fmt_src_model(src);
    r.H = m->hid;
    r.I = m->ffn;
    r.Q = m->n_head * m->hd;
    r.KV = m->n_kv * m->hd;
    r.kmax = q_calloc((size_t)m->n_kv, sizeof(double));
    r.vmax = q_calloc((size_t)m->n_kv, sizeof(double));
    for (int64_t l = 0; l < m->layers; l++) {
        open_layer(&r, src, l);
        smooth(&r, &q[l]);
        for (int i = 0; i < NAMES; i++) {
            for (int rank = 0; rank < T; rank++)
                check_matrices(&r, i, rank);
            check_scales(&r, i);
        }
        check_vectors(&r, kv);
        for (int i = 0; i < 4; i++) {
            check_load(&r, ft, roles[i], 0, l % 2 != 0);
            check_load(&r, ft, roles[i], 1, l % 2 == 0);
        }
        close_layer(&r);
    }
    /* of a rank: float, two codes, two scales of three names, two smoothers, a bias */
    per_rank = NAMES * 3 + 3 * 2 + 2 + fmt_src_has(src, (fmt_ref){ FMT_ATTN_QKV, 0, FMT_BIAS });
    T_INT(r.files, m->layers * (2 + T * per_rank + NAMES * 4 + 2 * 2 + 2 * kv));
    q_free(r.kmax);
    q_free(r.vmax);
    fmt_src_close(src);
    fmt_src_close(ft);
}

static void one_model(const char *in, int T, fmt_dtype store, double alpha, int kv, int threads)
{
    q_err err = { 0 };
    run_opts o = { .in = in,
                   .out = tmp("sq"),
                   .force = 1,
                   .ranks = T,
                   .threads = threads,
                   .store = store,
                   .sq = 1,
                   .alpha = alpha,
                   .kv = kv };
    fmt_src *s = NULL;
    qnt_ranges *r;
    cvt_verify_report rep;
    char dir[300];
    int64_t layers;

    T_OK(fmt_src_open(&s, in, &err), err);
    o.ranges = r = tiny_ranges(fmt_src_model(s));
    layers = fmt_src_model(s)->layers;
    fmt_src_close(s);
    T_OK(run(&o, &err), err);
    snprintf(dir, sizeof dir, "%s/%d-gpu", o.out, T);
    T_OK(cvt_verify(&rep, dir, 1, NULL, NULL, &err), err);
    cvt_verify_free(&rep);
    check_dir(in, o.out, T, store, alpha, kv, r);
    tiny_ranges_free(r, layers);
}

static void t_small(void)
{
    static const fmt_dtype types[] = { FMT_F16, FMT_BF16, FMT_F32 };

    for (int i = 0; i < 6; i++) {
        tiny_hf m = tiny;

        m.dtype = types[i % 3];
        tiny_hf_write(tmp("in"), &m);
        one_model(tmp("in"), 1 << i % 3, types[(i + i / 3) % 3], 0.25 * (i % 5), i % 2, 1 + i % 3);
    }
}

static void t_families(void)
{
    one_model(T_SHARED("models/qwen3-random"), 2, FMT_F16, 0.5, 1, 2);
    one_model(T_SHARED("models/chatglm3-random"), 1, FMT_F16, 0.5, 0, 2);
    one_model(T_SHARED("models/chatglm3-random"), 4, FMT_F16, 0.8, 1, 2); /* two ranks a kv head */
    one_model(T_SHARED("models/qwen2-tiny"), 2, FMT_F16, 0.5, 1, 2);
}

static const t_case cases[] = { T(t_small), T(t_families), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
