/* Group weights in every container: what is loaded is what the formats say, value by value; chains
 * of rewriting change no code; what a configuration may not say, and what a format cannot hold, is
 * refused by name.  Tensors of other shapes and values: test_packed_tensors.c. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/archive.h"
#include "convert/export.h"
#include "formats/source.h"
#include "quant/load.h"
#include "tests/t_packed.h"

/* ---- loading ----------------------------------------------------------------------------------
 */

/* rows n0.. of the stacked tensor against the formulas */
static void check_rows(const qnt_tensor *t, int64_t n0, const pk_module *m, const pk_opts *o)
{
    const int64_t G = pk_groups(m->K, o);
    float *row = q_malloc((size_t)m->K * sizeof *row);

    T_INT(t->K, m->K);
    T_TRUE(n0 + m->N <= t->N);
    for (int64_t n = 0; n < m->N; n++) {
        const qnt_row r = qnt_tensor_row(t, n0 + n);

        for (int64_t k = 0; k < m->K; k++) {
            const uint8_t *c = r.codes;
            const int code = o->bits == 8 ? c[k] : k % 2 ? c[k / 2] >> 4 : c[k / 2] & 15;

            T_INT(code, pk_code(m->name, n, k, o));
        }
        for (int64_t g = 0; g < G; g++) {
            T_INT(r.zero[g], pk_zero(m->name, n, g, o));
            T_TRUE(r.scale[g] == q_f16_to_f32(pk_scale(m->name, n, g, o)));
        }
        t->scheme->dequantize(row, &r, 0, m->K);
        for (int64_t k = 0; k < m->K; k++)
            T_TRUE(row[k] == pk_weight(m->name, n, k, m->K, o));
    }
    q_free(row);
}

static int kept(const pk_module *m, const pk_opts *o)
{
    return o->keep && strcmp(o->keep, m->name) == 0;
}

/* the same of a linear that stayed in f16 */
static void check_floats(const qnt_tensor *t, const pk_module *m, const pk_opts *o)
{
    const uint16_t *w = t->codes;

    T_INT(t->N, m->N);
    T_INT(t->K, m->K);
    for (int64_t i = 0; i < m->N * m->K; i++)
        T_INT(w[i], q_f32_to_f16(pk_weight(m->name, i / m->K, i % m->K, m->K, o)));
}

/* role and first row of a module, by its last name */
static fmt_role role_of(const char *name, int64_t *n0)
{
    static const struct {
        const char *leaf;
        fmt_role role;
        int64_t n0;
    } rows[] = {
        { "c_attn", FMT_ATTN_QKV, 0 },          { "attn.c_proj", FMT_ATTN_OUT, 0 },
        { "w2", FMT_FFN_GATE_UP, 0 },           { "w1", FMT_FFN_GATE_UP, PK_FFN },
        { "mlp.c_proj", FMT_FFN_DOWN, 0 },      { "q_proj", FMT_ATTN_QKV, 0 },
        { "k_proj", FMT_ATTN_QKV, PK_HID },     { "v_proj", FMT_ATTN_QKV, PK_HID + PK_KV * PK_HD },
        { "o_proj", FMT_ATTN_OUT, 0 },          { "gate_proj", FMT_FFN_GATE_UP, 0 },
        { "up_proj", FMT_FFN_GATE_UP, PK_FFN }, { "down_proj", FMT_FFN_DOWN, 0 }
    };
    const size_t len = strlen(name);

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const size_t k = strlen(rows[i].leaf);

        if (len > k && strcmp(name + len - k, rows[i].leaf) == 0) {
            *n0 = rows[i].n0;
            return rows[i].role;
        }
    }
    t_fail(__FILE__, __LINE__, "no role for %s", name);
    return FMT_ROLES;
}

/* Every weight, bias and norm of the model at path is that of the formulas. */
static void check_model(const char *path, const pk_opts *o)
{
    q_err err = { 0 };
    fmt_src *s = NULL;
    pk_module m;
    pk_array a;
    int64_t n0 = 0;

    T_OK(fmt_src_open(&s, path, &err), err);
    T_TRUE(fmt_src_packing(s) != NULL);
    for (int i = 0; pk_module_at(&m, o, i); i++) {
        const int64_t layer = i >= (strcmp(o->family, "qwen2") == 0 ? 7 : 5);
        const fmt_role role = role_of(m.name, &n0);
        qnt_tensor t = { 0 };

        T_INT(fmt_src_has(s, (fmt_ref){ role, layer, FMT_WEIGHT }), kept(&m, o));
        T_OK(qnt_load(&t, s, role, layer, &(qnt_load_opts){ 0 }, &err), err);
        if (kept(&m, o)) {
            T_STR(t.scheme->name, "f16");
            check_floats(&t, &m, o);
            qnt_tensor_free(&t);
            continue;
        }
        T_STR(t.scheme->name, o->bits == 4 ? "w4g" : "w8g");
        T_TRUE((t.g_idx != NULL) == (o->desc_act && pk_groups(m.K, o) > 1));
        check_rows(&t, n0, &m, o);
        T_TRUE((t.bias != NULL) == m.bias);
        pk_bias(&a, &m);
        for (int64_t n = 0; m.bias && n < m.N; n++)
            T_TRUE(t.bias[n0 + n] == q_f16_to_f32(((uint16_t *)a.data)[n]));
        q_free(a.data);
        qnt_tensor_free(&t);
    }
    fmt_src_close(s);
}

#define KEPT                                                                                       \
    "model.layers.1.mlp.down_proj" /* modules_to_not_convert of AWQ, ignore of the others */

static const pk_opts sorts[] = {
    { .family = "qwen", .layout = PK_GPTQ, .bits = 4, .group = 32, .sym = 1, .foreign = 1 },
    { .family = "qwen2", .layout = PK_GPTQ, .bits = 4, .group = 16, .zero_min = 1, .foreign = 1 },
    { .family = "qwen2", .layout = PK_GPTQ, .bits = 4, .group = 32, .sym = 1, .desc_act = 1 },
    { .family = "qwen", .layout = PK_GPTQ, .bits = 8, .group = 32, .sym = 1, .no_g_idx = 1 },
    { .family = "qwen2", .layout = PK_GPTQ, .bits = 8, .group = 64, .zero_min = 1, .desc_act = 1 },
    { .family = "qwen2", .layout = PK_GPTQ_V2, .bits = 4, .group = 40 }, /* divides no K */
    { .family = "qwen", .layout = PK_GPTQ_V2, .bits = 4, .group = -1 },
    { .family = "qwen2", .layout = PK_AWQ, .bits = 4, .group = 32 },
    { .family = "qwen", .layout = PK_AWQ, .bits = 4, .group = 128, .sym = 1 }, /* above every K */
    { .family = "qwen2", .layout = PK_AWQ, .bits = 4, .group = 24 },
    { .family = "qwen2", .layout = PK_CT, .bits = 4, .group = 32, .sym = 1 },
    { .family = "qwen", .layout = PK_CT, .bits = 4, .group = 32 },
    { .family = "qwen2", .layout = PK_CT, .bits = 4, .group = 32, .desc_act = 1 },
    { .family = "qwen2", .layout = PK_CT, .bits = 8, .group = -1, .sym = 1 },
    { .family = "qwen2", .layout = PK_AWQ, .bits = 4, .group = 32, .keep = KEPT },
};
enum { N_SORTS = sizeof sorts / sizeof sorts[0] };

static void t_load(void)
{
    for (int i = 0; i < N_SORTS; i++) {
        pk_write(t_tmp("in"), &sorts[i]);
        check_model(t_tmp("in"), &sorts[i]);
    }
}

/* ---- rewriting --------------------------------------------------------------------------------
 */

static q_status to_h5(const char *in, const char *out, int force, q_err *err)
{
    q_status st = Q_OK;
    fmt_src *s = NULL;
    qnt_archive_result r;

    Q_TRY(fmt_src_open(&s, in, err));
    Q_TRY(cvt_archive_write(
        &r, &(qnt_archive_opts){ .src = s, .path = out, .force = force, .tool = "qwenkit test" },
        err));
    T_TRUE(r.modules == 10 || r.modules == 13 || r.modules == 14);
out:
    fmt_src_close(s);
    return st;
}

static q_status to_hf(const char *in, const char *out, cvt_export_to to, const char **format,
                      q_err *err)
{
    q_status st = Q_OK;
    fmt_src *s = NULL;
    cvt_export_result r = { 0 };

    Q_TRY(fmt_src_open(&s, in, err));
    Q_TRY(cvt_export(
        &r,
        &(cvt_export_opts){ .src = s, .out = out, .to = to, .force = 1, .tool = "qwenkit test" },
        err));
    *format = r.format;
out:
    fmt_src_close(s);
    return st;
}

/* The arrays of an export are, byte for byte, those that the loop over single codes packs. */
static void check_packed(const char *dir, const pk_opts *from, int layout)
{
    q_err err = { 0 };
    pk_opts o = *from;
    fmt_hf *hf = NULL;
    pk_module m;
    pk_array a[6];

    o.layout = layout;
    o.no_g_idx = 0;
    T_OK(fmt_hf_open(&hf, dir, &err), err);
    for (int i = 0; pk_module_at(&m, &o, i); i++) {
        const int n = pk_pack(a, &m, &o);

        for (int k = 0; k < n; k++) {
            const size_t at = fmt_hf_find(hf, a[k].name);
            const fmt_tensor *t = fmt_hf_tensor(hf, at);
            char *got;

            if (at == FMT_NONE)
                t_fail(__FILE__, __LINE__, "%s: no %s", dir, a[k].name);
            T_INT(t->dtype, a[k].dtype);
            T_INT(t->ndim, a[k].ndim);
            T_INT(t->shape[0], a[k].shape[0]);
            T_INT(t->bytes, pk_bytes(&a[k]));
            got = q_malloc((size_t)t->bytes);
            T_OK(fmt_hf_read(hf, at, 0, (size_t)t->bytes, got, &err), err);
            T_INT(memcmp(got, a[k].data, (size_t)t->bytes), 0);
            q_free(got);
            q_free(a[k].data);
        }
    }
    fmt_hf_close(hf);
}

static void same_files(const char *a, const char *b)
{
    q_err err = { 0 };
    q_buf x = { 0 }, y = { 0 };

    T_OK(q_file_slurp(&x, a, 1 << 28, &err), err);
    T_OK(q_file_slurp(&y, b, 1 << 28, &err), err);
    T_INT(x.size, y.size);
    T_INT(memcmp(x.data, y.data, x.size), 0);
    q_buf_free(&x);
    q_buf_free(&y);
}

/* What a directory's configuration says of linears in floats; and that every one is named. */
static void check_lists(const char *dir, const pk_opts *o)
{
    q_err err = { 0 };
    char *path = q_path_join(dir, "config.json");
    fmt_json *doc = NULL;
    const fmt_json *q, *awq, *ct;

    T_OK(fmt_json_read(&doc, path, 1 << 20, &err), err);
    q = fmt_json_get(doc, "quantization_config");
    awq = fmt_json_get(q, "modules_to_not_convert");
    ct = fmt_json_get(q, "ignore");
    T_INT(fmt_json_size(awq), o->keep && !ct);
    T_INT(fmt_json_size(ct), ct ? 1 + (o->keep != NULL) : 0);
    if (ct)
        T_STR(fmt_json_text(fmt_json_at(ct, 0)), "lm_head");
    if (o->keep)
        T_STR(fmt_json_text(ct ? fmt_json_at(ct, 1) : fmt_json_at(awq, 0)), o->keep);
    fmt_json_free(doc);
    q_free(path);
}

/* in -> h5 -> every directory -> h5: codes equal all the way, refusals where they belong */
static void t_chains(void)
{
    q_err err = { 0 };
    const char *format = "";

    for (int i = 0; i < N_SORTS; i++) {
        const pk_opts *o = &sorts[i];
        const int needs_v2 = !o->sym && o->zero_min == 0;
        const int ragged = o->group > 0 && (PK_HID % o->group || PK_FFN % o->group);
        const char *from = "gptq";

        pk_write(t_tmp("in"), o);
        T_OK(to_h5(t_tmp("in"), t_tmp("a.h5"), 1, &err), err);
        check_model(t_tmp("a.h5"), o);
        if (o->keep) {
            T_ERR(to_hf(t_tmp("a.h5"), t_tmp("gptq"), CVT_HF_GPTQ, &format, &err), err,
                  Q_EUNSUPPORTED, KEPT ".weight: is not quantized, and configurations of GPTQ");
            from = "a.h5";
        } else {
            T_OK(to_hf(t_tmp("a.h5"), t_tmp("gptq"), CVT_HF_GPTQ, &format, &err), err);
            T_STR(format, needs_v2 ? "gptq_v2" : "gptq");
            check_packed(t_tmp("gptq"), o, needs_v2 ? PK_GPTQ_V2 : PK_GPTQ);
            check_model(t_tmp("gptq"), o);
        }
        if (o->desc_act || o->bits == 8 || ragged)
            T_ERR(to_hf(t_tmp(from), t_tmp("awq"), CVT_HF_AWQ, &format, &err), err, Q_EUNSUPPORTED,
                  o->desc_act ? "AWQ cannot hold"
                  : ragged    ? "which loaders of AWQ want"
                              : "AWQ holds 4");
        if (o->desc_act || ragged) {
            T_ERR(to_hf(t_tmp(from), t_tmp("ct"), CVT_HF_CT, &format, &err), err, Q_EUNSUPPORTED,
                  ragged && !o->desc_act ? "which loaders of compressed-tensors want"
                                         : "compressed-tensors no longer can hold");
            T_OK(to_h5(t_tmp(from), t_tmp("b.h5"), 1, &err), err);
            check_model(t_tmp("b.h5"), o);
            continue;
        }
        if (o->bits == 4) {
            T_OK(to_hf(t_tmp(from), t_tmp("awq"), CVT_HF_AWQ, &format, &err), err);
            check_packed(t_tmp("awq"), o, PK_AWQ);
            check_model(t_tmp("awq"), o);
            check_lists(t_tmp("awq"), o);
            from = "awq";
        }
        T_OK(to_hf(t_tmp(from), t_tmp("ct"), CVT_HF_CT, &format, &err), err);
        check_packed(t_tmp("ct"), o, PK_CT);
        check_model(t_tmp("ct"), o);
        check_lists(t_tmp("ct"), o);
        T_OK(to_h5(t_tmp("ct"), t_tmp("b.h5"), 1, &err), err);
        check_model(t_tmp("b.h5"), o);
        T_OK(to_h5(t_tmp("b.h5"), t_tmp("c.h5"), 1, &err), err);
        check_model(t_tmp("c.h5"), o);
    }
}

/* Small files come through every container byte for byte. */
static void t_small_files(void)
{
    static const char *const names[] = { "generation_config.json", "chat_template.jinja" };
    q_err err = { 0 };
    const char *format;
    fmt_src *s = NULL;
    fmt_files files;
    q_buf b = { 0 };

    pk_write(t_tmp("in"), &sorts[0]);
    T_OK(to_h5(t_tmp("in"), t_tmp("a.h5"), 1, &err), err);
    T_OK(to_hf(t_tmp("a.h5"), t_tmp("out"), CVT_HF_CT, &format, &err), err);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char from[300], to[300];

        snprintf(from, sizeof from, "%s/%s", t_tmp("in"), names[i]);
        snprintf(to, sizeof to, "%s/%s", t_tmp("out"), names[i]);
        same_files(from, to);
    }
    T_OK(fmt_src_open(&s, t_tmp("a.h5"), &err), err);
    files = fmt_src_files(s);
    T_STR(fmt_src_kind(s), "h5");
    T_INT(fmt_src_gen(s)->top_k, 7);
    T_TRUE(fmt_files_has(&files, "chat_template.jinja") && !fmt_files_has(&files, "nothing"));
    T_OK(fmt_files_slurp(&b, &files, "chat_template.jinja", 100, &err), err);
    T_INT(b.size, 12);
    T_ERR(fmt_files_slurp(&b, &files, "chat_template.jinja", 5, &err), err, Q_EFORMAT,
          "a.h5: chat_template.jinja has 12 bytes, at most 5");
    T_ERR(fmt_files_slurp(&b, &files, "nothing", 5, &err), err, Q_ENOINPUT, "holds no nothing");
    T_OK(fmt_files_slurp(&b, &files, "config.json", 1 << 20, &err), err);
    T_STR(b.data + b.size - 2, "\r\n"); /* exact bytes */
    q_buf_free(&b);
    fmt_src_close(s);
}

static void t_same_bytes(void)
{
    q_err err = { 0 };

    pk_write(t_tmp("in"), &sorts[1]);
    T_OK(to_h5(t_tmp("in"), t_tmp("a.h5"), 1, &err), err);
    T_OK(to_h5(t_tmp("in"), t_tmp("b.h5"), 1, &err), err);
    same_files(t_tmp("a.h5"), t_tmp("b.h5"));
    T_ERR(to_h5(t_tmp("in"), t_tmp("b.h5"), 0, &err), err, Q_ECREATE, "exists; --force");
    T_ERR(to_h5(t_tmp("a.h5"), t_tmp("a.h5"), 1, &err), err, Q_EARG, "the output is the input");
}

/* ---- configurations ---------------------------------------------------------------------------
 */

static void t_configs(void)
{
    static const struct {
        int layout;
        const char *config, *beside;
        q_status want; /* Q_OK: opens */
        const char *part;
    } rows[] = {
        { PK_GPTQ, "{\"bits\": 4, \"group_size\": 32, \"desc_act\": false}", "quantize_config.json",
          Q_OK, "" },
        { PK_AWQ,
          "{\"w_bit\": 4, \"q_group_size\": 32, \"zero_point\": true, \"version\": \"GEMM\"}",
          "quant_config.json", Q_OK, "" },
        { PK_GPTQ, "", NULL, Q_ECONFIG, "no quantization_config in config.json" },
        { PK_GPTQ, "3", NULL, Q_EFORMAT, "quantization_config is not an object" },
        { PK_GPTQ, "{\"bits\": 4, \"group_size\": 32}", NULL, Q_EUNSUPPORTED, "quant_method ''" },
        { PK_GPTQ, "{\"quant_method\": \"fp8\"}", NULL, Q_EUNSUPPORTED,
          "in/config.json: quantization_config: quant_method 'fp8' is not read" },
        { PK_GPTQ, "{\"quant_method\": \"bitsandbytes\"}", NULL, Q_EUNSUPPORTED, "bitsandbytes" },
        { PK_GPTQ, "{\"quant_method\": \"gptq\", \"bits\": 3, \"group_size\": 32}", NULL,
          Q_EUNSUPPORTED, "'bits' is 3, 4 and 8 are read" },
        { PK_GPTQ, "{\"quant_method\": \"gptq\", \"bits\": 4}", NULL, Q_ECONFIG, "group_size" },
        { PK_GPTQ, "{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 0}", NULL, Q_ECONFIG,
          "'group_size' is 0" },
        { PK_GPTQ,
          "{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 32, \"checkpoint_format\": "
          "\"marlin\"}",
          NULL, Q_EUNSUPPORTED, "checkpoint_format 'marlin'" },
        { PK_GPTQ,
          "{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 32, \"is_marlin_format\": "
          "true}",
          NULL, Q_EUNSUPPORTED, "checkpoint_format 'marlin'" },
        { PK_GPTQ,
          "{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 32, \"lm_head\": true}", NULL,
          Q_EUNSUPPORTED, "lm_head" },
        { PK_GPTQ,
          "{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 32, \"pack_dtype\": \"int8\"}",
          NULL, Q_EUNSUPPORTED, "pack_dtype 'int8'" },
        { PK_GPTQ, "{\"quant_method\": \"gptq\", \"bits\": 8, \"group_size\": 32}", NULL, Q_ESHAPE,
          "attn.c_attn.qweight' is [8, 192], config.json wants [16, 192]" },
        { PK_GPTQ, "{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 16}", NULL, Q_ESHAPE,
          "attn.c_attn.qzeros' is [2, 24], config.json wants [4, 24]" },
        { PK_AWQ, "{\"quant_method\": \"awq\", \"bits\": 8, \"group_size\": 32}", NULL,
          Q_EUNSUPPORTED, "AWQ with 8 bits" },
        { PK_AWQ,
          "{\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 32, \"version\": \"gemv\"}",
          NULL, Q_EUNSUPPORTED, "AWQ version 'gemv'" },
        { PK_AWQ, "{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 32}", NULL, Q_ESHAPE,
          "attn.c_attn.qweight' is [64, 24], config.json wants [8, 192]" },
        { PK_CT, "{\"quant_method\": \"compressed-tensors\", \"format\": \"float-quantized\"}",
          NULL, Q_EUNSUPPORTED, "format 'float-quantized'" },
        { PK_CT, "{\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\"}", NULL,
          Q_EUNSUPPORTED, "0 config_groups" },
        { PK_CT,
          "{\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\", "
          "\"config_groups\": {\"g\": {\"weights\": {\"num_bits\": 4, \"strategy\": \"tensor\"}}}}",
          NULL, Q_EUNSUPPORTED, "strategy 'tensor'" },
        { PK_CT,
          "{\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\", "
          "\"config_groups\": {\"g\": {\"weights\": {\"num_bits\": 4}, \"input_activations\": "
          "{}}}}",
          NULL, Q_EUNSUPPORTED, "quantized activations" },
    };
    q_err err = { 0 };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fmt_src *s = NULL;
        const pk_opts o = { .family = "qwen",
                            .layout = rows[i].layout,
                            .bits = 4,
                            .group = 32,
                            .sym = rows[i].layout == PK_GPTQ,
                            .config = rows[i].config,
                            .beside = rows[i].beside };

        pk_write(t_tmp("in"), &o);
        if (rows[i].want == Q_OK) {
            T_OK(fmt_src_open(&s, t_tmp("in"), &err), err);
            fmt_src_close(s);
            check_model(t_tmp("in"), &o);
        } else {
            T_ERR(fmt_src_open(&s, t_tmp("in"), &err), err, rows[i].want, rows[i].part);
        }
    }
}

/* What cannot be moved says why; what is asked of quantized weights beyond that, too. */
static void t_refusals(void)
{
    q_err err = { 0 };
    fmt_src *s = NULL;
    qnt_tensor t;

    pk_write(t_tmp("in"), &sorts[7]);
    T_OK(fmt_src_open(&s, t_tmp("in"), &err), err);
    T_ERR(
        qnt_load(&t, s, FMT_ATTN_OUT, 0, &(qnt_load_opts){ .scheme = qnt_scheme_find("w8") }, &err),
        err, Q_EUNSUPPORTED, "quantized already");
    T_ERR(cvt_export(NULL, &(cvt_export_opts){ .src = s, .out = t_tmp("in"), .tool = "t" }, &err),
          err, Q_EARG, "the output is the input");
    fmt_src_close(s);
    T_OK(fmt_src_open(&s, "datasets/qwen-tiny", &err), err);
    T_TRUE(fmt_src_packing(s) == NULL);
    T_ERR(cvt_export(NULL, &(cvt_export_opts){ .src = s, .out = t_tmp("x"), .tool = "t" }, &err),
          err, Q_EUNSUPPORTED, "is not quantized by groups");
    T_ERR(cvt_archive_write(
              NULL, &(qnt_archive_opts){ .src = s, .path = t_tmp("x.h5"), .tool = "t" }, &err),
          err, Q_EUNSUPPORTED, "is not quantized by groups");
    T_TRUE(!q_path_exists(t_tmp("x")) && !q_path_exists(t_tmp("x.h5")));
    fmt_src_close(s);
}

static const t_case cases[] = {
    T(t_load), T(t_chains), T(t_small_files), T(t_same_bytes), T(t_configs), T(t_refusals), { 0 }
};

/* `--write DIR KIND`: a checkpoint for the shell tests */
int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--write") == 0) {
        const size_t i = (size_t)atoi(argv[3]);

        if (i >= N_SORTS)
            return 64;
        pk_write(argv[2], &sorts[i]);
        return 0;
    }
    return t_main(argc, argv, cases);
}
