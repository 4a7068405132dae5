/* Axes of charts: which numbers they end at, where a value lies, where the ticks are; and how they
 * are drawn.
 *
 * An axis ends at round numbers: 1, 2 or 5 times a power of ten, or whole powers of ten when it is
 * logarithmic.  Values may be anything that a double can be: one value, none, the largest ones. */
#include <math.h>

#include "formats/report_impl.h"

#define TICKS 32 /* at most */

void rep_span(double *min, double *max, const double *v, size_t n, int log)
{
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(v[i]) || (log && v[i] <= 0))
            continue;
        *min = v[i] < *min ? v[i] : *min;
        *max = v[i] > *max ? v[i] : *max;
    }
}

static double round_step(double span)
{
    const double power = pow(10, floor(log10(span / 5))), parts = span / 5 / power;

    return power * (parts <= 1 ? 1 : parts <= 2 ? 2 : parts <= 5 ? 5 : 10);
}

/* The power of ten at or below 10^u, and in short ranges 2 and 5 times it as well. */
static double round_log(double u, int fine)
{
    const double power = floor(u + 1e-9), rest = u - power + 1e-9;

    return power + (!fine || rest < log10(2) ? 0 : rest < log10(5) ? log10(2) : log10(5));
}

static void fit_log(rep_axis *a, double min, double max)
{
    const double lo = log10(min), hi = log10(max);
    const int fine = hi - lo < 1.5;

    a->lo = round_log(lo, fine);
    a->hi = -round_log(-hi, 0);
    if (fine) /* 1, 2, 5 upwards: what is left of ten is 10, 5, 2 */
        a->hi = hi <= a->hi - log10(5) + 1e-9   ? a->hi - log10(5)
                : hi <= a->hi - log10(2) + 1e-9 ? a->hi - log10(2)
                                                : a->hi;
    if (a->hi < a->lo + log10(2))
        a->hi = floor(a->lo) + 1;
    if (a->hi < a->lo + log10(2))
        a->lo = floor(a->lo);
}

static void fit_linear(rep_axis *a, double min, double max)
{
    const double limit = 1e300; /* differences stay finite */

    min = min < -limit ? -limit : min;
    max = max > limit ? limit : max;
    if (max - min <= 1e-12 * fmax(fabs(min), fabs(max))) { /* one value */
        const double pad = max != 0 ? fabs(max) * 0.1 : 1;

        min -= pad;
        max += pad;
    }
    a->step = round_step(max - min);
    a->lo = floor(min / a->step + 1e-9) * a->step;
    a->hi = ceil(max / a->step - 1e-9) * a->step;
}

rep_axis rep_axis_fit(double min, double max, int log, double p0, double p1)
{
    rep_axis a = { .log = log, .p0 = p0, .p1 = p1 };

    if (min > max) { /* nothing to show: an empty plot with some axis */
        min = log ? 0.1 : 0;
        max = 1;
    }
    if (log)
        fit_log(&a, min, max);
    else
        fit_linear(&a, min, max);
    return a;
}

double rep_axis_at(const rep_axis *a, double v)
{
    const double u = !a->log ? v : v > 0 ? log10(v) : a->lo;
    const double t = (u - a->lo) / (a->hi - a->lo);

    return a->p0 + (a->p1 - a->p0) * (t < 0 ? 0 : t > 1 ? 1 : t);
}

static int axis_ticks(const rep_axis *a, double t[TICKS])
{
    int n = 0;

    if (!a->log) {
        for (double i = 0; n < TICKS && a->lo + i * a->step <= a->hi + a->step * 1e-6; i++)
            t[n++] = a->lo + i * a->step;
        return n;
    }
    for (double d = floor(a->lo), by = ceil((a->hi - a->lo) / 8); d <= a->hi; d += by)
        for (int k = 0; k < (a->hi - a->lo <= 2 ? 3 : 1); k++) {
            const double u = d + (k == 0 ? 0 : k == 1 ? log10(2) : log10(5));

            if (u >= a->lo - 1e-9 && u <= a->hi + 1e-9 && n < TICKS)
                t[n++] = pow(10, u);
        }
    return n;
}

/* ---- drawing --------------------------------------------------------------------------------- */

void rep_axis_draw_y(fmt_report *r, const rep_axis *y, double x0, double x1, const char *label)
{
    double t[TICKS];
    const int n = axis_ticks(y, t);
    const double middle = (y->p0 + y->p1) / 2;

    for (int i = 0; i < n; i++) {
        const double p = rep_axis_at(y, t[i]);
        char num[REP_NUM];

        rep_num(num, fabs(t[i]) < 1e-12 * (y->hi - y->lo) ? 0 : t[i]);
        rep_f(r,
              "<path class=\"g\" d=\"M%.1f %.1fH%.1f\"/><text class=\"e\" x=\"%.1f\" "
              "y=\"%.1f\">%s</text>\n",
              x0, p, x1, x0 - 6, p + 4, num);
    }
    if (!label)
        return;
    rep_f(r, "<text class=\"m\" transform=\"translate(13 %.1f) rotate(-90)\">", middle);
    rep_text(r, label);
    rep_f(r, "</text>\n");
}

void rep_axis_draw_base(fmt_report *r, double x0, double x1, double bottom, const char *label)
{
    rep_f(r, "<path class=\"a\" d=\"M%.1f %.1fH%.1f\"/>\n", x0, bottom, x1);
    if (!label)
        return;
    rep_f(r, "<text class=\"m\" x=\"%.1f\" y=\"%.1f\">", (x0 + x1) / 2, bottom + 34);
    rep_text(r, label);
    rep_f(r, "</text>\n");
}

void rep_axis_draw_x(fmt_report *r, const rep_axis *x, double top, double bottom, const char *label)
{
    double t[TICKS];
    const int n = axis_ticks(x, t);

    for (int i = 0; i < n; i++) {
        const double p = rep_axis_at(x, t[i]);
        char num[REP_NUM];

        rep_num(num, fabs(t[i]) < 1e-12 * (x->hi - x->lo) ? 0 : t[i]);
        rep_f(r,
              "<path class=\"g\" d=\"M%.1f %.1fV%.1f\"/><text class=\"m\" x=\"%.1f\" "
              "y=\"%.1f\">%s</text>\n",
              p, top, bottom, p, bottom + 16, num);
    }
    rep_axis_draw_base(r, x->p0, x->p1, bottom, label);
}
