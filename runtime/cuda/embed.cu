/* Rows of the embedding table, widened to f32: the start of the residual stream.
 *
 * One block per token.  The host does not see the ids, so an id outside the table gives a row of
 * NaN, which comes out of pick as RT_PICK_BAD. */
#include "runtime/cuda/cu_weight.cuh"

static __global__ void embed(const int32_t *tok, const cu_table w, int64_t N, int64_t K, float *y)
{
    int64_t id;

    cu_wait();
    id = tok[blockIdx.x];
    for (int64_t k = threadIdx.x; k < K; k += blockDim.x)
        y[blockIdx.x * K + k] =
            id >= 0 && id < N ? cu_weight_at(w, id, k) : __int_as_float(0x7fffffff);
}

extern "C" q_status cu_embed(rt_backend *be, const rt_embed_args *a, q_err *err)
{
    q_status st = Q_OK;

    if (a->b->n_tok > 0)
        CU_LAUNCH(cu_of(be), embed, dim3((unsigned)a->b->n_tok), dim3(256), 0, a->b->tok,
                  cu_table_of(a->w), a->w->N, a->w->K, (float *)a->y);
out:
    return st;
}
