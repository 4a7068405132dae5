/* Activations as int8 codes, the left operand of w8a8 products.
 *
 * Per token (x_scale 0):   amax = max(1e-6, max |x|)   code = round_even(x * (127 / amax))
 *                          scale = amax / 127
 * Static (x_scale > 0):    code = saturated round_even(x / x_scale)   scale = x_scale
 *
 * All of it in f32, one rounding an operation, so every compiler and instruction set gives the same
 * codes.  A row that is not finite everywhere has no scale: its codes are 0, its scale is NaN, and
 * so is every product with it (a maximum by comparison would pass over the NaN, and the error with
 * it).  The largest magnitude is found on the bits: as integers, infinity and NaN come out above
 * every number.
 *
 * Source: reference-behaviour section 3.3. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_mem.h"
#include "runtime/cpu/cpu.h"
#include "runtime/cpu/cpu_math.h"

#define AMAX_MIN 1e-6f
#define LINE     64

int64_t cpu_codes_ld(int64_t K)
{
    return (cpu_round_up(K, LINE) / LINE | 1) * LINE;
}

int64_t cpu_codes_tokens(int64_t K)
{
    const int64_t fit = CPU_CODES_BYTES / cpu_codes_ld(K);

    return fit < CPU_CODES_M ? fit : CPU_CODES_M;
}

_Static_assert(CPU_DOT_MAX_K < CPU_CODES_BYTES - LINE, "one row of codes always fits");

q_status cpu_codes_reserve(cpu_codes **c, int64_t K, q_err *err)
{
    size_t bytes;
    int8_t *q;

    if (K > CPU_DOT_MAX_K)
        return q_fail(err, Q_ESHAPE, "w8a8: %lld columns, at most %lld", (long long)K,
                      (long long)CPU_DOT_MAX_K);
    bytes = (size_t)(cpu_codes_ld(K) * cpu_codes_tokens(K));
    if (!*c && !(*c = q_calloc(1, sizeof **c)))
        return q_fail(err, Q_ENOMEM, "cpu: no memory for the codes of activations");
    if (bytes <= (*c)->bytes)
        return Q_OK;
    if (!(q = cpu_block_alloc(bytes)))
        return q_fail(err, Q_ENOMEM, "cpu: no memory for %zu bytes of codes of activations", bytes);
    free((*c)->q); /* scratch: nothing in it outlives a call */
    (*c)->q = q;
    (*c)->bytes = bytes;
    return Q_OK;
}

void cpu_codes_free(cpu_codes *c)
{
    if (c)
        free(c->q);
    q_free(c);
}

/* bits of the largest |x| */
static int32_t top_of(const float *x, int64_t K)
{
    int32_t top = 0;

    for (int64_t k = 0; k < K; k++) {
        const int32_t u = (int32_t)(q_f32_to_bits(x[k]) & 0x7fffffffu);

        top = u > top ? u : top;
    }
    return top;
}

static int32_t sum_of(const int8_t *q, int64_t K)
{
    int32_t s = 0; /* K <= CPU_DOT_MAX_K: at most 2^27 */

    for (int64_t k = 0; k < K; k++)
        s += q[k];
    return s;
}

static void one_row(cpu_codes *c, int row, const float *x, int64_t K, float x_scale)
{
    int8_t *q = c->q + row * c->ld;
    const float amax = q_bits_to_f32((uint32_t)top_of(x, K));
    const float least = amax > AMAX_MIN ? amax : AMAX_MIN, f = 127.0f / least;

    memset(q + K, 0, (size_t)(c->ld - K));
    if (!isfinite(amax)) {
        memset(q, 0, (size_t)K);
        c->scale[row] = NAN;
        c->sum[row] = 0;
        return;
    }
    c->scale[row] = x_scale > 0 ? x_scale : least / 127.0f;
    if (x_scale > 0)
        for (int64_t k = 0; k < K; k++)
            q[k] = cpu_round_i8(x[k] / x_scale);
    else
        for (int64_t k = 0; k < K; k++)
            q[k] = cpu_round_i8(x[k] * f);
    c->sum[row] = sum_of(q, K);
}

void cpu_codes_make(cpu_codes *c, const float *x, int m, int64_t K, float x_scale, int threads)
{
    c->ld = cpu_codes_ld(K);
#pragma omp parallel for num_threads(threads)                                                      \
    schedule(static) if (m > 1 && m * K >= CPU_CODES_ALONE)
    for (int t = 0; t < m; t++)
        one_row(c, t, x + t * K, K, x_scale);
}
