/* Reports: one HTML page with tables and charts, and a JSON document with the same numbers.
 *
 *     fmt_report *r = NULL;
 *     Q_TRY(fmt_report_new(&r, "Qwen-7B to 4 bits", err));
 *     Q_TRY(fmt_report_section(r, "Errors", err));
 *     Q_TRY(fmt_report_bars(r, &(fmt_chart){ .key = "error", .title = "Error per layer",
 *                                            .log_y = 1, .series = s, .n_series = 2 }, err));
 *     Q_TRY(fmt_report_write(r, "out.report.html", "out.report.json", force, err));
 *     ... out: fmt_report_free(r);
 *
 * Every call puts one thing at the end of the page and one member, named by its key, into the
 * document; keys are unique in a report.  The page is one file: CSS and SVG inside, no script,
 * light or dark as the reader's system is, and its bytes depend on what was put in alone.
 * Texts may be anything: they are escaped, and bytes that are no UTF-8 or not allowed in HTML show
 * as U+FFFD.  Numbers may be NaN or infinite: nothing is drawn for them, a table shows "-", and
 * JSON null.  Everything given is borrowed for the call.  Threads: one per report.
 * Errors of all calls: Q_ENOMEM, and Q_ESHAPE where a chart has too many elements to be read. */
#ifndef FMT_REPORT_H
#define FMT_REPORT_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"

typedef struct fmt_report fmt_report;

q_status fmt_report_new(fmt_report **out, const char *title, q_err *err);
void fmt_report_free(fmt_report *r);

q_status fmt_report_section(fmt_report *r, const char *title, q_err *err); /* page only */
q_status fmt_report_text(fmt_report *r, const char *text, q_err *err);     /* page only */

/* ---- values ---------------------------------------------------------------------------------- */

typedef enum fmt_val_kind {
    FMT_VAL_TEXT,
    FMT_VAL_CODE,  /* a text to be copied: a hash, a command */
    FMT_VAL_REAL,  /* four significant digits; JSON keeps all of them */
    FMT_VAL_FIXED, /* four digits behind the point */
    FMT_VAL_INT,
    FMT_VAL_BYTES,   /* 1.23 GB; JSON: the number */
    FMT_VAL_PERCENT, /* of 1: 0.5 shows as 50 % */
    FMT_VAL_SECONDS
} fmt_val_kind;

/* A row of the box of facts. */
typedef struct fmt_fact {
    const char *key, *name; /* in JSON, on the page */
    fmt_val_kind kind;
    const char *text; /* of the first two kinds; NULL: the fact is left out */
    double v;
} fmt_fact;

q_status fmt_report_facts(fmt_report *r, const char *key, const fmt_fact *fact, size_t n,
                          q_err *err);

typedef struct fmt_col {
    const char *name;
    fmt_val_kind kind;
} fmt_col;

typedef struct fmt_cell {
    const char *text; /* of the first two kinds of its column */
    double v;
} fmt_cell;

/* cell [n_rows, n_cols] */
q_status fmt_report_table(fmt_report *r, const char *key, const char *title, const fmt_col *col,
                          size_t n_cols, const fmt_cell *cell, size_t n_rows, q_err *err);

/* ---- charts ---------------------------------------------------------------------------------- */

typedef struct fmt_series {
    const char *name;
    const double *y, *x; /* [n]; x: lines only, NULL: 0, 1, ... */
    size_t n;
} fmt_series;

typedef struct fmt_chart {
    const char *key, *title;
    const char *note;              /* a line under the title; may be NULL */
    const char *x_label, *y_label; /* may be NULL */
    int log_x, log_y;              /* values <= 0 are drawn at the lower end */
    int half;                      /* 1: two fit beside each other on a wide screen */
    const fmt_series *series;
    size_t n_series;
    const char *const *labels; /* bars: of the groups; NULL: 0, 1, ... */
} fmt_chart;

/* A group of bars for each i < n, one bar for each series; all series have the same n. */
q_status fmt_report_bars(fmt_report *r, const fmt_chart *c, q_err *err);
/* A curve for each series; more than six are coloured by their number. */
q_status fmt_report_lines(fmt_report *r, const fmt_chart *c, q_err *err);

typedef struct fmt_point {
    const char *name;
    double x, y;
} fmt_point;

/* Labelled points, and the line of those that no other point beats in both x and y (less is
 * better).  series and labels are not used. */
q_status fmt_report_scatter(fmt_report *r, const fmt_chart *c, const fmt_point *p, size_t n,
                            q_err *err);

/* How many of v [n] fall into each of `bins` equal parts of lo .. hi, hi included. */
q_status fmt_report_hist(fmt_report *r, const fmt_chart *c, const double *v, size_t n, double lo,
                         double hi, size_t bins, q_err *err);

#define FMT_MAP_COLS 256 /* at most */

typedef struct fmt_map {
    const char *name;
    const float *v; /* [rows, cols] */
} fmt_map;

typedef struct fmt_maps {
    const char *key, *title, *note, *row_label, *col_label;
    size_t rows, cols;
    int64_t n_channels; /* what the columns are parts of; 0: cols */
    int log;            /* colours by logarithm */
    int half;           /* as in fmt_chart */
    const fmt_map *map;
    size_t n; /* all maps share one scale of colours */
} fmt_maps;

q_status fmt_report_maps(fmt_report *r, const fmt_maps *m, q_err *err);
/* out [min(n, FMT_MAP_COLS)]: the largest of each part of v [n].  Returns the number of parts. */
size_t fmt_report_buckets(float *out, const float *v, size_t n);

/* ---- files ----------------------------------------------------------------------------------- */

/* Both appear whole or not at all.  Errors: Q_ECREATE (exists and !force), Q_EIO. */
q_status fmt_report_write(const fmt_report *r, const char *html, const char *json, int force,
                          q_err *err);

#endif
