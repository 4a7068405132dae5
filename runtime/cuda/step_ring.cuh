/* What a persistent kernel needs besides arithmetic: a ring of shared memory that one warp fills by
 * the copy engine and others empty, and a barrier for the whole grid.  Hopper and later.
 *
 * A stage of the ring is 16 rows of 1 KB in two boxes of 8 rows, each as the copy engine writes it
 * with its 128-byte swizzle: [8 columns of 128 bytes][8 rows][8 units of 16 bytes], unit i of row r
 * in place i ^ r.
 *
 * One copy brings a box.  Boxes of whole rows of 1 KB are what memory needs: 4.6 TB/s on an H200;
 * copies of 1 KB each, a row at a time, end at 3.6 TB/s because issuing them takes that long. */
#ifndef STEP_RING_CUH
#define STEP_RING_CUH

#include "runtime/cuda/cu_device.cuh"

#define RING_PIECE  1024 /* bytes of a row in a stage */
#define RING_BOX    (8 * RING_PIECE)
#define RING_STAGE  (2 * RING_BOX)
#define RING_STAGES 12

typedef struct ring {
    char *data;           /* [stages][RING_STAGE], 1024-byte aligned */
    char *beside;         /* [stages], what else a stage has */
    uint32_t full, empty; /* barriers [RING_STAGES] in shared memory */
    int stages;
    int slot, parity; /* of the next stage of this thread */
} ring;

#if __CUDA_ARCH__ >= 900
static __device__ __forceinline__ uint32_t shared_at(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

static __device__ __forceinline__ void bar_init(uint32_t bar, int count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count));
}

static __device__ __forceinline__ void bar_wait(uint32_t bar, int parity)
{
    asm volatile("{\n\t"
                 ".reg .pred done;\n\t"
                 "again:\n\t"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
                 "@!done bra again;\n\t"
                 "}" ::"r"(bar),
                 "r"(parity)
                 : "memory");
}

static __device__ __forceinline__ void bar_arrive(uint32_t bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

static __device__ __forceinline__ void bar_expect(uint32_t bar, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
                 : "memory");
}

/* Weights are used once: they leave the L2 first. */
static __device__ __forceinline__ uint64_t policy_once(void)
{
    uint64_t p;

    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(p));
    return p;
}

/* Rows row .. row + 7, bytes 128 col .. + 1023 of each; zeros beyond the matrix. */
static __device__ __forceinline__ void copy_box(void *to, const void *map, int row, int col,
                                                uint32_t bar, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared_at(to)),
                 "l"(map), "r"(0), "r"(row), "r"(col), "r"(bar), "l"(policy)
                 : "memory");
}

/* bytes: a multiple of 16, as are both addresses. */
static __device__ __forceinline__ void copy_bytes(void *to, const void *from, int bytes,
                                                  uint32_t bar, uint64_t policy)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1], %2, [%3], %4;" ::"r"(shared_at(to)),
                 "l"(from), "r"(bytes), "r"(bar), "l"(policy)
                 : "memory");
}

/* The description of a matrix, before its first copy asks for it. */
static __device__ __forceinline__ void prefetch_map(const void *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

static __device__ __forceinline__ void prefetch_bytes(const void *from, int bytes)
{
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}

static __device__ __forceinline__ void ring_step(ring *r, int n) /* n <= stages */
{
    r->slot += n;
    if (r->slot >= r->stages) {
        r->slot -= r->stages;
        r->parity ^= 1;
    }
}

/* Stage `ahead` stages from here: its slot, and *parity. */
static __device__ __forceinline__ int ring_at(const ring &r, int ahead, int *parity)
{
    const int s = r.slot + ahead, past = s >= r.stages;

    *parity = r.parity ^ past;
    return past ? s - r.stages : s;
}

/* ---- the grid ------------------------------------------------------------------------------- */

/* Every block arrives once a phase; the count only rises within a launch. */
typedef struct grid_bar {
    uint32_t *count; /* [2]: arrivals, and blocks that are through */
    uint32_t wanted;
} grid_bar;

/* By one thread, after a barrier of all threads that wrote. */
static __device__ __forceinline__ void grid_arrive(grid_bar *g)
{
    g->wanted += gridDim.x;
    asm volatile("fence.acq_rel.gpu;\n\tred.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(g->count)
                 : "memory");
}

static __device__ __forceinline__ void grid_wait(const grid_bar *g)
{
    uint32_t v;

    do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(g->count) : "memory");
    } while (v < g->wanted);
}

/* The last block to leave puts the counts back to zero. */
static __device__ __forceinline__ void grid_leave(const grid_bar *g)
{
    if (atomicAdd(g->count + 1, 1u) == gridDim.x - 1) {
        g->count[0] = 0;
        g->count[1] = 0;
    }
}
#endif

#endif
