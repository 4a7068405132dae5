/* SmoothQuant on a model with outlier channels.  8 channels of every norm weight are multiplied by
 * 30 and the columns that read them divided by it: the same function, but activations whose largest
 * channels hide all others from int8.  Without smoothing w8a8 loses 8 % of the perplexity with a
 * scale for each token and channel, and is useless with one for each tensor; with smoothing the
 * first loses less than 1 %. */
#include <string.h>

#include "calibrate/calibrate.h"
#include "calibrate/eval_ppl.h"
#include "convert/exec.h"
#include "datasets/dset.h"
#include "formats/base/q_file.h"
#include "formats/hf_dir.h"
#include "quant/load.h"
#include "tests/t.h"

#define MODEL "datasets/qwen-tiny"
#define DATA  "datasets/samples.jsonl"

enum { CHANNELS = 8, FACTOR = 30 };

/* 1: the channel is one of the outliers of this norm */
static int is_outlier(int64_t layer, fmt_role norm, int64_t channel)
{
    return channel % 32 == (layer * 5 + norm * 7) % 32;
}

/* One tensor of the source, as f32 with the outliers in it. */
static float *bent(const fmt_src *src, fmt_role role, int64_t layer, fmt_part part, int64_t *N,
                   int64_t *K)
{
    q_err err = { 0 };
    const fmt_ref ref = { role, layer, part };
    const fmt_box b = fmt_src_shape(src, ref);
    const fmt_role reads = role == FMT_ATTN_QKV      ? FMT_ATTN_NORM
                           : role == FMT_FFN_GATE_UP ? FMT_FFN_NORM
                                                     : FMT_ROLES;
    const size_t n = (size_t)(b.n1 * b.k1);
    uint16_t *raw = q_malloc(n * sizeof *raw);
    float *v = q_malloc(n * sizeof *v);

    T_TRUE(raw != NULL && v != NULL);
    T_OK(fmt_src_read(src, ref, b, raw, &err), err);
    fmt_convert(v, FMT_F32, raw, FMT_F16, n, NULL);
    q_free(raw);
    for (size_t i = 0; i < n; i++) {
        if ((role == FMT_ATTN_NORM || role == FMT_FFN_NORM) && is_outlier(layer, role, (int64_t)i))
            v[i] *= FACTOR;
        if (reads != FMT_ROLES && part == FMT_WEIGHT && is_outlier(layer, reads, (int64_t)i % b.k1))
            v[i] /= FACTOR;
    }
    *N = b.n1;
    *K = b.k1;
    return v;
}

/* Names of family qwen; gate and up are two tensors there. */
static void put(fmt_hf_writer *w, const fmt_src *src, fmt_role role, int64_t layer, fmt_part part,
                int declare)
{
    q_err err = { 0 };
    const fmt_name_row *names = fmt_family_names(fmt_src_model(src)->family, role);
    const int pieces = names->tensor[1] ? 2 : 1;
    char name[128];
    int64_t N, K;
    float *v = bent(src, role, layer, part, &N, &K);

    N /= pieces;
    for (int p = 0; p < pieces; p++) {
        T_TRUE(fmt_name_make(name, sizeof name, names->tensor[p], layer,
                             part == FMT_BIAS ? ".bias" : ".weight"));
        if (declare)
            T_OK(fmt_hf_declare(w, name, FMT_F32, K == 1 ? 1 : 2, (int64_t[]){ N, K }, &err), err);
        else
            T_OK(fmt_hf_write(w, v + p * N * K, (size_t)(N * K) * sizeof *v, &err), err);
    }
    q_free(v);
}

static void copy_in(const char *dir, const char *name)
{
    q_err err = { 0 };
    q_buf data = { 0 };
    char *from = q_path_join(MODEL, name), *to = q_path_join(dir, name);

    T_OK(q_file_slurp(&data, from, (size_t)1 << 24, &err), err);
    T_OK(q_out_whole(to, 1, data.data, data.size, &err), err);
    q_buf_free(&data);
    q_free(from);
    q_free(to);
}

static char *write_model(void)
{
    static const char *const files[] = { "config.json", "generation_config.json", "qwen.tiktoken",
                                         "tokenizer_config.json" };
    q_err err = { 0 };
    char *dir = q_path_join(t_tmpdir(), "outliers");
    fmt_src *src = NULL;
    fmt_hf_writer *w = NULL;

    T_OK(q_dir_make(dir, &err), err);
    T_OK(fmt_src_open(&src, MODEL, &err), err);
    T_OK(fmt_hf_create(&w, dir, 0, 1, &err), err);
    for (int declare = 1; declare >= 0; declare--)
        for (int64_t layer = -1; layer < fmt_src_model(src)->layers; layer++)
            for (int r = 0; r < FMT_ROLES; r++)
                for (int part = FMT_WEIGHT; part <= FMT_BIAS; part++) {
                    const fmt_ref ref = { (fmt_role)r, layer < 0 ? 0 : layer, (fmt_part)part };

                    if (fmt_role_get(ref.role)->per_layer == (layer >= 0) && fmt_src_has(src, ref))
                        put(w, src, ref.role, ref.layer, ref.part, declare);
                }
    T_OK(fmt_hf_commit(w, &err), err);
    fmt_hf_writer_close(w);
    fmt_src_close(src);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        copy_in(dir, files[i]);
    return dir;
}

/* FT directory OUT of the model, smoothed by alpha; negative: int8 weights and ranges alone. */
static char *convert(const fmt_src *src, qnt_ranges *layer, const char *name, double alpha)
{
    q_err err = { 0 };
    char *out = q_path_join(t_tmpdir(), name), *dir;
    cvt_plan *p = NULL;
    cvt_result done = { 0 };

    for (int64_t i = 0; i < fmt_src_model(src)->layers; i++) {
        layer[i].searched = 1; /* by this test: one for all linears */
        for (int r = 0; r < FMT_ROLES; r++)
            layer[i].alpha[r] = alpha;
    }
    T_OK(cvt_plan_build(&p, src,
                        &(cvt_plan_opts){ .ranks = 1,
                                          .store = FMT_F16,
                                          .threads = 2,
                                          .tool = "test",
                                          .smooth = 1,
                                          .alpha = CVT_ALPHA_AUTO },
                        &err),
         err);
    T_OK(cvt_plan_set_ranges(p, layer, &err), err);
    T_OK(cvt_run(&done, p, &(cvt_run_opts){ .out = out }, &err), err);
    dir = q_strdup(done.path);
    cvt_result_free(&done);
    cvt_plan_free(p);
    q_free(out);
    return dir;
}

static void convert_both(const char *model, char **plain, char **smoothed)
{
    q_err err = { 0 };
    fmt_src *src = NULL;
    cal_run r;
    cal_ranges ranges;

    T_OK(fmt_src_open(&src, model, &err), err);
    T_OK(cal_run_open(&r, src,
                      &(cal_run_opts){ .data = { .path = DATA, .samples = 32, .seq_len = 256 },
                                       .tool = "test" },
                      &err),
         err);
    T_OK(cal_run_ranges(&r, &ranges, &err), err);
    *plain = convert(src, ranges.layer, "plain", -1);
    *smoothed = convert(src, ranges.layer, "smoothed", 0.5);
    cal_ranges_close(&ranges);
    cal_run_close(&r);
    fmt_src_close(src);
}

static double perplexity(const char *model, int w8a8, int per_token, int per_channel)
{
    q_err err = { 0 };
    rt_session *s = NULL;
    ds_set *set = NULL;
    q_buf text = { 0 };
    q_ids ids = { 0 };
    cal_ppl_result r;

    T_OK(rt_session_open(&s,
                         &(rt_session_opts){ .path = model,
                                             .smooth_quant = w8a8,
                                             .per_token = per_token,
                                             .per_channel = per_channel },
                         NULL, &err),
         err);
    T_OK(ds_open(&set, DATA, &(ds_opts){ .max_samples = 12 }, &err), err);
    T_OK(ds_join(set, NULL, "\n\n", &text, &err), err);
    T_OK(txt_encode(s->tok, text.data, text.size, 0, &ids, &err), err);
    T_OK(cal_ppl_run(&r, s, NULL, ids.v, ids.n, &(cal_ppl_opts){ .window = 512 }, &err), err);
    rt_session_close(s);
    ds_close(set);
    q_buf_free(&text);
    q_ids_free(&ids);
    return r.ppl;
}

static void t_outliers(void)
{
    char *model = write_model(), *plain, *smoothed;
    const double original = perplexity(MODEL, 0, 0, 0), same = perplexity(model, 0, 0, 0);
    double naive, naive_tensor, after, after_tensor;

    convert_both(model, &plain, &smoothed);
    naive = perplexity(plain, 1, 1, 1);
    naive_tensor = perplexity(plain, 1, 0, 0);
    after = perplexity(smoothed, 1, 1, 1);
    after_tensor = perplexity(smoothed, 1, 0, 0);
    printf("# float %.4f, with outliers %.4f; w8a8 by token and channel: plain %.4f, smooth 0.5 "
           "%.4f; by tensor: plain %.4f, smooth 0.5 %.4f\n",
           original, same, naive, after, naive_tensor, after_tensor);
    T_NEAR(same / original, 1, 1e-4); /* the same function */
    T_TRUE(naive > 1.05 * original);  /* measured: 8 % */
    T_TRUE(naive_tensor > 1.5 * original);
    T_NEAR(after / original, 1, 0.01);
    T_TRUE(after_tensor < 0.7 * naive_tensor);
    q_free(model);
    q_free(plain);
    q_free(smoothed);
}

static const t_case cases[] = { T(t_outliers), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
