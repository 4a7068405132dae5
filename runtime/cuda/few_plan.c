/* How a product of few tokens is cut over the GPU (gemm_few.cuh): into how many slices of K.
 *
 * A block's slice of x has to fit into shared memory beside the ring and the sums.  More slices
 * make it smaller and the tiles come out more even over the teams: an odd tile costs all a round.
 * But they leave more to add up.  Every number is tried, there are few; the costs are what an H200
 * needs. */
#include "runtime/cuda/cu_few.h"

#define SLICES_MOST 12
#define SHARED_MOST ((size_t)227 * 1024 - 512)
#define PART_BYTES  (CU_TILE - CU_CODES) /* codes, or a gathered x, stand before */

/* nanoseconds */
#define STEP  490 /* 4 warpgroups, a chunk each, at a multiprocessor's share of the memory */
#define KEEP  200 /* sums of a tile become a part; and for each 8 tokens */
#define KEEP8 60
#define STAGE 25   /* x, 1 KB */
#define MEET  1500 /* the team waits */
#define ADD   8    /* 1 KB of parts */

/* Up to 16 tokens a matrix has to be long or tall: below, or with groups, what a team costs is more
 * than reading x again (w4, 16 tokens: qkv of Qwen-7B 14.0 us, gemv.cuh 12.9; gate_up 20.3, 22.9).
 * 8 tokens: never. */
#define LONG 8192
#define TALL 16384

static size_t up(size_t v, size_t to)
{
    return (v + to - 1) / to * to;
}

static int64_t cost_of(const cu_few *a, int64_t sms, int slices, int64_t x_bytes, int64_t tokens)
{
    const int64_t teams = sms / slices, rounds = (a->tiles + teams - 1) / teams;
    const int64_t slice = (a->chunks + slices - 1) / slices, steps = (slice + FEW_WG - 1) / FEW_WG;

    return rounds * (steps * STEP + KEEP + tokens / 8 * KEEP8) + x_bytes * STAGE / 1024 +
           (slices > 1 ? MEET : 0) + rounds * tokens / 4 * ADD;
}

int cu_few_plan(const cu_be *c, cu_few *a, int blocks, int groups)
{
    const int64_t cols = a->epi == RT_EPI_SILU_MUL ? 32 : 64;
    const int64_t n = a->epi == RT_EPI_SILU_MUL ? a->N / 2 : a->N;
    const size_t tokens = a->M <= 16 ? 16 : a->M <= 32 ? 32 : 64;
    const size_t half = tokens < 32 ? tokens : 32, chunk = (size_t)blocks * 64;
    int64_t best = INT64_MAX;

    if (c->cc != 90 || a->M <= 8 || n < 1 || (n + cols - 1) / cols > INT32_MAX / 64)
        return 0;
    if (a->M <= 16 && (groups || (a->K < LONG && a->N < TALL)))
        return 0;
    a->tiles = (int)((n + cols - 1) / cols);
    a->chunks = (int)((a->x_bytes + (int64_t)chunk - 1) / (int64_t)chunk);
    a->at_groups = FEW_RING * 2 * FEW_THREADS * 16;
    a->at_sums =
        a->at_groups + (uint32_t)up((size_t)groups * FEW_RING * 4 * FEW_WG * 2 * FEW_GROUP, 128);
    a->at_x =
        a->at_sums +
        (uint32_t)up((size_t)FEW_BUFFERS(tokens / 8) * FEW_WG * half * FEW_LD * sizeof(float), 128);
    a->part = (float *)((char *)c->tile + CU_TILE - PART_BYTES);
    a->arrived = c->arrived;
    for (int s = 1; s <= SLICES_MOST && s <= a->chunks && s <= c->sms; s++) {
        const size_t slice = ((size_t)a->chunks + (size_t)s - 1) / (size_t)s * chunk * tokens;
        const int64_t cost = cost_of(a, c->sms, s, (int64_t)slice, (int64_t)tokens);

        if (a->at_x + slice > SHARED_MOST || cost >= best ||
            (size_t)a->tiles * (size_t)s * tokens * 64 * sizeof(float) > PART_BYTES)
            continue;
        best = cost;
        a->slices = s;
        a->shared = a->at_x + slice;
    }
    if (best == INT64_MAX)
        return 0;
    a->blocks = c->sms / a->slices; /* teams: no more than have a tile */
    a->blocks = (a->blocks < a->tiles ? a->blocks : a->tiles) * a->slices;
    return 1;
}
