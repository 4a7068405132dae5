/* PTX of sm_90 that products fed by the copy engine use, a function each: clusters, barriers in
 * shared memory, copies, and wgmma on halves and on bytes with both factors in shared memory
 * (wgmma_few.cuh has the weights in registers).
 *
 * Addresses are 32-bit ones of shared memory.  wgmma goes on by itself, so its calls come as
 *
 *     wgmma_begin();
 *     wgmma_s8(d, a, b, add);     any number, of one kind
 *     wgmma_end();
 *     wgmma_wait<n>();            all but the last n of these are done; d may be read after n = 0
 *
 * Callable where the code is built for sm_90a.  Source: PTX ISA, barrier.cluster, mbarrier,
 * cp.async.bulk.tensor, wgmma and its matrix descriptor. */
#ifndef WGMMA_CUH
#define WGMMA_CUH

#include "runtime/cuda/cu_device.cuh"

static __device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* ---- clusters ------------------------------------------------------------------------------ */

static __device__ __forceinline__ uint32_t cluster_rank(void)
{
    uint32_t v;

    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(v));
    return v;
}

static __device__ __forceinline__ uint32_t cluster_id(void)
{
    uint32_t v;

    asm("mov.u32 %0, %%clusterid.x;" : "=r"(v));
    return v;
}

static __device__ __forceinline__ uint32_t n_clusters(void)
{
    uint32_t v;

    asm("mov.u32 %0, %%nclusterid.x;" : "=r"(v));
    return v;
}

static __device__ __forceinline__ void cluster_sync(void)
{
    asm volatile(
        "barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::
            : "memory");
}

/* the 128 threads of consumer 0 or 1 */
static __device__ __forceinline__ void group_sync(int group)
{
    asm volatile("bar.sync %0, 128;" ::"r"(1 + group) : "memory");
}

/* ---- barriers ------------------------------------------------------------------------------ */

static __device__ __forceinline__ void barrier_make(uint32_t b, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(b), "r"(arrivals) : "memory");
}

/* seen by the copy engine and the other block after the next cluster_sync */
static __device__ __forceinline__ void barrier_made(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* one arrival, and bytes that will come */
static __device__ __forceinline__ void barrier_expect(uint32_t b, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(b), "r"(bytes)
                 : "memory");
}

/* until the phase of this parity is over */
static __device__ __forceinline__ void barrier_wait(uint32_t b, uint32_t parity)
{
    uint32_t done = 0;

    while (!done)
        asm volatile("{\n\t.reg .pred p;\n\t"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
                     "selp.u32 %0, 1, 0, p;\n\t}"
                     : "=r"(done)
                     : "r"(b), "r"(parity)
                     : "memory");
}

/* the same barrier in block `rank` of the cluster */
static __device__ __forceinline__ void barrier_arrive_at(uint32_t b, uint32_t rank)
{
    asm volatile("{\n\t.reg .b32 r;\n\t"
                 "mapa.shared::cluster.u32 r, %0, %1;\n\t"
                 "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [r];\n\t}" ::"r"(b),
                 "r"(rank)
                 : "memory");
}

/* ---- copies -------------------------------------------------------------------------------- */

/* A box at byte k of row `row` into shared memory, counted by the barrier. */
static __device__ __forceinline__ void copy_box(uint32_t to, const void *map, int k, int row,
                                                uint32_t b)
{
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, "
        "{%2, %3}], [%4];" ::"r"(to),
        "l"(map), "r"(k), "r"(row), "r"(b)
        : "memory");
}

/* The same into every block of the mask, at the same address and counted by the same barrier there.
 */
static __device__ __forceinline__ void copy_box_all(uint32_t to, const void *map, int k, int row,
                                                    uint32_t b, uint16_t mask)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes."
                 "multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(k), "r"(row), "r"(b), "h"(mask)
                 : "memory");
}

/* ---- wgmma --------------------------------------------------------------------------------- */

template <int N> static __device__ __forceinline__ void registers_up(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> static __device__ __forceinline__ void registers_down(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

static __device__ __forceinline__ void wgmma_begin(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void wgmma_end(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int LEFT> static __device__ __forceinline__ void wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

/* Rows of 128 bytes with the 128-byte swizzle, groups of 8 rows 1024 bytes apart. */
static __device__ __forceinline__ uint64_t operand(uint32_t at)
{
    return (uint64_t)(at >> 4 & 0x3fff) | (uint64_t)1 << 16 | (uint64_t)64 << 32 |
           (uint64_t)1 << 62;
}

/* The 128 sums d of a thread: their places in the text, and as operands, each by c. */
#define WGMMA_PLACES                                                                               \
    "{%0, %1, %2, %3, %4, %5, %6, %7, "                                                            \
    "%8, %9, %10, %11, %12, %13, %14, %15, "                                                       \
    "%16, %17, %18, %19, %20, %21, %22, %23, "                                                     \
    "%24, %25, %26, %27, %28, %29, %30, %31, "                                                     \
    "%32, %33, %34, %35, %36, %37, %38, %39, "                                                     \
    "%40, %41, %42, %43, %44, %45, %46, %47, "                                                     \
    "%48, %49, %50, %51, %52, %53, %54, %55, "                                                     \
    "%56, %57, %58, %59, %60, %61, %62, %63, "                                                     \
    "%64, %65, %66, %67, %68, %69, %70, %71, "                                                     \
    "%72, %73, %74, %75, %76, %77, %78, %79, "                                                     \
    "%80, %81, %82, %83, %84, %85, %86, %87, "                                                     \
    "%88, %89, %90, %91, %92, %93, %94, %95, "                                                     \
    "%96, %97, %98, %99, %100, %101, %102, %103, "                                                 \
    "%104, %105, %106, %107, %108, %109, %110, %111, "                                             \
    "%112, %113, %114, %115, %116, %117, %118, %119, "                                             \
    "%120, %121, %122, %123, %124, %125, %126, %127}"
#define WGMMA_D8(c, i)                                                                             \
    c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3]), c(d[i + 4]), c(d[i + 5]), c(d[i + 6]),         \
        c(d[i + 7])
#define WGMMA_D32(c, i) WGMMA_D8(c, i), WGMMA_D8(c, i + 8), WGMMA_D8(c, i + 16), WGMMA_D8(c, i + 24)
#define WGMMA_D128(c)   WGMMA_D32(c, 0), WGMMA_D32(c, 32), WGMMA_D32(c, 64), WGMMA_D32(c, 96)

/* what a sum is */
#define WGMMA_F32(v) "+f"(v)
#define WGMMA_S32(v) "+r"(v)

#define WGMMA_ASM(shape, tail, sum)                                                                \
    asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %130, 0;\n\t"                               \
                 "wgmma.mma_async.sync.aligned." shape " " WGMMA_PLACES ", %128, %129, p" tail     \
                 ";\n\t}"                                                                          \
                 : WGMMA_D128(sum)                                                                 \
                 : "l"(a), "l"(b), "r"(add))

/* d = (add ? d : 0) + a' b: 64 x 256 sums of 16 products, of factors with M or N innermost.  Lane l
 * of warp w has the rows 16 w + l / 4 and + 8: d[4 j + {0, 1}] are columns 8 j + 2 (l % 4), + 1 of
 * the first, {2, 3} of the second. */
static __device__ __forceinline__ void wgmma_f16(float d[128], uint64_t a, uint64_t b, int add)
{
    WGMMA_ASM("m64n256k16.f32.f16.f16", ", 1, 1, 1, 1", WGMMA_F32);
}

/* d = (add ? d : 0) + a b': 64 x 256 sums of 32 products, laid out as those of wgmma_f16. */
static __device__ __forceinline__ void wgmma_s8(int32_t d[128], uint64_t a, uint64_t b, int add)
{
    WGMMA_ASM("m64n256k32.s32.s8.s8", "", WGMMA_S32);
}

#undef WGMMA_ASM
#undef WGMMA_D128
#undef WGMMA_D32
#undef WGMMA_D8
#undef WGMMA_PLACES

/* ---- results -------------------------------------------------------------------------------- */

/* 4 words of each of 4 neighbouring lanes: lane q gets word q of all, in order of the lanes. */
static __device__ __forceinline__ uint4 wgmma_turn4(uint32_t w0, uint32_t w1, uint32_t w2,
                                                    uint32_t w3)
{
    const int odd = threadIdx.x & 1, high = threadIdx.x & 2;
    uint32_t a = __shfl_xor_sync(0xffffffffu, odd ? w0 : w1, 1);
    uint32_t b = __shfl_xor_sync(0xffffffffu, odd ? w2 : w3, 1);

    w0 = odd ? a : w0;
    w1 = odd ? w1 : a;
    w2 = odd ? b : w2;
    w3 = odd ? w3 : b;
    a = __shfl_xor_sync(0xffffffffu, high ? w0 : w2, 2);
    b = __shfl_xor_sync(0xffffffffu, high ? w1 : w3, 2);
    return make_uint4(high ? a : w0, high ? b : w1, high ? w2 : a, high ? w3 : b);
}

#endif
