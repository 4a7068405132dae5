/* Reading and rounding whole tensors by many threads (quant/load.c): the same as reading them at
 * once, whether the container stores [N, K] or [K, N]; and of many errors the first is told. */
#include <string.h>
#include <unistd.h>

#include "convert/exec.h"
#include "quant/load.h"
#include "tests/t.h"
#include "tests/t_hf.h"

/* gate_up [10000, 512] and down [512, 5000]: three and two pieces of 4 MB */
static const tiny_hf wide = {
    .hid = 512, .layers = 1, .heads = 4, .ffn = 5000, .vocab = 16, .dtype = FMT_F16
};

static fmt_src *open_hf(void)
{
    q_err err = { 0 };
    fmt_src *s = NULL;

    tiny_hf_write(t_tmp("hf"), &wide);
    T_OK(fmt_src_open(&s, t_tmp("hf"), &err), err);
    return s;
}

static fmt_src *open_ft(const fmt_src *from)
{
    q_err err = { 0 };
    fmt_src *s = NULL;
    cvt_plan *p = NULL;
    cvt_result r = { 0 };
    const cvt_plan_opts o = { .ranks = 2, .store = FMT_F16, .threads = 1, .tool = "test" };

    T_OK(cvt_plan_build(&p, from, &o, &err), err);
    T_OK(cvt_run(&r, p, &(cvt_run_opts){ .out = t_tmp("ft"), .force = 1 }, &err), err);
    cvt_result_free(&r);
    cvt_plan_free(p);
    T_OK(fmt_src_open(&s, t_tmp("ft/2-gpu"), &err), err);
    return s;
}

static void t_pieces(void)
{
    static const fmt_role roles[] = { FMT_TOK_EMBD, FMT_ATTN_QKV, FMT_FFN_GATE_UP, FMT_FFN_DOWN };
    q_err err = { 0 };
    fmt_src *hf = open_hf(), *ft = open_ft(hf);

    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++) {
        const fmt_ref ref = { roles[i], 0, FMT_WEIGHT };
        const fmt_box all = fmt_src_shape(hf, ref);
        const size_t bytes = (size_t)(all.n1 * all.k1) * 2;
        char *whole = q_malloc(bytes), *a = q_malloc(bytes), *b = q_malloc(bytes);

        T_TRUE(whole && a && b);
        T_INT(fmt_src_turned(hf, ref), 0);
        T_INT(fmt_src_turned(ft, ref), roles[i] != FMT_TOK_EMBD);
        memset(a, 0x55, bytes);
        memset(b, 0xaa, bytes);
        T_OK(fmt_src_read(hf, ref, all, whole, &err), err);
        T_OK(qnt_read(a, hf, ref, &err), err);
        T_OK(qnt_read(b, ft, ref, &err), err);
        T_TRUE(memcmp(a, whole, bytes) == 0);
        T_TRUE(memcmp(b, whole, bytes) == 0);
        q_free(whole);
        q_free(a);
        q_free(b);
    }
    fmt_src_close(hf);
    fmt_src_close(ft);
}

static void t_rounded(void)
{
    q_err err = { 0 };
    fmt_src *src[2] = { open_hf() };
    const qnt_scheme *scheme = qnt_scheme_find("w4");
    const fmt_ref ref = { FMT_FFN_GATE_UP, 0, FMT_WEIGHT };
    const fmt_box all = fmt_src_shape(src[0], ref);
    const size_t row = qnt_row_bytes(scheme, all.k1);
    uint16_t *stored = q_malloc((size_t)(all.n1 * all.k1) * sizeof *stored);
    float v[512], scale;
    uint8_t codes[512];

    src[1] = open_ft(src[0]);
    T_TRUE(stored && all.k1 == 512);
    T_OK(fmt_src_read(src[0], ref, all, stored, &err), err);
    for (int s = 0; s < 2; s++) {
        qnt_tensor t;

        T_OK(qnt_load(&t, src[s], ref.role, 0, &(qnt_load_opts){ .scheme = scheme }, &err), err);
        for (int64_t n = 0; n < all.n1; n++) {
            fmt_convert(v, FMT_F32, stored + n * all.k1, FMT_F16, 512, NULL);
            scheme->quantize_row(codes, &scale, v, 512);
            T_NEAR(t.scale[n], scale, 0);
            T_TRUE(memcmp((char *)t.codes + (size_t)n * row, codes, row) == 0);
        }
        qnt_tensor_free(&t);
        fmt_src_close(src[s]);
    }
    q_free(stored);
}

/* The last quarter of the file becomes NaN, or goes away. */
static void t_errors(void)
{
    const qnt_load_opts w8 = { .scheme = qnt_scheme_find("w8") };
    const char *path = t_tmp("hf/model.safetensors");
    const fmt_ref ref = { FMT_FFN_DOWN, 0, FMT_WEIGHT };
    q_err err = { 0 };
    fmt_src *s = open_hf();
    const fmt_box all = fmt_src_shape(s, ref);
    uint16_t *v = q_malloc((size_t)(all.n1 * all.k1) * sizeof *v);
    FILE *f = fopen(path, "r+b");
    long bytes = 0, from;
    char want[64];
    int64_t first = 0;
    qnt_tensor t;

    T_TRUE(v && f && fseek(f, 0, SEEK_END) == 0 && (bytes = ftell(f)) > 0);
    from = bytes / 4 * 3 / 2 * 2;
    T_TRUE(fseek(f, from, SEEK_SET) == 0);
    for (long at = from; at < bytes; at += 2)
        T_INT(fwrite("\0\176", 1, 2, f), 2);
    T_INT(fclose(f), 0);
    T_OK(fmt_src_read(s, ref, all, v, &err), err);
    while (first < all.n1 * all.k1 && (v[first] & 0x7c00) != 0x7c00)
        first++;
    T_TRUE(first < (all.n1 - 1) * all.k1); /* more than one row, whatever the order in the file */
    snprintf(want, sizeof want, "row %lld holds a value that is not finite",
             (long long)(first / all.k1));
    T_ERR(qnt_load(&t, s, ref.role, 0, &w8, &err), err, Q_EFORMAT, want);
    T_INT(truncate(path, from), 0);
    T_ERR(qnt_read(v, s, ref, &err), err, Q_EIO, "model.safetensors: became shorter");
    fmt_src_close(s);
    q_free(v);
}

static const t_case cases[] = { T(t_pieces), T(t_rounded), T(t_errors), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
