/* Products of activations in spans with weights in groups (w4g, w8g): the codes of a token, one
 * piece, and the kernels in plain C.  group.h defines layout and arithmetic.
 *
 * Many tokens: the piece walks the spans in stretches of CPU_GROUP_STEP columns; the weights of one
 * stay in L2, its codes in L1, while the tokens pass in tiles of up to CPU_TILE_M.  Few tokens: all
 * spans at once, so that the weights are long forward streams. */
#include <math.h>
#include <string.h>

#include "formats/base/q_half.h"
#include "runtime/cpu/cpu_math.h"
#include "runtime/cpu/group.h"

#define AMAX_MIN 1e-30f /* 127 / AMAX_MIN is finite */

/* ---- activations ---------------------------------------------------------------------------- */

static int64_t places_of(const rt_weight *w)
{
    return cpu_spans_of(w).n * w->group;
}

int64_t cpu_group_code_bytes(const rt_weight *w)
{
    const cpu_spans s = cpu_spans_of(w);

    return places_of(w) + (int64_t)sizeof(cpu_group_scale) * s.n * cpu_parts(s.blocks);
}

/* the columns of x at the places of a span: x itself where they lie together */
static const float *span_of(float buf[CPU_SPAN * CPU_BLOCK], const rt_weight *w, const float *x,
                            int64_t span)
{
    const int64_t first = span * w->group;

    if (!w->g_idx && first + w->group <= w->K)
        return x + first;
    for (int64_t i = first; i < first + w->group; i++) {
        const int64_t k = w->g_idx ? w->g_idx[i] : i < w->K ? i : -1;

        buf[i - first] = k < 0 ? 0 : x[k];
    }
    return buf;
}

/* codes of n columns, their scale and sum */
static cpu_group_scale make_part(int8_t *Q_RESTRICT q, const float *Q_RESTRICT x, int64_t n)
{
    int32_t top = 0, sum = 0; /* bits of the largest |x|: infinity and NaN come out on top */
    float amax, f;

    for (int64_t i = 0; i < n; i++) {
        const int32_t u = (int32_t)(q_f32_to_bits(x[i]) & 0x7fffffffu);

        top = u > top ? u : top;
    }
    amax = q_bits_to_f32((uint32_t)top);
    if (!isfinite(amax)) {
        memset(q, 0, (size_t)n);
        return (cpu_group_scale){ .s = NAN };
    }
    amax = amax > AMAX_MIN ? amax : AMAX_MIN;
    f = 127.0f / amax;
    for (int64_t i = 0; i < n; i++)
        q[i] = cpu_round_i8(x[i] * f);
    for (int64_t i = 0; i < n; i++)
        sum += q[i];
    return (cpu_group_scale){ .s = amax / 127.0f, .less = -sum };
}

static void one_row(int8_t *q, const rt_weight *w, const float *x)
{
    const cpu_spans spans = cpu_spans_of(w);
    const int64_t most = CPU_PART * CPU_BLOCK;
    char *s = (char *)q + spans.n * w->group;
    float buf[CPU_SPAN * CPU_BLOCK];

    for (int64_t i = 0; i < spans.n; i++) {
        const float *v = span_of(buf, w, x, i);

        for (int64_t k = 0; k < w->group; k += most, s += sizeof(cpu_group_scale)) {
            const int64_t n = w->group - k < most ? w->group - k : most;
            const cpu_group_scale of = make_part(q + i * w->group + k, v + k, n);

            memcpy(s, &of, sizeof of);
        }
    }
}

void cpu_group_codes(cpu_codes *c, const rt_weight *w, const float *x, int m, int threads)
{
    c->ld = cpu_codes_ld(cpu_group_code_bytes(w));
#pragma omp parallel for num_threads(threads)                                                      \
    schedule(static) if (m > 1 && m * w->K >= CPU_CODES_ALONE)
    for (int t = 0; t < m; t++)
        one_row(c->q + t * c->ld, w, x + t * w->K);
}

/* ---- one piece ------------------------------------------------------------------------------ */

/* the most tokens of a tile such that all tiles are about equal */
static int tile_of(int m)
{
    const int tiles = (m + CPU_TILE_M - 1) / CPU_TILE_M;

    return (m + tiles - 1) / tiles;
}

/* all quads of tokens t .. t + m - 1, spans s .. s + n - 1 */
static void tile(const cpu_job *j, const cpu_spans *spans, int t, int m, int64_t s, int64_t n)
{
    const rt_weight *w = j->w;
    const int8_t *q = j->codes->q + (j->t0 + t) * j->codes->ld;
    const char *scales = (const char *)q + spans->n * w->group;

    for (int i = 0; i < j->n; i += CPU_QUAD)
        j->group(&(cpu_group){
            .q = q + s * w->group,
            .s = scales + s * cpu_parts(spans->blocks) * (int64_t)sizeof(cpu_group_scale),
            .ld = j->codes->ld,
            .m = m,
            .blocks = spans->blocks,
            .panels = cpu_panels(j->n - i),
            .spans = n,
            .w = (const char *)w->data + (j->n0 + i) / CPU_QUAD * w->row_bytes + s * spans->bytes,
            .out = j->out + t * CPU_BLOCK_N + i });
}

void cpu_mul_grouped(const cpu_job *j)
{
    const cpu_spans spans = cpu_spans_of(j->w);
    const int64_t stretch = j->m <= CPU_FEW ? spans.n : CPU_GROUP_STEP / j->w->group;
    const int step = tile_of(j->m), columns = (int)cpu_round_up(j->n, CPU_PANEL);

    for (int t = 0; t < j->m; t++)
        memset(j->out + t * CPU_BLOCK_N, 0, (size_t)columns * sizeof *j->out);
    for (int64_t s = 0; s < spans.n; s += stretch)
        for (int t = 0; t < j->m; t += step)
            tile(j, &spans, t, j->m - t < step ? j->m - t : step, s,
                 spans.n - s < stretch ? spans.n - s : stretch);
}

/* ---- the kernels in plain C ----------------------------------------------------------------- */

/* out [16] += a part of `columns`: codes q, lines at w */
static inline void part_ref(float *out, const uint32_t *head, const char *w, const int8_t *q,
                            const char *s, int columns, int bits)
{
    cpu_group_scale of;
    int32_t sum[CPU_PANEL];

    memcpy(&of, s, sizeof of);
    for (int r = 0; r < CPU_PANEL; r++)
        sum[r] = (int)(head[r] & 255) * of.less;
    for (int k = 0; k < columns; k += 4)
        for (int r = 0; r < CPU_PANEL; r++)
            for (int i = 0; i < 4; i++) {
                const int byte = (uint8_t)w[k / (32 / bits) * CPU_LINE + 4 * r + i];

                sum[r] += q[k + i] * (bits == 8 ? byte : k % 8 == 0 ? byte & 15 : byte >> 4);
            }
    for (int r = 0; r < CPU_PANEL; r++)
        out[r] = fmaf(q_bits_to_f32(head[r] & 0xffffff00u), (float)sum[r] * of.s, out[r]);
}

static inline void kernel_ref(const cpu_group *a, int bits)
{
    for (int p = 0; p < a->panels; p++)
        for (int t = 0; t < a->m; t++) {
            const char *w = a->w + 4 * CPU_PANEL * p, *s = a->s + t * a->ld;
            const int8_t *q = a->q + t * a->ld;

            for (int64_t i = 0; i < a->spans; i++) {
                uint32_t head[CPU_PANEL];

                memcpy(head, w, sizeof head);
                w += CPU_LINE;
                for (int b = 0; b < a->blocks; b += CPU_PART, s += sizeof(cpu_group_scale)) {
                    const int n = a->blocks - b < CPU_PART ? a->blocks - b : CPU_PART;

                    part_ref(a->out + t * CPU_BLOCK_N + p * CPU_PANEL, head, w, q, s, n * CPU_BLOCK,
                             bits);
                    w += CPU_LINE * bits * n;
                    q += CPU_BLOCK * n;
                }
            }
        }
}

void cpu_group4_ref(const cpu_group *a)
{
    kernel_ref(a, 4);
}

void cpu_group8_ref(const cpu_group *a)
{
    kernel_ref(a, 8);
}
