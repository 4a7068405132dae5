/* What a block of the persistent decode kernel attends to at a time, and where its keys are.
 *
 * An item is a token, a kv head, up to 8 of the heads that share it (rows), and a run of keys, as
 * many runs as there are blocks for.  I8 is 1 for an int8 cache, 0 for f16. */
#ifndef STEP_ITEM_CUH
#define STEP_ITEM_CUH

#include "runtime/cuda/step_product.cuh"

#define STEP_ROWS   8
#define STEP_STATES 56  /* rows of warps that are merged at once */
#define STEP_RUN    128 /* keys of a run, at least: a shorter one costs as much to merge */

typedef struct step_item {
    int t, seq, head, tile, split; /* head: kv head */
    int rows, len, from, to, runs;
} step_item;

#if __CUDA_ARCH__ >= 900
static __device__ __forceinline__ step_item step_item_of(const step_args &a, int i)
{
    step_item w;
    int run;

    w.split = i % a.splits;
    i /= a.splits;
    w.tile = i % a.tiles;
    i /= a.tiles;
    w.head = i % a.n_kv;
    w.t = i / a.n_kv;
    w.seq = a.seq[w.t];
    w.rows = min(STEP_ROWS, a.group - w.tile * STEP_ROWS);
    w.len = a.pos[w.t] + 1;
    run = max((w.len + a.splits - 1) / a.splits, STEP_RUN);
    run = (run + 15) / 16 * 16;
    w.runs = (w.len + run - 1) / run;
    w.from = w.split * run;
    w.to = min(w.from + run, w.len);
    return w;
}

/* Slot `key` of a sequence: K (0) or V (1) of a kv head. */
template <int I8>
static __device__ __forceinline__ char *step_slot(const step_args &a, int layer, int seq, int head,
                                                  int which, int key)
{
    const int64_t page = a.block[(int64_t)seq * a.max_blocks + key / RT_PAGE];
    const int64_t at = (((int64_t)layer * a.n_pages + page) * 2 + which) * a.n_kv + head;

    return (char *)a.pages + (at * RT_PAGE + key % RT_PAGE) * a.hd * (I8 ? 1 : 2);
}

/* The newest page is read past L2 by nobody else, so the first pages of a run can come early. */
template <int I8>
static __device__ __forceinline__ void step_prefetch(const step_args &a, int layer)
{
    const int items = a.n_tok * a.n_kv * a.tiles * a.splits, most = I8 ? 16 : 8;
    int n = 0;

    for (int i = (int)blockIdx.x; i < items && n < most; i += (int)gridDim.x) {
        const step_item w = step_item_of(a, i);

#pragma unroll 1
        for (int key = w.from; key < w.to && n < most; key = (key / RT_PAGE + 1) * RT_PAGE, n++) {
            const int keys = min(RT_PAGE - key % RT_PAGE, w.to - key);

            for (int which = 0; which < 2; which++)
                prefetch_bytes(step_slot<I8>(a, layer, w.seq, w.head, which, key),
                               keys * a.hd * (I8 ? 1 : 2));
        }
    }
}
#endif

#endif
