/* IEEE half (f16) and bfloat16 as uint16_t, one value at a time.
 *
 *     float f = q_f16_to_f32(h);
 *     uint16_t h = q_f32_to_f16(f);        round to nearest, ties to even; overflow gives infinity
 *
 * These are the definition; vector code must give the same bits (tests compare all 65536 values and
 * random floats).  Rows of values: fmt_convert in formats/dtype.h.  Source: IEEE 754-2019. */
#ifndef Q_HALF_H
#define Q_HALF_H

#include <stdint.h>
#include <string.h>

static inline float q_bits_to_f32(uint32_t u)
{
    float f;

    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint32_t q_f32_to_bits(float f)
{
    uint32_t u;

    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float q_f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t exp = (h >> 10) & 0x1fu, man = h & 0x3ffu;

    if (exp == 0) /* zero or subnormal: man * 2^-24 is exact in f32 */
        return q_bits_to_f32(sign | q_f32_to_bits((float)man * 0x1p-24f));
    if (exp == 31)
        return q_bits_to_f32(sign | 0x7f800000u | (man << 13) | (man ? 0x400000u : 0));
    return q_bits_to_f32(sign | ((exp + 112) << 23) | (man << 13));
}

static inline uint16_t q_f32_to_f16(float f)
{
    const uint32_t u = q_f32_to_bits(f), a = u & 0x7fffffffu;
    const uint32_t sign = (u >> 16) & 0x8000u;
    uint32_t r;

    if (a > 0x7f800000u) /* NaN: quiet, upper payload kept */
        return (uint16_t)(sign | 0x7e00u | ((a >> 13) & 0x3ffu));
    if (a >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (a < 0x38800000u) { /* below 2^-14: adding 0.5 makes the FPU round at 2^-24 */
        r = q_f32_to_bits(q_bits_to_f32(a) + 0.5f) - 0x3f000000u;
        return (uint16_t)(sign | r);
    }
    r = a + 0xfffu + ((a >> 13) & 1u); /* carry may move the exponent: wanted */
    return (uint16_t)(sign | ((r - 0x38000000u) >> 13));
}

static inline float q_bf16_to_f32(uint16_t h)
{
    return q_bits_to_f32((uint32_t)h << 16);
}

static inline uint16_t q_f32_to_bf16(float f)
{
    const uint32_t u = q_f32_to_bits(f);

    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

#endif
