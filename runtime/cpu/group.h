/* Weights in groups (w4g, w8g) on the CPU: their layout, activations in blocks, the kernels.
 * Included by runtime/cpu/ only.
 *
 * Activations.  Parts of a span, up to 64 columns, share a scale and get codes of 8 bits.  Products
 * of bytes are four times as fast as those of float32, and a part is summed in integers:
 *     amax = max(1e-30, max |x|)   q = round_even(x * (127 / amax))   s = amax / 127
 * Longer parts are faster and less exact.  Prefill of int4 in groups of 128 against w8a8, and what
 * perplexity of qwen-tiny adds to that of parts of 32: 64 0.89 and 0.04 to 0.09 %, 128 0.96 and
 * 0.08 to 0.12 %; parts of 32 0.75. A part with a value that is not finite gets codes 0 and s =
 * NaN: so is every product with it.
 *
 * Order of columns.  Columns of a group lie together, and a group fills whole spans of 1 to 4
 * blocks of CPU_BLOCK columns, the same for all groups.  Where the file has groups of 32, 64, 96 or
 * 128 columns in order this is the order of x; else `order` says which column stands at a place, -1
 * for none, and x is gathered.
 *
 * Weights are quads of CPU_QUAD rows (cpu.h), a quad is a row of spans, and a span is lines of 4
 * bytes a row:
 *     1 line    [64] words: of each row, scale and zero (cpu_group_head)
 *     w4g       4 lines a block; byte 4 r + i of a line holds columns 8 l + i (low) and
 *               8 l + 4 + i (high nibble) of row r; l: the line in its block
 *     w8g       8 lines a block; byte 4 r + i of a line is column 4 l + i of row r
 * so that one lane of 32 bits is one row and nothing is summed across a vector.
 *
 * Result of token and row, in this order whatever the instruction set, the number of threads or of
 * tokens, one rounding for the product with s and one for fma:
 *     y = fma(scale, (float)(sum of (code - zero) * q) * s, y)       over the parts
 * The sums are integers below 2^24, exact in any order and as floats; what the zeros take off,
 * -zero * (sum of q), is two factors of 16 bits. */
#ifndef GROUP_H
#define GROUP_H

#include "formats/base/q_half.h"
#include "runtime/cpu/cpu.h"

#define CPU_BLOCK      32
#define CPU_SPAN       4 /* blocks of a span, at most */
#define CPU_PART       2 /* blocks of a part; of the last one of a span maybe fewer */
#define CPU_LINE       (4 * CPU_QUAD)
#define CPU_GROUP_STEP 2048 /* columns of one kernel call for many tokens, as CPU_DOT_TILE_K */

/* Scale and zero of a group in a word: the upper 24 bits of the float, which hold any float16 or
 * bfloat16 value (others are rounded), and 8 bits. */
static inline uint32_t cpu_group_head(float scale, uint8_t zero)
{
    return ((q_f32_to_bits(scale) + 0x80) & 0xffffff00u) | zero;
}

/* How a prepared weight is cut: rt_weight.group becomes the columns of a span, rt_weight.g_idx the
 * order or NULL; scale and zero are inside the quads. */
typedef struct cpu_spans {
    int blocks;    /* of a span */
    int64_t n;     /* spans of a row */
    int64_t bytes; /* of a span of a quad */
} cpu_spans;

cpu_spans cpu_spans_of(const rt_weight *w);

/* group_pack.c.  pack: data, row_bytes, group and g_idx of *dst from *src.  row: one row as f32. */
q_status cpu_group_pack(rt_weight *dst, const qnt_tensor *src, int threads, q_err *err);
void cpu_group_row(float *dst, const rt_weight *w, int64_t row);

static inline int cpu_parts(int blocks) /* of a span */
{
    return (blocks + CPU_PART - 1) / CPU_PART;
}

/* What a kernel needs to know of a token's part: the scale, and the sum of its codes negated. */
typedef struct cpu_group_scale {
    float s;
    int32_t less;
} cpu_group_scale;

/* grouped.c.  A row of codes: [places] i8, then a cpu_group_scale of each part. */
int64_t cpu_group_code_bytes(const rt_weight *w);
void cpu_group_codes(cpu_codes *c, const rt_weight *w, const float *x, int m, int threads);

/* One kernel call: out += tokens times the panels of a quad, for some spans.
 *   q    [m] codes from the first span on, rows ld bytes apart; m <= CPU_TILE_M
 *   s    their cpu_group_scale, likewise
 *   w    a quad, from the first span on; panels <= 4
 *   out  [m] rows CPU_BLOCK_N apart, 16 columns for each panel */
struct cpu_group {
    const int8_t *q;
    const char *s;
    int64_t ld;
    int m, blocks, panels;
    int64_t spans;
    const char *w;
    float *out;
};

cpu_group_fn cpu_group4_ref, cpu_group8_ref;   /* grouped.c */
cpu_group_fn cpu_group4_avx2, cpu_group8_avx2; /* group_avx2.c */
cpu_group_fn cpu_group4_vnni, cpu_group8_vnni; /* group_vnni.c */

#endif
