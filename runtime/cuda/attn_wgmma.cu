/* Attention of prompts over an f16 cache on sm_90: wgmma fed by the copy engine.
 *
 * A block has 128 query rows of one sequence and kv head and runs over tiles of 128 keys (two
 * pages), from the last that its rows see to the first:
 *
 *     warpgroup 0    one thread copies pages, keys and values apart, into rings of 2 stages
 *     warpgroup 1    rows 0 .. 63     scores of tile n   in flight beside values of tile n - 1,
 *     warpgroup 2    rows 64 .. 127   whose softmax overlaps the latter
 *
 * The two take turns to issue products, so that the softmax of one runs beside the products of the
 * other (Shah et al. 2024).  Scores, sums and the running softmax are f32; weights enter the second
 * product as f16.  The same rows, the same order: results depend on nothing else.
 *
 * In shared memory rows are 128 bytes with the 128-byte swizzle; a head of up to 128 elements is
 * two such columns, a narrower one is filled up with zeros.  Keys beyond the sequence have no
 * weight, but their values may be anything: they are cleared first.
 *
 * Everything else, and other GPUs: attn_prefill.cu.  Source: PTX ISA, wgmma, mbarrier,
 * cp.async.bulk.tensor, bar. */
#include "runtime/cuda/attn_keys.cuh"
#include "runtime/cuda/attn_tile.cuh"
#include "runtime/cuda/cu_map.h"
#include "runtime/cuda/wgmma_attn.cuh"

#define ROWS   128             /* of a block */
#define HALF   64              /* of a warpgroup */
#define KEYS   (2 * RT_PAGE)   /* of a tile */
#define BOX    (RT_PAGE * 128) /* bytes: 64 elements of the keys of a page */
#define STAGES 2

#define TILE_BYTES(hdp) (KEYS * (hdp)*2)
#define Q_BYTES(hdp)    (HALF * (hdp)*2) /* of a warpgroup */
#define SHARED(hdp)     (2 * Q_BYTES(hdp) + 2 * STAGES * TILE_BYTES(hdp) + 1024)

typedef struct ring {
    uint32_t q, k, v;                          /* addresses in shared memory */
    uint32_t full_k, full_v, empty_k, empty_v; /* [STAGES] barriers */
} ring;

/* a warpgroup's state: 64 rows of sums, and of the tile before their weights */
template <int HDP> struct wg_state {
    float max[2], sum[2]; /* of raw scores; of this lane's keys */
    float o[HDP / 2];
    uint32_t p[KEYS / 4];
    int limit[2]; /* last key of the lane's rows */
};

/* One arrival per warp: a warp knows of its own products only. */
static __device__ __forceinline__ void release(uint32_t b)
{
    if (threadIdx.x % 32 == 0)
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(b) : "memory");
}

static __device__ __forceinline__ void take_turn(int group)
{
    asm volatile("bar.sync %0, 256;" ::"r"(3 + group) : "memory");
}

static __device__ __forceinline__ void give_turn(int group)
{
    asm volatile("bar.arrive %0, 256;" ::"r"(3 + group) : "memory");
}

/* what ordinary stores wrote is there for wgmma and the copy engine */
static __device__ __forceinline__ void stores_seen(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Values as a factor with the head innermost: 64 elements to a column of KEYS rows, 8 keys 1024
 * bytes apart. */
static __device__ __forceinline__ uint64_t turned(uint32_t at)
{
    return (uint64_t)(at >> 4 & 0x3fff) | (uint64_t)(KEYS * 128 >> 4) << 16 |
           (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

/* Keys (which 0) or values of the pages j and j + 1 of the sequence.  A page that it does not have
 * is the last one again: no row sees its keys. */
template <int HDP>
static __device__ __forceinline__ void copy_tile(const attn_args &a, const attn_rows &w,
                                                 const CUtensorMap *map, const int page[2],
                                                 int which, uint32_t to, uint32_t full)
{
    barrier_expect(full, TILE_BYTES(HDP));
    for (int i = 0; i < 2; i++) {
        const int row = ((page[i] * 2 + which) * (int)a.kv.n_kv + w.head) * RT_PAGE;

        for (int c = 0; c < HDP / 64; c++)
            copy_box(to + c * KEYS * 128 + i * BOX, map, c * 128, row, full);
    }
}

template <int HDP>
static __device__ __forceinline__ void produce(const attn_args &a, const attn_rows &w,
                                               const ring &r, const CUtensorMap *map, int tiles)
{
    const int32_t *block = a.kv.block + (int64_t)w.seq * a.kv.max_blocks;
    const int last = (w.len - 1) / RT_PAGE;

    for (int n = 0; n < tiles; n++) {
        const int s = n % STAGES, free = ~(n / STAGES) & 1, j = 2 * (tiles - 1 - n);
        const int page[2] = { block[j], block[min(j + 1, last)] };

        barrier_wait(r.empty_k + 8 * s, free);
        copy_tile<HDP>(a, w, map, page, 0, r.k + s * TILE_BYTES(HDP), r.full_k + 8 * s);
        barrier_wait(r.empty_v + 8 * s, free);
        copy_tile<HDP>(a, w, map, page, 1, r.v + s * TILE_BYTES(HDP), r.full_v + 8 * s);
    }
}

/* The warpgroup's rows of the query, zeros where there are none. */
template <int HDP>
static __device__ __forceinline__ void load_half(char *q, const attn_args &a, const attn_rows &w,
                                                 int group)
{
    const int per_row = HDP / 8;

    for (int i = (int)threadIdx.x % 128; i < HALF * per_row; i += 128) {
        const int r = i / per_row, c = i % per_row, row = group * HALF + r;
        uint4 v = make_uint4(0, 0, 0, 0);

        if (row < w.n && 8 * c < a.kv.hd)
            v = __ldcg((const uint4 *)(a.q + row_at(a, w, row) + 8 * c));
        *(uint4 *)(q + c / 8 * (HALF * 128) + r * 128 + (c % 8 ^ r % 8) * 16) = v;
    }
    stores_seen();
    group_sync(group);
}

/* Zeros for the keys from `end` on of a tile of values; both warpgroups. */
template <int HDP> static __device__ __forceinline__ void clear_values(char *v, int end)
{
    const int per_row = HDP / 8;

    for (int i = (int)threadIdx.x - 128; i < (KEYS - end) * per_row; i += 256) {
        const int r = end + i / per_row, c = i % per_row;

        *(uint4 *)(v + c / 8 * (KEYS * 128) + r * 128 + c % 8 * 16) = make_uint4(0, 0, 0, 0);
    }
    stores_seen();
    asm volatile("bar.sync 5, 256;" ::: "memory");
}

template <int HDP>
static __device__ __forceinline__ void scores(float s[KEYS / 2], uint32_t q, uint32_t k)
{
    wgmma_begin();
#pragma unroll
    for (int d = 0; d < HDP / 16; d++)
        wgmma_scores(s, operand(q + d / 4 * (HALF * 128) + d % 4 * 32),
                     operand(k + d / 4 * (KEYS * 128) + d % 4 * 32), d > 0);
    wgmma_end();
}

template <int HDP> static __device__ __forceinline__ void values(wg_state<HDP> &x, uint32_t v)
{
    wgmma_begin();
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++) /* 16 keys are 2 KiB */
        wgmma_values<HDP>(x.o, x.p + 4 * i, turned(v + 2048 * i));
    wgmma_end();
}

/* Scores to weights; fade: what sums so far are multiplied by.  MASK: some rows do not see all. */
template <int HDP, int MASK>
static __device__ __forceinline__ void soften(wg_state<HDP> &x, float s[KEYS / 2], float fade[2],
                                              int key0, float scale)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int seen = x.limit[h] - key0 - (int)threadIdx.x % 4 * 2;
        float most = x.max[h], base, sum = 0;

#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float *v = &s[4 * j + 2 * h + e];

                if (MASK)
                    *v = 8 * j + e <= seen ? *v : -INFINITY;
                most = fmaxf(most, *v);
            }
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        base = most == -INFINITY ? 0 : most * scale; /* nothing seen yet: not inf - inf */
        fade[h] = attn_exp2(x.max[h] * scale - base);
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float *v = &s[4 * j + 2 * h + e];

                *v = attn_exp2(__fmaf_rn(*v, scale, -base));
                sum += *v;
            }
        x.max[h] = most;
        x.sum[h] = x.sum[h] * fade[h] + sum;
    }
}

template <int HDP>
static __device__ __forceinline__ void pack(wg_state<HDP> &x, const float s[KEYS / 2])
{
#pragma unroll
    for (int i = 0; i < KEYS / 4; i++)
        x.p[i] = cu_as_u32(__floats2half2_rn(s[2 * i], s[2 * i + 1]));
}

/* Scores and softmax of tile n, values of tile n - 1. */
template <int HDP, int MASK>
static __device__ __forceinline__ void step(wg_state<HDP> &x, const ring &r, int n, int tiles,
                                            int group, float scale)
{
    const int s = n % STAGES, t = (n - 1) % STAGES;
    float d[KEYS / 2], fade[2];

    barrier_wait(r.full_k + 8 * s, n / STAGES & 1);
    take_turn(group);
    scores<HDP>(d, r.q, r.k + s * TILE_BYTES(HDP));
    barrier_wait(r.full_v + 8 * t, (n - 1) / STAGES & 1);
    values<HDP>(x, r.v + t * TILE_BYTES(HDP));
    if (group == 0 || n + 1 < tiles) /* the last turn is nobody's */
        give_turn(1 - group);
    wgmma_wait<1>();
    wgmma_settled<KEYS / 2>(d);
    release(r.empty_k + 8 * s);
    soften<HDP, MASK>(x, d, fade, (tiles - 1 - n) * KEYS, scale);
    wgmma_wait<0>();
    wgmma_settled<HDP / 2>(x.o);
    release(r.empty_v + 8 * t);
#pragma unroll
    for (int i = 0; i < HDP / 2; i++)
        x.o[i] *= fade[i / 2 % 2];
    pack<HDP>(x, d);
}

/* All tiles of a warpgroup; r.q: its rows. */
template <int HDP>
static __device__ __forceinline__ void attend_tiles(wg_state<HDP> &x, const attn_args &a,
                                                    const attn_rows &w, const ring &r, char *v,
                                                    int tiles, int group)
{
    const int end = w.len - (tiles - 1) * KEYS, last = (tiles - 1) % STAGES;
    const int row = w.first + group * HALF, low = w.start + row / a.group;
    float d[KEYS / 2], fade[2];
    int n = 1;

    if (group == 1 && tiles > 1)
        give_turn(0);
    barrier_wait(r.full_k, 0);
    scores<HDP>(d, r.q, r.k);
    if (end < KEYS) {
        barrier_wait(r.full_v, 0);
        clear_values<HDP>(v, end);
    }
    wgmma_wait<0>();
    wgmma_settled<KEYS / 2>(d);
    release(r.empty_k);
    soften<HDP, 1>(x, d, fade, (tiles - 1) * KEYS, a.scale);
    pack<HDP>(x, d);
    for (; n < tiles && (tiles - n) * KEYS > low + 1; n++)
        step<HDP, 1>(x, r, n, tiles, group, a.scale);
    for (; n < tiles; n++)
        step<HDP, 0>(x, r, n, tiles, group, a.scale);
    barrier_wait(r.full_v + 8 * last, (tiles - 1) / STAGES & 1);
    values<HDP>(x, r.v + last * TILE_BYTES(HDP));
    wgmma_wait<0>();
    wgmma_settled<HDP / 2>(x.o);
}

template <int HDP>
static __device__ __forceinline__ void store_rows(const wg_state<HDP> &x, const attn_args &a,
                                                  const attn_rows &w, int row)
{
    const int q = (int)threadIdx.x % 4;

#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int r = row + 8 * h, mine = r < w.n;
        float sum = x.sum[h];
        __half *y = a.y + (mine ? row_at(a, w, r) : 0);

        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        sum = 1.0f / sum;
#pragma unroll
        for (int j = 0; j < HDP / 8; j += 4) {
            uint32_t v[4];
            uint4 all;

#pragma unroll
            for (int i = 0; i < 4; i++)
                v[i] = cu_as_u32(
                    cu_halves(x.o[4 * (j + i) + 2 * h] * sum, x.o[4 * (j + i) + 2 * h + 1] * sum));
            all = wgmma_turn4(v[0], v[1], v[2], v[3]);
            if (mine && 8 * (j + q) < a.kv.hd)
                *(uint4 *)(y + 8 * (j + q)) = all;
        }
    }
}

template <int HDP>
static __device__ __forceinline__ void consume(const attn_args &a, const attn_rows &w, ring r,
                                               char *shared, int tiles)
{
    const int group = (int)threadIdx.x / 128 - 1, in = (int)threadIdx.x % 128;
    const int row = group * HALF + in / 32 * 16 + in % 32 / 4;
    wg_state<HDP> x;

    for (int h = 0; h < 2; h++) {
        x.limit[h] = w.start + (w.first + row + 8 * h) / a.group;
        x.max[h] = -INFINITY;
        x.sum[h] = 0;
    }
#pragma unroll
    for (int i = 0; i < HDP / 2; i++)
        x.o[i] = 0;
    load_half<HDP>(shared + group * Q_BYTES(HDP), a, w, group);
    r.q += group * Q_BYTES(HDP);
    attend_tiles<HDP>(x, a, w, r, shared + (r.v - r.k) + 2 * Q_BYTES(HDP), tiles, group);
    store_rows<HDP>(x, a, w, row);
}

template <int HDP>
static __global__ void __launch_bounds__(384, 1)
    attn_wgmma(const __grid_constant__ CUtensorMap map, const attn_args a)
{
    extern __shared__ char shared[];
    __shared__ __align__(8) uint64_t barrier[4 * STAGES];
    const uint32_t skip = (0 - shared_address(shared)) & 1023;
    attn_rows w;
    int tiles;
    ring r;

    r.q = shared_address(shared) + skip;
    r.k = r.q + 2 * Q_BYTES(HDP);
    r.v = r.k + STAGES * TILE_BYTES(HDP);
    r.full_k = shared_address(barrier);
    r.full_v = r.full_k + 8 * STAGES;
    r.empty_k = r.full_v + 8 * STAGES;
    r.empty_v = r.empty_k + 8 * STAGES;
    if (threadIdx.x == 0) {
        for (int s = 0; s < 2 * STAGES; s++) {
            barrier_make(r.full_k + 8 * s, 1);
            barrier_make(r.empty_k + 8 * s, 8); /* warps of two warpgroups */
        }
        barrier_made();
    }
    cu_wait();
    if (!find_tile(a, (int)blockIdx.y, ROWS, (int)blockIdx.x, &w))
        return;
    tiles = (w.start + (w.first + w.n - 1) / a.group) / KEYS + 1;
    __syncthreads();
    if (threadIdx.x < 128) {
        registers_down<24>();
        if (threadIdx.x == 0)
            produce<HDP>(a, w, r, &map, tiles);
    } else {
        registers_up<240>();
        consume<HDP>(a, w, r, shared + skip, tiles);
    }
}

template <int HDP>
static q_status launch(const cu_be *c, const CUtensorMap *map, const attn_args *a, int n_tok,
                       q_err *err)
{
    q_status st = Q_OK;
    const unsigned tiles = (unsigned)((int64_t)n_tok * a->group / ROWS + a->n_seq);

    CU_TRY(cudaFuncSetAttribute((attn_wgmma<HDP>), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                SHARED(HDP)));
    CU_LAUNCH(c, (attn_wgmma<HDP>), dim3((unsigned)a->kv.n_kv, tiles), dim3(384), SHARED(HDP), *map,
              *a);
out:
    return st;
}

q_status cu_attn_wgmma(const cu_be *c, const attn_args *a, int64_t n_pages, int n_tok, q_err *err)
{
    q_status st = Q_OK;
    const int64_t row = 2 * a->kv.hd;
    CUtensorMap map;

    Q_TRY(
        cu_map_bytes(&map, a->kv.base, n_pages * 2 * a->kv.n_kv * RT_PAGE, row, row, RT_PAGE, err));
    st = a->kv.hd <= 64 ? launch<64>(c, &map, a, n_tok, err) : launch<128>(c, &map, a, n_tok, err);
out:
    return st;
}
