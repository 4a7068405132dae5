/* Archives that are not as they should be: every attribute, shape and type that is wrong is refused
 * with its name; cut anywhere they do not open; every flipped bit is found. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/arch.h"
#include "formats/h5file.h"
#include "tests/t_packed.h"

/* Many files in turn, without waiting for the disk. */
static void put_raw(const char *path, const char *p, size_t n)
{
    FILE *f = fopen(path, "wb");

    T_TRUE(f != NULL);
    T_TRUE(fwrite(p, 1, n, f) == n);
    T_INT(fclose(f), 0);
}

/* ---- an archive by hand -----------------------------------------------------------------------
 */

#define M0   "model.layers.0.mlp.up_proj"
#define AT   "/tensors/" M0
#define NONE (-1000000)

/* What is different from a good archive. */
typedef struct tweak {
    const char *attr; /* of the module M0: left out, or has the value `v` */
    int64_t v;
    const char *text; /* a text attribute: "" leaves it out */
    const char *root; /* attribute of the file: left out, or `v` */
    const char *drop; /* this dataset is left out */
    const char *bend; /* gets a row less */
    const char *retype;
    const char *extra; /* a dataset more */
    const char *config;
    int poke_g_idx;
    int kv; /* 1: scales of a KV cache; 2: of the wrong length; 3: of one layer only; 4: `step` */
    float step; /* the second one of values in layer 1 */
    int compress;
} tweak;

static void put_array(fmt_h5w *w, const char *place, pk_array *a, const tweak *t)
{
    q_err err = { 0 };

    if (t->retype && strcmp(t->retype, place) == 0)
        a->dtype = a->dtype == FMT_F16 ? FMT_U16 : FMT_F32;
    if (t->bend && strcmp(t->bend, place) == 0)
        a->shape[0]--;
    if (t->poke_g_idx && strcmp(place, AT "/g_idx") == 0)
        ((int32_t *)a->data)[63] = 2;
    if (!(t->drop && strcmp(t->drop, place) == 0))
        T_OK(fmt_h5_put(w, place, a->dtype, a->ndim, a->shape, a->data, &err), err);
    q_free(a->data);
}

static void put_attrs(fmt_h5w *w, const char *place, const pk_module *m, const pk_opts *o,
                      const tweak *t)
{
    q_err err = { 0 };
    const int here = strcmp(place, AT) == 0;
    const struct {
        const char *key;
        int64_t v;
    } ints[] = { { "bits", o->bits },     { "group_size", o->group }, { "sym", o->sym },
                 { "desc_act", 0 },       { "zero_offset", 0 },       { "in_features", m->K },
                 { "out_features", m->N } };
    const struct {
        const char *key, *v;
    } texts[] = { { "quant_method", "gptq" }, { "pack_axis", "K" } };

    for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++) {
        const int odd = here && t->attr && strcmp(t->attr, ints[i].key) == 0;

        if (!(odd && t->v == NONE))
            T_OK(fmt_h5_attr_int(w, place, ints[i].key, odd ? t->v : ints[i].v, &err), err);
    }
    for (size_t i = 0; i < 2; i++) {
        const int odd = here && t->attr && strcmp(t->attr, texts[i].key) == 0;

        if (!(odd && !*t->text))
            T_OK(fmt_h5_attr_str(w, place, texts[i].key, odd ? t->text : texts[i].v, &err), err);
    }
}

static void put_kv(fmt_h5w *w, const tweak *t)
{
    q_err err = { 0 };
    float v[PK_KV + 1] = { 0.5f, 0.25f, 1 };

    for (int l = 0; l < (t->kv == 3 ? 1 : PK_LAYERS); l++)
        for (int i = 0; i < 2; i++) {
            char place[64];

            if (t->kv == 4 && l == 1 && i == 1)
                v[1] = t->step;
            snprintf(place, sizeof place, "/kv/layers.%d/%c_scale", l, i ? 'v' : 'k');
            T_OK(fmt_h5_put(w, place, FMT_F32, 1, (int64_t[]){ PK_KV + (t->kv == 2) }, v, &err),
                 err);
        }
}

static void put_module(fmt_h5w *w, const pk_module *m, const pk_opts *o, const tweak *t)
{
    char place[256];
    pk_array a[6];
    const int n = pk_pack(a, m, o);

    for (int k = 0; k < n; k++) {
        snprintf(place, sizeof place, "/tensors/%s/%s", m->name, a[k].name + strlen(m->name) + 1);
        put_array(w, place, &a[k], t);
    }
    if (m->bias) {
        pk_bias(a, m);
        snprintf(place, sizeof place, "/tensors/%s/bias", m->name);
        put_array(w, place, a, t);
    }
    snprintf(place, sizeof place, "/tensors/%s", m->name);
    put_attrs(w, place, m, o, t);
}

static void write_archive(const char *path, const tweak *t)
{
    q_err err = { 0 };
    const pk_opts o = { .family = "qwen2", .layout = PK_GPTQ_V2, .bits = 4, .group = 32 };
    fmt_h5w *w = NULL;
    pk_module m;
    pk_array a;
    q_buf config = { 0 };
    char place[256];

    pk_write_config(t_tmpdir(), &o);
    T_OK(q_file_slurp(&config, t_tmp("config.json"), 1 << 20, &err), err);
    T_OK(fmt_h5_create(&w, path, 1, &err), err);
    if (t->compress)
        fmt_h5_compress(w);
    if (!(t->root && strcmp(t->root, "format") == 0))
        T_OK(fmt_h5_attr_str(w, "/", "format", FMT_ARCH_FORMAT, &err), err);
    if (!(t->root && t->v == NONE && strcmp(t->root, "format_version") == 0))
        T_OK(fmt_h5_attr_int(w, "/", "format_version", t->root ? t->v : 1, &err), err);
    if (!(t->drop && strcmp(t->drop, "/meta/config.json") == 0))
        T_OK(fmt_h5_put_bytes(w, "/meta/config.json", t->config ? t->config : config.data,
                              t->config ? strlen(t->config) : config.size, &err),
             err);
    T_OK(fmt_h5_put_bytes(w, "/meta/manifest.json", "{}", 2, &err), err);
    for (int i = 0; pk_module_at(&m, &o, i); i++)
        put_module(w, &m, &o, t);
    for (int i = 0; pk_float_at(&a, &o, i); i++) {
        snprintf(place, sizeof place, "/tensors/%s", a.name);
        put_array(w, place, &a, t);
    }
    if (t->extra)
        T_OK(fmt_h5_put(w, t->extra, FMT_F16, 1, (int64_t[]){ 1 }, "\0\0", &err), err);
    if (t->kv)
        put_kv(w, t);
    T_OK(fmt_h5_commit(w, &err), err);
    fmt_h5w_close(w);
    q_buf_free(&config);
}

static void t_wrong(void)
{
    static const struct {
        tweak t;
        q_status want;
        const char *part;
    } rows[] = {
        { { 0 }, Q_OK, "" },
        { { .kv = 1 }, Q_OK, "" },
        { { .kv = 1, .compress = 1 }, Q_OK, "" },
        { { .retype = "/tensors/lm_head.weight", .compress = 1 }, Q_EUNSUPPORTED, "is U16" },
        { { .bend = "/tensors/lm_head.weight", .compress = 1 }, Q_ESHAPE, "is [39, 64]" },
        { { .attr = "bits", .v = NONE }, Q_EFORMAT, "'" AT "' has no attribute 'bits'" },
        { { .attr = "group_size", .v = NONE }, Q_EFORMAT, "no attribute 'group_size'" },
        { { .attr = "sym", .v = NONE }, Q_EFORMAT, "no attribute 'sym'" },
        { { .attr = "desc_act", .v = NONE }, Q_EFORMAT, "no attribute 'desc_act'" },
        { { .attr = "zero_offset", .v = NONE }, Q_EFORMAT, "no attribute 'zero_offset'" },
        { { .attr = "in_features", .v = NONE }, Q_EFORMAT, "no attribute 'in_features'" },
        { { .attr = "out_features", .v = NONE }, Q_EFORMAT, "no attribute 'out_features'" },
        { { .attr = "quant_method", .text = "" }, Q_EFORMAT, "no attribute 'quant_method'" },
        { { .attr = "pack_axis", .text = "" }, Q_EFORMAT, "no attribute 'pack_axis'" },
        { { .attr = "pack_axis", .text = "N" }, Q_EUNSUPPORTED, "pack_axis 'N'" },
        { { .attr = "quant_method", .text = "a name that is longer than any method has" },
          Q_EFORMAT,
          "attribute 'quant_method' of '" AT "' has" },
        { { .attr = "bits", .v = 3 }, Q_EUNSUPPORTED, "bits 3" },
        { { .attr = "bits", .v = 8 }, Q_ESHAPE, "has 64 inputs and 96 outputs in 8 bits" },
        { { .attr = "group_size", .v = 0 }, Q_EUNSUPPORTED, "group_size 0" },
        { { .attr = "group_size", .v = 64 }, Q_EUNSUPPORTED, "mixed archives are not read" },
        { { .attr = "zero_offset", .v = 1 }, Q_EUNSUPPORTED, "zero_offset 1" },
        { { .attr = "in_features", .v = 128 }, Q_ESHAPE, "'" AT "/qweight' is [8, 96]" },
        { { .attr = "out_features", .v = INT64_MAX }, Q_ESHAPE, "qweight' is [8, 96]" },
        { { .root = "format" }, Q_EFORMAT, "no model archive" },
        { { .root = "format_version", .v = NONE }, Q_EFORMAT, "no attribute 'format_version'" },
        { { .root = "format_version", .v = 2 }, Q_EUNSUPPORTED, "format_version 2, up to 1" },
        { { .root = "format_version", .v = 0 }, Q_EUNSUPPORTED, "format_version 0" },
        { { .drop = "/meta/config.json" }, Q_EFORMAT, "'/meta/config.json' is missing" },
        { { .drop = AT "/qweight" }, Q_EFORMAT, "'" AT "/qweight' is missing" },
        { { .drop = AT "/qzeros" }, Q_EFORMAT, "'" M0 ".qzeros' is missing" },
        { { .drop = AT "/scales" }, Q_EFORMAT, "'" M0 ".scales' is missing" },
        { { .drop = "/tensors/model.norm.weight" }, Q_EFORMAT, "'model.norm.weight' is missing" },
        { { .bend = AT "/qzeros" }, Q_ESHAPE, "'" M0 ".qzeros' is [1, 12]" },
        { { .bend = AT "/scales" }, Q_ESHAPE, "'" M0 ".scales' is [1, 96]" },
        { { .bend = AT "/qweight" }, Q_ESHAPE, "'" AT "/qweight' is [7, 96]" },
        { { .bend = "/tensors/model.norm.weight" }, Q_ESHAPE, "'model.norm.weight' is [63]" },
        { { .retype = AT "/qweight" }, Q_EFORMAT, "up_proj.qweight' is F32, wanted I32" },
        { { .retype = AT "/scales" }, Q_EFORMAT, "up_proj.scales' is U16, wanted F16" },
        { { .retype = "/tensors/lm_head.weight" }, Q_EUNSUPPORTED, "lm_head.weight' is U16" },
        { { .extra = AT "/more" }, Q_EUNSUPPORTED, "'" M0 ".more' is not part of family qwen2" },
        { { .extra = "/tensors/model.more" }, Q_EUNSUPPORTED, "'model.more' is not part of" },
        { { .extra = "/kv/layers.0/k_scale" }, Q_ESHAPE, "'/kv/layers.0/k_scale' is [1]" },
        { { .extra = "/factors/layers.0/ffn_down" }, Q_ESHAPE, "ffn_down' is [1], config.json" },
        { { .extra = "/factors/layers.0/ffn_norm" }, Q_EUNSUPPORTED, "ffn_norm' is not part of" },
        { { .extra = "/stats/" M0 "/loss" }, Q_EFORMAT, "mlp.gate_proj/loss' is missing, its" },
        { { .extra = "/stats/model.layers.0.mlp.down_proj/h_diag" }, Q_ESHAPE, "h_diag' is [1]" },
        { { .extra = "/stats/" M0 "/more" }, Q_EUNSUPPORTED, "up_proj/more' is not part of" },
        { { .extra = "/meta/group/x" }, Q_EFORMAT, "'/meta/group' is a group" },
        { { .extra = "/meta/tokenizer/config.json" }, Q_EFORMAT, "is there twice" },
        { { .config = "{" }, Q_EFORMAT, "config.json" },
        { { .config = "{\"model_type\": \"bert\"}" }, Q_EUNSUPPORTED, "bert" },
        { { .poke_g_idx = 1 }, Q_EFORMAT, M0 ".g_idx: column 63 is in group 2, there are 2" },
        { { .kv = 2 }, Q_ESHAPE, "'/kv/layers.0/k_scale' is [3]" },
        { { .kv = 3 }, Q_EFORMAT, "'/kv/layers.1/k_scale' is missing" },
    };
    q_err err = { 0 };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        write_archive(t_tmp("a.h5"), &rows[i].t);
        if (rows[i].want == Q_OK)
            T_OK(pk_load_all(t_tmp("a.h5"), &err), err);
        else
            T_ERR(pk_load_all(t_tmp("a.h5"), &err), err, rows[i].want, rows[i].part);
    }
}

/* Steps of an int8 cache that no cache can be read by, in an archive whose hashes are right. */
static void t_steps(void)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY, -0.5f, 0, -0.0f, 1e-40f };
    q_err err = { 0 };
    fmt_src *s = NULL;
    float *k = NULL, *v = NULL;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        write_archive(t_tmp("a.h5"), &(tweak){ .kv = 4, .step = bad[i] });
        T_OK(fmt_src_open(&s, t_tmp("a.h5"), &err), err);
        T_ERR(qnt_load_kv_scales(&k, &v, s, &err), err, Q_EFORMAT,
              "a.h5: /kv/layers.1/v_scale: value 1 of its part is");
        fmt_src_close(s);
        s = NULL;
        T_TRUE(k == NULL && v == NULL);
    }
    write_archive(t_tmp("a.h5"), &(tweak){ .kv = 4, .step = 1e-30f });
    T_OK(fmt_src_open(&s, t_tmp("a.h5"), &err), err);
    T_OK(qnt_load_kv_scales(&k, &v, s, &err), err);
    T_NEAR(v[PK_KV + 1], 1e-30f, 0);
    q_free(k);
    q_free(v);
    fmt_src_close(s);
}

/* Dimensions of 2^62 in a small file: refused before anything is allocated. */
static void t_huge(void)
{
    static const struct {
        uint64_t was[2], is[2];
        int compress;
    } rows[] = { { { 8, 96 }, { INT64_MAX / 8, 96 }, 0 },
                 { { 8, 96 }, { 1LL << 40, 1LL << 40 }, 0 },
                 { { 8, 96 }, { 8, 1LL << 30 }, 0 },
                 { { PK_VOCAB, PK_HID }, { INT64_MAX / PK_HID, PK_HID }, 1 },
                 { { PK_VOCAB, PK_HID }, { 1LL << 24, PK_HID }, 1 },
                 { { PK_VOCAB, PK_HID }, { PK_VOCAB, 1LL << 40 }, 1 } };
    q_err err = { 0 };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        q_buf b = { 0 };
        int found = 0;

        write_archive(t_tmp("a.h5"), &(tweak){ .compress = rows[i].compress });
        T_OK(q_file_slurp(&b, t_tmp("a.h5"), 1 << 28, &err), err);
        for (size_t at = 0; at + 16 < b.size; at++) /* dimensions stand as two numbers of 8 bytes */
            if (memcmp(b.data + at, rows[i].was, 16) == 0) {
                memcpy(b.data + at, rows[i].is, 16);
                found++;
            }
        T_TRUE(found > 0);
        put_raw(t_tmp("b.h5"), b.data, b.size);
        T_TRUE(pk_load_all(t_tmp("b.h5"), &err) != Q_OK);
        T_TRUE(strstr(err.msg, "b.h5") != NULL);
        err = (q_err){ 0 };
        q_buf_free(&b);
    }
}

/* ---- damage -----------------------------------------------------------------------------------
 */

static void cut(int compress)
{
    q_err err = { 0 };
    q_buf b = { 0 };
    size_t step, n_open = 0;

    write_archive(t_tmp("a.h5"), &(tweak){ .kv = 1, .compress = compress });
    T_OK(q_file_slurp(&b, t_tmp("a.h5"), 1 << 28, &err), err);
    step = b.size / 150 | 1;
    for (size_t n = 0; n < b.size; n += n < 4096 ? 61 : step) {
        q_status st;

        put_raw(t_tmp("cut.h5"), b.data, n);
        st = pk_load_all(t_tmp("cut.h5"), &err);
        if (st == Q_OK) { /* only the last line is missing */
            n_open++;
            T_TRUE(b.size - n < 100);
        } else {
            T_INT(q_exit_code(st), 65);
            T_TRUE(strstr(err.msg, "cut.h5") != NULL);
        }
        err = (q_err){ 0 };
    }
    T_TRUE(n_open <= 1);
    q_buf_free(&b);
}

static void t_cut(void)
{
    cut(0);
    cut(1);
}

/* Every flipped bit is found by verify; loading never fails other than by a status. */
static void flip(int compress)
{
    const int flips = t_long() ? 1000 : 200;
    q_err err = { 0 };
    q_buf b = { 0 };
    int whole = 0;

    write_archive(t_tmp("a.h5"), &(tweak){ .kv = 1, .compress = compress });
    T_OK(fmt_h5_verify(t_tmp("a.h5"), &whole, &err), err);
    T_INT(whole, 1);
    T_OK(q_file_slurp(&b, t_tmp("a.h5"), 1 << 28, &err), err);
    for (int i = 0; i < flips; i++) {
        const uint32_t h = pk_hash("flip", i, 9);
        const size_t at = (i % 4 ? h : h % 4096) % b.size; /* headers are hit more often */
        q_status st;

        b.data[at] = (char)(b.data[at] ^ (1 << i % 8));
        put_raw(t_tmp("bad.h5"), b.data, b.size);
        st = fmt_h5_verify(t_tmp("bad.h5"), &whole, &err);
        if (st == Q_OK && whole)
            t_fail(__FILE__, __LINE__, "bit %d of byte %zu was not found", i % 8, at);
        err = (q_err){ 0 };
        (void)pk_load_all(t_tmp("bad.h5"), &err);
        err = (q_err){ 0 };
        b.data[at] = (char)(b.data[at] ^ (1 << i % 8));
    }
    q_buf_free(&b);
}

static void t_flips(void)
{
    flip(0);
    flip(1);
}

static const t_case cases[] = { T(t_wrong), T(t_steps), T(t_huge), T(t_cut), T(t_flips), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
