/* Rounding for w8a8.  A float times 127 is exact in double, and the quotient of two such numbers is
 * either half-way between integers exactly, or farther from it than a double can round: dividing
 * in double and rounding to even therefore gives the code of the exact quotient.  Adding and
 * subtracting 1.5 * 2^52 rounds to even in any vector unit. */
#include "quant/w8a8.h"

#include <float.h>
#include <string.h>

#include "quant/rtn.h"

#define ROUND 0x1.8p52

float qnt_w8a8_scale(float absmax)
{
    return absmax < QNT_W8A8_MIN ? 1.0f : absmax / QNT_W8A8_MAX;
}

void qnt_w8a8_codes(int8_t *codes, const float *v, int64_t n, float absmax)
{
    const double max = absmax;

    if (absmax < QNT_W8A8_MIN || !(absmax <= FLT_MAX)) {
        memset(codes, 0, (size_t)n);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        codes[i] = (int8_t)(int32_t)((double)v[i] * QNT_W8A8_MAX / max + ROUND - ROUND);
}

void qnt_rtn_w8a8(void *codes, float *scale, const float *row, int64_t K)
{
    const float absmax = qnt_absmax(row, K);

    *scale = qnt_w8a8_scale(absmax);
    qnt_w8a8_codes(codes, row, K, absmax);
}
