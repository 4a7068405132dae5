/* Attention of the persistent decode kernel: one token a sequence over its paged cache.
 *
 * The work is cut into items (step_item.cuh).  A block first turns q of its rows and, when its run
 * holds the newest position, k and v, which it stores into the page.  Then each warp takes 16 keys
 * at a time (attn_keys.cuh), the next 16 on their way meanwhile.  At the end the warps' states and
 * those of the runs are merged (step_merge.cuh). */
#ifndef STEP_ATTN_CUH
#define STEP_ATTN_CUH

#include "runtime/cuda/attn_keys.cuh"
#include "runtime/cuda/step_merge.cuh"

#if __CUDA_ARCH__ >= 900
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

/* A head of the projection, normalized and turned where it should be.  head: HD floats of shared
 * memory of this warp. */
template <int HD>
static __device__ __forceinline__ void step_head(const step_args &a, float *head,
                                                 const __half *from, const float *norm, int turn,
                                                 const float c[HD / 64], const float s[HD / 64])
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
}

/* k or v into its place in the page.  scale: what a code is worth. */
template <int HD, int I8>
static __device__ __forceinline__ void step_keep_key(char *to, const float *head, float scale)
{
    const int lane = (int)threadIdx.x % 32;

#pragma unroll
    for (int i = 0; i < HD / 32; i++)
        if (I8)
            ((int8_t *)to)[lane + 32 * i] = cu_round_i8(head[lane + 32 * i] / scale);
        else
            ((__half *)to)[lane + 32 * i] = cu_half(head[lane + 32 * i]);
}

/* q of the item's rows into shared memory, k and v into their page if the run ends with them; a
 * warp for each, zeros for rows that are not there. */
template <int HD, int I8>
static __device__ __forceinline__ void step_turn(const step_args &a, const step_layer &l, int layer,
                                                 const step_item &w, __half *q, float *heads,
                                                 const float scale[2], const float c[HD / 64],
                                                 const float s[HD / 64])
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, ld = HD + 32;
    const int all = a.n_head + 2 * a.n_kv;
    const __half *row = (const __half *)a.qkv + (int64_t)w.t * all * HD;
    float *head = heads + warp * HD;

    for (int j = warp; j < w.rows + (w.to == w.len ? 2 : 0); j += STEP_WARPS) {
        const int is_q = j < w.rows, which = j - w.rows;
        const int h =
            is_q ? w.head * a.group + w.tile * STEP_ROWS + j : a.n_head + which * a.n_kv + w.head;

        step_head<HD>(a, head, row + h * HD,
                      is_q    ? l.q_norm
                      : which ? NULL
                              : l.k_norm,
                      is_q || !which, c, s);
        if (!is_q)
            step_keep_key<HD, I8>(step_slot<I8>(a, layer, w.seq, w.head, which, w.len - 1), head,
                                  scale[which]);
        for (int d = lane; is_q && d < HD; d += 32)
            q[j * ld + attn_q_place<I8>(d)] = cu_half(head[d] * a.q_scale[w.t]);
        __syncwarp(); /* the next head overwrites this one */
    }
    for (int i = w.rows * HD + (int)threadIdx.x; i < STEP_ROWS * HD; i += 32 * STEP_WARPS)
        q[i / HD * ld + i % HD] = __half(0);
}

/* Keys key0 .. key0 + 15 of the item. */
template <int HD, int I8>
static __device__ __forceinline__ void step_load(attn_keys<HD, I8> &r, const step_args &a,
                                                 int layer, const step_item &w, int key0)
{
    attn_load<HD>(r, step_slot<I8>(a, layer, w.seq, w.head, 0, key0),
                  step_slot<I8>(a, layer, w.seq, w.head, 1, key0), w.to - 1 - key0, HD);
}

/* Keys from `first` on, every `stride`th 16 of the run, the next ones on their way while registers
 * last.  ready: the first are in keys[0]. */
template <int HD, int I8>
static __device__ __forceinline__ void step_scan(attn_out<HD> &x, attn_keys<HD, I8> keys[2],
                                                 const step_args &a, int layer, const step_item &w,
                                                 const __half *q, int first, int stride, int ready,
                                                 float scale)
{
    const int turns = I8 || HD == 64 ? 2 : 1;

#pragma unroll
    for (int turn = 0; turn < turns; turn++)
        if (!(ready && turn == 0) && first + turn * stride < w.to)
            step_load<HD, I8>(keys[turn], a, layer, w, first + turn * stride);
    for (int key0 = first; key0 < w.to; key0 += turns * stride)
#pragma unroll
        for (int turn = 0; turn < turns; turn++) {
            const int key = key0 + turn * stride, last[2] = { w.to - 1 - key, w.to - 1 - key };

            if (key >= w.to)
                break;
            attn_add<HD, I8>(x, keys[turn], q, last, scale);
            if (key + turns * stride < w.to)
                step_load<HD, I8>(keys[turn], a, layer, w, key + turns * stride);
        }
}

/* All items of this block.  Shared memory: q [STEP_ROWS][hd + 32] f16, states [STEP_STATES][hd + 4]
 * f32.  What earlier steps left in the cache is on its way before the barrier:
 * the first keys of each warp, unless the newest is among them. */
template <int HD, int I8>
static __device__ __forceinline__ void step_attention(const step_args &a, const step_layer &l,
                                                      int layer, char *scratch, int *flag,
                                                      const grid_bar *bar)
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int items = a.n_tok * a.n_kv * a.tiles * a.splits;
    __half *q = (__half *)scratch;
    float *states = (float *)(scratch + 2 * STEP_ROWS * (HD + 32)); /* before that: heads */
    int ready = 0;

    for (int i = (int)blockIdx.x; i < items; i += (int)gridDim.x) {
        const step_item w = step_item_of(a, i);
        const int warps = min(STEP_WARPS, STEP_STATES / w.rows), first = w.from + 16 * warp;
        const int busy = min(warps, (w.to - w.from + 15) / 16);
        const int early = warp < busy && first + 16 < w.len;
        const int at = layer * a.n_kv + w.head;
        const float scale[2] = { I8 ? a.k_scale[at] : 1.0f, I8 ? a.v_scale[at] : 1.0f };
        float c[HD / 64], s[HD / 64];
        attn_out<HD> x;
        attn_keys<HD, I8> keys[2] = {}; /* see step_compute */

        if (w.from >= w.to)
            continue;
        step_angles<HD>(a, w, c, s);
        if (early)
            step_load<HD, I8>(keys[0], a, layer, w, first);
        if (!ready)
            step_wait(bar);
        ready = 1;
        step_turn<HD, I8>(a, l, layer, w, q, states, scale, c, s);
        step_meet();
        attn_out_clear<HD>(x);
        if (warp < busy) {
            step_scan<HD, I8>(x, keys, a, layer, w, q + lane / 4 * (HD + 32) + lane % 4 * 8, first,
                              16 * warps, early, a.attn_scale * scale[0]);
            attn_keep<HD, I8>(states + warp * w.rows * (HD + 4), x, w.rows);
        }
        step_meet();
        step_finish<HD>(a, w, states, busy, scale[1], flag);
        step_meet(); /* q and states are written again */
    }
    if (!ready)
        step_wait(bar);
}
#endif

#endif
