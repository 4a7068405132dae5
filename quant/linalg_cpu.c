/* The numeric seam over OpenBLAS: the one file that includes cblas.h.
 *
 * OpenBLAS keeps a pool of threads of its own, which would fight the OpenMP threads of the callers
 * and make a sum depend on how many there are; it is pinned to one.  Calls from several threads at
 * once are safe then: each takes its own packing buffer.
 *
 * Factorization.  With J the matrix that reverses an order, J H J = L L' gives H = R R' with the
 * upper triangular R = J L J, and so inverse(H) = U'U with U = inverse(R) = J inverse(L) J: one
 * Cholesky factorization and one triangular inverse, both in place.  J A J of a whole matrix is its
 * array in reverse.  Both go by tiles of TILE rows and columns:
 *
 *     potrf   for k: L_kk = chol(A_kk); A_ik = A_ik inverse(L_kk)'; A_ij -= A_ik A_jk'
 *     trtri   for j from the last: X_jj = inverse(L_jj); X_ij = -(sum over m of X_im L_mj) X_jj
 *
 * LAPACK is called by its Fortran names, which every build of OpenBLAS exports; its column-major
 * upper triangle is our row-major lower one. */
#include "quant/linalg.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include <cblas.h>

#include "formats/base/q_mem.h"

#define TILE 256

void spotrf_(const char *uplo, const blasint *n, float *a, const blasint *lda, blasint *info);
void strtri_(const char *uplo, const char *diag, const blasint *n, float *a, const blasint *lda,
             blasint *info);

void qnt_linalg_init(void)
{
    openblas_set_num_threads(1);
}

static void gemm(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int64_t M, int64_t N, int64_t K,
                 float alpha, const float *A, int64_t lda, const float *B, int64_t ldb, float beta,
                 float *C, int64_t ldc)
{
    assert(M <= INT32_MAX && N <= INT32_MAX && K <= INT32_MAX);
    assert(lda <= INT32_MAX && ldb <= INT32_MAX && ldc <= INT32_MAX);
    cblas_sgemm(CblasRowMajor, ta, tb, (blasint)M, (blasint)N, (blasint)K, alpha, A, (blasint)lda,
                B, (blasint)ldb, beta, C, (blasint)ldc);
}

void qnt_gemm_nt(int64_t M, int64_t N, int64_t K, const float *A, int64_t lda, const float *B,
                 int64_t ldb, float beta, float *C, int64_t ldc)
{
    gemm(CblasNoTrans, CblasTrans, M, N, K, 1.0f, A, lda, B, ldb, beta, C, ldc);
}

void qnt_gemm_sub(int64_t M, int64_t N, int64_t K, const float *A, int64_t lda, const float *B,
                  int64_t ldb, float *C, int64_t ldc)
{
    gemm(CblasNoTrans, CblasNoTrans, M, N, K, -1.0f, A, lda, B, ldb, 1.0f, C, ldc);
}

static int64_t tiles_of(int64_t K)
{
    return (K + TILE - 1) / TILE;
}

/* rows or columns of tile i */
static int64_t extent(int64_t i, int64_t K)
{
    return K - i * TILE < TILE ? K - i * TILE : TILE;
}

void qnt_gram(float *H, int64_t K, const float *X, int64_t n)
{
    const int64_t tiles = tiles_of(K);

#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t t = 0; t < tiles * tiles; t++) {
        const int64_t i = t / tiles, j = t % tiles;

        if (j >= i)
            gemm(CblasTrans, CblasNoTrans, extent(i, K), extent(j, K), n, 1.0f, X + i * TILE, K,
                 X + j * TILE, K, 1.0f, H + i * TILE * K + j * TILE, K);
    }
}

void qnt_mirror(float *H, int64_t K)
{
    for (int64_t i = 0; i < K; i++)
        for (int64_t j = i + 1; j < K; j++)
            H[j * K + i] = H[i * K + j];
}

/* ---- factorization --------------------------------------------------------------------------- */

static float *at(float *A, int64_t K, int64_t i, int64_t j)
{
    return A + i * TILE * K + j * TILE;
}

/* C = C inverse(L)', or -C inverse(L); C [m, n], L [n, n] lower */
static void solve_right(const float *L, float *C, int64_t m, int64_t n, int64_t ld, int transposed)
{
    cblas_strsm(CblasRowMajor, CblasRight, CblasLower, transposed ? CblasTrans : CblasNoTrans,
                CblasNonUnit, (blasint)m, (blasint)n, transposed ? 1.0f : -1.0f, L, (blasint)ld, C,
                (blasint)ld);
}

static int factor_lower(float *A, int64_t K)
{
    const int64_t tiles = tiles_of(K);
    const blasint ld = (blasint)K;

    for (int64_t k = 0; k < tiles; k++) {
        const blasint nk = (blasint)extent(k, K);
        const int64_t rest = tiles - k - 1;
        blasint info = 0;

        spotrf_("U", &nk, at(A, K, k, k), &ld, &info);
        if (info != 0)
            return 0;
        for (int64_t i = 0; i < nk; i++) /* updates filled the whole tile */
            memset(at(A, K, k, k) + i * K + i + 1, 0, (size_t)(nk - i - 1) * sizeof *A);
#pragma omp parallel for schedule(dynamic, 1)
        for (int64_t i = k + 1; i < tiles; i++)
            solve_right(at(A, K, k, k), at(A, K, i, k), extent(i, K), nk, K, 1);
#pragma omp parallel for schedule(dynamic, 1)
        for (int64_t t = 0; t < rest * rest; t++) {
            const int64_t i = k + 1 + t / rest, j = k + 1 + t % rest;

            if (j <= i)
                gemm(CblasNoTrans, CblasTrans, extent(i, K), extent(j, K), nk, -1.0f,
                     at(A, K, i, k), K, at(A, K, j, k), K, 1.0f, at(A, K, i, j), K);
        }
    }
    return 1;
}

/* column [K, TILE]: a tile column of A while it is replaced */
static int invert_lower(float *A, int64_t K, float *column)
{
    const int64_t tiles = tiles_of(K);
    const blasint ld = (blasint)K;

    for (int64_t j = tiles - 1; j >= 0; j--) {
        const int64_t nj = extent(j, K), k0 = (j + 1) * TILE;
        const blasint n = (blasint)nj;
        blasint info = 0;

#pragma omp parallel for schedule(dynamic, 1)
        for (int64_t i = j + 1; i < tiles; i++) {
            solve_right(at(A, K, j, j), at(A, K, i, j), extent(i, K), nj, K, 0);
            for (int64_t r = 0; r < extent(i, K); r++)
                memcpy(column + (i * TILE + r) * TILE, at(A, K, i, j) + r * K,
                       (size_t)nj * sizeof *A);
        }
#pragma omp parallel for schedule(dynamic, 1)
        for (int64_t i = j + 1; i < tiles; i++)
            gemm(CblasNoTrans, CblasNoTrans, extent(i, K), nj, i * TILE + extent(i, K) - k0, 1.0f,
                 A + i * TILE * K + k0, K, column + k0 * TILE, TILE, 0.0f, at(A, K, i, j), K);
        strtri_("U", "N", &n, at(A, K, j, j), &ld, &info);
        if (info != 0)
            return 0;
    }
    return 1;
}

/* J A J: of an upper triangle a lower one. */
static void reverse(float *A, int64_t K)
{
    for (int64_t i = 0, j = K * K - 1; i < j; i++, j--) {
        const float v = A[i];

        A[i] = A[j];
        A[j] = v;
    }
}

int qnt_factor(float *H, int64_t K)
{
    float *column = q_malloc((size_t)(K * TILE) * sizeof *column);
    int ok = column != NULL;

    if (!ok)
        return 0;
    for (int64_t i = 0; i < K; i++)
        memset(H + i * K, 0, (size_t)i * sizeof *H);
    reverse(H, K);
    ok = factor_lower(H, K) && invert_lower(H, K, column);
    reverse(H, K);
    for (int64_t i = 0; ok && i < K; i++)
        ok = isfinite(H[i * K + i]) && H[i * K + i] > 0;
    q_free(column);
    return ok;
}

void qnt_quadratic(double *out, const float *E, int64_t M, const float *H, int64_t K, float *tmp)
{
    enum { ROWS = 64 };

#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t m0 = 0; m0 < M; m0 += ROWS) {
        const int64_t m = M - m0 < ROWS ? M - m0 : ROWS;

        gemm(CblasNoTrans, CblasTrans, m, K, K, 1.0f, E + m0 * K, K, H, K, 0.0f, tmp + m0 * K, K);
        for (int64_t i = m0; i < m0 + m; i++) {
            double sum = 0;

            for (int64_t k = 0; k < K; k++)
                sum += (double)E[i * K + k] * (double)tmp[i * K + k];
            out[i] = sum;
        }
    }
}
