/* Inside the CPU backend: what its files share.  Included by runtime/cpu/ only.
 *
 * Two kinds of function: operations (cpu_embed, ...), which check, cut the work into pieces of
 * fixed size and hand them to OpenMP; and kernels, which do one piece.  A kernel exists once in
 * plain C and once per instruction set, in files of their own because the compiler flags differ.
 * Tables in linear.c and attn.c choose; the level is fixed when the backend opens.
 *
 * Determinism: a piece is computed by one thread, its arithmetic does not depend on which, and
 * pieces never share an output, so results have the same bits for any number of threads.  The
 * SIMD kernels go further: a row of x times W is one chain of FMA per CPU_TILE_K elements of K, for
 * any number of tokens and for both instruction sets, so a sequence gets the same bits whatever
 * shares its batch.  Sums of w8a8 are integers: every kernel, plain C included, gives the same. */
#ifndef CPU_H
#define CPU_H

#include <stddef.h>
#include <stdint.h>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "runtime/backend.h"

/* Each level includes those before it.  CPU_VNNI: AVX-512 with dot products of bytes. */
typedef enum cpu_isa { CPU_REF, CPU_AVX2, CPU_AVX512, CPU_VNNI } cpu_isa;

#define CPU_MAX_THREADS 64  /* OpenBLAS packages reserve buffers for 64 callers */
#define CPU_MAX_HD      256 /* head width; bounds the scratch of attention */
#define CPU_ALIGN       64  /* of all scratch: one zmm register */

typedef struct cpu_be {
    cpu_isa isa;
    int threads;
    char *scratch; /* [threads][scratch_bytes], made when the backend opens */
    size_t scratch_bytes;
    struct cpu_codes *codes; /* of w8a8; NULL before such a weight was prepared */
} cpu_be;

static inline cpu_be *cpu_of(rt_backend *be)
{
    return be->impl;
}

static inline void *cpu_scratch(const cpu_be *c) /* of the calling thread */
{
#if defined(_OPENMP)
    return c->scratch + c->scratch_bytes * (size_t)omp_get_thread_num();
#else
    return c->scratch;
#endif
}

/* ---- weights ------------------------------------------------------------------------------- */

/* Layout of weights for the SIMD kernels, made by prep: panels of CPU_PANEL rows, four side by
 * side, which is a quad.  A quad holds the 64 codes of k = 0, then those of k = 1, and so on; a
 * vector of codes is a panel's 16 rows at one k.
 *
 *   f32 f16 bf16 w8   [quads][K][4][16] elements
 *   w4                [quads][ceil(K / 8)][4][16] words of 32 bits: 8 successive codes of a row,
 *                     the first in the low nibble, as in the canonical order
 *   w8a8              [quads][ceil(K / 4)][4][16] words of 32 bits: 4 successive codes of a row,
 *                     each plus 128 (dot products of bytes take one operand without sign)
 *   w4g w8g           group.h
 *
 * One token needs the sums of four panels at a time, because a sum takes four cycles, and then the
 * weight is one stream from its first byte to its last.  Panels one behind the other are four
 * streams, which a processor does not fetch ahead as well: of the read bandwidth of one thread they
 * reached 73 % with int8, 75 % with groups of int4 and 90 % with f16, quads 89, 100 and 98 %.
 *
 * Missing rows of the last quad and missing codes of the last word are the code of zero.
 * rt_weight keeps N, K and, in row_bytes, the bytes of a quad.  "cpu-ref", and a scheme without
 * such a kernel, keep the canonical rows; w8a8, w4g and w8g have kernels everywhere. */
#define CPU_PANEL 16
#define CPU_QUAD  64

static inline int64_t cpu_round_up(int64_t n, int64_t to)
{
    return (n + to - 1) / to * to;
}

static inline int cpu_panels(int rows) /* that hold the first rows of a quad */
{
    return rows < CPU_QUAD ? (rows + CPU_PANEL - 1) / CPU_PANEL : CPU_QUAD / CPU_PANEL;
}

/* In panel.c.  pack: data and row_bytes of *dst from *src; row: one row as f32. */
q_status cpu_panel_pack(rt_weight *dst, const qnt_tensor *src, int threads, q_err *err);
void cpu_panel_row(float *dst, const rt_weight *w, int64_t row);

void *cpu_block_alloc(size_t bytes); /* be_cpu.c; freed with free() */

/* ---- linear -------------------------------------------------------------------------------- */

#define CPU_TILE_M  12  /* tokens of one kernel call */
#define CPU_FEW     4   /* up to here x is read in place, and all of K at once */
#define CPU_TILE_K  512 /* of K: a tile of x is 24 KiB and stays in L1 */
#define CPU_GROUP_M 96  /* tokens of one piece */
/* Multiplications below which one thread does it all: some 8 us.  Waking others costs a few of
 * them on an idle machine, and a time slice, a hundred times as much, when a core is busy. */
#define CPU_ALONE   ((int64_t)1 << 18)
#define CPU_BLOCK_N 128 /* rows of one piece */

/* Distance of rows in a tile of x.  Not a power of two: rows 4 KiB apart would share the 8 ways of
 * one set of L1. */
#define CPU_LDX (CPU_TILE_K + 16)

/* One kernel call: out += x times panels.
 *   x    [m] rows ldx apart, n of K; m > CPU_FEW: ldx is CPU_LDX
 *   w    first panel, from the k of x on
 * Sums restart every CPU_TILE_K elements, so n of several calls must be multiples of it.
 *   out  [m] rows CPU_BLOCK_N apart, 16 columns for each panel; sums of codes, without scale */
typedef struct cpu_mul {
    const float *x;
    int64_t ldx;
    int m;
    int64_t n;
    const char *w;
    int64_t panel_bytes; /* from one panel to the next */
    int64_t k_bytes;     /* from one k to the next; w4: an eighth of that from word to word */
    int panels;
    float *out;
} cpu_mul;

typedef void cpu_panel_fn(const cpu_mul *a);

cpu_panel_fn cpu_panel_f32_avx2, cpu_panel_f16_avx2, cpu_panel_bf16_avx2, cpu_panel_w8_avx2,
    cpu_panel_w4_avx2;
cpu_panel_fn cpu_panel_f32_avx512, cpu_panel_f16_avx512, cpu_panel_bf16_avx512, cpu_panel_w8_avx512,
    cpu_panel_w4_avx512;

int cpu_in_panels(cpu_isa isa, const qnt_scheme *s); /* 0: weights stay in canonical rows */
int cpu_in_codes(const qnt_scheme *s); /* 1: activations become codes by token: w8a8 */

/* ---- w8a8 ---------------------------------------------------------------------------------- */

#define CPU_CODES_M     512                /* tokens quantized at a time */
#define CPU_CODES_BYTES ((int64_t)8 << 20) /* and at most so many bytes of codes */
/* Elements to quantize below which one thread does it all: some 10 us, as CPU_ALONE. */
#define CPU_CODES_ALONE ((int64_t)1 << 16)
#define CPU_DOT_MAX_K   ((int64_t)1 << 20)
/* Elements whose sum of products fits in 32 bits: 255 * 128 * 65536 < 2^31. */
#define CPU_DOT_K      65536
#define CPU_DOT_TILE_K 2048 /* of K: codes of 12 tokens are 24 KiB and stay in L1 */

/* Activations as int8 codes.  Storage is reserved when a weight is prepared, filled once per call
 * of linear for cpu_codes_tokens(K) of its tokens at a time. */
typedef struct cpu_codes {
    int8_t *q;    /* rows ld apart; zeros from K on */
    int64_t ld;   /* an odd number of cache lines, so that rows do not share cache sets */
    size_t bytes; /* of q */
    float scale[CPU_CODES_M]; /* x = code * scale; NaN: the row had a value that is not finite */
    int32_t sum[CPU_CODES_M]; /* of the codes of a row */
} cpu_codes;

/* In quant_rows.c.  K: columns, or bytes of a row of codes.  reserve: for weights with this K;
 * tokens: how many fit; ld: distance of rows. */
q_status cpu_codes_reserve(cpu_codes **c, int64_t K, q_err *err);
void cpu_codes_free(cpu_codes *c);
int64_t cpu_codes_tokens(int64_t K);
int64_t cpu_codes_ld(int64_t K);
/* x [m, K] into codes.  x_scale 0: per token, amax = max(1e-6, max |x|), code = round_even(x * (127
 * / amax)), scale = amax / 127; else code = round_even(x / x_scale), saturated to -128 .. 127. A
 * row with a NaN or an infinity gets codes 0 and scale NaN, so that its products are NaN. */
void cpu_codes_make(cpu_codes *c, const float *x, int m, int64_t K, float x_scale, int threads);

/* One kernel call: out += codes times panels, exact.
 *   q    [m] rows ld apart, 4 * words of K, readable up to the next multiple of 32; m <=
 *        CPU_TILE_M, and m > CPU_FEW: 4 * words <= CPU_DOT_TILE_K
 *   w    a quad, from the k of q on; panels <= 4
 *   out  [m] rows CPU_BLOCK_N apart, 16 columns for each panel: sums of q * (code + 128) */
typedef struct cpu_dot {
    const int8_t *q;
    int64_t ld;
    int m;
    int64_t words;
    const uint8_t *w;
    int panels;
    int32_t *out;
} cpu_dot;

typedef void cpu_dot_fn(const cpu_dot *a);
typedef struct cpu_group cpu_group; /* group.h */
typedef void cpu_group_fn(const cpu_group *a);

cpu_dot_fn cpu_dot_ref, cpu_dot_avx2, cpu_dot_vnni;

/* ---- one piece ----------------------------------------------------------------------------- */

/* The product of one piece, scaled: out[t, i] = x_t . w_(n0 + i), t < m <= CPU_GROUP_M, i < n <=
 * CPU_BLOCK_N.
 *   x    [m, K] f32      out  [m] rows CPU_BLOCK_N apart
 *   tmp  CPU_JOB_TMP floats of scratch */
typedef struct cpu_job {
    const rt_weight *w;
    int64_t n0;
    int n;
    const float *x;
    int m;
    float *out, *tmp;
    cpu_panel_fn *panel;
    const struct cpu_codes *codes; /* w8a8, w4g, w8g, for x: these tokens are its rows t0 on */
    int64_t t0;
    cpu_dot_fn *dot;
    cpu_group_fn *group; /* of w4g and w8g, whose tokens are codes as well */
} cpu_job;

/* dequantized weights, and a tile of x */
#define CPU_JOB_TMP (CPU_BLOCK_N * CPU_TILE_K + CPU_TILE_M * CPU_LDX)

typedef void cpu_job_fn(const cpu_job *j);

cpu_job_fn cpu_mul_panels;                      /* panel.c */
cpu_job_fn cpu_mul_grouped;                     /* grouped.c */
cpu_job_fn cpu_mul_dots;                        /* dot.c */
cpu_job_fn cpu_mul_rows, cpu_mul_gemm;          /* rows_ref.c */
qnt_row cpu_row(const rt_weight *w, int64_t n); /* row n of a weight that is not in panels */

size_t cpu_linear_scratch(void); /* bytes per thread */

/* ---- attention ----------------------------------------------------------------------------- */

#define CPU_ATTN_ROWS 96 /* query rows of one piece: 8 full tiles */

/* Kernels of attention for one instruction set; head widths are multiples of 16.  k, v: the rows of
 * a page, [n, hd] in the KV format; n <= RT_PAGE. */
typedef struct cpu_attn_kernels {
    cpu_isa isa;
    cpu_panel_fn *panel[FMT_I8 + 1]; /* by KV format */
    /* One row of scores into weights: p = exp(s - max), 0 from n on (1 <= n <= RT_PAGE); *max and
     * *sum are brought up to date; earlier sums must be multiplied with the result.  s, p
     * [RT_PAGE], may be the same. */
    float (*softmax)(float *p, const float *s, int n, float *max, float *sum);
    /* k as panels of 16 keys: [n / 16, rounded up][hd][16] elements; what lies behind key n - 1 in
     * the last panel is arbitrary. */
    void (*turn)(void *panels, const void *k, fmt_dtype type, int n, int64_t hd);
    /* For one query row: s = q k', and o += p v for the first `width` columns of v (a multiple of
     * 16, at most CPU_BLOCK_N). */
    void (*dots)(float *s, const float *q, const void *k, fmt_dtype type, int n, int64_t hd);
    void (*axpy)(float *o, const float *p, const void *v, fmt_dtype type, int n, int64_t hd,
                 int64_t width);
} cpu_attn_kernels;

void cpu_attn_turn_avx2(void *panels, const void *k, fmt_dtype type, int n, int64_t hd);
extern const cpu_attn_kernels cpu_attn_avx2, cpu_attn_avx512;

/* One piece: query rows that read the same kv head, and their running softmax. */
typedef struct cpu_attn {
    const cpu_attn_kernels *kernels; /* NULL: plain C */
    int rows;
    int64_t hd;
    fmt_dtype kv;
    float *x; /* [rows] CPU_LDX apart: q / sqrt(hd), from CPU_MAX_HD on the weights of a page */
    float *o; /* weighted sum so far: [hd / CPU_BLOCK_N, rounded up][rows][CPU_BLOCK_N] */
    float *max, *sum; /* [rows] */
    int *n_keys;      /* [rows] keys of the page at hand that the row sees, 0 .. RT_PAGE */
    float *scores;    /* [CPU_TILE_M, CPU_BLOCK_N] */
    void *k_panels;   /* [RT_PAGE / CPU_PANEL][hd][CPU_PANEL] in the KV format */
} cpu_attn;

/* element i of row r */
static inline float *cpu_attn_o(const cpu_attn *a, int r, int64_t i)
{
    return a->o + (i / CPU_BLOCK_N * CPU_ATTN_ROWS + r) * CPU_BLOCK_N + i % CPU_BLOCK_N;
}

/* Adds one page: k and v [RT_PAGE, hd] in the KV format; next: the keys of the page after it or
 * NULL, fetched ahead.  In attn_page.c. */
void cpu_attn_page(cpu_attn *a, const void *k, const void *v, const void *next);

size_t cpu_attn_scratch(void); /* bytes per thread */

/* ---- operations ---------------------------------------------------------------------------- */

size_t cpu_pick_scratch(void); /* bytes per thread */

q_status cpu_embed(rt_backend *be, const rt_embed_args *a, q_err *err);
q_status cpu_rmsnorm(rt_backend *be, const rt_rmsnorm_args *a, q_err *err);
q_status cpu_linear(rt_backend *be, const rt_linear_args *a, q_err *err);
q_status cpu_qkv_rope_store(rt_backend *be, const rt_qkv_args *a, q_err *err);
q_status cpu_keys(rt_backend *be, const rt_keys_args *a, q_err *err);
q_status cpu_attention(rt_backend *be, const rt_attn_args *a, q_err *err);
q_status cpu_pick(rt_backend *be, const rt_pick_args *a, q_err *err);

/* y [dim] = x / sqrt(mean(x^2) + eps) * w; y may be x.  In norm.c. */
void cpu_rmsnorm_row(float *y, const float *x, const float *w, int64_t dim, double eps);

/* Address of slot j % RT_PAGE of position j: K (which 0) or V (which 1) of kv head h. */
static inline char *cpu_kv_at(const rt_kv *kv, const rt_batch *b, int layer, int which, int seq,
                              int64_t h, int64_t j)
{
    const int32_t page = b->block[(int64_t)seq * b->max_blocks + j / RT_PAGE];
    const int64_t i = (((int64_t)layer * kv->n_pages + page) * 2 + which) * kv->n_kv + h;

    return (char *)kv->base +
           (size_t)((i * RT_PAGE + j % RT_PAGE) * kv->hd) * fmt_dtype_bytes(kv->format->dtype);
}

#endif
