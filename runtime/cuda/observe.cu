/* What calibration takes out of a model on the device, and puts back: keys as they are cached, and
 * weights as f32 rows.  Keys: one block a token.  Weights are f16 rows padded to 128 bytes (cu.h);
 * the bias is kept in f32 and, behind it on 16 bytes, in f16. */
#include "runtime/cuda/cu_kv.cuh"
#include "runtime/cuda/cu_quant.h"

#define THREADS 256

static __global__ void gather_keys(float *y, cu_pages p, const int32_t *seq, const int32_t *pos)
{
    const int64_t t = blockIdx.x, dim = p.n_kv * p.hd;
    const int32_t at = pos[t];

    for (int64_t i = threadIdx.x; i < dim; i += THREADS) {
        const char *page = cu_page(p, seq[t], at / RT_PAGE, 0, i / p.hd);

        y[t * dim + i] = ((const float *)page)[at % RT_PAGE * p.hd + i % p.hd];
    }
}

extern "C" q_status cu_keys(rt_backend *be, const rt_keys_args *a, q_err *err)
{
    q_status st = Q_OK;

    if (a->kv->format->dtype != FMT_F32)
        Q_FAIL(err, Q_EUNSUPPORTED, "cuda: keys of a cache of type %s: wanted f32",
               a->kv->format->name);
    if (a->b->n_tok == 0)
        goto out;
    gather_keys<<<(unsigned)a->b->n_tok, THREADS, 0, cu_of(be)->stream>>>(
        a->y, cu_pages_of(a->kv, a->b, a->layer), a->b->seq, a->b->pos);
    CU_TRY(cudaGetLastError());
out:
    return st;
}

static __global__ void widen(float *v, const char *rows, int64_t K, int64_t row_bytes)
{
    const int64_t n = blockIdx.y, k = (int64_t)blockIdx.x * THREADS + threadIdx.x;

    if (k < K)
        v[n * K + k] = __half2float(((const __half *)(rows + n * row_bytes))[k]);
}

static __global__ void narrow(char *rows, const float *v, int64_t K, int64_t row_bytes)
{
    const int64_t n = blockIdx.y, k = (int64_t)blockIdx.x * THREADS + threadIdx.x;

    if (k < K)
        ((__half *)(rows + n * row_bytes))[k] = cu_half(v[n * K + k]);
}

#define ROWS 32768 /* of one launch: a grid has at most 65535 */

static dim3 grid_of(int64_t n, int64_t K)
{
    return dim3((unsigned)((K + THREADS - 1) / THREADS), (unsigned)n);
}

static q_status check_float(const rt_weight *w, q_err *err)
{
    if (cu_scheme_of(w) != CU_F16)
        return q_fail(err, Q_EUNSUPPORTED, "cuda: weight [%lld, %lld] is of %s, wanted floats",
                      (long long)w->N, (long long)w->K, w->scheme->name);
    return Q_OK;
}

extern "C" q_status cu_weight_get(rt_backend *be, const rt_weight *w, float *v, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(check_float(w, err));
    for (int64_t n = 0; n < w->N; n += ROWS) {
        const int64_t rows = w->N - n < ROWS ? w->N - n : ROWS;

        widen<<<grid_of(rows, w->K), THREADS, 0, cu_of(be)->stream>>>(
            v + n * w->K, (const char *)w->data + n * w->row_bytes, w->K, w->row_bytes);
        CU_TRY(cudaGetLastError());
    }
out:
    return st;
}

/* The bias in both forms. */
static __global__ void store_bias(float *to, const float *from, int64_t N, int64_t wide)
{
    const int64_t n = (int64_t)blockIdx.x * THREADS + threadIdx.x;

    if (n >= N)
        return;
    to[n] = from[n];
    ((__half *)((char *)to + wide))[n] = cu_half(from[n]);
}

extern "C" q_status cu_weight_set(rt_backend *be, const rt_weight *w, const float *v,
                                  const float *bias, q_err *err)
{
    q_status st = Q_OK;
    cudaStream_t stream = cu_of(be)->stream;
    const int64_t wide = (w->N * (int64_t)sizeof(float) + 15) / 16 * 16;
    void *p = NULL;

    Q_TRY(check_float(w, err));
    for (int64_t n = 0; n < w->N; n += ROWS) {
        const int64_t rows = w->N - n < ROWS ? w->N - n : ROWS;

        narrow<<<grid_of(rows, w->K), THREADS, 0, stream>>>((char *)w->data + n * w->row_bytes,
                                                            v + n * w->K, w->K, w->row_bytes);
        CU_TRY(cudaGetLastError());
    }
    if (!bias || !w->bias)
        goto out;
    Q_TRY(cu_alloc(be, (size_t)w->N * sizeof *bias, &p, err));
    CU_TRY(cudaMemcpyAsync(p, bias, (size_t)w->N * sizeof *bias, cudaMemcpyHostToDevice, stream));
    store_bias<<<(unsigned)((w->N + THREADS - 1) / THREADS), THREADS, 0, stream>>>(
        w->bias, (const float *)p, w->N, wide);
    CU_TRY(cudaGetLastError());
    CU_TRY(cudaStreamSynchronize(stream)); /* bias belongs to the caller */
out:
    cu_free(be, p);
    return st;
}
