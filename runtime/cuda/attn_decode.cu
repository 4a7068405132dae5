/* Attention of few query rows over a long cache: bound by reading keys and values.
 *
 * The pages of a sequence and kv head are cut into `splits` runs, a block each; how many depends on
 * the batch alone and each block reads the length from device memory, so one captured graph serves
 * every length.  The warps of a block are merged in shared memory.  With more than one split the
 * blocks leave maximum, sum and weighted values in a->part, and the block that arrives last adds
 * them up in order of the splits: the same numbers whichever comes last.  Ref: Flash-Decoding (Dao
 * et al. 2023). */
#include "runtime/cuda/attn_tile.cuh"

#define PART (CU_MAX_HD + 2) /* floats of a row: values, then maximum and sum */

/* The warps' states to shared memory, merged there: rows w.n, into out[r * stride + d] with maximum
 * and sum behind, all f32. */
template <int HDP>
static __device__ __forceinline__ void merge_warps(const attn_state<HDP> &x, float *shared)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, ld = HDP + 2;

#pragma unroll
    for (int h = 0; h < 2; h++) {
        float *row = shared + (warp * ATTN_FEW + lane / 4 + 8 * h) * ld;

#pragma unroll
        for (int d = 0; d < HDP / 8; d++) {
            row[8 * d + lane % 4 * 2] = x.o[d][2 * h];
            row[8 * d + lane % 4 * 2 + 1] = x.o[d][2 * h + 1];
        }
        if (lane % 4 == 0) {
            row[HDP] = x.max[h];
            row[HDP + 1] = x.sum[h];
        }
    }
    __syncthreads();
}

/* what another block wrote is read past L1 */
template <int GLOBAL> static __device__ __forceinline__ float state_at(const float *p)
{
    return GLOBAL ? __ldcg(p) : *p;
}

/* Element d of the merge of n states `stride` floats apart, not yet divided; *max and *sum of all.
 */
template <int GLOBAL>
static __device__ __forceinline__ float merge(const float *v, int stride, int n, int d, int at,
                                              float *max, float *sum)
{
    float o = 0, most = -INFINITY, total = 0;

    /* one pass that rescales: the loads do not depend on each other and overlap */
#pragma unroll 16
    for (int i = 0; i < n; i++) {
        const float m = state_at<GLOBAL>(v + i * stride + at);
        const float l = state_at<GLOBAL>(v + i * stride + at + 1);
        const float e = state_at<GLOBAL>(v + i * stride + d);
        const float next = fmaxf(most, m);
        const float base = next == -INFINITY ? 0 : next;
        const float f = exp2f(most - base), g = exp2f(m - base);

        o = o * f + e * g;
        total = total * f + l * g;
        most = next;
    }
    *max = most;
    *sum = total;
    return o;
}

/* The warps' states of each row, into y when this block has all pages, else as a part. */
template <int HDP>
static __device__ __forceinline__ void store(const attn_args &a, const attn_rows &w,
                                             const float *merged, float *part, int whole)
{
    const int hd = (int)a.kv.hd;

    for (int i = (int)threadIdx.x; i < w.n * hd; i += 32 * ATTN_WARPS) {
        const int r = i / hd, d = i % hd;
        float max, sum;
        const float o =
            merge<0>(merged + r * (HDP + 2), ATTN_FEW * (HDP + 2), ATTN_WARPS, d, HDP, &max, &sum);

        if (whole) {
            a.y[row_at(a, w, r) + d] = cu_half(o / sum);
            continue;
        }
        part[r * PART + d] = o;
        if (d == 0) {
            part[r * PART + CU_MAX_HD] = max;
            part[r * PART + CU_MAX_HD + 1] = sum;
        }
    }
}

/* The last block: n splits of its rows. */
static __device__ void merge_splits(const attn_args &a, const attn_rows &w, const float *part,
                                    int n)
{
    const int hd = (int)a.kv.hd;

    for (int i = (int)threadIdx.x; i < w.n * hd; i += 32 * ATTN_WARPS) {
        const int r = i / hd, d = i % hd;
        float max, sum;
        const float o = merge<1>(part + r * PART, ATTN_FEW * PART, n, d, CU_MAX_HD, &max, &sum);

        a.y[row_at(a, w, r) + d] = cu_half(o / sum);
    }
}

template <int HDP, int F32>
static __global__ void __launch_bounds__(32 * ATTN_WARPS) attn_decode(const attn_args a)
{
    extern __shared__ __align__(16) __half shared[];
    __shared__ int last;
    float *merged = (float *)shared;
    attn_state<HDP> x;
    attn_rows w;
    const int split = (int)blockIdx.z;
    int unit, pages, run, n;
    float *part;

    /* lengths and pages were set before the step: no kernel writes them */
    w.seq = (int)blockIdx.x;
    w.head = (int)blockIdx.y;
    w.first = 0;
    w.token = a.q_start[w.seq];
    w.n = (a.q_start[w.seq + 1] - w.token) * a.group;
    w.len = a.kv_len[w.seq];
    w.start = w.len - w.n / a.group;
    if (w.n == 0 || w.n > ATTN_FEW) {
        cu_wait(); /* also who has nothing to do: the next kernel relies on it */
        return;
    }
    unit = w.seq * (int)a.kv.n_kv + w.head;
    part = a.part + (int64_t)unit * a.splits * ATTN_FEW * PART;
    pages = (w.len + RT_PAGE - 1) / RT_PAGE;
    run = (pages + a.splits - 1) / a.splits; /* pages of a block */
    n = (pages + run - 1) / run;             /* blocks that have any */
    if (split >= n) {
        cu_wait();
        return;
    }
    attend_pages<HDP, F32, 1>(x, a, w, shared, split * run, min((split + 1) * run, pages));
    merge_warps<HDP>(x, merged);
    store<HDP>(a, w, merged, part + (int64_t)split * ATTN_FEW * PART, n == 1);
    if (n == 1)
        return;
    __threadfence(); /* what was written above is seen before the count */
    __syncthreads();
    if (threadIdx.x == 0)
        last = atomicAdd(&a.arrived[unit], 1) == n - 1;
    __syncthreads();
    if (!last)
        return;
    __threadfence();
    if (threadIdx.x == 0)
        a.arrived[unit] = 0; /* for the next call */
    merge_splits(a, w, part, n);
}

template <int HDP, int F32> static q_status launch(const cu_be *c, const attn_args *a, q_err *err)
{
    q_status st = Q_OK;
    const size_t shared = ATTN_SHARED(HDP, ATTN_FEW);

    static_assert(sizeof(float) * ATTN_WARPS * ATTN_FEW * (HDP + 2) <= ATTN_SHARED(HDP, ATTN_FEW),
                  "the merge uses the memory of the tiles");
    CU_TRY(cudaFuncSetAttribute((attn_decode<HDP, F32>),
                                cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    CU_LAUNCH(c, (attn_decode<HDP, F32>),
              dim3((unsigned)a->n_seq, (unsigned)a->kv.n_kv, (unsigned)a->splits),
              dim3(32 * ATTN_WARPS), shared, *a);
out:
    return st;
}

q_status cu_attn_decode(const cu_be *c, const attn_args *a, int f32, q_err *err)
{
    switch (ATTN_WIDTH(a->kv.hd)) {
    case 64:
        return f32 ? launch<64, 1>(c, a, err) : launch<64, 0>(c, a, err);
    case 128:
        return f32 ? launch<128, 1>(c, a, err) : launch<128, 0>(c, a, err);
    default:
        return f32 ? launch<256, 1>(c, a, err) : launch<256, 0>(c, a, err);
    }
}
