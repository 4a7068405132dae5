/* RMSNorm: y = x / sqrt(mean(x^2) + eps) * w, one row per piece.
 *
 * The sum of squares runs in double: a row has up to 8192 elements, the conversion is free beside
 * the loads, and the result then does not depend on how a compiler orders float additions.  The
 * factor is rounded to f32 once; after that it is one multiplication by it and one by w, as in the
 * original model code. */
#include "runtime/cpu/cpu.h"

#include <math.h>

#define LANES 8 /* independent sums, so that the loop is not one chain of additions */

void cpu_rmsnorm_row(float *y, const float *x, const float *w, int64_t dim, double eps)
{
    double sum[LANES] = { 0 }, s = 0;
    int64_t i = 0;
    float f;

    for (; i + LANES <= dim; i += LANES)
        for (int l = 0; l < LANES; l++)
            sum[l] += (double)x[i + l] * (double)x[i + l];
    for (; i < dim; i++)
        sum[0] += (double)x[i] * (double)x[i];
    for (int l = 0; l < LANES; l++)
        s += sum[l];
    f = (float)(1.0 / sqrt(s / (double)dim + eps));
    for (i = 0; i < dim; i++)
        y[i] = x[i] * f * w[i];
}

q_status cpu_rmsnorm(rt_backend *be, const rt_rmsnorm_args *a, q_err *err)
{
    const float *x = a->x;
    float *y = a->y;

    if (a->n_rows < 0 || a->dim < 1)
        return q_fail(err, Q_ESHAPE, "rmsnorm: [%lld, %lld]", (long long)a->n_rows,
                      (long long)a->dim);
#pragma omp parallel for num_threads(cpu_of(be)->threads) schedule(static) if (a->n_rows > 4)
    for (int64_t r = 0; r < a->n_rows; r++) {
        const int64_t from = a->rows ? a->rows[r] : r;

        cpu_rmsnorm_row(y + r * a->dim, x + from * a->dim, a->w, a->dim, a->eps);
    }
    return Q_OK;
}
