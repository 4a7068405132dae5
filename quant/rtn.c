/* Rounding to nearest.  The loops are written so that any compiler vectorises them with SSE2: the
 * maximum is taken over the bit patterns (as integers these order like the magnitudes, and a NaN
 * sorts above infinity), and rounding half away from zero is a truncation plus a comparison, which
 * is exact: s is max|row| divided by a power of two, so the quotient stays within -q .. q.
 *
 * The quotient uses the f32 scale and the stored scale is rounded afterwards, so a dequantized
 * weight carries the rounding of the scale as well: at most 2^-11 of its value. */
#include "quant/rtn.h"

#include <float.h>

#include "formats/base/q_half.h"

float qnt_absmax(const float *v, int64_t n)
{
    int32_t max = 0;

    for (int64_t i = 0; i < n; i++) {
        const int32_t a = (int32_t)(q_f32_to_bits(v[i]) & 0x7fffffffu);

        max = a > max ? a : max;
    }
    return q_bits_to_f32((uint32_t)max);
}

static inline int round_clip(float v, int q)
{
    const int c = (int)v;
    const float rest = v - (float)c;
    const int r = c + (rest >= 0.5f) - (rest <= -0.5f);

    return r > q - 1 ? q - 1 : r; /* -q is reached, never passed: |v| <= q */
}

/* The f32 scale of a row; *stored is its f16 value.  0: every code is zero. */
static float row_scale(float *stored, const float *row, int64_t K, int q)
{
    const float max = qnt_absmax(row, K);
    const float s = max / (float)q;

    *stored = 1.0f;
    if (max == 0.0f)
        return 0.0f;
    *stored = q_f16_to_f32(q_f32_to_f16(s));
    /* below: subnormal quotients, zero in f16 anyway; above: not finite, and *stored says so */
    return s > 0x1p-100f && s <= FLT_MAX ? s : 0.0f;
}

void qnt_rtn_w8(void *codes, float *scale, const float *row, int64_t K)
{
    const float s = row_scale(scale, row, K, 128);
    int8_t *c = codes;

    if (s == 0.0f) {
        for (int64_t k = 0; k < K; k++)
            c[k] = 0;
        return;
    }
    for (int64_t k = 0; k < K; k++)
        c[k] = (int8_t)round_clip(row[k] / s, 128);
}

void qnt_rtn_w4(void *codes, float *scale, const float *row, int64_t K)
{
    const float s = row_scale(scale, row, K, 8);
    uint8_t *c = codes;

    for (int64_t i = 0; i < (K + 1) / 2; i++) {
        int lo = 8, hi = 8;

        if (s != 0.0f) {
            lo += round_clip(row[2 * i] / s, 8);
            hi += 2 * i + 1 < K ? round_clip(row[2 * i + 1] / s, 8) : 0;
        }
        c[i] = (uint8_t)(lo | hi << 4);
    }
}
