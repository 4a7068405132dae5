/* Decode attention around its inner loop: which pages a block takes, and how the states of warps
 * and blocks become one.  Two kernels use it: attn_decode.cu and attn_decode_i8.cu. */
#ifndef ATTN_MERGE_CUH
#define ATTN_MERGE_CUH

#include "runtime/cuda/attn_tile.cuh"

/* A block's share: pages from .. to - 1 of a sequence and kv head, split `split` of n. */
typedef struct attn_run {
    attn_rows w;
    float *part;   /* [n][ATTN_FEW][PART] of the sequence and head */
    int32_t *left; /* counts the splits that are done */
    int split, n, from, to;
} attn_run;

#define PART (CU_MAX_HD + 2) /* floats of a row: values, then maximum and sum */

/* The warps' states of n rows to shared memory: 16 rows each of values, maximum and sum, all f32.
 * TURNED: column c of values d is element c HDP / 8 + d of the head, else 8 d + c. */
template <int HDP, int TURNED>
static __device__ __forceinline__ void keep_warps(const attn_state<HDP> &x, float *shared, int n)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, ld = HDP + 2;

#pragma unroll
    for (int h = 0; h < 2; h++) {
        float *row = shared + (warp * ATTN_FEW + lane / 4 + 8 * h) * ld;

        if (lane / 4 + 8 * h >= n)
            continue;
#pragma unroll
        for (int d = 0; d < HDP / 8; d++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int c = lane % 4 * 2 + e;

                row[TURNED ? c * (HDP / 8) + d : 8 * d + c] = x.o[d][2 * h + e];
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
            a.y[row_at(a, w, r) + d] = cu_half(o / sum * value_scale(a, w.head));
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

        a.y[row_at(a, w, r) + d] = cu_half(o / sum * value_scale(a, w.head));
    }
}

/* Lengths and pages were set before the step: no kernel writes them.  0: nothing to do. */
static __device__ __forceinline__ int find_run(const attn_args &a, attn_run *r)
{
    attn_rows *w = &r->w;
    int unit, pages, run;

    w->seq = (int)blockIdx.x;
    w->head = (int)blockIdx.y;
    w->first = 0;
    w->token = a.q_start[w->seq];
    w->n = (a.q_start[w->seq + 1] - w->token) * a.group;
    w->len = a.kv_len[w->seq];
    w->start = w->len - w->n / a.group;
    if (w->n == 0 || w->n > ATTN_FEW)
        return 0;
    unit = w->seq * (int)a.kv.n_kv + w->head;
    pages = (w->len + RT_PAGE - 1) / RT_PAGE;
    run = (pages + a.splits - 1) / a.splits; /* pages of a block */
    r->split = (int)blockIdx.z;
    r->n = (pages + run - 1) / run; /* blocks that have any */
    r->from = r->split * run;
    r->to = min(r->from + run, pages);
    r->part = a.part + (int64_t)unit * a.splits * ATTN_FEW * PART;
    r->left = &a.arrived[unit];
    return r->split < r->n;
}

/* The states that keep_warps left: into y, or as a part; the last block adds the parts up. */
template <int HDP>
static __device__ __forceinline__ void finish_run(const attn_args &a, const attn_run &r,
                                                  const float *kept)
{
    __shared__ int last;

    store<HDP>(a, r.w, kept, r.part + (int64_t)r.split * ATTN_FEW * PART, r.n == 1);
    if (r.n == 1)
        return;
    __threadfence(); /* what was written above is seen before the count */
    __syncthreads();
    if (threadIdx.x == 0)
        last = atomicAdd(r.left, 1) == r.n - 1;
    __syncthreads();
    if (!last)
        return;
    __threadfence();
    if (threadIdx.x == 0)
        *r.left = 0; /* for the next call */
    merge_splits(a, r.w, r.part, r.n);
}

#endif
