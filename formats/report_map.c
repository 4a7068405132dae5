/* Heat maps.  The cells are one picture, a PNG of one byte per cell inside the page: 256 x 80 cells
 * are 27 KB, where rectangles would be a megabyte.  What carries the numbers lies on top, unseen: a
 * rectangle per cell, or per row when there are many.
 * */
#include "formats/report_impl.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define LEFT      44.0
#define TOP       4.0
#define BOTTOM    38.0
#define PLOT_W    512.0
#define MAX_ROWS  4096
#define MAX_CELLS 1200 /* with a rectangle each, over all maps */

/* ---- maps ------------------------------------------------------------------------------------ */

typedef struct frame {
    double cw, ch, w, h;
    rep_axis scale; /* value -> 0 .. REP_STEPS - 1 */
    int cells;      /* 1: a rectangle per cell */
} frame;

static frame frame_of(const fmt_maps *m)
{
    frame f = { .cells = m->rows * m->cols * m->n <= MAX_CELLS };
    double min = INFINITY, max = -INFINITY;
    const double fit = floor(PLOT_W / (double)m->cols);

    f.cw = fit >= 1 ? fit : PLOT_W / (double)m->cols;
    f.cw = f.cw < 60 ? f.cw : 60;
    f.ch = m->rows <= 12 ? 20 : m->rows <= 40 ? 11 : m->rows <= 200 ? 6 : 3;
    f.w = f.cw * (double)m->cols;
    f.h = f.ch * (double)m->rows;
    for (size_t i = 0; i < m->n; i++)
        for (size_t k = 0; k < m->rows * m->cols; k++) {
            const double v = (double)m->map[i].v[k];

            rep_span(&min, &max, &v, 1, m->log);
        }
    f.scale = rep_axis_fit(min, max, m->log, 0, REP_STEPS - 1);
    if (min < max) { /* no colour is left unused */
        f.scale.lo = m->log ? log10(min) : min;
        f.scale.hi = m->log ? log10(max) : max;
    }
    return f;
}

static q_status draw_cells(fmt_report *r, const fmt_maps *m, const float *v, const frame *f,
                           q_err *err)
{
    q_status st = Q_OK;
    uint8_t *cell = q_malloc(m->rows * m->cols);

    if (!cell)
        Q_FAIL(err, Q_ENOMEM, "report: no memory for a map");
    for (size_t i = 0; i < m->rows * m->cols; i++) {
        cell[i] = REP_STEPS;
        if (isfinite(v[i]))
            cell[i] = (uint8_t)(rep_axis_at(&f->scale, (double)v[i]) + 0.5);
    }
    rep_f(r,
          "<image class=\"px\" x=\"%.0f\" y=\"%.0f\" width=\"%.2f\" height=\"%.2f\" "
          "preserveAspectRatio=\"none\" href=\"data:image/png;base64,",
          LEFT, TOP, f->w, f->h);
    Q_TRY(rep_png(r, cell, m->rows, m->cols, err));
    rep_f(r, "\"/>\n");
out:
    q_free(cell);
    return st;
}

/* First channel of a column. */
static int64_t channel(const fmt_maps *m, size_t col)
{
    const int64_t n = m->n_channels > 0 ? m->n_channels : (int64_t)m->cols;

    return ((int64_t)col * n + (int64_t)m->cols - 1) / (int64_t)m->cols;
}

static void tip(fmt_report *r, const fmt_maps *m, size_t row, size_t col, double v)
{
    char num[REP_NUM];

    rep_num(num, v);
    rep_text(r, m->row_label);
    rep_f(r, " %zu, ", row);
    rep_text(r, m->col_label);
    rep_f(r, " %lld: %s", (long long)channel(m, col), num);
}

static void draw_tips(fmt_report *r, const fmt_maps *m, const float *v, const frame *f)
{
    for (size_t i = 0; i < m->rows; i++) {
        const float *row = v + i * m->cols;
        size_t top = 0;

        for (size_t k = 0; k < m->cols; k++) {
            if (isfinite(row[k]) && !(row[k] <= row[top]))
                top = k;
            if (!f->cells)
                continue;
            rep_f(r,
                  "<rect class=\"t\" x=\"%.1f\" y=\"%.0f\" width=\"%.1f\" height=\"%.0f\"><title>",
                  LEFT + (double)k * f->cw, TOP + (double)i * f->ch, f->cw, f->ch);
            tip(r, m, i, k, (double)row[k]);
            rep_f(r, "</title></rect>\n");
        }
        if (f->cells)
            continue;
        rep_f(r, "<rect class=\"t\" x=\"%.0f\" y=\"%.0f\" width=\"%.1f\" height=\"%.0f\"><title>",
              LEFT, TOP + (double)i * f->ch, f->w, f->ch);
        rep_f(r, "largest: ");
        tip(r, m, i, top, (double)row[top]);
        rep_f(r, "</title></rect>\n");
    }
}

static void draw_rows(fmt_report *r, const fmt_maps *m, const frame *f)
{
    const size_t every = (size_t)ceil(15 / f->ch);

    for (size_t i = 0; i < m->rows; i += every)
        rep_f(r, "<text class=\"e\" x=\"%.0f\" y=\"%.1f\">%zu</text>\n", LEFT - 6,
              TOP + ((double)i + 0.5) * f->ch + 4, i);
    rep_f(r, "<text class=\"m\" transform=\"translate(12 %.1f) rotate(-90)\">",
          TOP + (f->h > 40 ? f->h / 2 : 20));
    rep_text(r, m->row_label);
    rep_f(r, "</text>\n");
}

/* Few columns all have a number, many every eighth part. */
static void draw_cols(fmt_report *r, const fmt_maps *m, const frame *f)
{
    const size_t every = f->cw >= 20 ? 1 : (m->cols + 7) / 8;

    for (size_t k = 0; k < m->cols; k += every)
        rep_f(r, "<text%s x=\"%.1f\" y=\"%.1f\">%lld</text>\n", every == 1 ? " class=\"m\"" : "",
              LEFT + ((double)k + (every == 1 ? 0.5 : 0)) * f->cw, TOP + f->h + 14,
              (long long)channel(m, k));
    rep_f(r, "<text x=\"%.0f\" y=\"%.1f\">", LEFT, TOP + f->h + 30);
    rep_text(r, m->col_label);
    rep_f(r, "</text>\n");
}

static q_status draw_map(fmt_report *r, const fmt_maps *m, const fmt_map *map, const frame *f,
                         q_err *err)
{
    q_status st = Q_OK;
    const double w = LEFT + f->w + 16, h = TOP + f->h + BOTTOM;

    rep_f(r, "<div>");
    if (m->n > 1) {
        rep_f(r, "<h3>");
        rep_text(r, map->name);
        rep_f(r, "</h3>\n");
    }
    rep_scroll(r);
    rep_f(r,
          "<svg role=\"img\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" "
          "aria-label=\"",
          w, h, w, h);
    rep_text(r, map->name);
    rep_f(r,
          "\">\n<rect class=\"none\" x=\"%.0f\" y=\"%.0f\" width=\"%.1f\" "
          "height=\"%.0f\"/>\n",
          LEFT, TOP, f->w, f->h);
    Q_TRY(draw_cells(r, m, map->v, f, err));
    draw_tips(r, m, map->v, f);
    draw_rows(r, m, f);
    draw_cols(r, m, f);
    rep_f(r, "</svg></div></div>\n");
out:
    return st;
}

/* The bar of colours with numbers at its ends and between. */
static void draw_scale(fmt_report *r, const frame *f)
{
    enum { PARTS = 64, NUMBERS = 5 };
    const double w = 320, part = w / PARTS, lo = f->scale.lo, hi = f->scale.hi;

    rep_scroll(r);
    rep_f(r,
          "<svg role=\"img\" width=\"%.0f\" height=\"34\" viewBox=\"0 0 %.0f 34\" "
          "aria-label=\"scale of colours\">\n",
          LEFT + w + 30, LEFT + w + 30);
    for (int i = 0; i < PARTS; i++) {
        char colour[8];

        rep_colour(colour, (double)i / (PARTS - 1));
        rep_f(r, "<path fill=\"%s\" d=\"M%.1f 2h%.1fv12h-%.1fz\"/>\n", colour, LEFT + i * part,
              part + 0.3, part + 0.3);
    }
    for (int i = 0; i < NUMBERS; i++) {
        const double t = (double)i / (NUMBERS - 1), v = lo + (hi - lo) * t;
        char num[REP_NUM];

        rep_num(num, f->scale.log ? pow(10, v) : v);
        rep_f(r, "<text class=\"m\" x=\"%.1f\" y=\"28\">%s</text>\n", LEFT + t * w, num);
    }
    rep_f(r, "</svg></div>\n");
}

static q_status put_maps(fmt_report *r, const fmt_maps *m, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *o, *list, *one, *rows, *row;

    assert(!fmt_json_get(r->doc, m->key));
    Q_TRY(fmt_json_put_obj(&o, r->doc, m->key, err));
    Q_TRY(rep_put_text(o, "title", m->title, err));
    Q_TRY(rep_put_text(o, "rows", m->row_label, err));
    Q_TRY(rep_put_text(o, "columns", m->col_label, err));
    Q_TRY(fmt_json_put_int(o, "channels", channel(m, m->cols), err));
    Q_TRY(fmt_json_put_arr(&list, o, "maps", err));
    for (size_t i = 0; i < m->n; i++) {
        Q_TRY(fmt_json_put_obj(&one, list, NULL, err));
        Q_TRY(rep_put_text(one, "name", m->map[i].name, err));
        Q_TRY(fmt_json_put_arr(&rows, one, "values", err));
        for (size_t k = 0; k < m->rows; k++) {
            Q_TRY(fmt_json_put_arr(&row, rows, NULL, err));
            for (size_t c = 0; c < m->cols; c++)
                Q_TRY(rep_put_num(row, NULL, (double)m->map[i].v[k * m->cols + c], err));
        }
    }
out:
    return st;
}

q_status fmt_report_maps(fmt_report *r, const fmt_maps *m, q_err *err)
{
    q_status st = Q_OK;
    frame f;

    if (m->rows > MAX_ROWS || m->cols > FMT_MAP_COLS || !m->rows || !m->cols)
        Q_FAIL(err, Q_ESHAPE, "report: map '%s' of %zu x %zu cells, wanted 1 x 1 to %d x %d",
               m->title, m->rows, m->cols, MAX_ROWS, FMT_MAP_COLS);
    Q_TRY(put_maps(r, m, err));
    f = frame_of(m);
    rep_f(r, "<figure class=\"maps%s\">\n<figcaption>", m->half ? " half" : "");
    rep_text(r, m->title);
    rep_f(r, "</figcaption>\n");
    if (m->note) {
        rep_f(r, "<p class=\"note\">");
        rep_text(r, m->note);
        rep_f(r, "</p>\n");
    }
    rep_f(r, "<div>\n");
    for (size_t i = 0; i < m->n; i++)
        Q_TRY(draw_map(r, m, &m->map[i], &f, err));
    rep_f(r, "</div>\n");
    draw_scale(r, &f);
    rep_figure_end(r);
    Q_TRY(rep_end(r, err));
out:
    return st;
}

size_t fmt_report_buckets(float *out, const float *v, size_t n)
{
    const size_t parts = n < FMT_MAP_COLS ? n : FMT_MAP_COLS;

    for (size_t b = 0; b < parts; b++) {
        const size_t from = (b * n + parts - 1) / parts, to = ((b + 1) * n + parts - 1) / parts;

        out[b] = v[from];
        for (size_t i = from + 1; i < to; i++)
            out[b] = v[i] > out[b] ? v[i] : out[b];
    }
    return parts;
}
