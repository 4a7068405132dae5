/* Attention of few query rows over a long cache: bound by reading keys and values.
 *
 * The pages of a sequence and kv head are cut into `splits` runs, a block each; how many depends on
 * the batch alone and each block reads the length from device memory, so one captured graph serves
 * every length.  A warp takes 16 keys of each of T pages of the run straight from memory into
 * registers (attn_keys.cuh): the next keys are on their way while values are multiplied, the next
 * values while scores are.  Nothing passes through shared memory, and the warps meet only to merge
 * (attn_merge.cuh).  Query rows beyond 8 take another turn over the run, which is then in the L2.
 * The first pages are fetched before cu_wait(), while the kernel before still runs, unless they
 * hold tokens of this call.
 *
 * Slower, 32 heads of 4096 int8 keys on an H200, 16 at a time: asking the L2 for the rest of the
 * run before cu_wait() (1 us), a cluster per head that merges through shared memory (1 us), half as
 * many runs of twice the length (3 us).  Ref: Flash-Decoding (Dao et al. 2023). */
#include "runtime/cuda/attn_keys.cuh"
#include "runtime/cuda/attn_merge.cuh"

#define PIECES(hdp) ((ATTN_ROWS * (hdp) / 8 + 32 * ATTN_WARPS - 1) / (32 * ATTN_WARPS))

template <int KV> struct attn_element;
template <> struct attn_element<ATTN_F16> {
    typedef __half type;
};
template <> struct attn_element<ATTN_F32> {
    typedef float type;
};
template <> struct attn_element<ATTN_I8> {
    typedef int8_t type;
};

/* Where the warp's keys are: slot 16 warp of page p of the kv head at base + p * page, its values
 * `values` elements on. */
template <int KV> struct warp_keys {
    const typename attn_element<KV>::type *base;
    const int32_t *block;       /* of the sequence */
    int page, values, hd, left; /* left: keys of the run from this warp's first on */
};

template <int KV>
static __device__ __forceinline__ warp_keys<KV> find_keys(const attn_args &a, const attn_run &r,
                                                          int hd)
{
    const attn_rows &w = r.w;
    const int key0 = (int)threadIdx.x / 32 * ATTN_KEYS;
    warp_keys<KV> p;

    p.values = (int)a.kv.n_kv * RT_PAGE * hd;
    p.page = 2 * p.values;
    p.base = (const typename attn_element<KV>::type *)a.kv.base + (w.head * RT_PAGE + key0) * hd;
    p.block = a.kv.block + (int64_t)w.seq * a.kv.max_blocks;
    p.hd = hd;
    p.left = min(w.len, r.to * RT_PAGE) - key0;
    return p;
}

/* Page j of the run, any one past its end. */
template <int KV> static __device__ __forceinline__ int find_page(const warp_keys<KV> &p, int j)
{
    return j * RT_PAGE < p.left ? p.block[j] : 0;
}

/* The warp's keys of page j of the sequence, which is `page` of the pool; none may be there. */
template <int HDP, int KV>
static __device__ __forceinline__ void load_k(attn_keys<HDP, KV == ATTN_I8> &keys,
                                              const warp_keys<KV> &p, int j, int page)
{
    if (j * RT_PAGE < p.left)
        attn_load_k<HDP>(keys, p.base + (int64_t)page * p.page, p.hd);
}

template <int HDP, int KV>
static __device__ __forceinline__ void load_v(attn_keys<HDP, KV == ATTN_I8> &keys,
                                              const warp_keys<KV> &p, int j, int page)
{
    const int last = p.left - 1 - j * RT_PAGE;

    if (last >= 0)
        attn_load_v<HDP>(keys, p.base + (int64_t)page * p.page + p.values, last, p.hd);
    else if (KV != ATTN_I8)
        memset(keys.v, 0, sizeof keys.v); /* what counts with weight 0 is a number */
}

/* Where this thread's pieces of the query's rows are, NULL where there is none. */
template <int HDP>
static __device__ __forceinline__ void find_query(const __half *from[PIECES(HDP)],
                                                  const attn_args &a, const attn_rows &w)
{
#pragma unroll
    for (int i = 0; i < PIECES(HDP); i++) {
        const int at = (int)threadIdx.x + 32 * ATTN_WARPS * i, r = at / (HDP / 8);
        const int d = at % (HDP / 8) * 8;

        from[i] = r < w.n && d < a.kv.hd ? a.q + row_at(a, w, r) + d : NULL;
    }
}

/* Rows of the query in the order of attn_keys.cuh, zeros where there are none. */
template <int HDP, int I8>
static __device__ __forceinline__ void load_query(__half *q, const __half *const from[PIECES(HDP)])
{
    uint4 v[PIECES(HDP)];

#pragma unroll
    for (int i = 0; i < PIECES(HDP); i++)
        v[i] = from[i] ? __ldcg((const uint4 *)from[i]) : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < PIECES(HDP); i++) {
        const int at = (int)threadIdx.x + 32 * ATTN_WARPS * i, r = at / (HDP / 8);

        if (r < ATTN_ROWS)
            *(uint4 *)(q + r * ATTN_LD(HDP) + attn_q_place<I8>(at % (HDP / 8) * 8)) = v[i];
    }
}

/* x: 8 rows over the pages of the run. */
template <int HDP, int EXACT, int KV>
static __device__ __forceinline__ void attend_run(attn_out<HDP> &x, const attn_args &a,
                                                  const attn_run &r, __half *q)
{
    const int T = ATTN_TILES(HDP, KV), I8 = KV == ATTN_I8, lane = (int)threadIdx.x % 32;
    const __half *mine = q + lane / 4 * ATTN_LD(HDP) + lane % 4 * 8;
    const warp_keys<KV> p = find_keys<KV>(a, r, EXACT ? HDP : (int)a.kv.hd);
    const float scale = score_scale(a, r.w.head);
    const __half *from[PIECES(HDP)];
    attn_keys<HDP, I8> keys[T];
    int limit[2], page[T];

    for (int h = 0; h < 2; h++)
        limit[h] = min(r.w.start + (r.w.first + lane % 4 * 2 + h) / a.group, r.to * RT_PAGE - 1) -
                   (int)threadIdx.x / 32 * ATTN_KEYS;
    find_query<HDP>(from, a, r.w);
    attn_out_clear<HDP>(x);
#pragma unroll
    for (int t = 0; t < T; t++)
        page[t] = find_page(p, r.from + t);
#pragma unroll
    for (int t = 0; t < T; t++)
        if ((r.from + t + 1) * RT_PAGE <= r.w.start) {
            load_k<HDP, KV>(keys[t], p, r.from + t, page[t]);
            load_v<HDP, KV>(keys[t], p, r.from + t, page[t]);
        }
    cu_wait();
    load_query<HDP, I8>(q, from);
#pragma unroll
    for (int t = 0; t < T; t++)
        if ((r.from + t + 1) * RT_PAGE > r.w.start) {
            load_k<HDP, KV>(keys[t], p, r.from + t, page[t]);
            load_v<HDP, KV>(keys[t], p, r.from + t, page[t]);
        }
    __syncthreads();
#pragma unroll 1
    for (int j = r.from; j * RT_PAGE < p.left; j += T) {
        int last[T][2];
        float s[T][4];
        uint32_t w[T][2];

#pragma unroll
        for (int t = 0; t < T; t++) {
            last[t][0] = limit[0] - (j + t) * RT_PAGE;
            last[t][1] = limit[1] - (j + t) * RT_PAGE;
            page[t] = find_page(p, j + T + t);
        }
        attn_scores<HDP, I8, T>(s, keys, mine);
#pragma unroll
        for (int t = 0; t < T; t++)
            load_k<HDP, KV>(keys[t], p, j + T + t, page[t]);
        attn_weigh<HDP, T>(x, w, s, last, scale);
#pragma unroll
        for (int t = 0; t < T; t++)
            attn_values<HDP>(x, keys[t], w[t]);
#pragma unroll
        for (int t = 0; t < T; t++)
            load_v<HDP, KV>(keys[t], p, j + T + t, page[t]);
    }
}

template <int HDP, int EXACT, int KV>
static __global__ void __launch_bounds__(32 * ATTN_WARPS, ATTN_BLOCKS(HDP, KV))
    attn_decode(const attn_args a)
{
    extern __shared__ __align__(16) float states[]; /* [ATTN_WARPS][ATTN_ROWS][ATTN_STATE] */
    __shared__ __align__(16) __half q[ATTN_ROWS * ATTN_LD(HDP)];
    const int warp = (int)threadIdx.x / 32;
    attn_out<HDP> x;
    attn_run r;
    int rows;

    if (!find_run(a, &r)) {
        cu_wait(); /* also who has nothing to do: the next kernel relies on it */
        return;
    }
    rows = r.w.n;
    for (; r.w.first < rows; r.w.first += ATTN_ROWS) {
        r.w.n = min(ATTN_ROWS, rows - r.w.first);
        attend_run<HDP, EXACT, KV>(x, a, r, q);
        attn_keep<HDP, KV == ATTN_I8>(states + warp * ATTN_ROWS * ATTN_STATE(HDP), x, r.w.n);
        __syncthreads();
        store<HDP>(a, r, states);
    }
    r.w.first = 0;
    r.w.n = rows;
    finish_run<HDP>(a, r);
}

template <int HDP, int EXACT, int KV>
static q_status launch(const cu_be *c, const attn_args *a, q_err *err)
{
    q_status st = Q_OK;

    CU_LAUNCH(c, (attn_decode<HDP, EXACT, KV>),
              dim3((unsigned)a->n_seq, (unsigned)a->kv.n_kv, (unsigned)a->splits),
              dim3(32 * ATTN_WARPS), sizeof(float) * ATTN_WARPS * ATTN_ROWS * ATTN_STATE(HDP), *a);
out:
    return st;
}

template <int HDP, int KV>
static q_status launch_width(const cu_be *c, const attn_args *a, q_err *err)
{
    return a->kv.hd == HDP ? launch<HDP, 1, KV>(c, a, err) : launch<HDP, 0, KV>(c, a, err);
}

template <int KV> static q_status choose(const cu_be *c, const attn_args *a, q_err *err)
{
    switch (ATTN_WIDTH(a->kv.hd)) {
    case 64:
        return launch_width<64, KV>(c, a, err);
    case 128:
        return launch_width<128, KV>(c, a, err);
    default:
        return launch_width<256, KV>(c, a, err);
    }
}

q_status cu_attn_decode(const cu_be *c, const attn_args *a, int kv, q_err *err)
{
    switch (kv) {
    case ATTN_F32:
        return choose<ATTN_F32>(c, a, err);
    case ATTN_I8:
        return choose<ATTN_I8>(c, a, err);
    default:
        return choose<ATTN_F16>(c, a, err);
    }
}
