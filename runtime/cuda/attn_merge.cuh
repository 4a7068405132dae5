/* Decode attention around its inner loop: which pages a block takes, and how the states of warps
 * and blocks become one.
 *
 * The warps of a block are merged in shared memory.  With more than one split the blocks leave
 * maximum, sum and weighted values in a->part, and the block that arrives last adds them up in
 * order of the splits: the same numbers whichever comes last. */
#ifndef ATTN_MERGE_CUH
#define ATTN_MERGE_CUH

#include "runtime/cuda/attn_keys.cuh"
#include "runtime/cuda/attn_tile.cuh"

/* A block's share: pages from .. to - 1 of a sequence and kv head, split `split` of n. */
typedef struct attn_run {
    attn_rows w;
    float *all;    /* [n][ATTN_FEW][PART] of the sequence and head */
    float *part;   /* of this split */
    int32_t *left; /* counts the splits that are done */
    int split, n, from, to;
} attn_run;

#define PART            (CU_MAX_HD + 4) /* floats of a row: values, then maximum and sum */
#define ATTN_STATE(hdp) ((hdp) + 4)     /* the same of a warp */
#define MERGED          (GLOBAL ? 16 : ATTN_WARPS) /* states whose loads overlap */

/* Four elements from d on of the merge of n states `stride` floats apart, not yet divided; *max and
 * *sum of all.  at: where maximum and sum stand.  GLOBAL: another block wrote them, past L1. */
template <int GLOBAL>
static __device__ __forceinline__ float4 merge(const float *v, int stride, int n, int d, int at,
                                               float *max, float *sum)
{
    float4 o = make_float4(0, 0, 0, 0), e[MERGED];
    float most = -INFINITY, total = 0;
    float2 m[MERGED];

    /* one pass that rescales: the loads do not depend on each other and overlap */
    for (int i0 = 0; i0 < n; i0 += MERGED) {
#pragma unroll
        for (int i = 0; i < MERGED; i++) {
            const float2 *p = (const float2 *)(v + (i0 + i) * stride + at);
            const float4 *u = (const float4 *)(v + (i0 + i) * stride + d);

            m[i] = make_float2(-INFINITY, 0);
            e[i] = make_float4(0, 0, 0, 0);
            if (i0 + i < n) {
                m[i] = GLOBAL ? __ldcg(p) : *p;
                e[i] = GLOBAL ? __ldcg(u) : *u;
            }
        }
#pragma unroll
        for (int i = 0; i < MERGED; i++) {
            const float next = fmaxf(most, m[i].x), base = next == -INFINITY ? 0 : next;
            const float f = attn_exp2(most - base), g = attn_exp2(m[i].x - base);

            o.x = o.x * f + e[i].x * g;
            o.y = o.y * f + e[i].y * g;
            o.z = o.z * f + e[i].z * g;
            o.w = o.w * f + e[i].w * g;
            total = total * f + m[i].y * g;
            most = next;
        }
    }
    *max = most;
    *sum = total;
    return o;
}

static __device__ __forceinline__ void store_four(__half *y, const float4 &o, float sum,
                                                  float scale)
{
    __align__(8) __half v[4];

    v[0] = cu_half(o.x / sum * scale);
    v[1] = cu_half(o.y / sum * scale);
    v[2] = cu_half(o.z / sum * scale);
    v[3] = cu_half(o.w / sum * scale);
    *(uint2 *)y = *(const uint2 *)v;
}

/* The warps' states of each row into y when this block has all pages, else as a part. */
template <int HDP>
static __device__ __forceinline__ void store(const attn_args &a, const attn_run &r,
                                             const float *states)
{
    for (int i = (int)threadIdx.x; i < r.w.n * (HDP / 4); i += 32 * ATTN_WARPS) {
        const int row = i / (HDP / 4), d = i % (HDP / 4) * 4;
        float *part = r.part + (r.w.first + row) * PART;
        float max, sum;
        const float4 o = merge<0>(states + row * ATTN_STATE(HDP), ATTN_ROWS * ATTN_STATE(HDP),
                                  ATTN_WARPS, d, HDP, &max, &sum);

        if (d >= a.kv.hd)
            continue;
        if (r.n == 1) {
            store_four(a.y + row_at(a, r.w, row) + d, o, sum, value_scale(a, r.w.head));
            continue;
        }
        *(float4 *)(part + d) = o;
        if (d == 0)
            *(float2 *)(part + CU_MAX_HD) = make_float2(max, sum);
    }
}

/* The last block: all splits of its rows. */
template <int HDP>
static __device__ __forceinline__ void merge_splits(const attn_args &a, const attn_run &r)
{
    for (int i = (int)threadIdx.x; i < r.w.n * (HDP / 4); i += 32 * ATTN_WARPS) {
        const int row = i / (HDP / 4), d = i % (HDP / 4) * 4;
        float max, sum;

        if (d < a.kv.hd) {
            const float4 o =
                merge<1>(r.all + row * PART, ATTN_FEW * PART, r.n, d, CU_MAX_HD, &max, &sum);

            store_four(a.y + row_at(a, r.w, row) + d, o, sum, value_scale(a, r.w.head));
        }
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
    /* pages of a block; few of them only as long as adding up the parts does not take longer */
    run = max((pages + a.splits - 1) / a.splits, max(a.least, min((pages + 15) / 16, 4)));
    r->split = (int)blockIdx.z;
    r->n = (pages + run - 1) / run; /* blocks that have any */
    r->from = r->split * run;
    r->to = min(r->from + run, pages);
    r->all = a.part + (int64_t)unit * a.splits * ATTN_FEW * PART;
    r->part = r->all + (int64_t)r->split * ATTN_FEW * PART;
    r->left = &a.arrived[unit];
    return r->split < r->n;
}

/* After store: the last block adds the parts of all rows up. */
template <int HDP>
static __device__ __forceinline__ void finish_run(const attn_args &a, const attn_run &r)
{
    __shared__ int last;

    if (r.n == 1)
        return;
    __syncthreads();
    if (threadIdx.x == 0) { /* all that the block wrote is seen before the count */
        int32_t before;

        asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;"
                     : "=r"(before)
                     : "l"(r.left)
                     : "memory");
        last = before == r.n - 1;
        if (last)
            *r.left = 0; /* for the next call */
    }
    __syncthreads();
    if (!last)
        return;
    merge_splits<HDP>(a, r);
}

#endif
