/* Numbers of w8a8: codes against exact arithmetic, rows by hand, and what cannot be kept. */
#include <math.h>
#include <string.h>

#include "quant/rtn.h"
#include "quant/scheme.h"
#include "quant/w8a8.h"
#include "tests/t.h"

#define K_MAX 1000

static uint32_t state = 7;

static float uniform(void) /* -1 .. 1 */
{
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / 8388608.0f - 1.0f;
}

/* Half to even of v * 127 / max by comparing integers: with v and max scaled to whole numbers the
 * code c is right when |254 v - 2 c max| <= max, and c is even when both are equal. */
static void check_code(int code, float v, float max)
{
    int e;
    const double scale = ldexp(1, 24 - (frexp((double)max, &e), e)); /* max has 24 bits */
    const double V = (double)v * scale * 254, M = (double)max * scale;
    const double off = fabs(V - 2 * code * M); /* exact: below 2^53 */

    if (off > M || (!(off < M) && code % 2 != 0))
        t_fail(__FILE__, __LINE__, "%a of %a: code %d", (double)v, (double)max, code);
    T_TRUE(code >= -127 && code <= 127);
}

static void t_random_rows(void)
{
    float row[K_MAX], back[K_MAX], scale;
    int8_t codes[K_MAX + 1];
    const qnt_scheme *s = qnt_scheme_find("w8a8");

    for (int turn = 0; turn < 200; turn++) {
        const float size = powf(10, (float)(turn % 40) - 25); /* 1e-25 .. 1e14 */
        const int64_t K = 1 + turn * 5;

        for (int64_t k = 0; k < K; k++) /* every other row on a grid that makes ties */
            row[k] = turn % 2 ? size * uniform() : ldexpf(floorf(256 * uniform()), turn % 40 - 20);
        codes[K] = 77;
        s->quantize_row(codes, &scale, row, K);
        T_INT(codes[K], 77);
        T_NEAR(scale, qnt_absmax(row, K) / 127.0f, 0);
        s->dequantize(back, &(qnt_row){ .codes = codes, .scale = &scale }, 0, K);
        for (int64_t k = 0; k < K; k++) {
            check_code(codes[k], row[k], qnt_absmax(row, K));
            T_NEAR(back[k], (float)codes[k] * scale, 0);
        }
    }
}

/* Ties go to the even neighbour, and the two ends are reached. */
static void t_by_hand(void)
{
    static const float row[] = {
        127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, -127, 126.5f, 0.50001f
    };
    static const int want[] = { 127, 0, 2, 2, 0, -2, -2, -127, 126, 1 };
    static const float half[] = { 3, 1.5f, -1.5f, 0.01f };
    int8_t codes[10];
    float scale;

    qnt_rtn_w8a8(codes, &scale, row, 10);
    T_NEAR(scale, 1, 0);
    for (int k = 0; k < 10; k++)
        T_INT(codes[k], want[k]);
    qnt_rtn_w8a8(codes, &scale, half, 4);
    T_NEAR(scale, 3.0f / 127.0f, 0);
    T_INT(codes[1], 64); /* 63.5 */
    T_INT(codes[2], -64);
    T_INT(codes[3], 0);
    qnt_w8a8_codes(codes, half, 4, 6); /* by the maximum of a larger piece */
    T_INT(codes[0], 64);
    T_INT(codes[1], 32);
}

static void t_edges(void)
{
    static const float zeros[] = { 0, -0.0f, 0 }, tiny[] = { 1e-31f, -1e-38f, 0 };
    static const float inf[] = { 1, INFINITY, 2 }, nan[] = { NAN, 1, 2 };
    static const float huge[] = { 3.4e38f, -3.4e38f, 1.7e38f };
    int8_t codes[3];
    float scale;

    for (int i = 0; i < 2; i++) { /* nothing there: scale 1, and nothing divides by zero */
        qnt_rtn_w8a8(codes, &scale, i ? tiny : zeros, 3);
        T_NEAR(scale, 1, 0);
        T_TRUE(codes[0] == 0 && codes[1] == 0 && codes[2] == 0);
    }
    for (int i = 0; i < 2; i++) {
        qnt_rtn_w8a8(codes, &scale, i ? nan : inf, 3);
        T_TRUE(!isfinite(scale));
        T_TRUE(codes[0] == 0 && codes[1] == 0 && codes[2] == 0);
    }
    qnt_rtn_w8a8(codes, &scale, huge, 3);
    T_TRUE(isfinite(scale) && codes[0] == 127 && codes[1] == -127);
    T_TRUE(codes[2] == 63 || codes[2] == 64);
    T_NEAR(qnt_w8a8_scale(254), 2, 0);
    T_NEAR(qnt_w8a8_scale(0), 1, 0);
    qnt_w8a8_codes(codes, zeros, 0, 1); /* no values: nothing is touched */
}

static const t_case cases[] = { T(t_random_rows), T(t_by_hand), T(t_edges), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
