/* wgmma with the weights in registers and 16, 32 or 64 tokens in shared memory, for gemm_few.cuh.
 *
 * a: 64 rows of W, 16 a warp, as cu_mma and cu_mma_s8 take them.  b: tokens without swizzle: 16
 * bytes of k of 8 NT tokens lie together, so that the next 16 bytes are 128 NT bytes on and the
 * next 8 tokens 128.  d[j][..]: the sums that cu_mma makes of a warp's rows and tokens 8 j ..  */
#ifndef WGMMA_FEW_CUH
#define WGMMA_FEW_CUH

#include "runtime/cuda/wgmma.cuh"

/* tokens at `at`, an address of shared memory */
template <int NT> static __device__ __forceinline__ uint64_t few_operand(uint32_t at)
{
    return (uint64_t)(at >> 4 & 0x3fff) | (uint64_t)(8 * NT) << 16 | (uint64_t)8 << 32;
}

#define FEW_R4(c, j)  c(d[j][0]), c(d[j][1]), c(d[j][2]), c(d[j][3])
#define FEW_R8(c, j)  FEW_R4(c, j), FEW_R4(c, j + 1)
#define FEW_R16(c, j) FEW_R8(c, j), FEW_R8(c, j + 2)
#define FEW_R32(c)    FEW_R16(c, 0), FEW_R16(c, 4)
#define FEW_D8        "{%0, %1, %2, %3, %4, %5, %6, %7}"
#define FEW_D16       "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}"
#define FEW_D32                                                                                    \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                      \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"

/* the operands behind the sums: a, b and 1, which adds to the sums */
#define FEW_A8  "{%8, %9, %10, %11}, %12, p"
#define FEW_A16 "{%16, %17, %18, %19}, %20, p"
#define FEW_A32 "{%32, %33, %34, %35}, %36, p"
#define FEW_ASM(one, shape, sums, in, tail, out)                                                   \
    asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, " one ", 0;\n\t"                            \
                 "wgmma.mma_async.sync.aligned." shape " " sums ", " in tail ";\n\t}"              \
                 : out                                                                             \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1))

/* products of halves; at most 16 of k */
template <int NT>
static __device__ __forceinline__ void few_mma(float d[NT][4], const uint32_t a[4], uint64_t b)
{
    if constexpr (NT == 2)
        FEW_ASM("%13", "m64n16k16.f32.f16.f16", FEW_D8, FEW_A8, ", 1, 1, 0", FEW_R8(WGMMA_F32, 0));
    else if constexpr (NT == 4)
        FEW_ASM("%21", "m64n32k16.f32.f16.f16", FEW_D16, FEW_A16, ", 1, 1, 0",
                FEW_R16(WGMMA_F32, 0));
    else
        FEW_ASM("%37", "m64n64k16.f32.f16.f16", FEW_D32, FEW_A32, ", 1, 1, 0", FEW_R32(WGMMA_F32));
}

/* products of bytes; 32 of k */
template <int NT>
static __device__ __forceinline__ void few_mma(int32_t d[NT][4], const uint32_t a[4], uint64_t b)
{
    if constexpr (NT == 2)
        FEW_ASM("%13", "m64n16k32.s32.s8.s8", FEW_D8, FEW_A8, "", FEW_R8(WGMMA_S32, 0));
    else if constexpr (NT == 4)
        FEW_ASM("%21", "m64n32k32.s32.s8.s8", FEW_D16, FEW_A16, "", FEW_R16(WGMMA_S32, 0));
    else
        FEW_ASM("%37", "m64n64k32.s32.s8.s8", FEW_D32, FEW_A32, "", FEW_R32(WGMMA_S32));
}

#endif
