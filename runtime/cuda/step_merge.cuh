/* Merging what the warps of a block, and the blocks of a head, found of attention.
 *
 * A state is [hd + 4] floats: values not yet divided, then maximum and sum.  The warps' states are
 * merged in shared memory; those of the runs in memory, by the block that arrives last, in order of
 * the runs, so the result is the same whichever comes last. */
#ifndef STEP_MERGE_CUH
#define STEP_MERGE_CUH

#include "runtime/cuda/step_item.cuh"

#if __CUDA_ARCH__ >= 900
/* Element d of the merge of n states `stride` floats apart, not yet divided; *max and *sum of all.
 * GLOBAL: another block wrote them. */
template <int HD, int GLOBAL>
static __device__ __forceinline__ float step_merge(const float *v, int stride, int n, int d,
                                                   float *max, float *sum)
{
    float o = 0, most = -INFINITY, total = 0;

#pragma unroll 8
    for (int i = 0; i < n; i++) {
        const float *at = v + (int64_t)i * stride;
        const float m = GLOBAL ? __ldcg(at + HD) : at[HD];
        const float l = GLOBAL ? __ldcg(at + HD + 1) : at[HD + 1];
        const float e = GLOBAL ? __ldcg(at + d) : at[d];
        const float next = fmaxf(most, m), base = next == -INFINITY ? 0 : next;
        const float f = exp2f(most - base), h = exp2f(m - base);

        o = o * f + e * h;
        total = total * f + l * h;
        most = next;
    }
    *max = most;
    *sum = total;
    return o;
}

/* The item's result: into att, or as a part of it; the last part adds them up.  v_scale: what a
 * value is worth. */
template <int HD>
static __device__ __forceinline__ void step_finish(const step_args &a, const step_item &w,
                                                   const float *states, int n_states, float v_scale,
                                                   int *flag)
{
    const int group = (w.t * a.n_kv + w.head) * a.tiles + w.tile, ld = HD + 4;
    float *part = a.part + ((int64_t)group * a.splits + w.split) * STEP_ROWS * ld;
    __half *y =
        (__half *)a.att + ((int64_t)w.t * a.n_head + w.head * a.group + w.tile * STEP_ROWS) * HD;
    float max, sum, o;

    for (int i = (int)threadIdx.x; i < w.rows * HD; i += 32 * STEP_WARPS) {
        const int r = i / HD, d = i % HD;

        o = step_merge<HD, 0>(states + r * ld, w.rows * ld, n_states, d, &max, &sum);
        if (w.runs == 1) {
            y[r * HD + d] = cu_half(o / sum * v_scale);
            continue;
        }
        part[r * ld + d] = o;
        if (d == 0) {
            part[r * ld + HD] = max;
            part[r * ld + HD + 1] = sum;
        }
    }
    if (w.runs == 1)
        return;
    step_meet();
    if (threadIdx.x == 0) {
        __threadfence();
        *flag = atomicAdd(&a.arrived[group], 1) == w.runs - 1;
        if (*flag)
            a.arrived[group] = 0; /* for the next layer: a grid barrier lies between */
        __threadfence();
    }
    step_meet();
    if (!*flag)
        return;
    part = a.part + (int64_t)group * a.splits * STEP_ROWS * ld;
    for (int i = (int)threadIdx.x; i < w.rows * HD; i += 32 * STEP_WARPS) {
        const int r = i / HD, d = i % HD;

        o = step_merge<HD, 1>(part + r * ld, STEP_ROWS * ld, w.runs, d, &max, &sum);
        y[r * HD + d] = cu_half(o / sum * v_scale);
    }
}
#endif

#endif
