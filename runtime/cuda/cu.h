/* Inside the CUDA backend: what its files share.  Included by runtime/cuda/ only, by C and by nvcc.
 *
 * Host code is C (be_cuda.c opens the device, prep.c brings weights into place, cublaslt.c loads
 * the library); a .cu file holds kernels and the operations that launch them.  Operations check
 * shapes, launch on the one stream and return; they allocate nothing and wait for nothing.
 *
 * Every kernel is launched with programmatic stream serialization where the GPU has it (cu_launch):
 * its blocks may start while the kernel before is finishing, may touch what no kernel writes
 * (weights, norms), and must call cu_wait() before anything else. */
#ifndef CU_H
#define CU_H

#ifdef __cplusplus
extern "C" {
#endif

#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

#include "runtime/backend.h"

#define CU_MAX_HD    256                 /* head width; a multiple of 8 */
#define CU_ROWS      64                  /* tokens of one call of the matrix-vector kernels */
#define CU_GROUPS    768                 /* of a row: scales of a block stay in shared memory */
#define CU_TILE      ((size_t)128 << 20) /* bytes of dequantized weights */
#define CU_CODES     ((size_t)32 << 20)  /* of it, codes of activations: they stay in L2 */
#define CU_WORKSPACE ((size_t)32 << 20)  /* what cuBLASLt recommends for sm_90 */
#define CU_STRIP     ((size_t)16 << 20)  /* bytes of weights on their way to the device */
#define CU_MAX_VOCAB ((int64_t)1 << 20)  /* bounds the scratch of pick */
#define CU_PICK_ROWS 64                  /* rows of logits sampled at a time */
#define CU_HIST      (1 << 18)           /* history ids uploaded at a time */
#define CU_UNITS     1536                /* pieces of split attention: heads times splits */
#define CU_UNIT_ROWS 16                  /* query rows of such a piece */

typedef struct cu_lt cu_lt; /* cuBLASLt: cublaslt.c */

typedef struct cu_block {
    void *p;
    size_t bytes;
} cu_block;

typedef struct cu_be {
    int device, sms, cc; /* cc: 90 for compute capability 9.0 */
    cudaStream_t stream;
    cudaEvent_t mark[2];
    cu_lt *lt;         /* NULL: the library is not there, own kernels do everything */
    void *tile;        /* [CU_TILE] f16 weights, codes or order of x */
    void *workspace;   /* [CU_WORKSPACE] of cuBLASLt */
    float *part;       /* [CU_UNITS][CU_UNIT_ROWS][CU_MAX_HD + 4]: pieces of split attention */
    int32_t *arrived;  /* [CU_UNITS] pieces done; zero between calls */
    uint32_t *barrier; /* [2] of the persistent kernel's blocks; zero between calls */
    uint32_t
        *seen;     /* [CU_PICK_ROWS][CU_MAX_VOCAB / 32] ids already penalized; zero between calls */
    int32_t *hist; /* [CU_HIST] entries of histories */
    int32_t *hist_host; /* the same in host memory */
    void *pick_row;     /* [CU_PICK_ROWS] settings on the device */
    void *pick_host;    /* the same; the first n_pick of them are there */
    int n_pick;
    float *pick_max; /* [CU_PICK_ROWS][CU_PICK_PARTS] */
    int32_t *pick_at;
    void *strip[2];        /* [CU_STRIP] weights on their way, in turns; made by the first prep */
    cudaEvent_t copied[2]; /* the strip may be filled again */
    cu_block *block;       /* [live] allocated and not freed */
    size_t live, cap;
} cu_be;

#define CU_PICK_PARTS 64 /* blocks that look for the largest logit of a row */

static inline cu_be *cu_of(rt_backend *be)
{
    return (cu_be *)be->impl;
}

q_status cu_fail(q_err *err, cudaError_t e, const char *what); /* be_cuda.c */
q_status cu_alloc(rt_backend *be, size_t bytes, void **out, q_err *err);
void cu_free(rt_backend *be, void *p);

#define CU_TRY(call)                                                                               \
    do {                                                                                           \
        const cudaError_t cu_e = (call);                                                           \
        if (cu_e != cudaSuccess) {                                                                 \
            st = cu_fail(err, cu_e, #call);                                                        \
            goto out;                                                                              \
        }                                                                                          \
    } while (0)

/* The attribute that lets a kernel start early; n_attr 0 where the GPU lacks it. */
typedef struct cu_launch {
    cudaLaunchAttribute attr;
    cudaLaunchConfig_t config;
} cu_launch;

void cu_launch_set(cu_launch *l, const cu_be *c, dim3 grid, dim3 block, size_t shared);

/* ---- weights ------------------------------------------------------------------------------- */

/* Layout of weights on the device: canonical rows [N], each padded to 128 bytes.
 *
 *   f16   the values; f32 and bf16 become f16
 *   w8    code + 128 as an unsigned byte; 8 codes are a unit; chunks of 8 units
 *   w4    code + 8; 8 codes are a word, code e in bits 4 (e / 2) + 16 (e % 2), so that two
 *         neighbours come out of one mask as a pair of halves; chunks of 16 words
 *   w8a8  the codes as they are, rows padded to 128 bytes of zeros
 *   w8g   as w8 and w4: code as an unsigned number
 *   w4g
 *
 * Units (words) of a chunk of w8 and w4 stand in the order 0 4 8 .. 1 5 9 .. 2 6 10 .. 3 7 11 ..:
 * the 16 bytes of a lane then belong to the 8 values of x that it reads together with its
 * neighbours.
 *
 * Groups.  scale holds f16: group g of row n is [n / 8][g][n % 8], so that the scales of 8 rows lie
 * together; rows are padded to a multiple of 8.  zero is u8 in the same order, or NULL where every
 * zero is the middle of the range.  Groups in any order (g_idx): columns are moved so that groups
 * are whole and in order; g_idx [2][K] then holds where column k stands, and which column stands in
 * place p.  Where such groups have different sizes, every column becomes a group of its own.
 *
 * bias [N] f32 is followed by [N] f16: cuBLASLt adds a bias of the output's type. */
q_status cu_prep(rt_backend *be, qnt_tensor *src, rt_weight *dst, q_err *err); /* prep.c */
void cu_unprep(rt_backend *be, rt_weight *w);
void cu_strips_free(rt_backend *be);
/* bytes of host memory, which may be reused at once */
q_status cu_upload(rt_backend *be, void *dst, const void *src, size_t bytes, q_err *err);

typedef enum cu_scheme { CU_F16, CU_W8, CU_W4, CU_W8A8, CU_W8G, CU_W4G } cu_scheme;

cu_scheme cu_scheme_of(const rt_weight *w);
/* Scales, zeros and order of groups of src to the device; place [K]: where column k of src goes, or
 * NULL: it stays, and the caller frees it.  prep_groups.c */
q_status cu_prep_groups(rt_backend *be, const qnt_tensor *src, rt_weight *dst, int32_t **place,
                        q_err *err);

/* ---- matrix products ------------------------------------------------------------------------ */

/* y [M, N] = x [M, K] W' for at most CU_ROWS tokens, K a multiple of 8. */
typedef struct cu_gemv {
    const void *x; /* f16 */
    const void *w;
    const float *scale, *bias; /* [N] or NULL */
    void *y;
    int64_t N, K, row_bytes;
    int M;
    rt_epi epi;
    /* grouped schemes: column k is in group k >> shift */
    const void *scale16;
    const uint8_t *zero;
    uint32_t middle; /* 4 zeros of the middle, where zero is NULL */
    int shift, G;
} cu_gemv;

q_status cu_gemv_f16(const cu_be *c, const cu_gemv *a, q_err *err);
q_status cu_gemv_w8(const cu_be *c, const cu_gemv *a, q_err *err);
q_status cu_gemv_w4(const cu_be *c, const cu_gemv *a, q_err *err);
q_status cu_gemv_w8g(const cu_be *c, const cu_gemv *a, q_err *err);
q_status cu_gemv_w4g(const cu_be *c, const cu_gemv *a, q_err *err);

/* Rows n0 .. n0 + n - 1 of a quantized weight as f16, rows ld apart (a multiple of 8). */
q_status cu_dequantize(const cu_be *c, const rt_weight *w, int64_t n0, int64_t n, void *out,
                       int64_t ld, q_err *err);
/* out [M, K] = x [M, K] f16 with columns in the order of w, which has a g_idx. */
q_status cu_gather(const cu_be *c, const rt_weight *w, const void *x, int64_t M, void *out,
                   q_err *err);

/* D [M, N] (row stride ldd) = x [M, K] W' + beta D + bias; W [N, K] f16 with row stride ldw; D f16,
 * or f32 with d_f32; bias of D's type or NULL.  *done 0: the library has no kernel for it. */
typedef struct cu_lt_args {
    const void *x, *w, *bias;
    void *d;
    int64_t M, N, K, ldw, ldd;
    int d_f32, add;
} cu_lt_args;

q_status cu_lt_open(cu_lt **out, char *version, size_t cap, q_err *err); /* *out NULL: no library */
void cu_lt_close(cu_lt *lt);
q_status cu_lt_matmul(const cu_be *c, const cu_lt_args *a, int *done, q_err *err);

/* ---- operations ----------------------------------------------------------------------------- */

q_status cu_copy_pieces(rt_backend *be, const rt_piece *p, int n, q_err *err);
q_status cu_embed(rt_backend *be, const rt_embed_args *a, q_err *err);
q_status cu_rmsnorm(rt_backend *be, const rt_rmsnorm_args *a, q_err *err);
q_status cu_linear(rt_backend *be, const rt_linear_args *a, q_err *err);
q_status cu_qkv_rope_store(rt_backend *be, const rt_qkv_args *a, q_err *err);
q_status cu_attention(rt_backend *be, const rt_attn_args *a, q_err *err);
q_status cu_pick(rt_backend *be, const rt_pick_args *a, q_err *err);
q_status cu_layers(rt_backend *be, const rt_layers_args *a, int *done, q_err *err);
q_status cu_keys(rt_backend *be, const rt_keys_args *a, q_err *err); /* observe.cu */
q_status cu_weight_get(rt_backend *be, const rt_weight *w, float *v, q_err *err);
q_status cu_weight_set(rt_backend *be, const rt_weight *w, const float *v, const float *bias,
                       q_err *err);
q_status cu_math_open(rt_backend *be, qnt_dev *out, q_err *err); /* quant_device.c */
size_t cu_pick_row_bytes(void);                                  /* of one row's settings */

#ifdef __cplusplus
}
#endif
#endif
