/* One launch for all layers of a decode step.  Hopper; up to 8 tokens would do, step_launch.c says
 * how many it gets.
 *
 * One block on every SM.  One warp copies the weights of all products and layers, in the order in
 * which they are used, into a ring of shared memory (step_ring.cuh) and waits for nobody but the
 * ring: memory works on while the others normalize, attend or wait.  8 warps compute, phase by
 * phase, with a barrier of the grid between:
 *
 *   1  x -> norm -> qkv                    every block normalizes all tokens for itself
 *   2  qkv -> q, k, v -> attention         step_attn.cuh
 *   3  x += attention W'
 *   4  x -> norm -> gate, up -> h
 *   5  x += h W'
 *
 * A phase's small inputs that no kernel writes (norms, scales, biases) are loaded before its
 * barrier.  Sums have a fixed order and a token's result does not depend on its neighbours. */
#ifndef STEP_CUH
#define STEP_CUH

#include <limits.h>

#include "runtime/cuda/step_attn.cuh"
#include "runtime/cuda/step_w8a8.cuh"

/* Registers move between groups of 4 warps, so the copying warp has 3 idle ones beside it. */
#define STEP_THREADS (32 * (STEP_WARPS + 4))

#if __CUDA_ARCH__ >= 900
template <int S>
static __device__ __forceinline__ step_product step_product_of(const step_args &a, int layer,
                                                               int role)
{
    step_product p;

    const int grouped = step_form<S>::groups > 0;

    p.scale = grouped ? NULL : a.layer[layer].scale[role];
    p.zeros = grouped && a.layer[layer].zero[role];
    p.bias = a.layer[layer].bias[role];
    p.y = role == STEP_QKV ? a.qkv : role == STEP_GATE_UP ? a.h : (void *)a.x;
    p.epi = role == STEP_QKV ? RT_EPI_NONE : role == STEP_GATE_UP ? RT_EPI_SILU_MUL : RT_EPI_ADD;
    p.N = a.w[role].N;
    p.K = a.w[role].K;
    p.row_bytes = a.w[role].row_bytes;
    p.M = a.n_tok;
    return p;
}

template <int S>
static __device__ __forceinline__ step_source step_source_of(const step_layer &l, int role)
{
    const int grouped = step_form<S>::groups > 0;
    step_source s;

    s.map = &l.map[role];
    s.scale = grouped ? (const __half *)(const void *)l.scale[role] : NULL;
    s.zero = grouped ? l.zero[role] : NULL;
    return s;
}

/* Outputs of this thread in the block's first units of a product. */
static __device__ __forceinline__ void step_fetch_first(step_out *o, const step_product &p)
{
    const int units = step_units(p.N, p.epi), u0 = step_from(units, (int)blockIdx.x);

    step_fetch(o, p, u0, min(STEP_UNITS, step_from(units, (int)blockIdx.x + 1) - u0),
               (int)threadIdx.x);
}

#define STEP_HELD 4 /* units of 8 values of a row that a thread normalizes */

/* The norm's weights for them. */
typedef struct step_norm {
    float4 v[STEP_HELD][2];
} step_norm;

/* First value of unit i of this thread. */
static __device__ __forceinline__ int step_held(int i)
{
    return 8 * ((int)threadIdx.x + i * 32 * STEP_WARPS);
}

static __device__ __forceinline__ void step_load_norm(step_norm *n, const float *w, int K)
{
#pragma unroll
    for (int i = 0; i < 2 * STEP_HELD; i++) {
        const int k = step_held(i / 2) + i % 2 * 4;
        float4 *v = &n->v[i / 2][i % 2];

        *v = make_float4(0, 0, 0, 0);
        if (k < K)
            asm volatile("ld.global.nc.v4.f32 {%0,%1,%2,%3}, [%4];"
                         : "=f"(v->x), "=f"(v->y), "=f"(v->z), "=f"(v->w)
                         : "l"(w + k));
    }
}

static __device__ __forceinline__ uint4 step_scaled(const float4 x[2], float f, const float4 n[2])
{
    __align__(16) __half v[8];

    v[0] = cu_half(x[0].x * f * n[0].x);
    v[1] = cu_half(x[0].y * f * n[0].y);
    v[2] = cu_half(x[0].z * f * n[0].z);
    v[3] = cu_half(x[0].w * f * n[0].w);
    v[4] = cu_half(x[1].x * f * n[1].x);
    v[5] = cu_half(x[1].y * f * n[1].y);
    v[6] = cu_half(x[1].z * f * n[1].z);
    v[7] = cu_half(x[1].w * f * n[1].w);
    return *(const uint4 *)v;
}

static __device__ __forceinline__ void step_load_held(float4 v[STEP_HELD][2], const float *x, int K)
{
#pragma unroll
    for (int i = 0; i < 2 * STEP_HELD; i++) {
        const int k = step_held(i / 2) + i % 2 * 4;

        v[i / 2][i % 2] = k < K ? __ldcg((const float4 *)(x + k)) : make_float4(0, 0, 0, 0);
    }
}

/* Tokens of the residual stream, normalized, into shared memory.  tmp: [4][STEP_WARPS]. */
template <int S>
static __device__ __forceinline__ void step_normalize(const step_x &xs, const step_args &a,
                                                      const step_norm &n, const step_product &p,
                                                      float x_scale, float *tmp)
{
    const int warp = (int)threadIdx.x / 32, K = p.K;
    float4 next[STEP_HELD][2]; /* the next token's, on their way */

    step_load_held(next, a.x, K);
#pragma unroll 1
    for (int t = 0; t < a.n_tok; t++) {
        float4 v[STEP_HELD][2];
        float sum = 0;

#pragma unroll
        for (int i = 0; i < 2 * STEP_HELD; i++)
            v[i / 2][i % 2] = next[i / 2][i % 2];
        if (t + 1 < a.n_tok)
            step_load_held(next, a.x + (int64_t)(t + 1) * K, K);
#pragma unroll
        for (int i = 0; i < 2 * STEP_HELD; i++) {
            const float4 e = v[i / 2][i % 2];

            sum += e.x * e.x + e.y * e.y + e.z * e.z + e.w * e.w;
        }
        sum = cu_warp_sum(sum);
        if (threadIdx.x % 32 == 0)
            tmp[t % 2 * STEP_WARPS + warp] = sum;
        step_meet(); /* two rows of tmp take turns: one barrier a token */
        sum = 0;
#pragma unroll
        for (int i = 0; i < STEP_WARPS; i++)
            sum += tmp[t % 2 * STEP_WARPS + i];
        sum = 1.0f / sqrtf(sum / (float)K + a.eps);
        if constexpr (S == CU_W8A8) {
            uint4 h[STEP_HELD];

#pragma unroll
            for (int i = 0; i < STEP_HELD; i++)
                h[i] = step_scaled(v[i], sum, n.v[i]);
            step_code_row<STEP_HELD>(xs, t, h, x_scale, (uint32_t *)tmp + (2 + t % 2) * STEP_WARPS);
        } else {
#pragma unroll
            for (int i = 0; i < STEP_HELD; i++)
                if (step_held(i) < xs.ld - 32)
                    store_shared(shared_at(xs.shared) + 2 * (t * xs.ld + step_held(i)),
                                 step_arranged<S>(step_scaled(v[i], sum, n.v[i])));
        }
    }
    step_meet();
}

template <int S, int HD, int I8>
static __device__ __forceinline__ void step_compute(const step_args &a, ring *r, char *scratch,
                                                    float *tmp, int *flag)
{
    const int bits = S == CU_W8 ? 8 : S == CU_W4 || S == CU_W4G ? 4 : 16, all = INT_MAX;
    char *sum = scratch + a.sums;
    grid_bar g = { a.barrier, 0 };
    __half *xs = (__half *)scratch;

    /* one copy of every phase in the code: what does not fit the instruction cache costs more than
     * the arithmetic.  What is loaded under a condition is cleared first: else its registers are
     * taken through all layers, since one turn of the loop might find what another left, and the
     * rest spills (w4: 148 bytes a thread, more than L1 has) */
#pragma unroll 1
    for (int l = 0; l < a.n_layers; l++)
#pragma unroll 1
        for (int role = 0; role < STEP_ROLES; role++) {
            const step_layer &L = a.layer[l];
            const step_product p = step_product_of<S>(a, l, role);
            const int normed = role == STEP_QKV || role == STEP_GATE_UP;
            const void *from = normed ? NULL : role == STEP_OUT ? a.att : a.h;
            step_x x = step_x_of(xs, (const __half *)from, p, bits, normed ? all : a.window);
            step_norm norm = {}; /* see above */
            step_out out;

            if (normed)
                step_load_norm(&norm, role == STEP_QKV ? L.norm1 : L.norm2, p.K);
            step_fetch_first(&out, p);
            if (l + role > 0)
                step_wait(&g);
            if (normed)
                step_normalize<S>(x, a, norm, p, L.x_scale[role], tmp);
            else if constexpr (S == CU_W8A8)
                step_code_input(&x, p, L.x_scale[role], (uint32_t *)tmp);
            step_multiply<S>(r, p, x, out, sum);
            step_arrive(&g);
            if (role == STEP_QKV) {
                step_attention<HD, I8>(a, L, a.first + l, scratch, flag, &g);
                step_arrive(&g);
            }
        }
    if (threadIdx.x == 0)
        grid_leave(&g);
}

template <int S, int I8>
static __device__ __forceinline__ void step_copy(const step_args &a, ring *r)
{
    const uint64_t policy = policy_once();

    for (int l = 0; l < a.n_layers; l++) {
        step_prefetch<I8>(a, a.first + l);
        for (int role = 0; role < STEP_ROLES && l + 1 < a.n_layers; role++)
            prefetch_map(&a.layer[l + 1].map[role]);
        for (int role = 0; role < STEP_ROLES; role++)
            step_feed<S>(r, step_source_of<S>(a.layer[l], role), a.w[role],
                         role == STEP_GATE_UP ? RT_EPI_SILU_MUL : RT_EPI_NONE, policy);
    }
}
#endif

template <int S, int HD, int I8>
static __global__ void __launch_bounds__(STEP_THREADS, 1)
    step_kernel(const __grid_constant__ step_args a)
{
#if __CUDA_ARCH__ >= 900
    extern __shared__ char shared[];
    __shared__ uint64_t bars[2 * RING_STAGES];
    __shared__ float tmp[4 * STEP_WARPS];
    __shared__ int flag;
    ring r;

    r.data = (char *)(((uintptr_t)shared + 1023) / 1024 * 1024);
    r.beside = r.data + a.stages * RING_STAGE;
    r.full = shared_at(bars);
    r.empty = r.full + 8 * RING_STAGES;
    r.stages = a.stages;
    r.slot = r.parity = 0;
    if (threadIdx.x == 0) {
        for (int i = 0; i < a.stages; i++) {
            bar_init(r.full + 8 * i, 1);
            bar_init(r.empty + 8 * i, step_form<S>::givers * STEP_WARPS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    if (threadIdx.x < 32 * STEP_WARPS) {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        step_compute<S, HD, I8>(a, &r, r.beside + a.stages * step_form<S>::groups, tmp, &flag);
    } else {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 32 * STEP_WARPS)
            step_copy<S, I8>(a, &r);
    }
#endif
}

template <int S, int HD, int I8>
static q_status step_launch(const cu_be *c, const step_args *a, q_err *err)
{
    q_status st = Q_OK;
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attr = {};

    attr.id = cudaLaunchAttributeCooperative; /* all blocks at once: they wait for each other */
    attr.val.cooperative = 1;
    config.gridDim = dim3((unsigned)c->sms);
    config.blockDim = dim3(STEP_THREADS);
    config.dynamicSmemBytes = a->shared;
    config.stream = c->stream;
    config.attrs = &attr;
    config.numAttrs = 1;
    CU_TRY(cudaFuncSetAttribute((step_kernel<S, HD, I8>),
                                cudaFuncAttributeMaxDynamicSharedMemorySize, (int)a->shared));
    CU_TRY(cudaLaunchKernelEx(&config, (step_kernel<S, HD, I8>), *a));
out:
    return st;
}

template <int S> static q_status step_choose(const cu_be *c, const step_args *a, q_err *err)
{
    if (a->k_scale)
        return a->hd == 64 ? step_launch<S, 64, 1>(c, a, err) : step_launch<S, 128, 1>(c, a, err);
    return a->hd == 64 ? step_launch<S, 64, 0>(c, a, err) : step_launch<S, 128, 0>(c, a, err);
}

#endif
