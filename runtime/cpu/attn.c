/* Causal attention over pages, with a running softmax (Milakov and Gimelshein 2018), in float32.
 *
 * A piece is up to CPU_ATTN_ROWS query rows of one sequence that read the same kv head; the rows
 * are the tokens of the sequence in this call times the query heads of the group, token by token.
 * One token of decode is such a piece too, with as many rows as the group has heads.
 *
 *   for each page up to the last position of the piece:
 *       s = q k'            keys past a row's own position are left out
 *       m' = max(m, max s)  p = exp(s - m')  o = o exp(m - m') + p v  l = l exp(m - m') + sum p
 *   y = o / l
 *
 * Pages are taken in order by one thread, so the result does not depend on the number of threads.
 */
#include <math.h>
#include <string.h>

#include "runtime/cpu/cpu.h"

typedef struct attn_row {
    cpu_isa isa;
    cpu_attn_fn *page;
} attn_row;

static const attn_row table[] = {
    { CPU_REF, cpu_attn_page_ref },
};

static cpu_attn_fn *page_fn(cpu_isa isa)
{
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (table[i].isa == isa)
            return table[i].page;
    return cpu_attn_page_ref;
}

static float dot(const float *a, const float *b, int64_t n)
{
    float s = 0;

    for (int64_t i = 0; i < n; i++)
        s += a[i] * b[i];
    return s;
}

/* the rows of one page as f32: [n, hd] */
static void widen(float *dst, const void *src, fmt_dtype type, int64_t n)
{
    fmt_convert(dst, FMT_F32, src, type, (size_t)n, NULL);
}

void cpu_attn_page_ref(cpu_attn *a, const void *k, const void *v)
{
    float *kf = a->tmp, *vf = kf + RT_PAGE * a->hd;
    int most = 0;

    for (int r = 0; r < a->rows; r++)
        most = a->n_keys[r] > most ? a->n_keys[r] : most;
    widen(kf, k, a->kv, most * a->hd);
    widen(vf, v, a->kv, most * a->hd);
    for (int r = 0; r < a->rows; r++) {
        float *o = a->o + r * a->hd, s[RT_PAGE], max = a->max[r], shrink;

        for (int j = 0; j < a->n_keys[r]; j++) {
            s[j] = dot(a->q + r * a->hd, kf + j * a->hd, a->hd);
            max = s[j] > max ? s[j] : max;
        }
        shrink = expf(a->max[r] - max); /* 0 on the first page: max was -infinity */
        a->sum[r] *= shrink;
        for (int64_t i = 0; i < a->hd; i++)
            o[i] *= shrink;
        for (int j = 0; j < a->n_keys[r]; j++) {
            const float p = expf(s[j] - max);

            a->sum[r] += p;
            for (int64_t i = 0; i < a->hd; i++)
                o[i] += p * vf[j * a->hd + i];
        }
        a->max[r] = max;
    }
}

size_t cpu_attn_scratch(void)
{
    return (2 * CPU_ATTN_ROWS * CPU_MAX_HD + 2 * CPU_ATTN_ROWS + CPU_ATTN_TMP) * sizeof(float) +
           CPU_ATTN_ROWS * sizeof(int);
}

static void lay_out(cpu_attn *a, float *p)
{
    a->q = p;
    a->o = a->q + CPU_ATTN_ROWS * CPU_MAX_HD;
    a->tmp = a->o + CPU_ATTN_ROWS * CPU_MAX_HD;
    a->max = a->tmp + CPU_ATTN_TMP;
    a->sum = a->max + CPU_ATTN_ROWS;
    a->n_keys = (int *)(void *)(a->sum + CPU_ATTN_ROWS);
}

/* Rows r0 .. r0 + c->rows - 1 of kv head h of sequence s. */
static void piece(const rt_attn_args *a, cpu_attn_fn *page, cpu_attn *c, int s, int64_t h,
                  int64_t r0)
{
    const rt_batch *b = a->b;
    const int64_t group = a->m->n_head / a->m->n_kv, hd = a->m->hd;
    const float root = sqrtf((float)hd);
    const int32_t *pos = b->pos + b->q_start[s];
    const int64_t width = a->m->n_head * hd, first = b->q_start[s] * width + h * group * hd;
    const int32_t last = pos[(r0 + c->rows - 1) / group];

    for (int r = 0; r < c->rows; r++) {
        const int64_t at = first + (r0 + r) / group * width + (r0 + r) % group * hd;

        for (int64_t i = 0; i < hd; i++)
            c->q[r * hd + i] = ((const float *)a->q)[at + i] / root;
        c->max[r] = -INFINITY;
        c->sum[r] = 0;
    }
    memset(c->o, 0, (size_t)(c->rows * hd) * sizeof(float));
    for (int64_t j = 0; j <= last; j += RT_PAGE) {
        for (int r = 0; r < c->rows; r++) {
            const int64_t n = pos[(r0 + r) / group] + 1 - j;

            c->n_keys[r] = n < 0 ? 0 : n < RT_PAGE ? (int)n : RT_PAGE;
        }
        page(c, cpu_kv_at(a->kv, b, a->layer, 0, s, h, j),
             cpu_kv_at(a->kv, b, a->layer, 1, s, h, j));
    }
    for (int r = 0; r < c->rows; r++) {
        float *y = (float *)a->y + first + (r0 + r) / group * width + (r0 + r) % group * hd;

        for (int64_t i = 0; i < hd; i++)
            y[i] = c->o[r * hd + i] / c->sum[r];
    }
}

static int64_t pieces_of(const rt_batch *b, int s, int64_t group)
{
    const int64_t rows = (b->q_start[s + 1] - b->q_start[s]) * group;

    return (rows + CPU_ATTN_ROWS - 1) / CPU_ATTN_ROWS;
}

q_status cpu_attention(rt_backend *be, const rt_attn_args *a, q_err *err)
{
    const cpu_be *c = cpu_of(be);
    const rt_batch *b = a->b;
    const int64_t n_kv = a->m->n_kv, group = a->m->n_head / n_kv;
    cpu_attn_fn *page = page_fn(c->isa);
    int64_t n = 0;

    if (a->m->hd < 1 || a->m->hd > CPU_MAX_HD || a->m->n_head % n_kv != 0)
        return q_fail(err, Q_EUNSUPPORTED,
                      "attention: %lld heads over %lld, width %lld; the width is at most %d",
                      (long long)a->m->n_head, (long long)n_kv, (long long)a->m->hd, CPU_MAX_HD);
    for (int s = 0; s < b->n_seq; s++)
        n += pieces_of(b, s, group) * n_kv;
#pragma omp parallel for num_threads(c->threads) schedule(dynamic)
    for (int64_t i = n - 1; i >= 0; i--) { /* from the end: the longest pieces first */
        cpu_attn one = { .hd = a->m->hd, .kv = a->kv->format->dtype };
        int64_t at = i, r0, rows;
        int s = 0;

        for (; at >= pieces_of(b, s, group) * n_kv; s++)
            at -= pieces_of(b, s, group) * n_kv;
        r0 = at / n_kv * CPU_ATTN_ROWS;
        rows = (b->q_start[s + 1] - b->q_start[s]) * group - r0;
        one.rows = rows < CPU_ATTN_ROWS ? (int)rows : CPU_ATTN_ROWS;
        lay_out(&one, cpu_scratch(c));
        piece(a, page, &one, s, at % n_kv, r0);
    }
    return Q_OK;
}
