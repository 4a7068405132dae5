/* The client that quantizes, on the built-in checkpoint and on one with grouped queries and biases:
 * files of layers, what the model computes with them, any number of threads, stopped and continued,
 * and all recipes. */
#include <math.h>
#include <string.h>
#if defined(_OPENMP)
#include <omp.h>
#endif

#include "calibrate/calibrate.h"
#include "calibrate/obs_quant.h"
#include "formats/base/q_file.h"
#include "formats/base/q_hash.h"
#include "quant/awq.h"
#include "quant/load.h"
#include "tests/t.h"

#define MODEL "datasets/qwen-tiny"
#define DATA  "datasets/samples.jsonl"

static q_err err;
static volatile sig_atomic_t stop;

static char *job_dir(const char *name)
{
    char *dir = q_path_join(t_tmpdir(), name);

    T_TRUE(dir);
    return dir;
}

/* One run; the job stays.  dir: its directory. */
static q_status quantize_on(const char *device, const char *model, const char *dir, int n_threads,
                            const cal_quant_opts *o, cal_quant *q, fmt_src **src)
{
    q_status st = Q_OK;
    cal_run r = { 0 };
    const cal_run_opts run = {
        .data = { .path = DATA, .prompt = CAL_WINDOWS, .samples = 3, .seq_len = 150 },
        .device = device,
        .threads = n_threads,
        .max_tok = 300,
        .job_dir = dir,
        .stop = &stop,
        .tool = "test"
    };

#if defined(_OPENMP)
    omp_set_num_threads(n_threads);
#endif
    T_OK(fmt_src_open(src, model, &err), err);
    T_OK(cal_run_open(&r, *src, &run, &err), err);
    T_INT(r.data.n, 3);
    T_INT(r.data.longest, 150);
    T_OK(cal_quant_open(q, *src, o, &err), err);
    st = cal_run_loop(&r, &q->client, &err);
    cal_run_close(&r);
    return st;
}

static q_status quantize(const char *model, const char *dir, int n_threads, const cal_quant_opts *o,
                         cal_quant *q, fmt_src **src)
{
    return quantize_on("cpu", model, dir, n_threads, o, q, src);
}

/* Everything in the file of a layer but what the run cost. */
static void hash_layer(char hex[65], const char *dir, int64_t layer, const fmt_model *m)
{
    char name[32], *path;
    cal_quant_stat stat[FMT_ROLES] = { { 0 } };
    cal_cost cost;
    float kv[64];
    uint8_t digest[32];
    q_sha256 h;

    snprintf(name, sizeof name, "layer-%04lld.h5", (long long)layer);
    path = q_path_join(dir, name);
    q_sha256_init(&h);
    T_OK(cal_quant_read_stats(stat, &cost, path, m, &err), err);
    T_TRUE(2 * m->n_kv <= 64);
    T_OK(cal_quant_read_kv(kv, path, m, &err), err);
    q_sha256_update(&h, kv, (size_t)(2 * m->n_kv) * sizeof *kv);
    for (int r = 0; r < FMT_ROLES; r++) {
        const int linear = fmt_role_get((fmt_role)r)->quant;
        float *v = NULL;
        qnt_tensor t = { 0 };

        if (!linear && r != FMT_ATTN_NORM && r != FMT_FFN_NORM)
            continue;
        T_OK(cal_quant_read_vector(&v, path, (fmt_role)r, m, &err), err);
        if (v)
            q_sha256_update(&h, v, (size_t)fmt_role_rows(fmt_role_get((fmt_role)r), m) * sizeof *v);
        q_free(v);
        if (!linear)
            continue;
        q_sha256_update(&h, &stat[r].error, sizeof stat[r].error);
        q_sha256_update(&h, &stat[r].nearest, sizeof stat[r].nearest);
        T_OK(cal_quant_read_weight(&t, path, (fmt_role)r, m, &err), err);
        q_sha256_update(&h, t.codes, (size_t)t.N * qnt_row_bytes(t.scheme, t.K));
        q_sha256_update(&h, t.scale, (size_t)(t.N * qnt_n_groups(t.scheme, t.K, t.group)) * 4);
        q_sha256_update(&h, t.zero, (size_t)(t.N * qnt_n_groups(t.scheme, t.K, t.group)));
        qnt_tensor_free(&t);
    }
    q_sha256_final(&h, digest);
    q_hex(hex, digest, sizeof digest);
    q_free(path);
}

static void finish(cal_quant *q, fmt_src *src, char *dir)
{
    T_OK(q_dir_remove(dir, &err), err);
    q_free(dir);
    cal_quant_close(q);
    fmt_src_close(src);
}

/* Every recipe beats rounding to nearest; the file says what the statistics say. */
static void t_recipes(void)
{
    static const struct {
        const char *name;
        cal_quant_opts o;
        double most; /* error in relation to rounding to nearest */
    } rows[] = {
        { "gptq", { .bits = 4, .sym = 1, .group = 128, .gptq = 1 }, 0.75 },
        { "act-order", { .bits = 4, .group = 64, .gptq = 1, .act_order = 1 }, 0.75 },
        { "awq clip", { .bits = 4, .group = 128, .factors = 1, .clip = 1 }, 0.95 },
        { "both", { .bits = 4, .group = 128, .factors = 1, .gptq = 1, .sequential = 1 }, 0.75 },
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *dir = job_dir("recipes.job"), *path = q_path_join(dir, "layer-0005.h5");
        fmt_src *src = NULL;
        cal_quant q;
        cal_quant_stat stat[FMT_ROLES] = { { 0 } };
        cal_cost cost = { 0 };
        double error = 0, nearest = 0;
        float *norm;

        T_OK(quantize(MODEL, dir, 2, &rows[i].o, &q, &src), err);
        for (int64_t k = 0; k < q.m->layers * FMT_ROLES; k++) {
            error += q.stat[k].error;
            nearest += q.stat[k].nearest;
        }
        if (!(error > 0 && error < rows[i].most * nearest))
            t_fail(__FILE__, __LINE__, "%s: error %g, nearest %g", rows[i].name, error, nearest);
        T_OK(cal_quant_read_stats(stat, &cost, path, q.m, &err), err);
        T_TRUE(cost.seconds > 0);
        T_TRUE(memcmp(stat, q.stat + 5 * FMT_ROLES, sizeof stat) == 0);
        for (int64_t k = 0; k < q.m->layers * 2 * q.m->n_kv; k++)
            T_TRUE(q.kv[k] > 0.1f && q.kv[k] < 100);
        T_OK(cal_quant_read_vector(&norm, path, FMT_ATTN_NORM, q.m, &err), err);
        T_INT(norm != NULL, rows[i].o.factors);
        q_free(norm);
        q_free(path);
        finish(&q, src, dir);
    }
}

/* The shares of codes, counted in another way. */
static void check_counts(const cal_quant_stat *s, const qnt_tensor *t)
{
    const uint8_t *codes = t->codes;
    double ends = 0, low = 0, n = 0;

    T_INT(t->scheme->bits, 8);
    for (int64_t i = 0; i < t->N * t->K; i++) {
        if (i / t->K % 16 != 0)
            continue;
        n++;
        low += codes[i] < 16;
        ends += codes[i] == 0 || codes[i] == 255;
    }
    T_NEAR(s->codes[0], low / n, 1e-6);
    T_NEAR(s->ends, ends / n, 1e-6);
}

/* Weights of the file times what a norm or neighbour was divided by are near those of the source:
 * by the error the statistics tell, checked on the rows of a linear without factors. */
static void t_codes_mean_the_weight(void)
{
    const cal_quant_opts o = { .bits = 8, .sym = 0, .group = 32, .gptq = 1 };
    char *dir = job_dir("mean.job"), *path = q_path_join(dir, "layer-0002.h5");
    fmt_src *src = NULL;
    cal_quant q;

    T_OK(quantize(MODEL, dir, 2, &o, &q, &src), err);
    for (int r = 0; r < FMT_ROLES; r++) {
        float *w = NULL, *v;
        double lost = 0, all = 0;
        qnt_tensor t;

        if (!fmt_role_get((fmt_role)r)->quant)
            continue;
        T_OK(cal_load_f32(&w, src, (fmt_role)r, 2, &err), err);
        T_OK(cal_quant_read_weight(&t, path, (fmt_role)r, q.m, &err), err);
        v = q_malloc((size_t)(t.N * t.K) * sizeof *v);
        T_TRUE(v && t.group == 32);
        check_counts(&q.stat[2 * FMT_ROLES + r], &t);
        qnt_tensor_rows(v, &t, 0, t.N);
        for (int64_t i = 0; i < t.N * t.K; i++) {
            lost += ((double)v[i] - (double)w[i]) * ((double)v[i] - (double)w[i]);
            all += (double)w[i] * (double)w[i];
        }
        T_TRUE(lost < 1e-3 * all);
        q_free(w);
        q_free(v);
        qnt_tensor_free(&t);
    }
    q_free(path);
    finish(&q, src, dir);
}

static int left; /* observations until the signal */
static cal_client inner;

static q_status count_down(void *self, const cal_view *v, q_err *e)
{
    if (left-- == 0)
        stop = 1;
    return inner.observe(self, v, e);
}

/* Threads, and stopping after any number of steps, give the same files. */
static void same_files(const char *model, const cal_quant_opts *o)
{
    char want[64][65], got[65];
    fmt_src *src = NULL;
    cal_quant q;
    int64_t layers = 0;

    for (int n = 1; n <= 3; n += 2) {
        char *dir = job_dir("threads.job");

        T_OK(quantize(model, dir, n, o, &q, &src), err);
        layers = q.m->layers < 64 ? q.m->layers : 64;
        for (int64_t l = 0; l < layers; l++) {
            hash_layer(n == 1 ? want[l] : got, dir, l, q.m);
            if (n > 1)
                T_STR(got, want[l]);
        }
        finish(&q, src, dir);
    }
    {
        char *dir = job_dir("stopped.job");
        q_status st = Q_ECANCEL;
        int stops = 0;

        for (int steps = 5; st == Q_ECANCEL; steps = steps * 7 % 31 + 19) {
            cal_run r = { 0 };
            const cal_run_opts run = {
                .data = { .path = DATA, .prompt = CAL_WINDOWS, .samples = 3, .seq_len = 150 },
                .device = "cpu",
                .threads = 2,
                .max_tok = 300,
                .job_dir = dir,
                .stop = &stop,
                .tool = "test"
            };

            stop = 0;
            left = steps;
            T_OK(fmt_src_open(&src, model, &err), err);
            T_OK(cal_run_open(&r, src, &run, &err), err);
            T_OK(cal_quant_open(&q, src, o, &err), err);
            inner = q.client;
            q.client.observe = count_down;
            st = cal_run_loop(&r, &q.client, &err);
            cal_run_close(&r);
            if (st == Q_ECANCEL) {
                stops++;
                err = (q_err){ 0 };
                cal_quant_close(&q);
                fmt_src_close(src);
            }
            stop = 0;
        }
        T_OK(st, err);
        T_TRUE(stops >= 2);
        for (int64_t l = 0; l < layers; l++) {
            hash_layer(got, dir, l, q.m);
            T_STR(got, want[l]);
        }
        for (int64_t k = 0; k < layers * FMT_ROLES; k++) /* those of stopped runs were read back */
            T_TRUE(!fmt_role_get((fmt_role)(k % FMT_ROLES))->quant || q.stat[k].nearest > 0);
        finish(&q, src, dir);
    }
}

static void t_threads_and_stops(void)
{
    same_files(MODEL,
               &(cal_quant_opts){ .bits = 4, .group = 128, .sym = 1, .gptq = 1, .stop = &stop });
}

static void t_grouped_queries(void)
{
    same_files(T_SHARED("models/qwen2-tiny"),
               &(cal_quant_opts){ .bits = 4, .group = 64, .factors = 1, .stop = &stop });
}

/* A damaged layer file is not continued from. */
static void t_damaged_job(void)
{
    const cal_quant_opts o = { .bits = 4, .group = 128, .sym = 1, .gptq = 1 };
    char *dir = job_dir("damaged.job"), *path = q_path_join(dir, "layer-0003.h5");
    fmt_src *src = NULL;
    cal_quant q;
    q_buf bytes = { 0 };

    T_OK(quantize(MODEL, dir, 2, &o, &q, &src), err);
    cal_quant_close(&q);
    fmt_src_close(src);
    T_OK(q_file_slurp(&bytes, path, (size_t)1 << 30, &err), err);
    bytes.data[bytes.size / 2] ^= 1;
    T_OK(q_out_whole(path, 1, bytes.data, bytes.size, &err), err);
    T_ERR(quantize(MODEL, dir, 2, &o, &q, &src), err, Q_EFORMAT, "layer-0003.h5");
    q_buf_free(&bytes);
    q_free(path);
    finish(&q, src, dir);
}

/* Codes of two jobs that are the same, of a layer. */
static double same_codes(const char *a, const char *b, int64_t layer, const fmt_model *m)
{
    int64_t same = 0, all = 0;

    for (int r = 0; r < FMT_ROLES; r++) {
        qnt_tensor t[2];

        if (!fmt_role_get((fmt_role)r)->quant)
            continue;
        for (int i = 0; i < 2; i++) {
            char name[32], *path;

            snprintf(name, sizeof name, "layer-%04lld.h5", (long long)layer);
            path = q_path_join(i ? b : a, name);
            T_OK(cal_quant_read_weight(&t[i], path, (fmt_role)r, m, &err), err);
            q_free(path);
        }
        for (int64_t i = 0; i < t[0].N * (int64_t)qnt_row_bytes(t[0].scheme, t[0].K); i++) {
            const uint8_t x = ((uint8_t *)t[0].codes)[i], y = ((uint8_t *)t[1].codes)[i];

            same += (x % 16 == y % 16) + (x / 16 == y / 16);
            all += 2;
        }
        qnt_tensor_free(&t[0]);
        qnt_tensor_free(&t[1]);
    }
    return (double)same / (double)all;
}

/* A GPU gives the CPU's codes, but where its f16 activations move a value across a boundary, and
 * its own bits every time.  Only the first layer is held to that: what moved there changes all that
 * the next layers see, and with so little text two orders of summation on the CPU end with three
 * quarters of the codes the same, too.  Less is asked where a small move decides much: the order of
 * columns, linears that see others quantized, an exponent.  What is lost stays what it was. */
static void t_cuda(void)
{
    static const struct {
        cal_quant_opts o;
        double least; /* part of the codes */
    } rows[] = {
        { { .bits = 4, .sym = 1, .group = 128, .gptq = 1 }, 0.97 },
        { { .bits = 4, .group = 64, .gptq = 1, .act_order = 1, .sequential = 1 }, 0.8 },
        { { .bits = 4, .group = 128, .factors = 1, .clip = 1 }, 0.5 },
    };
    rt_backend *be = NULL;

    if (rt_backend_open(&be, "cuda", 1, &err) != Q_OK)
        T_SKIP("no usable GPU, or a build without nvcc");
    rt_backend_close(be);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *dir[3] = { job_dir("host.job"), job_dir("gpu.job"), job_dir("again.job") };
        fmt_src *src[3] = { NULL };
        cal_quant q[3];
        double first = 0, error[3] = { 0 };

        for (int k = 0; k < 3; k++) {
            T_OK(quantize_on(k ? "cuda" : "cpu", MODEL, dir[k], 4, &rows[i].o, &q[k], &src[k]),
                 err);
            for (int64_t j = 0; j < q[k].m->layers * FMT_ROLES; j++)
                error[k] += q[k].stat[j].error;
        }
        for (int64_t l = 0; l < q[0].m->layers; l++) {
            const double same = same_codes(dir[0], dir[1], l, q[0].m);

            printf("# layer %lld: %.4f of the codes\n", (long long)l, same);
            first = l == 0 ? same : first;
            T_NEAR(same_codes(dir[1], dir[2], l, q[0].m), 1, 0);
        }
        printf("# errors %.6f, %.6f on the GPU\n", error[0], error[1]);
        T_NEAR(error[1], error[0], 0.01 * error[0]);
        T_TRUE(error[2] == error[1]);
        T_TRUE(first > rows[i].least);
        for (int k = 0; k < 3; k++)
            finish(&q[k], src[k], dir[k]);
    }
}

static const t_case cases[] = { T(t_recipes),
                                T(t_codes_mean_the_weight),
                                T(t_threads_and_stops),
                                T(t_grouped_queries),
                                T(t_damaged_job),
                                T(t_cuda),
                                { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
