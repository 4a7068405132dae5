/* Small Hugging Face checkpoints of family qwen for tests, with values that can be computed again.
 *
 *     tiny_hf o = { .hid = 8, .layers = 2, .heads = 2, .ffn = 12, .vocab = 10, .dtype = FMT_F16 };
 *     tiny_hf_write(dir, &o);
 *     float v = tiny_hf_value("transformer.wte.weight", 5);       (before rounding to dtype)
 *
 * One tensor can be left out, given another shape or added.  Functions in a header, because fuzz
 * targets and tests are one file each. */
#ifndef T_HF_H
#define T_HF_H

#include <stdio.h>
#include <string.h>

#include "formats/base/q_file.h"
#include "formats/base/q_mem.h"
#include "formats/safetensors.h"
#include "tests/t.h"

typedef struct tiny_hf {
    int64_t hid, layers, heads, ffn, vocab;
    fmt_dtype dtype;
    const char *drop;  /* tensor that is left out */
    const char *bend;  /* tensor that gets one row more */
    const char *extra; /* vector of 4 elements that is added */
    float extra_value; /* of each of them */
    const char *poke;  /* tensor whose element 1 is poke_value and element 2 NaN */
    float poke_value;
    const char *more_config; /* members in front of those of config.json: "\"a\": 1," */
} tiny_hf;

/* in (-1, 1), by name and element */
static inline float tiny_hf_value(const char *name, uint64_t i)
{
    uint64_t h = i * 0x9e3779b97f4a7c15u + 1;

    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 0x100000001b3u;
    h ^= h >> 29;
    h *= 0xbf58476d1ce4e5b9u;
    return (float)((double)(h >> 11) * 0x1p-52 - 1.0);
}

typedef struct tiny_tensor {
    char name[96];
    int64_t rows, cols; /* cols 0: a vector */
} tiny_tensor;

/* The i-th tensor; 0 when there is none. */
static inline int tiny_hf_tensor(tiny_tensor *t, const tiny_hf *o, int i)
{
    const struct {
        const char *name;
        int64_t rows, cols;
    } row[] = { { "ln_1.weight", o->hid, 0 },          { "attn.c_attn.weight", 3 * o->hid, o->hid },
                { "attn.c_attn.bias", 3 * o->hid, 0 }, { "attn.c_proj.weight", o->hid, o->hid },
                { "ln_2.weight", o->hid, 0 },          { "mlp.w1.weight", o->ffn, o->hid },
                { "mlp.w2.weight", o->ffn, o->hid },   { "mlp.c_proj.weight", o->hid, o->ffn } };
    const int n = sizeof row / sizeof row[0], layers = (int)o->layers;

    if (i < layers * n) {
        snprintf(t->name, sizeof t->name, "transformer.h.%d.%s", i / n, row[i % n].name);
        t->rows = row[i % n].rows;
        t->cols = row[i % n].cols;
        return 1;
    }
    i -= layers * n;
    snprintf(t->name, sizeof t->name, "%s",
             i == 0     ? "transformer.wte.weight"
             : i == 1   ? "transformer.ln_f.weight"
             : i == 2   ? "lm_head.weight"
             : o->extra ? o->extra
                        : "");
    t->rows = i == 1 ? o->hid : i == 3 ? 4 : o->vocab;
    t->cols = i == 1 || i == 3 ? 0 : o->hid;
    return i < 3 + (o->extra != NULL);
}

static inline void tiny_hf_config(const char *dir, const tiny_hf *o)
{
    q_err err = { 0 };
    q_buf b = { 0 };
    char *path = q_path_join(dir, "config.json");

    T_OK(q_buf_printf(&b, &err,
                      "{%s\"model_type\": \"qwen\", \"hidden_size\": %lld, "
                      "\"num_hidden_layers\": %lld, \"num_attention_heads\": %lld, "
                      "\"kv_channels\": %lld, \"intermediate_size\": %lld, \"vocab_size\": %lld, "
                      "\"seq_length\": 128, \"layer_norm_epsilon\": 1e-06, \"no_bias\": true}\n",
                      o->more_config ? o->more_config : "", (long long)o->hid, (long long)o->layers,
                      (long long)o->heads, (long long)(o->hid / o->heads), (long long)(2 * o->ffn),
                      (long long)o->vocab),
         err);
    T_OK(q_out_whole(path, 1, b.data, b.size, &err), err);
    q_buf_free(&b);
    q_free(path);
}

static inline void tiny_hf_put(fmt_st_writer *w, const tiny_hf *o, const tiny_tensor *t)
{
    q_err err = { 0 };
    const int64_t n = t->rows * (t->cols ? t->cols : 1);
    float *v = q_malloc((size_t)n * 2 * sizeof *v);

    T_TRUE(v != NULL);
    for (int64_t i = 0; i < n; i++)
        v[i] = tiny_hf_value(t->name, (uint64_t)i);
    for (int64_t i = 0; o->extra && strcmp(t->name, o->extra) == 0 && i < n; i++)
        v[i] = o->extra_value;
    if (o->poke && strcmp(t->name, o->poke) == 0) {
        v[1] = o->poke_value;
        v[2] = __builtin_nanf("");
    }
    fmt_convert(v + n, o->dtype, v, FMT_F32, (size_t)n, NULL);
    T_OK(fmt_st_write(w, v + n, (size_t)n * fmt_dtype_bytes(o->dtype), &err), err);
    q_free(v);
}

static inline void tiny_hf_write(const char *dir, const tiny_hf *o)
{
    q_err err = { 0 };
    fmt_st_writer *w = NULL;
    tiny_tensor t;
    char *path = q_path_join(dir, "model.safetensors");

    T_OK(q_dir_make(dir, &err), err);
    tiny_hf_config(dir, o);
    T_OK(fmt_st_create(&w, path, 1, &err), err);
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; tiny_hf_tensor(&t, o, i); i++) {
            if (o->drop && strcmp(o->drop, t.name) == 0)
                continue;
            if (o->bend && strcmp(o->bend, t.name) == 0)
                t.rows++;
            if (pass)
                tiny_hf_put(w, o, &t);
            else
                T_OK(fmt_st_declare(w, t.name, o->dtype, t.cols ? 2 : 1,
                                    (int64_t[]){ t.rows, t.cols }, &err),
                     err);
        }
    T_OK(fmt_st_commit(w, &err), err);
    fmt_st_writer_close(w);
    q_free(path);
}

#endif
