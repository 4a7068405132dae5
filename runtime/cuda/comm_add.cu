/* What another rank sent, added to what is here.  Single sums, so that a + b on one GPU and b + a
 * on the other are the same bits. */
#include "runtime/cuda/cu_comm.h"
#include "runtime/cuda/cu_device.cuh"

#define THREADS 256
#define BLOCKS  2048 /* a few waves; the rest in a stride */

static __global__ void add(float *a, const float *b, int64_t n)
{
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * THREADS)
        a[i] += b[i];
}

extern "C" q_status cu_add(rt_backend *be, float *a, const float *b, int64_t n, q_err *err)
{
    q_status st = Q_OK;
    const int64_t blocks = (n + THREADS - 1) / THREADS;

    if (n < 1)
        return Q_OK;
    add<<<(unsigned)(blocks < BLOCKS ? blocks : BLOCKS), THREADS, 0, cu_of(be)->stream>>>(a, b, n);
    CU_TRY(cudaGetLastError());
out:
    return st;
}
