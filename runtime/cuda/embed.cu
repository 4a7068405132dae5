/* Rows of the embedding table, widened to f32: the start of the residual stream.
 *
 * A block makes EMBED_COLS columns of a token.  The host does not see the ids, so an id outside the
 * table gives a row of NaN, which comes out of pick as RT_PICK_BAD. */
#include "runtime/cuda/cu_weight.cuh"

#define EMBED_COLS 1024 /* few tokens: more blocks wait for memory at the same time */

static __global__ void embed(const int32_t *tok, const cu_table w, int64_t N, int64_t K, float *y)
{
    const int64_t from = (int64_t)blockIdx.y * EMBED_COLS, to = min(from + EMBED_COLS, K);
    int64_t id;

    cu_wait();
    id = tok[blockIdx.x];
    for (int64_t k = from + threadIdx.x; k < to; k += blockDim.x)
        y[blockIdx.x * K + k] =
            id >= 0 && id < N ? cu_weight_at(w, id, k) : __int_as_float(0x7fffffff);
}

extern "C" q_status cu_embed(rt_backend *be, const rt_embed_args *a, q_err *err)
{
    q_status st = Q_OK;

    if (a->b->n_tok > 0)
        CU_LAUNCH(cu_of(be), embed,
                  dim3((unsigned)a->b->n_tok, (unsigned)((a->w->K + EMBED_COLS - 1) / EMBED_COLS)),
                  dim3(256), 0, a->b->tok, cu_table_of(a->w), a->w->N, a->w->K, (float *)a->y);
out:
    return st;
}
