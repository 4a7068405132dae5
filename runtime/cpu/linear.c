/* y = x W' + b with an epilogue, for any scheme and any number of tokens.
 *
 * The work is cut into pieces of a block of output columns and a group of tokens; for SILU_MUL a
 * piece takes the same columns of the gate and of the up half.  The product of a piece goes to
 * scratch, and bias, sum and silu are applied from there while it is hot.  The size of a piece
 * depends on the shape alone, never on the number of threads.
 *
 * Which product: the first row of the table whose scheme and instruction set fit and that takes
 * this many tokens.  The last rows take anything. */
#include <string.h>

#include "runtime/cpu/group.h"
#include "runtime/cpu/cpu_math.h"

typedef struct linear_row {
    const char *scheme; /* NULL: any */
    int64_t m_max;      /* tokens */
    cpu_isa isa;        /* this level or a higher one */
    cpu_job_fn *mul;
    cpu_panel_fn *panel; /* of cpu_mul_panels */
    cpu_dot_fn *dot;     /* of cpu_mul_dots: the same, and activations become codes */
    cpu_group_fn *group; /* of cpu_mul_grouped: likewise */
} linear_row;

#define ANY INT64_MAX

static const linear_row rows[] = {
    { "w8a8", ANY, CPU_VNNI, cpu_mul_dots, NULL, cpu_dot_vnni },
    { "w8a8", ANY, CPU_AVX2, cpu_mul_dots, NULL, cpu_dot_avx2 },
    { "w8a8", ANY, CPU_REF, cpu_mul_dots, NULL, cpu_dot_ref },
    { "f32", ANY, CPU_AVX512, cpu_mul_panels, cpu_panel_f32_avx512 },
    { "f16", ANY, CPU_AVX512, cpu_mul_panels, cpu_panel_f16_avx512 },
    { "bf16", ANY, CPU_AVX512, cpu_mul_panels, cpu_panel_bf16_avx512 },
    { "w8", ANY, CPU_AVX512, cpu_mul_panels, cpu_panel_w8_avx512 },
    { "w4", ANY, CPU_AVX512, cpu_mul_panels, cpu_panel_w4_avx512 },
    { "f32", ANY, CPU_AVX2, cpu_mul_panels, cpu_panel_f32_avx2 },
    { "f16", ANY, CPU_AVX2, cpu_mul_panels, cpu_panel_f16_avx2 },
    { "bf16", ANY, CPU_AVX2, cpu_mul_panels, cpu_panel_bf16_avx2 },
    { "w8", ANY, CPU_AVX2, cpu_mul_panels, cpu_panel_w8_avx2 },
    { "w4", ANY, CPU_AVX2, cpu_mul_panels, cpu_panel_w4_avx2 },
    { "w4g", ANY, CPU_VNNI, cpu_mul_grouped, NULL, NULL, cpu_group4_vnni },
    { "w8g", ANY, CPU_VNNI, cpu_mul_grouped, NULL, NULL, cpu_group8_vnni },
    { "w4g", ANY, CPU_AVX2, cpu_mul_grouped, NULL, NULL, cpu_group4_avx2 },
    { "w8g", ANY, CPU_AVX2, cpu_mul_grouped, NULL, NULL, cpu_group8_avx2 },
    { "w4g", ANY, CPU_REF, cpu_mul_grouped, NULL, NULL, cpu_group4_ref },
    { "w8g", ANY, CPU_REF, cpu_mul_grouped, NULL, NULL, cpu_group8_ref },
    { NULL, CPU_TILE_M, CPU_REF, cpu_mul_rows },
    { NULL, ANY, CPU_REF, cpu_mul_gemm },
};

static const linear_row *row_of(cpu_isa isa, const qnt_scheme *s, int64_t n_tok)
{
    const linear_row *r = rows;

    while ((r->scheme && strcmp(r->scheme, s->name) != 0) || n_tok > r->m_max || r->isa > isa)
        r++;
    return r;
}

static int in_panels(const linear_row *r)
{
    return r->mul != cpu_mul_rows && r->mul != cpu_mul_gemm;
}

int cpu_in_panels(cpu_isa isa, const qnt_scheme *s)
{
    return in_panels(row_of(isa, s, 1));
}

int cpu_in_codes(const qnt_scheme *s)
{
    return row_of(CPU_REF, s, 1)->dot != NULL;
}

static const float no_bias[CPU_BLOCK_N];

static const float *bias_of(const rt_weight *w, int64_t n0)
{
    return w->bias ? w->bias + n0 : no_bias;
}

/* ---- the end of a row: n columns, straight loops that the compiler widens ------------------- */

static void store(float *Q_RESTRICT y, const float *v, const float *bias, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = v[i] + bias[i];
}

static void add(float *Q_RESTRICT y, const float *v, const float *bias, int n)
{
    for (int i = 0; i < n; i++)
        y[i] += v[i] + bias[i];
}

static void silu_mul(float *Q_RESTRICT y, const float *g, const float *g_bias, const float *u,
                     const float *u_bias, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = cpu_silu(g[i] + g_bias[i]) * (u[i] + u_bias[i]);
}

/* ---- pieces --------------------------------------------------------------------------------- */

/* The product for rows n0 .. n0 + n - 1 of W.  Quads start at multiples of CPU_QUAD, so an odd
 * start takes a few rows before it; the result then begins that much later. */
static const float *product(const linear_row *row, cpu_job job, int64_t n0, int n)
{
    const int before = in_panels(row) ? (int)(n0 % CPU_QUAD) : 0;

    job.n0 = n0 - before;
    job.n = n + before;
    row->mul(&job);
    return job.out + before;
}

/* columns n0 .. n0 + n - 1 of y, tokens t0 .. t0 + m - 1 */
static void piece(const cpu_be *c, const rt_linear_args *a, const linear_row *row, int64_t n0,
                  int n, int64_t t0, int m)
{
    float *scratch = cpu_scratch(c);
    const rt_weight *w = a->w;
    const int64_t half = w->N / 2, ldy = a->epi == RT_EPI_SILU_MUL ? half : w->N;
    cpu_job job = { .w = w,
                    .x = (const float *)a->x + t0 * w->K,
                    .m = m,
                    .tmp = scratch,
                    .out = scratch + CPU_JOB_TMP,
                    .panel = row->panel,
                    .codes = c->codes,
                    .t0 = t0,
                    .dot = row->dot,
                    .group = row->group };
    const float *g = product(row, job, n0, n), *u = NULL;

    if (a->epi == RT_EPI_SILU_MUL) {
        job.out += CPU_GROUP_M * CPU_BLOCK_N;
        u = product(row, job, half + n0, n);
    }
    for (int t = 0; t < m; t++, g += CPU_BLOCK_N) {
        float *y = (float *)a->y + (t0 + t) * ldy + n0;

        if (u)
            silu_mul(y, g, bias_of(w, n0), u + t * CPU_BLOCK_N, bias_of(w, half + n0), n);
        else if (a->epi == RT_EPI_ADD)
            add(y, g, bias_of(w, n0), n);
        else
            store(y, g, bias_of(w, n0), n);
    }
}

size_t cpu_linear_scratch(void)
{
    return (CPU_JOB_TMP + 2 * CPU_GROUP_M * CPU_BLOCK_N) * sizeof(float);
}

/* all columns of y */
static void all_pieces(const cpu_be *c, const rt_linear_args *a, const linear_row *row)
{
    const rt_weight *w = a->w;
    const int64_t cols = a->epi == RT_EPI_SILU_MUL ? w->N / 2 : w->N;
    /* an up half that starts inside a quad costs one more (product) */
    const int64_t pad = a->epi == RT_EPI_SILU_MUL && cols % CPU_QUAD != 0 ? CPU_QUAD : 0;
    /* few tokens: small blocks, so that even a narrow weight gives every core something */
    const int64_t n_step = a->n_tok <= CPU_TILE_M ? CPU_QUAD : CPU_BLOCK_N - pad;
    const int64_t blocks = (cols + n_step - 1) / n_step;
    const int64_t groups = (a->n_tok + CPU_GROUP_M - 1) / CPU_GROUP_M;
    const int64_t pieces = blocks * groups;
    /* a thread takes runs of them, so that it reads one stretch of memory; enough runs to balance
     */
    const int64_t run = 1 + pieces / (16 * c->threads);

#pragma omp parallel for num_threads(c->threads)                                                   \
    schedule(dynamic, run) if (a->n_tok * w->N * w->K >= CPU_ALONE)
    for (int64_t i = 0; i < pieces; i++) {
        const int64_t n0 = i / groups * n_step, t0 = i % groups * CPU_GROUP_M;
        const int64_t n = cols - n0 < n_step ? cols - n0 : n_step;
        const int64_t m = a->n_tok - t0 < CPU_GROUP_M ? a->n_tok - t0 : CPU_GROUP_M;

        piece(c, a, row, n0, (int)n, t0, (int)m);
    }
}

/* As many tokens at a time as have room for their codes. */
static void in_codes(const cpu_be *c, const rt_linear_args *a, const linear_row *row)
{
    const rt_weight *w = a->w;
    const int64_t ldy = a->epi == RT_EPI_SILU_MUL ? w->N / 2 : w->N;
    const int64_t step = cpu_codes_tokens(row->group ? cpu_group_code_bytes(w) : w->K);

    for (int64_t t = 0; t < a->n_tok; t += step) {
        rt_linear_args part = *a;

        part.n_tok = a->n_tok - t < step ? a->n_tok - t : step;
        part.x = (const float *)a->x + t * w->K;
        part.y = (float *)a->y + t * ldy;
        if (row->group)
            cpu_group_codes(c->codes, w, part.x, (int)part.n_tok, c->threads);
        else
            cpu_codes_make(c->codes, part.x, (int)part.n_tok, w->K, w->x_scale, c->threads);
        all_pieces(c, &part, row);
    }
}

q_status cpu_linear(rt_backend *be, const rt_linear_args *a, q_err *err)
{
    const cpu_be *c = cpu_of(be);
    const linear_row *row = row_of(c->isa, a->w->scheme, a->n_tok);

    if (a->epi == RT_EPI_SILU_MUL && a->w->N % 2 != 0)
        return q_fail(err, Q_ESHAPE, "linear: %lld rows have no gate and up half",
                      (long long)a->w->N);
    if (row->dot || row->group)
        in_codes(c, a, row);
    else
        all_pieces(c, a, row);
    return Q_OK;
}
