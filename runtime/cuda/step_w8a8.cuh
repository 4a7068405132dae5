/* Inputs of w8a8 products in the persistent decode kernel: int8 codes in shared memory.
 *
 * Rules of the codes: runtime/cpu/quant_rows.c; the same functions as quant_rows.cu make them, so
 * the same halves give the same codes.  Every block codes whole rows for itself: a row is needed
 * twice, for its largest magnitude and for the codes, and fits the registers of a block's threads
 * in between, which costs less than one more barrier of the grid.
 *
 * Order: with 128 bytes of a row of W at hand, a lane has two units of 16 bytes, and each is the
 * operand of two products of depth 32: as in step_product.cuh with J = 1.  A row's scale stands
 * behind its codes. */
#ifndef STEP_W8A8_CUH
#define STEP_W8A8_CUH

#include "runtime/cuda/cu_codes.cuh"
#include "runtime/cuda/step_product.cuh"

#define STEP_CODED 12 /* units of 8 values of a row that a thread holds: 24576 values in all */

#if __CUDA_ARCH__ >= 900
/* Codes of 4 halves, those of quant_rows.cu in less code: what does not fit the instruction cache
 * costs more than it computes.  f: 127 / amax or 1 / scale, correctly rounded; FIXED brings the
 * product to the quotient, as division does, less its care for the ends of f32, from which the host
 * keeps scales away.  1.5 * 2^23 leaves the nearest integer in the low bits, ties to even;
 * saturating before that changes nothing. */
template <int FIXED>
static __device__ __forceinline__ uint32_t step_codes4(uint32_t lo, uint32_t hi, float f,
                                                       float scale)
{
    const float big = 12582912.0f;
    const float2 a = __half22float2(cu_as_half2(lo)), b = __half22float2(cu_as_half2(hi));
    const float v[4] = { a.x, a.y, b.x, b.y };
    uint32_t r[4];

#pragma unroll
    for (int e = 0; e < 4; e++) {
        float x = __fmul_rn(v[e], f);

        if (FIXED) {
            x = __fmaf_rn(__fmaf_rn(-x, scale, v[e]), f, x);
            x = __fmaf_rn(__fmaf_rn(-x, scale, v[e]), f, x);
            x = fminf(fmaxf(x, -128.0f), 127.0f);
        }
        r[e] = __float_as_uint(__fadd_rn(x, big));
    }
    return __byte_perm(__byte_perm(r[0], r[1], 0x0040), __byte_perm(r[2], r[3], 0x0040), 0x5410);
}

template <int N, int FIXED>
static __device__ __forceinline__ void step_put_codes(int8_t *to, const uint4 h[N], int units,
                                                      float f, float scale)
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        const int v = (int)threadIdx.x + i * 32 * STEP_WARPS;

        if (v >= units)
            break;
        *(uint2 *)(to + 8 * v) = make_uint2(step_codes4<FIXED>(h[i].x, h[i].y, f, scale),
                                            step_codes4<FIXED>(h[i].z, h[i].w, f, scale));
    }
}

/* Row t of x from its values: of this thread v = thread + 256 i, 8 halves each, zeros behind the
 * row.  top: [STEP_WARPS], not in use by a thread that has not met the others since. */
template <int N>
static __device__ __forceinline__ void step_code_row(const step_x &x, int t, const uint4 h[N],
                                                     float x_scale, uint32_t *top)
{
    int8_t *to = (int8_t *)(x.shared + t * x.ld);
    const int units = (x.ld - 32) / 4;
    uint32_t pair = 0, most;
    cu_coder coder;

#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            pair = __vmaxu2(pair, word_of(h[i], e) & 0x7fff7fffu);
    most = __reduce_max_sync(0xffffffffu, max(pair & 0xffffu, pair >> 16));
    if (threadIdx.x % 32 == 0)
        top[threadIdx.x / 32] = most;
    step_meet();
#pragma unroll
    for (int i = 0; i < STEP_WARPS; i++)
        most = max(most, top[i]);
    coder = cu_coder_of(__half2float(__ushort_as_half((unsigned short)most)), x_scale);
    if (threadIdx.x == 0)
        *step_codes_scale(x, t) = coder.scale;
    /* of a row that is not finite any codes will do: its scale is NaN */
    if (x_scale > 0)
        step_put_codes<N, 1>(to, h, units, 1.0f / x_scale, x_scale);
    else
        step_put_codes<N, 0>(to, h, units, coder.factor, 0);
}

/* All of x->from as codes.  top: [2][STEP_WARPS], the rows take turns. */
static __device__ __forceinline__ void step_code_input(step_x *x, const step_product &a,
                                                       float x_scale, uint32_t *top)
{
    for (int t = 0; t < a.M; t++) {
        const uint4 *from = (const uint4 *)(x->from + (int64_t)t * a.K);
        uint4 h[STEP_CODED];

#pragma unroll
        for (int i = 0; i < STEP_CODED; i++) {
            const int v = (int)threadIdx.x + i * 32 * STEP_WARPS;

            h[i] = 8 * v < a.K ? __ldcg(from + v) : make_uint4(0, 0, 0, 0);
        }
        step_code_row<STEP_CODED>(*x, t, h, x_scale, top + t % 2 * STEP_WARPS);
    }
    step_meet();
    x->from = NULL;
}
#endif

#endif
