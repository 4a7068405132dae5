/* Attention of the persistent decode kernel: one token a sequence over its paged cache.
 *
 * The work is cut into items: a token, a kv head, up to 8 of the heads that share it (rows), and a
 * run of keys, as many runs as blocks ask for.  A block first turns q of its rows and, when its run
 * holds the newest position, k and v, which it stores into the page.  Then each warp takes 16 keys
 * at a time straight from memory into registers, since shared memory is full of weights:
 *
 *   scores  S' [16 keys, 8 rows] = K Q'     a lane reads 16 bytes of keys l / 4 and l / 4 + 8; as
 *                                           in gemv.cuh which d goes to which lane is free
 *   values  O' [HD, 8 rows] += V' P'        a lane reads 8 neighbouring d of keys 2 q, 2 q + 1,
 *                                           2 q + 8, 2 q + 9 and pairs up neighbouring keys
 *
 * P' is S' turned by movmatrix.  The warps' states are merged in shared memory, those of the runs
 * by the block that arrives last, in order of the runs.  Numbers: as in attn_tile.cuh. */
#ifndef STEP_ATTN_CUH
#define STEP_ATTN_CUH

#include "runtime/cuda/step_product.cuh"

#define STEP_ROWS   8
#define STEP_STATES 56  /* rows of warps that are merged at once */
#define STEP_RUN    128 /* keys of a run, at least: a shorter one costs as much to merge */

/* shared memory of attention: q [STEP_ROWS][hd + 32] f16, then states [STEP_STATES][hd + 4] f32 */
#define STEP_ATTN_BYTES(hd)                                                                        \
    (2 * STEP_ROWS * ((size_t)(hd) + 32) + 4 * STEP_STATES * ((size_t)(hd) + 4))

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
static __device__ __forceinline__ __half *step_slot(const step_args &a, int layer, int seq,
                                                    int head, int which, int key)
{
    const int64_t page = a.block[(int64_t)seq * a.max_blocks + key / RT_PAGE];
    const int64_t at = (((int64_t)layer * a.n_pages + page) * 2 + which) * a.n_kv + head;

    return (__half *)a.pages + (at * RT_PAGE + key % RT_PAGE) * a.hd;
}

/* The newest page is read past L2 by nobody else, so the first pages of a run can come early. */
static __device__ __forceinline__ void step_prefetch(const step_args &a, int layer)
{
    const int items = a.n_tok * a.n_kv * a.tiles * a.splits, most = 8;
    int n = 0;

    for (int i = (int)blockIdx.x; i < items && n < most; i += (int)gridDim.x) {
        const step_item w = step_item_of(a, i);

#pragma unroll 1
        for (int key = w.from; key < w.to && n < most; key = (key / RT_PAGE + 1) * RT_PAGE, n++) {
            const int keys = min(RT_PAGE - key % RT_PAGE, w.to - key);

            for (int which = 0; which < 2; which++)
                prefetch_bytes(step_slot(a, layer, w.seq, w.head, which, key), keys * a.hd * 2);
        }
    }
}

/* ---- q, k, v -------------------------------------------------------------------------------- */

/* Cosines and sines of this lane's pairs, l and l + 32. */
template <int HD>
static __device__ __forceinline__ void step_angles(const step_args &a, const step_item &w,
                                                   float c[HD / 64], float s[HD / 64])
{
#pragma unroll
    for (int i = 0; i < HD / 64; i++) {
        const int p = (int)threadIdx.x % 32 + 32 * i;
        const float angle =
            p < a.pairs ? (float)(w.len - 1) * a.inv_freq[(int64_t)w.seq * a.pairs + p] : 0;

        sincosf(angle, &s[i], &c[i]);
        s[i] *= a.mscale;
        c[i] *= a.mscale;
    }
}

/* A head of the projection, normalized and turned where it should be, into `to` as f16.  head: HD
 * floats of shared memory of this warp. */
template <int HD>
static __device__ __forceinline__ void step_head(const step_args &a, __half *to, float *head,
                                                 const __half *from, const float *norm, int turn,
                                                 float factor, const float c[HD / 64],
                                                 const float s[HD / 64])
{
    const int lane = (int)threadIdx.x % 32;
    float v[HD / 32], sum = 0;

#pragma unroll
    for (int i = 0; i < HD / 32; i++) {
        const unsigned short bits = __ldcg((const unsigned short *)from + lane + 32 * i);

        v[i] = __half2float(__ushort_as_half(bits));
        sum += v[i] * v[i];
    }
    if (norm) {
        sum = 1.0f / sqrtf(cu_warp_sum(sum) / (float)HD + a.eps);
#pragma unroll
        for (int i = 0; i < HD / 32; i++)
            v[i] = v[i] * sum * norm[lane + 32 * i];
    }
#pragma unroll
    for (int i = 0; i < HD / 32; i++)
        head[lane + 32 * i] = v[i];
    __syncwarp();
    if (turn)
#pragma unroll
        for (int i = 0; i < HD / 64; i++) {
            const int p = lane + 32 * i;

            if (p < a.pairs) {
                float *x = head + p * a.rope_step, *y = x + a.rope_gap;
                const float x0 = *x, y0 = *y;

                *x = x0 * c[i] - y0 * s[i];
                *y = y0 * c[i] + x0 * s[i];
            }
        }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < HD / 32; i++)
        to[lane + 32 * i] = cu_half(head[lane + 32 * i] * factor);
}

/* q of the item's rows into shared memory, k and v into their page if the run ends with them; a
 * warp for each, zeros for rows that are not there. */
template <int HD>
static __device__ __forceinline__ void step_turn(const step_args &a, const step_layer &l, int layer,
                                                 const step_item &w, __half *q, float *heads,
                                                 const float c[HD / 64], const float s[HD / 64])
{
    const int warp = (int)threadIdx.x / 32, ld = HD + 32, all = a.n_head + 2 * a.n_kv;
    const __half *row = (const __half *)a.qkv + (int64_t)w.t * all * HD;
    float *head = heads + warp * HD;

    for (int j = warp; j < w.rows + (w.to == w.len ? 2 : 0); j += STEP_WARPS) {
        const int is_q = j < w.rows, which = j - w.rows;
        const int h =
            is_q ? w.head * a.group + w.tile * STEP_ROWS + j : a.n_head + which * a.n_kv + w.head;

        step_head<HD>(a, is_q ? q + j * ld : step_slot(a, layer, w.seq, w.head, which, w.len - 1),
                      head, row + h * HD,
                      is_q    ? l.q_norm
                      : which ? NULL
                              : l.k_norm,
                      is_q || !which, is_q ? a.q_scale[w.t] : 1.0f, c, s);
        __syncwarp();
    }
    for (int i = w.rows * HD + (int)threadIdx.x; i < STEP_ROWS * HD; i += 32 * STEP_WARPS)
        q[i / HD * ld + i % HD] = __half(0);
}

/* ---- scores and values ---------------------------------------------------------------------- */

static __device__ __forceinline__ uint32_t turn_matrix(uint32_t v)
{
    uint32_t d;

    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(v));
    return d;
}

/* What a warp knows: rows 2 q and 2 q + 1 of a lane.  o[i][e]: d = 64 i + 8 g + 2 e and the next,
 * each of the two rows. */
template <int HD> struct step_state {
    float max[2], sum[2];
    float o[HD / 64][4][4];
};

/* 16 keys and their values: of a lane keys g and g + 8, 32 i + 8 q of each, and values as above. */
template <int HD> struct step_keys {
    uint4 k[HD / 32][2], v[4][HD / 64];
};

/* Keys key0 .. key0 + 15; beyond the run the last one again. */
template <int HD>
static __device__ __forceinline__ void step_load_keys(step_keys<HD> &r, const step_args &a,
                                                      int layer, const step_item &w, int key0)
{
    const int lane = (int)threadIdx.x % 32, g = lane / 4, l4 = lane % 4, last = w.to - 1 - key0;
    const __half *k = step_slot(a, layer, w.seq, w.head, 0, key0);

#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int i = 0; i < HD / 32; i++)
            r.k[i][h] = __ldcg((const uint4 *)(k + min(g + 8 * h, last) * HD + 32 * i + 8 * l4));
}

template <int HD>
static __device__ __forceinline__ void step_load_values(step_keys<HD> &r, const step_args &a,
                                                        int layer, const step_item &w, int key0)
{
    const int lane = (int)threadIdx.x % 32, g = lane / 4, l4 = lane % 4, last = w.to - 1 - key0;
    const __half *v = step_slot(a, layer, w.seq, w.head, 1, key0);

#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
        for (int i = 0; i < HD / 64; i++)
            r.v[n][i] = __ldcg(
                (const uint4 *)(v + min(2 * l4 + n % 2 + n / 2 * 8, last) * HD + 64 * i + 8 * g));
}

/* Adds them; those after `last` do not count. */
template <int HD>
static __device__ __forceinline__ void step_attend(step_state<HD> &x, const step_keys<HD> &r,
                                                   const __half *q, int last, float scale)
{
    const int lane = (int)threadIdx.x % 32, g = lane / 4, l4 = lane % 4;
    float s[4] = { 0, 0, 0, 0 };
    uint32_t p[2];

#pragma unroll
    for (int i = 0; i < HD / 32; i++) {
        const uint4 b = *(const uint4 *)(q + g * (HD + 32) + 32 * i + 8 * l4);

        cu_mma(s, r.k[i][0].x, r.k[i][1].x, r.k[i][0].y, r.k[i][1].y, b.x, b.y);
        cu_mma(s, r.k[i][0].z, r.k[i][1].z, r.k[i][0].w, r.k[i][1].w, b.z, b.w);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = x.max[h], fade;

        s[h] = g <= last ? s[h] * scale : -INFINITY; /* key 0 of these is always there */
        s[2 + h] = g + 8 <= last ? s[2 + h] * scale : -INFINITY;
        most = fmaxf(most, fmaxf(s[h], s[2 + h]));
        for (int d = 4; d < 32; d *= 2)
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, d));
        fade = exp2f(x.max[h] - most);
        s[h] = exp2f(s[h] - most);
        s[2 + h] = exp2f(s[2 + h] - most);
        x.sum[h] = x.sum[h] * fade + s[h] + s[2 + h]; /* of this lane's keys */
        x.max[h] = most;
#pragma unroll
        for (int i = 0; i < HD / 64; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                x.o[i][e][h] *= fade;
                x.o[i][e][2 + h] *= fade;
            }
    }
    p[0] = turn_matrix(cu_as_u32(__floats2half2_rn(s[0], s[1])));
    p[1] = turn_matrix(cu_as_u32(__floats2half2_rn(s[2], s[3])));
#pragma unroll
    for (int i = 0; i < HD / 64; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const uint32_t a = word_of(r.v[0][i], e), b = word_of(r.v[1][i], e);
            const uint32_t c = word_of(r.v[2][i], e), d = word_of(r.v[3][i], e);

            cu_mma(x.o[i][e], __byte_perm(a, b, 0x5410), __byte_perm(a, b, 0x7632),
                   __byte_perm(c, d, 0x5410), __byte_perm(c, d, 0x7632), p[0], p[1]);
        }
}

/* ---- merging -------------------------------------------------------------------------------- */

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

template <int HD>
static __device__ __forceinline__ void step_keep(const step_state<HD> &x, float *states, int rows)
{
    const int lane = (int)threadIdx.x % 32, g = lane / 4, l4 = lane % 4;
    float *mine = states + (int)threadIdx.x / 32 * rows * (HD + 4);

#pragma unroll
    for (int r = 0; r < 2; r++) {
        float *row = mine + (2 * l4 + r) * (HD + 4), sum = x.sum[r];

        for (int d = 4; d < 32; d *= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, d);
        if (2 * l4 + r >= rows)
            continue;
#pragma unroll
        for (int i = 0; i < HD / 64; i++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                *(float2 *)(row + 64 * i + 8 * g + 2 * e) =
                    make_float2(x.o[i][e][r], x.o[i][e][2 + r]);
        if (g == 0) {
            row[HD] = x.max[r];
            row[HD + 1] = sum;
        }
    }
}

/* The item's result: into att, or as a part of it; the last part adds them up. */
template <int HD>
static __device__ __forceinline__ void step_finish(const step_args &a, const step_item &w,
                                                   const float *states, int n_states, int *flag)
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
            y[r * HD + d] = cu_half(o / sum);
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
        y[r * HD + d] = cu_half(o / sum);
    }
}

/* All items of this block.  What earlier steps left in the cache is on its way before the barrier:
 * the first keys of each warp, unless the newest is among them. */
template <int HD>
static __device__ __forceinline__ void step_attention(const step_args &a, const step_layer &l,
                                                      int layer, char *scratch, int *flag,
                                                      const grid_bar *bar)
{
    const int warp = (int)threadIdx.x / 32, items = a.n_tok * a.n_kv * a.tiles * a.splits;
    __half *q = (__half *)scratch;
    float *states = (float *)(scratch + 2 * STEP_ROWS * (HD + 32)); /* before that: heads */
    int ready = 0;

    for (int i = (int)blockIdx.x; i < items; i += (int)gridDim.x) {
        const step_item w = step_item_of(a, i);
        const int warps = min(STEP_WARPS, STEP_STATES / w.rows), first = w.from + 16 * warp;
        const int busy = min(warps, (w.to - w.from + 15) / 16);
        const int early = warp < busy && first + 16 < w.len;
        float c[HD / 64], s[HD / 64];
        step_state<HD> x;
        step_keys<HD> keys;

        if (w.from >= w.to)
            continue;
        step_angles<HD>(a, w, c, s);
        if (early) {
            step_load_keys<HD>(keys, a, layer, w, first);
            step_load_values<HD>(keys, a, layer, w, first);
        }
        if (!ready)
            step_wait(bar);
        ready = 1;
        step_turn<HD>(a, l, layer, w, q, states, c, s);
        step_meet();
        x.max[0] = x.max[1] = -INFINITY;
        x.sum[0] = x.sum[1] = 0;
#pragma unroll
        for (int j = 0; j < HD / 64; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                x.o[j][e][0] = x.o[j][e][1] = x.o[j][e][2] = x.o[j][e][3] = 0;
        for (int key = first; key < w.to && warp < busy; key += 16 * warps) {
            if (!early || key != first) {
                step_load_keys<HD>(keys, a, layer, w, key);
                step_load_values<HD>(keys, a, layer, w, key);
            }
            step_attend<HD>(x, keys, q, w.to - 1 - key, a.attn_scale);
        }
        if (warp < busy)
            step_keep<HD>(x, states, w.rows);
        step_meet();
        step_finish<HD>(a, w, states, busy, flag);
        step_meet(); /* q and states are written again */
    }
    if (!ready)
        step_wait(bar);
}
#endif

#endif
