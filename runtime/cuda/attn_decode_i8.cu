/* Decode attention over an int8 cache: attn_decode.cu's plan with an inner loop for codes.
 *
 * A warp takes 16 keys of every page of its block's run straight from memory into registers
 * (attn_keys.cuh), those of the next pages on their way meanwhile: nothing passes through shared
 * memory, and the warps meet only to merge.  Query rows beyond 8 take another turn over the run,
 * which is then in the L2.  The first pages are fetched before cu_wait(), while the kernel before
 * still runs, unless they hold tokens of this call. */
#include "runtime/cuda/attn_keys.cuh"
#include "runtime/cuda/attn_merge.cuh"

/* The warp's keys of page j; none of them may be there.  EXACT: heads are HDP wide. */
template <int HDP, int EXACT>
static __device__ __forceinline__ void load_page_keys(attn_keys<HDP, 1> &keys, const attn_args &a,
                                                      const attn_rows &w, int j)
{
    const int key0 = (int)threadIdx.x / 32 * ATTN_KEYS, last = w.len - 1 - j * RT_PAGE - key0;
    const int hd = EXACT ? HDP : (int)a.kv.hd;

    if (last >= 0)
        attn_load<HDP>(keys, cu_page(a.kv, w.seq, j, 0, w.head) + key0 * hd,
                       cu_page(a.kv, w.seq, j, 1, w.head) + key0 * hd, last, hd);
}

/* Rows of the query in the order of attn_keys.cuh, zeros where there are none. */
template <int HDP>
static __device__ __forceinline__ void load_query(__half *q, const attn_args &a, const attn_rows &w)
{
    for (int i = (int)threadIdx.x; i < ATTN_ROWS * HDP / 8; i += 32 * ATTN_WARPS) {
        const int r = i / (HDP / 8), d = i % (HDP / 8) * 8;
        uint4 v = make_uint4(0, 0, 0, 0);

        if (r < w.n && d < a.kv.hd)
            v = *(const uint4 *)(a.q + row_at(a, w, r) + d);
        *(uint4 *)(q + r * ATTN_LD(HDP) + attn_q_place<1>(d)) = v;
    }
}

/* x: 8 rows over the pages of the run. */
template <int HDP, int EXACT>
static __device__ __forceinline__ void attend_run(attn_out<HDP> &x, const attn_args &a,
                                                  const attn_run &r, __half *q)
{
    const int turns = HDP > 128 ? 1 : 2, lane = (int)threadIdx.x % 32;
    const int key0 = (int)threadIdx.x / 32 * ATTN_KEYS;
    const __half *mine = q + lane / 4 * ATTN_LD(HDP) + lane % 4 * 8;
    const float scale = score_scale(a, r.w.head);
    int limit[2], early = r.from;
    attn_keys<HDP, 1> keys[turns];

    for (int h = 0; h < 2; h++)
        limit[h] = r.w.start + (r.w.first + lane % 4 * 2 + h) / a.group - key0;
    attn_out_clear<HDP>(x);
#pragma unroll
    for (int i = 0; i < turns; i++)
        if (r.from + i < r.to && (r.from + i + 1) * RT_PAGE <= r.w.start) {
            load_page_keys<HDP, EXACT>(keys[i], a, r.w, r.from + i);
            early = r.from + i + 1;
        }
    cu_wait();
    load_query<HDP>(q, a, r.w);
#pragma unroll
    for (int i = 0; i < turns; i++)
        if (r.from + i >= early && r.from + i < r.to)
            load_page_keys<HDP, EXACT>(keys[i], a, r.w, r.from + i);
    __syncthreads();
    for (int j0 = r.from; j0 < r.to; j0 += turns)
#pragma unroll
        for (int i = 0; i < turns; i++) {
            const int j = j0 + i, last[2] = { limit[0] - j * RT_PAGE, limit[1] - j * RT_PAGE };

            if (j >= r.to)
                break;
            if (j * RT_PAGE + key0 < r.w.len)
                attn_add<HDP, 1>(x, keys[i], mine, last, scale);
            if (j + turns < r.to)
                load_page_keys<HDP, EXACT>(keys[i], a, r.w, j + turns);
        }
}

template <int HDP, int EXACT>
static __global__ void __launch_bounds__(32 * ATTN_WARPS, HDP > 128 ? 2 : 4)
    attn_decode_i8(const attn_args a)
{
    extern __shared__ __align__(16) float states[]; /* [ATTN_WARPS][ATTN_ROWS][ATTN_STATE] */
    __shared__ __align__(16) __half q[ATTN_ROWS * ATTN_LD(HDP)];
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
        attend_run<HDP, EXACT>(x, a, r, q);
        attn_keep<HDP, 1>(states + (int)threadIdx.x / 32 * ATTN_ROWS * ATTN_STATE(HDP), x, r.w.n);
        __syncthreads();
        store<HDP>(a, r.w, states, ATTN_ROWS * ATTN_STATE(HDP), r.part, r.n == 1);
    }
    r.w.first = 0;
    r.w.n = rows;
    finish_run(a, r);
}

template <int HDP, int EXACT> static q_status launch(const cu_be *c, const attn_args *a, q_err *err)
{
    q_status st = Q_OK;

    CU_LAUNCH(c, (attn_decode_i8<HDP, EXACT>),
              dim3((unsigned)a->n_seq, (unsigned)a->kv.n_kv, (unsigned)a->splits),
              dim3(32 * ATTN_WARPS), sizeof(float) * ATTN_WARPS * ATTN_ROWS * ATTN_STATE(HDP), *a);
out:
    return st;
}

template <int HDP> static q_status choose(const cu_be *c, const attn_args *a, q_err *err)
{
    return a->kv.hd == HDP ? launch<HDP, 1>(c, a, err) : launch<HDP, 0>(c, a, err);
}

q_status cu_attn_decode_i8(const cu_be *c, const attn_args *a, q_err *err)
{
    switch (ATTN_WIDTH(a->kv.hd)) {
    case 64:
        return choose<64>(c, a, err);
    case 128:
        return choose<128>(c, a, err);
    default:
        return choose<256>(c, a, err);
    }
}
