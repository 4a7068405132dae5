/* Weights in groups (w4g, w8g) on the CPU: their layout, activations in blocks, the kernels.
 * Included by runtime/cpu/ only.
 *
 * Activations.  Each block of CPU_BLOCK columns of a token gets a scale of its own and codes of 8
 * bits.  That costs perplexity little (0.03 to 0.06 % of qwen-tiny; blocks of 128: 0.03 to 0.08),
 * and products of bytes are four times as fast as those of float32:
 *     amax = max(1e-30, max |x|)   q = round_even(x * (127 / amax))   s = amax / 127
 * A block with a value that is not finite gets codes 0 and s = NaN: so is every product with it.
 *
 * Order of columns.  Columns of a group lie together, and a group fills whole spans: 1 to 4 blocks,
 * the same for all groups.  Where the file has groups of 32, 64, 96 or 128 columns in order this is
 * the order of x; else `order` says which column stands at a place, -1 for none, and x is gathered.
 *
 * Weights are panels of CPU_PANEL rows, a panel is a row of spans, and a span is lines of 64 bytes:
 *     1 line    [16] words: of each row, scale and zero (cpu_group_head)
 *     w4g       4 lines a block; byte 4 r + i of a line holds columns 8 l + i (low) and
 *               8 l + 4 + i (high nibble) of row r; l: the line in its block
 *     w8g       8 lines a block; byte 4 r + i of a line is column 4 l + i of row r
 * so that one lane of 32 bits is one row and nothing is summed across a vector.
 *
 * Result of token and row, one rounding an operation, in this order whatever the instruction set,
 * the number of threads or of tokens:
 *     X = sum over blocks of fma((float)(sum of q), s, X)        of a span, once for a token
 *     v = -zero * X,  then over its blocks  v = fma((float)(sum of code * q), s, v)
 *     y = fma(scale, v, y)                                       over the spans
 * The integer sums are exact and, below 2^24, so are they as floats. */
#ifndef GROUP_H
#define GROUP_H

#include "formats/base/q_half.h"
#include "runtime/cpu/cpu.h"

#define CPU_BLOCK      32 /* columns that share a scale of activations */
#define CPU_SPAN       4  /* blocks of a span, at most */
#define CPU_LINE       64
#define CPU_GROUP_STEP 2048 /* columns of one kernel call for many tokens, as CPU_DOT_TILE_K */

/* Scale and zero of a group in a word: the upper 24 bits of the float, which hold any float16 or
 * bfloat16 value (others are rounded), and 8 bits. */
static inline uint32_t cpu_group_head(float scale, uint8_t zero)
{
    return ((q_f32_to_bits(scale) + 0x80) & 0xffffff00u) | zero;
}

/* How a prepared weight is cut: rt_weight.group becomes the columns of a span, rt_weight.g_idx the
 * order or NULL; scale and zero are inside the panels. */
typedef struct cpu_spans {
    int blocks;    /* of a span */
    int64_t n;     /* spans of a row */
    int64_t bytes; /* of a span of a panel */
} cpu_spans;

cpu_spans cpu_spans_of(const rt_weight *w);

/* group_pack.c.  pack: data, row_bytes, group and g_idx of *dst from *src.  row: one row as f32. */
q_status cpu_group_pack(rt_weight *dst, const qnt_tensor *src, int threads, q_err *err);
void cpu_group_row(float *dst, const rt_weight *w, int64_t row);

/* grouped.c.  A row of codes: [places] i8, then the block scales s [blocks] and, of each span, -X.
 */
int64_t cpu_group_code_bytes(const rt_weight *w);
void cpu_group_codes(cpu_codes *c, const rt_weight *w, const float *x, int m, int threads);

/* One kernel call: out += tokens times panels, for some spans.
 *   q      [m] codes from the first span on, rows ld bytes apart; m <= CPU_TILE_M
 *   s, nx  block scales and -X, likewise
 *   w      first panel, from the first span on; panels lie panel_bytes apart
 *   out    [m] rows CPU_BLOCK_N apart, 16 columns for each panel */
struct cpu_group {
    const int8_t *q;
    const char *s, *nx;
    int64_t ld;
    int m, blocks, panels;
    int64_t spans, panel_bytes;
    const char *w;
    float *out;
};

cpu_group_fn cpu_group4_ref, cpu_group8_ref;   /* grouped.c */
cpu_group_fn cpu_group4_avx2, cpu_group8_avx2; /* group_avx2.c */
cpu_group_fn cpu_group4_vnni, cpu_group8_vnni; /* group_vnni.c */

#endif
