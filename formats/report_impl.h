/* Inside of reports: the page and the document under construction, for report*.c only.
 *
 *     rep_f(r, "<rect x=\"%.1f\"", x);  rep_text(r, name);  rep_f(r, "/>");
 *     ... return rep_end(r, err);
 *
 * Writing to the page remembers its first failure, so that a chart is a straight column of calls;
 * rep_end reports it. */
#ifndef FMT_REPORT_IMPL_H
#define FMT_REPORT_IMPL_H

#include "formats/base/q_mem.h"
#include "formats/json.h"
#include "formats/report.h"

struct fmt_report {
    q_buf page; /* of the body */
    fmt_json *doc;
    char *title; /* as it may stand in HTML */
    int in_section;
    q_status st; /* of the page */
    q_err err;
};

void rep_f(fmt_report *r, const char *fmt, ...) Q_PRINTF(2, 3);
void rep_text(fmt_report *r, const char *s); /* escaped for text and attributes */
/* The same appended to b; html 0: invalid bytes are replaced, nothing is escaped. */
q_status rep_clean(q_buf *b, const char *s, int html, q_err *err);
q_status rep_end(fmt_report *r, q_err *err);

q_status rep_put_text(fmt_json *o, const char *key, const char *s, q_err *err); /* NULL: nothing */
q_status rep_put_num(fmt_json *o, const char *key, double v, q_err *err); /* null: not finite */
/* A value of a kind as a member, and on the page. */
int rep_is_text(fmt_val_kind kind);
q_status rep_put_value(fmt_json *o, const char *key, fmt_val_kind kind, const char *text, double v,
                       q_err *err);
void rep_show_value(fmt_report *r, fmt_val_kind kind, const char *text, double v);
/* The member of a chart, with its title and labels. */
q_status rep_put_chart(fmt_json **out, fmt_report *r, const fmt_chart *c, q_err *err);

/* <figure>, its caption and note, the box that scrolls; and their end. */
void rep_figure(fmt_report *r, const char *title, const char *note, int half);
void rep_scroll(fmt_report *r);
void rep_figure_end(fmt_report *r);

#define REP_NUM 32
void rep_num(char out[REP_NUM], double v); /* "%.4g" */

#define REP_STEPS 255                   /* colours of a picture */
void rep_colour(char out[8], double t); /* "#rrggbb" of the scale, t in 0 .. 1 */
/* cell [rows, cols] as a PNG in base64; a cell is a colour 0 .. 254, or 255: transparent */
q_status rep_png(fmt_report *r, const uint8_t *cell, size_t rows, size_t cols, q_err *err);

/* An axis: where a value lies. */
typedef struct rep_axis {
    double lo, hi; /* of the values; of their logarithms when log */
    int log;
    double step;   /* between ticks; of a logarithmic one not used */
    double p0, p1; /* pixels of both ends */
} rep_axis;

/* Ends that hold [min, max] and are round numbers; min > max: there are no values. */
rep_axis rep_axis_fit(double min, double max, int log, double p0, double p1);
double rep_axis_at(const rep_axis *a, double v);
/* Left axis from x0 to x1: grid lines, numbers, what it shows.  label may be NULL in all three. */
void rep_axis_draw_y(fmt_report *r, const rep_axis *y, double x0, double x1, const char *label);
/* The line at the bottom, without numbers; and with them, and grid lines up to top. */
void rep_axis_draw_base(fmt_report *r, double x0, double x1, double bottom, const char *label);
void rep_axis_draw_x(fmt_report *r, const rep_axis *x, double top, double bottom,
                     const char *label);

/* Widens min .. max by what of v can be drawn. */
void rep_span(double *min, double *max, const double *v, size_t n, int log);

#endif
