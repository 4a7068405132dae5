/* Conversion with smoothing as a whole: the same bytes for any number of threads, cut again for
 * another number of ranks, with key/value scales alone; what damaged files and impossible wishes
 * say.  The values of the files are checked by test_sq_files. */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "convert/verify.h"
#include "quant/load.h"
#include "tests/t.h"
#include "tests/t_convert.h"

static const tiny_hf tiny = {
    .hid = 24, .layers = 2, .heads = 4, .ffn = 20, .vocab = 37, .dtype = FMT_F16
};

static qnt_ranges *ranges; /* of the tiny model */

static fmt_src *open_src(const char *path)
{
    q_err err = { 0 };
    fmt_src *s = NULL;

    T_OK(fmt_src_open(&s, path, &err), err);
    return s;
}

/* A checkpoint in tmp("in") and its ranges; each test begins with it. */
static run_opts begin(const char *out)
{
    q_err err = { 0 };
    fmt_src *s;

    T_OK(q_dir_remove(tmp("in"), &err), err);
    T_OK(q_dir_remove(tmp(out), &err), err);
    tiny_hf_write(tmp("in"), &tiny);
    s = open_src(tmp("in"));
    if (!ranges)
        ranges = tiny_ranges(fmt_src_model(s));
    fmt_src_close(s);
    return (run_opts){ .in = tmp("in"),
                       .out = tmp(out),
                       .force = 1,
                       .store = FMT_F16,
                       .ranges = ranges,
                       .sq = 1,
                       .alpha = 0.5 };
}

static void same_manifest(const char *a, const char *b)
{
    q_err err = { 0 };
    q_buf x = { 0 }, y = { 0 };

    T_OK(q_file_slurp(&x, a, 1 << 20, &err), err);
    T_OK(q_file_slurp(&y, b, 1 << 20, &err), err);
    T_STR(x.data, y.data);
    q_buf_free(&x);
    q_buf_free(&y);
}

static void t_threads(void)
{
    static const char *const out[] = { "t1", "t2", "t5" };
    static const int threads[] = { 1, 2, 5 };
    q_err err = { 0 };
    char path[64];

    for (int i = 0; i < 3; i++) {
        run_opts o = begin(out[i]);
        const float before = ranges[1].in[FMT_FFN_DOWN][7];

        o.kv = 1;
        o.ranks = 2;
        o.threads = threads[i];
        T_OK(run(&o, &err), err);
        T_NEAR(ranges[1].in[FMT_FFN_DOWN][7], before, 0); /* the caller's ranges stay */
        snprintf(path, sizeof path, "%s/2-gpu/manifest.json", out[i]);
        same_manifest(tmp("t1/2-gpu/manifest.json"), tmp(path));
    }
}

/* An FT directory is cut again with all that is in it. */
static void t_other_ranks(void)
{
    run_opts one = begin("one"), two = begin("two"), again = begin("again");
    q_err err = { 0 };

    one.kv = two.kv = 1;
    two.ranks = 2;
    T_OK(run(&one, &err), err);
    T_OK(run(&two, &err), err);
    again.in = tmp("two");
    again.sq = 0;
    again.ranges = NULL;
    again.threads = 2;
    T_OK(run(&again, &err), err);
    same_manifest(tmp("one/1-gpu/manifest.json"), tmp("again/1-gpu/manifest.json"));
    again.in = tmp("again");
    again.out = tmp("back");
    again.ranks = 2;
    T_OK(run(&again, &err), err);
    same_manifest(tmp("two/2-gpu/manifest.json"), tmp("back/2-gpu/manifest.json"));
}

/* A float FT directory is a source like the checkpoint. */
static void t_from_float(void)
{
    run_opts plain = begin("plain"), a = begin("a"), b = begin("b");
    q_err err = { 0 };

    plain.sq = 0;
    plain.ranges = NULL;
    plain.ranks = 2;
    T_OK(run(&plain, &err), err);
    T_OK(run(&a, &err), err);
    b.in = tmp("plain");
    T_OK(run(&b, &err), err);
    same_manifest(tmp("a/1-gpu/manifest.json"), tmp("b/1-gpu/manifest.json"));
}

/* Scales of the cache alone: weights are those of a plain conversion. */
static void t_kv_alone(void)
{
    static const char *const files[] = { "attention.k_scale", "attention.v_scale",
                                         "attention.qkv.scale_y_quant_orig" };
    run_opts o = begin("kv"), plain = begin("plain");
    q_err err = { 0 };
    fmt_src *s, *p;
    FILE *f;
    float *v = NULL, *vs = NULL, max = 0, vmax = 0;
    uint16_t a[24 * 24], b[24 * 24];
    const fmt_ref k = { FMT_ATTN_QKV, 1, FMT_K_SCALE }, y = { FMT_ATTN_QKV, 1, FMT_SCALE_Y };
    const fmt_ref w = { FMT_ATTN_OUT, 1, FMT_WEIGHT };
    char path[128];

    o.sq = 0;
    o.kv = 1;
    T_OK(run(&o, &err), err);
    plain.sq = 0;
    plain.ranges = NULL;
    T_OK(run(&plain, &err), err);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "kv/1-gpu/model.layers.1.%s.bin", files[i]);
        T_TRUE(q_path_exists(tmp(path)));
        snprintf(path, sizeof path, "plain/1-gpu/model.layers.1.%s.bin", files[i]);
        T_TRUE(!q_path_exists(tmp(path)));
    }
    T_TRUE(!q_path_exists(tmp("kv/1-gpu/model.layers.0.attention.qkv.weight.int8.0.bin")));
    s = open_src(tmp("kv"));
    p = open_src(tmp("plain"));
    T_TRUE(fmt_src_has(s, k) && !fmt_src_has(p, k) &&
           !fmt_src_has(s, (fmt_ref){ FMT_ATTN_OUT, 1, FMT_SCALE_Y }));
    T_OK(qnt_load_f32(&v, s, k, 4, &err), err);
    for (int i = 0; i < 6; i++) /* head 2 */
        max = fmaxf(max, ranges[1].k[12 + i]);
    T_NEAR(v[2], max / 127, 1e-7);
    q_free(v);
    T_OK(qnt_load_kv_scales(&v, &vs, s, &err), err);
    T_NEAR(v[1 * 4 + 2], max / 127, 1e-7);
    for (int i = 0; i < 6; i++) /* of layer 0, head 3: its rows of V */
        vmax = fmaxf(vmax, ranges[0].out[FMT_ATTN_QKV][2 * 24 + 18 + i]);
    T_NEAR(vs[3], vmax / 127, 1e-7);
    q_free(vs);
    q_free(v);
    T_ERR(qnt_load_kv_scales(&v, &vs, p, &err), err, Q_EUNSUPPORTED,
          "plain/1-gpu: has no scales of an int8 key/value cache: add them with qwen-convert "
          "--calibrate-kv-cache");
    T_OK(qnt_load_f32(&v, s, y, 1, &err), err);
    for (int i = 0; i < 72; i++)
        max = fmaxf(max, ranges[1].out[FMT_ATTN_QKV][i]);
    T_NEAR(v[0], max / 127, 1e-7 * (double)max);
    q_free(v);
    T_OK(fmt_src_read(s, w, fmt_src_shape(s, w), a, &err), err);
    T_OK(fmt_src_read(p, w, fmt_src_shape(p, w), b, &err), err);
    T_TRUE(memcmp(a, b, sizeof a) == 0);
    fmt_src_close(s);
    fmt_src_close(p);
    f = fopen(tmp("kv/1-gpu/model.layers.1.attention.v_scale.bin"), "r+b");
    T_TRUE(f && fseek(f, 8, SEEK_SET) == 0 && fwrite("\0\0\xc0\x7f", 4, 1, f) == 1);
    T_INT(fclose(f), 0);
    s = open_src(tmp("kv"));
    T_ERR(qnt_load_kv_scales(&v, &vs, s, &err), err, Q_EFORMAT,
          "model.layers.1.attention.v_scale.bin: value 2 of its part is nan, wanted a positive");
    fmt_src_close(s);
}

/* ---- damage -----------------------------------------------------------------------------------
 */

#define L1 "d/2-gpu/model.layers.1."

/* Every kind of file: missing, and one byte short, with its name. */
static void t_missing(void)
{
    static const char *const files[] = { "attention.qkv.weight.int8.1.bin",
                                         "attention.qkv.weight.int8.col.0.bin",
                                         "attention.dense.scale_x_orig_quant.bin",
                                         "mlp.w1.scale_y_quant_orig.bin",
                                         "attention.qkv.scale_w_quant_orig.bin",
                                         "mlp.w2.scale_w_quant_orig.bin",
                                         "mlp.c_proj.scale_y_accum_quant.bin",
                                         "mlp.w1.scale_w_quant_orig.col.1.bin",
                                         "mlp.c_proj.scale_w_quant_orig.col.bin",
                                         "attention.dense.scale_y_accum_quant.col.bin",
                                         "attention.dense.smoother.1.bin",
                                         "attention.k_scale.bin",
                                         "attention.v_scale.bin" };
    run_opts o = begin("d");
    fmt_src *s = NULL;
    q_err err = { 0 };
    char path[160], want[200];

    o.ranks = 2;
    o.kv = 1;
    T_OK(run(&o, &err), err);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        q_buf b = { 0 };

        snprintf(path, sizeof path, L1 "%s", files[i]);
        T_OK(q_file_slurp(&b, tmp(path), 1 << 20, &err), err);
        T_INT(truncate(tmp(path), (off_t)b.size - 1), 0);
        snprintf(want, sizeof want, "model.layers.1.%s: %zu bytes, wanted %zu (", files[i],
                 b.size - 1, b.size);
        T_ERR(fmt_src_open(&s, tmp("d"), &err), err, Q_ESHAPE, want);
        T_INT(unlink(tmp(path)), 0);
        snprintf(want, sizeof want, "model.layers.1.%s: cannot open", files[i]);
        T_ERR(fmt_src_open(&s, tmp("d"), &err), err, Q_ENOINPUT, want);
        T_OK(q_out_whole(tmp(path), 1, b.data, b.size, &err), err);
        q_buf_free(&b);
    }
    s = open_src(tmp("d"));
    fmt_src_close(s);
}

/* Exchanges v (of es bytes) with element i of a file. */
static void swap(const char *name, size_t i, void *v, size_t es)
{
    q_err err = { 0 };
    q_buf b = { 0 };
    char path[160], old[8];

    snprintf(path, sizeof path, L1 "%s", name);
    T_OK(q_file_slurp(&b, tmp(path), 1 << 20, &err), err);
    T_TRUE((i + 1) * es <= b.size && es <= sizeof old);
    memcpy(old, b.data + i * es, es);
    memcpy(b.data + i * es, v, es);
    memcpy(v, old, es);
    T_OK(q_out_whole(tmp(path), 1, b.data, b.size, &err), err);
    q_buf_free(&b);
}

static q_status load(fmt_role role, int per_tensor, int static_x, q_err *err)
{
    fmt_src *s = open_src(tmp("d"));
    const qnt_load_opts o = { qnt_scheme_find("w8a8"), per_tensor, static_x };
    qnt_tensor t = { 0 };
    const q_status st = qnt_load(&t, s, role, 1, &o, err);

    T_INT(t.codes != NULL, st == Q_OK);
    qnt_tensor_free(&t);
    fmt_src_close(s);
    return st;
}

static void t_bad_values(void)
{
    static const struct {
        const char *file;
        size_t at;
        float v;
        fmt_role role;
        int per_tensor, static_x;
        const char *part;
    } rows[] = {
        { "attention.qkv.scale_w_quant_orig.col.1.bin", 3, 0, FMT_ATTN_QKV, 0, 0,
          "model.layers.1.attention.qkv.scale_w_quant_orig.col.1.bin: value 15 of its part is 0, "
          "wanted a positive scale" },
        { "mlp.w1.scale_w_quant_orig.bin", 0, -1, FMT_FFN_GATE_UP, 1, 0,
          "mlp.w1.scale_w_quant_orig.bin: value 1 of its part is -1" },
        { "mlp.c_proj.scale_x_orig_quant.bin", 0, INFINITY, FMT_FFN_DOWN, 0, 1,
          "mlp.c_proj.scale_x_orig_quant.bin: value 0 of its part is inf" },
        { "mlp.w1.scale_x_orig_quant.bin", 0, 3, FMT_FFN_GATE_UP, 0, 1,
          "mlp.w1.scale_x_orig_quant.bin: holds 3, model.layers.1.mlp.w2.scale_x_orig_quant.bin "
          "holds " },
    };
    int8_t lowest = -128;
    float two = 2;
    q_err err = { 0 };
    fmt_src *s = NULL;
    run_opts o = begin("d");

    o.ranks = 2;
    T_OK(run(&o, &err), err);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        float v = rows[i].v;

        swap(rows[i].file, rows[i].at, &v, 4);
        T_ERR(load(rows[i].role, rows[i].per_tensor, rows[i].static_x, &err), err, Q_EFORMAT,
              rows[i].part);
        T_OK(load(rows[i].role, !rows[i].per_tensor, 0, &err), err); /* not looked at */
        swap(rows[i].file, rows[i].at, &v, 4);
    }
    swap("mlp.w2.weight.int8.col.1.bin", 3 * 10 + 2, &lowest, 1);
    T_ERR(load(FMT_FFN_GATE_UP, 0, 0, &err), err, Q_EFORMAT,
          "mlp.w2.weight.int8.col.1.bin: a code of row 12 is -128, wanted -127 to 127");
    swap("attention.dense.smoother.1.bin", 4, &two, 4);
    T_ERR(
        fmt_src_open(&s, tmp("d"), &err), err, Q_EUNSUPPORTED,
        "model.layers.1.attention.dense.smoother.1.bin: holds 2, wanted 1: activations would have "
        "to be divided at run time");
}

/* w8a8 of a model without stored codes: rows rounded as they are, and nothing more. */
static void t_load_float(void)
{
    q_err err = { 0 };
    const qnt_load_opts w8a8 = { .scheme = qnt_scheme_find("w8a8") };
    const qnt_load_opts per_tensor = { .scheme = qnt_scheme_find("w8a8"), .per_tensor = 1 };
    const qnt_load_opts ranges_of_x = { .scheme = qnt_scheme_find("w8a8"), .static_x = 1 };
    qnt_tensor t = { 0 }, f = { 0 };
    fmt_src *s;

    begin("none");
    s = open_src(tmp("in"));
    T_OK(qnt_load(&t, s, FMT_FFN_DOWN, 1, &w8a8, &err), err);
    T_OK(qnt_load(&f, s, FMT_FFN_DOWN, 1, &(qnt_load_opts){ 0 }, &err), err);
    T_NEAR(t.x_scale, 0, 0);
    for (int64_t n = 0; n < t.N; n++) {
        const qnt_row r = qnt_tensor_row(&f, n);
        float row[20], max = 0;

        f.scheme->dequantize(row, &r, 0, 20);
        for (int k = 0; k < 20; k++)
            max = fmaxf(max, fabsf(row[k]));
        T_NEAR(t.scale[n], max / 127, 0);
        for (int k = 0; k < 20; k++)
            T_INT(((int8_t *)t.codes)[n * 20 + k], nearbyint((double)row[k] * 127 / (double)max));
    }
    qnt_tensor_free(&t);
    qnt_tensor_free(&f);
    T_ERR(qnt_load(&t, s, FMT_FFN_DOWN, 1, &per_tensor, &err), err, Q_EUNSUPPORTED,
          "in: has no stored int8 weights and ranges: make them with qwen-convert --smoothquant");
    T_ERR(qnt_load(&t, s, FMT_FFN_DOWN, 1, &ranges_of_x, &err), err, Q_EUNSUPPORTED,
          "has no stored int8 weights");
    T_ERR(qnt_load(&t, s, FMT_LM_HEAD, 0, &w8a8, &err), err, Q_EUNSUPPORTED,
          "lm_head is never quantized to w8a8");
    fmt_src_close(s);
}

/* ---- refusals ---------------------------------------------------------------------------------
 */

static void t_refused(void)
{
    run_opts o = begin("r");
    const volatile sig_atomic_t stop = 1;
    q_err err = { 0 };
    float was;

    o.alpha = 1.5;
    T_ERR(run(&o, &err), err, Q_EARG, "smoothquant 1.5: wanted 0 to 1");
    o.alpha = NAN;
    T_ERR(run(&o, &err), err, Q_EARG, "smoothquant nan: wanted 0 to 1");
    o.alpha = 0.5;
    was = ranges[1].out[FMT_FFN_DOWN][3];
    ranges[1].out[FMT_FFN_DOWN][3] = NAN;
    T_ERR(run(&o, &err), err, Q_EFORMAT,
          "ranges of layer 1: output of ffn_down is nan in channel 3");
    ranges[1].out[FMT_FFN_DOWN][3] = was;
    T_TRUE(!q_path_exists(o.out));
    o.stop = &stop;
    T_ERR(run(&o, &err), err, Q_ECANCEL, "stopped by a signal");
    T_TRUE(!q_path_exists(o.out));
    o.stop = NULL;
    T_OK(run(&o, &err), err);
    o.in = o.out;
    o.out = tmp("r2");
    T_ERR(run(&o, &err), err, Q_EUNSUPPORTED, "1-gpu: is smoothed already: start from the");
}

/* What cannot be smoothed stops the conversion and leaves nothing. */
static void t_odd_values(void)
{
    run_opts o = begin("odd");
    tiny_hf m = tiny;
    q_err err = { 0 };

    m.dtype = FMT_F32;
    m.poke = "transformer.h.1.mlp.w1.weight";
    m.poke_value = 1;
    tiny_hf_write(o.in, &m);
    for (o.threads = 1; o.threads < 4; o.threads += 2)
        T_ERR(run(&o, &err), err, Q_EFORMAT,
              "transformer.h.1.mlp.w1.weight: row 20 holds a value that is not finite: cannot "
              "smooth");
    T_TRUE(!q_path_exists(tmp("odd/1-gpu")) && !q_path_exists(tmp("odd/.1-gpu.part")));
    m.poke = NULL;
    tiny_hf_write(o.in, &m);
    o.alpha = 1;                          /* s is the range itself */
    ranges[0].in[FMT_ATTN_QKV][2] = 1e6f; /* and so is the weight, about */
    T_ERR(run(&o, &err), err, Q_EFORMAT, "transformer.h.0.attn.c_attn.weight: ");
    o.alpha = 1;
    T_ERR(run(&o, &err), err, Q_EFORMAT,
          "values lie outside the range of float16 once they are smoothed: use -t bfloat16");
    o.store = FMT_BF16;
    T_OK(run(&o, &err), err);
    ranges[0].in[FMT_ATTN_QKV][2] = tiny_range(FMT_ATTN_QKV, 0, 0, 2);
}

/* ---- the plan ----------------------------------------------------------------------------------
 */

/* A budget takes threads away, and then refuses. */
static void check_budget(const fmt_src *s, const cvt_plan_opts *po, uint64_t memory)
{
    cvt_plan_opts o = *po;
    cvt_plan *p = NULL;
    q_err err = { 0 };
    char want[80];

    o.max_ram = memory;
    T_OK(cvt_plan_build(&p, s, &o, &err), err);
    T_INT(p->opt.threads, 2);
    cvt_plan_free(p);
    o.max_ram = memory - 1;
    T_OK(cvt_plan_build(&p, s, &o, &err), err);
    T_INT(p->opt.threads, 1);
    T_TRUE(p->memory < memory);
    o.max_ram = p->memory - 1;
    cvt_plan_free(p);
    snprintf(want, sizeof want, "of memory, --max-ram allows %llu: allow more",
             (unsigned long long)o.max_ram);
    T_ERR(cvt_plan_build(&p, s, &o, &err), err, Q_ECONFIG, want);
}

static void t_plan(void)
{
    const cvt_plan_opts po = {
        .ranks = 2, .store = FMT_F16, .threads = 2, .tool = "t", .smooth = 1, .alpha = 0.5
    };
    run_opts o = begin("p");
    fmt_src *s = open_src(o.in);
    cvt_plan *p = NULL, *plain = NULL;
    q_buf text = { 0 };
    fmt_json *doc = NULL;
    q_err err = { 0 };

    T_OK(cvt_plan_build(&p, s, &po, &err), err); /* no ranges: nothing is carried out */
    T_OK(cvt_plan_text(&text, p, &err), err);
    T_TRUE(strstr(text.data, "model.layers.1.mlp.w1.weight.int8.col.1.bin") != NULL);
    T_TRUE(strstr(text.data, " float16 -> int8 ") != NULL);
    T_TRUE(strstr(text.data, " calibration\n") != NULL);
    T_TRUE(strstr(text.data, "smoothed by 0.5, float and int8 weights") != NULL);
    T_OK(fmt_json_new(&doc, &err), err);
    T_OK(cvt_plan_json(doc, p, &err), err);
    T_OK(fmt_json_print(&text, doc, 0, &err), err);
    T_TRUE(strstr(text.data, "\"smoothquant\": 0.5") != NULL);
    /* one layer in f32 more than a plain conversion, and 24 files a layer and 18 a rank */
    T_OK(cvt_plan_build(&plain, s, &(cvt_plan_opts){ .ranks = 2, .threads = 2, .tool = "t" }, &err),
         err);
    T_INT(p->n_files - plain->n_files, 2 * (24 + 18 * 2));
    T_TRUE(p->memory > plain->memory);
    check_budget(s, &po, p->memory);
    cvt_plan_free(p);
    cvt_plan_free(plain);
    fmt_json_free(doc);
    q_buf_free(&text);
    fmt_src_close(s);
}

static const t_case cases[] = { T(t_threads),
                                T(t_other_ranks),
                                T(t_from_float),
                                T(t_kv_alone),
                                T(t_missing),
                                T(t_bad_values),
                                T(t_load_float),
                                T(t_refused),
                                T(t_odd_values),
                                T(t_plan),
                                { 0 } };

int main(int argc, char **argv)
{
    const int rc = t_main(argc, argv, cases);

    if (ranges)
        tiny_ranges_free(ranges, tiny.layers);
    return rc;
}
