/* The table of schemes.  One row per number format; everything that depends on a format asks its
 * row.  Adding one: a row here, its two functions (rounding in rtn.c), and, when it should be fast,
 * rows in the kernel tables of the backends.  A scheme without kernels still runs: dequantize and a
 * GEMM. */
#include "quant/scheme.h"

#include <string.h>

#include "formats/base/q_mem.h"
#include "quant/rtn.h"
#include "quant/w8a8.h"

static void deq_float(float *out, const qnt_row *r, int64_t k0, int64_t n, fmt_dtype type)
{
    const char *from = (const char *)r->codes + (size_t)k0 * fmt_dtype_bytes(type);

    fmt_convert(out, FMT_F32, from, type, (size_t)n, NULL);
}

static void deq_f32(float *out, const qnt_row *r, int64_t k0, int64_t n)
{
    memcpy(out, (const float *)r->codes + k0, (size_t)n * sizeof *out);
}

static void deq_f16(float *out, const qnt_row *r, int64_t k0, int64_t n)
{
    deq_float(out, r, k0, n, FMT_F16);
}

static void deq_bf16(float *out, const qnt_row *r, int64_t k0, int64_t n)
{
    deq_float(out, r, k0, n, FMT_BF16);
}

static void deq_w8(float *out, const qnt_row *r, int64_t k0, int64_t n)
{
    const int8_t *c = (const int8_t *)r->codes + k0;

    for (int64_t k = 0; k < n; k++)
        out[k] = (float)c[k] * r->scale[0];
}

static inline int nibble(const void *codes, int64_t k)
{
    const int byte = ((const uint8_t *)codes)[k / 2];

    return k % 2 == 0 ? byte & 15 : byte >> 4;
}

/* n columns that share a scale; a byte at a time, which compilers turn into vectors */
static void deq_nibbles(float *out, const void *codes, int64_t k0, int64_t n, int zero, float scale)
{
    const uint8_t *c = (const uint8_t *)codes + (k0 + 1) / 2;
    const int64_t odd = k0 % 2 != 0 && n > 0;

    if (odd)
        out[0] = (float)(nibble(codes, k0) - zero) * scale;
    out += odd;
    n -= odd;
    for (int64_t i = 0; i < n / 2; i++) {
        out[2 * i] = (float)((c[i] & 15) - zero) * scale;
        out[2 * i + 1] = (float)((c[i] >> 4) - zero) * scale;
    }
    if (n % 2 != 0)
        out[n - 1] = (float)((c[n / 2] & 15) - zero) * scale;
}

static void deq_w4(float *out, const qnt_row *r, int64_t k0, int64_t n)
{
    deq_nibbles(out, r->codes, k0, n, 8, r->scale[0]);
}

static inline int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void deq_w4g(float *out, const qnt_row *r, int64_t k0, int64_t n)
{
    int64_t count;

    if (r->g_idx) {
        for (int64_t k = k0; k < k0 + n; k++) {
            const int32_t g = r->g_idx[k];

            out[k - k0] = (float)(nibble(r->codes, k) - r->zero[g]) * r->scale[g];
        }
        return;
    }
    for (int64_t k = k0; k < k0 + n; k += count) {
        const int64_t g = k / r->group;

        count = smaller((g + 1) * r->group, k0 + n) - k;
        deq_nibbles(out + (k - k0), r->codes, k, count, r->zero[g], r->scale[g]);
    }
}

static void deq_w8g(float *out, const qnt_row *r, int64_t k0, int64_t n)
{
    const uint8_t *c = r->codes;
    int64_t count;

    for (int64_t k = k0; k < k0 + n; k += count) {
        const int64_t g = r->g_idx ? r->g_idx[k] : k / r->group;
        const float scale = r->scale[g];
        const int zero = r->zero[g];

        count = r->g_idx ? 1 : smaller((g + 1) * r->group, k0 + n) - k;
        for (int64_t i = k; i < k + count; i++)
            out[i - k0] = (float)(c[i] - zero) * scale;
    }
}

const qnt_scheme qnt_schemes[] = {
    { "f32", "float32", 32, FMT_F32, 0, NULL, deq_f32 },
    { "f16", "float16", 16, FMT_F16, 0, NULL, deq_f16 },
    { "bf16", "bfloat16", 16, FMT_BF16, 0, NULL, deq_bf16 },
    { "w8", "int8 per output channel", 8, FMT_I8, 0, qnt_rtn_w8, deq_w8 },
    { "w4", "int4 per output channel", 4, FMT_U8, 0, qnt_rtn_w4, deq_w4 },
    { "w8a8", "int8 weights and activations", 8, FMT_I8, 0, qnt_rtn_w8a8, deq_w8 },
    { "w4g", "int4 per group of columns", 4, FMT_U8, 1, NULL, deq_w4g },
    { "w8g", "int8 per group of columns", 8, FMT_U8, 1, NULL, deq_w8g },
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
        if (qnt_scheme_is_float(s) && s->dtype == t)
            return s;
    return NULL;
}

const qnt_scheme *qnt_scheme_grouped(int bits)
{
    for (const qnt_scheme *s = qnt_schemes; s->name; s++)
        if (s->grouped && s->bits == bits)
            return s;
    return NULL;
}

int qnt_scheme_is_float(const qnt_scheme *s)
{
    return !s->quantize_row && !s->grouped;
}

size_t qnt_row_bytes(const qnt_scheme *s, int64_t K)
{
    return ((size_t)K * (size_t)s->bits + 7) / 8;
}

int64_t qnt_n_groups(const qnt_scheme *s, int64_t K, int64_t group)
{
    return s->grouped ? (K + group - 1) / group : s->quantize_row != NULL;
}

qnt_row qnt_tensor_row(const qnt_tensor *t, int64_t n)
{
    const int64_t at = n * qnt_n_groups(t->scheme, t->K, t->group);

    return (qnt_row){ .codes = (const char *)t->codes + (size_t)n * qnt_row_bytes(t->scheme, t->K),
                      .scale = t->scale ? t->scale + at : NULL,
                      .zero = t->zero ? t->zero + at : NULL,
                      .g_idx = t->g_idx,
                      .group = t->group };
}

void qnt_tensor_rows(float *out, const qnt_tensor *t, int64_t n0, int64_t n1)
{
#pragma omp parallel for schedule(static)
    for (int64_t n = n0; n < n1; n++) {
        const qnt_row row = qnt_tensor_row(t, n);

        t->scheme->dequantize(out + (n - n0) * t->K, &row, 0, t->K);
    }
}

void qnt_tensor_free(qnt_tensor *t)
{
    q_free(t->codes);
    q_free(t->scale);
    q_free(t->zero);
    q_free(t->g_idx);
    q_free(t->bias);
    *t = (qnt_tensor){ 0 };
}
