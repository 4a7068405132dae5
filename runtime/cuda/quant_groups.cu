/* Groups of columns on the GPU: ranges, codes, errors (quant/device.h).  CPU twins: rtn_group.c,
 * device_host.c.
 *
 * A warp owns one group of one row; the weights of a group are neighbours, so its reads are whole
 * lines.  Codes are bytes, two columns a byte with 4 bits.
 *
 * Narrowed ranges (clip) are scored with the group's block of H: for each of 20 ranges one kernel
 * makes the errors of all groups, one batch of products multiplies them with the blocks on the
 * diagonal, and a third kernel keeps what is better. */
#include "runtime/cuda/cu_group.cuh"
#include "runtime/cuda/cu_quant.h"

#define WARPS      8
#define CLIP_STEPS 20 /* as in device_host.c */
#define CLIP_MIN   0.5f

typedef struct groups {
    const float *W;
    float *scale;
    uint8_t *zero;
    int64_t N, K, group, n_groups;
    int bits, sym;
} groups;

static groups groups_of(const qnt_tensor *t, const float *W, int sym)
{
    groups g;

    g.W = W;
    g.scale = t->scale;
    g.zero = t->zero;
    g.N = t->N;
    g.K = t->K;
    g.group = t->group;
    g.n_groups = qnt_n_groups(t->scheme, t->K, t->group);
    g.bits = t->scheme->bits;
    g.sym = sym;
    return g;
}

/* Which group this warp has: its row, its first column, its size; 0: none. */
static __device__ __forceinline__ int64_t own_group(const groups &g, int64_t *n, int64_t *k)
{
    const int64_t at = (int64_t)blockIdx.x * WARPS + threadIdx.y;

    if (at >= g.N * g.n_groups)
        return 0;
    *n = at / g.n_groups;
    *k = at % g.n_groups * g.group;
    return g.K - *k < g.group ? g.K - *k : g.group;
}

static unsigned blocks_of(const groups &g)
{
    return (unsigned)((g.N * g.n_groups + WARPS - 1) / WARPS);
}

static __device__ __forceinline__ cu_extent extent(const float *w, int64_t size)
{
    cu_extent e = { 0, 0, 0 };

    for (int64_t k = threadIdx.x; k < size; k += 32)
        cu_extent_add(&e, w[k]);
    return cu_extent_warp(e);
}

/* ---- ranges ---------------------------------------------------------------------------------- */

static __device__ cu_range search(const float *w, const float *h, int64_t size, int bits, int sym)
{
    const cu_extent e = extent(w, size);
    cu_range best = cu_fit(e, bits, sym, 1);
    float least = INFINITY;

    for (int i = 0; i < CU_SEARCH && h; i++) {
        const cu_range r =
            cu_fit(e, bits, sym, 1 - __fmul_rn(1 - CU_RATIO_MIN, (float)i) / CU_SEARCH);
        float sum = 0;

        for (int64_t k = threadIdx.x; k < size; k += 32)
            sum += cu_weighted(w[k], h[k], r, bits);
        sum = cu_warp_sum(sum);
        if (sum < least) {
            least = sum;
            best = r;
        }
    }
    return best;
}

/* first, step: group numbers; h [K] or NULL */
static __global__ void fit(groups g, const float *h, int64_t first, int64_t count)
{
    const int64_t at = (int64_t)blockIdx.x * WARPS + threadIdx.y;
    const int64_t n = at / count, no = first + at % count, k = no * g.group;
    cu_range r;

    if (n >= g.N)
        return;
    r = search(g.W + n * g.K + k, h ? h + k : NULL, g.K - k < g.group ? g.K - k : g.group, g.bits,
               g.sym);
    if (threadIdx.x == 0) {
        g.scale[n * g.n_groups + no] = r.scale;
        g.zero[n * g.n_groups + no] = (uint8_t)r.zero;
    }
}

static q_status fit_some(const qnt_dev *d, const groups &g, const float *h, int64_t first,
                         int64_t count, q_err *err)
{
    q_status st = Q_OK;

    fit<<<(unsigned)((g.N * count + WARPS - 1) / WARPS), dim3(32, WARPS), 0, cu_stream_of(d)>>>(
        g, h, first, count);
    CU_TRY(cudaGetLastError());
out:
    return st;
}

extern "C" q_status cu_q_fit_group(const qnt_dev *d, qnt_tensor *t, const float *W, int64_t group,
                                   const float *h, int sym, int plain, q_err *err)
{
    return fit_some(d, groups_of(t, W, sym), plain ? NULL : h, group, 1, err);
}

extern "C" q_status cu_q_fit(const qnt_dev *d, qnt_tensor *t, const float *W,
                             const qnt_group_opts *o, q_err *err)
{
    q_status st = Q_OK;
    const groups g = groups_of(t, W, o->sym);
    void *h = NULL;

    if (o->h)
        Q_TRY(cu_math_vec(d, 0, o->h, (size_t)g.K * sizeof(float), &h, err));
    Q_TRY(fit_some(d, g, (const float *)h, 0, g.n_groups, err));
out:
    return st;
}

/* ---- codes ----------------------------------------------------------------------------------- */

static __device__ __forceinline__ cu_range range_of(const groups &g, int64_t n, int64_t k)
{
    const int64_t at = n * g.n_groups + k / g.group;
    cu_range r;

    r.scale = g.scale[at];
    r.zero = g.zero[at];
    return r;
}

static __device__ __forceinline__ int code_at(const groups &g, int64_t n, int64_t k)
{
    const cu_range r = range_of(g, n, k);

    return (int)cu_nearest(g.W[n * g.K + k], r, g.bits) + r.zero;
}

/* A thread makes a byte; codes NULL: of the weights, by the ranges that are there. */
static __global__ void pack(groups g, uint8_t *out, const uint8_t *codes)
{
    const int per = 8 / g.bits;
    const int64_t bytes = (g.K + per - 1) / per, n = blockIdx.y;
    const int64_t b = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int v = 0;

    if (b >= bytes)
        return;
    for (int i = 0; i < per && per * b + i < g.K; i++) {
        const int64_t k = per * b + i;

        v |= (codes ? codes[n * g.K + k] : code_at(g, n, k)) << (i * g.bits);
    }
    out[n * bytes + b] = (uint8_t)v;
}

static q_status pack_all(const qnt_dev *d, qnt_tensor *t, const float *W, const uint8_t *codes,
                         q_err *err)
{
    q_status st = Q_OK;
    const unsigned bytes = (unsigned)qnt_row_bytes(t->scheme, t->K);

    for (int64_t n = 0; n < t->N; n += 32768) { /* a grid has at most 65535 rows */
        groups g = groups_of(t, W ? W + n * t->K : NULL, 0);

        g.scale += n * g.n_groups;
        g.zero += n * g.n_groups;
        pack<<<dim3((bytes + 255) / 256, (unsigned)(t->N - n < 32768 ? t->N - n : 32768)), 256, 0,
               cu_stream_of(d)>>>(g, (uint8_t *)t->codes + n * bytes,
                                  codes ? codes + n * t->K : NULL);
        CU_TRY(cudaGetLastError());
    }
out:
    return st;
}

extern "C" q_status cu_q_pack(const qnt_dev *d, qnt_tensor *t, const uint8_t *codes, q_err *err)
{
    return pack_all(d, t, NULL, codes, err);
}

extern "C" q_status cu_q_round(const qnt_dev *d, qnt_tensor *t, const float *W, q_err *err)
{
    return pack_all(d, t, W, NULL, err);
}

static __global__ void unpack(groups g, float *W, const uint8_t *codes)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, n = i / g.K, k = i % g.K;
    const int64_t bytes = g.bits == 8 ? g.K : (g.K + 1) / 2;
    cu_range r;
    int code;

    if (n >= g.N)
        return;
    r = range_of(g, n, k);
    code = g.bits == 8 ? codes[n * bytes + k] : codes[n * bytes + k / 2] >> (k % 2 * 4) & 15;
    W[i] = (float)(code - r.zero) * r.scale;
}

extern "C" q_status cu_q_means(const qnt_dev *d, float *W, const qnt_tensor *t, q_err *err)
{
    q_status st = Q_OK;

    unpack<<<(unsigned)((t->N * t->K + 255) / 256), 256, 0, cu_stream_of(d)>>>(
        groups_of(t, NULL, 0), W, (const uint8_t *)t->codes);
    CU_TRY(cudaGetLastError());
out:
    return st;
}

/* ---- errors of scaled weights ---------------------------------------------------------------- */

/* E first holds W s of the group, which lanes read back where they wrote it. */
static __global__ void scaled_error(groups g, float *E, const double *s)
{
    int64_t n, k0;
    const int64_t size = own_group(g, &n, &k0);
    const float *w = g.W + n * g.K + k0;
    cu_extent e = { 0, 0, 0 };
    cu_range r;

    if (size == 0)
        return;
    E += n * g.K + k0;
    for (int64_t k = threadIdx.x; k < size; k += 32) {
        const float v = s ? (float)((double)w[k] * s[k0 + k]) : w[k];

        E[k] = v;
        cu_extent_add(&e, v);
    }
    r = cu_fit(cu_extent_warp(e), g.bits, g.sym, 1);
    for (int64_t k = threadIdx.x; k < size; k += 32) {
        const float v = __fmul_rn(cu_nearest(E[k], r, g.bits), r.scale);

        E[k] = __fsub_rn(s ? (float)((double)v / s[k0 + k]) : v, w[k]);
    }
}

extern "C" q_status cu_q_scaled_error(const qnt_dev *d, float *E, const float *W, qnt_tensor *t,
                                      const double *s, int sym, q_err *err)
{
    q_status st = Q_OK;
    const groups g = groups_of(t, W, sym);
    void *v = NULL;

    if (s)
        Q_TRY(cu_math_vec(d, 0, s, (size_t)g.K * sizeof *s, &v, err));
    scaled_error<<<blocks_of(g), dim3(32, WARPS), 0, cu_stream_of(d)>>>(g, E, (const double *)v);
    CU_TRY(cudaGetLastError());
out:
    return st;
}

/* ---- ranges by H ----------------------------------------------------------------------------- */

/* Ranges of one ratio into g, and their errors into E. */
static __global__ void clip_error(groups g, float *E, float ratio)
{
    int64_t n, k0;
    const int64_t size = own_group(g, &n, &k0), at = n * g.n_groups + k0 / g.group;
    const float *w = g.W + n * g.K + k0;
    cu_range r;

    if (size == 0)
        return;
    r = cu_fit(extent(w, size), g.bits, g.sym, ratio);
    for (int64_t k = threadIdx.x; k < size; k += 32)
        E[n * g.K + k0 + k] = __fsub_rn(__fmul_rn(cu_nearest(w[k], r, g.bits), r.scale), w[k]);
    if (threadIdx.x == 0) {
        g.scale[at] = r.scale;
        g.zero[at] = (uint8_t)r.zero;
    }
}

/* Where the ranges of `now` are better than the best so far, they are kept in `best`. */
static __global__ void clip_keep(groups now, groups best, double *least, const float *E,
                                 const float *HE, int first)
{
    int64_t n, k0;
    const int64_t size = own_group(now, &n, &k0), at = n * now.n_groups + k0 / now.group;
    double sum = 0;

    if (size == 0)
        return;
    for (int64_t k = n * now.K + k0 + threadIdx.x; k < n * now.K + k0 + size; k += 32)
        sum += (double)E[k] * (double)HE[k];
    for (int d = 16; d > 0; d >>= 1)
        sum += __shfl_xor_sync(0xffffffffu, sum, d);
    if (threadIdx.x > 0 || !(sum < (first ? INFINITY : least[at])))
        return;
    least[at] = sum;
    best.scale[at] = now.scale[at];
    best.zero[at] = now.zero[at];
}

/* HE = E times the blocks of H: whole groups in one batch, and what is left. */
static q_status block_products(const qnt_dev *d, const groups &g, const float *E, const float *H,
                               float *HE, q_err *err)
{
    q_status st = Q_OK;
    const int64_t whole = g.K / g.group, k0 = whole * g.group;
    cu_gemm_f32 p = {};

    p.A = E;
    p.B = H;
    p.C = HE;
    p.M = g.N;
    p.N = p.K = g.group;
    p.lda = p.ldb = p.ldc = g.K;
    p.alpha = 1;
    p.batch = whole;
    p.step_a = p.step_c = g.group;
    p.step_b = g.group * (g.K + 1);
    if (whole > 0)
        Q_TRY(cu_gemm_run(d, &p, err));
    p.A = E + k0;
    p.B = H + k0 * (g.K + 1);
    p.C = HE + k0;
    p.N = p.K = g.K - k0;
    p.batch = 1;
    Q_TRY(cu_gemm_run(d, &p, err));
out:
    return st;
}

extern "C" q_status cu_q_clip(const qnt_dev *d, qnt_tensor *t, const float *W, const float *H,
                              int sym, q_err *err)
{
    q_status st = Q_OK;
    const groups best = groups_of(t, W, sym);
    const size_t n = (size_t)(best.N * best.n_groups), all = (size_t)(best.N * best.K);
    groups now = best;
    void *E = NULL, *HE = NULL, *scale = NULL, *zero = NULL, *least = NULL;

    Q_TRY(d->ops->alloc(d, all * sizeof(float), &E, err));
    Q_TRY(d->ops->alloc(d, all * sizeof(float), &HE, err));
    Q_TRY(d->ops->alloc(d, n * sizeof(float), &scale, err));
    Q_TRY(d->ops->alloc(d, n, &zero, err));
    Q_TRY(d->ops->alloc(d, n * sizeof(double), &least, err));
    now.scale = (float *)scale;
    now.zero = (uint8_t *)zero;
    for (int i = 0; i < CLIP_STEPS; i++) {
        const float ratio = 1 - (1 - CLIP_MIN) * (float)i / CLIP_STEPS;

        clip_error<<<blocks_of(now), dim3(32, WARPS), 0, cu_stream_of(d)>>>(now, (float *)E, ratio);
        CU_TRY(cudaGetLastError());
        Q_TRY(block_products(d, now, (const float *)E, H, (float *)HE, err));
        clip_keep<<<blocks_of(now), dim3(32, WARPS), 0, cu_stream_of(d)>>>(
            now, best, (double *)least, (const float *)E, (const float *)HE, i == 0);
        CU_TRY(cudaGetLastError());
    }
out:
    d->ops->free(d, E);
    d->ops->free(d, HE);
    d->ops->free(d, scale);
    d->ops->free(d, zero);
    d->ops->free(d, least);
    return st;
}
