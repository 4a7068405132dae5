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
 * Codes of an int8 cache are taken as they are: the scale of the head's keys goes into q, that of
 * its values into y.
 *
 * Pages are taken in order by one thread, so the result does not depend on the number of threads.
 */
#include <math.h>
#include <string.h>

#include "runtime/cpu/cpu.h"

static const cpu_attn_kernels *const table[] = { &cpu_attn_avx512, &cpu_attn_avx2 };

static const cpu_attn_kernels *kernels_of(cpu_isa isa) /* NULL: plain C */
{
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (table[i]->isa <= isa)
            return table[i];
    return NULL;
}

#define X_FLOATS (CPU_ATTN_ROWS * CPU_LDX)
#define O_FLOATS (CPU_ATTN_ROWS * 2 * CPU_BLOCK_N)
#define K_FLOATS (RT_PAGE * CPU_MAX_HD)
#define S_FLOATS (CPU_TILE_M * CPU_BLOCK_N)
#define PER_ROW  3 /* max, sum, n_keys */

_Static_assert(CPU_MAX_HD + RT_PAGE <= CPU_LDX, "q and the weights of a page share a row");
_Static_assert(CPU_MAX_HD <= 2 * CPU_BLOCK_N, "o has two blocks of columns");

size_t cpu_attn_scratch(void)
{
    return (X_FLOATS + O_FLOATS + K_FLOATS + S_FLOATS + PER_ROW * CPU_ATTN_ROWS) * sizeof(float);
}

static void lay_out(cpu_attn *a, float *p)
{
    a->x = p;
    a->o = a->x + X_FLOATS;
    a->k_panels = a->o + O_FLOATS;
    a->scores = a->o + O_FLOATS + K_FLOATS;
    a->max = a->scores + S_FLOATS;
    a->sum = a->max + CPU_ATTN_ROWS;
    a->n_keys = (int *)(void *)(a->sum + CPU_ATTN_ROWS);
}

/* Rows r0 .. r0 + c->rows - 1 of kv head h of sequence s. */
static void piece(const rt_attn_args *a, cpu_attn *c, int s, int64_t h, int64_t r0)
{
    const rt_batch *b = a->b;
    const int64_t group = a->m->n_head / a->m->n_kv, hd = a->m->hd;
    const int64_t head = a->layer * a->m->n_kv + h;
    const float root = sqrtf((float)hd), k_scale = a->kv->k_scale ? a->kv->k_scale[head] : 1.0f,
                v_scale = a->kv->v_scale ? a->kv->v_scale[head] : 1.0f;
    const int32_t *pos = b->pos + b->q_start[s];
    const int64_t width = a->m->n_head * hd, first = b->q_start[s] * width + h * group * hd;
    const int32_t last = pos[(r0 + c->rows - 1) / group];

    for (int r = 0; r < c->rows; r++) {
        const int64_t at = first + (r0 + r) / group * width + (r0 + r) % group * hd;

        for (int64_t i = 0; i < hd; i++) {
            c->x[r * CPU_LDX + i] = ((const float *)a->q)[at + i] / root * k_scale;
            *cpu_attn_o(c, r, i) = 0;
        }
        c->max[r] = -INFINITY;
        c->sum[r] = 0;
    }
    for (int64_t j = 0; j <= last; j += RT_PAGE) {
        for (int r = 0; r < c->rows; r++) {
            const int64_t n = pos[(r0 + r) / group] + 1 - j;

            c->n_keys[r] = n < 0 ? 0 : n < RT_PAGE ? (int)n : RT_PAGE;
        }
        cpu_attn_page(
            c, cpu_kv_at(a->kv, b, a->layer, 0, s, h, j), cpu_kv_at(a->kv, b, a->layer, 1, s, h, j),
            j + RT_PAGE <= last ? cpu_kv_at(a->kv, b, a->layer, 0, s, h, j + RT_PAGE) : NULL);
    }
    for (int r = 0; r < c->rows; r++) {
        float *y = (float *)a->y + first + (r0 + r) / group * width + (r0 + r) % group * hd;

        for (int64_t i = 0; i < hd; i++)
            y[i] = *cpu_attn_o(c, r, i) / c->sum[r] * v_scale;
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
    int64_t n = 0, work = 0;

    if (a->m->hd < 1 || a->m->hd > CPU_MAX_HD || a->m->n_head % n_kv != 0)
        return q_fail(err, Q_EUNSUPPORTED,
                      "attention: %lld heads over %lld, width %lld; the width is at most %d",
                      (long long)a->m->n_head, (long long)n_kv, (long long)a->m->hd, CPU_MAX_HD);
    for (int s = 0; s < b->n_seq; s++) {
        n += pieces_of(b, s, group) * n_kv;
        work += (int64_t)(b->q_start[s + 1] - b->q_start[s]) * b->kv_len[s];
    }
    work *= 2 * a->m->n_head * a->m->hd;
#pragma omp parallel for num_threads(c->threads) schedule(dynamic) if (work >= CPU_ALONE)
    for (int64_t i = n - 1; i >= 0; i--) { /* from the end: the longest pieces first */
        cpu_attn one = { .kernels = kernels_of(c->isa),
                         .hd = a->m->hd,
                         .kv = a->kv->format->dtype };
        int64_t at = i, r0, rows;
        int s = 0;

        for (; at >= pieces_of(b, s, group) * n_kv; s++)
            at -= pieces_of(b, s, group) * n_kv;
        r0 = at / n_kv * CPU_ATTN_ROWS;
        rows = (b->q_start[s + 1] - b->q_start[s]) * group - r0;
        one.rows = rows < CPU_ATTN_ROWS ? (int)rows : CPU_ATTN_ROWS;
        lay_out(&one, cpu_scratch(c));
        piece(a, &one, s, at % n_kv, r0);
    }
    return Q_OK;
}
