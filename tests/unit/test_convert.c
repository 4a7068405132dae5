/* convert: every byte of an FT directory against a second, naive computation from the checkpoint;
 * the same bytes for any number of threads; values, copied files, refusals, peak memory. */
#include <signal.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "convert/verify.h"
#include "formats/base/q_file.h"
#include "formats/base/q_half.h"
#include "formats/hf_dir.h"
#include "tests/t.h"
#include "tests/t_convert.h"

static const tiny_hf tiny = {
    .hid = 24, .layers = 2, .heads = 4, .ffn = 20, .vocab = 37, .dtype = FMT_BF16
};

/* ---- a second implementation: one value at a time, from the layout notes alone ----------------
 */

typedef struct naive {
    fmt_hf *hf;
    int64_t H, I, V, L; /* hidden, one MLP branch, vocabulary, layers */
    int T;
    fmt_dtype store;
    char dir[256];
    int files;
} naive;

/* one value of a tensor, as f32 */
static float value(const void *data, fmt_dtype t, int64_t i)
{
    float f;
    uint16_t h;

    if (t == FMT_F32) {
        memcpy(&f, (const char *)data + 4 * i, sizeof f);
        return f;
    }
    memcpy(&h, (const char *)data + 2 * i, sizeof h);
    return t == FMT_F16 ? q_f16_to_f32(h) : q_bf16_to_f32(h);
}

static void put(char *out, fmt_dtype t, int64_t i, float f)
{
    const uint16_t h = t == FMT_F16 ? q_f32_to_f16(f) : q_f32_to_bf16(f);

    if (t == FMT_F32)
        memcpy(out + 4 * i, &f, sizeof f);
    else
        memcpy(out + 2 * i, &h, sizeof h);
}

/* The file must hold rows x cols values, each at index(at) of the tensor. */
static void check_file(naive *n, const char *name, const char *tensor, int64_t rows, int64_t cols,
                       int rank, int64_t (*index)(const naive *n, int rank, int64_t r, int64_t c))
{
    q_err err = { 0 };
    const size_t i = fmt_hf_find(n->hf, tensor), es = fmt_dtype_bytes(n->store);
    const fmt_tensor *t = fmt_hf_tensor(n->hf, i);
    q_buf got = { 0 };
    char *data, *want, *path = q_path_join(n->dir, name);

    T_TRUE(i != FMT_NONE);
    data = q_malloc(t->bytes);
    want = q_malloc((size_t)(rows * cols) * es);
    T_TRUE(data && want && path);
    T_OK(fmt_hf_read(n->hf, i, 0, t->bytes, data, &err), err);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            put(want, n->store, r * cols + c, value(data, t->dtype, index(n, rank, r, c)));
    T_OK(q_file_slurp(&got, path, (size_t)1 << 30, &err), err);
    T_INT(got.size, (size_t)(rows * cols) * es);
    if (memcmp(got.data, want, got.size) != 0)
        t_fail(name, 0, "differs from the naive computation");
    n->files++;
    q_buf_free(&got);
    q_free(data);
    q_free(want);
    q_free(path);
}

static int64_t at_same(const naive *n, int rank, int64_t r, int64_t c)
{
    (void)rank;
    return r * n->H + c;
}

static int64_t at_vector(const naive *n, int rank, int64_t r, int64_t c)
{
    (void)n, (void)rank;
    return r + c;
}

/* column c of a rank's file belongs to q, k or v, each H / T wide */
static int64_t qkv_row(const naive *n, int rank, int64_t c)
{
    const int64_t w = n->H / n->T;

    return c / w * n->H + rank * w + c % w;
}

static int64_t at_qkv(const naive *n, int rank, int64_t r, int64_t c)
{
    return qkv_row(n, rank, c) * n->H + r;
}

static int64_t at_qkv_bias(const naive *n, int rank, int64_t r, int64_t c)
{
    (void)c;
    return qkv_row(n, rank, r);
}

static int64_t at_dense(const naive *n, int rank, int64_t r, int64_t c)
{
    return c * n->H + rank * (n->H / n->T) + r;
}

static int64_t at_branch(const naive *n, int rank, int64_t r, int64_t c)
{
    return (rank * (n->I / n->T) + c) * n->H + r;
}

static int64_t at_down(const naive *n, int rank, int64_t r, int64_t c)
{
    return c * n->I + rank * (n->I / n->T) + r;
}

static void check_layer(naive *n, int64_t l)
{
    static const struct {
        const char *file, *tensor;
        int64_t (*index)(const naive *n, int rank, int64_t r, int64_t c);
        int rows, cols, ranked; /* in units: 1 H, 2 I/T, 3 H/T, 4 3H/T, 0 one */
    } f[] = {
        { "ln_1.weight.bin", "ln_1.weight", at_vector, 1, 0, 0 },
        { "ln_2.weight.bin", "ln_2.weight", at_vector, 1, 0, 0 },
        { "attention.qkv.weight.%d.bin", "attn.c_attn.weight", at_qkv, 1, 4, 1 },
        { "attention.qkv.bias.%d.bin", "attn.c_attn.bias", at_qkv_bias, 4, 0, 1 },
        { "attention.dense.weight.%d.bin", "attn.c_proj.weight", at_dense, 3, 1, 1 },
        { "mlp.w1.weight.%d.bin", "mlp.w1.weight", at_branch, 1, 2, 1 },
        { "mlp.w2.weight.%d.bin", "mlp.w2.weight", at_branch, 1, 2, 1 },
        { "mlp.c_proj.weight.%d.bin", "mlp.c_proj.weight", at_down, 2, 1, 1 },
    };
    const int64_t unit[] = { 1, n->H, n->I / n->T, n->H / n->T, 3 * n->H / n->T };
    char file[96], tensor[96], name[160];

    for (size_t i = 0; i < sizeof f / sizeof f[0]; i++)
        for (int rank = 0; rank < (f[i].ranked ? n->T : 1); rank++) {
            const char *at = strstr(f[i].file, "%d");

            if (at)
                snprintf(file, sizeof file, "%.*s%d%s", (int)(at - f[i].file), f[i].file, rank,
                         at + 2);
            else
                snprintf(file, sizeof file, "%s", f[i].file);
            snprintf(name, sizeof name, "model.layers.%lld.%s", (long long)l, file);
            snprintf(tensor, sizeof tensor, "transformer.h.%lld.%s", (long long)l, f[i].tensor);
            check_file(n, name, tensor, unit[f[i].rows], unit[f[i].cols], rank, f[i].index);
        }
}

static void check_all(const char *hf, const char *out, int T, fmt_dtype store, int64_t H, int64_t I,
                      int64_t V, int64_t L)
{
    naive n = { .H = H, .I = I, .V = V, .L = L, .T = T, .store = store };
    q_err err = { 0 };

    T_OK(fmt_hf_open(&n.hf, hf, &err), err);
    snprintf(n.dir, sizeof n.dir, "%s/%d-gpu", out, T);
    check_file(&n, "vocab_embedding.weight.bin", "transformer.wte.weight", V, H, 0, at_same);
    check_file(&n, "lm_head.weight.bin", "lm_head.weight", V, H, 0, at_same);
    check_file(&n, "ln_f.weight.bin", "transformer.ln_f.weight", H, 1, 0, at_vector);
    for (int64_t l = 0; l < L; l++)
        check_layer(&n, l);
    T_INT(n.files, 3 + L * (2 + 6 * T));
    fmt_hf_close(n.hf);
}

/* ---- tests ------------------------------------------------------------------------------------
 */

static void t_tiny_model(void)
{
    static const fmt_dtype stores[] = { FMT_F16, FMT_BF16, FMT_F32 };
    q_err err = { 0 };

    for (int T = 1; T <= 2; T++)
        for (int k = 0; k < (T == 1 ? 3 : 1); k++) {
            run_opts o = { .in = T_SHARED("models/qwen-tiny"),
                           .out = tmp("tiny"),
                           .force = 1,
                           .ranks = T,
                           .threads = 2,
                           .store = stores[k] };

            T_OK(run(&o, &err), err);
            check_all(o.in, o.out, T, stores[k], 256, 768, 4096, 8);
        }
}

/* odd sizes, from every type to every type, for 1, 2 and 4 ranks in turn */
static void t_small_models(void)
{
    static const fmt_dtype types[] = { FMT_F16, FMT_BF16, FMT_F32 };
    q_err err = { 0 };

    for (int from = 0; from < 3; from++)
        for (int to = 0; to < 3; to++) {
            const int T = 1 << (from + to) % 3;
            tiny_hf m = tiny;
            run_opts o = { .in = tmp("in"),
                           .out = tmp("small"),
                           .force = 1,
                           .ranks = T,
                           .threads = 3,
                           .store = types[to] };

            m.dtype = types[from];
            tiny_hf_write(o.in, &m);
            T_OK(run(&o, &err), err);
            check_all(o.in, o.out, T, types[to], m.hid, m.ffn, m.vocab, m.layers);
        }
}

/* rows longer than a strip: one megabyte holds no four rows of 200000 f32 values */
static void t_long_rows(void)
{
    tiny_hf m = { .hid = 2, .layers = 1, .heads = 1, .ffn = 200000, .vocab = 3, .dtype = FMT_F32 };
    run_opts o = { .in = tmp("long"), .out = tmp("longout"), .threads = 2, .store = FMT_F16 };
    q_err err = { 0 };

    tiny_hf_write(o.in, &m);
    T_OK(run(&o, &err), err);
    check_all(o.in, o.out, 1, FMT_F16, m.hid, m.ffn, m.vocab, m.layers);
}

static void same_bytes(const char *a, const char *b)
{
    q_err err = { 0 };
    q_buf x = { 0 }, y = { 0 };
    char *pa = q_path_join(a, CVT_MANIFEST), *pb = q_path_join(b, CVT_MANIFEST);

    T_OK(q_file_slurp(&x, pa, 1 << 20, &err), err);
    T_OK(q_file_slurp(&y, pb, 1 << 20, &err), err);
    T_STR(x.data, y.data);
    q_free(pa);
    q_free(pb);
    q_buf_free(&x);
    q_buf_free(&y);
}

static void t_threads(void)
{
    static const int threads[] = { 1, 2, 7, 64 };
    static const char *const out[] = { "t1", "t2", "t7", "t64" };
    q_err err = { 0 };

    for (int i = 0; i < 4; i++) {
        run_opts o = { .in = T_SHARED("models/qwen-tiny"),
                       .out = tmp(out[i]),
                       .ranks = 2,
                       .threads = threads[i],
                       .store = FMT_F16 };
        char dir[300];
        cvt_verify_report rep;

        T_OK(run(&o, &err), err);
        snprintf(dir, sizeof dir, "%s/2-gpu", o.out);
        T_OK(cvt_verify(&rep, dir, threads[i], NULL, NULL, &err), err);
        T_INT(rep.files, 121);
        cvt_verify_free(&rep);
        same_bytes(tmp("t1/2-gpu"), dir);
    }
}

/* Cutting again gives what cutting the checkpoint gives. */
static void t_other_ranks(void)
{
    q_err err = { 0 };
    run_opts a = { .in = T_SHARED("models/qwen-tiny"), .out = tmp("a"), .store = FMT_F16 };
    run_opts b = { .in = a.in, .out = tmp("b"), .ranks = 2, .store = FMT_F16 };
    run_opts c = { .in = tmp("b"), .out = tmp("c"), .threads = 2, .store = FMT_F16 };

    T_OK(run(&a, &err), err);
    T_OK(run(&b, &err), err);
    T_OK(run(&c, &err), err);
    same_bytes(tmp("a/1-gpu"), tmp("c/1-gpu"));
    c.in = tmp("c");
    c.out = tmp("d");
    c.ranks = 2;
    T_OK(run(&c, &err), err);
    same_bytes(tmp("b/2-gpu"), tmp("d/2-gpu"));
}

static void t_copied_files(void)
{
    static const struct {
        const char *name;
        int copied;
    } files[] = { { "tokenizer_config.json", 1 },
                  { "qwen.tiktoken", 1 },
                  { "LICENSE", 1 },
                  { "empty.txt", 1 },
                  { "old.bin", 0 },
                  { "x.safetensors", 0 },
                  { "x.index.json", 0 },
                  { ".gitattributes", 0 },
                  { "config.ini.txt", 1 },
                  { "manifest.json", 0 },
                  { "m.gguf", 0 } };
    run_opts o = { .in = tmp("copy"), .out = tmp("copied"), .store = FMT_F16 };
    q_err err = { 0 };

    tiny_hf_write(o.in, &tiny);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char *path = q_path_join(o.in, files[i].name);

        T_OK(q_out_whole(path, 1, "\0\xff text\r\n", i == 3 ? 0 : 9, &err), err);
        q_free(path);
    }
    T_OK(q_dir_make(tmp("copy/folder"), &err), err);
    T_INT(mkfifo(tmp("copy/fifo"), 0600), 0);
    T_OK(run(&o, &err), err);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        q_buf b = { 0 };
        char *path;

        if (strcmp(files[i].name, CVT_MANIFEST) == 0) /* there is one, of ours */
            continue;
        path = q_path_join(tmp("copied/1-gpu"), files[i].name);
        T_INT(q_path_exists(path), files[i].copied);
        if (files[i].copied) {
            T_OK(q_file_slurp(&b, path, 100, &err), err);
            T_INT(b.size, i == 3 ? 0 : 9);
            T_TRUE(memcmp(b.data, "\0\xff text\r\n", b.size) == 0);
        }
        q_buf_free(&b);
        q_free(path);
    }
    T_TRUE(!q_path_exists(tmp("copied/1-gpu/folder")) && !q_path_exists(tmp("copied/1-gpu/fifo")));
    T_INT(symlink("/etc/passwd", tmp("copy/tokenizer.json")), 0);
    o.force = 1;
    T_ERR(run(&o, &err), err, Q_EFORMAT, "tokenizer.json: is a link: refused");
    T_INT(unlink(tmp("copy/tokenizer.json")), 0);
    T_OK(q_out_whole(tmp("copy/a\nb"), 1, "x", 1, &err), err);
    T_ERR(run(&o, &err), err, Q_EFORMAT, "file name 'a?b' is not printable ASCII");
}

static void t_odd_values(void)
{
    tiny_hf m = tiny;
    run_opts o = { .in = tmp("odd"), .out = tmp("oddout"), .store = FMT_F16, .threads = 2 };
    fmt_src *s = NULL;
    cvt_plan *p = NULL;
    cvt_result r;
    q_err err = { 0 };

    m.dtype = FMT_F32;
    m.poke = "transformer.h.1.mlp.w1.weight";
    m.poke_value = 1e5f;
    tiny_hf_write(o.in, &m);
    T_OK(fmt_src_open(&s, o.in, &err), err);
    T_OK(cvt_plan_build(&p, s,
                        &(cvt_plan_opts){ .ranks = 2, .store = FMT_F16, .threads = 1, .tool = "t" },
                        &err),
         err);
    T_OK(cvt_run(&r, p, &(cvt_run_opts){ .out = o.out }, &err), err);
    T_INT(r.clipped, 1);
    T_INT(r.nonfinite, 1);
    cvt_result_free(&r);
    cvt_plan_free(p);
    fmt_src_close(s);
    o.strict = 1;
    for (o.threads = 1; o.threads <= 7; o.threads += 3)
        T_ERR(run(&o, &err), err, Q_EFORMAT,
              "transformer.h.1.mlp.w1.weight: 1 values are NaN or infinite: is the checkpoint "
              "damaged? (--strict)");
    T_TRUE(!q_path_exists(tmp("oddout/1-gpu")) && !q_path_exists(tmp("oddout/.1-gpu.part")));
}

static void t_strict_range(void)
{
    tiny_hf m = tiny;
    run_opts o = { .in = tmp("range"), .out = tmp("rangeout"), .store = FMT_F16, .strict = 1 };
    q_err err = { 0 };

    m.extra = "transformer.h.0.attn.c_proj.bias"; /* zeros: accepted, not stored, not counted */
    tiny_hf_write(o.in, &m);
    T_OK(run(&o, &err), err);
    o.force = 1;
    m.extra = NULL;
    for (int k = 0; k < 2; k++) { /* a value that only float16 cannot hold */
        const float big[] = { 65519.0f, 65520.0f };
        const fmt_tensor *t;
        fmt_hf *hf = NULL;
        uint32_t bits = q_f32_to_bits(big[k]);
        uint64_t at;
        FILE *f;

        m.dtype = FMT_F32;
        tiny_hf_write(o.in, &m);
        T_OK(fmt_hf_open(&hf, o.in, &err), err);
        t = fmt_hf_tensor(hf, fmt_hf_find(hf, "transformer.h.0.ln_2.weight"));
        at = t->offset;
        fmt_hf_close(hf);
        T_TRUE((f = fopen(tmp("range/model.safetensors"), "r+b")) != NULL);
        T_TRUE(fseek(f, (long)at, SEEK_SET) == 0 && fwrite(&bits, 4, 1, f) == 1);
        T_INT(fclose(f), 0);
        if (k == 0)
            T_OK(run(&o, &err), err);
        else
            T_ERR(run(&o, &err), err, Q_EFORMAT,
                  "transformer.h.0.ln_2.weight: 1 values lie outside the range of float16: use -t "
                  "bfloat16 (--strict)");
        o.store = FMT_BF16;
        T_OK(run(&o, &err), err);
        o.store = FMT_F16;
    }
}

static void t_refused(void)
{
    run_opts o = { .in = tmp("ref"), .out = tmp("refout"), .store = FMT_F16 };
    const volatile sig_atomic_t stop = 1;
    q_err err = { 0 };

    tiny_hf_write(o.in, &tiny);
    o.ranks = 3;
    T_ERR(run(&o, &err), err, Q_ECONFIG, "3 ranks do not divide attention heads 4");
    T_TRUE(!q_path_exists(o.out));
    o.ranks = 1;
    o.stop = &stop;
    T_ERR(run(&o, &err), err, Q_ECANCEL, "stopped by a signal");
    T_TRUE(!q_path_exists(o.out)); /* we made it, so it goes again */
    o.stop = NULL;
    T_OK(run(&o, &err), err);
    T_ERR(run(&o, &err), err, Q_ECREATE, "refout/1-gpu: exists; --force replaces it");
    o.in = o.out;
    o.out = tmp("ref");
    T_OK(run(&o, &err), err); /* an FT directory below a checkpoint is no conflict */
    o.out = tmp("refout");
    T_ERR(run(&o, &err), err, Q_EARG, "refout/1-gpu: the output is the input");
    o.in = tmp("ref");
    o.out = tmp("ref");
    o.force = 1;
    T_ERR(run(&o, &err), err, Q_EARG, "ref: the output is the input");
    T_OK(q_out_whole(tmp("plain"), 1, "x", 1, &err), err);
    o.out = tmp("plain");
    T_ERR(run(&o, &err), err, Q_ECREATE, "plain: exists and is not a directory");
    T_OK(q_dir_make(tmp("file"), &err), err);
    T_OK(q_out_whole(tmp("file/1-gpu"), 1, "x", 1, &err), err);
    o.out = tmp("file");
    T_ERR(run(&o, &err), err, Q_ECREATE, "file/1-gpu: exists and is not a directory");
}

/* ---- memory -----------------------------------------------------------------------------------
 */

/* Peak memory of the program on a model that is much larger, against the plan. */
static void t_memory(void)
{
    tiny_hf m = {
        .hid = 512, .layers = 12, .heads = 4, .ffn = 2048, .vocab = 10000, .dtype = FMT_BF16
    };
    const char *build = getenv("BUILD"), *in = tmp("mem"), *out = tmp("memout");
    char program[512];
    struct rusage u;
    fmt_src *s = NULL;
    cvt_plan *p = NULL;
    q_err err = { 0 };
    pid_t pid;
    int status;

    if (!build || !strstr(build, "release"))
        T_SKIP("measured on release builds with BUILD set");
    snprintf(program, sizeof program, "%s/bin/qwen-convert", build);
    if (access(program, X_OK) != 0)
        T_SKIP("%s is not built", program);
    tiny_hf_write(in, &m);
    T_OK(fmt_src_open(&s, in, &err), err);
    T_OK(cvt_plan_build(&p, s,
                        &(cvt_plan_opts){ .ranks = 1, .store = FMT_F16, .threads = 2, .tool = "t" },
                        &err),
         err);
    malloc_trim(0); /* a child begins with the memory of its parent */
    T_TRUE((pid = fork()) >= 0);
    if (pid == 0) {
        if (freopen("/dev/null", "w", stdout))
            execl(program, program, "-i", in, "-o", out, "--threads", "2", (char *)NULL);
        _exit(127);
    }
    T_TRUE(wait4(pid, &status, 0, &u) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    printf("# peak %ld KiB, planned %llu KiB\n", u.ru_maxrss, (unsigned long long)p->memory / 1024);
    T_TRUE(p->memory < p->bytes / 4); /* the bound says something */
    /* 10 %, and 4 MiB for what the machine decides: pages of shared libraries, thread stacks */
    T_TRUE((uint64_t)u.ru_maxrss * 1024 <= p->memory / 10 * 11 + ((uint64_t)4 << 20));
    T_TRUE((uint64_t)u.ru_maxrss * 1024 >= p->memory / 10 * 7);
    cvt_plan_free(p);
    fmt_src_close(s);
}

static const t_case cases[] = { T(t_memory),
                                T(t_tiny_model),
                                T(t_small_models),
                                T(t_long_rows),
                                T(t_threads),
                                T(t_other_ranks),
                                T(t_copied_files),
                                T(t_odd_values),
                                T(t_strict_range),
                                T(t_refused),
                                { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
