/* Inside the CPU backend: what its files share.  Included by runtime/cpu/ only.
 *
 * Two kinds of function: operations (cpu_embed, ...), which check, cut the work into pieces of
 * fixed size and hand them to OpenMP; and kernels, which do one piece.  A kernel exists once in
 * plain C and once per instruction set, in files of their own because the compiler flags differ.
 * Tables in linear.c and attn.c choose; the level is fixed when the backend opens.
 *
 * Determinism: a piece is computed by one thread, its arithmetic does not depend on which, and
 * pieces never share an output, so results have the same bits for any number of threads. */
#ifndef CPU_H
#define CPU_H

#include <stddef.h>
#include <stdint.h>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "runtime/backend.h"

typedef enum cpu_isa { CPU_REF, CPU_AVX2, CPU_AVX512 } cpu_isa;

#define CPU_MAX_THREADS 64  /* OpenBLAS packages reserve buffers for 64 callers */
#define CPU_MAX_HD      256 /* head width; bounds the scratch of attention */
#define CPU_ALIGN       64  /* rows of prepared weights and all scratch: one zmm register */

typedef struct cpu_be {
    cpu_isa isa;
    int threads;
    char *scratch; /* [threads][scratch_bytes], made when the backend opens */
    size_t scratch_bytes;
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

/* Elements k0 .. k0 + n - 1 of one row as f32; k0 is a multiple of 128. */
typedef void cpu_deq_fn(float *dst, const rt_weight *w, int64_t row, int64_t k0, int64_t n);

cpu_deq_fn *cpu_deq_of(cpu_isa isa, const rt_weight *w);
cpu_deq_fn cpu_deq_ref, cpu_deq_w4_avx2, cpu_deq_w4_avx512;

/* Layout of w4 for the SIMD kernels, made by prep.  A block is 128 codes in 64 bytes, seen as 16
 * words of 32 bits: nibble j of word i is code 16 j + i, so that a shift by 4 j brings codes
 * 16 j .. 16 j + 15 to the bottom of the 16 words.  Rows are padded with the code of zero. */
#define CPU_W4_BLOCK 128

/* ---- linear -------------------------------------------------------------------------------- */

#define CPU_GEMV_M    8  /* most tokens of one kernel call */
#define CPU_GEMV_ROWS 32 /* most rows of one kernel call */

/* out[j * CPU_GEMV_ROWS + i] = x_j . w_(row + i) for i < rows, j < m; without bias.
 *   x [m] rows ldx apart, each [K] */
typedef void cpu_gemv_fn(float *out, const rt_weight *w, int64_t row, int rows, const float *x,
                         int64_t ldx, int m);

cpu_gemv_fn cpu_gemv_ref;
cpu_gemv_fn cpu_gemv_f32_avx2, cpu_gemv_f16_avx2, cpu_gemv_bf16_avx2, cpu_gemv_w8_avx2,
    cpu_gemv_w4_avx2;
cpu_gemv_fn cpu_gemv_f32_avx512, cpu_gemv_f16_avx512, cpu_gemv_bf16_avx512, cpu_gemv_w8_avx512,
    cpu_gemv_w4_avx512;

size_t cpu_linear_scratch(void); /* bytes per thread */

/* ---- attention ----------------------------------------------------------------------------- */

#define CPU_ATTN_ROWS 64 /* query rows of one piece */

/* One piece of attention: query rows that read the same kv head, and their running softmax.
 * A page is visible to row r up to key n_keys[r] - 1. */
typedef struct cpu_attn {
    int rows;
    int64_t hd;
    fmt_dtype kv;
    float *q;         /* [rows, hd], already divided by sqrt(hd) */
    float *o;         /* [rows, hd], weighted sum so far, not yet divided by sum */
    float *max, *sum; /* [rows] */
    int *n_keys;      /* [rows], 0 .. RT_PAGE, of the page at hand */
    float *tmp;       /* CPU_ATTN_TMP floats of the kernel */
} cpu_attn;

#define CPU_ATTN_TMP (CPU_ATTN_ROWS * RT_PAGE + 2 * RT_PAGE * CPU_MAX_HD)

/* Adds one page: k and v [RT_PAGE, hd] in the KV format. */
typedef void cpu_attn_fn(cpu_attn *a, const void *k, const void *v);

cpu_attn_fn cpu_attn_page_ref;

size_t cpu_attn_scratch(void); /* bytes per thread */

/* ---- operations ---------------------------------------------------------------------------- */

size_t cpu_pick_scratch(void); /* bytes per thread */

q_status cpu_embed(rt_backend *be, const rt_embed_args *a, q_err *err);
q_status cpu_rmsnorm(rt_backend *be, const rt_rmsnorm_args *a, q_err *err);
q_status cpu_linear(rt_backend *be, const rt_linear_args *a, q_err *err);
q_status cpu_qkv_rope_store(rt_backend *be, const rt_qkv_args *a, q_err *err);
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
