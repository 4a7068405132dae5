/* Device functions that several kernels share: early start, loads, saturating stores, warp sums. */
#ifndef CU_DEVICE_CUH
#define CU_DEVICE_CUH

#include <cuda_fp16.h>

#include "runtime/cuda/cu.h"

/* Until here a kernel may only read what no other kernel writes.  Then everything before it in the
 * stream has finished, and the next kernel may take the places that free up. */
static __device__ __forceinline__ void cu_wait(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* Weights are read once: past L1, whole lines into L2. */
static __device__ __forceinline__ uint4 cu_load_once(const void *p)
{
    uint4 v;

    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

/* An overflow becomes the largest half, a NaN stays. */
static __device__ __forceinline__ __half cu_half(float v)
{
    const __half most = __ushort_as_half((unsigned short)0x7bff);

    return __hmax_nan(__hmin_nan(__float2half_rn(v), most), __hneg(most));
}

static __device__ __forceinline__ __half2 cu_halves(float lo, float hi)
{
    const __half2 most = __half2half2(__ushort_as_half((unsigned short)0x7bff));

    return __hmax2_nan(__hmin2_nan(__floats2half2_rn(lo, hi), most), __hneg2(most));
}

static __device__ __forceinline__ float cu_warp_sum(float v) /* every lane gets it */
{
    for (int d = 16; d > 0; d >>= 1)
        v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}

/* Sum over a block of at most 1024 threads, in a fixed order; every thread gets it.  tmp: 33 floats
 * of shared memory. */
static __device__ __forceinline__ float cu_block_sum(float v, float *tmp)
{
    const int warp = (int)threadIdx.x / 32, warps = ((int)blockDim.x + 31) / 32;

    v = cu_warp_sum(v);
    if (threadIdx.x % 32 == 0)
        tmp[warp] = v;
    __syncthreads();
    if (warp == 0) {
        v = (int)threadIdx.x < warps ? tmp[threadIdx.x] : 0.0f;
        v = cu_warp_sum(v);
        if (threadIdx.x == 0)
            tmp[32] = v;
    }
    __syncthreads();
    return tmp[32];
}

/* d += a b: one 16 x 8 tile of f32 sums from 16 x 16 and 16 x 8 halves.  Lane l holds of a the rows
 * l / 4 and l / 4 + 8, of b the column l / 4; l % 4 chooses pairs of k: a = {row, row + 8} at
 * 2 (l % 4), then both at 2 (l % 4) + 8; b the same; d = {row: columns 2 (l % 4), + 1; row + 8:
 * ...}. */
static __device__ __forceinline__ void cu_mma(float d[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                              uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                 "{%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* The same with 32 products of bytes and exact sums: 4 bytes in the place of 2 halves. */
static __device__ __forceinline__ void cu_mma_s8(int32_t d[4], uint32_t a0, uint32_t a1,
                                                 uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                 "{%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ uint32_t word_of(const uint4 &v, int i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

static __device__ __forceinline__ __half2 cu_as_half2(uint32_t v)
{
    return *reinterpret_cast<__half2 *>(&v);
}

static __device__ __forceinline__ uint32_t cu_as_u32(__half2 v)
{
    return *reinterpret_cast<uint32_t *>(&v);
}

/* Launches with the attributes of cu_launch_set. */
#define CU_LAUNCH(c, kernel, grid, block, shared, ...)                                             \
    do {                                                                                           \
        cu_launch cu_l;                                                                            \
        cu_launch_set(&cu_l, (c), (grid), (block), (shared));                                      \
        CU_TRY(cudaLaunchKernelEx(&cu_l.config, kernel, __VA_ARGS__));                             \
    } while (0)

#endif
