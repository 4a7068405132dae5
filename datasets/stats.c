/* Seeded generator, compensated sums, quantiles.
 *
 * The generator is SplitMix64: a counter with an odd step, mixed by two multiplications.  It has a
 * period of 2^64, no bad seeds, and five lines anyone can repeat, which is what "the same sample
 * for the same seed" needs; it is not for secrets.  The sum keeps the part of each addition that
 * rounding drops (Neumaier's form, which also holds when the new value is the larger one). */
#include "datasets/stats.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

uint64_t ds_rng_next(ds_rng *r)
{
    uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t ds_rng_below(ds_rng *r, uint64_t n)
{
    uint64_t x, short_block;

    assert(n > 0);
    short_block = (UINT64_MAX - n + 1) % n; /* 2^64 mod n */
    do
        x = ds_rng_next(r);
    while (x < short_block);
    return x % n;
}

void ds_sum_add(ds_sum *s, double x)
{
    const double t = s->sum + x;

    if (isfinite(t)) /* else rest would turn an infinity into NaN */
        s->rest += fabs(s->sum) >= fabs(x) ? (s->sum - t) + x : (x - t) + s->sum;
    s->sum = t;
}

double ds_sum_value(const ds_sum *s)
{
    return s->sum + s->rest;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

void ds_sort(double *v, size_t n)
{
    if (n > 1)
        qsort(v, n, sizeof *v, by_value);
}

double ds_quantile(const double *sorted, size_t n, double q)
{
    double pos, frac;
    size_t i;

    assert(n > 0 && q >= 0 && q <= 1);
    pos = q * (double)(n - 1);
    i = (size_t)pos;
    frac = pos - (double)i;
    if (frac == 0 || i + 1 >= n) /* also keeps inf - inf out of the exact hits */
        return sorted[i];
    return sorted[i] + frac * (sorted[i + 1] - sorted[i]);
}
