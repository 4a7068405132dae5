/* cuBLASLt for the products of prefill: f16 in, f32 sums, D f16 or f32.
 *
 * The library is found when the backend opens (libcublasLt.so.13, then .12) and not linked, so that
 * programs start on machines that lack it.  It thinks in columns: a row-major [M, N] is its N x M
 * matrix, so D' = W x', with W [N, K] transposed and D's rows being the columns.
 *
 * What it chose for a shape is kept: asking takes tens of microseconds.  The cache has a fixed size
 * and forgets the oldest shape.  Source: cuBLAS library documentation, chapter cuBLASLt. */
#include <cublasLt.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/q_mem.h"
#include "runtime/cuda/cu.h"

#define PLANS 128

typedef struct plan {
    cu_lt_args shape; /* without its pointers; bias tells whether there is one */
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, x, d;
    cublasLtMatmulAlgo_t algo;
    int known; /* 0: no kernel for this shape */
} plan;

/* name of a function and of its member below */
#define FUNCTIONS(X)                                                                               \
    X(cublasLtGetVersion)                                                                          \
    X(cublasLtCreate)                                                                              \
    X(cublasLtDestroy)                                                                             \
    X(cublasLtMatmul)                                                                              \
    X(cublasLtMatmulDescCreate)                                                                    \
    X(cublasLtMatmulDescDestroy)                                                                   \
    X(cublasLtMatmulDescSetAttribute)                                                              \
    X(cublasLtMatrixLayoutCreate)                                                                  \
    X(cublasLtMatrixLayoutDestroy)                                                                 \
    X(cublasLtMatmulPreferenceCreate)                                                              \
    X(cublasLtMatmulPreferenceDestroy)                                                             \
    X(cublasLtMatmulPreferenceSetAttribute)                                                        \
    X(cublasLtMatmulAlgoGetHeuristic)

struct cu_lt {
    void *library;
#define X(name) __typeof__(&name) name;
    FUNCTIONS(X)
#undef X
    cublasLtHandle_t handle;
    plan plans[PLANS];
    int n_plans, oldest;
};

static q_status lt_fail(q_err *err, cublasStatus_t s, const char *what)
{
    return q_fail(err, Q_EFAIL, "cuda: %s: cuBLASLt status %d", what, (int)s);
}

#define LT_TRY(call)                                                                               \
    do {                                                                                           \
        const cublasStatus_t lt_s = lt->call;                                                      \
        if (lt_s != CUBLAS_STATUS_SUCCESS) {                                                       \
            st = lt_fail(err, lt_s, #call);                                                        \
            goto out;                                                                              \
        }                                                                                          \
    } while (0)

static int load(cu_lt *lt)
{
    static const char *const names[] = { "libcublasLt.so.13", "libcublasLt.so.12" };
    int ok = 0;

    for (size_t i = 0; i < sizeof names / sizeof names[0] && !lt->library; i++)
        lt->library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!lt->library)
        return 0;
    ok = 1;
    /* ISO C has no conversion from void * to a function, POSIX says this works */
#define X(name)                                                                                    \
    do {                                                                                           \
        void *p = dlsym(lt->library, #name);                                                       \
        memcpy(&lt->name, &p, sizeof p);                                                           \
        ok = ok && p;                                                                              \
    } while (0);
    FUNCTIONS(X)
#undef X
    return ok;
}

q_status cu_lt_open(cu_lt **out, char *version, size_t cap, q_err *err)
{
    q_status st = Q_OK;
    cu_lt *lt = q_calloc(1, sizeof *lt);
    size_t v;

    *out = NULL;
    if (!lt)
        Q_FAIL(err, Q_ENOMEM, "cuda: no memory");
    if (!load(lt)) /* not an error: own kernels take over, and the title says so */
        goto out;
    LT_TRY(cublasLtCreate(&lt->handle));
    v = lt->cublasLtGetVersion();
    snprintf(version, cap, "cuBLASLt %zu.%zu", v / 10000, v / 100 % 100);
    *out = lt;
    lt = NULL;
out:
    cu_lt_close(lt);
    return st;
}

static void forget(cu_lt *lt, plan *p)
{
    if (p->desc)
        (void)lt->cublasLtMatmulDescDestroy(p->desc);
    if (p->w)
        (void)lt->cublasLtMatrixLayoutDestroy(p->w);
    if (p->x)
        (void)lt->cublasLtMatrixLayoutDestroy(p->x);
    if (p->d)
        (void)lt->cublasLtMatrixLayoutDestroy(p->d);
    memset(p, 0, sizeof *p);
}

void cu_lt_close(cu_lt *lt)
{
    if (!lt)
        return;
    for (int i = 0; i < lt->n_plans; i++)
        forget(lt, &lt->plans[i]);
    if (lt->handle)
        (void)lt->cublasLtDestroy(lt->handle);
    if (lt->library)
        dlclose(lt->library);
    q_free(lt);
}

static q_status make_plan(cu_lt *lt, plan *p, const cu_lt_args *a, q_err *err)
{
    q_status st = Q_OK;
    const cudaDataType_t d_type = a->d_f32 ? CUDA_R_32F : CUDA_R_16F;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const size_t workspace = CU_WORKSPACE;
    const uint64_t N = (uint64_t)a->N, M = (uint64_t)a->M, K = (uint64_t)a->K;
    cublasLtMatmulPreference_t wish = NULL;
    cublasLtMatmulHeuristicResult_t found;
    cublasStatus_t s;
    int n = 0;

    p->shape = *a;
    LT_TRY(cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    LT_TRY(cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                          sizeof transposed));
    if (a->bias)
        LT_TRY(cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                              sizeof epilogue));
    LT_TRY(cublasLtMatrixLayoutCreate(&p->w, CUDA_R_16F, K, N, a->ldw));
    LT_TRY(cublasLtMatrixLayoutCreate(&p->x, CUDA_R_16F, K, M, a->K));
    LT_TRY(cublasLtMatrixLayoutCreate(&p->d, d_type, N, M, a->ldd));
    LT_TRY(cublasLtMatmulPreferenceCreate(&wish));
    LT_TRY(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                &workspace, sizeof workspace));
    s = lt->cublasLtMatmulAlgoGetHeuristic(lt->handle, p->desc, p->w, p->x, p->d, p->d, wish, 1,
                                           &found, &n);
    p->known = s == CUBLAS_STATUS_SUCCESS && n > 0;
    if (p->known)
        p->algo = found.algo;
out:
    if (wish)
        (void)lt->cublasLtMatmulPreferenceDestroy(wish);
    return st;
}

static int same_shape(const cu_lt_args *a, const cu_lt_args *b)
{
    return a->M == b->M && a->N == b->N && a->K == b->K && a->ldw == b->ldw && a->ldd == b->ldd &&
           a->d_f32 == b->d_f32 && a->add == b->add && !a->bias == !b->bias;
}

static q_status find_plan(plan **out, cu_lt *lt, const cu_lt_args *a, q_err *err)
{
    q_status st = Q_OK;
    plan *p = NULL;

    for (int i = 0; i < lt->n_plans; i++)
        if (same_shape(&lt->plans[i].shape, a)) {
            *out = &lt->plans[i];
            return Q_OK;
        }
    if (lt->n_plans < PLANS) {
        p = &lt->plans[lt->n_plans++];
    } else {
        p = &lt->plans[lt->oldest++ % PLANS];
        forget(lt, p);
    }
    Q_TRY(make_plan(lt, p, a, err));
    *out = p;
out:
    return st;
}

q_status cu_lt_matmul(const cu_be *c, const cu_lt_args *a, int *done, q_err *err)
{
    q_status st = Q_OK;
    cu_lt *lt = c->lt;
    const float one = 1, beta = a->add ? 1 : 0;
    plan *p = NULL;

    *done = 0;
    if (!lt)
        return Q_OK;
    Q_TRY(find_plan(&p, lt, a, err));
    if (!p->known)
        return Q_OK;
    if (a->bias)
        LT_TRY(cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &a->bias,
                                              sizeof a->bias));
    LT_TRY(cublasLtMatmul(lt->handle, p->desc, &one, a->w, p->w, a->x, p->x, &beta, a->d, p->d,
                          a->d, p->d, &p->algo, c->workspace, CU_WORKSPACE, c->stream));
    *done = 1;
out:
    return st;
}
