/* Rotary frequencies: base^(-2i / rot), and the two ways to stretch them.
 *
 * Qwen's dynamic NTK: alpha from the prompt length n, base' = base * alpha^(rot / (rot - 2)); its
 * modeling code decides only when there is no past.
 *
 * YaRN: pairs that turn more than beta_fast times within the trained context keep their frequency,
 * those that turn less than beta_slow times are interpolated (divided by the factor), and between
 * them lies a linear ramp.  Peng et al. 2023, with the rounding of its ends in Hugging Face. */
#include "runtime/rope.h"

#include <math.h>

static double ntk_base(const fmt_model *m, int64_t n)
{
    double alpha = 1;

    if (m->dyn_ntk && n > m->train_ctx)
        alpha = pow(2, ceil(log2((double)n / (double)m->train_ctx) + 1)) - 1;
    return alpha > 1 ? m->rope_base * pow(alpha, (double)m->rot / (double)(m->rot - 2))
                     : m->rope_base;
}

/* The pair, as a real number, that turns `times` times within the trained context. */
static double pair_of(const fmt_model *m, double times)
{
    return (double)m->rot * log(m->yarn.ctx / (times * 2 * M_PI)) / (2 * log(m->rope_base));
}

static void yarn(float *inv_freq, const fmt_model *m)
{
    double low = pair_of(m, m->yarn.beta_fast), high = pair_of(m, m->yarn.beta_slow);

    if (m->yarn.whole) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)(m->rot - 1));
    if (low == high)
        high += 0.001;
    for (int64_t i = 0; i < m->rot / 2; i++) {
        const double ramp = fmin(fmax(((double)i - low) / (high - low), 0), 1);

        inv_freq[i] = (float)((double)inv_freq[i] * (1 - ramp + ramp / m->yarn.factor));
    }
}

void rt_inv_freq(float *inv_freq, const fmt_model *m, int64_t n)
{
    const double base = ntk_base(m, n);

    for (int64_t i = 0; i < m->rot / 2; i++)
        inv_freq[i] = (float)(1.0 / pow(base, 2.0 * (double)i / (double)m->rot));
    if (m->yarn.factor != 0)
        yarn(inv_freq, m);
}

float rt_logn_factor(const fmt_model *m, int64_t pos)
{
    if (!m->logn || pos + 1 <= m->train_ctx)
        return 1.0f;
    return (float)(log((double)(pos + 1)) / log((double)m->train_ctx));
}
