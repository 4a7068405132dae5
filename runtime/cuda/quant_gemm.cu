/* f32 products and factorization for quantization (quant/device.h).  CPU twin: quant/linalg_cpu.c.
 *
 * The product: a block makes 128 x 128 of C from strips of 16 in K, which lie transposed in shared
 * memory twice, so that the next strip is read while this one is used; a thread has 8 x 8 sums, as
 * four squares of 4 that lie 64 apart (16-byte loads without bank conflicts).  Plain f32, every sum
 * in the order of K: the same bits every time.
 *
 * Factorization.  With J the matrix that reverses an order, J H J = L L', and the wanted U is
 * J inverse(L) J: reversed, factored and inverted in one sweep over blocks of 128 columns, in
 * place.  At step k, with X = inverse(L) taking the place of what is done:
 *
 *     X_kk = inverse(chol(A_kk))                       one block, in shared memory
 *     P_i  = A_ik X_kk'           for i > k            aside: rows of L
 *     X_kj = X_kk X_kj            for j < k
 *     A_ij -= P_i P_j'            for i >= j > k       what is left to factor
 *     X_ij -= P_i X_kj            for i > k, j < k;    X_ik = -P_i X_kk
 *
 * A pivot that is not positive and finite raises a flag; the rest computes rubbish, harmlessly. */
#include "runtime/cuda/cu_device.cuh"
#include "runtime/cuda/cu_quant.h"

#define TILE    128
#define MAX_K   (1 << 19) /* of a square matrix: its elements over 512 are blocks of a grid */
#define DEEP    16        /* of K at a time */
#define PAD     4
#define THREADS 256

/* ---- products -------------------------------------------------------------------------------- */

/* Four neighbours of a row of a matrix [rows, cols]; zeros outside. */
static __device__ __forceinline__ float4 load4(const float *p, int64_t r, int64_t c, int64_t rows,
                                               int64_t cols, int64_t ld, int wide)
{
    float4 v = make_float4(0, 0, 0, 0);

    if (r >= rows || c >= cols)
        return v;
    p += r * ld + c;
    if (wide && c + 4 <= cols)
        return *(const float4 *)p;
    v.x = p[0];
    v.y = c + 1 < cols ? p[1] : 0;
    v.z = c + 2 < cols ? p[2] : 0;
    v.w = c + 3 < cols ? p[3] : 0;
    return v;
}

/* What a thread reads of a strip: twice four values of A and of B. */
template <int NT>
static __device__ __forceinline__ void load_strip(float4 a[2], float4 b[2], const cu_gemm_f32 &g,
                                                  int64_t i0, int64_t j0, int64_t k0, int wide)
{
    const int t = (int)threadIdx.x;

#pragma unroll
    for (int h = 0; h < 2; h++) {
        a[h] = load4(g.A, i0 + t / 4 + 64 * h, k0 + 4 * (t % 4), g.M, g.K, g.lda, wide);
        b[h] = NT ? load4(g.B, j0 + t / 4 + 64 * h, k0 + 4 * (t % 4), g.N, g.K, g.ldb, wide)
                  : load4(g.B, k0 + t / 32 + 8 * h, j0 + 4 * (t % 32), g.K, g.N, g.ldb, wide);
    }
}

typedef float strip_t[DEEP][TILE + PAD];

static __device__ __forceinline__ void put_turned(strip_t s, const float4 &v, int row, int k)
{
    s[k][row] = v.x;
    s[k + 1][row] = v.y;
    s[k + 2][row] = v.z;
    s[k + 3][row] = v.w;
}

template <int NT>
static __device__ __forceinline__ void put_strip(strip_t as, strip_t bs, const float4 a[2],
                                                 const float4 b[2])
{
    const int t = (int)threadIdx.x;

#pragma unroll
    for (int h = 0; h < 2; h++) {
        put_turned(as, a[h], t / 4 + 64 * h, 4 * (t % 4));
        if (NT)
            put_turned(bs, b[h], t / 4 + 64 * h, 4 * (t % 4));
        else
            *(float4 *)&bs[t / 32 + 8 * h][4 * (t % 32)] = b[h];
    }
}

static __device__ __forceinline__ void multiply(float acc[8][8], const strip_t as, const strip_t bs)
{
    const int ty = (int)threadIdx.x / 16 * 4, tx = (int)threadIdx.x % 16 * 4;

#pragma unroll
    for (int k = 0; k < DEEP; k++) {
        float a[8], b[8];

        *(float4 *)&a[0] = *(const float4 *)&as[k][ty];
        *(float4 *)&a[4] = *(const float4 *)&as[k][ty + 64];
        *(float4 *)&b[0] = *(const float4 *)&bs[k][tx];
        *(float4 *)&b[4] = *(const float4 *)&bs[k][tx + 64];
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int j = 0; j < 8; j++)
                acc[i][j] += a[i] * b[j];
    }
}

/* Four neighbours of C; their first column is inside. */
static __device__ __forceinline__ void store4(float *to, const float *v, int64_t left,
                                              const cu_gemm_f32 &g, int wide)
{
    if (wide && left >= 4) {
        float4 c = g.beta != 0 ? *(const float4 *)to : make_float4(0, 0, 0, 0);

        c.x += g.alpha * v[0];
        c.y += g.alpha * v[1];
        c.z += g.alpha * v[2];
        c.w += g.alpha * v[3];
        *(float4 *)to = c;
        return;
    }
    for (int j = 0; j < 4 && j < left; j++)
        to[j] = (g.beta != 0 ? to[j] : 0) + g.alpha * v[j];
}

static __device__ __forceinline__ void store_tile(const float acc[8][8], const cu_gemm_f32 &g,
                                                  int64_t i0, int64_t j0, int wide)
{
    const int64_t ty = i0 + (int)threadIdx.x / 16 * 4, tx = j0 + (int)threadIdx.x % 16 * 4;

#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int64_t r = ty + (i < 4 ? i : 60 + i);

        if (r < g.M && tx < g.N)
            store4(g.C + r * g.ldc + tx, acc[i], g.N - tx, g, wide);
        if (r < g.M && tx + 64 < g.N)
            store4(g.C + r * g.ldc + tx + 64, acc[i] + 4, g.N - tx - 64, g, wide);
    }
}

template <int NT>
static __global__ void __launch_bounds__(THREADS, 2) gemm_f32(cu_gemm_f32 g, int wide)
{
    __shared__ __align__(16) strip_t as[2], bs[2];
    const int64_t i0 = (int64_t)blockIdx.y * TILE, j0 = (int64_t)blockIdx.x * TILE;
    float acc[8][8] = {};
    float4 a[2], b[2];
    int turn = 0;

    if (g.lower && j0 > i0)
        return;
    g.A += blockIdx.z * g.step_a;
    g.B += blockIdx.z * g.step_b;
    g.C += blockIdx.z * g.step_c;
    load_strip<NT>(a, b, g, i0, j0, 0, wide & 1);
    put_strip<NT>(as[0], bs[0], a, b);
    __syncthreads();
    for (int64_t k0 = DEEP; k0 < g.K; k0 += DEEP, turn ^= 1) {
        load_strip<NT>(a, b, g, i0, j0, k0, wide & 1);
        multiply(acc, as[turn], bs[turn]);
        put_strip<NT>(as[turn ^ 1], bs[turn ^ 1], a, b);
        __syncthreads();
    }
    multiply(acc, as[turn], bs[turn]);
    store_tile(acc, g, i0, j0, wide & 2);
}

extern "C" q_status cu_gemm_run(const qnt_dev *d, const cu_gemm_f32 *g, q_err *err)
{
    q_status st = Q_OK;
    const int64_t rows = (g->M + TILE - 1) / TILE, cols = (g->N + TILE - 1) / TILE;
    const int64_t batch = g->batch > 1 ? g->batch : 1;
    /* bit 0: rows of A and B start on 16 bytes; bit 1: those of C */
    const int wide_ab = g->lda % 4 == 0 && g->ldb % 4 == 0 && g->step_a % 4 == 0 &&
                        g->step_b % 4 == 0 && ((uintptr_t)g->A | (uintptr_t)g->B) % 16 == 0;
    const int wide_c = g->ldc % 4 == 0 && g->step_c % 4 == 0 && (uintptr_t)g->C % 16 == 0;
    const int wide = wide_ab | wide_c << 1;
    const dim3 grid((unsigned)cols, (unsigned)rows, (unsigned)batch);

    if (g->M < 1 || g->N < 1)
        return Q_OK;
    if (rows > 65535 || batch > 65535)
        Q_FAIL(err, Q_EUNSUPPORTED, "cuda: product of [%lld, %lld], %lld times: too large",
               (long long)g->M, (long long)g->N, (long long)batch);
    if (g->nt)
        gemm_f32<1><<<grid, THREADS, 0, cu_stream_of(d)>>>(*g, wide);
    else
        gemm_f32<0><<<grid, THREADS, 0, cu_stream_of(d)>>>(*g, wide);
    CU_TRY(cudaGetLastError());
out:
    return st;
}

/* ---- e' H e ---------------------------------------------------------------------------------- */

/* out[i] = sum of a[i, k] b[i, k] in double; one block of 256 threads a row */
static __global__ void dot_rows(double *out, const float *a, const float *b, int64_t K)
{
    __shared__ double tmp[THREADS];
    double sum = 0;

    a += blockIdx.x * K;
    b += blockIdx.x * K;
    for (int64_t k = threadIdx.x; k < K; k += THREADS)
        sum += (double)a[k] * (double)b[k];
    tmp[threadIdx.x] = sum;
    for (int n = THREADS / 2; n > 0; n /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < n)
            tmp[threadIdx.x] += tmp[threadIdx.x + n];
    }
    if (threadIdx.x == 0)
        out[blockIdx.x] = tmp[0];
}

extern "C" q_status cu_q_quadratic(const qnt_dev *d, double *out, const float *E, int64_t M,
                                   const float *H, int64_t K, float *tmp, q_err *err)
{
    q_status st = Q_OK;
    cu_gemm_f32 g = {};
    void *sum = NULL;

    if (M < 1 || M > INT32_MAX || K < 1 || K > MAX_K)
        Q_FAIL(err, Q_EUNSUPPORTED, "cuda: errors of [%lld, %lld]: too large", (long long)M,
               (long long)K);
    g.A = E;
    g.B = H;
    g.C = tmp;
    g.M = M;
    g.N = g.K = g.lda = g.ldb = g.ldc = K;
    g.alpha = 1;
    Q_TRY(cu_math_vec(d, 0, NULL, (size_t)M * sizeof(double), &sum, err));
    Q_TRY(cu_gemm_run(d, &g, err));
    dot_rows<<<(unsigned)M, THREADS, 0, cu_stream_of(d)>>>((double *)sum, E, tmp, K);
    CU_TRY(cudaGetLastError());
    Q_TRY(d->ops->get(d, out, sum, (size_t)M * sizeof *out, err));
out:
    return st;
}

/* ---- factorization --------------------------------------------------------------------------- */

/* A = J A J of the upper triangle, its lower triangle: a thread swaps two places. */
static __global__ void reverse(float *A, int64_t K)
{
    const int64_t n = K * K, i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;

    if (i < n / 2) {
        const float v = A[i];

        A[i] = A[n - 1 - i];
        A[n - 1 - i] = v;
    }
}

static __global__ void clear_upper(float *A, int64_t K)
{
    const int64_t j = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;

    for (int64_t i = blockIdx.y; i < j && j < K; i += gridDim.y)
        A[i * K + j] = 0;
}

#define DIAG_THREADS 512
#define DIAG_LD      (TILE + 1)

/* x = inverse(l), lower triangular, turned, in the place above l: x of row i and column j is
 * l[j][i + 1].  A column by four neighbouring lanes. */
static __device__ __forceinline__ void invert_triangle(float *l, int n)
{
    const int j = (int)threadIdx.x / 4, part = (int)threadIdx.x % 4;
    float *x = l + j * DIAG_LD + 1;

    for (int i = 0; i < n; i++) { /* all lanes go through all rows: they talk to each other */
        float sum = 0;

        for (int m = j + part; m < i; m += 4)
            sum += l[i * DIAG_LD + m] * x[m];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (part == 0 && j <= i)
            x[i] = ((i == j ? 1 : 0) - sum) / l[i * DIAG_LD + i];
        __syncwarp();
    }
    __syncthreads();
}

/* A [n, n] at a, n <= 128: its lower triangle becomes inverse(chol(A)), its upper one zeros. */
static __global__ void __launch_bounds__(DIAG_THREADS, 1)
    invert_diagonal(float *a, int n, int64_t ld, int *bad)
{
    extern __shared__ float l[]; /* 64 KB: what every GPU since sm_80 has, twice */
    const int t = (int)threadIdx.x;

    for (int i = t; i < n * n; i += DIAG_THREADS)
        if (i % n <= i / n)
            l[i / n * DIAG_LD + i % n] = a[i / n * ld + i % n];
    __syncthreads();
    for (int k = 0; k < n; k++) {
        const float p = l[k * DIAG_LD + k];
        const float r = sqrtf(p);

        if (t == 0 && !(p > 0 && p < INFINITY))
            *bad = 1;
        __syncthreads();
        for (int i = k + t; i < n; i += DIAG_THREADS)
            l[i * DIAG_LD + k] = i == k ? r : l[i * DIAG_LD + k] / r;
        __syncthreads();
        for (int e = t; e < (n - k - 1) * TILE; e += DIAG_THREADS) {
            const int i = k + 1 + e / TILE, j = k + 1 + e % TILE;

            if (j <= i)
                l[i * DIAG_LD + j] -= l[i * DIAG_LD + k] * l[j * DIAG_LD + k];
        }
        __syncthreads();
    }
    invert_triangle(l, n);
    for (int i = t; i < n * n; i += DIAG_THREADS)
        a[i / n * ld + i % n] = i % n <= i / n ? l[i % n * DIAG_LD + i / n + 1] : 0;
}

static __global__ void check_diagonal(const float *A, int64_t K, int *bad)
{
    for (int64_t i = threadIdx.x; i < K; i += blockDim.x)
        if (!(A[i * K + i] > 0 && A[i * K + i] < INFINITY))
            *bad = 1; /* all who write, write this */
}

/* Step k of the sweep: rows and columns k0 .. k0 + n - 1.  P [K, 128]. */
static q_status sweep(const qnt_dev *d, float *A, int64_t K, int64_t k0, float *P, int *bad,
                      q_err *err)
{
    q_status st = Q_OK;
    const int64_t n = K - k0 < TILE ? K - k0 : TILE, k1 = k0 + n, rest = K - k1;
    float *kk = A + k0 * K + k0;
    cu_gemm_f32 g = {};

    invert_diagonal<<<1, DIAG_THREADS, TILE * DIAG_LD * sizeof(float), cu_stream_of(d)>>>(
        kk, (int)n, K, bad);
    CU_TRY(cudaGetLastError());
    g.lda = g.ldb = g.ldc = K;
    g.alpha = 1;
    g.K = n;
    g.A = A + k1 * K + k0; /* P = A_ik X_kk' */
    g.B = kk;
    g.C = P;
    g.M = rest;
    g.N = n;
    g.ldc = TILE;
    g.nt = 1;
    Q_TRY(cu_gemm_run(d, &g, err));
    g.A = kk; /* X_kj = X_kk X_kj */
    g.B = A + k0 * K;
    g.C = A + k0 * K;
    g.M = n;
    g.N = k0;
    g.ldc = K;
    g.nt = 0;
    Q_TRY(cu_gemm_run(d, &g, err));
    g.A = P; /* A_ij -= P_i P_j' */
    g.B = P;
    g.C = A + k1 * K + k1;
    g.M = g.N = rest;
    g.lda = g.ldb = TILE;
    g.alpha = -1;
    g.beta = 1;
    g.nt = g.lower = 1;
    Q_TRY(cu_gemm_run(d, &g, err));
    g.B = A + k0 * K; /* X_ij -= P_i X_kj */
    g.C = A + k1 * K;
    g.N = k0;
    g.ldb = K;
    g.nt = g.lower = 0;
    Q_TRY(cu_gemm_run(d, &g, err));
    g.B = kk; /* X_ik = -P_i X_kk */
    g.C = A + k1 * K + k0;
    g.N = n;
    g.beta = 0;
    Q_TRY(cu_gemm_run(d, &g, err));
out:
    return st;
}

static q_status turn(const qnt_dev *d, float *A, int64_t K, q_err *err)
{
    q_status st = Q_OK;

    reverse<<<(unsigned)((K * K + 511) / 512), 256, 0, cu_stream_of(d)>>>(A, K);
    CU_TRY(cudaGetLastError());
out:
    return st;
}

extern "C" q_status cu_q_factor(const qnt_dev *d, float *H, int64_t K, int *ok, q_err *err)
{
    q_status st = Q_OK;
    const int shared = TILE * DIAG_LD * (int)sizeof(float);
    const unsigned rows = (unsigned)(K < 65535 ? K : 65535);
    rt_backend *be = ((const cu_math *)d->self)->be;
    void *P = NULL, *flag = NULL;
    int bad = 0;

    if (K < 1 || K > MAX_K)
        Q_FAIL(err, Q_EUNSUPPORTED, "cuda: second moments of %lld inputs, at most %d", (long long)K,
               MAX_K);
    Q_TRY(cu_alloc(be, (size_t)(K * TILE) * sizeof(float), &P, err));
    Q_TRY(cu_math_vec(d, 0, &bad, sizeof bad, &flag, err));
    CU_TRY(cudaFuncSetAttribute((const void *)invert_diagonal,
                                cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    Q_TRY(turn(d, H, K, err));
    for (int64_t k = 0; k < K; k += TILE)
        Q_TRY(sweep(d, H, K, k, (float *)P, (int *)flag, err));
    clear_upper<<<dim3((unsigned)((K + 255) / 256), rows), 256, 0, cu_stream_of(d)>>>(H, K);
    CU_TRY(cudaGetLastError());
    Q_TRY(turn(d, H, K, err));
    check_diagonal<<<1, 1024, 0, cu_stream_of(d)>>>(H, K, (int *)flag);
    CU_TRY(cudaGetLastError());
    Q_TRY(d->ops->get(d, &bad, flag, sizeof bad, err));
    *ok = !bad;
out:
    cu_free(be, P);
    return st;
}
