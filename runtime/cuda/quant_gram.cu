/* What calibration keeps of the inputs X [n, K] of a linear: H += X'X and, per channel, the sum and
 * the largest of |x|.  CPU twin: quant/linalg_cpu.c and quant/device_host.c.
 *
 * Both factors of X'X are X itself, 32 rows of 128 columns at a time (Hopper: gram_wgmma.cu):
 *
 *     rows k of X     [columns i0 .. i0 + 127]  turned by ldmatrix: A of mma.m16n8k16
 *                     [columns j0 .. j0 + 127]  likewise: B
 *
 * in shared memory by cp.async, four strips deep; 16 bytes at c of row r lie at c ^ (r % 8), so
 * that ldmatrix reads without bank conflicts.  Four warps make 64 x 64 each.  Products of halves
 * are exact, sums are f32 over the rows of one call, then added to H: the same calls, the same
 * bits. Only tiles on and above the diagonal are made. */
#include "runtime/cuda/cu_device.cuh"
#include "runtime/cuda/cu_quant.h"

#define TILE    128
#define DEEP    32
#define STAGES  4
#define THREADS 128
#define STRIP   (DEEP * TILE) /* halves of one factor */

/* ---- X'X ------------------------------------------------------------------------------------- */

static __device__ __forceinline__ uint32_t shared_at(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes, or zeros where there is no X */
static __device__ __forceinline__ void copy16(__half *to, const __half *from, int there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_at(to)), "l"(from),
                 "r"(there ? 16 : 0));
}

/* Rows r0 .. r0 + 31 of columns c0 .. c0 + 127. */
static __device__ __forceinline__ void load_strip(__half *to, const __half *X, int64_t r0,
                                                  int64_t c0, int64_t n, int64_t K)
{
#pragma unroll
    for (int i = 0; i < DEEP * 16 / THREADS; i++) {
        const int at = (int)threadIdx.x + i * THREADS, r = at / 16, c = at % 16;
        const int there = r0 + r < n && c0 + 8 * c < K;

        copy16(to + r * TILE + 8 * (c ^ r % 8), there ? X + (r0 + r) * K + c0 + 8 * c : X, there);
    }
}

static __device__ __forceinline__ void turned(uint32_t v[4], const __half *p)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
                 : "r"(shared_at(p)));
}

/* Where lane l points ldmatrix: row k of a strip, 8 columns from c on. */
static __device__ __forceinline__ const __half *place(const __half *s, int k, int c)
{
    return s + k * TILE + 8 * (c / 8 ^ k % 8);
}

static __device__ __forceinline__ void multiply(float acc[4][8][4], const __half *as,
                                                const __half *bs, int wi, int wj)
{
    const int l = (int)threadIdx.x % 32;

#pragma unroll
    for (int k = 0; k < DEEP; k += 16) {
        uint32_t a[4][4], b[4][4];

        /* the four 8 x 8 of A: columns i, i + 8 of rows k .. k + 7, then of rows k + 8 .. */
#pragma unroll
        for (int i = 0; i < 4; i++)
            turned(a[i], place(as, k + l % 8 + l / 16 * 8, wi + 16 * i + l / 8 % 2 * 8));
            /* of B: rows k, k + 8 of columns j, then of columns j + 8 */
#pragma unroll
        for (int j = 0; j < 4; j++)
            turned(b[j], place(bs, k + l % 16, wj + 16 * j + l / 16 * 8));
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 8; j++)
                cu_mma(acc[i][j], a[i][0], a[i][1], a[i][2], a[i][3], b[j / 2][j % 2 * 2],
                       b[j / 2][j % 2 * 2 + 1]);
    }
}

static __device__ __forceinline__ void add_tile(float *H, int64_t K, const float acc[4][8][4],
                                                int64_t i0, int64_t j0)
{
    const int l = (int)threadIdx.x % 32;

#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int64_t r = i0 + 16 * i + l / 4 + 8 * h, c = j0 + 8 * j + l % 4 * 2;

                if (r < K && c < K) { /* K is even */
                    float2 *to = (float2 *)(H + r * K + c), v = *to;

                    v.x += acc[i][j][2 * h];
                    v.y += acc[i][j][2 * h + 1];
                    *to = v;
                }
            }
}

static __global__ void __launch_bounds__(THREADS, 2)
    gram(float *H, const __half *X, int64_t n, int64_t K)
{
    extern __shared__ __align__(128) __half strips[]; /* [STAGES][A, B][STRIP] */
    const int64_t i0 = (int64_t)blockIdx.y * TILE, j0 = (int64_t)blockIdx.x * TILE;
    const int warp = (int)threadIdx.x / 32, wi = warp / 2 * 64, wj = warp % 2 * 64;
    const int steps = (int)((n + DEEP - 1) / DEEP);
    float acc[4][8][4] = {};

    if (j0 < i0)
        return;
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) {
            load_strip(strips + 2 * s * STRIP, X, (int64_t)s * DEEP, i0, n, K);
            load_strip(strips + (2 * s + 1) * STRIP, X, (int64_t)s * DEEP, j0, n, K);
        }
        asm volatile("cp.async.commit_group;");
    }
    for (int s = 0; s < steps; s++) {
        const int next = s + STAGES - 1, to = next % STAGES, at = s % STAGES;

        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2));
        __syncthreads();
        if (next < steps) {
            load_strip(strips + 2 * to * STRIP, X, (int64_t)next * DEEP, i0, n, K);
            load_strip(strips + (2 * to + 1) * STRIP, X, (int64_t)next * DEEP, j0, n, K);
        }
        asm volatile("cp.async.commit_group;");
        multiply(acc, strips + 2 * at * STRIP, strips + (2 * at + 1) * STRIP, wi, wj);
    }
    add_tile(H, K, acc, i0 + wi, j0 + wj);
}

extern "C" q_status cu_q_gram(const qnt_dev *d, float *H, int64_t K, const void *X, fmt_dtype type,
                              int64_t n, q_err *err)
{
    q_status st = Q_OK;
    const unsigned tiles = (unsigned)((K + TILE - 1) / TILE);
    const int shared = 2 * STAGES * STRIP * (int)sizeof(__half);

    if (type != FMT_F16 || K % 8 != 0)
        Q_FAIL(err, Q_EUNSUPPORTED,
               "cuda: second moments of %lld channels of type %s; wanted a multiple of 8 in f16",
               (long long)K, fmt_dtype_name(type));
    if (cu_of(((const cu_math *)d->self)->be)->cc == 90) {
        st = cu_gram_wgmma(cu_of(((const cu_math *)d->self)->be), H, K, X, n, err);
        goto out;
    }
    CU_TRY(cudaFuncSetAttribute((const void *)gram, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                shared));
    gram<<<dim3(tiles, tiles), THREADS, shared, cu_stream_of(d)>>>(H, (const __half *)X, n, K);
    CU_TRY(cudaGetLastError());
out:
    return st;
}

/* ---- channels -------------------------------------------------------------------------------- */

#define COLS 32 /* of a block; 32 rows at a time */

static __device__ __forceinline__ float as_float(__half v)
{
    return __half2float(v);
}

static __device__ __forceinline__ float as_float(float v)
{
    return v;
}

/* Bit patterns of magnitudes order like the magnitudes, what is not finite last.  Sums are taken in
 * double, because they are compared with those of the host. */
template <typename T>
static __global__ void channels(double *sum, float *max, const T *X, int64_t n, int64_t K)
{
    __shared__ double tmp_sum[32][COLS + 1];
    __shared__ uint32_t tmp_max[32][COLS + 1];
    const int x = (int)threadIdx.x, y = (int)threadIdx.y;
    const int64_t k = (int64_t)blockIdx.x * COLS + x;
    double s = 0;
    uint32_t m = 0;

    for (int64_t r = y; r < n && k < K; r += 32) {
        const float a = fabsf(as_float(X[r * K + k]));

        s += (double)a;
        m = umax(m, __float_as_uint(a));
    }
    tmp_sum[y][x] = s;
    tmp_max[y][x] = m;
    __syncthreads();
    if (y > 0 || k >= K)
        return;
    m = __float_as_uint(max[k]);
    s = 0;
    for (int r = 0; r < 32; r++) {
        s += tmp_sum[r][x];
        m = umax(m, tmp_max[r][x]);
    }
    max[k] = __uint_as_float(m);
    if (sum)
        sum[k] += s;
}

extern "C" q_status cu_q_columns(const qnt_dev *d, double *sum, float *max, const void *X,
                                 fmt_dtype type, int64_t n, int64_t K, q_err *err)
{
    q_status st = Q_OK;
    const unsigned blocks = (unsigned)((K + COLS - 1) / COLS);

    if (type == FMT_F16)
        channels<<<blocks, dim3(COLS, 32), 0, cu_stream_of(d)>>>(sum, max, (const __half *)X, n, K);
    else
        channels<<<blocks, dim3(COLS, 32), 0, cu_stream_of(d)>>>(sum, max, (const float *)X, n, K);
    CU_TRY(cudaGetLastError());
out:
    return st;
}
