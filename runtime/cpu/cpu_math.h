/* exp and rounding as straight arithmetic, so that loops over them become vectors. */
#ifndef CPU_MATH_H
#define CPU_MATH_H

#include "formats/base/q_half.h"

/* e^x within about 1 ulp for -87 <= x <= 88; outside, the value at that bound (1.6e-38, 1.7e38).
 * x = n ln 2 + r, |r| <= ln 2 / 2: adding CPU_EXP_BIG leaves n in the low bits of a float; e^r is
 * the Taylor polynomial of degree 7 (next term: 5e-9); n goes into the exponent.  NaN stays NaN.
 * The vector versions in attn_avx2.c and attn_avx512.c take the same constants. */
#define CPU_EXP_MIN -87.0f
#define CPU_EXP_MAX 88.0f
#define CPU_EXP_BIG 12582912.0f /* 1.5 * 2^23 */
#define CPU_LOG2E   1.44269504f
#define CPU_LN2_HI  0.693359375f /* few bits: exact times n */
#define CPU_LN2_LO  -2.12194440e-4f

static inline float cpu_exp(float x)
{
    float t, n, r, p;

    x = x < CPU_EXP_MIN ? CPU_EXP_MIN : x;
    x = x > CPU_EXP_MAX ? CPU_EXP_MAX : x;
    t = x * CPU_LOG2E + CPU_EXP_BIG;
    n = t - CPU_EXP_BIG;
    r = x - n * CPU_LN2_HI;
    r = r - n * CPU_LN2_LO;
    p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = (p * r * r + r) + 1.0f;
    return q_bits_to_f32(q_f32_to_bits(p) + (q_f32_to_bits(t) << 23));
}

/* v / (1 + e^-v); below CPU_EXP_MIN, where cpu_exp no longer follows, the limit */
static inline float cpu_silu(float v)
{
    const float y = v / (1.0f + cpu_exp(-v));

    return v < CPU_EXP_MIN ? 0.0f : y;
}

/* The nearest integer, ties to even, saturated to -128 .. 127; NaN gives 0.  Adding 1.5 * 2^23
 * rounds at the last bit of the float, which then holds the integer. */
static inline int8_t cpu_round_i8(float v)
{
    v = v < -128.0f ? -128.0f : v;
    v = v > 127.0f ? 127.0f : v;
    v = v == v ? v : 0.0f;
    return (int8_t)(uint8_t)q_f32_to_bits(v + 12582912.0f);
}

#endif
