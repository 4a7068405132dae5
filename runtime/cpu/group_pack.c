/* Weights in groups, from canonical rows to quads of spans (group.h) and back a row.
 *
 * The order of columns is found first: those of a group together, in their own order, each group
 * padded to whole spans.  It is the same for all rows, so x is gathered once for all of them.
 * Places without a column have code 0 and meet activations of code 0.  Sizes: a group of one column
 * still takes a span of 32 places, so places are at most 32 (K + G) and are checked. */
#include <string.h>

#include "formats/base/q_half.h"
#include "formats/base/q_mem.h"
#include "runtime/cpu/group.h"

static int lines_of_block(const qnt_scheme *s)
{
    return s->bits == 4 ? 4 : 8;
}

static int64_t span_bytes(const qnt_scheme *s, int blocks)
{
    return CPU_LINE * (1 + (int64_t)blocks * lines_of_block(s));
}

cpu_spans cpu_spans_of(const rt_weight *w)
{
    cpu_spans s = { .blocks = (int)(w->group / CPU_BLOCK) };

    s.bytes = span_bytes(w->scheme, s.blocks);
    s.n = w->row_bytes / s.bytes;
    return s;
}

/* blocks of a span: as few spans as cover a group, all equal */
static int blocks_of(int64_t group, int64_t K)
{
    const int64_t blocks = ((group < K ? group : K) + CPU_BLOCK - 1) / CPU_BLOCK;
    const int64_t spans = (blocks + CPU_SPAN - 1) / CPU_SPAN;

    return (int)((blocks + spans - 1) / spans);
}

static int64_t group_of(const qnt_tensor *t, int64_t k)
{
    return t->g_idx ? t->g_idx[k] : k / t->group;
}

/* What becomes of the columns. */
typedef struct plan {
    int in_order;        /* every column stands at its own place, only the end is padded */
    int64_t cols, spans; /* columns of a span, spans of a row */
    int32_t *order;      /* [spans * cols] */
    int32_t *group;      /* [spans] */
} plan;

static void free_plan(plan *p)
{
    q_free(p->order);
    q_free(p->group);
}

/* first [G + 1]: the first place of each group, from the number of its columns */
static q_status first_places(int64_t *first, plan *p, const qnt_tensor *t, int64_t G, q_err *err)
{
    q_status st = Q_OK;

    for (int64_t k = 0; k < t->K; k++) {
        if (group_of(t, k) < 0 || group_of(t, k) >= G)
            Q_FAIL(err, Q_EFORMAT, "%s: column %lld is in group %lld; wanted 0 .. %lld",
                   t->scheme->name, (long long)k, (long long)group_of(t, k), (long long)(G - 1));
        first[group_of(t, k) + 1]++;
    }
    for (int64_t g = 0; g < G; g++)
        first[g + 1] = first[g] + cpu_round_up(first[g + 1], p->cols);
    p->spans = first[G] / p->cols;
    if (p->spans * p->cols > CPU_DOT_MAX_K / 2)
        Q_FAIL(err, Q_ESHAPE, "%s: %lld columns in groups of %lld take %lld places, at most %lld",
               t->scheme->name, (long long)t->K, (long long)t->group, (long long)first[G],
               (long long)(CPU_DOT_MAX_K / 2));
out:
    return st;
}

static q_status make_plan(plan *p, const qnt_tensor *t, q_err *err)
{
    q_status st = Q_OK;
    const int64_t G = qnt_n_groups(t->scheme, t->K, t->group);
    int64_t *first = q_calloc((size_t)G + 1, sizeof *first);

    p->cols = (int64_t)blocks_of(t->group, t->K) * CPU_BLOCK;
    if (!first)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %lld groups", t->scheme->name, (long long)G);
    Q_TRY(first_places(first, p, t, G, err));
    p->order = q_malloc((size_t)(p->spans * p->cols) * sizeof *p->order);
    p->group = q_calloc((size_t)p->spans, sizeof *p->group);
    if (!p->order || !p->group)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for the order of %lld columns", t->scheme->name,
               (long long)t->K);
    memset(p->order, 0xff, (size_t)(p->spans * p->cols) * sizeof *p->order); /* -1 */
    for (int64_t g = 0; g < G; g++)
        for (int64_t s = first[g] / p->cols; s < first[g + 1] / p->cols; s++)
            p->group[s] = (int32_t)g;
    for (int64_t k = 0; k < t->K; k++)
        p->order[first[group_of(t, k)]++] = (int32_t)k;
    p->in_order = 1;
    for (int64_t i = 0; i < p->spans * p->cols; i++)
        p->in_order &= p->order[i] == (i < t->K ? i : -1);
out:
    q_free(first);
    return st;
}

/* codes [cols] of a row at the places of span s */
static void codes_of(uint8_t *codes, const plan *p, const qnt_tensor *t, const uint8_t *row,
                     int64_t s)
{
    const int32_t *order = p->order + s * p->cols;
    const int64_t k0 = s * p->cols;
    const int whole = p->in_order && k0 + p->cols <= t->K; /* k0 is even */

    if (whole && t->scheme->bits == 8) {
        memcpy(codes, row + k0, (size_t)p->cols);
    } else if (whole) {
        for (int64_t i = 0; i < p->cols / 2; i++) {
            codes[2 * i] = row[k0 / 2 + i] & 15;
            codes[2 * i + 1] = row[k0 / 2 + i] >> 4;
        }
    } else {
        for (int64_t i = 0; i < p->cols; i++) {
            const int64_t k = order[i];

            codes[i] = k < 0                  ? 0
                       : t->scheme->bits == 8 ? row[k]
                       : k % 2 == 0           ? row[k / 2] & 15
                                              : row[k / 2] >> 4;
        }
    }
}

static void pack_quad(char *dst, const plan *p, const qnt_tensor *t, int64_t n0)
{
    const int64_t bytes = span_bytes(t->scheme, (int)(p->cols / CPU_BLOCK));
    const int rows = t->N - n0 < CPU_QUAD ? (int)(t->N - n0) : CPU_QUAD;
    uint8_t c[CPU_BLOCK * CPU_SPAN];

    memset(dst, 0, (size_t)(p->spans * bytes)); /* missing rows: scale 0 */
    for (int64_t s = 0; s < p->spans; s++, dst += bytes)
        for (int r = 0; r < rows; r++) {
            const qnt_row row = qnt_tensor_row(t, n0 + r);
            const uint32_t head = cpu_group_head(row.scale[p->group[s]], row.zero[p->group[s]]);
            char *to = dst + 4 * r;

            memcpy(to, &head, sizeof head);
            codes_of(c, p, t, row.codes, s);
            if (t->scheme->bits == 4)
                for (int64_t i = 0; i < p->cols; i += 8)
                    for (int j = 0; j < 4; j++)
                        to[CPU_LINE * (1 + i / 8) + j] = (char)(c[i + j] | c[i + 4 + j] << 4);
            else
                for (int64_t i = 0; i < p->cols; i += 4)
                    memcpy(to + CPU_LINE * (1 + i / 4), c + i, 4);
        }
}

q_status cpu_group_pack(rt_weight *dst, const qnt_tensor *src, int threads, q_err *err)
{
    q_status st = Q_OK;
    const int64_t quads = cpu_round_up(src->N, CPU_QUAD) / CPU_QUAD;
    int64_t quad_bytes;
    plan p = { 0 };
    size_t bytes;
    char *data;

    if (src->group < 1)
        Q_FAIL(err, Q_EARG, "weight [%lld, %lld]: groups of %lld columns; wanted 1 or more",
               (long long)src->N, (long long)src->K, (long long)src->group);
    Q_TRY(make_plan(&p, src, err));
    quad_bytes = p.spans * span_bytes(src->scheme, (int)(p.cols / CPU_BLOCK));
    if (!q_mul_ok((size_t)quads, (size_t)quad_bytes, &bytes))
        Q_FAIL(err, Q_ESHAPE, "weight [%lld, %lld] exceeds the address space", (long long)src->N,
               (long long)src->K);
    if (!(data = cpu_block_alloc(bytes)))
        Q_FAIL(err, Q_ENOMEM, "cpu: no memory for a weight of %zu bytes", bytes);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < quads; i++)
        pack_quad(data + i * quad_bytes, &p, src, i * CPU_QUAD);
    dst->data = data;
    dst->row_bytes = quad_bytes;
    dst->group = p.cols;
    if (!p.in_order) {
        dst->g_idx = p.order;
        p.order = NULL;
    }
out:
    free_plan(&p);
    return st;
}

void cpu_group_row(float *dst, const rt_weight *w, int64_t row)
{
    const cpu_spans spans = cpu_spans_of(w);
    const int r = (int)(row % CPU_QUAD);
    const char *span = (const char *)w->data + row / CPU_QUAD * w->row_bytes;

    for (int64_t s = 0; s < spans.n; s++, span += spans.bytes) {
        uint32_t head;

        memcpy(&head, span + 4 * r, sizeof head);
        for (int64_t i = 0; i < w->group; i++) {
            const int64_t place = s * w->group + i, k = w->g_idx ? w->g_idx[place] : place;
            const uint8_t *line = (const uint8_t *)span + CPU_LINE + 4 * r + i % 4;
            const int code = w->scheme->bits == 8 ? line[i / 4 * CPU_LINE]
                                                  : line[i / 8 * CPU_LINE] >> (i & 4) & 15;

            if (k >= 0 && k < w->K)
                dst[k] = (float)(code - (int)(head & 255)) * q_bits_to_f32(head & 0xffffff00u);
        }
    }
}
