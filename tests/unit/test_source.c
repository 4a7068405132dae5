/* source: the same model in every container gives the same view, and what cannot be viewed is
 * refused by name. */
#include <string.h>
#include <unistd.h>

#include "convert/exec.h"
#include "formats/base/q_file.h"
#include "formats/source.h"
#include "tests/t.h"
#include "tests/t_hf.h"

static const tiny_hf tiny = {
    .hid = 24, .layers = 2, .heads = 4, .ffn = 20, .vocab = 37, .dtype = FMT_F16
};

static const char *hf_dir(const tiny_hf *o)
{
    q_err err = { 0 };
    const char *dir = t_tmp("hf");

    T_OK(q_dir_remove(dir, &err), err);
    tiny_hf_write(dir, o);
    return dir;
}

static void convert(const char *from, const char *to, int ranks, fmt_dtype store)
{
    q_err err = { 0 };
    fmt_src *s = NULL;
    cvt_plan *p = NULL;
    cvt_result r = { 0 };

    T_OK(fmt_src_open(&s, from, &err), err);
    T_OK(cvt_plan_build(
             &p, s,
             &(cvt_plan_opts){ .ranks = ranks, .store = store, .threads = 1, .tool = "test" },
             &err),
         err);
    T_OK(cvt_run(&r, p, &(cvt_run_opts){ .out = to, .force = 1 }, &err), err);
    cvt_result_free(&r);
    cvt_plan_free(p);
    fmt_src_close(s);
}

static uint64_t state = 1;

static int64_t below(int64_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)((state >> 33) % (uint64_t)n);
}

/* [from, to) inside [0, n), never empty */
static void range(int64_t *from, int64_t *to, int64_t n)
{
    *from = below(n);
    *to = *from + 1 + below(n - *from);
}

static void compare_box(const fmt_src *a, const fmt_src *b, fmt_ref ref, fmt_box box)
{
    static uint16_t x[80 * 80], y[80 * 80];
    q_err err = { 0 };
    const size_t n = (size_t)((box.n1 - box.n0) * (box.k1 - box.k0)) * sizeof x[0];

    T_TRUE(n <= sizeof x);
    memset(x, 0xaa, sizeof x);
    memset(y, 0x55, sizeof y);
    T_OK(fmt_src_read(a, ref, box, x, &err), err);
    T_OK(fmt_src_read(b, ref, box, y, &err), err);
    T_TRUE(memcmp(x, y, n) == 0);
    if (n < sizeof x) /* nothing behind the box */
        T_TRUE(x[n / sizeof x[0]] == 0xaaaa && y[n / sizeof x[0]] == 0x5555);
}

/* every role, layer and part: the same shape and type, and equal values in random boxes */
static void compare(const fmt_src *a, const fmt_src *b)
{
    const fmt_model *m = fmt_src_model(a);

    for (int r = 0; r < FMT_ROLES; r++)
        for (int64_t l = 0; l < (fmt_role_get((fmt_role)r)->per_layer ? m->layers : 1); l++)
            for (int p = 0; p < FMT_PARTS; p++) {
                const fmt_ref ref = { (fmt_role)r, l, (fmt_part)p };
                fmt_box all, box;

                T_INT(fmt_src_has(a, ref), fmt_src_has(b, ref));
                if (!fmt_src_has(a, ref))
                    continue;
                all = fmt_src_shape(a, ref);
                T_INT(fmt_src_dtype(a, ref), fmt_src_dtype(b, ref));
                T_INT(fmt_src_shape(b, ref).n1, all.n1);
                T_INT(fmt_src_shape(b, ref).k1, all.k1);
                compare_box(a, b, ref, all);
                for (int i = 0; i < 60; i++) {
                    range(&box.n0, &box.n1, all.n1);
                    range(&box.k0, &box.k1, all.k1);
                    compare_box(a, b, ref, box);
                }
            }
}

static void t_views_agree(void)
{
    const char *hf = hf_dir(&tiny), *out = t_tmp("ft");
    q_err err = { 0 };

    for (int ranks = 1; ranks <= 4; ranks *= 2) {
        fmt_src *a = NULL, *b = NULL;
        char name[32];

        snprintf(name, sizeof name, "ft/%d-gpu", ranks);
        convert(hf, out, ranks, FMT_F16);
        T_OK(fmt_src_open(&a, hf, &err), err);
        T_OK(fmt_src_open(&b, t_tmp(name), &err), err);
        T_STR(fmt_src_kind(a), "hf");
        T_STR(fmt_src_kind(b), "ft");
        T_INT(fmt_src_ranks(a), 1);
        T_INT(fmt_src_ranks(b), ranks);
        T_INT(fmt_src_bytes(a), fmt_src_bytes(b));
        T_INT(fmt_src_bytes(a), 2 * fmt_model_params(fmt_src_model(a)));
        T_INT(fmt_src_model(a)->train_ctx, fmt_src_model(b)->train_ctx);
        compare(a, b);
        fmt_src_close(a);
        fmt_src_close(b);
    }
}

/* values against the generator, once through each container */
static void t_values(void)
{
    const char *hf = hf_dir(&tiny);
    const fmt_ref up = { FMT_FFN_GATE_UP, 1, FMT_WEIGHT }, bias = { FMT_ATTN_QKV, 0, FMT_BIAS };
    q_err err = { 0 };

    convert(hf, t_tmp("v"), 2, FMT_F32);
    for (int k = 0; k < 2; k++) {
        fmt_src *s = NULL;
        uint16_t h[24];
        float v[24], w;

        T_OK(fmt_src_open(&s, k ? t_tmp("v/2-gpu") : hf, &err), err);
        /* row 25 of the stack is row 5 of w1: gate (w2) comes first */
        T_OK(fmt_src_read(s, up, (fmt_box){ 25, 26, 0, 24 }, k ? (void *)v : h, &err), err);
        if (!k)
            fmt_convert(v, FMT_F32, h, FMT_F16, 24, NULL);
        for (uint64_t c = 0; c < 24; c++)
            T_NEAR(v[c], tiny_hf_value("transformer.h.1.mlp.w1.weight", 5 * 24 + c), 0.0005);
        T_OK(fmt_src_read(s, bias, (fmt_box){ 71, 72, 0, 1 }, k ? (void *)&w : h, &err), err);
        if (!k)
            fmt_convert(&w, FMT_F32, h, FMT_F16, 1, NULL);
        T_NEAR(w, tiny_hf_value("transformer.h.0.attn.c_attn.bias", 71), 0.0005);
        T_STR(fmt_src_name(s, up, 25),
              k ? "model.layers.1.mlp.w1.weight.0.bin" : "transformer.h.1.mlp.w1.weight");
        T_STR(fmt_src_name(s, up, 19),
              k ? "model.layers.1.mlp.w2.weight.1.bin" : "transformer.h.1.mlp.w2.weight");
        fmt_src_close(s);
    }
}

static void t_tied(void)
{
    tiny_hf o = tiny;
    fmt_src *a = NULL, *b = NULL;
    uint16_t x[37 * 24], y[37 * 24];
    q_err err = { 0 };

    o.more_config = "\"tie_word_embeddings\": true, ";
    o.drop = "lm_head.weight";
    T_OK(fmt_src_open(&a, hf_dir(&o), &err), err);
    T_OK(fmt_src_read(a, (fmt_ref){ FMT_LM_HEAD, 0, FMT_WEIGHT }, (fmt_box){ 0, 37, 0, 24 }, x,
                      &err),
         err);
    T_OK(fmt_src_read(a, (fmt_ref){ FMT_TOK_EMBD, 0, FMT_WEIGHT }, (fmt_box){ 0, 37, 0, 24 }, y,
                      &err),
         err);
    T_TRUE(memcmp(x, y, sizeof x) == 0);
    T_INT(fmt_src_bytes(a), 2 * fmt_model_params(fmt_src_model(a)));
    convert(t_tmp("hf"), t_tmp("tied"), 1, FMT_F16);
    T_OK(fmt_src_open(&b, t_tmp("tied"), &err), err); /* the one *-gpu below it */
    compare(a, b);
    fmt_src_close(a);
    fmt_src_close(b);
}

static void t_strange_tensors(void)
{
    static const struct {
        const char *extra;
        float value;
        const char *part; /* NULL: accepted */
    } rows[] = {
        { "transformer.h.0.mlp.w1.bias", 0, NULL },
        { "transformer.h.1.attn.c_proj.bias", 0, NULL },
        { "transformer.rotary_emb.inv_freq", 1, NULL },
        { "transformer.h.1.attn.rotary_emb.inv_freq", 1, NULL },
        { "transformer.h.0.mlp.w1.bias", 0.5f,
          "'transformer.h.0.mlp.w1.bias' is not zero, family qwen has no such bias" },
        { "transformer.h.2.mlp.w1.bias", 0, "is not part of family qwen" },
        { "transformer.h.0.ln_1.bias", 0, "'transformer.h.0.ln_1.bias' is not part of family" },
        { "transformer.h.0.mlp.w3.weight", 0, "is not part of family qwen" },
        { "transformer.h.2.ln_1.weight", 0, "'transformer.h.2.ln_1.weight' is not part of" },
        { "lm_head.bias", 0, "'lm_head.bias' is not part of family qwen" },
    };
    q_err err = { 0 };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        tiny_hf o = tiny;
        fmt_src *s = NULL;

        o.extra = rows[i].extra;
        o.extra_value = rows[i].value;
        if (rows[i].part)
            T_ERR(fmt_src_open(&s, hf_dir(&o), &err), err, Q_EUNSUPPORTED, rows[i].part);
        else
            T_OK(fmt_src_open(&s, hf_dir(&o), &err), err);
        fmt_src_close(s);
    }
}

static void t_wrong_tensors(void)
{
    tiny_hf o = tiny;
    fmt_src *s = NULL;
    q_err err = { 0 };

    o.drop = "transformer.h.1.attn.c_attn.bias";
    T_ERR(fmt_src_open(&s, hf_dir(&o), &err), err, Q_EFORMAT,
          "tensor 'transformer.h.1.attn.c_attn.bias' is missing");
    o.drop = "lm_head.weight";
    T_ERR(fmt_src_open(&s, hf_dir(&o), &err), err, Q_EFORMAT, "'lm_head.weight' is missing");
    o.drop = NULL;
    o.bend = "transformer.h.0.mlp.c_proj.weight";
    T_ERR(fmt_src_open(&s, hf_dir(&o), &err), err, Q_ESHAPE,
          "'transformer.h.0.mlp.c_proj.weight' is [25, 20], config.json wants [24, 20]");
    o.bend = "transformer.ln_f.weight";
    T_ERR(fmt_src_open(&s, hf_dir(&o), &err), err, Q_ESHAPE,
          "'transformer.ln_f.weight' is [25], config.json wants [24]");
    o.bend = NULL;
    o.hid = 24;
    hf_dir(&o);
    o.heads = 2; /* config.json alone: heads of 12 elements */
    o.more_config = "\"x\": 1, ";
    tiny_hf_config(t_tmp("hf"), &o);
    T_OK(fmt_src_open(&s, t_tmp("hf"), &err), err);
    fmt_src_close(s);
    s = NULL;
    o.vocab = 38;
    tiny_hf_config(t_tmp("hf"), &o);
    T_ERR(fmt_src_open(&s, t_tmp("hf"), &err), err, Q_ESHAPE,
          "'transformer.wte.weight' is [37, 24], config.json wants [38, 24]");
}

static void t_paths(void)
{
    fmt_src *s = NULL;
    q_err err = { 0 };
    const char *hf = hf_dir(&tiny);

    T_ERR(fmt_src_open(&s, t_tmp("nothing"), &err), err, Q_ENOINPUT, "nothing: no such model");
    T_ERR(fmt_src_open(&s, t_tmp("hf/config.json"), &err), err, Q_EFORMAT,
          "neither a directory nor an HDF5 file");
    T_OK(q_dir_make(t_tmp("empty"), &err), err);
    T_ERR(fmt_src_open(&s, t_tmp("empty"), &err), err, Q_ENOINPUT,
          "no config.json (Hugging Face) and no config.ini (FT) in it");
    convert(hf, t_tmp("two"), 1, FMT_F16);
    T_OK(fmt_src_open(&s, t_tmp("two"), &err), err);
    T_STR(fmt_src_dir(s), t_tmp("two/1-gpu"));
    fmt_src_close(s);
    s = NULL;
    convert(hf, t_tmp("two"), 2, FMT_F16);
    T_ERR(fmt_src_open(&s, t_tmp("two"), &err), err, Q_EARG, "holds several models");
    convert(hf, t_tmp("both"), 1, FMT_F16); /* *-gpu directories in a checkpoint do not matter */
    T_OK(q_dir_make(t_tmp("hf/1-gpu"), &err), err);
    T_OK(q_dir_make(t_tmp("hf/2-gpu"), &err), err);
    T_OK(fmt_src_open(&s, hf, &err), err);
    T_STR(fmt_src_kind(s), "hf");
    fmt_src_close(s);
}

static void t_ft_damage(void)
{
    fmt_src *s = NULL;
    q_err err = { 0 };
    uint16_t v[24];
    const fmt_ref norm = { FMT_ATTN_NORM, 1, FMT_WEIGHT };

    convert(hf_dir(&tiny), t_tmp("d"), 2, FMT_F16);
    T_OK(q_dir_remove(t_tmp("d/2-gpu/config.json"), &err), err); /* not needed: config.ini has it */
    T_OK(fmt_src_open(&s, t_tmp("d/2-gpu"), &err), err);
    T_INT(truncate(t_tmp("d/2-gpu/model.layers.1.ln_1.weight.bin"), 46), 0);
    T_ERR(fmt_src_read(s, norm, (fmt_box){ 0, 24, 0, 1 }, v, &err), err, Q_EFORMAT,
          "model.layers.1.ln_1.weight.bin: 46 bytes, had 48 when the model was opened");
    fmt_src_close(s);
    s = NULL;
    T_ERR(fmt_src_open(&s, t_tmp("d/2-gpu"), &err), err, Q_ESHAPE,
          "model.layers.1.ln_1.weight.bin: 46 bytes, wanted 48 ([24, 1] for 2 ranks)");
    T_OK(q_dir_remove(t_tmp("d/2-gpu/model.layers.1.ln_1.weight.bin"), &err), err);
    T_ERR(fmt_src_open(&s, t_tmp("d/2-gpu"), &err), err, Q_ENOINPUT,
          "model.layers.1.ln_1.weight.bin: cannot open");
    T_INT(
        symlink("model.layers.0.ln_1.weight.bin", t_tmp("d/2-gpu/model.layers.1.ln_1.weight.bin")),
        0);
    T_ERR(fmt_src_open(&s, t_tmp("d/2-gpu"), &err), err, Q_EFORMAT, "is a link: refused");
    T_TRUE(s == NULL);
}

static const t_case cases[] = { T(t_views_agree),   T(t_values),
                                T(t_tied),          T(t_strange_tensors),
                                T(t_wrong_tensors), T(t_paths),
                                T(t_ft_damage),     { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
