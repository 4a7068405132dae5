/* From the fused projection to attention's inputs.  CPU twin and formulas: runtime/cpu/qkv_rope.c.
 *
 * A warp takes heads of one token in turn; lane l owns the rotated pairs l, l + 32, ... and
 * computes their angles once for all its heads.  A head passes through shared memory as f32,
 * because a pair may lie anywhere in it (halves or neighbours).  Few tokens: one head a warp, so
 * that the GPU is full; many: eight warps share a token.  K and V go to their page slots in the KV
 * format. */
#include "runtime/cuda/cu_codes.cuh"
#include "runtime/cuda/cu_kv.cuh"

#define ROPE_WARPS 8
#define ROPE_PAIRS (CU_MAX_HD / 2 / 32) /* of one lane */

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

static __device__ void normalize(float *head, const float *w, int hd, float eps)
{
    const int lane = (int)threadIdx.x;
    float sum = 0;

    for (int i = lane; i < hd; i += 32)
        sum += head[i] * head[i];
    sum = 1.0f / sqrtf(cu_warp_sum(sum) / (float)hd + eps);
    for (int i = lane; i < hd; i += 32)
        head[i] = head[i] * sum * w[i];
}

/* slot: of the token in its page's keys of kv head 0 */
static __device__ void store_kv(const rope_args &a, const float *head, int which, int h, char *slot)
{
    char *to = slot + (which * a.kv.n_kv + h) * RT_PAGE * a.kv.hd * a.kv.bytes;
    const float scale = a.kv_type == FMT_I8 ? (which ? a.v_scale : a.k_scale)[h] : 1.0f;

    for (int i = (int)threadIdx.x; i < a.hd; i += 32)
        if (a.kv_type == FMT_I8)
            ((int8_t *)to)[i] = cu_round_i8(head[i] / scale);
        else if (a.kv_type == FMT_F32)
            ((float *)to)[i] = head[i];
        else
            ((__half *)to)[i] = cu_half(head[i]);
}

static __global__ void __launch_bounds__(32 * ROPE_WARPS) qkv_rope(const rope_args a)
{
    __shared__ float heads[ROPE_WARPS][CU_MAX_HD];
    const int t = (int)blockIdx.x, lane = (int)threadIdx.x, n = a.n_head + 2 * a.n_kv;
    const int pos = a.pos[t], seq = a.seq[t]; /* set before the step: no kernel writes them */
    float *head = heads[threadIdx.y], c[ROPE_PAIRS], s[ROPE_PAIRS];
    char *slot =
        cu_page(a.kv, seq, pos / RT_PAGE, 0, 0) + (int64_t)(pos % RT_PAGE) * a.kv.hd * a.kv.bytes;

#pragma unroll
    for (int i = 0; i < ROPE_PAIRS; i++) {
        const int p = lane + 32 * i;
        const float angle = p < a.pairs ? (float)pos * a.inv_freq[seq * a.pairs + p] : 0;

        sincosf(angle, &s[i], &c[i]);
        s[i] *= a.mscale;
        c[i] *= a.mscale;
    }
    cu_wait();
    for (int h = (int)blockIdx.y * ROPE_WARPS + (int)threadIdx.y; h < n;
         h += (int)gridDim.y * ROPE_WARPS) {
        const __half *from = a.qkv + ((int64_t)t * n + h) * a.hd;
        const int is_q = h < a.n_head, is_v = h >= a.n_head + a.n_kv;
        const float *norm = is_q ? a.q_norm : is_v ? NULL : a.k_norm;

        for (int i = lane; i < a.hd; i += 32)
            head[i] = __half2float(from[i]);
        __syncwarp();
        if (norm) {
            normalize(head, norm, a.hd, a.eps);
            __syncwarp();
        }
#pragma unroll
        for (int i = 0; i < ROPE_PAIRS; i++) {
            const int p = lane + 32 * i;

            if (p < a.pairs && !is_v) {
                float *x = head + p * a.step, *y = x + a.gap;
                const float x0 = *x, y0 = *y;

                *x = x0 * c[i] - y0 * s[i];
                *y = y0 * c[i] + x0 * s[i];
            }
        }
        __syncwarp();
        if (is_q)
            for (int i = lane; i < a.hd; i += 32)
                a.q[((int64_t)t * a.n_head + h) * a.hd + i] = cu_half(head[i] * a.q_scale[t]);
        else
            store_kv(a, head, is_v, is_v ? h - a.n_head - a.n_kv : h - a.n_head, slot);
        __syncwarp(); /* the next head overwrites this one */
    }
}

extern "C" q_status cu_qkv_rope_store(rt_backend *be, const rt_qkv_args *a, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = a->m;
    const fmt_dtype kv = a->kv->format->dtype;
    const int heads = (int)(m->n_head + 2 * m->n_kv), n_tok = a->b->n_tok;
    rope_args r;

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
    CU_LAUNCH(
        cu_of(be), qkv_rope,
        dim3((unsigned)n_tok, n_tok < 64 ? (unsigned)((heads + ROPE_WARPS - 1) / ROPE_WARPS) : 1u),
        dim3(32, ROPE_WARPS), 0, r);
out:
    return st;
}
