/* dtype: the table, and rows of conversions against q_half.h, which is the definition. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "formats/base/q_half.h"
#include "formats/base/q_mem.h"
#include "formats/dtype.h"
#include "tests/t.h"

static const struct {
    fmt_dtype t;
    const char *name, *st;
    size_t bytes;
    int is_float;
} want[] = {
    { FMT_F32, "float32", "F32", 4, 1 },    { FMT_F16, "float16", "F16", 2, 1 },
    { FMT_BF16, "bfloat16", "BF16", 2, 1 }, { FMT_F64, "float64", "F64", 8, 0 },
    { FMT_I8, "int8", "I8", 1, 0 },         { FMT_U8, "uint8", "U8", 1, 0 },
    { FMT_I16, "int16", "I16", 2, 0 },      { FMT_U16, "uint16", "U16", 2, 0 },
    { FMT_I32, "int32", "I32", 4, 0 },      { FMT_U32, "uint32", "U32", 4, 0 },
    { FMT_I64, "int64", "I64", 8, 0 },      { FMT_U64, "uint64", "U64", 8, 0 },
    { FMT_BOOL, "bool", "BOOL", 1, 0 },
};

static void t_table(void)
{
    fmt_dtype t = FMT_DTYPES;

    T_INT(sizeof want / sizeof want[0], FMT_DTYPES);
    for (int i = 0; i < FMT_DTYPES; i++) {
        char torch[32];

        T_INT(want[i].t, i);
        T_STR(fmt_dtype_name(want[i].t), want[i].name);
        T_STR(fmt_dtype_st_name(want[i].t), want[i].st);
        T_INT(fmt_dtype_bytes(want[i].t), want[i].bytes);
        T_INT(fmt_dtype_is_float(want[i].t), want[i].is_float);
        T_TRUE(fmt_dtype_from_name(want[i].name, &t) && t == want[i].t);
        T_TRUE(fmt_dtype_from_st_name(want[i].st, &t) && t == want[i].t);
        snprintf(torch, sizeof torch, "torch.%s", want[i].name);
        T_TRUE(fmt_dtype_from_name(torch, &t) && t == want[i].t);
    }
    t = FMT_U8;
    T_INT(fmt_dtype_from_name("torch.torch.int8", &t), 0);
    T_INT(fmt_dtype_from_name("half", &t), 0);
    T_INT(fmt_dtype_from_name("", &t), 0);
    T_INT(fmt_dtype_from_st_name("F8_E4M3", &t), 0);
    T_INT(fmt_dtype_from_st_name("f16", &t), 0);
    T_INT(t, FMT_U8); /* unknown leaves it alone */
}

static uint64_t next(uint64_t *s)
{
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* The definition, one value: bits in, bits out, 1 in *clip for a finite value that overflowed. */
static uint32_t one(fmt_dtype to, fmt_dtype from, uint32_t bits, int *clip)
{
    const float f = from == FMT_F32   ? q_bits_to_f32(bits)
                    : from == FMT_F16 ? q_f16_to_f32((uint16_t)bits)
                                      : q_bf16_to_f32((uint16_t)bits);
    uint32_t r = q_f32_to_bits(f);
    float back = f;

    if (to == FMT_F16)
        back = q_f16_to_f32((uint16_t)(r = q_f32_to_f16(f)));
    if (to == FMT_BF16)
        back = q_bf16_to_f32((uint16_t)(r = q_f32_to_bf16(f)));
    *clip = isfinite(f) && isinf(back);
    return r;
}

static uint32_t element(const void *p, fmt_dtype t, size_t i)
{
    uint32_t u = 0;

    memcpy(&u, (const char *)p + i * fmt_dtype_bytes(t), fmt_dtype_bytes(t));
    return u;
}

static void check(fmt_dtype to, fmt_dtype from, const void *src, size_t n)
{
    void *dst = q_malloc(n * 4 + 1);
    uint64_t clipped = 7, wanted = 7;

    T_TRUE(dst != NULL);
    fmt_convert(dst, to, src, from, n, &clipped);
    for (size_t i = 0; i < n; i++) {
        const uint32_t in = element(src, from, i), out = element(dst, to, i);
        int clip;
        const uint32_t def = one(to, from, in, &clip);

        wanted += (uint64_t)clip;
        if (out != def)
            t_fail(__FILE__, __LINE__, "%s %08x -> %s %08x, wanted %08x", fmt_dtype_name(from), in,
                   fmt_dtype_name(to), out, def);
    }
    T_INT(clipped, wanted);
    for (size_t i = 0; i < n; i++) { /* rows of one take the plain loop; nobody counts */
        uint32_t out = 0;
        int clip;

        fmt_convert(&out, to, (const char *)src + i * fmt_dtype_bytes(from), from, 1, NULL);
        T_INT(out, one(to, from, element(src, from, i), &clip));
    }
    q_free(dst);
}

static void t_all_halves(void)
{
    static uint16_t h[65536];

    for (unsigned i = 0; i < 65536; i++)
        h[i] = (uint16_t)i;
    check(FMT_F32, FMT_F16, h, 65536);
    check(FMT_F32, FMT_BF16, h, 65536);
    check(FMT_BF16, FMT_F16, h, 65536);
    check(FMT_F16, FMT_BF16, h, 65536);
}

/* every exponent, both signs, around every rounding boundary of both types */
static void t_f32_edges(void)
{
    static const uint32_t man[] = { 0,        1,        0xfff,    0x1000,   0x1001,   0x1fff,
                                    0x2000,   0x2001,   0x2fff,   0x3000,   0x3001,   0x7fff,
                                    0x8000,   0x8001,   0xffff,   0x10000,  0x10001,  0x17fff,
                                    0x18000,  0x18001,  0x3fffff, 0x400000, 0x400001, 0x401fff,
                                    0x7fdfff, 0x7fefff, 0x7ff000, 0x7ff001, 0x7f7fff, 0x7f8000,
                                    0x7f8001, 0x7fffff };
    enum { M = sizeof man / sizeof man[0] };
    static uint32_t u[512 * M];

    for (uint32_t e = 0; e < 512; e++)
        for (uint32_t m = 0; m < M; m++)
            u[e * M + m] = e << 23 | man[m];
    check(FMT_F16, FMT_F32, u, 512 * M);
    check(FMT_BF16, FMT_F32, u, 512 * M);
}

static void t_f32_random(void)
{
    enum { N = 1 << 20 };
    uint32_t *u = q_malloc(N * sizeof *u);
    uint64_t s = 1;

    T_TRUE(u != NULL);
    for (size_t i = 0; i < N; i++)
        u[i] = (uint32_t)next(&s);
    for (size_t i = 0; i < N; i += 2) /* half of them near the f16 range */
        u[i] = (u[i] & 0x80ffffffu) + 0x37000000u + ((uint32_t)next(&s) % 18 << 24);
    check(FMT_F16, FMT_F32, u, N);
    check(FMT_BF16, FMT_F32, u, N);
    q_free(u);
}

/* every length up to a few vectors, at odd addresses, and nothing written behind the row */
static void t_tails(void)
{
    static const fmt_dtype f[] = { FMT_F32, FMT_F16, FMT_BF16 };
    uint64_t s = 2;
    char src[200], dst[200];

    for (size_t i = 0; i < sizeof src; i++)
        src[i] = (char)next(&s);
    for (size_t k = 0; k < 9; k++)
        for (size_t n = 0; n <= 40; n++) {
            const fmt_dtype to = f[k / 3], from = f[k % 3];
            const size_t end = 1 + n * fmt_dtype_bytes(to);

            memset(dst, 0x5a, sizeof dst);
            fmt_convert(dst + 1, to, src + 3, from, n, NULL);
            for (size_t i = 0; i < n; i++) {
                int clip;

                T_INT(element(dst + 1, to, i),
                      to == from ? element(src + 3, from, i)
                                 : one(to, from, element(src + 3, from, i), &clip));
            }
            T_INT(dst[0], 0x5a);
            for (size_t i = end; i < sizeof dst; i++)
                T_INT(dst[i], 0x5a);
        }
}

/* one type to itself keeps every bit, signalling NaN included, in place too */
static void t_same_type(void)
{
    uint16_t h[] = { 0x7c01, 0xfc01, 0x7fff, 0x0001, 0x8000, 0x7bff }, copy[6];
    uint32_t u[] = { 0x7f800001u, 0xffffffffu, 1, 0x7f7fffffu }, out[4];
    uint64_t clipped = 0;

    memcpy(copy, h, sizeof h);
    fmt_convert(h, FMT_F16, h, FMT_F16, 6, &clipped);
    T_TRUE(memcmp(copy, h, sizeof h) == 0);
    fmt_convert(copy, FMT_BF16, h, FMT_BF16, 6, &clipped);
    T_TRUE(memcmp(copy, h, sizeof h) == 0);
    fmt_convert(out, FMT_F32, u, FMT_F32, 4, &clipped);
    T_TRUE(memcmp(out, u, sizeof u) == 0);
    T_INT(clipped, 0);
}

static void t_clipping(void)
{
    static const float v[] = { 65504.0f, 65519.996f, 65520.0f,    -65520.0f, 1e5f, INFINITY,
                               NAN,      -INFINITY,  0x1.fep127f, FLT_MAX,   0,    1 };
    uint16_t h[12];
    uint64_t clipped = 0;

    fmt_convert(h, FMT_F16, v, FMT_F32, 12, &clipped);
    T_INT(clipped, 5);
    T_INT(h[0], 0x7bff);
    T_INT(h[1], 0x7bff);
    T_INT(h[2], 0x7c00);
    T_INT(h[3], 0xfc00);
    clipped = 0;
    fmt_convert(h, FMT_BF16, v, FMT_F32, 12, &clipped);
    T_INT(clipped, 1); /* FLT_MAX alone */
    T_INT(h[8], 0x7f7f);
    T_INT(h[9], 0x7f80);
}

static const t_case cases[] = { T(t_table), T(t_all_halves), T(t_f32_edges), T(t_f32_random),
                                T(t_tails), T(t_same_type),  T(t_clipping),  { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
