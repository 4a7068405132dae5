/* What the op tests share: backends by name, arrays in backend memory, random numbers, and the
 * comparison with a double-precision reference under two bounds.
 *
 * Header only, so that a test program is one .c file.  Everything fails the running test on error.
 */
#ifndef OPS_H
#define OPS_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_half.h"
#include "formats/base/q_mem.h"
#include "quant/rtn_group.h"
#include "runtime/backend.h"
#include "tests/t.h"

/* Every case runs on each of them; a backend that this machine lacks is left out.  The GPU has
 * tests of its own over the same cases, so that its absence shows as a skip. */
static const char *const op_backends[] = { "cpu-ref", "cpu-avx2", "cpu" };
#define OP_BACKENDS (sizeof op_backends / sizeof op_backends[0])

/* Results must have the same bits for each of them. */
static const int op_threads[] = { 1, 2, 3, 7 };
#define OP_THREADS (sizeof op_threads / sizeof op_threads[0])

/* The GPU is opened once for all cases: that takes longer than a case. */
static rt_backend *op_gpu;

static inline rt_backend *op_open(const char *name, int threads) /* NULL: not on this machine */
{
    rt_backend *be = NULL;
    q_err err = { 0 };
    q_status st;

    if (op_gpu && strcmp(name, "cuda") == 0)
        return op_gpu;
    st = rt_backend_open(&be, name, threads, &err);
    if (st == Q_EBACKEND)
        return NULL;
    T_OK(st, err);
    if (strcmp(name, "cuda") == 0)
        op_gpu = be;
    return be;
}

static inline void op_close(rt_backend *be)
{
    if (be != op_gpu)
        rt_backend_close(be);
}

static inline rt_backend *op_need_cuda(void)
{
    rt_backend *be = op_open("cuda", 0);

    if (!be)
        T_SKIP("no usable GPU, or a build without nvcc");
    return be;
}

static inline int op_is_cuda(const char *name)
{
    return strcmp(name, "cuda") == 0;
}

/* runs of a case that must give the same bits: thread counts, or the same again on the GPU */
static inline size_t op_runs(const char *name)
{
    return op_is_cuda(name) ? 2 : OP_THREADS;
}

static inline void *op_alloc(rt_backend *be, size_t bytes)
{
    q_err err = { 0 };
    void *p = NULL;

    T_OK(be->ops->alloc(be, bytes, &p, &err), err);
    return p;
}

static inline void *op_up(rt_backend *be, const void *host, size_t bytes)
{
    q_err err = { 0 };
    void *p = op_alloc(be, bytes);

    T_OK(be->ops->copy(be, p, host, bytes, RT_TO_DEVICE, &err), err);
    return p;
}

static inline void op_down(rt_backend *be, void *host, const void *p, size_t bytes)
{
    q_err err = { 0 };

    T_OK(be->ops->copy(be, host, p, bytes, RT_TO_HOST, &err), err);
    T_OK(be->ops->sync(be, &err), err);
}

static inline void *op_host(size_t bytes)
{
    void *p = q_calloc(1, bytes ? bytes : 1);

    T_TRUE(p);
    return p;
}

/* n activations to the device and back as f32, in the type of the backend */
static inline void *op_act_alloc(rt_backend *be, size_t n)
{
    return op_alloc(be, n * fmt_dtype_bytes(be->ops->act));
}

static inline void *op_act_up(rt_backend *be, const float *v, size_t n)
{
    void *host = op_host(n * sizeof *v), *p;

    fmt_convert(host, be->ops->act, v, FMT_F32, n, NULL);
    p = op_up(be, host, n * fmt_dtype_bytes(be->ops->act));
    q_free(host);
    return p;
}

static inline void op_act_down(rt_backend *be, float *v, const void *p, size_t n)
{
    void *host = op_host(n * sizeof *v);

    op_down(be, host, p, n * fmt_dtype_bytes(be->ops->act));
    fmt_convert(v, FMT_F32, host, be->ops->act, n, NULL);
    q_free(host);
}

/* Values that every activation type holds exactly, so that all backends get the same input. */
static inline void op_round(float *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        v[i] = q_f16_to_f32(q_f32_to_f16(v[i]));
}

/* xorshift: the same numbers everywhere */
static inline uint32_t op_rand(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return (uint32_t)(*s >> 32);
}

static inline float op_uniform(uint64_t *s) /* -1 .. 1 */
{
    return (float)op_rand(s) / 2147483648.0f - 1.0f;
}

static inline float *op_random(size_t n, uint64_t seed, float size)
{
    float *v = op_host(n * sizeof *v);
    uint64_t s = seed * 0x9e3779b97f4a7c15u + 1;

    for (size_t i = 0; i < n; i++)
        v[i] = size * op_uniform(&s);
    return v;
}

#define OP_GROUP 24 /* odd to every tile of the kernels */

/* Of a grouped scheme; zeros: OP_GROUP columns in order, every other row symmetric. */
typedef struct op_groups {
    int64_t size; /* -1: a row */
    enum { OP_IN_ORDER, OP_ACT_ORDER, OP_UNEVEN } order;
    int sym; /* every row */
} op_groups;

/* Scales of groups that differ, one of them zero; which columns they have is changed afterwards, so
 * the codes mean something else than v, as exactly as before. */
static inline void op_regroup(qnt_tensor *t, const op_groups *o)
{
    const int64_t G = qnt_n_groups(t->scheme, t->K, t->group);

    for (int64_t i = 0; i < t->N * G; i++)
        t->scale[i] *= i / G % 5 == 4 && i % G == 1 ? 0.0f : 1.0f / (float)(1 << i % 3);
    if (o->order == OP_IN_ORDER)
        return;
    t->g_idx = op_host((size_t)t->K * sizeof *t->g_idx);
    for (int64_t k = 0; k < t->K; k++) /* a prime: every place once; squares: some more often */
        t->g_idx[k] = (int32_t)((o->order == OP_ACT_ORDER ? 7919 * k : k * k) % t->K / t->group);
}

/* A weight of any scheme from f32 values [N, K] (borrowed); scale and codes as the loader makes
 * them.  w receives what the codes mean, exactly (it may be v itself). */
static inline qnt_tensor op_tensor_groups(const char *scheme, const op_groups *groups,
                                          const float *v, const float *bias, int64_t N, int64_t K,
                                          float *w)
{
    qnt_tensor t = { .scheme = qnt_scheme_find(scheme), .N = N, .K = K };
    size_t row;

    T_TRUE(t.scheme);
    row = qnt_row_bytes(t.scheme, K);
    t.codes = op_host((size_t)N * row);
    t.group = !t.scheme->grouped ? 0
              : groups->size < 0 ? K
              : groups->size     ? groups->size
                                 : OP_GROUP;
    if (!qnt_scheme_is_float(t.scheme))
        t.scale = op_host((size_t)(N * qnt_n_groups(t.scheme, K, t.group)) * sizeof *t.scale);
    if (t.scheme->grouped)
        t.zero = op_host((size_t)(N * qnt_n_groups(t.scheme, K, t.group)));
    if (bias) {
        t.bias = op_host((size_t)N * sizeof *t.bias);
        memcpy(t.bias, bias, (size_t)N * sizeof *t.bias);
    }
    for (int64_t n = 0; n < N; n++) {
        void *codes = (char *)t.codes + (size_t)n * row;

        if (t.scheme->grouped)
            qnt_rtn_group(&t, n, v + n * K, groups->sym || n % 2 == 0);
        else if (t.scale)
            t.scheme->quantize_row(codes, &t.scale[n], v + n * K, K);
        else
            fmt_convert(codes, t.scheme->dtype, v + n * K, FMT_F32, (size_t)K, NULL);
    }
    if (t.scheme->grouped)
        op_regroup(&t, groups);
    qnt_tensor_rows(w, &t, 0, N);
    return t;
}

static inline qnt_tensor op_tensor(const char *scheme, const float *v, const float *bias, int64_t N,
                                   int64_t K, float *w)
{
    return op_tensor_groups(scheme, &(op_groups){ 0 }, v, bias, N, K, w);
}

/* Columns that share a scale of activations on the CPU, from the i-th of a group on, if it has as
 * many: groups are cut into the fewest equal spans of at most 128, in 32s, and those into 64s. */
static inline int64_t op_part(const qnt_tensor *w, int64_t i)
{
    const int64_t columns = w->group < w->K ? w->group : w->K, spans = (columns + 127) / 128;
    const int64_t span = ((columns + 31) / 32 + spans - 1) / spans * 32, left = span - i % span;

    return left < 64 ? left : 64;
}

/* Activations as the CPU takes them for a grouped weight: parts of a group, the last shorter, as
 * whole numbers of a 127th of their largest.  xq [M, K] receives what the codes mean. */
static inline void op_parts(float *xq, const float *x, int64_t M, int64_t K, const qnt_tensor *w)
{
    int64_t *at = op_host((size_t)K * sizeof *at), n = 0;

    for (int64_t g = 0; n < K; g++) { /* columns of a group lie together */
        const int64_t first = n;

        for (int64_t k = 0; k < K; k++)
            if ((w->g_idx ? w->g_idx[k] : k / w->group) == g)
                at[n++] = k;
        for (int64_t i = first, len; i < n; i += len) {
            len = n - i < op_part(w, i - first) ? n - i : op_part(w, i - first);
            for (int64_t t = 0; t < M; t++) {
                float amax = 1e-30f;

                for (int64_t j = i; j < i + len; j++)
                    amax = fabsf(x[t * K + at[j]]) > amax ? fabsf(x[t * K + at[j]]) : amax;
                for (int64_t j = i; j < i + len; j++)
                    xq[t * K + at[j]] =
                        nearbyintf(x[t * K + at[j]] * (127.0f / amax)) * (amax / 127.0f);
            }
        }
    }
    q_free(at);
}

static inline rt_weight op_weight(rt_backend *be, qnt_tensor t)
{
    rt_weight w = { 0 };
    q_err err = { 0 };

    T_OK(be->ops->prep(be, &t, &w, &err), err);
    T_TRUE(!t.codes && !t.scale && !t.bias);
    return w;
}

/* On the GPU, where q, k, v, probabilities and results are f16. */
#define OP_F16     5e-7
#define OP_F16_MAX 8e-3

/* nmse = sum (y - ref)^2 / sum ref^2; max = largest |y - ref| over the rms of ref.  Both bounds,
 * because a mean hides one wrong row.  A reference of zeros wants zeros. */
static inline void op_compare(const char *name, const char *backend, const float *y,
                              const double *ref, size_t n, double nmse, double max)
{
    double d2 = 0, r2 = 0, worst = 0, rms;
    size_t at = 0;

    for (size_t i = 0; i < n; i++) {
        const double d = fabs((double)y[i] - ref[i]);

        d2 += d * d;
        r2 += ref[i] * ref[i];
        if (!(d <= worst)) {
            worst = d;
            at = i;
        }
    }
    rms = sqrt(r2 / (double)(n ? n : 1));
    if (op_is_cuda(backend)) { /* f16 results: 2^-11 of a value, which is up to some 8 rms */
        nmse = nmse > OP_F16 ? nmse : OP_F16;
        max = max > OP_F16_MAX ? max : OP_F16_MAX;
    }
    if (getenv("OPS_VERBOSE"))
        printf("# %-28s %-8s nmse %.2g max %.2g\n", name, backend, r2 > 0 ? d2 / r2 : d2,
               rms > 0 ? worst / rms : worst);
    if (!(d2 <= nmse * r2) || !(worst <= max * rms))
        t_fail(name, 0,
               "%s: nmse %.3g (bound %.3g), max %.3g (bound %.3g) at %zu: %.9g, wanted %.9g",
               backend, r2 > 0 ? d2 / r2 : d2, nmse, rms > 0 ? worst / rms : worst, max, at,
               (double)y[at], ref[at]);
}

static inline void op_same_bits(const char *name, const char *backend, int threads, const void *a,
                                const void *b, size_t bytes)
{
    if (memcmp(a, b, bytes) != 0)
        t_fail(name, 0, "%s: %d threads give other bits than %d", backend, threads, op_threads[0]);
}

#endif
