/* Products of activations in blocks with weights in groups (w4g, w8g): the codes of a token, one
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
    return places_of(w) + 4 * (places_of(w) / CPU_BLOCK + cpu_spans_of(w).n);
}

/* the columns of x at the places from `first` on: x itself where they lie together */
static const float *block_of(float buf[CPU_BLOCK], const rt_weight *w, const float *x,
                             int64_t first)
{
    if (!w->g_idx && first + CPU_BLOCK <= w->K)
        return x + first;
    for (int64_t i = first; i < first + CPU_BLOCK; i++) {
        const int64_t k = w->g_idx ? w->g_idx[i] : i < w->K ? i : -1;

        buf[i - first] = k < 0 ? 0 : x[k];
    }
    return buf;
}

/* codes of a block; *scale and their sum */
static int32_t make_block(int8_t *Q_RESTRICT q, float *scale, const float *Q_RESTRICT x)
{
    int32_t top = 0, sum = 0; /* bits of the largest |x|: infinity and NaN come out on top */
    float amax, f;

    for (int i = 0; i < CPU_BLOCK; i++) {
        const int32_t u = (int32_t)(q_f32_to_bits(x[i]) & 0x7fffffffu);

        top = u > top ? u : top;
    }
    amax = q_bits_to_f32((uint32_t)top);
    if (!isfinite(amax)) {
        memset(q, 0, CPU_BLOCK);
        *scale = NAN;
        return 0;
    }
    amax = amax > AMAX_MIN ? amax : AMAX_MIN;
    f = 127.0f / amax;
    for (int i = 0; i < CPU_BLOCK; i++)
        q[i] = cpu_round_i8(x[i] * f);
    for (int i = 0; i < CPU_BLOCK; i++)
        sum += q[i];
    *scale = amax / 127.0f;
    return sum;
}

static void one_row(int8_t *q, const rt_weight *w, const float *x)
{
    const cpu_spans spans = cpu_spans_of(w);
    const int64_t places = spans.n * w->group;
    char *s = (char *)q + places, *nx = s + places / CPU_BLOCK * 4;
    float buf[CPU_BLOCK];

    for (int64_t span = 0; span < spans.n; span++, nx += 4) {
        float sum = 0;

        for (int b = 0; b < spans.blocks; b++, s += 4, q += CPU_BLOCK) {
            const int64_t first = span * w->group + b * CPU_BLOCK;
            float scale;
            const int32_t v = make_block(q, &scale, block_of(buf, w, x, first));

            sum = fmaf((float)v, scale, sum);
            memcpy(s, &scale, sizeof scale);
        }
        sum = -sum;
        memcpy(nx, &sum, sizeof sum);
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

void cpu_mul_grouped(const cpu_job *j)
{
    const rt_weight *w = j->w;
    const cpu_spans spans = cpu_spans_of(w);
    const int64_t places = spans.n * w->group, ld = j->codes->ld;
    const int64_t stretch = j->m <= CPU_FEW ? spans.n : CPU_GROUP_STEP / w->group;
    const int step = tile_of(j->m), columns = (int)cpu_round_up(j->n, CPU_PANEL);

    for (int t = 0; t < j->m; t++)
        memset(j->out + t * CPU_BLOCK_N, 0, (size_t)columns * sizeof *j->out);
    for (int64_t s = 0; s < spans.n; s += stretch)
        for (int t = 0; t < j->m; t += step) {
            const int8_t *q = j->codes->q + (j->t0 + t) * ld;
            const char *scales = (const char *)q + places;

            j->group(&(cpu_group){ .q = q + s * w->group,
                                   .s = scales + 4 * s * spans.blocks,
                                   .nx = scales + 4 * (spans.n * spans.blocks + s),
                                   .ld = ld,
                                   .m = j->m - t < step ? j->m - t : step,
                                   .blocks = spans.blocks,
                                   .panels = columns / CPU_PANEL,
                                   .spans = spans.n - s < stretch ? spans.n - s : stretch,
                                   .panel_bytes = w->row_bytes,
                                   .w = (const char *)w->data + j->n0 / CPU_PANEL * w->row_bytes +
                                        s * spans.bytes,
                                   .out = j->out + t * CPU_BLOCK_N });
        }
}

/* ---- the kernels in plain C ----------------------------------------------------------------- */

static inline float float_at(const char *p)
{
    float v;

    memcpy(&v, p, sizeof v);
    return v;
}

/* sum [16] of a block: codes q, lines at w */
static inline void block_ref(int32_t sum[CPU_PANEL], const int8_t *q, const uint8_t *w, int bits)
{
    for (int r = 0; r < CPU_PANEL; r++)
        sum[r] = 0;
    for (int k = 0; k < CPU_BLOCK; k += 4)
        for (int r = 0; r < CPU_PANEL; r++)
            for (int i = 0; i < 4; i++) {
                const int byte = w[k / (32 / bits) * CPU_LINE + 4 * r + i];

                sum[r] += q[k + i] * (bits == 8 ? byte : k % 8 == 0 ? byte & 15 : byte >> 4);
            }
}

static inline void kernel_ref(const cpu_group *a, int bits)
{
    const int64_t block_bytes = CPU_LINE * bits;

    for (int p = 0; p < a->panels; p++)
        for (int t = 0; t < a->m; t++) {
            const char *w = a->w + p * a->panel_bytes, *s = a->s + t * a->ld;
            const int8_t *q = a->q + t * a->ld;
            float *out = a->out + t * CPU_BLOCK_N + p * CPU_PANEL;

            for (int64_t i = 0; i < a->spans; i++) {
                const float nx = float_at(a->nx + t * a->ld + 4 * i);
                float v[CPU_PANEL];
                uint32_t head[CPU_PANEL];
                int32_t sum[CPU_PANEL];

                memcpy(head, w, sizeof head);
                w += CPU_LINE;
                for (int r = 0; r < CPU_PANEL; r++)
                    v[r] = (float)(int)(head[r] & 255) * nx;
                for (int b = 0; b < a->blocks; b++, q += CPU_BLOCK, s += 4, w += block_bytes) {
                    block_ref(sum, q, (const uint8_t *)w, bits);
                    for (int r = 0; r < CPU_PANEL; r++)
                        v[r] = fmaf((float)sum[r], float_at(s), v[r]);
                }
                for (int r = 0; r < CPU_PANEL; r++)
                    out[r] = fmaf(q_bits_to_f32(head[r] & 0xffffff00u), v[r], out[r]);
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
