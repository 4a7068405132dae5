/* Charts of a report as SVG: bars, lines, scatter, histogram.
 *
 *     margin LEFT | plot of at least PLOT_W pixels | margin RIGHT      what is wider scrolls
 *
 * One unit of SVG is one pixel, so that labels have the size of text on every screen.  Every mark
 * carries its number as <title>. */
#include "formats/report_impl.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define LEFT      72.0
#define RIGHT     18.0
#define TOP       10.0
#define BOTTOM    40.0
#define PLOT_H    190.0
#define PLOT_W    470.0 /* of a half chart */
#define WIDE_W    900.0
#define MAX_MARKS 20000 /* of a chart */
#define COLOURS   6

/* ---- frame ----------------------------------------------------------------------------------- */

static void begin(fmt_report *r, const fmt_chart *c, double plot_w)
{
    rep_figure(r, c->title, c->note, c->half);
    if (c->n_series > 1 && c->n_series <= COLOURS) {
        rep_f(r, "<p class=\"key\">");
        for (size_t s = 0; s < c->n_series; s++) {
            rep_f(r, "<span><i class=\"b%d\"></i>", (int)s);
            rep_text(r, c->series[s].name);
            rep_f(r, "</span>");
        }
        rep_f(r, "</p>\n");
    }
    rep_scroll(r);
    rep_f(r,
          "<svg role=\"img\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" "
          "aria-label=\"",
          LEFT + plot_w + RIGHT, TOP + PLOT_H + BOTTOM, LEFT + plot_w + RIGHT,
          TOP + PLOT_H + BOTTOM);
    rep_text(r, c->title);
    rep_f(r, "\">\n");
}

static void end(fmt_report *r)
{
    rep_f(r, "</svg></div>\n");
    rep_figure_end(r);
}

static q_status put_values(fmt_json *o, const char *key, const double *v, size_t n, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *list;

    Q_TRY(fmt_json_put_arr(&list, o, key, err));
    for (size_t i = 0; i < n; i++)
        Q_TRY(rep_put_num(list, NULL, v[i], err));
out:
    return st;
}

static q_status put_series(fmt_report *r, const fmt_chart *c, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *o, *list, *one;
    size_t marks = 0;

    for (size_t s = 0; s < c->n_series; s++)
        marks += c->series[s].n;
    if (marks > MAX_MARKS)
        Q_FAIL(err, Q_ESHAPE, "report: '%s' has %zu marks, at most %d can be read", c->title, marks,
               MAX_MARKS);
    Q_TRY(rep_put_chart(&o, r, c, err));
    if (c->labels) {
        Q_TRY(fmt_json_put_arr(&list, o, "labels", err));
        for (size_t i = 0; c->n_series && i < c->series[0].n; i++)
            Q_TRY(rep_put_text(list, NULL, c->labels[i], err));
    }
    Q_TRY(fmt_json_put_arr(&list, o, "series", err));
    for (size_t s = 0; s < c->n_series; s++) {
        Q_TRY(fmt_json_put_obj(&one, list, NULL, err));
        Q_TRY(rep_put_text(one, "name", c->series[s].name, err));
        if (c->series[s].x)
            Q_TRY(put_values(one, "x", c->series[s].x, c->series[s].n, err));
        Q_TRY(put_values(one, "y", c->series[s].y, c->series[s].n, err));
    }
out:
    return st;
}

/* ---- bars ------------------------------------------------------------------------------------ */

#define LABEL_CHARS 16 /* longer ones are cut; the tooltip has them whole */

static void group_name(char out[64], const fmt_chart *c, size_t i)
{
    if (!c->labels)
        snprintf(out, 64, "%zu", i);
    else
        snprintf(out, 64, "%.60s", c->labels[i]); /* a cut character shows as U+FFFD */
}

static void draw_labels(fmt_report *r, const fmt_chart *c, size_t n, double group, double bottom)
{
    size_t longest = 1, every;

    for (size_t i = 0; i < n; i++) {
        char name[64];

        group_name(name, c, i);
        longest = strlen(name) > longest ? strlen(name) : longest;
    }
    longest = longest < LABEL_CHARS ? longest : LABEL_CHARS;
    every = (size_t)ceil((7.0 * (double)longest + 8) / group);
    for (size_t i = 0; i < n; i += every) {
        char name[64];

        group_name(name, c, i);
        name[LABEL_CHARS] = '\0';
        rep_f(r, "<text class=\"m\" x=\"%.1f\" y=\"%.1f\">", LEFT + ((double)i + 0.5) * group,
              bottom + 16);
        rep_text(r, name);
        rep_f(r, "</text>\n");
    }
}

static void draw_bar(fmt_report *r, const fmt_chart *c, size_t i, size_t s, const rep_axis *y,
                     double x, double w)
{
    const double v = c->series[s].y[i], zero = rep_axis_at(y, 0);
    const double p = isfinite(v) ? rep_axis_at(y, v) : zero;
    double top = p < zero ? p : zero, h = fabs(p - zero);
    char num[REP_NUM], name[64];

    if (h < 1) { /* nothing, or nearly: a thin mark, so that the pointer finds it */
        top = zero - 1;
        h = 1;
    }
    rep_num(num, v);
    group_name(name, c, i);
    rep_f(r,
          "<rect class=\"%s%d\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\">"
          "<title>",
          isfinite(v) ? "s" : "none s", (int)(s % COLOURS), x, top, w, h);
    if (!c->labels && c->x_label) {
        rep_text(r, c->x_label);
        rep_f(r, " ");
    }
    rep_text(r, name);
    rep_f(r, ", ");
    rep_text(r, c->series[s].name);
    rep_f(r, ": %s</title></rect>\n", num);
}

q_status fmt_report_bars(fmt_report *r, const fmt_chart *c, q_err *err)
{
    q_status st = Q_OK;
    const size_t n = c->n_series ? c->series[0].n : 0, k = c->n_series;
    const double bottom = TOP + PLOT_H, least = (double)n * ((double)k * 2.2 + 1.4);
    const double base = c->half ? PLOT_W : WIDE_W, plot_w = least > base ? least : base;
    const double group = n ? plot_w / (double)n : plot_w;
    const double gap = group * 0.22 < 1.4 ? 1.4 : group * 0.22;
    const double each = k ? (group - gap) / (double)k : 0, w = each < 34 ? each : 34;
    double min = INFINITY, max = -INFINITY;
    rep_axis y;

    Q_TRY(put_series(r, c, err));
    for (size_t s = 0; s < k; s++) {
        assert(c->series[s].n == n);
        rep_span(&min, &max, c->series[s].y, n, c->log_y);
    }
    if (c->log_y) { /* the smallest bar has a height too */
        min *= 0.95;
    } else if (min <= max) {
        min = min < 0 ? min : 0;
        max = max > 0 ? max : 0;
    }
    y = rep_axis_fit(min, max, c->log_y, bottom, TOP);
    begin(r, c, plot_w);
    rep_axis_draw_y(r, &y, LEFT, LEFT + plot_w, c->y_label);
    for (size_t i = 0; i < n; i++)
        for (size_t s = 0; s < k; s++)
            draw_bar(r, c, i, s, &y,
                     LEFT + ((double)i + 0.5) * group + ((double)s - (double)k / 2) * w,
                     w > 3 ? w - 0.5 : w);
    draw_labels(r, c, n, group, bottom);
    rep_axis_draw_base(r, LEFT, LEFT + plot_w, bottom, c->x_label);
    end(r);
    Q_TRY(rep_end(r, err));
out:
    return st;
}

/* ---- lines ----------------------------------------------------------------------------------- */

static double x_of(const fmt_series *s, size_t i)
{
    return s->x ? s->x[i] : (double)i;
}

static int can_draw(double v, int log)
{
    return isfinite(v) && (!log || v > 0);
}

static void draw_line(fmt_report *r, const fmt_chart *c, size_t i, const rep_axis *x,
                      const rep_axis *y)
{
    const fmt_series *s = &c->series[i];
    int pen = 0; /* 1: the point before was drawn */

    if (c->n_series <= COLOURS) {
        rep_f(r, "<path class=\"p l%d\" d=\"", (int)i);
    } else {
        char colour[8];

        rep_colour(colour, 0.25 + 0.53 * (double)i / (double)(c->n_series - 1));
        rep_f(r, "<path class=\"thin\" stroke=\"%s\" d=\"", colour);
    }
    for (size_t k = 0; k < s->n; k++) {
        const int ok = can_draw(x_of(s, k), c->log_x) && can_draw(s->y[k], c->log_y);

        if (ok)
            rep_f(r, "%c%.1f %.1f", pen ? 'L' : 'M', rep_axis_at(x, x_of(s, k)),
                  rep_axis_at(y, s->y[k]));
        pen = ok;
    }
    rep_f(r, "\"><title>");
    rep_text(r, s->name);
    rep_f(r, "</title></path>\n");
    for (size_t k = 0; c->n_series <= COLOURS && s->n <= 64 && k < s->n; k++) {
        char a[REP_NUM], b[REP_NUM];

        if (!can_draw(x_of(s, k), c->log_x) || !can_draw(s->y[k], c->log_y))
            continue;
        rep_num(a, x_of(s, k));
        rep_num(b, s->y[k]);
        rep_f(r, "<circle class=\"s%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"2.6\"><title>", (int)i,
              rep_axis_at(x, x_of(s, k)), rep_axis_at(y, s->y[k]));
        rep_text(r, s->name);
        rep_f(r, ", %s: %s</title></circle>\n", a, b);
    }
}

q_status fmt_report_lines(fmt_report *r, const fmt_chart *c, q_err *err)
{
    q_status st = Q_OK;
    const double bottom = TOP + PLOT_H, plot_w = c->half ? PLOT_W : WIDE_W;
    double min[2] = { INFINITY, INFINITY }, max[2] = { -INFINITY, -INFINITY };
    rep_axis x, y;

    Q_TRY(put_series(r, c, err));
    for (size_t s = 0; s < c->n_series; s++) {
        for (size_t k = 0; k < c->series[s].n; k++) {
            const double at = x_of(&c->series[s], k);

            rep_span(&min[0], &max[0], &at, 1, c->log_x);
        }
        rep_span(&min[1], &max[1], c->series[s].y, c->series[s].n, c->log_y);
    }
    x = rep_axis_fit(min[0], max[0], c->log_x, LEFT, LEFT + plot_w);
    y = rep_axis_fit(min[1], max[1], c->log_y, bottom, TOP);
    begin(r, c, plot_w);
    rep_axis_draw_y(r, &y, LEFT, LEFT + plot_w, c->y_label);
    rep_axis_draw_x(r, &x, TOP, bottom, c->x_label);
    for (size_t s = 0; s < c->n_series; s++)
        draw_line(r, c, s, &x, &y);
    end(r);
    Q_TRY(rep_end(r, err));
out:
    return st;
}

/* ---- scatter --------------------------------------------------------------------------------- */

static int beaten(const fmt_point *p, size_t n, size_t i)
{
    for (size_t k = 0; k < n; k++)
        if (p[k].x <= p[i].x && p[k].y <= p[i].y && (p[k].x < p[i].x || p[k].y < p[i].y))
            return 1;
    return !isfinite(p[i].x) || !isfinite(p[i].y);
}

/* The line goes by x; equal points are one. */
static void draw_best(fmt_report *r, const fmt_point *p, size_t n, const rep_axis *x,
                      const rep_axis *y)
{
    double last = -INFINITY;

    rep_f(r, "<path class=\"best\" d=\"");
    for (size_t done = 0; done < n; done++) {
        size_t next = n;

        for (size_t i = 0; i < n; i++)
            if (p[i].x > last && !beaten(p, n, i) && (next == n || p[i].x < p[next].x))
                next = i;
        if (next == n)
            break;
        rep_f(r, "%c%.1f %.1f", isinf(last) ? 'M' : 'L', rep_axis_at(x, p[next].x),
              rep_axis_at(y, p[next].y));
        last = p[next].x;
    }
    rep_f(r, "\"/>\n");
}

/* Names of points stand beside them: to the left in the right half, and lower or higher until they
 * are clear of the names before. */
static void draw_names(fmt_report *r, const fmt_point *p, size_t n, const rep_axis *x,
                       const rep_axis *y, double *used)
{
    for (size_t i = 0; i < n; i++) {
        const double px = rep_axis_at(x, p[i].x), py = rep_axis_at(y, p[i].y);
        const int left = px > (x->p0 + x->p1) / 2;
        double at = py + 4;

        used[i] = -1e9;
        if (!isfinite(p[i].x) || !isfinite(p[i].y))
            continue;
        for (size_t k = 0, tries = 0; k < i && tries < 4 * n; k++)
            if (fabs(used[k] - at) < 13 && (rep_axis_at(x, p[k].x) > (x->p0 + x->p1) / 2) == left) {
                at = used[k] + (at >= used[k] ? 13.5 : -13.5);
                k = (size_t)-1; /* again from the first */
                tries++;
            }
        used[i] = at;
        rep_f(r, "<text class=\"v%s\" x=\"%.1f\" y=\"%.1f\">", left ? " e" : "",
              px + (left ? -10 : 10), at);
        rep_text(r, p[i].name);
        rep_f(r, "</text>\n");
    }
}

/* The dots: those of the line (best) on top of the others. */
static void draw_dots(fmt_report *r, const fmt_point *p, size_t n, const rep_axis *x,
                      const rep_axis *y, int best)
{
    for (size_t i = 0; i < n; i++) {
        char a[REP_NUM], b[REP_NUM];

        if (!isfinite(p[i].x) || !isfinite(p[i].y) || beaten(p, n, i) == best)
            continue;
        rep_num(a, p[i].x);
        rep_num(b, p[i].y);
        rep_f(r, "<circle class=\"s%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"5\"><title>", !best,
              rep_axis_at(x, p[i].x), rep_axis_at(y, p[i].y));
        rep_text(r, p[i].name);
        rep_f(r, ": %s, %s</title></circle>\n", a, b);
    }
}

static q_status put_points(fmt_report *r, const fmt_chart *c, const fmt_point *p, size_t n,
                           q_err *err)
{
    q_status st = Q_OK;
    fmt_json *o, *list, *one;

    Q_TRY(rep_put_chart(&o, r, c, err));
    Q_TRY(fmt_json_put_arr(&list, o, "points", err));
    for (size_t i = 0; i < n; i++) {
        Q_TRY(fmt_json_put_obj(&one, list, NULL, err));
        Q_TRY(rep_put_text(one, "name", p[i].name, err));
        Q_TRY(rep_put_num(one, "x", p[i].x, err));
        Q_TRY(rep_put_num(one, "y", p[i].y, err));
        Q_TRY(fmt_json_put_bool(one, "best", !beaten(p, n, i), err));
    }
out:
    return st;
}

#define MAX_POINTS 200

q_status fmt_report_scatter(fmt_report *r, const fmt_chart *c, const fmt_point *p, size_t n,
                            q_err *err)
{
    q_status st = Q_OK;
    const double bottom = TOP + PLOT_H, plot_w = c->half ? PLOT_W : WIDE_W;
    double min[2] = { INFINITY, INFINITY }, max[2] = { -INFINITY, -INFINITY };
    double used[MAX_POINTS];
    rep_axis x, y;

    if (n > MAX_POINTS)
        Q_FAIL(err, Q_ESHAPE, "report: '%s' has %zu points, at most %d can be read", c->title, n,
               MAX_POINTS);
    Q_TRY(put_points(r, c, p, n, err));
    for (size_t i = 0; i < n; i++) {
        rep_span(&min[0], &max[0], &p[i].x, 1, c->log_x);
        rep_span(&min[1], &max[1], &p[i].y, 1, c->log_y);
    }
    x = rep_axis_fit(min[0], max[0], c->log_x, LEFT, LEFT + plot_w);
    y = rep_axis_fit(min[1], max[1], c->log_y, bottom, TOP);
    begin(r, c, plot_w);
    rep_axis_draw_y(r, &y, LEFT, LEFT + plot_w, c->y_label);
    rep_axis_draw_x(r, &x, TOP, bottom, c->x_label);
    draw_best(r, p, n, &x, &y);
    draw_names(r, p, n, &x, &y, used);
    draw_dots(r, p, n, &x, &y, 0);
    draw_dots(r, p, n, &x, &y, 1);
    end(r);
    Q_TRY(rep_end(r, err));
out:
    return st;
}

/* ---- histogram ------------------------------------------------------------------------------- */

#define MAX_BINS 100

q_status fmt_report_hist(fmt_report *r, const fmt_chart *c, const double *v, size_t n, double lo,
                         double hi, size_t bins, q_err *err)
{
    q_status st = Q_OK;
    double count[MAX_BINS] = { 0 };
    char text[MAX_BINS][REP_NUM];
    const char *label[MAX_BINS];
    const fmt_series s = { .name = c->y_label ? c->y_label : "number", .y = count, .n = bins };
    fmt_chart as = *c;

    assert(bins >= 1 && bins <= MAX_BINS && hi > lo);
    for (size_t i = 0; i < n; i++) {
        const double at = (v[i] - lo) / (hi - lo) * (double)bins + 1e-9;

        if (at >= 0 && v[i] <= hi) /* never for a NaN */
            count[at < (double)bins ? (size_t)at : bins - 1]++;
    }
    for (size_t i = 0; i < bins; i++) {
        rep_num(text[i], lo + (hi - lo) * (double)i / (double)bins);
        label[i] = text[i];
    }
    as.series = &s;
    as.n_series = 1;
    as.labels = label;
    Q_TRY(fmt_report_bars(r, &as, err));
out:
    return st;
}
