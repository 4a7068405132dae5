/* Linear, RMSNorm and embedding: one table of cases, every backend, against double precision.
 *
 * Sizes are chosen around the vectors (8, 16), the blocks (32, 128) and the tiles (12 tokens, 128 x
 * 512) of the kernels: one less, equal, one more.  Bounds are relative to the rms of the reference;
 * the reference uses the weights that the codes stand for, so they bound float32 arithmetic alone:
 * about sqrt(K) roundings of 6e-8.  Grouped weights take activations in parts of 8-bit codes on
 * the CPU; the reference then takes what those codes stand for. */
#include "tests/ops/ops.h"

typedef struct op_case {
    const char *scheme;
    int64_t M, N, K;
    rt_epi epi;
    int bias, zero_row; /* zero_row: row 0 of W and of x is zero */
    double nmse, max;
    op_groups groups;
} op_case;

static const char *const epi_name[] = { "none", "f32", "add", "silu" };
static const char *const order_name[] = { "", " act-order", " uneven" };

#define SUM 1e-12, 4e-6 /* a sum of products in f32 */
#define EPI 1e-11, 2e-5 /* two sums multiplied, and exp of one */

static const op_case cases[] = {
    /* the smallest, and odd tails */
    { "f32", 1, 1, 1, RT_EPI_NONE, 0, 0, SUM },
    { "f16", 1, 1, 17, RT_EPI_NONE, 1, 0, SUM },
    { "bf16", 2, 3, 31, RT_EPI_NONE, 1, 0, SUM },
    { "w8", 1, 5, 33, RT_EPI_NONE, 1, 0, SUM },
    { "w4", 1, 1, 1, RT_EPI_NONE, 0, 0, SUM },
    { "w4g", 1, 31, 255, RT_EPI_ADD, 1, 0, SUM },
    { "w4g", 17, 37, 200, RT_EPI_NONE, 1, 0, SUM },
    { "w4g", 70, 258, 1153, RT_EPI_SILU_MUL, 0, 1, EPI },
    { "w8g", 5, 66, 257, RT_EPI_SILU_MUL, 1, 0, EPI },
    { "w8g", 33, 20, 600, RT_EPI_NONE, 0, 0, SUM },
    { "w4", 3, 7, 127, RT_EPI_NONE, 1, 0, SUM },
    { "w4", 4, 9, 129, RT_EPI_NONE, 0, 0, SUM },
    { "w4", 1, 31, 255, RT_EPI_ADD, 1, 0, SUM },
    /* each number of tokens a kernel knows, and the first that goes to tiles */
    { "f32", 1, 37, 200, RT_EPI_NONE, 1, 0, SUM },
    { "f32", 4, 37, 200, RT_EPI_ADD, 1, 0, SUM },
    { "f16", 2, 37, 200, RT_EPI_NONE, 0, 0, SUM },
    { "f16", 3, 37, 200, RT_EPI_ADD, 1, 0, SUM },
    { "f16", 5, 37, 200, RT_EPI_NONE, 1, 0, SUM },
    { "bf16", 6, 37, 200, RT_EPI_NONE, 1, 0, SUM },
    { "bf16", 7, 37, 200, RT_EPI_ADD, 0, 0, SUM },
    { "w8", 8, 37, 200, RT_EPI_NONE, 1, 0, SUM },
    { "w8", 9, 37, 200, RT_EPI_NONE, 1, 0, SUM },
    { "w4", 8, 37, 200, RT_EPI_NONE, 1, 0, SUM },
    { "w4", 9, 37, 200, RT_EPI_ADD, 1, 0, SUM },
    { "w4", 17, 37, 200, RT_EPI_NONE, 1, 0, SUM },
    /* several tiles in N and K */
    { "f32", 33, 259, 1030, RT_EPI_NONE, 1, 0, SUM },
    { "f16", 33, 257, 513, RT_EPI_ADD, 1, 0, SUM },
    { "bf16", 40, 130, 1025, RT_EPI_NONE, 0, 0, SUM },
    { "w8", 33, 257, 1030, RT_EPI_ADD, 1, 0, SUM },
    { "w4", 33, 257, 1153, RT_EPI_NONE, 1, 0, SUM },
    { "w4", 64, 128, 512, RT_EPI_ADD, 1, 0, SUM },
    /* gate and up */
    { "f32", 1, 2, 5, RT_EPI_SILU_MUL, 0, 0, EPI },
    { "f16", 1, 66, 100, RT_EPI_SILU_MUL, 1, 0, EPI },
    { "bf16", 3, 150, 300, RT_EPI_SILU_MUL, 0, 0, EPI },
    { "w8", 7, 270, 130, RT_EPI_SILU_MUL, 1, 0, EPI },
    { "w4", 8, 66, 257, RT_EPI_SILU_MUL, 0, 0, EPI },
    { "f16", 35, 514, 600, RT_EPI_SILU_MUL, 1, 0, EPI },
    { "w4", 35, 270, 600, RT_EPI_SILU_MUL, 0, 0, EPI },
    /* rows of zeros in W (scale 1, codes 0) and in x */
    { "w8", 1, 8, 64, RT_EPI_NONE, 0, 1, SUM },
    { "w4", 1, 8, 64, RT_EPI_NONE, 0, 1, SUM },
    { "w4", 20, 8, 64, RT_EPI_SILU_MUL, 0, 1, EPI },
    /* tokens: full tiles of 12, groups of 96, and one more */
    { "f16", 12, 50, 70, RT_EPI_NONE, 0, 0, SUM },
    { "w8", 13, 50, 70, RT_EPI_NONE, 1, 0, SUM },
    { "f32", 97, 130, 40, RT_EPI_ADD, 1, 0, SUM },
    { "bf16", 200, 34, 36, RT_EPI_SILU_MUL, 1, 0, EPI },
    /* one real shape: Qwen-1.8B's down projection, one token */
    { "f16", 1, 2048, 5504, RT_EPI_ADD, 0, 0, SUM },
    { "w8", 1, 2048, 5504, RT_EPI_ADD, 0, 0, SUM },
    { "w4", 1, 2048, 5504, RT_EPI_ADD, 0, 0, SUM },
    /* the GPU's kernels: K a multiple of 8 and of their chunks; 8, 16, 32, 64 tokens; more */
    { "f16", 1, 40, 8, RT_EPI_F32, 1, 0, SUM },
    { "w8", 2, 40, 24, RT_EPI_F32, 0, 0, SUM },
    { "w4", 1, 40, 40, RT_EPI_F32, 0, 0, SUM },
    { "f16", 1, 33, 2112, RT_EPI_F32, 0, 0, SUM },
    { "w8", 8, 100, 1088, RT_EPI_NONE, 1, 0, SUM },
    { "w4", 16, 100, 1096, RT_EPI_NONE, 1, 0, SUM },
    { "f16", 17, 50, 1024, RT_EPI_ADD, 1, 0, SUM },
    { "w4", 31, 70, 1152, RT_EPI_SILU_MUL, 1, 0, EPI },
    { "f16", 64, 90, 520, RT_EPI_SILU_MUL, 0, 0, EPI },
    { "w8", 63, 90, 520, RT_EPI_SILU_MUL, 0, 0, EPI },
    { "f16", 65, 256, 264, RT_EPI_SILU_MUL, 1, 0, EPI },
    { "w8", 100, 264, 264, RT_EPI_ADD, 1, 0, SUM },
    { "w4", 130, 264, 264, RT_EPI_NONE, 1, 0, SUM },
    { "w4", 70, 4100, 4096, RT_EPI_F32, 1, 0, SUM },
    /* groups the GPU's kernels know: whole chunks and parts of them, shorter last ones */
    { "w4g", 1, 48, 256, RT_EPI_ADD, 1, 0, SUM, { 128 } },
    { "w4g", 8, 100, 1096, RT_EPI_NONE, 1, 0, SUM, { 32 } },
    { "w4g", 1, 64, 1152, RT_EPI_SILU_MUL, 1, 0, EPI, { 64, .sym = 1 } },
    { "w4g", 1, 33, 2112, RT_EPI_F32, 0, 0, SUM, { -1 } },
    { "w4g", 16, 112, 1280, RT_EPI_SILU_MUL, 0, 0, EPI, { 128 } },
    { "w4g", 16, 4250, 256, RT_EPI_NONE, 0, 0, EPI, { 128 } }, /* more rows: more to be the worst */
    { "w4g", 33, 8400, 264, RT_EPI_NONE, 0, 0, EPI, { 64 } },
    { "w8", 64, 8400, 136, RT_EPI_ADD, 0, 0, EPI },
    { "w4g", 31, 70, 1152, RT_EPI_ADD, 1, 0, SUM, { 32, .sym = 1 } },
    { "w4g", 64, 96, 520, RT_EPI_SILU_MUL, 0, 0, EPI, { 256 } },
    { "w4g", 64, 72, 1000, RT_EPI_F32, 1, 0, SUM, { 64 } },
    { "w8g", 1, 48, 256, RT_EPI_ADD, 1, 0, SUM, { 128 } },
    { "w8g", 2, 40, 1000, RT_EPI_F32, 0, 0, SUM, { 32, .sym = 1 } },
    { "w8g", 16, 100, 1088, RT_EPI_NONE, 1, 0, SUM, { 64 } },
    { "w8g", 9, 160, 520, RT_EPI_SILU_MUL, 0, 0, EPI, { -1, .sym = 1 } },
    { "w8g", 63, 96, 520, RT_EPI_SILU_MUL, 1, 0, EPI, { 32 } },
    { "w8g", 40, 50, 1024, RT_EPI_ADD, 0, 0, SUM, { 128 } },
    { "w4g", 1, 2048, 5504, RT_EPI_ADD, 0, 0, SUM, { 128 } },
    /* slices of K and shares of them, added up in order */
    { "f16", 9, 136, 8200, RT_EPI_ADD, 1, 0, SUM },
    { "w8", 16, 16390, 136, RT_EPI_SILU_MUL, 1, 0, EPI },
    { "w4", 24, 520, 5504, RT_EPI_F32, 0, 0, SUM },
    { "w4", 64, 130, 4104, RT_EPI_NONE, 1, 0, SUM },
    { "w8", 50, 72, 11008, RT_EPI_ADD, 0, 0, SUM },
    { "w4", 48, 1100, 2176, RT_EPI_SILU_MUL, 0, 0, EPI },
    { "w4g", 20, 1104, 2176, RT_EPI_SILU_MUL, 0, 0, EPI, { 128 } },
    { "w4g", 40, 200, 4096, RT_EPI_ADD, 1, 0, SUM, { 64 } },
    { "w8g", 32, 136, 2048, RT_EPI_F32, 0, 0, SUM, { 32 } },
    /* columns in the order of others, and groups of different sizes */
    { "w4g", 1, 50, 384, RT_EPI_ADD, 1, 0, SUM, { 128, OP_ACT_ORDER } },
    { "w4g", 31, 96, 1096, RT_EPI_SILU_MUL, 0, 0, EPI, { 32, OP_ACT_ORDER, 1 } },
    { "w4g", 70, 96, 264, RT_EPI_NONE, 0, 0, SUM, { 64, OP_ACT_ORDER } },
    { "w8g", 16, 50, 384, RT_EPI_F32, 1, 0, SUM, { 64, OP_ACT_ORDER } },
    { "w8g", 65, 40, 129, RT_EPI_ADD, 0, 0, SUM, { 32, OP_ACT_ORDER } },
    { "w4g", 5, 40, 256, RT_EPI_NONE, 1, 0, SUM, { 128, OP_UNEVEN } },
    { "w4g", 3, 40, 77, RT_EPI_NONE, 1, 0, SUM, { 1, OP_UNEVEN } },
    { "w8g", 70, 40, 256, RT_EPI_F32, 0, 0, SUM, { 64, OP_UNEVEN } },
    /* many tokens: groups in order, of any size, gate and up that start inside a tile of scales */
    { "w4g", 130, 264, 264, RT_EPI_ADD, 1, 0, SUM, { 32 } },
    { "w4g", 100, 270, 400, RT_EPI_ADD, 1, 0, SUM, { 128, .sym = 1 } },
    { "w4g", 3, 270, 400, RT_EPI_SILU_MUL, 1, 0, EPI, { 128 } },
    { "w8g", 100, 264, 264, RT_EPI_NONE, 0, 0, SUM, { 40 } },
    { "w8g", 70, 100, 1000, RT_EPI_F32, 1, 0, SUM, { -1 } },
    { "w4g", 2, 65, 1 << 20, RT_EPI_ADD, 1, 0, SUM }, /* two strips of the GPU, there only */
};

#define N_CASES (sizeof cases / sizeof cases[0])

typedef struct linear_data {
    float *x, *xq;        /* [M, K]; xq: as the product takes it */
    float *w, *bias, *y0; /* w [N, K]: values before rounding, then what the codes mean */
    double *ref;
    size_t n_y;
} linear_data;

static double silu(double v)
{
    return v / (1 + exp(-v));
}

static void reference(const op_case *c, linear_data *d)
{
    const int64_t half = c->N / 2;
    double *z = op_host((size_t)(c->M * c->N) * sizeof *z);

    for (int64_t t = 0; t < c->M; t++)
        for (int64_t n = 0; n < c->N; n++) {
            double s = c->bias ? (double)d->bias[n] : 0;

            for (int64_t k = 0; k < c->K; k++)
                s += (double)d->xq[t * c->K + k] * (double)d->w[n * c->K + k];
            z[t * c->N + n] = s;
        }
    for (size_t i = 0; i < d->n_y; i++) {
        if (c->epi == RT_EPI_SILU_MUL) {
            const double *row = z + (int64_t)i / half * c->N;
            const int64_t n = (int64_t)i % half;

            d->ref[i] = silu(row[n]) * row[half + n];
        } else {
            d->ref[i] = z[i] + (c->epi == RT_EPI_ADD ? (double)d->y0[i] : 0);
        }
    }
    q_free(z);
}

static void run_linear(const op_case *c, const char *name, const char *backend, linear_data *d,
                       const float *raw)
{
    float *first = NULL, *y = op_host(d->n_y * sizeof *y);

    for (size_t i = 0; i < op_runs(backend); i++) {
        rt_backend *be = op_open(backend, op_threads[i]);
        q_err err = { 0 };
        rt_weight w;
        void *x, *out, *tmp;
        const int f32 = c->epi == RT_EPI_ADD || c->epi == RT_EPI_F32;

        if (!be)
            break;
        w = op_weight(be, op_tensor_groups(c->scheme, &c->groups, raw, c->bias ? d->bias : NULL,
                                           c->N, c->K, d->w));
        x = op_act_up(be, d->x, (size_t)(c->M * c->K));
        out = f32 ? op_up(be, d->y0, d->n_y * sizeof *y) : op_act_up(be, d->y0, d->n_y);
        tmp = op_act_alloc(be, (size_t)(c->M * c->N));
        T_OK(be->ops->linear(
                 be,
                 &(rt_linear_args){
                     .x = x, .w = &w, .y = out, .tmp = tmp, .n_tok = c->M, .epi = c->epi },
                 &err),
             err);
        if (f32)
            op_down(be, y, out, d->n_y * sizeof *y);
        else
            op_act_down(be, y, out, d->n_y);
        if (!first) {
            op_compare(name, backend, y, d->ref, d->n_y, c->nmse, c->max);
            first = y;
            y = op_host(d->n_y * sizeof *y);
        } else {
            op_same_bits(name, backend, op_threads[i], y, first, d->n_y * sizeof *y);
        }
        be->ops->unprep(be, &w);
        be->ops->free(be, x);
        be->ops->free(be, out);
        be->ops->free(be, tmp);
        op_close(be);
    }
    q_free(first);
    q_free(y);
}

static void linear_on(const char *const *backends, size_t n_backends)
{
    for (size_t i = 0; i < N_CASES; i++) {
        const op_case *c = &cases[i];
        const int64_t cols = c->epi == RT_EPI_SILU_MUL ? c->N / 2 : c->N;
        const float spread = 1.0f / sqrtf((float)c->K);
        linear_data d = { .n_y = (size_t)(c->M * cols) };

        if (c->K == 1 << 20 && !op_is_cuda(backends[0]))
            continue;
        float *raw = op_random((size_t)(c->N * c->K), i + 1, 3 * spread);
        char name[96];

        snprintf(name, sizeof name, "%s %lldx%lldx%lld %s%s g%lld%s", c->scheme, (long long)c->M,
                 (long long)c->N, (long long)c->K, epi_name[c->epi], c->bias ? "+b" : "",
                 (long long)c->groups.size, order_name[c->groups.order]);
        op_round(raw, (size_t)(c->N * c->K));
        d.x = op_random((size_t)(c->M * c->K), i + 100, 1);
        op_round(d.x, (size_t)(c->M * c->K));
        d.bias = op_random((size_t)c->N, i + 200, 1);
        d.y0 = op_random(d.n_y, i + 300, 1);
        d.w = op_host((size_t)(c->N * c->K) * sizeof *d.w);
        d.ref = op_host(d.n_y * sizeof *d.ref);
        if (c->zero_row) {
            memset(raw, 0, (size_t)c->K * sizeof *raw);
            memset(d.x, 0, (size_t)c->K * sizeof *d.x);
        }
        qnt_tensor t = op_tensor_groups(c->scheme, &c->groups, raw, NULL, c->N, c->K, d.w);
        d.xq = op_host((size_t)(c->M * c->K) * sizeof *d.xq);
        memcpy(d.xq, d.x, (size_t)(c->M * c->K) * sizeof *d.xq);
        if (t.scheme->grouped && strcmp(backends[0], "cuda") != 0) /* its activations are f16 */
            op_parts(d.xq, d.x, c->M, c->K, &t);
        qnt_tensor_free(&t);
        reference(c, &d);
        for (size_t b = 0; b < n_backends; b++)
            run_linear(c, name, backends[b], &d, raw);
        q_free(raw);
        q_free(d.x);
        q_free(d.xq);
        q_free(d.w);
        q_free(d.bias);
        q_free(d.y0);
        q_free(d.ref);
    }
}

static void t_linear(void)
{
    linear_on(op_backends, OP_BACKENDS);
}

static void t_linear_cuda(void)
{
    op_need_cuda();
    linear_on(&(const char *){ "cuda" }, 1);
}

/* ---- rmsnorm and embed ---------------------------------------------------------------------- */

static void one_rmsnorm(rt_backend *be, const char *name, int64_t n_rows, int64_t dim, int gather,
                        double eps)
{
    /* gathered rows come out of twice as many, in reverse: the way the last rows are picked */
    const int64_t in = gather ? 2 * n_rows : n_rows;
    const size_t n = (size_t)(n_rows * dim), bytes = n * sizeof(float);
    float *x = op_random((size_t)(in * dim), (uint64_t)dim, 3), *w = op_random((size_t)dim, 5, 2);
    float *y = op_host(bytes);
    const int f32 = be->ops->act == FMT_F32;
    double *ref = op_host(n * sizeof *ref);
    int32_t *rows = op_host((size_t)n_rows * sizeof *rows);
    q_err err = { 0 };

    for (int64_t r = 0; r < n_rows; r++) {
        const int64_t from = gather ? in - 1 - 2 * r : r;
        double s = 0;

        rows[r] = (int32_t)from;
        for (int64_t i = 0; i < dim; i++)
            s += (double)x[from * dim + i] * (double)x[from * dim + i];
        for (int64_t i = 0; i < dim; i++)
            ref[r * dim + i] =
                (double)x[from * dim + i] / sqrt(s / (double)dim + eps) * (double)w[i];
    }
    void *x_be = op_up(be, x, (size_t)(in * dim) * sizeof *x), *y_be = op_alloc(be, bytes);
    void *w_be = op_up(be, w, (size_t)dim * sizeof *w);
    void *rows_be = op_up(be, rows, (size_t)n_rows * sizeof *rows);

    T_OK(be->ops->rmsnorm(be,
                          &(rt_rmsnorm_args){ .x = x_be,
                                              .w = w_be,
                                              .y = gather || !f32 ? y_be : x_be,
                                              .rows = gather ? rows_be : NULL,
                                              .n_rows = n_rows,
                                              .dim = dim,
                                              .eps = eps },
                          &err),
         err);
    op_act_down(be, y, gather || !f32 ? y_be : x_be, n); /* not gathered: in place */
    op_compare(name, be->ops->name, y, ref, n, 1e-14, 5e-7);
    be->ops->free(be, x_be);
    be->ops->free(be, y_be);
    be->ops->free(be, w_be);
    be->ops->free(be, rows_be);
    q_free(x);
    q_free(w);
    q_free(y);
    q_free(ref);
    q_free(rows);
}

static void rmsnorm_on(rt_backend *be)
{
    one_rmsnorm(be, "rmsnorm 1x1", 1, 1, 0, 1e-6);
    one_rmsnorm(be, "rmsnorm 3x7", 3, 7, 0, 1e-5);
    one_rmsnorm(be, "rmsnorm 9x4096", 9, 4096, 0, 1e-6);
    one_rmsnorm(be, "rmsnorm rows", 5, 129, 1, 1e-6);
}

static void t_rmsnorm(void)
{
    for (size_t b = 0; b < OP_BACKENDS; b++) {
        rt_backend *be = op_open(op_backends[b], 2);

        if (be)
            rmsnorm_on(be);
        rt_backend_close(be);
    }
}

static void t_rmsnorm_cuda(void)
{
    rmsnorm_on(op_need_cuda());
}

/* every scheme, ids in any order and twice; K around the panels and the stretches of a row */
static void one_embed(rt_backend *be, const char *scheme, int64_t vocab, int64_t K)
{
    int32_t ids[] = { 0, (int32_t)vocab - 1, 7, 7, 16, 1, (int32_t)vocab / 2, 15, 3, 17 };
    enum { N_IDS = sizeof ids / sizeof ids[0] };
    const int waits = be->ops->act == FMT_F32; /* the GPU sees ids too late to refuse them */
    float *v = op_random((size_t)(vocab * K), 9, 1), *y = op_host(N_IDS * (size_t)K * sizeof *y);
    op_round(v, (size_t)(vocab * K));
    rt_weight w = op_weight(be, op_tensor(scheme, v, NULL, vocab, K, v)); /* v: what codes mean */
    void *y_be = op_alloc(be, N_IDS * (size_t)K * sizeof *y);
    rt_batch batch = { .n_tok = N_IDS, .n_seq = 1, .tok = op_up(be, ids, sizeof ids) };
    q_err err = { 0 };

    T_OK(be->ops->embed(be, &(rt_embed_args){ .b = &batch, .w = &w, .y = y_be }, &err), err);
    op_down(be, y, y_be, N_IDS * (size_t)K * sizeof *y);
    for (int64_t t = 0; t < N_IDS; t++)
        if (memcmp(y + t * K, v + ids[t] * K, (size_t)K * sizeof *y) != 0)
            t_fail("embed", 0, "%s, %s: row of id %d differs", be->ops->name, scheme, ids[t]);
    ids[2] = (int32_t)vocab;
    be->ops->free(be, batch.tok);
    batch.tok = op_up(be, ids, sizeof ids);
    if (waits) {
        T_ERR(be->ops->embed(be, &(rt_embed_args){ .b = &batch, .w = &w, .y = y_be }, &err), err,
              Q_EARG, "token id");
    } else {
        T_OK(be->ops->embed(be, &(rt_embed_args){ .b = &batch, .w = &w, .y = y_be }, &err), err);
        op_down(be, y, y_be, N_IDS * (size_t)K * sizeof *y);
        T_TRUE(isnan(y[2 * K]) && !isnan(y[3 * K]));
    }
    be->ops->unprep(be, &w);
    be->ops->free(be, y_be);
    be->ops->free(be, batch.tok);
    q_free(v);
    q_free(y);
}

static void embed_on(rt_backend *be)
{
    for (const qnt_scheme *s = qnt_schemes; s->name; s++) {
        if (strcmp(s->name, "w8a8") == 0 && strcmp(be->ops->name, "cuda") == 0)
            continue; /* no kernel there */
        one_embed(be, s->name, 32, 64);
        one_embed(be, s->name, 37, 259);
    }
}

static void t_embed(void)
{
    for (size_t b = 0; b < OP_BACKENDS; b++) {
        rt_backend *be = op_open(op_backends[b], 3);

        if (be)
            embed_on(be);
        rt_backend_close(be);
    }
}

static void t_embed_cuda(void)
{
    embed_on(op_need_cuda());
}

/* ---- batches -------------------------------------------------------------------------------- */

/* y of n_tok tokens from `from` on, into y [n_tok, N] */
static void some_tokens(rt_backend *be, const rt_weight *w, const float *x, int from, int n_tok,
                        float *y)
{
    const size_t bytes = (size_t)(n_tok * w->N) * sizeof *y;
    void *x_be = op_up(be, x + from * w->K, (size_t)(n_tok * w->K) * sizeof *x);
    void *y_be = op_alloc(be, bytes);
    q_err err = { 0 };

    T_OK(be->ops->linear(be, &(rt_linear_args){ .x = x_be, .w = w, .y = y_be, .n_tok = n_tok },
                         &err),
         err);
    op_down(be, y, y_be, bytes);
    be->ops->free(be, x_be);
    be->ops->free(be, y_be);
}

/* A token gets the same bits alone and among any number of others, and from every SIMD level: the
 * promise of cpu.h, and what makes a reply independent of the batch it was computed in. */
static void t_batch_invariance(void)
{
    enum { N = 72, K = 1100, M = 110 };
    static const char *const simd[] = { "cpu-avx2", "cpu" };
    static const int sizes[] = { 1, 2, 3, 4, 5, 7, 12, 13, 97 };
    static float whole[2][M * N], part[M * N];
    float *x = op_random(M * K, 1, 1), *raw = op_random(N * K, 2, 1), *means = op_host(N * K * 4);

    for (const qnt_scheme *s = qnt_schemes; s->name; s++) {
        int levels = 0;

        for (size_t l = 0; l < 2; l++) {
            rt_backend *be = op_open(simd[l], 2);
            rt_weight w;

            if (!be)
                continue;
            w = op_weight(be, op_tensor(s->name, raw, NULL, N, K, means));
            some_tokens(be, &w, x, 0, M, whole[levels++]);
            for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
                const int from = M - sizes[i];

                some_tokens(be, &w, x, from, sizes[i], part);
                if (memcmp(part, whole[levels - 1] + from * N,
                           (size_t)(sizes[i] * N) * sizeof *part) != 0)
                    t_fail("batches", 0, "%s, %s: %d tokens differ from %d", simd[l], s->name,
                           sizes[i], (int)M);
            }
            be->ops->unprep(be, &w);
            rt_backend_close(be);
        }
        if (levels == 2)
            op_same_bits(s->name, "cpu against cpu-avx2", 2, whole[0], whole[1], sizeof whole[0]);
    }
    q_free(x);
    q_free(raw);
    q_free(means);
}

/* ---- what is refused
 ------------------------------------------------------------------------ */

static void t_errors(void)
{
    rt_backend *be = NULL;
    q_err err = { 0 };
    qnt_tensor none = { .scheme = qnt_scheme_find("f32"), .N = 0, .K = 4 };
    const float v[3] = { 1, 2, 3 };
    float means[3];
    rt_weight w = { 0 };

    T_ERR(rt_backend_open(&be, "abacus", 0, &err), err, Q_EBACKEND,
          "'abacus' is not in this build");
    T_ERR(rt_backend_open(&be, "cpu", -1, &err), err, Q_EARG, "-1 threads");
    T_TRUE(!be);
    be = op_open("cpu", 0);
    T_TRUE(be && be->threads >= 1);
    T_ERR(be->ops->prep(be, &none, &w, &err), err, Q_ESHAPE, "weight [0, 4]");
    w = op_weight(be, op_tensor("f32", v, NULL, 3, 1, means));
    T_ERR(be->ops->linear(
              be, &(rt_linear_args){ .x = v, .w = &w, .n_tok = 1, .epi = RT_EPI_SILU_MUL }, &err),
          err, Q_ESHAPE, "3 rows have no gate and up half");
    T_OK(be->ops->linear(be, &(rt_linear_args){ .w = &w, .n_tok = 0 }, &err), err);
    T_ERR(be->ops->rmsnorm(be, &(rt_rmsnorm_args){ .n_rows = 1, .dim = 0 }, &err), err, Q_ESHAPE,
          "rmsnorm: [1, 0]");
    be->ops->unprep(be, &w);
    rt_backend_close(be);
    rt_backend_close(NULL);
}

static const t_case tests[] = { T(t_linear),           T(t_linear_cuda), T(t_rmsnorm),
                                T(t_rmsnorm_cuda),     T(t_embed),       T(t_embed_cuda),
                                T(t_batch_invariance), T(t_errors),      { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, tests);
}
