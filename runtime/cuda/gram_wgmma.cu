/* H += X'X of f16 on sm_90: wgmma fed by the copy engine.  quant_gram.cu has the other GPUs.
 *
 * X [n, K] is both factors, and both are read as they lie, 64 columns (128 bytes) of 64 rows to a
 * box: what wgmma calls a factor with M or N innermost.  In shared memory, with the 128-byte
 * swizzle,
 *
 *     row k of a box at 128 k; 8 rows of K are 1024 bytes, the next 64 columns the next box
 *
 * Two blocks work side by side as a cluster on 256 x 256 of H, each on its 128 rows:
 *
 *            256 columns of H          per step of 64 rows of X: a block loads the two boxes of its
 *          +---------------+           own rows (16 KiB) and two of the four of the columns
 *   block0 | 128 rows      |           (16 KiB), which land in both blocks
 *          +---------------+
 *   block1 | 128 rows      |           wgmma m64n256k16: consumer c of a block has rows 64 c ..
 *          +---------------+           64 c + 63 and all 256 columns: 128 sums a thread
 *
 * Ring, barriers and roles are those of gemm_w8a8.cu.  Only tiles on and above the diagonal are
 * made, columns of tiles from left to right.  Products of halves are exact, sums are f32 over the
 * rows of one call, then added to H, where each element gets one addition: the same calls, the same
 * bits.  Source: PTX ISA, wgmma, its matrix descriptor and shared memory layouts. */
#include "runtime/cuda/cu_map.h"
#include "runtime/cuda/cu_quant.h"
#include "runtime/cuda/wgmma.cuh"

#define BOX     64 /* rows and columns of X */
#define BYTES   (BOX * BOX * 2)
#define TILE    256 /* rows and columns of H of a cluster */
#define STAGES  4
#define STAGE   (6 * BYTES)             /* two boxes of rows, four of columns */
#define SHARED  (STAGES * STAGE + 1024) /* stages start at multiples of 1024 */
#define COLUMNS (2 * BYTES)             /* where those of the columns start */
#define MAX_K   ((int64_t)1 << 20)      /* so that tiles are counted in 32 bits */

typedef struct gram_args {
    float *H;
    int64_t K;
    int steps, tiles;
} gram_args;

/* The t-th tile on and above the diagonal: (0,0) (0,1) (1,1) (0,2) ... */
static __device__ __forceinline__ void place(int t, int *i, int *j)
{
    int c = (int)((sqrtf(8.0f * (float)t + 1.0f) - 1.0f) / 2.0f);

    while (c * (c + 1) / 2 > t)
        c--;
    while ((c + 1) * (c + 2) / 2 <= t)
        c++;
    *i = (t - c * (c + 1) / 2) * TILE;
    *j = c * TILE;
}

/* A factor with M or N innermost: boxes BYTES apart, 8 rows of K 1024 bytes apart. */
static __device__ __forceinline__ uint64_t turned(uint32_t at)
{
    return (uint64_t)(at >> 4 & 0x3fff) | (uint64_t)(BYTES >> 4) << 16 |
           (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

typedef struct ring {
    uint32_t stage, full, empty; /* addresses in shared memory */
} ring;

static __device__ __forceinline__ void produce(const gram_args &a, const ring &r,
                                               const CUtensorMap *x)
{
    const int rank = (int)cluster_rank();
    int n = 0;

    for (int t = (int)cluster_id(); t < a.tiles; t += (int)n_clusters()) {
        int i, j;

        place(t, &i, &j);
        for (int k = 0; k < a.steps; k++, n++) {
            const int s = n % STAGES;
            const uint32_t to = r.stage + s * STAGE, full = r.full + 8 * s;

            barrier_wait(r.empty + 8 * s, ~(n / STAGES) & 1);
            barrier_expect(full, STAGE);
            for (int b = 0; b < 2; b++) { /* a coordinate is in bytes */
                const int box = 2 * rank + b;

                copy_box(to + b * BYTES, x, 2 * (i + box * BOX), k * BOX, full);
                copy_box_all(to + COLUMNS + box * BYTES, x, 2 * (j + box * BOX), k * BOX, full, 3);
            }
        }
    }
}

/* Formed in L2: nobody waits, and one addition has no order. */
static __device__ __forceinline__ void add_tile(const gram_args &a, const float d[128], int r0,
                                                int c0)
{
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int64_t r = r0 + 8 * h, c = c0 + 8 * j;

            if (r < a.K && c < a.K) /* K is even */
                asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(a.H + r * a.K + c),
                             "f"(d[4 * j + 2 * h]), "f"(d[4 * j + 2 * h + 1])
                             : "memory");
        }
}

static __device__ __forceinline__ void consume(const gram_args &a, const ring &r)
{
    const int group = (int)threadIdx.x / 128 - 1, in = (int)threadIdx.x % 128;
    const int row = (int)cluster_rank() * 128 + group * 64 + in / 32 * 16 + in % 32 / 4;
    float d[128];
    int n = 0;

    for (int t = (int)cluster_id(); t < a.tiles; t += (int)n_clusters()) {
        int i, j;

        place(t, &i, &j);
        for (int k = 0; k < a.steps; k++, n++) {
            const int s = n % STAGES;
            const uint32_t at = r.stage + s * STAGE;

            barrier_wait(r.full + 8 * s, n / STAGES & 1);
            wgmma_begin();
#pragma unroll
            for (int e = 0; e < BOX / 16; e++) /* 16 rows of a box are 2 KiB */
                wgmma_f16(d, turned(at + group * BYTES + 2048 * e), turned(at + COLUMNS + 2048 * e),
                          k > 0 || e > 0);
            wgmma_end();
            wgmma_wait<1>(); /* the step before is done: its stage is free in both blocks */
            if (k > 0 && in < 2)
                barrier_arrive_at(r.empty + 8 * ((n - 1) % STAGES), (uint32_t)in);
        }
        wgmma_wait<0>();
        if (in < 2)
            barrier_arrive_at(r.empty + 8 * ((n - 1) % STAGES), (uint32_t)in);
        add_tile(a, d, i + row, j + in % 4 * 2);
    }
}

static __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1)
    gram_wgmma(const __grid_constant__ CUtensorMap x, const gram_args a)
{
    extern __shared__ uint8_t shared[];
    __shared__ __align__(8) uint64_t barrier[2 * STAGES];
    ring r;

    r.stage = (shared_address(shared) + 1023) / 1024 * 1024;
    r.full = shared_address(barrier);
    r.empty = r.full + 8 * STAGES;
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            barrier_make(r.full + 8 * s, 1);
            barrier_make(r.empty + 8 * s, 4); /* two consumers of two blocks */
        }
        barrier_made();
    }
    cluster_sync();
    if (threadIdx.x < 128) {
        registers_down<40>();
        if (threadIdx.x == 0)
            produce(a, r, &x);
        __syncwarp(); /* cluster_sync is for whole warps */
    } else {
        registers_up<232>();
        consume(a, r);
    }
    cluster_sync(); /* the other block still writes into this one */
}

extern "C" q_status cu_gram_wgmma(const cu_be *c, float *H, int64_t K, const void *X, int64_t n,
                                  q_err *err)
{
    q_status st = Q_OK;
    const int64_t side = (K + TILE - 1) / TILE, tiles = side * (side + 1) / 2;
    const int64_t clusters = tiles < c->sms / 2 ? tiles : c->sms / 2;
    CUtensorMap x;
    gram_args a;

    if (K > MAX_K || n > INT32_MAX / 2)
        Q_FAIL(err, Q_EUNSUPPORTED, "cuda: second moments of [%lld, %lld]: too large", (long long)n,
               (long long)K);
    a.H = H;
    a.K = K;
    a.steps = (int)((n + BOX - 1) / BOX);
    a.tiles = (int)tiles;
    Q_TRY(cu_map_bytes(&x, X, n, 2 * K, 2 * K, BOX, err));
    CU_TRY(cudaFuncSetAttribute((const void *)gram_wgmma,
                                cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED));
    gram_wgmma<<<(unsigned)(2 * clusters), 384, SHARED, c->stream>>>(x, a);
    CU_TRY(cudaGetLastError());
out:
    return st;
}
