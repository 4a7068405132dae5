/* The table of schemes.  One row per number format; everything that depends on a format asks its
 * row.  Adding one: a row here, its two functions (rounding in rtn.c), and, when it should be fast,
 * rows in the kernel tables of the backends.  A scheme without kernels still runs: dequantize_row
 * and a GEMM. */
#include "quant/scheme.h"

#include <string.h>

#include "formats/base/q_mem.h"
#include "quant/rtn.h"
#include "quant/w8a8.h"

static void deq_f32(float *row, const void *codes, float scale, int64_t K)
{
    (void)scale;
    memcpy(row, codes, (size_t)K * sizeof *row);
}

static void deq_f16(float *row, const void *codes, float scale, int64_t K)
{
    (void)scale;
    fmt_convert(row, FMT_F32, codes, FMT_F16, (size_t)K, NULL);
}

static void deq_bf16(float *row, const void *codes, float scale, int64_t K)
{
    (void)scale;
    fmt_convert(row, FMT_F32, codes, FMT_BF16, (size_t)K, NULL);
}

static void deq_w8(float *row, const void *codes, float scale, int64_t K)
{
    const int8_t *c = codes;

    for (int64_t k = 0; k < K; k++)
        row[k] = (float)c[k] * scale;
}

static void deq_w4(float *row, const void *codes, float scale, int64_t K)
{
    const uint8_t *c = codes;

    for (int64_t k = 0; k < K; k++) {
        const int code = k % 2 == 0 ? c[k / 2] & 15 : c[k / 2] >> 4;

        row[k] = (float)(code - 8) * scale;
    }
}

const qnt_scheme qnt_schemes[] = {
    { "f32", "float32", 32, FMT_F32, NULL, deq_f32 },
    { "f16", "float16", 16, FMT_F16, NULL, deq_f16 },
    { "bf16", "bfloat16", 16, FMT_BF16, NULL, deq_bf16 },
    { "w8", "int8 per output channel", 8, FMT_I8, qnt_rtn_w8, deq_w8 },
    { "w4", "int4 per output channel", 4, FMT_U8, qnt_rtn_w4, deq_w4 },
    { "w8a8", "int8 weights and activations", 8, FMT_I8, qnt_rtn_w8a8, deq_w8 },
    { 0 },
};

const qnt_scheme *qnt_scheme_find(const char *name)
{
    for (const qnt_scheme *s = qnt_schemes; s->name; s++)
        if (strcmp(s->name, name) == 0)
            return s;
    return NULL;
}

const qnt_scheme *qnt_scheme_float(fmt_dtype t)
{
    for (const qnt_scheme *s = qnt_schemes; s->name; s++)
        if (!s->quantize_row && s->dtype == t)
            return s;
    return NULL;
}

size_t qnt_row_bytes(const qnt_scheme *s, int64_t K)
{
    return ((size_t)K * (size_t)s->bits + 7) / 8;
}

void qnt_tensor_free(qnt_tensor *t)
{
    q_free(t->codes);
    q_free(t->scale);
    q_free(t->bias);
    *t = (qnt_tensor){ 0 };
}
