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
void dpotrf_(const char *uplo, const blasint *n, double *a, const blasint *lda, blasint *info);
void dtrtri_(const char *uplo, const char *diag, const blasint *n, double *a, const blasint *lda,
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

/* Of f32 or f64: what OpenBLAS has for it, so that the walk over the tiles is written once.  Rows
 * are K apart; the triangles of potrf and trtri are lower ones, 0: done. */
typedef struct real {
    size_t size;
    void (*gemm)(int transB, int64_t M, int64_t N, int64_t K, double alpha, const void *A,
                 int64_t lda, const void *B, int64_t ldb, double beta, void *C, int64_t ldc);
    void (*trsm)(int transL, int64_t M, int64_t N, double alpha, const void *L, void *C,
                 int64_t ld);
    blasint (*potrf)(int64_t n, void *A, int64_t ld);
    blasint (*trtri)(int64_t n, void *A, int64_t ld);
} real;

static CBLAS_TRANSPOSE turned(int yes)
{
    return yes ? CblasTrans : CblasNoTrans;
}

static void gemm_f32(int transB, int64_t M, int64_t N, int64_t K, double alpha, const void *A,
                     int64_t lda, const void *B, int64_t ldb, double beta, void *C, int64_t ldc)
{
    gemm(CblasNoTrans, turned(transB), M, N, K, (float)alpha, A, lda, B, ldb, (float)beta, C, ldc);
}

static void gemm_f64(int transB, int64_t M, int64_t N, int64_t K, double alpha, const void *A,
                     int64_t lda, const void *B, int64_t ldb, double beta, void *C, int64_t ldc)
{
    cblas_dgemm(CblasRowMajor, CblasNoTrans, turned(transB), (blasint)M, (blasint)N, (blasint)K,
                alpha, A, (blasint)lda, B, (blasint)ldb, beta, C, (blasint)ldc);
}

static void trsm_f32(int transL, int64_t M, int64_t N, double alpha, const void *L, void *C,
                     int64_t ld)
{
    cblas_strsm(CblasRowMajor, CblasRight, CblasLower, turned(transL), CblasNonUnit, (blasint)M,
                (blasint)N, (float)alpha, L, (blasint)ld, C, (blasint)ld);
}

static void trsm_f64(int transL, int64_t M, int64_t N, double alpha, const void *L, void *C,
                     int64_t ld)
{
    cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, turned(transL), CblasNonUnit, (blasint)M,
                (blasint)N, alpha, L, (blasint)ld, C, (blasint)ld);
}

static blasint potrf_f32(int64_t n, void *A, int64_t ld)
{
    const blasint order = (blasint)n, stride = (blasint)ld;
    blasint info = 0;

    spotrf_("U", &order, A, &stride, &info);
    return info;
}

static blasint potrf_f64(int64_t n, void *A, int64_t ld)
{
    const blasint order = (blasint)n, stride = (blasint)ld;
    blasint info = 0;

    dpotrf_("U", &order, A, &stride, &info);
    return info;
}

static blasint trtri_f32(int64_t n, void *A, int64_t ld)
{
    const blasint order = (blasint)n, stride = (blasint)ld;
    blasint info = 0;

    strtri_("U", "N", &order, A, &stride, &info);
    return info;
}

static blasint trtri_f64(int64_t n, void *A, int64_t ld)
{
    const blasint order = (blasint)n, stride = (blasint)ld;
    blasint info = 0;

    dtrtri_("U", "N", &order, A, &stride, &info);
    return info;
}

static const real f32 = { sizeof(float), gemm_f32, trsm_f32, potrf_f32, trtri_f32 };
static const real f64 = { sizeof(double), gemm_f64, trsm_f64, potrf_f64, trtri_f64 };

/* A square matrix while it is factored, [K, K] of one of the two. */
typedef struct square {
    const real *r;
    void *A;
    int64_t K;
} square;

static void *cell(const square *s, int64_t row, int64_t col)
{
    return (char *)s->A + (size_t)(row * s->K + col) * s->r->size;
}

static void *at(const square *s, int64_t i, int64_t j)
{
    return cell(s, i * TILE, j * TILE);
}

static int factor_lower(const square *s)
{
    const real *r = s->r;
    const int64_t K = s->K, tiles = tiles_of(K);

    for (int64_t k = 0; k < tiles; k++) {
        const int64_t k0 = k * TILE, nk = extent(k, K), rest = tiles - k - 1;

        if (r->potrf(nk, at(s, k, k), K) != 0)
            return 0;
        for (int64_t i = 0; i < nk; i++) /* updates filled the whole tile */
            memset(cell(s, k0 + i, k0 + i + 1), 0, (size_t)(nk - i - 1) * r->size);
#pragma omp parallel for schedule(dynamic, 1)
        for (int64_t i = k + 1; i < tiles; i++)
            r->trsm(1, extent(i, K), nk, 1, at(s, k, k), at(s, i, k), K);
#pragma omp parallel for schedule(dynamic, 1)
        for (int64_t t = 0; t < rest * rest; t++) {
            const int64_t i = k + 1 + t / rest, j = k + 1 + t % rest;

            if (j <= i)
                r->gemm(1, extent(i, K), extent(j, K), nk, -1, at(s, i, k), K, at(s, j, k), K, 1,
                        at(s, i, j), K);
        }
    }
    return 1;
}

/* column [K, TILE]: a tile column of A while it is replaced */
static int invert_lower(const square *s, char *column)
{
    const real *r = s->r;
    const int64_t K = s->K, tiles = tiles_of(K);
    const size_t wide = TILE * r->size;

    for (int64_t j = tiles - 1; j >= 0; j--) {
        const int64_t nj = extent(j, K), k0 = (j + 1) * TILE;

#pragma omp parallel for schedule(dynamic, 1)
        for (int64_t i = j + 1; i < tiles; i++) {
            r->trsm(0, extent(i, K), nj, -1, at(s, j, j), at(s, i, j), K);
            for (int64_t n = i * TILE; n < i * TILE + extent(i, K); n++)
                memcpy(column + (size_t)n * wide, cell(s, n, j * TILE), (size_t)nj * r->size);
        }
#pragma omp parallel for schedule(dynamic, 1)
        for (int64_t i = j + 1; i < tiles; i++)
            r->gemm(0, extent(i, K), nj, i * TILE + extent(i, K) - k0, 1, cell(s, i * TILE, k0), K,
                    column + (size_t)k0 * wide, TILE, 0, at(s, i, j), K);
        if (r->trtri(nj, at(s, j, j), K) != 0)
            return 0;
    }
    return 1;
}

/* J A J: of an upper triangle a lower one. */
static void reverse(const square *s)
{
    if (s->r == &f32) {
        float *a = s->A;

        for (int64_t i = 0, j = s->K * s->K - 1; i < j; i++, j--) {
            const float v = a[i];

            a[i] = a[j];
            a[j] = v;
        }
    } else {
        double *a = s->A;

        for (int64_t i = 0, j = s->K * s->K - 1; i < j; i++, j--) {
            const double v = a[i];

            a[i] = a[j];
            a[j] = v;
        }
    }
}

/* Whether the diagonal is what a factor has: a value that is not finite has spread to it. */
static int is_factor(const square *s)
{
    for (int64_t i = 0; i < s->K; i++) {
        const void *v = cell(s, i, i);
        const double d = s->r == &f32 ? (double)*(const float *)v : *(const double *)v;

        if (!isfinite(d) || d <= 0)
            return 0;
    }
    return 1;
}

static q_status factor(const square *s, int *ok, q_err *err)
{
    char *column = q_malloc((size_t)(s->K * TILE) * s->r->size);

    if (!column)
        return q_fail(err, Q_ENOMEM, "no memory to factor moments of %lld inputs", (long long)s->K);
    for (int64_t i = 0; i < s->K; i++)
        memset(cell(s, i, 0), 0, (size_t)i * s->r->size);
    reverse(s);
    *ok = factor_lower(s) && invert_lower(s, column);
    reverse(s);
    *ok = *ok && is_factor(s);
    q_free(column);
    return Q_OK;
}

q_status qnt_factor(float *H, int64_t K, int *ok, q_err *err)
{
    return factor(&(square){ &f32, H, K }, ok, err);
}

q_status qnt_factor_f64(double *H, int64_t K, int *ok, q_err *err)
{
    return factor(&(square){ &f64, H, K }, ok, err);
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
