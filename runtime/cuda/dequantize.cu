/* Weights on their way to cuBLASLt: a strip of rows as f16; and activations in the order of columns
 * that a weight has in memory.
 *
 * w = (code - zero) * scale, rounded to f16 once; what overflows becomes the largest half.  CPU
 * twin: the dequantize functions of quant/scheme.c.
 *
 * A thread turns 16 bytes of codes, those of one lane of the matrix-vector kernel: 8 neighbouring
 * columns each of 2 (8 bits) or 4 (4 bits) runs that are 32 columns apart; 4 threads write 64
 * neighbouring bytes.  Rows of less regular weights (groups that are no multiple of 8, or out of
 * order) are turned one value at a time. */
#include "runtime/cuda/cu_weight.cuh"

#define THREADS 128

/* lo and hi times scale */
static __device__ __forceinline__ uint32_t scaled(uint32_t v, __half2 scale)
{
    const __half2 most = cu_as_half2(0x7bff7bffu), least = cu_as_half2(0xfbfffbffu);

    return cu_as_u32(__hmax2(__hmin2(__hmul2(cu_as_half2(v), scale), most), least));
}

/* Row n0 + blockIdx.x; ld between rows of out. */
template <int BITS>
static __global__ void __launch_bounds__(THREADS)
    dequantize(const cu_table w, int64_t n0, int K, __half *out, int64_t ld)
{
    const int runs = BITS == 4 ? 4 : 2, chunk = 32 * runs;
    const int64_t n = n0 + blockIdx.x;
    const char *row = w.data + n * w.row_bytes;
    cu_zero zero = cu_zero_middle<BITS>();
    __half2 scale = __half2half2(__float2half_rn(w.scale ? w.scale[n] : 0));

    cu_wait(); /* the product before still reads the strip */
    out += blockIdx.x * ld;
    for (int i = (int)threadIdx.x; i < (K + chunk - 1) / chunk * 4; i += THREADS) {
        const uint4 c = cu_load_once(row + 16 * (int64_t)i);
        const uint32_t word[4] = { c.x, c.y, c.z, c.w };

#pragma unroll
        for (int j = 0; j < runs; j++) {
            const int k = i / 4 * chunk + 32 * j + i % 4 * 8;
            uint4 v;

            if (k >= K)
                break;
            if (w.scale16) {
                const int64_t at = cu_group_at(n, (uint32_t)k / (uint32_t)w.group, w.G);

                scale = __half2half2(w.scale16[at]);
                if (w.zero)
                    zero = cu_zero_of(cu_as_half2(0x64006400u + w.zero[at] * 0x10001u));
            }
            if (BITS == 4) {
                cu_decode4(word[j], zero, &v.x, &v.y);
                cu_decode4(word[j] >> 8, zero, &v.z, &v.w);
            } else {
                cu_decode8(word[2 * j], zero, &v.x, &v.y);
                cu_decode8(word[2 * j + 1], zero, &v.z, &v.w);
            }
            v = make_uint4(scaled(v.x, scale), scaled(v.y, scale), scaled(v.z, scale),
                           scaled(v.w, scale));
            *(uint4 *)(out + k) = v;
        }
    }
}

static __global__ void __launch_bounds__(THREADS)
    dequantize_any(const cu_table w, int64_t n0, int64_t K, __half *out, int64_t ld)
{
    cu_wait();
    for (int64_t k = threadIdx.x; k < K; k += THREADS)
        out[blockIdx.x * ld + k] = cu_half(cu_weight_at(w, n0 + blockIdx.x, k));
}

extern "C" q_status cu_dequantize(const cu_be *c, const rt_weight *w, int64_t n0, int64_t n,
                                  void *out, int64_t ld, q_err *err)
{
    q_status st = Q_OK;
    const dim3 grid((unsigned)n), block(THREADS);

    if (w->g_idx || w->K % 8 != 0 || (w->scheme->grouped && w->group % 8 != 0 && w->group < w->K))
        CU_LAUNCH(c, dequantize_any, grid, block, 0, cu_table_of(w), n0, w->K, (__half *)out, ld);
    else if (w->scheme->bits == 4)
        CU_LAUNCH(c, dequantize<4>, grid, block, 0, cu_table_of(w), n0, (int)w->K, (__half *)out,
                  ld);
    else
        CU_LAUNCH(c, dequantize<8>, grid, block, 0, cu_table_of(w), n0, (int)w->K, (__half *)out,
                  ld);
out:
    return st;
}

/* Token blockIdx.y of x, columns from[0 .. K - 1] of it. */
static __global__ void gather(const __half *x, const int32_t *from, int64_t K, __half *out)
{
    const int64_t k = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int64_t column = k < K ? from[k] : 0;

    cu_wait();
    if (k < K)
        out[blockIdx.y * K + k] = x[blockIdx.y * K + column];
}

extern "C" q_status cu_gather(const cu_be *c, const rt_weight *w, const void *x, int64_t M,
                              void *out, q_err *err)
{
    q_status st = Q_OK;

    CU_LAUNCH(c, gather, dim3((unsigned)((w->K + 255) / 256), (unsigned)M), dim3(256), 0,
              (const __half *)x, (const int32_t *)w->g_idx + w->K, w->K, (__half *)out);
out:
    return st;
}
