/* One page of keys and values added to the running softmax of a piece (attn.c).  Three ways:
 *
 *   rows      Two products of matrices by the panel kernels.  k is turned into panels of 16 keys
 *             once for all rows of the piece; v already is one: [keys][hd], 16 columns at a time.
 *             Rows go in tiles: scores, softmax, weighted sum, while all of it is in L1.
 *   one row   Decode without groups: dot products with the keys, a weighted sum of the values.
 *             The page passes as a stream, a third faster than the first way from memory.
 *   plain C   cpu-ref, and widths that are no multiple of 16.
 *
 * Keys past a row's own position get weight 0.  Keys that no row sees are not read: their slots
 * may hold anything. */
#include <math.h>
#include <string.h>

#include "runtime/cpu/cpu.h"

static float *weights(const cpu_attn *a, int r)
{
    return a->x + r * CPU_LDX + CPU_MAX_HD;
}

static int most_keys(const cpu_attn *a)
{
    int n = 0;

    for (int r = 0; r < a->rows; r++)
        n = a->n_keys[r] > n ? a->n_keys[r] : n;
    return n;
}

static void shrink_row(cpu_attn *a, int r, float f)
{
    if (f == 1.0f) /* the maximum did not move */
        return;
    for (int64_t i = 0; i < a->hd; i += CPU_BLOCK_N) {
        float *o = cpu_attn_o(a, r, i);
        const int64_t n = a->hd - i < CPU_BLOCK_N ? a->hd - i : CPU_BLOCK_N;

        for (int64_t j = 0; j < n; j++)
            o[j] *= f;
    }
}

/* ---- plain C -------------------------------------------------------------------------------- */

/* Scores of one row into weights, in place: p = exp(s - max), max and sum brought up to date; what
 * was summed so far must be multiplied with the result. */
static float softmax_plain(float *s, int n, float *max, float *sum)
{
    const float before = *max;
    float shrink;

    for (int j = 0; j < n; j++)
        *max = s[j] > *max ? s[j] : *max;
    shrink = expf(before - *max); /* 0 on the first page: before is -infinity */
    *sum *= shrink;
    for (int j = 0; j < n; j++) {
        s[j] = expf(s[j] - *max);
        *sum += s[j];
    }
    return shrink;
}

static void widen(float *to, const char *from, fmt_dtype type, int64_t n)
{
    if (type != FMT_I8)
        fmt_convert(to, FMT_F32, from, type, (size_t)n, NULL);
    for (int64_t i = 0; type == FMT_I8 && i < n; i++)
        to[i] = ((const int8_t *)from)[i];
}

static void page_plain(cpu_attn *a, const void *k, const void *v)
{
    const size_t row = (size_t)a->hd * fmt_dtype_bytes(a->kv);
    const int n = most_keys(a);
    float s[CPU_ATTN_ROWS][RT_PAGE], key[CPU_MAX_HD];

    for (int j = 0; j < n; j++) {
        widen(key, (const char *)k + (size_t)j * row, a->kv, a->hd);
        for (int r = 0; r < a->rows; r++) {
            const float *q = a->x + r * CPU_LDX;
            float sum = 0;

            for (int64_t i = 0; i < a->hd; i++)
                sum += q[i] * key[i];
            s[r][j] = sum;
        }
    }
    for (int r = 0; r < a->rows; r++)
        if (a->n_keys[r] > 0)
            shrink_row(a, r, softmax_plain(s[r], a->n_keys[r], &a->max[r], &a->sum[r]));
    for (int j = 0; j < n; j++) {
        widen(key, (const char *)v + (size_t)j * row, a->kv, a->hd);
        for (int r = 0; r < a->rows; r++)
            for (int64_t i = 0; i < a->hd && j < a->n_keys[r]; i++)
                *cpu_attn_o(a, r, i) += s[r][j] * key[i];
    }
}

/* ---- one row -------------------------------------------------------------------------------- */

/* Keys of one stretch.  While it is worked on, what is needed next is fetched into L2: pages are
 * short and lie apart, so the processor would start each one anew (10 against 16 GB/s of one
 * thread; into L1 it is no faster than nothing: too few misses can be in flight). */
#define STRETCH 16

static void fetch(const char *p, int64_t bytes)
{
    for (int64_t i = 0; p && i < bytes; i += 64)
        __builtin_prefetch(p + i, 0, 1);
}

static const char *after(const char *page, int64_t offset) /* NULL stays NULL */
{
    return page ? page + offset : NULL;
}

static void page_stream(cpu_attn *a, const char *k, const char *v, const char *next)
{
    const int64_t bytes = (int64_t)fmt_dtype_bytes(a->kv), row = a->hd * bytes;
    const int n = a->n_keys[0];
    float *p = weights(a, 0);

    for (int j = 0; j < n; j += STRETCH) {
        fetch(v + j * row, STRETCH * row);
        a->kernels->dots(p + j, a->x, k + j * row, a->kv, n - j < STRETCH ? n - j : STRETCH, a->hd);
    }
    shrink_row(a, 0, a->kernels->softmax(p, p, n, a->max, a->sum));
    for (int j = 0; j < n; j += STRETCH) {
        fetch(after(next, j * row), STRETCH * row);
        for (int64_t i = 0; i < a->hd; i += CPU_BLOCK_N)
            a->kernels->axpy(cpu_attn_o(a, 0, i), p + j, v + j * row + i * bytes, a->kv,
                             n - j < STRETCH ? n - j : STRETCH, a->hd,
                             a->hd - i < CPU_BLOCK_N ? a->hd - i : CPU_BLOCK_N);
    }
}

/* ---- rows ----------------------------------------------------------------------------------- */

/* rows r .. r + m - 1: softmax of their scores; what was summed so far shrinks */
static void tile_softmax(cpu_attn *a, int r, int m)
{
    for (int i = 0; i < m; i++) {
        float *p = weights(a, r + i);

        if (a->n_keys[r + i] == 0)
            memset(p, 0, RT_PAGE * sizeof *p);
        else
            shrink_row(a, r + i,
                       a->kernels->softmax(p, a->scores + i * CPU_BLOCK_N, a->n_keys[r + i],
                                           &a->max[r + i], &a->sum[r + i]));
    }
}

/* k into panels, a panel at a time so that v can be fetched meanwhile */
static void turn_keys(const cpu_attn *a, const char *k, const char *v, int keys)
{
    const int64_t panel = CPU_PANEL * a->hd * (int64_t)fmt_dtype_bytes(a->kv);
    char *to = a->k_panels;

    for (int j = 0; j < keys; j += CPU_PANEL, to += panel, k += panel, v += panel) {
        fetch(v, panel);
        a->kernels->turn(to, k, a->kv, keys - j < CPU_PANEL ? keys - j : CPU_PANEL, a->hd);
    }
}

/* scores of rows r .. r + m - 1 */
static void tile_scores(const cpu_attn *a, int r, int m, int keys)
{
    const int64_t bytes = (int64_t)fmt_dtype_bytes(a->kv);
    const cpu_mul mul = { .x = a->x + r * CPU_LDX,
                          .ldx = CPU_LDX,
                          .m = m,
                          .n = a->hd,
                          .w = a->k_panels,
                          .panel_bytes = a->hd * CPU_PANEL * bytes,
                          .k_bytes = CPU_PANEL * bytes,
                          .panels = (keys + CPU_PANEL - 1) / CPU_PANEL,
                          .out = a->scores };

    for (int i = 0; i < m; i++)
        memset(a->scores + i * CPU_BLOCK_N, 0, RT_PAGE * sizeof *a->scores);
    a->kernels->panel[a->kv](&mul);
}

/* o += p v for rows r .. r + m - 1 */
static void tile_values(const cpu_attn *a, int r, int m, int keys, const char *v)
{
    const int64_t bytes = (int64_t)fmt_dtype_bytes(a->kv);
    cpu_mul mul = { .x = weights(a, r),
                    .ldx = CPU_LDX,
                    .m = m,
                    .n = keys,
                    .panel_bytes = CPU_PANEL * bytes,
                    .k_bytes = a->hd * bytes };

    for (int64_t i = 0; i < a->hd; i += CPU_BLOCK_N) {
        const int64_t width = a->hd - i < CPU_BLOCK_N ? a->hd - i : CPU_BLOCK_N;

        mul.w = v + i * bytes;
        mul.panels = (int)(width / CPU_PANEL);
        mul.out = cpu_attn_o(a, r, i);
        a->kernels->panel[a->kv](&mul);
    }
}

static void page_panels(cpu_attn *a, const void *k, const void *v, const char *next)
{
    const int64_t half = RT_PAGE * a->hd * (int64_t)fmt_dtype_bytes(a->kv) / 2;
    const int keys = most_keys(a);

    turn_keys(a, k, v, keys);
    fetch(next, half);
    for (int r = 0; r < a->rows; r += CPU_TILE_M) {
        const int m = a->rows - r < CPU_TILE_M ? a->rows - r : CPU_TILE_M;

        tile_scores(a, r, m, keys);
        tile_softmax(a, r, m);
        tile_values(a, r, m, keys, v);
        if (r == 0)
            fetch(after(next, half), half);
    }
}

void cpu_attn_page(cpu_attn *a, const void *k, const void *v, const void *next)
{
    if (!a->kernels || a->hd % CPU_PANEL != 0)
        page_plain(a, k, v);
    else if (a->rows == 1)
        page_stream(a, k, v, next);
    else
        page_panels(a, k, v, next);
}
