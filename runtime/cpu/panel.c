/* Weights in quads of panels: packing, reading back a row, and the product of one piece.
 *
 * Many tokens: the piece walks K in stretches of CPU_TILE_K; of each, the codes of its rows stay in
 * L2 while the tokens pass in tiles of up to CPU_TILE_M.  A tile of x is copied first, so that its
 * rows neither share cache sets nor need more than one address.  Few tokens: x is read in place
 * and all of K at once, so that a quad is one long forward stream, which is what memory wants. */
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_mem.h"
#include "runtime/cpu/group.h"

/* What moves when rows become panels: an element, or a word of several codes. */
typedef struct unit {
    int bytes, codes;
    uint8_t zero; /* a byte of zeros, in the panel */
    uint8_t flip; /* added to every byte of a canonical row */
} unit;

static unit unit_of(const qnt_scheme *s)
{
    if (cpu_in_codes(s))
        return (unit){ .bytes = 4, .codes = 4, .zero = 0x80, .flip = 0x80 };
    if (s->bits == 4)
        return (unit){ .bytes = 4, .codes = 8, .zero = 0x88 };
    return (unit){ .bytes = s->bits / 8, .codes = 1 };
}

/* [64][n] -> [n][64], elements of `bytes`; inlined for each size.  Rows are often a power of two
 * apart and would share the 8 ways of a set of L1, so 16 of them give a line or so at a time. */
static inline void transpose(char *dst, const char *const src[CPU_QUAD], int64_t n, size_t bytes)
{
    enum { STRETCH = 32 };

    for (int64_t k = 0; k < n; k += STRETCH) {
        const int64_t end = n - k < STRETCH ? n : k + STRETCH;

        for (int p = 0; p < CPU_QUAD; p += CPU_PANEL)
            for (int64_t i = k; i < end; i++)
                for (int r = p; r < p + CPU_PANEL; r++)
                    memcpy(dst + (size_t)(i * CPU_QUAD + r) * bytes, src[r] + (size_t)i * bytes,
                           bytes);
    }
}

/* rows n0 .. n0 + 63 */
static void pack_quad(char *dst, const qnt_tensor *t, int64_t n0)
{
    const unit u = unit_of(t->scheme);
    const size_t row = qnt_row_bytes(t->scheme, t->K);
    const int64_t whole = t->K / u.codes, units = cpu_round_up(t->K, u.codes) / u.codes;
    const int rows = t->N - n0 < CPU_QUAD ? (int)(t->N - n0) : CPU_QUAD;
    const char *src[CPU_QUAD];
    char *tail = dst + (size_t)(whole * CPU_QUAD * u.bytes);

    for (int r = 0; r < CPU_QUAD; r++) /* missing rows repeat the first and are cleared below */
        src[r] = (const char *)t->codes + (size_t)(r < rows ? n0 + r : n0) * row;
    if (u.bytes == 4)
        transpose(dst, src, whole, 4);
    else if (u.bytes == 2)
        transpose(dst, src, whole, 2);
    else
        transpose(dst, src, whole, 1);
    if (units > whole) {
        memset(tail, u.zero ^ u.flip, (size_t)(CPU_QUAD * u.bytes));
        for (int r = 0; r < CPU_QUAD; r++)
            memcpy(tail + r * u.bytes, src[r] + whole * u.bytes, row - (size_t)(whole * u.bytes));
    }
    for (int64_t i = 0; u.flip && i < units * CPU_QUAD * u.bytes; i++)
        dst[i] = (char)(dst[i] ^ u.flip);
    for (int64_t i = 0; rows < CPU_QUAD && i < units; i++)
        memset(dst + (i * CPU_QUAD + rows) * u.bytes, u.zero,
               (size_t)((CPU_QUAD - rows) * u.bytes));
}

q_status cpu_panel_pack(rt_weight *dst, const qnt_tensor *src, int threads, q_err *err)
{
    const unit u = unit_of(src->scheme);
    const int64_t quads = cpu_round_up(src->N, CPU_QUAD) / CPU_QUAD;
    const int64_t units = cpu_round_up(src->K, u.codes) / u.codes;
    const int64_t quad_bytes = units * CPU_QUAD * u.bytes; /* N, K < 2^31: fits */
    size_t bytes;
    char *p;

    if (!q_mul_ok((size_t)quads, (size_t)quad_bytes, &bytes))
        return q_fail(err, Q_ESHAPE, "weight [%lld, %lld] exceeds the address space",
                      (long long)src->N, (long long)src->K);
    if (!(p = cpu_block_alloc(bytes)))
        return q_fail(err, Q_ENOMEM, "cpu: no memory for a weight of %zu bytes", bytes);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < quads; i++)
        pack_quad(p + i * quad_bytes, src, i * CPU_QUAD);
    dst->data = p;
    dst->row_bytes = quad_bytes;
    return Q_OK;
}

void cpu_panel_row(float *dst, const rt_weight *w, int64_t row)
{
    enum { STRETCH = 256 };
    const unit u = unit_of(w->scheme);
    const char *p =
        (const char *)w->data + row / CPU_QUAD * w->row_bytes + row % CPU_QUAD * u.bytes;
    char codes[STRETCH * 4];
    const qnt_row r = { .codes = codes, .scale = w->scale ? w->scale + row : NULL };

    if (w->scheme->grouped) {
        cpu_group_row(dst, w, row);
        return;
    }
    for (int64_t k = 0; k < w->K; k += STRETCH) {
        const int64_t n = w->K - k < STRETCH ? w->K - k : STRETCH;

        for (int64_t i = 0; i < n; i += u.codes, p += CPU_QUAD * u.bytes)
            memcpy(codes + i / u.codes * u.bytes, p, (size_t)u.bytes);
        for (int64_t i = 0; u.flip && i < n; i++)
            codes[i] = (char)(codes[i] ^ u.flip);
        w->scheme->dequantize(dst + k, &r, 0, n);
    }
}

/* the most tokens of a tile such that all tiles are about equal */
static int tile_of(int m)
{
    const int tiles = (m + CPU_TILE_M - 1) / CPU_TILE_M;

    return (m + tiles - 1) / tiles;
}

static void copy_x(float *tile, const cpu_job *j, int t, int m, int64_t k, int64_t n)
{
    for (int i = 0; i < m; i++)
        memcpy(tile + i * CPU_LDX, j->x + (t + i) * j->w->K + k, (size_t)n * sizeof *tile);
}

/* all quads of a tile of tokens; a: but for weights, panels and out, which is out's first column */
static void tile(const cpu_job *j, cpu_mul a, int64_t k)
{
    const char *w = (const char *)j->w->data + k * a.k_bytes;
    float *out = a.out;

    for (int n = 0; n < j->n; n += CPU_QUAD) {
        a.w = w + (j->n0 + n) / CPU_QUAD * j->w->row_bytes;
        a.panels = cpu_panels(j->n - n);
        a.out = out + n;
        j->panel(&a);
    }
}

void cpu_mul_panels(const cpu_job *j)
{
    const rt_weight *w = j->w;
    const unit u = unit_of(w->scheme);
    const int few = j->m <= CPU_FEW;
    const int64_t K_step = few ? w->K : CPU_TILE_K;
    const int step = tile_of(j->m), columns = (int)cpu_round_up(j->n, CPU_PANEL);

    for (int t = 0; t < j->m; t++)
        memset(j->out + t * CPU_BLOCK_N, 0, (size_t)columns * sizeof *j->out);
    for (int64_t k = 0; k < w->K; k += K_step) {
        cpu_mul a = { .n = w->K - k < K_step ? w->K - k : K_step,
                      .panel_bytes = CPU_PANEL * u.bytes,
                      .k_bytes = CPU_QUAD * u.bytes / u.codes };

        for (int t = 0; t < j->m; t += step) {
            a.m = j->m - t < step ? j->m - t : step;
            a.x = few ? j->x : j->tmp;
            a.ldx = few ? w->K : CPU_LDX;
            a.out = j->out + t * CPU_BLOCK_N;
            if (!few)
                copy_x(j->tmp, j, t, a.m, k, a.n);
            tile(j, a, k);
        }
    }
    if (!w->scale)
        return;
    for (int t = 0; t < j->m; t++)
        for (int i = 0; i < j->n; i++)
            j->out[t * CPU_BLOCK_N + i] *= w->scale[j->n0 + i];
}
