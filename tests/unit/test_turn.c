/* turn: every small shape and every element size against the definition, and nothing outside. */
#include <string.h>

#include "formats/base/q_mem.h"
#include "formats/turn.h"
#include "tests/t.h"

static void check(size_t es, int64_t rows, int64_t cols, int64_t lds, int64_t ldd)
{
    const size_t n_src = (size_t)(rows * lds + 1) * es, n_dst = (size_t)(cols * ldd + 1) * es;
    uint8_t *src = q_malloc(n_src), *dst = q_malloc(n_dst), *want = q_malloc(n_dst);
    uint32_t x = 1;

    T_TRUE(src && dst && want);
    for (size_t i = 0; i < n_src; i++)
        src[i] = (uint8_t)((x = x * 1664525u + 1013904223u) >> 24);
    memset(dst, 0x5a, n_dst);
    memset(want, 0x5a, n_dst);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            memcpy(want + (size_t)(c * ldd + r) * es, src + (size_t)(r * lds + c) * es, es);
    fmt_turn(dst, ldd, src, lds, rows, cols, es);
    if (memcmp(dst, want, n_dst) != 0)
        t_fail(__FILE__, __LINE__, "%lld x %lld elements of %zu bytes", (long long)rows,
               (long long)cols, es);
    q_free(src);
    q_free(dst);
    q_free(want);
}

static void t_small(void)
{
    for (size_t es = 1; es <= 8; es *= 2)
        for (int64_t rows = 0; rows <= 19; rows++)
            for (int64_t cols = 0; cols <= 19; cols++)
                check(es, rows, cols, cols, rows);
}

/* strides larger than the block, around the bands of 64 rows */
static void t_bands(void)
{
    static const int64_t n[] = { 1, 7, 8, 63, 64, 65, 72, 127, 128, 131 };

    for (size_t es = 1; es <= 8; es *= 2)
        for (int i = 0; i < 10; i++)
            for (int k = 0; k < 10; k++)
                check(es, n[i], n[k], n[k] + 3, n[i] + 5);
}

static const t_case cases[] = { T(t_small), T(t_bands), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
