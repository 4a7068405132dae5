/* Attention of prompts, and the operation itself: sequences with up to ATTN_FEW query rows go to
 * the split kernel of attn_decode.cu, the others here, 64 rows a block, or on sm_90 with an f16
 * cache to attn_wgmma.cu.  One call launches both kernels when it may hold both kinds; each leaves
 * the other's sequences alone.  Where a tile lies is found on the device, so the grid depends on
 * the number of tokens only.  CPU twin: runtime/cpu/attn.c. */
#include "runtime/cuda/attn_tile.cuh"

template <int HDP, int KV>
static __global__ void __launch_bounds__(32 * ATTN_WARPS) attn_prefill(const attn_args a)
{
    extern __shared__ __align__(16) __half shared[];
    attn_state<HDP> x;
    attn_rows w;
    int last;

    cu_wait();
    if (!find_tile(a, (int)blockIdx.x, ATTN_TILE, (int)blockIdx.y, &w))
        return;
    last = w.start + (w.first + w.n - 1) / a.group;
    attend_pages<HDP, KV>(x, a, w, shared, last / RT_PAGE + 1);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int lane = (int)threadIdx.x % 32, r = (int)threadIdx.x / 32 * 16 + lane / 4 + 8 * h;
        const float f = value_scale(a, w.head) / x.sum[h];

        if (r >= w.n)
            continue;
#pragma unroll
        for (int d = 0; d < HDP / 8; d++) {
            const int at = 8 * d + lane % 4 * 2;

            if (at < a.kv.hd)
                *(__half2 *)(a.y + row_at(a, w, r) + at) =
                    __halves2half2(cu_half(x.o[d][2 * h] * f), cu_half(x.o[d][2 * h + 1] * f));
        }
    }
}

template <int HDP, int KV>
static q_status launch(const cu_be *c, const attn_args *a, int n_tok, q_err *err)
{
    q_status st = Q_OK;
    const size_t shared = ATTN_SHARED(HDP);
    const unsigned tiles = (unsigned)((int64_t)n_tok * a->group / ATTN_TILE + a->n_seq);

    CU_TRY(cudaFuncSetAttribute((attn_prefill<HDP, KV>),
                                cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    CU_LAUNCH(c, (attn_prefill<HDP, KV>), dim3(tiles, (unsigned)a->kv.n_kv), dim3(32 * ATTN_WARPS),
              shared, *a);
out:
    return st;
}

template <int KV> static q_status choose(const cu_be *c, const attn_args *a, int n_tok, q_err *err)
{
    switch (ATTN_WIDTH(a->kv.hd)) {
    case 64:
        return launch<64, KV>(c, a, n_tok, err);
    case 128:
        return launch<128, KV>(c, a, n_tok, err);
    default:
        return launch<256, KV>(c, a, n_tok, err);
    }
}

q_status cu_attn_prefill(const cu_be *c, const attn_args *a, int n_tok, int kv, q_err *err)
{
    switch (kv) {
    case ATTN_F32:
        return choose<ATTN_F32>(c, a, n_tok, err);
    case ATTN_I8:
        return choose<ATTN_I8>(c, a, n_tok, err);
    default:
        return choose<ATTN_F16>(c, a, n_tok, err);
    }
}

extern "C" q_status cu_attention(rt_backend *be, const rt_attn_args *a, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = a->m;
    const rt_batch *b = a->b;
    const cu_be *c = cu_of(be);
    const fmt_dtype type = a->kv->format->dtype;
    const int kv = type == FMT_F32 ? ATTN_F32 : type == FMT_I8 ? ATTN_I8 : ATTN_F16;
    const int64_t group = m->n_head / m->n_kv, heads = b->n_seq * m->n_kv;
    const int at_once = ATTN_BLOCKS(ATTN_WIDTH(m->hd), kv) * c->sms;
    attn_args x;

    memset(&x, 0, sizeof x);
    if (m->hd < 8 || m->hd > CU_MAX_HD || m->hd % 8 != 0 || m->n_head % m->n_kv != 0)
        Q_FAIL(err, Q_EUNSUPPORTED,
               "cuda: attention of %lld heads over %lld, width %lld: wanted a multiple of 8 up to "
               "%d: use --device cpu",
               (long long)m->n_head, (long long)m->n_kv, (long long)m->hd, CU_MAX_HD);
    if (type != FMT_F16 && type != FMT_F32 && type != FMT_I8)
        Q_FAIL(err, Q_EUNSUPPORTED, "cuda: KV cache of type %s: wanted f16, f32 or int8",
               a->kv->format->name);
    if (b->n_tok == 0)
        goto out;
    x.q = (const __half *)a->q;
    x.y = (__half *)a->y;
    x.q_start = b->q_start;
    x.kv_len = b->kv_len;
    x.kv = cu_pages_of(a->kv, b, a->layer);
    if (kv == ATTN_I8) {
        x.k_scale = a->kv->k_scale + a->layer * a->kv->n_kv;
        x.v_scale = a->kv->v_scale + a->layer * a->kv->n_kv;
    }
    x.part = c->part;
    x.arrived = c->arrived;
    x.scale = 1.44269504f / sqrtf((float)m->hd);
    x.n_seq = b->n_seq;
    x.group = (int)group;
    /* one round of all blocks that fit, or, for many heads, several */
    x.splits = (int)((heads <= c->sms ? at_once : CU_UNITS) / heads);
    /* heads enough for every SM: parts of a short sequence take longer to add up than to read */
    x.least = heads > c->sms ? 4 : 1;
    if (x.splits > (b->max_blocks + x.least - 1) / x.least)
        x.splits = (b->max_blocks + x.least - 1) / x.least;
    x.splits = x.splits < 1 ? 1 : x.splits;
    if (group <= ATTN_FEW)
        Q_TRY(cu_attn_decode(c, &x, kv, err));
    if (b->n_tok == b->n_seq && group <= ATTN_FEW)
        goto out;
    if (c->cc == 90 && kv == ATTN_F16 && m->hd <= 128 &&
        a->kv->n_pages <= ATTN_WGMMA_PAGES(m->n_kv))
        Q_TRY(cu_attn_wgmma(c, &x, a->kv->n_pages, b->n_tok, err));
    else
        Q_TRY(cu_attn_prefill(c, &x, b->n_tok, kv, err));
out:
    return st;
}
