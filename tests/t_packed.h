/* Quantized checkpoints made up by the tests, packed by code of their own: one loop over single
 * codes, written from the descriptions of the formats and sharing nothing with quant/repack.c.
 *
 *     pk_opts o = { .family = "qwen2", .layout = PK_AWQ, .bits = 4, .group = 32 };
 *     pk_write(dir, &o);
 *     ... pk_code("model.layers.0.mlp.up_proj", n, k, &o) ...
 *
 * Codes, zeros and scales are functions of name and place, so every reader can be compared with
 * them value by value.  Functions in a header, because a test is one file. */
#ifndef T_PACKED_H
#define T_PACKED_H

#include <stdio.h>
#include <string.h>

#include "formats/base/q_file.h"
#include "formats/base/q_half.h"
#include "formats/hf_dir.h"
#include "quant/load.h"
#include "tests/t.h"

enum { PK_GPTQ, PK_GPTQ_V2, PK_AWQ, PK_CT, PK_FLOAT }; /* the last: the same numbers as f32 */
enum {
    PK_HID = 64,
    PK_HEADS = 4,
    PK_KV = 2,
    PK_HD = 16,
    PK_FFN = 96,
    PK_LAYERS = 2,
    PK_VOCAB = 40
};

typedef struct pk_opts {
    const char *family; /* "qwen", "qwen2" */
    int layout, bits;
    int64_t group; /* -1: all of a row */
    int desc_act, sym;
    int zero_min;       /* the smallest zero */
    int foreign;        /* biases of zeros on every linear, as in 2023 */
    int no_g_idx;       /* GPTQ without g_idx */
    const char *keep;   /* this module stays f16 */
    const char *config; /* quantization_config in place of the right one; "": none */
    const char *beside; /* the name of a file for it, in place of config.json */
    const char *drop;   /* leaves this tensor out */
    const char *bend;   /* gives it a row more */
    const char *retype; /* declares it as F32 (int) or I32 (float) */
    void (*poke)(const char *name, void *data, size_t bytes);
} pk_opts;

typedef struct pk_module {
    char name[96];
    int64_t N, K;
    int bias;
} pk_module;

static inline uint32_t pk_hash(const char *name, int64_t i, uint32_t salt)
{
    uint32_t h = 2166136261u ^ salt;

    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 16777619u;
    h ^= (uint32_t)i * 2654435761u;
    h = (h ^ (h >> 15)) * 2246822519u;
    h = (h ^ (h >> 13)) * 3266489917u;
    return h ^ (h >> 16);
}

static inline int64_t pk_groups(int64_t K, const pk_opts *o)
{
    return o->group < 0 || o->group >= K ? 1 : (K + o->group - 1) / o->group;
}

static inline int pk_code(const char *m, int64_t n, int64_t k, const pk_opts *o)
{
    return (int)(pk_hash(m, n * 100003 + k, 1) & ((1u << o->bits) - 1));
}

static inline int pk_zero(const char *m, int64_t n, int64_t g, const pk_opts *o)
{
    const int top = (1 << o->bits) - 1;

    if (o->sym)
        return 1 << (o->bits - 1);
    return o->zero_min + (int)(pk_hash(m, n * 1009 + g, 2) % (uint32_t)(top + 1 - o->zero_min));
}

/* weights of one size, whatever the bits */
static inline uint16_t pk_scale(const char *m, int64_t n, int64_t g, const pk_opts *o)
{
    const float step = 0.001f + (float)(pk_hash(m, n * 1013 + g, 3) % 1000) * 1e-5f;

    return q_f32_to_f16(o->bits == 4 ? step : step / 16);
}

/* the group of column k; K is what decides, so that q, k and v agree */
static inline int32_t pk_group(int64_t k, int64_t K, const pk_opts *o)
{
    const int64_t group = o->group < 0 || o->group > K ? K : o->group;

    return (int32_t)((o->desc_act ? (k * 37 + 11) % K : k) / group);
}

static inline float pk_weight(const char *m, int64_t n, int64_t k, int64_t K, const pk_opts *o)
{
    const int32_t g = pk_group(k, K, o);

    return (float)(pk_code(m, n, k, o) - pk_zero(m, n, g, o)) * q_f16_to_f32(pk_scale(m, n, g, o));
}

/* The i-th quantized linear; 0: there is none. */
static inline int pk_module_at(pk_module *m, const pk_opts *o, int i)
{
    static const struct {
        const char *name;
        int64_t N, K;
        int bias;
    } row[2][7] = { { { "attn.c_attn", 3 * PK_HID, PK_HID, 1 },
                      { "attn.c_proj", PK_HID, PK_HID, 0 },
                      { "mlp.w1", PK_FFN, PK_HID, 0 },
                      { "mlp.w2", PK_FFN, PK_HID, 0 },
                      { "mlp.c_proj", PK_HID, PK_FFN, 0 } },
                    { { "self_attn.q_proj", PK_HID, PK_HID, 1 },
                      { "self_attn.k_proj", PK_KV * PK_HD, PK_HID, 1 },
                      { "self_attn.v_proj", PK_KV * PK_HD, PK_HID, 1 },
                      { "self_attn.o_proj", PK_HID, PK_HID, 0 },
                      { "mlp.gate_proj", PK_FFN, PK_HID, 0 },
                      { "mlp.up_proj", PK_FFN, PK_HID, 0 },
                      { "mlp.down_proj", PK_HID, PK_FFN, 0 } } };
    const int two = strcmp(o->family, "qwen2") == 0, n = two ? 7 : 5;

    if (i >= n * PK_LAYERS)
        return 0;
    snprintf(m->name, sizeof m->name, two ? "model.layers.%d.%s" : "transformer.h.%d.%s", i / n,
             row[two][i % n].name);
    m->N = row[two][i % n].N;
    m->K = row[two][i % n].K;
    m->bias = row[two][i % n].bias;
    return 1;
}

/* ---- packing one code at a time ------------------------------------------------------------- */

typedef struct pk_array {
    char name[128];
    fmt_dtype dtype;
    int ndim;
    int64_t shape[2];
    void *data;
} pk_array;

static inline void *pk_new(pk_array *a, const char *module, const char *suffix, fmt_dtype dtype,
                           int64_t rows, int64_t cols)
{
    snprintf(a->name, sizeof a->name, "%s%s", module, suffix);
    a->dtype = dtype;
    a->ndim = cols ? 2 : 1;
    a->shape[0] = rows;
    a->shape[1] = cols;
    a->data = q_calloc((size_t)(rows * (cols ? cols : 1)), fmt_dtype_bytes(dtype));
    T_TRUE(a->data != NULL);
    return a->data;
}

static inline size_t pk_bytes(const pk_array *a)
{
    return (size_t)(a->shape[0] * (a->ndim == 2 ? a->shape[1] : 1)) * fmt_dtype_bytes(a->dtype);
}

/* the nibble of AWQ's word in which element e of eight stands */
static inline int pk_awq_place(int64_t e)
{
    static const int place[8] = { 0, 4, 1, 5, 2, 6, 3, 7 };

    return place[e];
}

static inline int pk_pack_zeros(pk_array *a, const pk_module *m, const pk_opts *o)
{
    const int64_t G = pk_groups(m->K, o), pw = 32 / o->bits;
    const int ct = o->layout == PK_CT;
    uint32_t *w;

    if (ct && o->sym)
        return 0;
    w = pk_new(a, m->name, ct ? ".weight_zero_point" : ".qzeros", FMT_I32, ct ? m->N / pw : G,
               ct ? G : m->N / pw);
    for (int64_t n = 0; n < m->N; n++)
        for (int64_t g = 0; g < G; g++) {
            const uint32_t z = (uint32_t)(pk_zero(m->name, n, g, o) - (o->layout == PK_GPTQ)) &
                               ((1u << o->bits) - 1);
            const int64_t e = o->layout == PK_AWQ ? pk_awq_place(n % 8) : n % pw;

            w[ct ? n / pw * G + g : g * (m->N / pw) + n / pw] |= z << (o->bits * e);
        }
    return 1;
}

static inline void pk_pack_codes(pk_array *a, const pk_module *m, const pk_opts *o)
{
    const int64_t pw = 32 / o->bits, N = m->N, K = m->K;
    uint32_t *w;

    if (o->layout == PK_AWQ)
        w = pk_new(a, m->name, ".qweight", FMT_I32, K, N / 8);
    else if (o->layout == PK_CT)
        w = pk_new(a, m->name, ".weight_packed", FMT_I32, N, K / pw);
    else
        w = pk_new(a, m->name, ".qweight", FMT_I32, K / pw, N);
    for (int64_t n = 0; n < N; n++)
        for (int64_t k = 0; k < K; k++) {
            const uint32_t c = (uint32_t)pk_code(m->name, n, k, o);

            if (o->layout == PK_AWQ)
                w[k * (N / 8) + n / 8] |= c << (4 * pk_awq_place(n % 8));
            else if (o->layout == PK_CT)
                w[n * (K / pw) + k / pw] |= c << (o->bits * (k % pw));
            else
                w[k / pw * N + n] |= c << (o->bits * (k % pw));
        }
}

/* The arrays of a module; returns their number.  Freed by the caller. */
static inline int pk_pack(pk_array a[6], const pk_module *m, const pk_opts *o)
{
    const int64_t G = pk_groups(m->K, o);
    const int ct = o->layout == PK_CT;
    int n = 0;
    uint16_t *s;
    int32_t *g;
    float *w;

    if (o->keep && strcmp(o->keep, m->name) == 0) {
        s = pk_new(a, m->name, ".weight", FMT_F16, m->N, m->K);
        for (int64_t i = 0; i < m->N * m->K; i++)
            s[i] = q_f32_to_f16(pk_weight(m->name, i / m->K, i % m->K, m->K, o));
        return 1;
    }
    if (o->layout == PK_FLOAT) {
        w = pk_new(a, m->name, ".weight", FMT_F32, m->N, m->K);
        for (int64_t i = 0; i < m->N * m->K; i++)
            w[i] = pk_weight(m->name, i / m->K, i % m->K, m->K, o);
        return 1;
    }
    pk_pack_codes(&a[n++], m, o);
    n += pk_pack_zeros(&a[n], m, o);
    s = pk_new(&a[n++], m->name, ct ? ".weight_scale" : ".scales", FMT_F16, ct ? m->N : G,
               ct ? G : m->N);
    for (int64_t r = 0; r < m->N; r++)
        for (int64_t c = 0; c < G; c++)
            s[ct ? r * G + c : c * m->N + r] = pk_scale(m->name, r, c, o);
    if (o->layout != PK_AWQ && !o->no_g_idx && (!ct || o->desc_act)) {
        g = pk_new(&a[n++], m->name, ct ? ".weight_g_idx" : ".g_idx", FMT_I32, m->K, 0);
        for (int64_t k = 0; k < m->K; k++)
            g[k] = pk_group(k, m->K, o);
    }
    if (ct)
        memcpy(pk_new(&a[n++], m->name, ".weight_shape", FMT_I64, 2, 0), (int64_t[]){ m->N, m->K },
               16);
    return n;
}

/* ---- the directory -------------------------------------------------------------------------- */

/* The i-th float tensor. */
static inline int pk_float_at(pk_array *a, const pk_opts *o, int i)
{
    const int two = strcmp(o->family, "qwen2") == 0;
    const char *norms[2][2] = { { "transformer.h.%d.ln_1.weight", "transformer.h.%d.ln_2.weight" },
                                { "model.layers.%d.input_layernorm.weight",
                                  "model.layers.%d.post_attention_layernorm.weight" } };
    const struct {
        const char *name[2];
        int64_t cols;
    } rest[] = { { { "transformer.wte.weight", "model.embed_tokens.weight" }, PK_HID },
                 { { "transformer.ln_f.weight", "model.norm.weight" }, 0 },
                 { { "lm_head.weight", "lm_head.weight" }, PK_HID } };
    char name[128];
    uint16_t *v;
    int64_t rows;

    if (i < 2 * PK_LAYERS) {
        snprintf(name, sizeof name, norms[two][i % 2], i / 2);
        rows = PK_HID;
        v = pk_new(a, name, "", FMT_F16, rows, 0);
    } else if (i - 2 * PK_LAYERS < 3) {
        i -= 2 * PK_LAYERS;
        snprintf(name, sizeof name, "%s", rest[i].name[two]);
        rows = rest[i].cols ? PK_VOCAB : PK_HID;
        v = pk_new(a, name, "", FMT_F16, rows, rest[i].cols);
    } else {
        return 0;
    }
    for (int64_t j = 0; j < rows * (a->ndim == 2 ? a->shape[1] : 1); j++)
        v[j] = q_f32_to_f16((float)(pk_hash(a->name, j, 4) % 2000) * 1e-3f - 1.0f);
    return 1;
}

static inline void pk_bias(pk_array *a, const pk_module *m)
{
    uint16_t *v = pk_new(a, m->name, ".bias", FMT_F16, m->N, 0);

    for (int64_t n = 0; m->bias && n < m->N; n++)
        v[n] = q_f32_to_f16((float)(pk_hash(m->name, n, 5) % 100) * 1e-2f);
}

static inline void pk_config_text(q_buf *b, const pk_opts *o)
{
    q_err err = { 0 };
    const char *sym = o->sym ? "true" : "false", *desc = o->desc_act ? "true" : "false";
    q_buf_clear(b);

    if (o->config)
        T_OK(q_buf_puts(b, o->config, &err), err);
    else if (o->layout == PK_FLOAT)
        return;
    else if (o->layout == PK_AWQ)
        T_OK(q_buf_printf(b, &err,
                          "{\"quant_method\": \"awq\", \"bits\": %d, \"group_size\": %lld, "
                          "\"zero_point\": %s, \"version\": \"gemm\"}",
                          o->bits, (long long)o->group, o->sym ? "false" : "true"),
             err);
    else if (o->layout == PK_CT)
        T_OK(q_buf_printf(b, &err,
                          "{\"quant_method\": \"compressed-tensors\", \"format\": "
                          "\"pack-quantized\", \"config_groups\": {\"group_0\": {\"targets\": "
                          "[\"Linear\"], \"weights\": {\"num_bits\": %d, \"type\": \"int\", "
                          "\"symmetric\": %s, \"strategy\": \"%s\", \"group_size\": %lld, "
                          "\"actorder\": %s}}}, \"ignore\": [\"lm_head\"]}",
                          o->bits, sym, o->group < 0 ? "channel" : "group", (long long)o->group,
                          o->desc_act ? "\"group\"" : "null"),
             err);
    else
        T_OK(q_buf_printf(b, &err,
                          "{\"quant_method\": \"gptq\", \"bits\": %d, \"group_size\": %lld, "
                          "\"sym\": %s, \"desc_act\": %s, \"damp_percent\": 0.01%s}",
                          o->bits, (long long)o->group, sym, desc,
                          o->layout == PK_GPTQ_V2 ? ", \"checkpoint_format\": \"gptq_v2\"" : ""),
             err);
}

static inline void pk_put(const char *dir, const char *name, const char *text, size_t n)
{
    q_err err = { 0 };
    char *path = q_path_join(dir, name);

    T_OK(q_out_whole(path, 1, text, n, &err), err);
    q_free(path);
}

static inline void pk_write_config(const char *dir, const pk_opts *o)
{
    q_err err = { 0 };
    q_buf q = { 0 }, b = { 0 };
    const int two = strcmp(o->family, "qwen2") == 0;

    pk_config_text(&q, o);
    if (two)
        T_OK(q_buf_printf(&b, &err,
                          "{\"model_type\": \"qwen2\", \"hidden_size\": %d, "
                          "\"num_hidden_layers\": %d, \"num_attention_heads\": %d, "
                          "\"num_key_value_heads\": %d, \"intermediate_size\": %d, "
                          "\"vocab_size\": %d, \"max_position_embeddings\": 128, "
                          "\"rms_norm_eps\": 1e-06, \"rope_theta\": 10000.0, "
                          "\"tie_word_embeddings\": false",
                          PK_HID, PK_LAYERS, PK_HEADS, PK_KV, PK_FFN, PK_VOCAB),
             err);
    else
        T_OK(q_buf_printf(&b, &err,
                          "{\"model_type\": \"qwen\", \"hidden_size\": %d, "
                          "\"num_hidden_layers\": %d, \"num_attention_heads\": %d, "
                          "\"kv_channels\": %d, \"intermediate_size\": %d, \"vocab_size\": %d, "
                          "\"seq_length\": 128, \"layer_norm_epsilon\": 1e-06, \"no_bias\": true",
                          PK_HID, PK_LAYERS, PK_HEADS, PK_HD, 2 * PK_FFN, PK_VOCAB),
             err);
    if (q.size && !o->beside)
        T_OK(q_buf_printf(&b, &err, ", \"quantization_config\": %s", q.data), err);
    T_OK(q_buf_puts(&b, "}\r\n", &err), err);
    pk_put(dir, "config.json", b.data, b.size);
    if (o->beside)
        pk_put(dir, o->beside, q.data, q.size);
    pk_put(dir, "generation_config.json", "{\"top_k\": 7}\n", 13);
    pk_put(dir, "chat_template.jinja", "{{ x }}\0tail", 12); /* NUL: bytes, not text */
    q_buf_free(&b);
    q_buf_free(&q);
}

static inline void pk_pass(fmt_hf_writer *w, int pass, pk_array *a, int n, const pk_opts *o)
{
    q_err err = { 0 };

    for (int i = 0; i < n; i++) {
        const int bent = o->bend && strcmp(o->bend, a[i].name) == 0;
        size_t bytes = pk_bytes(&a[i]);

        if (!(o->drop && strcmp(o->drop, a[i].name) == 0)) {
            if (o->retype && strcmp(o->retype, a[i].name) == 0)
                a[i].dtype = a[i].dtype == FMT_F16 ? FMT_I16 : FMT_F32;
            a[i].shape[0] += bent;
            if (pass == 0)
                T_OK(fmt_hf_declare(w, a[i].name, a[i].dtype, a[i].ndim, a[i].shape, &err), err);
            if (pass == 1 && o->poke)
                o->poke(a[i].name, a[i].data, bytes);
            if (pass == 1)
                T_OK(fmt_hf_write(w, a[i].data, bytes, &err), err);
            if (pass == 1 && bent)
                T_OK(fmt_hf_write(w, NULL, pk_bytes(&a[i]) - bytes, &err), err);
        }
        q_free(a[i].data);
    }
}

static inline void pk_write(const char *dir, const pk_opts *o)
{
    q_err err = { 0 };
    fmt_hf_writer *w = NULL;
    pk_module m;
    pk_array a[6];

    T_OK(q_dir_remove(dir, &err), err);
    T_OK(q_dir_make(dir, &err), err);
    pk_write_config(dir, o);
    T_OK(fmt_hf_create(&w, dir, 40000, 1, &err), err); /* several shards */
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; pk_module_at(&m, o, i); i++) {
            pk_pass(w, pass, a, pk_pack(a, &m, o), o);
            if (m.bias || o->foreign) {
                pk_bias(a, &m);
                pk_pass(w, pass, a, 1, o);
            }
        }
        for (int i = 0; pk_float_at(a, o, i); i++)
            pk_pass(w, pass, a, 1, o);
    }
    T_OK(fmt_hf_commit(w, &err), err);
    fmt_hf_writer_close(w);
}

/* Opens it and loads every linear. */
static inline q_status pk_load_all(const char *path, q_err *err)
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

#endif
