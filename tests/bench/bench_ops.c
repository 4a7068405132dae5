/* Speed of the CPU operations against what the machine can do.
 *
 *     bench_ops [backend [threads [scheme]]]     default: cpu, one thread per core, all
 *
 * Read bandwidth is measured first: all threads sum 1 GiB, best of several passes.  Decode (one
 * token) then walks a set of weights much larger than any cache, as a model does, and is reported
 * in GB/s of codes and in percent of that bandwidth.  More tokens are reported in GFLOP/s, and so
 * is attention.  Every figure is the best of a few rounds; run it on an idle machine.  With one
 * thread its own time counts, which a busy machine disturbs less. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "formats/base/q_mem.h"
#include "quant/linalg.h"
#include "runtime/backend.h"

#define READ_BYTES ((size_t)1 << 30)
#define SET_BYTES  ((size_t)768 << 20) /* of codes, per scheme */
#define ROUNDS     5
#define GROUP      128 /* of w4g and w8g */

static const char *const schemes[] = { "f32", "f16", "bf16", "w8", "w4", "w8a8", "w4g", "w8g" };

#define N_SCHEMES (sizeof schemes / sizeof schemes[0])

static void die(const q_err *err)
{
    fprintf(stderr, "bench_ops: %s\n", err->msg);
    exit(1);
}

static void *need(void *p)
{
    if (!p) {
        fprintf(stderr, "bench_ops: no memory\n");
        exit(1);
    }
    return p;
}

static clockid_t watch = CLOCK_MONOTONIC;

static double now(void)
{
    struct timespec t;

    clock_gettime(watch, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint64_t sum_of(const uint64_t *p, size_t n) /* n is a multiple of 8 */
{
    uint64_t s[8] = { 0 };

    for (size_t i = 0; i < n; i += 8)
        for (int l = 0; l < 8; l++)
            s[l] += p[i + (size_t)l];
    return s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
}

static double read_bandwidth(rt_backend *be)
{
    const size_t n = READ_BYTES / sizeof(uint64_t), step = n / 1024;
    uint64_t *p, total = 0;
    double best = 1e30;
    q_err err = { 0 };
    void *block;

    if (be->ops->alloc(be, READ_BYTES, &block, &err) != Q_OK)
        die(&err);
    p = block;
    memset(p, 1, READ_BYTES);
    for (int i = 0; i < 2 * ROUNDS; i++) {
        const double t = now();

#pragma omp parallel for num_threads(be->threads) schedule(static) reduction(+ : total)
        for (size_t b = 0; b < 1024; b++)
            total += sum_of(p + b * step, step);
        best = now() - t < best ? now() - t : best;
    }
    be->ops->free(be, block);
    printf("read bandwidth %.1f GB/s, %d threads (sum %llx)\n", (double)READ_BYTES / best / 1e9,
           be->threads, (unsigned long long)total);
    return (double)READ_BYTES / best / 1e9;
}

static rt_weight weight(rt_backend *be, const qnt_scheme *s, int64_t N, int64_t K)
{
    const size_t bytes = (size_t)N * qnt_row_bytes(s, K);
    const size_t cells = (size_t)(N * qnt_n_groups(s, K, GROUP));
    qnt_tensor t = { .scheme = s, .N = N, .K = K, .codes = need(q_malloc(bytes)) };
    rt_weight w = { 0 };
    q_err err = { 0 };

    memset(t.codes, 0x11, bytes); /* a small normal number in every format */
    if (cells > 0) {
        t.scale = need(q_malloc(cells * sizeof *t.scale));
        for (size_t i = 0; i < cells; i++)
            t.scale[i] = 0.01f;
    }
    if (s->grouped) {
        t.group = GROUP;
        t.zero = need(q_malloc(cells));
        memset(t.zero, 8, cells);
    }
    if (be->ops->prep(be, &t, &w, &err) != Q_OK)
        die(&err);
    return w;
}

static float *activations(int64_t n)
{
    float *v = need(q_malloc((size_t)n * sizeof *v));

    for (int64_t i = 0; i < n; i++)
        v[i] = (float)(i % 17) * 0.01f;
    return v;
}

/* Seconds of one pass of M tokens through n weights. */
static double pass(rt_backend *be, const rt_weight *w, int n, int64_t M, const float *x, float *y)
{
    double best = 1e30;
    q_err err = { 0 };

    for (int i = 0; i < ROUNDS; i++) {
        const double t = now();

        for (int j = 0; j < n; j++)
            if (be->ops->linear(be, &(rt_linear_args){ .x = x, .w = &w[j], .y = y, .n_tok = M },
                                &err) != Q_OK)
                die(&err);
        best = now() - t < best ? now() - t : best;
    }
    return best;
}

static void linears(rt_backend *be, const char *name, double read)
{
    static const int64_t tokens[] = { 2, 4, 8, 9, 16, 32, 64, 128, 512 };
    const int64_t N = 11008, K = 2048;
    const qnt_scheme *s = qnt_scheme_find(name);
    const int n = (int)(SET_BYTES / ((size_t)N * qnt_row_bytes(s, K))) + 1;
    rt_weight *w = need(q_calloc((size_t)n, sizeof *w));
    float *x = activations(512 * K), *y = activations(512 * N);
    double t, gb = 0;

    for (int i = 0; i < n; i++) {
        w[i] = weight(be, s, N, K);
        gb += (double)N * (double)qnt_row_bytes(s, K) / 1e9;
    }
    t = pass(be, w, n, 1, x, y);
    printf("%-5s 1 token  %6.1f GB/s  %3.0f %% of read bandwidth\n", name, gb / t,
           100 * gb / t / read);
    printf("%-5s GFLOP/s by tokens:", name);
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
        const int few = tokens[i] > 32 ? 2 : n < 8 ? n : 8;

        t = pass(be, w, few, tokens[i], x, y);
        printf("  %lld: %.0f", (long long)tokens[i], 2e-9 * (double)(tokens[i] * N * K) * few / t);
    }
    printf("\n");
    for (int i = 0; i < n; i++)
        be->ops->unprep(be, &w[i]);
    q_free(w);
    q_free(x);
    q_free(y);
}

/* What the same product costs in float32 through OpenBLAS, every thread with its share of the rows.
 */
static void blas(const rt_backend *be)
{
    const int64_t M = 512, N = 11008, K = 2048, part = N / be->threads;
    float *w = activations(N * K), *x = activations(M * K), *y = activations(M * N);
    double best = 1e30;

    for (int i = 0; i < ROUNDS; i++) {
        const double t = now();

#pragma omp parallel for num_threads(be->threads) schedule(static)
        for (int p = 0; p < be->threads; p++)
            qnt_gemm_nt(M, part, K, x, K, w + p * part * K, K, 0, y + p * part, N);
        best = now() - t < best ? now() - t : best;
    }
    printf("OpenBLAS f32, 512 tokens: %.0f GFLOP/s\n",
           2e-9 * (double)(M * part * be->threads * K) / best);
    q_free(w);
    q_free(x);
    q_free(y);
}

/* n_tok new tokens of one sequence after `past` cached ones. */
static void attention(rt_backend *be, const rt_kv_format *format, int n_kv, int past, int n_tok)
{
    const fmt_model m = { .n_head = 16, .n_kv = n_kv, .hd = 128 };
    const int len = past + n_tok, pages = (len + RT_PAGE - 1) / RT_PAGE;
    const size_t bytes =
        (size_t)(pages * 2 * n_kv * RT_PAGE) * 128 * fmt_dtype_bytes(format->dtype);
    rt_kv kv = { .format = format,
                 .base = need(q_malloc(bytes)),
                 .n_pages = pages,
                 .layers = 1,
                 .n_kv = n_kv,
                 .hd = 128 };
    float *scale = activations(n_kv); /* of int8; any numbers will do */
    int32_t q_start[2] = { 0, n_tok }, kv_len[1] = { len };
    rt_batch b = {
        .n_tok = n_tok, .n_seq = 1, .max_blocks = pages, .q_start = q_start, .kv_len = kv_len
    };
    float *q = activations((int64_t)n_tok * 2048), *y = activations((int64_t)n_tok * 2048);
    double best = 1e30, pairs = 0;
    q_err err = { 0 };

    memset(kv.base, 0x11, bytes);
    kv.k_scale = kv.v_scale = format->dtype == FMT_I8 ? scale : NULL;
    b.pos = need(q_calloc((size_t)n_tok, sizeof *b.pos));
    b.block = need(q_calloc((size_t)pages, sizeof *b.block));
    for (int i = 0; i < n_tok; i++) {
        b.pos[i] = past + i;
        pairs += past + i + 1;
    }
    for (int i = 0; i < pages; i++)
        b.block[i] = i;
    for (int i = 0; i < ROUNDS; i++) {
        const double t = now();

        if (be->ops->attention(be, &(rt_attn_args){ .b = &b, .m = &m, .q = q, .kv = &kv, .y = y },
                               &err) != Q_OK)
            die(&err);
        best = now() - t < best ? now() - t : best;
    }
    printf("attention %s, 16 heads of 128, %2d kv, %4d cached + %4d: %7.3f ms, %5.1f GFLOP/s, "
           "%4.1f GB/s of KV\n",
           format->name, n_kv, past, n_tok, 1e3 * best, 4e-9 * 128 * 16 * pairs / best,
           1e-9 * (double)bytes / best);
    q_free(kv.base);
    q_free(scale);
    q_free(b.pos);
    q_free(b.block);
    q_free(q);
    q_free(y);
}

int main(int argc, char **argv)
{
    static const rt_kv_format f32 = { "f32", FMT_F32 }, f16 = { "f16", FMT_F16 };
    static const rt_kv_format int8 = { "int8", FMT_I8 };
    const char *only = argc > 3 ? argv[3] : NULL;
    rt_backend *be = NULL;
    q_err err = { 0 };
    double read;

    if (rt_backend_open(&be, argc > 1 ? argv[1] : "cpu", argc > 2 ? atoi(argv[2]) : 0, &err) !=
        Q_OK)
        die(&err);
    if (be->threads == 1)
        watch = CLOCK_THREAD_CPUTIME_ID;
    read = read_bandwidth(be);
    for (size_t i = 0; i < N_SCHEMES; i++)
        if (!only || strcmp(only, schemes[i]) == 0)
            linears(be, schemes[i], read);
    blas(be);
    attention(be, &f32, 16, 0, 512);
    attention(be, &f16, 16, 0, 512);
    attention(be, &int8, 16, 0, 512);
    attention(be, &f16, 16, 0, 2048);
    attention(be, &f16, 2, 0, 2048);
    attention(be, &f32, 16, 2047, 1);
    attention(be, &f16, 16, 2047, 1);
    attention(be, &int8, 16, 2047, 1);
    attention(be, &f16, 2, 2047, 1);
    attention(be, &int8, 2, 2047, 1);
    rt_backend_close(be);
    return 0;
}
