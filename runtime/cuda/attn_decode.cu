/* Attention of few query rows over a long cache: bound by reading keys and values.
 *
 * The pages of a sequence and kv head are cut into `splits` runs, a block each; how many depends on
 * the batch alone and each block reads the length from device memory, so one captured graph serves
 * every length.  The warps of a block are merged in shared memory.  With more than one split the
 * blocks leave maximum, sum and weighted values in a->part, and the block that arrives last adds
 * them up in order of the splits: the same numbers whichever comes last.  Ref: Flash-Decoding (Dao
 * et al. 2023). */
#include "runtime/cuda/attn_merge.cuh"

/* The warps' states of n rows to shared memory: [ATTN_WARPS][ATTN_FEW][ATTN_STATE]. */
template <int HDP>
static __device__ __forceinline__ void keep_warps(const attn_state<HDP> &x, float *shared, int n)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;

#pragma unroll
    for (int h = 0; h < 2; h++) {
        float *row = shared + (warp * ATTN_FEW + lane / 4 + 8 * h) * ATTN_STATE(HDP);

        if (lane / 4 + 8 * h >= n)
            continue;
#pragma unroll
        for (int d = 0; d < HDP / 8; d++)
            *(float2 *)(row + 8 * d + lane % 4 * 2) = make_float2(x.o[d][2 * h], x.o[d][2 * h + 1]);
        if (lane % 4 == 0) {
            row[HDP] = x.max[h];
            row[HDP + 1] = x.sum[h];
        }
    }
    __syncthreads();
}

template <int HDP, int KV>
static __global__ void __launch_bounds__(32 * ATTN_WARPS) attn_decode(const attn_args a)
{
    extern __shared__ __align__(16) __half shared[];
    attn_state<HDP> x;
    attn_run r;

    if (!find_run(a, &r)) {
        cu_wait(); /* also who has nothing to do: the next kernel relies on it */
        return;
    }
    attend_pages<HDP, KV, 1>(x, a, r.w, shared, r.from, r.to);
    keep_warps<HDP>(x, (float *)shared, r.w.n);
    store<HDP>(a, r.w, (const float *)shared, ATTN_FEW * ATTN_STATE(HDP), r.part, r.n == 1);
    finish_run(a, r);
}

template <int HDP, int KV> static q_status launch(const cu_be *c, const attn_args *a, q_err *err)
{
    q_status st = Q_OK;
    const size_t shared = ATTN_SHARED(HDP, ATTN_FEW);

    static_assert(sizeof(float) * ATTN_WARPS * ATTN_FEW * ATTN_STATE(HDP) <=
                      ATTN_SHARED(HDP, ATTN_FEW),
                  "the merge uses the memory of the tiles");
    CU_TRY(cudaFuncSetAttribute((attn_decode<HDP, KV>), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int)shared));
    CU_LAUNCH(c, (attn_decode<HDP, KV>),
              dim3((unsigned)a->n_seq, (unsigned)a->kv.n_kv, (unsigned)a->splits),
              dim3(32 * ATTN_WARPS), shared, *a);
out:
    return st;
}

template <int KV> static q_status choose(const cu_be *c, const attn_args *a, q_err *err)
{
    switch (ATTN_WIDTH(a->kv.hd)) {
    case 64:
        return launch<64, KV>(c, a, err);
    case 128:
        return launch<128, KV>(c, a, err);
    default:
        return launch<256, KV>(c, a, err);
    }
}

q_status cu_attn_decode(const cu_be *c, const attn_args *a, int kv, q_err *err)
{
    return kv == ATTN_F32 ? choose<ATTN_F32>(c, a, err) : choose<ATTN_F16>(c, a, err);
}
