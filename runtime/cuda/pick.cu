/* Choosing the next token on the device.  Rules and the radix selection: runtime/cpu/pick.c.
 *
 * Greedy rows: 64 blocks a row look for the largest logit, one more picks among their finds.  Other
 * rows go on in that second kernel, a block each, over logits that lie in L2 by then.
 *
 * Weights are integers here: exp((v - max) / T) times 2^43, which leaves room for 2^20 of them in
 * 64 bits.  Integer sums have no order, so atomics and any division of the work give the same
 * result, and each weight is within 2^-44 of the CPU's.  Where the order of ids matters (ties at a
 * cut, the draw) the vocabulary is cut into 1024 runs: sums of runs, a scan over them, then one
 * run. */
#include "formats/base/q_half.h"
#include "runtime/cuda/cu_device.cuh"
#include "runtime/philox.h"

#define PICK_THREADS 1024
#define PICK_RUNS    1024
#define AHEAD        5 /* logits of a thread that are read at once */
#define BUCKETS      4096
#define ID_BITS      20 /* of CU_MAX_VOCAB: an entry of the history is row << ID_BITS | id */
#define ONE          8796093022208.0 /* 2^43 */

typedef struct pick_set {
    double u; /* of the draw */
    float temperature, top_p, penalty;
    int32_t top_k, greedy;
} pick_set;

typedef unsigned long long u64;

extern "C" size_t cu_pick_row_bytes(void)
{
    return sizeof(pick_set);
}

/* ---- penalty ------------------------------------------------------------------------------- */

/* Whoever sets the bit of (row, id) first weakens its logit: each id once. */
static __global__ void penalize(float *logits, int64_t vocab, const pick_set *set,
                                const int32_t *hist, int n, uint32_t *seen, int64_t words)
{
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);

    cu_wait();
    if (i < n) {
        const int row = hist[i] >> ID_BITS, id = hist[i] & ((1 << ID_BITS) - 1);
        const uint32_t bit = 1u << (id % 32);
        float *v = logits + row * vocab + id;

        if (!(atomicOr(&seen[row * words + id / 32], bit) & bit))
            *v = *v < 0 ? *v * set[row].penalty : *v / set[row].penalty;
    }
}

/* ---- the largest --------------------------------------------------------------------------- */

/* -1: not finite */
static __device__ __forceinline__ void better(float *v, int *at, float v2, int at2)
{
    if (*at < 0 || at2 < 0)
        *at = -1;
    else if (v2 > *v || (v2 == *v && at2 < *at)) {
        *v = v2;
        *at = at2;
    }
}

static __device__ __forceinline__ void warp_best(float *v, int *at)
{
    for (int d = 16; d > 0; d >>= 1) {
        const float v2 = __shfl_xor_sync(0xffffffffu, *v, d);
        const int at2 = __shfl_xor_sync(0xffffffffu, *at, d);

        better(v, at, v2, at2);
    }
}

/* (v, at) of the block; valid in thread 0 */
static __device__ __forceinline__ void block_best(float *v, int *at, float *tmp_v, int *tmp_at)
{
    warp_best(v, at);
    if (threadIdx.x % 32 == 0) {
        tmp_v[threadIdx.x / 32] = *v;
        tmp_at[threadIdx.x / 32] = *at;
    }
    __syncthreads();
    if (threadIdx.x == 0)
        for (int w = 1; w < (int)blockDim.x / 32; w++)
            better(v, at, tmp_v[w], tmp_at[w]);
}

static __global__ void find_best(const float *logits, int64_t vocab, float *max, int32_t *at)
{
    const int64_t part = (vocab + CU_PICK_PARTS - 1) / CU_PICK_PARTS, from = blockIdx.x * part;
    const int64_t to = from + part < vocab ? from + part : vocab;
    __shared__ float tmp_v[32];
    __shared__ int tmp_at[32];
    float best = -INFINITY;
    int best_at = INT32_MAX;

    cu_wait();
    logits += blockIdx.y * vocab;
    for (int64_t i0 = from + threadIdx.x; i0 < to; i0 += AHEAD * blockDim.x) {
        float v[AHEAD];

#pragma unroll
        for (int e = 0; e < AHEAD; e++) {
            const int64_t i = i0 + e * (int64_t)blockDim.x;

            v[e] = i < to ? logits[i] : 0.0f;
        }
#pragma unroll
        for (int e = 0; e < AHEAD; e++) {
            const int64_t i = i0 + e * (int64_t)blockDim.x;

            if (i < to)
                better(&best, &best_at, v[e], isfinite(v[e]) ? (int)i : -1);
        }
    }
    block_best(&best, &best_at, tmp_v, tmp_at);
    if (threadIdx.x == 0) {
        max[blockIdx.y * CU_PICK_PARTS + blockIdx.x] = best;
        at[blockIdx.y * CU_PICK_PARTS + blockIdx.x] = best_at;
    }
}

/* ---- sampling ------------------------------------------------------------------------------ */

typedef struct pick_work {
    u64 bucket[BUCKETS]; /* also the sums of runs */
    u64 warp[33];
    u64 found, rest; /* where a scan reached what it wanted, and what was wanted there */
    uint32_t key, mask;
} pick_work;

/* unsigned integers that order like the floats */
static __device__ __forceinline__ uint32_t key_of(float v)
{
    const uint32_t u = __float_as_uint(v);

    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static __device__ __forceinline__ u64 weight_of(float v, int by_value)
{
    return by_value ? (u64)((double)v * ONE + 0.5) : 1;
}

/* Sum of the threads before this one; every thread also gets the sum of all. */
static __device__ u64 scan(u64 v, pick_work *w, u64 *all)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    u64 run = v;

    for (int d = 1; d < 32; d *= 2) {
        const u64 x = __shfl_up_sync(0xffffffffu, run, (unsigned)d);

        run += lane >= d ? x : 0;
    }
    if (lane == 31)
        w->warp[warp] = run;
    __syncthreads();
    if (warp == 0) {
        u64 sum = w->warp[lane];

        for (int d = 1; d < 32; d *= 2) {
            const u64 x = __shfl_up_sync(0xffffffffu, sum, (unsigned)d);

            sum += lane >= d ? x : 0;
        }
        w->warp[lane] = sum;
    }
    __syncthreads();
    *all = w->warp[31];
    run += warp > 0 ? w->warp[warp - 1] : 0;
    __syncthreads(); /* the next scan writes there */
    return run - v;
}

/* The cut of the largest values that together reach `want` (>= 1): w->key, and w->rest: what is
 * still wanted of those that have this key. */
static __device__ void select_top(pick_work *w, const float *v, int n, u64 want, int by_value)
{
    const int shift[3] = { 20, 10, 0 };

    if (threadIdx.x == 0) {
        w->key = w->mask = 0;
        w->rest = want;
    }
    for (int pass = 0; pass < 3; pass++) {
        const uint32_t low = pass == 0 ? BUCKETS - 1 : 1023;
        const int per = (int)(low + 1) / PICK_THREADS, top = (int)low - (int)threadIdx.x * per;
        u64 mine = 0, before, all;

        __syncthreads();
        for (uint32_t i = threadIdx.x; i <= low; i += PICK_THREADS)
            w->bucket[i] = 0;
        __syncthreads();
        for (int i = (int)threadIdx.x; i < n; i += PICK_THREADS) {
            const uint32_t k = key_of(v[i]);

            if ((k & w->mask) == w->key) {
                const u64 x = weight_of(v[i], by_value);

                if (x > 0)
                    atomicAdd(&w->bucket[k >> shift[pass] & low], x);
            }
        }
        __syncthreads();
        want = w->rest;
        for (int i = 0; i < per; i++)
            mine += w->bucket[top - i];
        before = scan(mine, w, &all);
        if (want > all) /* cannot be: want is a share of the sum of the same integers */
            want = all;
        if (before < want && before + mine >= want) {
            int b = top;

            for (; before + w->bucket[b] < want; b--)
                before += w->bucket[b];
            w->key |= (uint32_t)b << shift[pass];
            w->mask |= low << shift[pass];
            w->rest = want - before;
        }
    }
    __syncthreads();
}

/* Everything below the cut becomes `gone`, and of those at its key all but the first `equal` ids.
 */
static __device__ void apply_cut(pick_work *w, float *v, int n, u64 equal, float gone)
{
    const int run = (n + PICK_RUNS - 1) / PICK_RUNS, lane = (int)threadIdx.x % 32;
    const uint32_t cut = w->key;
    u64 before, all;

    __syncthreads();
    for (int r = (int)threadIdx.x / 32; r < PICK_RUNS; r += PICK_THREADS / 32) {
        int same = 0;

        for (int i = r * run + lane; i < min((r + 1) * run, n); i += 32)
            same += key_of(v[i]) == cut;
        same = __reduce_add_sync(0xffffffffu, same);
        if (lane == 0)
            w->bucket[r] = (u64)same;
    }
    __syncthreads();
    before = scan(w->bucket[threadIdx.x], w, &all);
    w->bucket[threadIdx.x] = before;
    __syncthreads();
    for (int r = (int)threadIdx.x / 32; r < PICK_RUNS; r += PICK_THREADS / 32) {
        u64 rank = w->bucket[r];
        const int to = min((r + 1) * run, n);

        for (int i = r * run; i < to; i += 32) {
            const uint32_t k = i + lane < to ? key_of(v[i + lane]) : 0;
            const uint32_t same = __ballot_sync(0xffffffffu, i + lane < to && k == cut);
            const u64 mine = rank + (u64)__popc(same & ((1u << lane) - 1));

            if (i + lane < to && (k < cut || (k == cut && mine >= equal)))
                v[i + lane] = gone;
            rank += (u64)__popc(same);
        }
    }
    __syncthreads();
}

static __device__ u64 sum_weights(pick_work *w, const float *v, int n)
{
    u64 mine = 0, all;

    for (int i = (int)threadIdx.x; i < n; i += PICK_THREADS)
        mine += weight_of(v[i], 1);
    (void)scan(mine, w, &all);
    return all;
}

/* The first id whose running sum passes u of the total. */
static __device__ int draw(pick_work *w, const float *v, int n, double u)
{
    const int run = (n + PICK_RUNS - 1) / PICK_RUNS, lane = (int)threadIdx.x % 32;
    u64 before, all, mine, want;

    __syncthreads();
    for (int r = (int)threadIdx.x / 32; r < PICK_RUNS; r += PICK_THREADS / 32) {
        u64 sum = 0;

        for (int i = r * run + lane; i < min((r + 1) * run, n); i += 32)
            sum += weight_of(v[i], 1);
        for (int d = 16; d > 0; d >>= 1)
            sum += __shfl_xor_sync(0xffffffffu, sum, d);
        if (lane == 0)
            w->bucket[r] = sum;
    }
    __syncthreads();
    mine = w->bucket[threadIdx.x];
    before = scan(mine, w, &all);
    want = (u64)(u * (double)all);
    want = want < all ? want : all - 1; /* a product of 53 bits may round up */
    if (before <= want && before + mine > want) {
        int i = (int)threadIdx.x * run;

        while ((before += weight_of(v[i], 1)) <= want)
            i++;
        w->found = (u64)i;
    }
    __syncthreads();
    return (int)w->found;
}

static __global__ void __launch_bounds__(PICK_THREADS)
    choose(float *logits, int64_t vocab, const pick_set *set, const float *max, const int32_t *at,
           int32_t *out)
{
    __shared__ pick_work w;
    __shared__ float best;
    __shared__ int best_at;
    const int row = (int)blockIdx.x, n = (int)vocab;
    float *v = logits + row * vocab;
    pick_set s;

    cu_wait();
    s = set[row];
    if (threadIdx.x < 32) {
        const int i = row * CU_PICK_PARTS + (int)threadIdx.x;
        float most = max[i];
        int most_at = at[i];

        for (int e = 32; e < CU_PICK_PARTS; e += 32)
            better(&most, &most_at, max[i + e], at[i + e]);
        warp_best(&most, &most_at);
        if (threadIdx.x == 0) {
            best = most;
            best_at = most_at;
            out[row] = most_at;
        }
    }
    __syncthreads();
    if (s.greedy || best_at < 0)
        return;
    if (s.top_k > 0 && s.top_k < n) {
        select_top(&w, v, n, (u64)s.top_k, 0);
        apply_cut(&w, v, n, w.rest, -INFINITY);
    }
    for (int i = (int)threadIdx.x; i < n; i += PICK_THREADS)
        v[i] = v[i] > -INFINITY ? expf((v[i] - best) / s.temperature) : 0.0f;
    __syncthreads();
    if (s.top_p < 1.0f) {
        const u64 sum = sum_weights(&w, v, n);
        const u64 want = (u64)ceil((double)s.top_p * (double)sum);
        u64 unit;

        select_top(&w, v, n, want > 0 ? want : 1, 1);
        unit = weight_of(__uint_as_float(w.key ^ 0x80000000u), 1);
        apply_cut(&w, v, n, unit > 0 ? (w.rest + unit - 1) / unit : (u64)n, 0.0f);
    }
    {
        const int id = draw(&w, v, n, s.u);

        if (threadIdx.x == 0)
            out[row] = id;
    }
}

/* ---- host ---------------------------------------------------------------------------------- */

static q_status check(const rt_pick_args *a, q_err *err)
{
    if (a->n_rows < 0 || a->vocab < 1)
        return q_fail(err, Q_ESHAPE, "pick: [%lld, %lld]", (long long)a->n_rows,
                      (long long)a->vocab);
    if (a->vocab > CU_MAX_VOCAB)
        return q_fail(err, Q_EUNSUPPORTED, "cuda: a vocabulary of %lld, at most %lld",
                      (long long)a->vocab, (long long)CU_MAX_VOCAB);
    for (int64_t r = 0; r < a->n_rows; r++) {
        const rt_sampling *s = &a->row[r].s;

        if (!(s->temperature >= 0 && s->temperature <= 1e30f && s->top_p >= 0 && s->top_k >= 0 &&
              s->repetition_penalty > 0 && s->repetition_penalty <= 1e30f))
            return q_fail(
                err, Q_EARG,
                "pick: row %lld: temperature %g, top_p %g, top_k %d, penalty %g: none may "
                "be negative, the penalty not 0 (1 is off)",
                (long long)r, (double)s->temperature, (double)s->top_p, s->top_k,
                (double)s->repetition_penalty);
        for (int32_t i = 0; s->repetition_penalty != 1.0f && i < a->row[r].n_hist; i++)
            if (a->row[r].hist[i] < 0 || a->row[r].hist[i] >= a->vocab)
                return q_fail(err, Q_EARG, "row %lld: the history holds an id outside 0 .. %lld",
                              (long long)r, (long long)a->vocab - 1);
    }
    return Q_OK;
}

/* Rows r0 .. r0 + n - 1: their settings, and whether any has a penalty.  Greedy rows have the same
 * ones in every step, and what the device has is not copied again. */
static q_status upload_settings(cu_be *c, const rt_pick_args *a, int64_t r0, int n, int *penalties,
                                q_err *err)
{
    q_status st = Q_OK;
    pick_set set[CU_PICK_ROWS];

    memset(set, 0, sizeof set);
    *penalties = 0;
    for (int i = 0; i < n; i++) {
        const rt_pick_row *r = &a->row[r0 + i];

        set[i].temperature = r->s.temperature;
        set[i].top_p = r->s.top_p;
        set[i].top_k = r->s.top_k;
        set[i].penalty = r->s.repetition_penalty;
        set[i].greedy = r->s.temperature == 0.0f || r->s.top_k == 1;
        if (!set[i].greedy)
            set[i].u = rt_philox_unit(r->s.seed, r->stream, r->pos);
        *penalties |= r->s.repetition_penalty != 1.0f;
    }
    if (n <= c->n_pick && memcmp(c->pick_host, set, (size_t)n * sizeof *set) == 0)
        goto out;
    CU_TRY(cudaMemcpyAsync(c->pick_row, set, (size_t)n * sizeof *set, cudaMemcpyHostToDevice,
                           c->stream));
    memcpy(c->pick_host, set, (size_t)n * sizeof *set);
    c->n_pick = n > c->n_pick ? n : c->n_pick;
out:
    return st;
}

/* What has gathered in hist_host: pageable memory, so it may be filled again at once. */
static q_status flush(const cu_be *c, float *logits, int64_t vocab, int n, q_err *err)
{
    q_status st = Q_OK;

    if (n == 0)
        return Q_OK;
    CU_TRY(cudaMemcpyAsync(c->hist, c->hist_host, (size_t)n * sizeof *c->hist,
                           cudaMemcpyHostToDevice, c->stream));
    CU_LAUNCH(c, penalize, dim3((unsigned)((n + 255) / 256)), dim3(256), 0, logits, vocab,
              (const pick_set *)c->pick_row, (const int32_t *)c->hist, n, c->seen,
              (vocab + 31) / 32);
out:
    return st;
}

static q_status apply_penalties(const cu_be *c, const rt_pick_args *a, int64_t r0, int n,
                                q_err *err)
{
    q_status st = Q_OK;
    float *logits = a->logits + r0 * a->vocab;
    int have = 0;

    for (int i = 0; i < n; i++) {
        const rt_pick_row *r = &a->row[r0 + i];

        for (int32_t k = 0; r->s.repetition_penalty != 1.0f && k < r->n_hist; k++) {
            if (have == CU_HIST) {
                Q_TRY(flush(c, logits, a->vocab, have, err));
                have = 0;
            }
            c->hist_host[have++] = i << ID_BITS | r->hist[k];
        }
    }
    Q_TRY(flush(c, logits, a->vocab, have, err));
    CU_TRY(cudaMemsetAsync(c->seen, 0, (size_t)n * (size_t)((a->vocab + 31) / 32) * sizeof *c->seen,
                           c->stream));
out:
    return st;
}

extern "C" q_status cu_pick(rt_backend *be, const rt_pick_args *a, q_err *err)
{
    q_status st = Q_OK;
    cu_be *c = cu_of(be);
    int penalties = 0;

    Q_TRY(check(a, err));
    for (int64_t r0 = 0; r0 < a->n_rows; r0 += CU_PICK_ROWS) {
        const int n = (int)(a->n_rows - r0 < CU_PICK_ROWS ? a->n_rows - r0 : CU_PICK_ROWS);
        float *logits = a->logits + r0 * a->vocab;

        Q_TRY(upload_settings(c, a, r0, n, &penalties, err));
        if (penalties)
            Q_TRY(apply_penalties(c, a, r0, n, err));
        CU_LAUNCH(c, find_best, dim3(CU_PICK_PARTS, (unsigned)n), dim3(256), 0,
                  (const float *)logits, a->vocab, c->pick_max, c->pick_at);
        CU_LAUNCH(c, choose, dim3((unsigned)n), dim3(PICK_THREADS), 0, logits, a->vocab,
                  (const pick_set *)c->pick_row, (const float *)c->pick_max,
                  (const int32_t *)c->pick_at, a->out + r0);
    }
out:
    return st;
}
