/* Rounding to nearest (quant/rtn.c) and the scheme table, against the formulas of the reference
 * evaluated independently, and small rows by hand. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_half.h"
#include "formats/base/q_mem.h"
#include "quant/scheme.h"
#include "tests/t.h"

#define K_MAX 300

static uint32_t state;

static float uniform(void) /* -1 .. 1 */
{
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / 8388608.0f - 1.0f;
}

/* code k of a row */
static int code_at(const qnt_scheme *s, const void *codes, int64_t k)
{
    const uint8_t *c = codes;

    if (s->bits == 8)
        return ((const int8_t *)codes)[k];
    return (c[k / 2] >> (k % 2 * 4) & 15) - 8;
}

/* The definition, in double except for the one division that is meant to be in float. */
static int code_of(float w, float scale_f32, int q)
{
    const double r = round((double)(w / scale_f32)); /* half away from zero */

    return (int)(r > q - 1 ? q - 1 : r < -q ? -q : r);
}

static void check_row(const qnt_scheme *s, const float *row, int64_t K)
{
    const int q = s->bits == 8 ? 128 : 8;
    uint8_t codes[K_MAX + 8];
    float back[K_MAX], scale = -1, max = 0;

    memset(codes, 0xee, sizeof codes);
    for (int64_t k = 0; k < K; k++)
        max = fabsf(row[k]) > max ? fabsf(row[k]) : max;
    s->quantize_row(codes, &scale, row, K);
    T_INT(codes[qnt_row_bytes(s, K)], 0xee); /* not a byte more */
    if (max == 0)
        T_NEAR(scale, 1, 0);
    else
        T_NEAR(scale, q_f16_to_f32(q_f32_to_f16(max / (float)q)), 0);
    s->dequantize(back, &(qnt_row){ .codes = codes, .scale = &scale }, 0, K);
    for (int64_t k = 0; k < K; k++) {
        T_INT(code_at(s, codes, k), max == 0 ? 0 : code_of(row[k], max / (float)q, q));
        T_NEAR(back[k], (float)code_at(s, codes, k) * scale, 0);
    }
}

static void t_random_rows(void)
{
    static const char *const names[] = { "w8", "w4" };
    static const int64_t sizes[] = { 1, 2, 3, 15, 16, 17, 127, 128, 300 };
    float row[K_MAX];

    for (size_t n = 0; n < 2; n++)
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            for (int turn = 0; turn < 20; turn++) {
                const float size = powf(10, (float)(turn % 9) - 5); /* 1e-5 .. 1e3 */

                state = (uint32_t)(turn * 1000 + (int)i);
                for (int64_t k = 0; k < sizes[i]; k++)
                    row[k] = size * uniform();
                check_row(qnt_scheme_find(names[n]), row, sizes[i]);
            }
}

/* Halves: with a maximum of q times a power of two, the codes are the values themselves. */
static void t_halves(void)
{
    static const float w8[] = { 128, 0.5f, 1.5f, -0.5f, -2.5f, 0.49999997f, -0.49999997f, 127.5f };
    static const int want8[] = { 127, 1, 2, -1, -3, 0, 0, 127 };
    static const float w4[] = { -8, 0.5f, 2.5f, -0.5f, -7.5f, 7.5f, 7.4999995f };
    static const int want4[] = { -8, 1, 3, -1, -8, 7, 7 };
    uint8_t codes[8];
    float scale;

    qnt_scheme_find("w8")->quantize_row(codes, &scale, w8, 8);
    T_NEAR(scale, 1, 0);
    for (int k = 0; k < 8; k++)
        T_INT(code_at(qnt_scheme_find("w8"), codes, k), want8[k]);
    qnt_scheme_find("w4")->quantize_row(codes, &scale, w4, 7);
    T_NEAR(scale, 1, 0);
    for (int k = 0; k < 7; k++)
        T_INT(code_at(qnt_scheme_find("w4"), codes, k), want4[k]);
    T_INT(codes[3] >> 4, 8); /* the nibble after an odd end is the code of zero */
}

/* The positive maximum does not fit and clips, the negative one does. */
static void t_clipping(void)
{
    static const float row[] = { 3, -3 };
    uint8_t codes[2];
    float scale;

    qnt_scheme_find("w8")->quantize_row(codes, &scale, row, 2);
    T_INT((int8_t)codes[0], 127);
    T_INT((int8_t)codes[1], -128);
    T_NEAR(scale, 3.0f / 128, 0);
    qnt_scheme_find("w4")->quantize_row(codes, &scale, row, 2);
    T_INT(codes[0], 15 | 0 << 4); /* 7 and -8, stored as code + 8 */
    T_NEAR(scale, 3.0f / 8, 0);
}

/* The codes come from the f32 scale, the stored scale is its f16 value: 1 / 128 * 1.0003 rounds. */
static void t_scale_rounding(void)
{
    const float max = 1.0003f;
    const float row[] = { max, 0.25f * max, -0.5f * max };
    uint8_t codes[4];
    float scale;

    qnt_scheme_find("w8")->quantize_row(codes, &scale, row, 3);
    T_TRUE(scale != max / 128);
    T_NEAR(scale, 1.0f / 128, 0);
    T_INT((int8_t)codes[1], 32);
    T_INT((int8_t)codes[2], -64);
}

static void t_edges(void)
{
    static const char *const names[] = { "w8", "w4" };
    const float zeros[5] = { 0, -0.0f, 0, 0, 0 }, tiny[2] = { 1e-42f, -1e-40f };
    const float huge[2] = { 1e8f, 1 }, inf[2] = { INFINITY, 1 }, nan[2] = { 1, NAN };
    float row[2], scale;
    uint8_t codes[8];

    for (size_t i = 0; i < 2; i++) {
        const qnt_scheme *s = qnt_scheme_find(names[i]);

        check_row(s, zeros, 5);
        s->quantize_row(codes, &scale, tiny, 2); /* below f16: the row becomes zero, not garbage */
        s->dequantize(row, &(qnt_row){ .codes = codes, .scale = &scale }, 0, 2);
        T_TRUE(row[0] == 0 && row[1] == 0);
        s->quantize_row(codes, &scale, huge, 2); /* the scale leaves f16: reported by being so */
        T_TRUE(!isfinite(scale));
        s->quantize_row(codes, &scale, inf, 2);
        T_TRUE(!isfinite(scale));
        s->quantize_row(codes, &scale, nan, 2);
        T_TRUE(!isfinite(scale));
    }
}

static void t_table(void)
{
    static const struct {
        const char *name;
        int bits;
        fmt_dtype dtype;
        size_t row3; /* bytes of 3 elements */
    } want[] = { { "f32", 32, FMT_F32, 12 }, { "f16", 16, FMT_F16, 6 }, { "bf16", 16, FMT_BF16, 6 },
                 { "w8", 8, FMT_I8, 3 },     { "w4", 4, FMT_U8, 2 },    { "w8a8", 8, FMT_I8, 3 },
                 { "w4g", 4, FMT_U8, 2 },    { "w8g", 8, FMT_U8, 3 } };
    const float row[3] = { 1, -2.5f, 0.1f };
    size_t n = 0;

    for (const qnt_scheme *s = qnt_schemes; s->name; s++, n++) {
        T_STR(s->name, want[n].name);
        T_TRUE(qnt_scheme_find(s->name) == s && s->text[0] != '\0');
        T_INT(s->bits, want[n].bits);
        T_INT(qnt_row_bytes(s, 3), want[n].row3);
        T_INT(qnt_row_bytes(s, 0), 0);
        if (!qnt_scheme_is_float(s))
            continue;
        char codes[12];
        float back[3], exact[3];

        T_TRUE(qnt_scheme_float(want[n].dtype) == s);
        fmt_convert(codes, s->dtype, row, FMT_F32, 3, NULL);
        s->dequantize(back, &(qnt_row){ .codes = codes }, 0, 3);
        fmt_convert(exact, FMT_F32, codes, s->dtype, 3, NULL);
        T_TRUE(memcmp(back, exact, sizeof back) == 0);
    }
    T_INT(n, 8);
    T_TRUE(!qnt_scheme_find("w5") && !qnt_scheme_find("") && !qnt_scheme_float(FMT_I8));
}

static void t_free(void)
{
    qnt_tensor t = { .scheme = qnt_scheme_find("w8"),
                     .N = 2,
                     .K = 3,
                     .codes = q_malloc(6),
                     .scale = q_malloc(8),
                     .bias = q_malloc(8) };

    qnt_tensor_free(&t);
    T_TRUE(!t.scheme && !t.codes && !t.scale && !t.bias && t.N == 0 && t.K == 0);
    qnt_tensor_free(&t);
}

static const t_case tests[] = { T(t_random_rows), T(t_halves), T(t_clipping), T(t_scale_rounding),
                                T(t_edges),       T(t_table),  T(t_free),     { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, tests);
}
