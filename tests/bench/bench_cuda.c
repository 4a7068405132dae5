/* Speed of the GPU operations at the shapes of one model, against a copy inside the device.
 *
 *     bench_cuda [all|linear|f16|w8|w4|w8a8|w8g|w4g|attn|attn-f16|attn-int8 [tokens ...]]
 *
 * Default: all 1 16; shapes of Qwen-7B, groups of 128.
 *
 * The products of several layers follow each other as in a model, so that weights come from memory
 * and not from a cache; the chain is replayed as a graph, 20 times, best of three.  Decode is
 * reported in GB/s of weights, larger numbers of tokens in TFLOP/s. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "formats/base/q_mem.h"
#include "runtime/model.h"

#define LAYERS 8
#define REPS   20
#define GROUP  128

static rt_backend *be;

static void check(q_status st, const q_err *err)
{
    if (st == Q_OK)
        return;
    fprintf(stderr, "bench_cuda: %s\n", err->msg);
    exit(1);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *device(size_t bytes, const void *from)
{
    q_err err = { 0 };
    void *p = NULL;

    check(be->ops->alloc(be, bytes, &p, &err), &err);
    if (from)
        check(be->ops->copy(be, p, from, bytes, RT_TO_DEVICE, &err), &err);
    check(be->ops->sync(be, &err), &err);
    return p;
}

/* Random f16 numbers of magnitude 2^-7 .. 2^-6: their bits, so that gigabytes take no time. */
static uint16_t *random_halves(size_t n)
{
    uint16_t *v = q_malloc(n * sizeof *v);
    uint32_t s = 1;

    for (size_t i = 0; v && i < n; i++) {
        s = s * 1664525u + 1013904223u;
        v[i] = (uint16_t)(0x2000u | (s >> 16 & 0x83ffu));
    }
    return v;
}

/* Device memory full of them, from one block: several gigabytes would take the host seconds. */
static void *device_halves(size_t bytes)
{
    const size_t block = (size_t)64 << 20;
    uint16_t *v = random_halves(block / sizeof *v);
    char *p = device(bytes, NULL);
    q_err err = { 0 };

    for (size_t at = 0; at < bytes; at += block)
        check(be->ops->copy(be, p + at, v, bytes - at < block ? bytes - at : block, RT_TO_DEVICE,
                            &err),
              &err);
    check(be->ops->sync(be, &err), &err);
    q_free(v);
    return p;
}

static rt_weight weight(const char *scheme, int64_t N, int64_t K)
{
    qnt_tensor t = { .scheme = qnt_scheme_find(scheme), .N = N, .K = K };
    const size_t bytes = (size_t)N * qnt_row_bytes(t.scheme, K);
    rt_weight w = { 0 };
    q_err err = { 0 };

    t.codes = random_halves((bytes + 1) / 2);
    t.group = t.scheme->grouped ? GROUP : 0;
    if (!qnt_scheme_is_float(t.scheme)) {
        const int64_t n = N * qnt_n_groups(t.scheme, K, t.group);

        t.scale = q_malloc((size_t)n * sizeof *t.scale);
        t.zero = t.scheme->grouped ? q_calloc((size_t)n, 1) : NULL;
        for (int64_t i = 0; t.scale && i < n; i++) {
            t.scale[i] = 1e-3f;
            if (t.zero)
                t.zero[i] = (uint8_t)(i % 16);
        }
    }
    check(be->ops->prep(be, &t, &w, &err), &err);
    return w;
}

/* Seconds of one run of step, replayed. */
static double seconds(rt_step_fn step, void *user)
{
    q_err err = { 0 };
    void *graph = NULL;
    double best = 1e30;

    for (int i = 0; i < 3; i++)
        check(be->ops->graph(be, &graph, step, user, &err), &err);
    check(be->ops->sync(be, &err), &err);
    for (int round = 0; round < 3; round++) {
        const double start = now();
        double s;

        for (int i = 0; i < REPS; i++)
            check(be->ops->graph(be, &graph, step, user, &err), &err);
        check(be->ops->sync(be, &err), &err);
        s = (now() - start) / REPS;
        best = s < best ? s : best;
    }
    be->ops->ungraph(be, graph);
    return best;
}

/* ---- linear --------------------------------------------------------------------------------- */

typedef struct shape {
    const char *name;
    int64_t N, K;
    rt_epi epi;
} shape;

static const shape shapes[] = {
    { "qkv", 12288, 4096, RT_EPI_NONE },
    { "out", 4096, 4096, RT_EPI_ADD },
    { "gate_up", 22016, 4096, RT_EPI_SILU_MUL },
    { "down", 4096, 11008, RT_EPI_ADD },
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

typedef struct chain {
    rt_weight w[LAYERS][N_SHAPES];
    void *x, *y, *tmp;
    int64_t n_tok;
    int only; /* -1: all */
} chain;

static q_status run_chain(void *user, q_err *err)
{
    const chain *c = user;
    q_status st = Q_OK;

    for (int l = 0; l < LAYERS; l++)
        for (int i = 0; i < N_SHAPES; i++)
            if (c->only < 0 || c->only == i)
                Q_TRY(be->ops->linear(be,
                                      &(rt_linear_args){ .x = c->x,
                                                         .w = &c->w[l][i],
                                                         .y = c->y,
                                                         .tmp = c->tmp,
                                                         .n_tok = c->n_tok,
                                                         .epi = shapes[i].epi },
                                      err));
out:
    return st;
}

static void linear(const char *scheme, const int *tokens, int n_tokens, double copy)
{
    static chain c;
    const size_t most = 16384;
    uint16_t *x = random_halves(most * 11008);

    c.x = device(most * 11008 * 2, x);
    c.y = device(most * 22016 * 4, NULL);
    c.tmp = device(most * 22016 * 2, NULL);
    q_free(x);
    for (int l = 0; l < LAYERS; l++)
        for (int i = 0; i < N_SHAPES; i++)
            c.w[l][i] = weight(scheme, shapes[i].N, shapes[i].K);
    for (int t = 0; t < n_tokens; t++)
        for (c.only = -1; c.only < N_SHAPES; c.only++) {
            double bytes = 0, flop = 0, s;

            c.n_tok = tokens[t];
            for (int i = 0; i < N_SHAPES; i++)
                if (c.only < 0 || c.only == i) {
                    bytes += (double)rt_weight_bytes(&c.w[0][i]);
                    flop += 2.0 * (double)(shapes[i].N * shapes[i].K * c.n_tok);
                }
            s = seconds(run_chain, &c) / LAYERS;
            printf("%-4s %5d tokens  %-8s %9.1f us  %7.1f GB/s %5.1f %% of copy  %7.1f TFLOP/s\n",
                   scheme, tokens[t], c.only < 0 ? "layer" : shapes[c.only].name, 1e6 * s,
                   1e-9 * bytes / s, 100 * bytes / s / copy, 1e-12 * flop / s);
            fflush(stdout);
        }
    for (int l = 0; l < LAYERS; l++)
        for (int i = 0; i < N_SHAPES; i++)
            be->ops->unprep(be, &c.w[l][i]);
    be->ops->free(be, c.x);
    be->ops->free(be, c.y);
    be->ops->free(be, c.tmp);
}

/* ---- attention ------------------------------------------------------------------------------ */

typedef struct scene {
    rt_attn_args a[LAYERS];
    rt_batch b;
    fmt_model m;
    rt_kv kv;
} scene;

static q_status run_scene(void *user, q_err *err)
{
    const scene *s = user;
    q_status st = Q_OK;

    for (int l = 0; l < LAYERS; l++)
        Q_TRY(be->ops->attention(be, &s->a[l], err));
out:
    return st;
}

/* n_seq sequences of `len` cached tokens, the last `now` of them queries */
static void attention(const rt_kv_format *kv, int n_head, int n_kv, int n_seq, int len, int now_tok,
                      double copy)
{
    const size_t wide = fmt_dtype_bytes(kv->dtype);
    const int64_t hd = 128, pages = (len + RT_PAGE - 1) / RT_PAGE, n_tok = (int64_t)n_seq * now_tok;
    const size_t n_kv_elem = (size_t)(LAYERS * n_seq * pages * 2 * n_kv * RT_PAGE * hd);
    float scale[LAYERS * 64];
    int32_t *ints = q_calloc((size_t)(n_tok + n_seq * pages + 2 * n_seq + 1), sizeof *ints);
    int32_t *block = ints + n_tok, *start = block + n_seq * pages, *kv_len = start + n_seq + 1;
    const double bytes = 2.0 * (double)n_seq * len * n_kv * (double)hd * (double)wide;
    const double flop = 4.0 * (double)n_tok * n_head * (double)hd * (len - now_tok / 2.0);
    scene s = { .m = { .n_head = n_head, .n_kv = n_kv, .hd = hd },
                .kv = { kv, NULL, n_seq * pages, LAYERS, n_kv, hd, NULL, NULL } };
    double t;

    for (int i = 0; i < n_seq * pages; i++)
        block[i] = (int32_t)((i * 7 + 3) % (n_seq * pages));
    for (int i = 0; i < n_seq; i++) {
        start[i + 1] = (i + 1) * now_tok;
        kv_len[i] = len;
    }
    for (int i = 0; i < LAYERS * n_kv; i++)
        scale[i] = 1e-3f;
    s.kv.base = device_halves(n_kv_elem * wide);
    s.kv.k_scale = s.kv.v_scale = device((size_t)(LAYERS * n_kv) * sizeof *scale, scale);
    s.b = (rt_batch){ .n_tok = (int)n_tok,
                      .n_seq = n_seq,
                      .max_blocks = (int)pages,
                      .q_start = device((size_t)(n_seq + 1) * 4, start),
                      .kv_len = device((size_t)n_seq * 4, kv_len),
                      .block = device((size_t)(n_seq * pages) * 4, block) };
    void *q = device_halves((size_t)(n_tok * n_head * hd) * 2);
    void *y = device((size_t)(n_tok * n_head * hd) * 2, NULL);

    for (int l = 0; l < LAYERS; l++)
        s.a[l] = (rt_attn_args){ .b = &s.b, .m = &s.m, .q = q, .kv = &s.kv, .y = y, .layer = l };
    t = seconds(run_scene, &s) / LAYERS;
    printf(
        "attn %-4s %2d/%2d heads, %3d x %5d of %5d tokens %9.1f us  %7.1f GB/s %5.1f %% of copy  "
        "%6.1f TFLOP/s\n",
        kv->name, n_head, n_kv, n_seq, now_tok, len, 1e6 * t, 1e-9 * bytes / t,
        100 * bytes / t / copy, 1e-12 * flop / t);
    fflush(stdout);
    void *all[] = {
        s.kv.base, (void *)(uintptr_t)s.kv.k_scale, s.b.q_start, s.b.kv_len, s.b.block, q, y
    };

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        be->ops->free(be, all[i]);
    q_free(ints);
}

int main(int argc, char **argv)
{
    static const char *const schemes[] = { "f16", "w8", "w4", "w8a8", "w8g", "w4g" };
    static const rt_kv_format kv[] = { { "f16", FMT_F16 }, { "int8", FMT_I8 } };
    const char *what = argc > 1 ? argv[1] : "all";
    int tokens[16] = { 1, 16 }, n_tokens = 2;
    q_err err = { 0 };
    double copy;

    for (int i = 2; i < argc && i < 18; i++)
        tokens[(n_tokens = i - 1) - 1] = atoi(argv[i]);
    if (rt_backend_open(&be, "cuda", 0, &err) == Q_EBACKEND) {
        printf("bench_cuda: skipped: %s\n", err.msg);
        return 0;
    }
    check(err.code, &err);
    check(be->ops->bandwidth(be, &copy, &err), &err);
    printf("%s, copy %.0f GB/s\n", be->title, 1e-9 * copy);
    for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++)
        if (strcmp(what, "all") == 0 || strcmp(what, "linear") == 0 ||
            strcmp(what, schemes[i]) == 0)
            linear(schemes[i], tokens, n_tokens, copy);
    for (size_t i = 0; i < sizeof kv / sizeof kv[0]; i++) {
        if (strcmp(what, "all") != 0 && strcmp(what, "attn") != 0 &&
            !(strncmp(what, "attn-", 5) == 0 && strcmp(what + 5, kv[i].name) == 0))
            continue;
        attention(&kv[i], 32, 32, 1, 512, 1, copy);
        attention(&kv[i], 32, 32, 1, 4096, 1, copy);
        attention(&kv[i], 32, 32, 16, 4096, 1, copy);
        attention(&kv[i], 28, 4, 1, 4096, 1, copy);
        attention(&kv[i], 28, 4, 16, 4096, 1, copy);
        attention(&kv[i], 16, 8, 1, 4096, 1, copy);
        attention(&kv[i], 16, 8, 16, 4096, 1, copy);
        attention(&kv[i], 32, 32, 1, 2048, 2048, copy);
        attention(&kv[i], 32, 32, 8, 2048, 2048, copy);
        attention(&kv[i], 28, 4, 1, 16384, 2048, copy);
    }
    rt_backend_close(be);
    return 0;
}
