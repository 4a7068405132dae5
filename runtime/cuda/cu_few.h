/* Products of 9 .. 64 tokens on Hopper: what their kernels (gemm_few.cuh), the plan (few_plan.c)
 * and the operations share. */
#ifndef CU_FEW_H
#define CU_FEW_H

#include "runtime/cuda/cu.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FEW_WG      4   /* warpgroups of a block */
#define FEW_THREADS 512 /* of a block */
#define FEW_RING    4   /* chunks of a thread on their way */
/* of sums: one while another is read, where there is room */
#define FEW_BUFFERS(tiles) ((tiles) > 4 ? 1 : 2) /* tiles of 8 tokens */
#define FEW_LD             68 /* sums of a token's 64 rows in shared memory: off the banks */
#define FEW_GROUP          24 /* bytes of 8 rows' scales and zeros */

typedef struct cu_few {
    const char *x, *w;              /* [M] rows of x_bytes, [N] of row_bytes */
    const float *xs, *scale, *bias; /* xs [M]: of codes */
    const void *scale16;            /* groups, as in cu_gemv */
    const uint8_t *zero;
    void *y;
    int64_t N, K, row_bytes, x_bytes;
    uint32_t middle;
    int M, epi, shift, G;
    /* the plan: tiles of 64 rows, chunks of 64 bytes of them, slices of K, blocks of the grid;
     * places in shared memory */
    int tiles, chunks, slices, blocks;
    uint32_t at_groups, at_sums, at_x;
    size_t shared;
    float *part;      /* [tiles][slices][tokens][64] */
    int32_t *arrived; /* [teams] blocks that have their sums there; zero between calls */
} cu_few;

/* Fills the plan.  blocks: of 64 bytes of x of a chunk; groups: of a chunk, 0 without.  0: there is
 * none, take another product. */
int cu_few_plan(const cu_be *c, cu_few *a, int blocks, int groups);

#ifdef __cplusplus
}
#endif
#endif
