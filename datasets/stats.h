/* Small numeric tools of the data folder: a seeded generator, exact-order sums, quantiles.
 *
 *     ds_rng r = { seed };
 *     size_t i = (size_t)ds_rng_below(&r, n);
 *
 *     ds_sum s = { 0 };
 *     ds_sum_add(&s, x);                 (one call per value, in the order of the data)
 *     double total = ds_sum_value(&s);
 *
 * Results depend on seed, values and order only: the same on every machine and thread count.
 * Threads: a ds_rng and a ds_sum belong to one thread; the functions are pure.
 * Source: SplitMix64, Steele, Lea, Flood 2014; Neumaier 1974 (compensated summation). */
#ifndef DS_STATS_H
#define DS_STATS_H

#include <stddef.h>
#include <stdint.h>

typedef struct ds_rng {
    uint64_t state; /* start with the seed; every value is a good one */
} ds_rng;

uint64_t ds_rng_next(ds_rng *r);
/* Uniform in [0, n) without bias: draws again while the value lies in the short last block.
 * n >= 1. */
uint64_t ds_rng_below(ds_rng *r, uint64_t n);

typedef struct ds_sum {
    double sum, rest; /* rest: what rounding took from sum so far */
} ds_sum;

/* Error of the total: about one rounding, whatever the number of values.  A value that is not
 * finite makes the total not finite. */
void ds_sum_add(ds_sum *s, double x);
double ds_sum_value(const ds_sum *s);

/* Sorts v ascending in place; v holds no NaN. */
void ds_sort(double *v, size_t n);
/* The q-quantile, 0 <= q <= 1, of ascending values: position q * (n - 1), linear between the two
 * neighbours (type 7 of Hyndman and Fan, NumPy's default).  n >= 1. */
double ds_quantile(const double *sorted, size_t n, double q);

#endif
