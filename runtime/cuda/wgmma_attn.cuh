/* wgmma of attention: 64 query rows by 128 keys, and their weights by the values.
 *
 * Sums lie as those of wgmma.cuh: d[4 j + {0, 1}] are columns 8 j + 2 (l % 4), + 1 of row l / 4 of
 * the warp's 16, {2, 3} those of row l / 4 + 8.  That is also how wgmma takes a factor from
 * registers, two columns to a word, so scores become weights without leaving their thread: words
 * 4 i .. 4 i + 3 hold the keys 16 i .. 16 i + 15. */
#ifndef WGMMA_ATTN_CUH
#define WGMMA_ATTN_CUH

#include "runtime/cuda/wgmma.cuh"

#define ATTN_PLACES32                                                                              \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                       \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define ATTN_PLACES64                                                                              \
    ATTN_PLACES32                                                                                  \
        ", "                                                                                       \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "         \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define ATTN_D8(i)                                                                                 \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),    \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define ATTN_D32(i) ATTN_D8(i), ATTN_D8(i + 8), ATTN_D8(i + 16), ATTN_D8(i + 24)

/* d = (add ? d : 0) + a b': 16 of the head's elements, rows and keys in shared memory */
static __device__ __forceinline__ void wgmma_scores(float d[64], uint64_t a, uint64_t b, int add)
{
    asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %66, 0;\n\t"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" ATTN_PLACES64
                 "}, %64, %65, p, 1, 1, 0, 0;\n\t}"
                 : ATTN_D32(0), ATTN_D32(32)
                 : "l"(a), "l"(b), "r"(add));
}

/* d += p v: 16 keys, whose weights are p[0 .. 3]; values with the head innermost */
template <int HDP>
static __device__ __forceinline__ void wgmma_values(float d[HDP / 2], const uint32_t p[4],
                                                    uint64_t v)
{
    if constexpr (HDP == 128)
        asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %69, 0;\n\t"
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" ATTN_PLACES64
                     "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n\t}"
                     : ATTN_D32(0), ATTN_D32(32)
                     : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(v), "r"(1));
    else
        asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %37, 0;\n\t"
                     "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" ATTN_PLACES32
                     "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n\t}"
                     : ATTN_D32(0)
                     : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(v), "r"(1));
}

#undef ATTN_D32
#undef ATTN_D8
#undef ATTN_PLACES64
#undef ATTN_PLACES32

/* Nothing that uses these sums is moved in front of this: stands after wgmma_wait. */
template <int N> static __device__ __forceinline__ void wgmma_settled(float d[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

#endif
