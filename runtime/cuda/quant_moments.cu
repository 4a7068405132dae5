/* Element by element: second moments and weights of quantization on the GPU (quant/device.h).  CPU
 * twin: quant/device_host.c.  Factors are doubles and every product is rounded once, as there.
 *
 * Kernels over a matrix have a block of columns in x and a stride over the rows in y. */
#include "runtime/cuda/cu_device.cuh"
#include "runtime/cuda/cu_quant.h"

#define THREADS 256
#define ROWS    4096 /* blocks in y */
#define SIDE    32   /* of the squares that mirror turns */

static dim3 grid_of(int64_t N, int64_t K)
{
    return dim3((unsigned)((K + THREADS - 1) / THREADS), (unsigned)(N < ROWS ? N : ROWS));
}

#define OWN_COLUMN(k, K)                                                                           \
    const int64_t k = (int64_t)blockIdx.x * THREADS + threadIdx.x;                                 \
    if (k >= (K))                                                                                  \
        return;
#define OWN_ROWS(i, N)                                                                             \
    int64_t i = blockIdx.y;                                                                        \
    i < (N);                                                                                       \
    i += gridDim.y

#define LAUNCH(d, kernel, N, K, ...)                                                               \
    do {                                                                                           \
        kernel<<<grid_of((N), (K)), THREADS, 0, cu_stream_of(d)>>>(__VA_ARGS__);                   \
        CU_TRY(cudaGetLastError());                                                                \
    } while (0)

/* ---- second moments -------------------------------------------------------------------------- */

/* Squares above the diagonal are turned in shared memory: both sides are read by whole lines. */
static __global__ void mirror(float *H, int64_t K)
{
    __shared__ float s[SIDE][SIDE + 1];
    const int64_t i0 = (int64_t)blockIdx.y * SIDE, j0 = (int64_t)blockIdx.x * SIDE;
    const int x = (int)threadIdx.x;

    if (j0 < i0)
        return;
    for (int y = (int)threadIdx.y; y < SIDE; y += (int)blockDim.y)
        s[y][x] = i0 + y < K && j0 + x < K ? H[(i0 + y) * K + j0 + x] : 0;
    __syncthreads();
    for (int y = (int)threadIdx.y; y < SIDE; y += (int)blockDim.y)
        if (j0 + y < K && i0 + x < K && j0 + y > i0 + x)
            H[(j0 + y) * K + i0 + x] = s[x][y];
}

extern "C" q_status cu_q_mirror(const qnt_dev *d, float *H, int64_t K, q_err *err)
{
    q_status st = Q_OK;
    const unsigned n = (unsigned)((K + SIDE - 1) / SIDE);

    mirror<<<dim3(n, n), dim3(SIDE, 8), 0, cu_stream_of(d)>>>(H, K);
    CU_TRY(cudaGetLastError());
out:
    return st;
}

/* Row i of a packed triangle holds columns i .. K - 1. */
static __device__ __forceinline__ int64_t packed_at(int64_t i, int64_t k, int64_t K)
{
    return i * K - i * (i - 1) / 2 + k - i;
}

static __global__ void triangle(float *P, const float *H, int64_t K)
{
    OWN_COLUMN(k, K)
    for (OWN_ROWS(i, K))
        if (k >= i)
            P[packed_at(i, k, K)] = H[i * K + k];
}

extern "C" q_status cu_q_triangle(const qnt_dev *d, float *P, const float *H, int64_t K, q_err *err)
{
    q_status st = Q_OK;

    LAUNCH(d, triangle, K, K, P, H, K);
out:
    return st;
}

static __global__ void add_triangle(float *H, const float *P, int64_t K)
{
    OWN_COLUMN(k, K)
    for (OWN_ROWS(i, K))
        if (k >= i)
            H[i * K + k] += P[packed_at(i, k, K)];
}

extern "C" q_status cu_q_add_triangle(const qnt_dev *d, float *H, const float *P, int64_t K,
                                      q_err *err)
{
    q_status st = Q_OK;

    LAUNCH(d, add_triangle, K, K, H, P, K);
out:
    return st;
}

static __global__ void divide(float *H, int64_t K, const double *s)
{
    OWN_COLUMN(k, K)
    for (OWN_ROWS(i, K))
        H[i * K + k] = (float)((double)H[i * K + k] / (s[i] * s[k]));
}

extern "C" q_status cu_q_divide(const qnt_dev *d, float *H, int64_t K, const double *s, q_err *err)
{
    q_status st = Q_OK;
    void *v = NULL;

    Q_TRY(cu_math_vec(d, 0, s, (size_t)K * sizeof *s, &v, err));
    LAUNCH(d, divide, K, K, H, K, (const double *)v);
out:
    return st;
}

static __global__ void diagonal(float *out, const float *H, int64_t K)
{
    OWN_COLUMN(k, K)
    out[k] = H[k * K + k];
}

extern "C" q_status cu_q_diagonal(const qnt_dev *d, float *host, const float *H, int64_t K,
                                  q_err *err)
{
    q_status st = Q_OK;
    void *v = NULL;

    Q_TRY(cu_math_vec(d, 0, NULL, (size_t)K * sizeof *host, &v, err));
    LAUNCH(d, diagonal, 1, K, (float *)v, H, K);
    Q_TRY(d->ops->get(d, host, v, (size_t)K * sizeof *host, err));
out:
    return st;
}

static __global__ void arrange(float *U, const float *H, int64_t K, const int32_t *order,
                               const float *diag)
{
    OWN_COLUMN(k, K)
    for (OWN_ROWS(i, K))
        if (k >= i)
            U[i * K + k] = k == i ? diag[k] : H[order[i] * K + order[k]];
}

extern "C" q_status cu_q_arrange(const qnt_dev *d, float *U, const float *H, int64_t K,
                                 const int32_t *order, const float *diag, q_err *err)
{
    q_status st = Q_OK;
    void *o = NULL, *v = NULL;

    Q_TRY(cu_math_vec(d, 0, order, (size_t)K * sizeof *order, &o, err));
    Q_TRY(cu_math_vec(d, 1, diag, (size_t)K * sizeof *diag, &v, err));
    LAUNCH(d, arrange, K, K, U, H, K, (const int32_t *)o, (const float *)v);
out:
    return st;
}

/* ---- weights --------------------------------------------------------------------------------- */

static __global__ void scale_columns(float *W, int64_t N, int64_t K, const double *s)
{
    OWN_COLUMN(k, K)
    for (OWN_ROWS(n, N))
        W[n * K + k] = (float)((double)W[n * K + k] * s[k]);
}

extern "C" q_status cu_q_scale_columns(const qnt_dev *d, float *W, int64_t N, int64_t K,
                                       const double *s, q_err *err)
{
    q_status st = Q_OK;
    void *v = NULL;

    Q_TRY(cu_math_vec(d, 0, s, (size_t)K * sizeof *s, &v, err));
    LAUNCH(d, scale_columns, N, K, W, N, K, (const double *)v);
out:
    return st;
}

static __global__ void divide_rows(float *W, int64_t N, int64_t K, const double *s)
{
    OWN_COLUMN(k, K)
    for (OWN_ROWS(n, N))
        W[n * K + k] = (float)((double)W[n * K + k] / s[n]);
}

extern "C" q_status cu_q_divide_rows(const qnt_dev *d, float *W, int64_t N, int64_t K,
                                     const double *s, q_err *err)
{
    q_status st = Q_OK;
    void *v = NULL;

    Q_TRY(cu_math_vec(d, 0, s, (size_t)N * sizeof *s, &v, err));
    LAUNCH(d, divide_rows, N, K, W, N, K, (const double *)v);
out:
    return st;
}

static __global__ void subtract(float *A, const float *B, int64_t n)
{
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * THREADS)
        A[i] -= B[i];
}

extern "C" q_status cu_q_subtract(const qnt_dev *d, float *A, const float *B, int64_t n, q_err *err)
{
    q_status st = Q_OK;

    subtract<<<ROWS, THREADS, 0, cu_stream_of(d)>>>(A, B, n);
    CU_TRY(cudaGetLastError());
out:
    return st;
}

/* ---- |W| over the largest of its group ------------------------------------------------------- */

/* A block has a row, a warp one group of it at a time. */
static __global__ void group_max(float *max, const float *W, int64_t K, int64_t group,
                                 int64_t n_groups)
{
    const int64_t n = blockIdx.x;

    for (int64_t g = threadIdx.y; g < n_groups; g += blockDim.y) {
        const int64_t end = (g + 1) * group < K ? (g + 1) * group : K;
        float m = 0;

        for (int64_t k = g * group + threadIdx.x; k < end; k += 32)
            m = fmaxf(m, fabsf(W[n * K + k]));
        for (int d = 16; d > 0; d >>= 1)
            m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, d));
        if (threadIdx.x == 0)
            max[n * n_groups + g] = m;
    }
}

/* A block has 32 columns; 32 threads share the rows of one. */
static __global__ void mean(double *out, const float *W, const float *max, int64_t N, int64_t K,
                            int64_t group, int64_t n_groups)
{
    __shared__ double tmp[32][33];
    const int x = (int)threadIdx.x, y = (int)threadIdx.y;
    const int64_t k = (int64_t)blockIdx.x * 32 + x;
    double s = 0;

    for (int64_t n = y; n < N && k < K; n += 32) {
        const float m = max[n * n_groups + k / group];

        if (m > 0)
            s += fabs((double)W[n * K + k]) / ((double)m * (double)N);
    }
    tmp[y][x] = s;
    __syncthreads();
    if (y > 0 || k >= K)
        return;
    s = 0;
    for (int r = 0; r < 32; r++)
        s += tmp[r][x];
    out[k] = s;
}

extern "C" q_status cu_q_mean(const qnt_dev *d, double *host, const float *W, int64_t N, int64_t K,
                              int64_t group, q_err *err)
{
    q_status st = Q_OK;
    const int64_t size = group < 1 || group > K ? K : group, n_groups = (K + size - 1) / size;
    void *max = NULL, *sum = NULL;

    Q_TRY(d->ops->alloc(d, (size_t)(N * n_groups) * sizeof(float), &max, err));
    Q_TRY(cu_math_vec(d, 0, NULL, (size_t)K * sizeof(double), &sum, err));
    group_max<<<(unsigned)N, dim3(32, 8), 0, cu_stream_of(d)>>>((float *)max, W, K, size, n_groups);
    CU_TRY(cudaGetLastError());
    mean<<<(unsigned)((K + 31) / 32), dim3(32, 32), 0, cu_stream_of(d)>>>(
        (double *)sum, W, (const float *)max, N, K, size, n_groups);
    CU_TRY(cudaGetLastError());
    Q_TRY(d->ops->get(d, host, sum, (size_t)K * sizeof *host, err));
out:
    d->ops->free(d, max);
    return st;
}
