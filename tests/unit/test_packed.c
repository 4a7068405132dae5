/* Group weights in every container: what is loaded is what the formats say, value by value; chains
 * of rewriting change no code; what a format cannot hold, and what is broken, is refused by name.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/archive.h"
#include "convert/export.h"
#include "formats/source.h"
#include "quant/load.h"
#include "tests/t_packed.h"

static const char *tmp(const char *name)
{
    static char buf[16][256];
    static int turn;
    char *p = buf[turn++ & 15];

    snprintf(p, sizeof buf[0], "%s/%s", t_tmpdir(), name);
    return p;
}

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
            T_TRUE(r.scale[g] == q_f16_to_f32(pk_scale(m->name, n, g)));
        }
        t->scheme->dequantize(row, &r, 0, m->K);
        for (int64_t k = 0; k < m->K; k++)
            T_TRUE(row[k] == pk_weight(m->name, n, k, m->K, o));
    }
    q_free(row);
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

        T_INT(fmt_src_has(s, (fmt_ref){ role, layer, FMT_WEIGHT }), 0);
        T_OK(qnt_load(&t, s, role, layer, &(qnt_load_opts){ 0 }, &err), err);
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
};
enum { N_SORTS = sizeof sorts / sizeof sorts[0] };

static void t_load(void)
{
    for (int i = 0; i < N_SORTS; i++) {
        pk_write(tmp("in"), &sorts[i]);
        check_model(tmp("in"), &sorts[i]);
    }
}

/* ---- rewriting --------------------------------------------------------------------------------
 */

static q_status to_h5(const char *in, const char *out, int force, q_err *err)
{
    q_status st = Q_OK;
    fmt_src *s = NULL;
    cvt_archive_result r;

    Q_TRY(fmt_src_open(&s, in, err));
    Q_TRY(cvt_archive_write(
        &r, &(cvt_archive_opts){ .src = s, .path = out, .force = force, .tool = "qwenkit test" },
        err));
    T_TRUE(r.modules == 10 || r.modules == 14);
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

/* in -> h5 -> every directory -> h5: codes equal all the way, refusals where they belong */
static void t_chains(void)
{
    q_err err = { 0 };
    const char *format = "";

    for (int i = 0; i < N_SORTS; i++) {
        const pk_opts *o = &sorts[i];
        const int needs_v2 = !o->sym && o->zero_min == 0;

        pk_write(tmp("in"), o);
        T_OK(to_h5(tmp("in"), tmp("a.h5"), 1, &err), err);
        check_model(tmp("a.h5"), o);
        T_OK(to_hf(tmp("a.h5"), tmp("gptq"), CVT_HF_GPTQ, &format, &err), err);
        T_STR(format, needs_v2 ? "gptq_v2" : "gptq");
        check_packed(tmp("gptq"), o, needs_v2 ? PK_GPTQ_V2 : PK_GPTQ);
        check_model(tmp("gptq"), o);
        if (o->desc_act || o->bits == 8)
            T_ERR(to_hf(tmp("gptq"), tmp("awq"), CVT_HF_AWQ, &format, &err), err, Q_EUNSUPPORTED,
                  o->desc_act ? "AWQ cannot hold" : "AWQ holds 4");
        if (o->desc_act) {
            T_ERR(to_hf(tmp("gptq"), tmp("ct"), CVT_HF_CT, &format, &err), err, Q_EUNSUPPORTED,
                  "compressed-tensors no longer can hold");
            continue;
        }
        if (o->bits == 4) {
            T_OK(to_hf(tmp("gptq"), tmp("awq"), CVT_HF_AWQ, &format, &err), err);
            check_packed(tmp("awq"), o, PK_AWQ);
            check_model(tmp("awq"), o);
        }
        T_OK(to_hf(tmp(o->bits == 4 ? "awq" : "gptq"), tmp("ct"), CVT_HF_CT, &format, &err), err);
        check_packed(tmp("ct"), o, PK_CT);
        check_model(tmp("ct"), o);
        T_OK(to_h5(tmp("ct"), tmp("b.h5"), 1, &err), err);
        check_model(tmp("b.h5"), o);
        T_OK(to_h5(tmp("b.h5"), tmp("c.h5"), 1, &err), err);
        check_model(tmp("c.h5"), o);
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

    pk_write(tmp("in"), &sorts[0]);
    T_OK(to_h5(tmp("in"), tmp("a.h5"), 1, &err), err);
    T_OK(to_hf(tmp("a.h5"), tmp("out"), CVT_HF_CT, &format, &err), err);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char from[300], to[300];

        snprintf(from, sizeof from, "%s/%s", tmp("in"), names[i]);
        snprintf(to, sizeof to, "%s/%s", tmp("out"), names[i]);
        same_files(from, to);
    }
    T_OK(fmt_src_open(&s, tmp("a.h5"), &err), err);
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

    pk_write(tmp("in"), &sorts[1]);
    T_OK(to_h5(tmp("in"), tmp("a.h5"), 1, &err), err);
    T_OK(to_h5(tmp("in"), tmp("b.h5"), 1, &err), err);
    same_files(tmp("a.h5"), tmp("b.h5"));
    T_ERR(to_h5(tmp("in"), tmp("b.h5"), 0, &err), err, Q_ECREATE, "exists; --force");
    T_ERR(to_h5(tmp("a.h5"), tmp("a.h5"), 1, &err), err, Q_EARG, "the output is the input");
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

        pk_write(tmp("in"), &o);
        if (rows[i].want == Q_OK) {
            T_OK(fmt_src_open(&s, tmp("in"), &err), err);
            fmt_src_close(s);
            check_model(tmp("in"), &o);
        } else {
            T_ERR(fmt_src_open(&s, tmp("in"), &err), err, rows[i].want, rows[i].part);
        }
    }
}

/* ---- broken tensors ---------------------------------------------------------------------------
 */

#define L0 "model.layers.0."

static void poke_g_idx(const char *name, void *data, size_t bytes)
{
    (void)bytes;
    if (strcmp(name, L0 "mlp.down_proj.g_idx") == 0)
        ((int32_t *)data)[5] = 3; /* three groups: 0 to 2 */
}
static void poke_k_idx(const char *name, void *data, size_t bytes)
{
    (void)bytes;
    if (strcmp(name, L0 "self_attn.k_proj.g_idx") == 0)
        ((int32_t *)data)[41] = 0; /* is in group 1 */
}
static void poke_scale(const char *name, void *data, size_t bytes)
{
    (void)bytes;
    if (strcmp(name, L0 "self_attn.o_proj.scales") == 0)
        ((uint16_t *)data)[64 + 2] = 0x7c00; /* group 1, output 2: infinity */
}
static void poke_zero(const char *name, void *data, size_t bytes)
{
    (void)bytes;
    if (strcmp(name, L0 "mlp.gate_proj.qzeros") == 0)
        ((uint32_t *)data)[1] |= 15u << 8; /* group 0, output 10 */
}
static void poke_shape(const char *name, void *data, size_t bytes)
{
    (void)bytes;
    if (strcmp(name, L0 "mlp.up_proj.weight_shape") == 0)
        ((int64_t *)data)[0]++;
}
static void poke_bias(const char *name, void *data, size_t bytes)
{
    (void)bytes;
    if (strcmp(name, L0 "mlp.up_proj.bias") == 0)
        ((uint16_t *)data)[7] = 0x3c00;
}

static q_status load_all(const char *path, q_err *err)
{
    q_status st = Q_OK;
    fmt_src *s = NULL;
    qnt_tensor t = { 0 };

    Q_TRY(fmt_src_open(&s, path, err));
    for (int64_t l = 0; l < PK_LAYERS; l++)
        for (int r = 0; r < FMT_ROLES; r++)
            if (fmt_role_get((fmt_role)r)->quant) {
                Q_TRY(qnt_load(&t, s, (fmt_role)r, l, &(qnt_load_opts){ 0 }, err));
                qnt_tensor_free(&t);
            }
out:
    fmt_src_close(s);
    return st;
}

static void t_broken(void)
{
    static const struct {
        pk_opts o;
        q_status want;
        const char *part;
    } rows[] = {
        { { .drop = L0 "self_attn.k_proj.qzeros" }, Q_EFORMAT, "k_proj.qzeros' is missing" },
        { { .drop = L0 "self_attn.q_proj.scales" }, Q_EFORMAT, "q_proj.scales' is missing" },
        { { .drop = L0 "self_attn.v_proj.qweight" },
          Q_EUNSUPPORTED,
          "q_proj.qweight' is quantized and '" L0 "self_attn.v_proj.weight' is not" },
        { { .drop = L0 "self_attn.o_proj.g_idx" }, Q_OK, "" }, /* groups are in order anyway */
        { { .drop = L0 "self_attn.k_proj.g_idx" }, Q_EFORMAT, "k_proj.g_idx' is missing, its" },
        { { .drop = L0 "self_attn.o_proj.g_idx", .desc_act = 1 }, Q_EFORMAT, "desc_act needs it" },
        { { .drop = L0 "self_attn.q_proj.bias" }, Q_EFORMAT, "q_proj.bias' is missing" },
        { { .bend = L0 "mlp.up_proj.qweight" }, Q_ESHAPE, "up_proj.qweight' is [9, 96]" },
        { { .bend = L0 "mlp.up_proj.qzeros" }, Q_ESHAPE, "up_proj.qzeros' is [3, 12]" },
        { { .bend = L0 "mlp.up_proj.scales" }, Q_ESHAPE, "up_proj.scales' is [3, 96]" },
        { { .bend = L0 "mlp.up_proj.g_idx" }, Q_ESHAPE, "up_proj.g_idx' is [65]" },
        { { .retype = L0 "mlp.up_proj.qweight" },
          Q_EFORMAT,
          "up_proj.qweight' is F32, wanted I32" },
        { { .retype = L0 "mlp.up_proj.scales" }, Q_EFORMAT, "up_proj.scales' is I16, wanted F16" },
        { { .retype = L0 "mlp.up_proj.g_idx" }, Q_EFORMAT, "up_proj.g_idx' is F32, wanted I32" },
        { { .poke = poke_g_idx },
          Q_EFORMAT,
          "down_proj.g_idx: column 5 is in group 3, there are 3" },
        { { .poke = poke_k_idx, .desc_act = 1 },
          Q_EUNSUPPORTED,
          "self_attn.q_proj.g_idx and " L0 "self_attn.k_proj.g_idx put column 41" },
        { { .poke = poke_scale },
          Q_EFORMAT,
          "o_proj.scales: the scale of output 2, group 1 is inf" },
        { { .poke = poke_zero },
          Q_EFORMAT,
          "gate_proj.qzeros: the zero of output 10 is stored as 15" },
        { { .poke = poke_shape, .layout = PK_CT }, Q_ESHAPE, "weight_shape' says [97, 64]" },
        { { .poke = poke_bias, .foreign = 1 }, Q_EUNSUPPORTED, "up_proj.bias' is not zero" },
    };
    q_err err = { 0 };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        pk_opts o = rows[i].o;

        o.family = "qwen2";
        o.bits = 4;
        o.group = 32;
        o.sym = 1;
        pk_write(tmp("in"), &o);
        if (rows[i].want == Q_OK)
            T_OK(load_all(tmp("in"), &err), err);
        else
            T_ERR(load_all(tmp("in"), &err), err, rows[i].want, rows[i].part);
    }
}

/* What cannot be moved says why; what is asked of quantized weights beyond that, too. */
static void t_refusals(void)
{
    q_err err = { 0 };
    const char *format;
    fmt_src *s = NULL;
    qnt_tensor t;

    pk_write(tmp("in"), &sorts[7]);
    T_OK(fmt_src_open(&s, tmp("in"), &err), err);
    T_ERR(
        qnt_load(&t, s, FMT_ATTN_OUT, 0, &(qnt_load_opts){ .scheme = qnt_scheme_find("w8") }, &err),
        err, Q_EUNSUPPORTED, "quantized already");
    T_ERR(cvt_export(NULL, &(cvt_export_opts){ .src = s, .out = tmp("in"), .tool = "t" }, &err),
          err, Q_EARG, "the output is the input");
    fmt_src_close(s);
    T_OK(fmt_src_open(&s, "datasets/qwen-tiny", &err), err);
    T_TRUE(fmt_src_packing(s) == NULL);
    T_ERR(cvt_export(NULL, &(cvt_export_opts){ .src = s, .out = tmp("x"), .tool = "t" }, &err), err,
          Q_EUNSUPPORTED, "is not quantized by groups");
    T_ERR(cvt_archive_write(NULL, &(cvt_archive_opts){ .src = s, .path = tmp("x.h5"), .tool = "t" },
                            &err),
          err, Q_EUNSUPPORTED, "is not quantized by groups");
    T_TRUE(!q_path_exists(tmp("x")) && !q_path_exists(tmp("x.h5")));
    fmt_src_close(s);
    (void)format;
}

/* ---- the official layout ----------------------------------------------------------------------
 */

/* Shape of a tensor of Qwen-7B-Chat-Int4 by its name; 0: it belongs to the vision tower. */
static int official_shape(const char *name, fmt_dtype *dtype, int64_t shape[2])
{
    static const struct {
        const char *module;
        int64_t N, K;
    } rows[] = { { "attn.c_attn.", 12288, 4096 },
                 { "attn.c_proj.", 4096, 4096 },
                 { "mlp.w1.", 11008, 4096 },
                 { "mlp.w2.", 11008, 4096 },
                 { "mlp.c_proj.", 4096, 11008 } };
    const char *leaf = strrchr(name, '.') + 1;
    int64_t N = 0, K = 0;

    if (strstr(name, "visual"))
        return 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (strstr(name, rows[i].module)) {
            N = rows[i].N;
            K = rows[i].K;
        }
    *dtype = strcmp(leaf, "scales") == 0 || strcmp(leaf, "bias") == 0 || strcmp(leaf, "weight") == 0
                 ? FMT_F16
                 : FMT_I32;
    if (N == 0) { /* embedding, head, norms */
        const int matrix = strstr(name, "wte") || strstr(name, "lm_head");

        shape[0] = matrix ? 151936 : 4096;
        shape[1] = matrix ? 4096 : 0;
    } else {
        shape[0] = strcmp(leaf, "qweight") == 0 ? K / 8
                   : strcmp(leaf, "bias") == 0  ? N
                   : strcmp(leaf, "g_idx") == 0 ? K
                                                : K / 128;
        shape[1] = strcmp(leaf, "bias") == 0 || strcmp(leaf, "g_idx") == 0 ? 0
                   : strcmp(leaf, "qzeros") == 0                           ? N / 8
                                                                           : N;
    }
    return 1;
}

/* All tensors of the index as holes, but for the groups of the columns.  extra: a tensor more. */
static int write_official(const char *dir, const fmt_json *index, const char *extra)
{
    q_err err = { 0 };
    const fmt_json *map = fmt_json_get(index, "weight_map");
    static int32_t g_idx[11008];
    fmt_hf_writer *w = NULL;
    fmt_dtype dtype;
    int64_t shape[2];
    int n = 0;

    for (int k = 0; k < 11008; k++)
        g_idx[k] = k / 128;
    T_OK(fmt_hf_create(&w, dir, 2000000000, 1, &err), err);
    for (int pass = 0; pass < 2; pass++)
        for (fmt_json_iter *it = fmt_json_first(map); it; it = fmt_json_next(map, it)) {
            const char *name = fmt_json_key(it);
            const int idx = strstr(name, ".g_idx") != NULL;

            if (!official_shape(name, &dtype, shape))
                continue;
            n += pass == 0;
            if (pass == 0)
                T_OK(fmt_hf_declare(w, name, dtype, shape[1] ? 2 : 1, shape, &err), err);
            else
                T_OK(fmt_hf_write(w, idx ? g_idx : NULL,
                                  (size_t)(shape[0] * (shape[1] ? shape[1] : 1)) *
                                      fmt_dtype_bytes(dtype),
                                  &err),
                     err);
            if (pass == 0 && extra && n == 1)
                T_OK(fmt_hf_declare(w, extra, FMT_F16, 1, (int64_t[]){ 4 }, &err), err);
            if (pass == 1 && extra) {
                T_OK(fmt_hf_write(w, NULL, 8, &err), err);
                extra = NULL;
            }
        }
    T_OK(fmt_hf_commit(w, &err), err);
    fmt_hf_writer_close(w);
    return n;
}

/* The official int4 release: its names, its configuration, its sizes. */
static void t_official(void)
{
    q_err err = { 0 };
    const char *from = T_SHARED("data/formats/qwen-vl-chat-int4");
    const char *dir = tmp("official");
    char *path = q_path_join(from, "model.safetensors.index.json");
    fmt_json *index = NULL;
    q_buf config = { 0 };
    fmt_src *s = NULL;
    qnt_tensor t = { 0 };

    T_OK(fmt_json_read(&index, path, 1 << 20, &err), err);
    q_free(path);
    path = q_path_join(from, "config.json");
    T_OK(q_file_slurp(&config, path, 1 << 20, &err), err);
    T_OK(q_dir_make(dir, &err), err);
    pk_put(dir, "config.json", config.data, config.size);
    T_INT(write_official(dir, index, NULL), 867);
    T_OK(fmt_src_open(&s, dir, &err), err);
    T_STR(fmt_src_packing(s)->layout->name, "gptq");
    T_INT(fmt_src_packing(s)->group, 128);
    T_OK(qnt_load(&t, s, FMT_FFN_DOWN, 31, &(qnt_load_opts){ 0 }, &err), err);
    T_INT(t.K, 11008);
    T_TRUE(t.g_idx == NULL); /* in order */
    T_INT(t.zero[0], 1);     /* stored as 0 */
    qnt_tensor_free(&t);
    T_OK(qnt_load(&t, s, FMT_ATTN_QKV, 0, &(qnt_load_opts){ 0 }, &err), err);
    T_TRUE(t.bias != NULL);
    qnt_tensor_free(&t);
    fmt_src_close(s);
    s = NULL;
    write_official(dir, index, "transformer.visual.proj");
    T_ERR(fmt_src_open(&s, dir, &err), err, Q_EUNSUPPORTED,
          "'transformer.visual.proj' is not part of family qwen");
    T_OK(q_dir_remove(dir, &err), err);
    fmt_json_free(index);
    q_buf_free(&config);
    q_free(path);
}

static const t_case cases[] = { T(t_load),       T(t_chains),   T(t_small_files),
                                T(t_same_bytes), T(t_configs),  T(t_broken),
                                T(t_refusals),   T(t_official), { 0 } };

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
