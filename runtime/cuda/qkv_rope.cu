/* From the fused projection to attention's inputs.  CPU twin and formulas: runtime/cpu/qkv_rope.c.
 *
 * A warp takes heads of one token in turn, AHEAD of them on their way at once.  Lane l holds quads
 * of neighbours, l and l + 32 of a head, and owns the rotated pairs l, l + 32, ... whose angles it
 * computes once.  Keys and queries pass through shared memory as f32, because a pair may lie
 * anywhere in a head (halves or neighbours).  Few tokens: one head a warp, so that the GPU is full;
 * many: eight warps share a token.  K and V go to their page slots in the KV format. */
#include "runtime/cuda/cu_codes.cuh"
#include "runtime/cuda/cu_kv.cuh"

#define ROPE_WARPS 8
#define AHEAD      4

typedef struct rope_args {
    const __half *qkv; /* [n_tok, (n_head + 2 n_kv) hd] */
    __half *q;         /* [n_tok, n_head * hd] */
    const float *q_norm, *k_norm, *inv_freq, *q_scale;
    const int32_t *pos, *seq;
    cu_pages kv;
    const float *k_scale, *v_scale;                  /* [n_kv] of an int8 cache */
    int n_head, n_kv, hd, pairs, step, gap, kv_type; /* kv_type: fmt_dtype */
    float eps, mscale;
} rope_args;

static __device__ __forceinline__ int quad(int i)
{
    return 4 * ((int)threadIdx.x + 32 * i);
}

/* v = v / sqrt(mean(v^2) + eps) * w; what is behind the head is zero */
template <int QUADS>
static __device__ __forceinline__ void normalize(float v[QUADS][4], const float *w, int hd,
                                                 float eps)
{
    float sum = 0;

#pragma unroll
    for (int i = 0; i < 4 * QUADS; i++)
        sum += v[i / 4][i % 4] * v[i / 4][i % 4];
    sum = 1.0f / sqrtf(cu_warp_sum(sum) / (float)hd + eps);
#pragma unroll
    for (int i = 0; i < 4 * QUADS; i++)
        if (quad(i / 4) < hd)
            v[i / 4][i % 4] = v[i / 4][i % 4] * sum * w[quad(i / 4) + i % 4];
}

/* The pairs of a head, which is in `head` while its parts move between lanes. */
template <int QUADS>
static __device__ __forceinline__ void rotate(const rope_args &a, float *head, float v[QUADS][4],
                                              const float c[2 * QUADS], const float s[2 * QUADS])
{
#pragma unroll
    for (int i = 0; i < QUADS; i++)
        if (quad(i) < a.hd)
            *(float4 *)(head + quad(i)) = *(const float4 *)v[i];
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 2 * QUADS; i++) {
        const int p = (int)threadIdx.x + 32 * i;

        if (p < a.pairs) {
            float *x = head + p * a.step, *y = x + a.gap;
            const float x0 = *x, y0 = *y;

            *x = x0 * c[i] - y0 * s[i];
            *y = y0 * c[i] + x0 * s[i];
        }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < QUADS; i++) /* the next head is written by who has read this one */
        if (quad(i) < a.hd)
            *(float4 *)v[i] = *(const float4 *)(head + quad(i));
}

static __device__ __forceinline__ uint2 halves_of(const float v[4])
{
    uint2 r;

    r.x = cu_as_u32(cu_halves(v[0], v[1]));
    r.y = cu_as_u32(cu_halves(v[2], v[3]));
    return r;
}

/* slot: of the token in its page's keys of kv head 0 */
template <int QUADS>
static __device__ __forceinline__ void store_kv(const rope_args &a, const float v[QUADS][4],
                                                int which, int h, char *slot)
{
    char *to = slot + (which * a.kv.n_kv + h) * RT_PAGE * a.kv.hd * a.kv.bytes;
    const float scale = a.kv_type == FMT_I8 ? (which ? a.v_scale : a.k_scale)[h] : 1.0f;

#pragma unroll
    for (int i = 0; i < QUADS; i++) {
        const int k = quad(i);

        if (k >= a.hd)
            break;
        if (a.kv_type == FMT_I8) {
            __align__(4) int8_t q[4];

#pragma unroll
            for (int e = 0; e < 4; e++)
                q[e] = cu_round_i8(v[i][e] / scale);
            *(uint32_t *)(to + k) = *(const uint32_t *)q;
        } else if (a.kv_type == FMT_F32)
            *(float4 *)((float *)to + k) = *(const float4 *)v[i];
        else
            *(uint2 *)((__half *)to + k) = halves_of(v[i]);
    }
}

/* Head h of token t, as the projection has it. */
template <int QUADS>
static __device__ __forceinline__ void one_head(const rope_args &a, const uint2 raw[QUADS], int t,
                                                int h, float *head, const float c[2 * QUADS],
                                                const float s[2 * QUADS], char *slot)
{
    const int is_q = h < a.n_head, is_v = h >= a.n_head + a.n_kv;
    const float *norm = is_q ? a.q_norm : is_v ? NULL : a.k_norm;
    __align__(16) float v[QUADS][4];

#pragma unroll
    for (int i = 0; i < 4 * QUADS; i++)
        v[i / 4][i % 4] = __half2float(((const __half *)&raw[i / 4])[i % 4]);
    if (norm)
        normalize<QUADS>(v, norm, a.hd, a.eps);
    if (!is_v)
        rotate<QUADS>(a, head, v, c, s);
    if (!is_q) {
        store_kv<QUADS>(a, v, is_v, is_v ? h - a.n_head - a.n_kv : h - a.n_head, slot);
        return;
    }
#pragma unroll
    for (int i = 0; i < 4 * QUADS; i++)
        v[i / 4][i % 4] *= a.q_scale[t];
#pragma unroll
    for (int i = 0; i < QUADS; i++)
        if (quad(i) < a.hd)
            *(uint2 *)(a.q + ((int64_t)t * a.n_head + h) * a.hd + quad(i)) = halves_of(v[i]);
}

/* QUADS: of a lane, so that a head has room */
template <int QUADS>
static __global__ void __launch_bounds__(32 * ROPE_WARPS) qkv_rope(const rope_args a)
{
    __shared__ __align__(16) float heads[ROPE_WARPS][128 * QUADS];
    const int t = (int)blockIdx.x, n = a.n_head + 2 * a.n_kv, step = (int)gridDim.y * ROPE_WARPS;
    const int pos = a.pos[t], seq = a.seq[t]; /* set before the step: no kernel writes them */
    float c[2 * QUADS], s[2 * QUADS];
    char *slot =
        cu_page(a.kv, seq, pos / RT_PAGE, 0, 0) + (int64_t)(pos % RT_PAGE) * a.kv.hd * a.kv.bytes;

#pragma unroll
    for (int i = 0; i < 2 * QUADS; i++) {
        const int p = (int)threadIdx.x + 32 * i;
        const float angle = p < a.pairs ? (float)pos * a.inv_freq[seq * a.pairs + p] : 0;

        sincosf(angle, &s[i], &c[i]);
        s[i] *= a.mscale;
        c[i] *= a.mscale;
    }
    cu_wait();
    for (int h = (int)blockIdx.y * ROPE_WARPS + (int)threadIdx.y; h < n; h += AHEAD * step) {
        uint2 raw[AHEAD][QUADS];

#pragma unroll
        for (int i = 0; i < AHEAD * QUADS; i++) {
            const int k = quad(i % QUADS), at = h + i / QUADS * step;

            raw[i / QUADS][i % QUADS] = make_uint2(0, 0);
            if (at < n && k < a.hd)
                raw[i / QUADS][i % QUADS] =
                    *(const uint2 *)(a.qkv + ((int64_t)t * n + at) * a.hd + k);
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (h + i * step < n)
                one_head<QUADS>(a, raw[i], t, h + i * step, heads[threadIdx.y], c, s, slot);
    }
}

extern "C" q_status cu_qkv_rope_store(rt_backend *be, const rt_qkv_args *a, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = a->m;
    const fmt_dtype kv = a->kv->format->dtype;
    const int heads = (int)(m->n_head + 2 * m->n_kv), n_tok = a->b->n_tok;
    rope_args r;
    dim3 grid;

    memset(&r, 0, sizeof r);
    if (m->hd < 8 || m->hd > CU_MAX_HD || m->hd % 8 != 0 || m->rot < 0 || m->rot > m->hd ||
        m->rot % 2 != 0)
        Q_FAIL(err, Q_EUNSUPPORTED,
               "cuda: head width %lld with %lld rotated; wanted a multiple of 8 up to %d, and an "
               "even number: use --device cpu",
               (long long)m->hd, (long long)m->rot, CU_MAX_HD);
    if (kv != FMT_F16 && kv != FMT_F32 && kv != FMT_I8)
        Q_FAIL(err, Q_EUNSUPPORTED, "cuda: KV cache of type %s: wanted f16, f32 or int8",
               a->kv->format->name);
    if (n_tok == 0)
        goto out;
    r.qkv = (const __half *)a->qkv;
    r.q = (__half *)a->q;
    r.q_norm = a->q_norm;
    r.k_norm = a->k_norm;
    r.inv_freq = a->b->inv_freq;
    r.q_scale = a->b->q_scale;
    r.pos = a->b->pos;
    r.seq = a->b->seq;
    r.kv = cu_pages_of(a->kv, a->b, a->layer);
    r.n_head = (int)m->n_head;
    r.n_kv = (int)m->n_kv;
    r.hd = (int)m->hd;
    r.pairs = (int)(m->rot / 2);
    r.step = (int)m->rope_step;
    r.gap = (int)m->rope_gap;
    r.kv_type = (int)kv;
    if (kv == FMT_I8) {
        r.k_scale = a->kv->k_scale + a->layer * a->kv->n_kv;
        r.v_scale = a->kv->v_scale + a->layer * a->kv->n_kv;
    }
    r.eps = (float)m->eps;
    r.mscale = (float)m->rope_mscale;
    grid =
        dim3((unsigned)n_tok, n_tok < 64 ? (unsigned)((heads + ROPE_WARPS - 1) / ROPE_WARPS) : 1);
    if (m->hd <= 128)
        CU_LAUNCH(cu_of(be), qkv_rope<1>, grid, dim3(32, ROPE_WARPS), 0, r);
    else
        CU_LAUNCH(cu_of(be), qkv_rope<2>, grid, dim3(32, ROPE_WARPS), 0, r);
out:
    return st;
}
