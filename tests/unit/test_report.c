/* Reports: escaping, numbers of any kind, sizes, and a checker of tags for every page that is made.
 * What a page must hold is looked up in its text; numbers are compared with the document. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_file.h"
#include "formats/json.h"
#include "formats/report.h"
#include "tests/t.h"

static q_err err;
static q_buf page;
static fmt_json *doc;

/* ---- a checker of tags ----------------------------------------------------------------------- */

static int is_void(const char *name, size_t n)
{
    return n == 4 && (memcmp(name, "meta", 4) == 0 || memcmp(name, "link", 4) == 0);
}

/* NULL when every tag is closed in order, attributes are quoted and unique, and texts hold no bare
 * '<', '>' or '&'; else where it fails. */
static const char *check_tags(const char *s)
{
    const char *open[64];
    size_t len[64], depth = 0;

    if (strncmp(s, "<!DOCTYPE html>\n", 16) != 0)
        return s;
    for (s += 16; *s;) {
        if (*s == '>')
            return s;
        if (*s == '&') {
            const size_t n = strcspn(s, ";");

            if (n > 6)
                return s;
            s += n;
        }
        if (*s != '<') {
            s++;
            continue;
        }
        if (s[1] == '/') {
            const size_t n = strcspn(s + 2, ">");

            if (!depth || len[depth - 1] != n || memcmp(open[depth - 1], s + 2, n) != 0)
                return s;
            depth--;
            s += n + 3;
            continue;
        }
        const char *name = s + 1;
        size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789");

        if (!n)
            return s;
        s = name + n;
        while (*s == ' ') { /* name="value" */
            s += strcspn(s, "=>");
            if (strncmp(s, "=\"", 2) != 0)
                return s;
            for (s += 2; *s != '"'; s++)
                if (!*s || *s == '<')
                    return s;
            s++;
        }
        if (*s == '/')
            s++;
        else if (!is_void(name, n)) {
            if (depth == 64)
                return s;
            open[depth] = name;
            len[depth++] = n;
        }
        if (*s != '>')
            return s;
        s++;
        if (n == 5 && memcmp(name, "style", 5) == 0)
            s = strstr(s, "</style>");
    }
    return depth ? open[depth - 1] : NULL;
}

static const char *path_of(const char *name)
{
    static char path[2][256];
    static int turn;

    turn ^= 1;
    snprintf(path[turn], sizeof path[turn], "%s/%s", t_tmpdir(), name);
    return path[turn];
}

/* Writes the report, checks its page, and keeps page and document for the test. */
static void finish(fmt_report *r)
{
    const char *html = path_of("r.html"), *json = path_of("r.json"), *bad;

    q_buf_free(&page);
    fmt_json_free(doc);
    doc = NULL;
    T_OK(fmt_report_write(r, html, json, 1, &err), err);
    fmt_report_free(r);
    T_OK(q_file_slurp(&page, html, (size_t)1 << 26, &err), err);
    T_OK(fmt_json_read(&doc, json, (size_t)1 << 26, &err), err);
    if ((bad = check_tags(page.data)))
        t_fail(__FILE__, __LINE__, "not well formed at: %.80s", bad);
    T_TRUE(!strstr(page.data, "nan") && !strstr(page.data, "inf\""));
    T_TRUE(!strstr(page.data, "<script") && !strstr(page.data, "http"));
}

static fmt_report *begin(const char *title)
{
    fmt_report *r = NULL;

    T_OK(fmt_report_new(&r, title, &err), err);
    T_OK(fmt_report_section(r, "Section", &err), err);
    return r;
}

static int has(const char *part)
{
    return strstr(page.data, part) != NULL;
}

static double num_at(const fmt_json *list, size_t i)
{
    const fmt_json *v = fmt_json_at(list, i);
    q_buf text = { 0 };
    double out;

    T_OK(fmt_json_print(&text, v, 0, &err), err);
    out = strtod(text.data, NULL);
    q_buf_free(&text);
    return out;
}

static void t_checker(void)
{
    T_TRUE(check_tags("<!DOCTYPE html>\n<p>a<b>c</p></b>") != NULL);
    T_TRUE(check_tags("<!DOCTYPE html>\n<p>a & b</p>") != NULL);
    T_TRUE(check_tags("<!DOCTYPE html>\n<p class=x>a</p>") != NULL);
    T_TRUE(check_tags("<!DOCTYPE html>\n<p>a") != NULL);
    T_TRUE(check_tags("<!DOCTYPE html>\n<meta a=\"b\"><p>&amp;<i x=\"1\"/></p>") == NULL);
}

/* ---- texts ----------------------------------------------------------------------------------- */

static const struct {
    const char *text, *html, *json;
} hostile[] = {
    { "</title><script>alert(1)</script>", "&lt;/title&gt;&lt;script&gt;", NULL },
    { "a\" onload=\"x", "a&quot; onload=&quot;x", NULL },
    { "it's & <b>", "it&#39;s &amp; &lt;b&gt;", NULL },
    { "bell\a esc\033[31m", "bell\xef\xbf\xbd esc\xef\xbf\xbd[31m", NULL },
    { "cut \xe6\xbc", "cut \xef\xbf\xbd\xef\xbf\xbd", "cut \xef\xbf\xbd\xef\xbf\xbd" },
    { "over\xc0\xaf long", "over\xef\xbf\xbd\xef\xbf\xbd long",
      "over\xef\xbf\xbd\xef\xbf\xbd long" },
    { "surrogate \xed\xa0\x80", "surrogate \xef\xbf\xbd", NULL },
    { "C1 \xc2\x85", "C1 \xef\xbf\xbd", "C1 \xc2\x85" },
    { "\xe6\xbc\xa2\xe5\xad\x97 \xf0\x9f\x98\x80", "\xe6\xbc\xa2\xe5\xad\x97 \xf0\x9f\x98\x80",
      "\xe6\xbc\xa2\xe5\xad\x97 \xf0\x9f\x98\x80" },
};

static void t_escaping(void)
{
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
        const char *s = hostile[i].text;
        const double one = 1;
        const fmt_series series[] = { { .name = s, .y = &one, .n = 1 },
                                      { .name = "b", .y = &one, .n = 1 } };
        const fmt_chart c = { .key = "bars",
                              .title = s,
                              .note = s,
                              .x_label = s,
                              .y_label = s,
                              .series = series,
                              .n_series = 2,
                              .labels = &s };
        const fmt_fact fact[] = { { "text", s, FMT_VAL_TEXT, s, 0 },
                                  { "code", s, FMT_VAL_CODE, s, 0 } };
        const float cell = 1;
        const fmt_map map = { s, &cell };
        fmt_report *r = begin(s);

        T_OK(fmt_report_text(r, s, &err), err);
        T_OK(fmt_report_facts(r, "facts", fact, 2, &err), err);
        T_OK(fmt_report_table(r, "table", s, &(fmt_col){ s, FMT_VAL_TEXT }, 1,
                              &(fmt_cell){ .text = s }, 1, &err),
             err);
        T_OK(fmt_report_bars(r, &c, &err), err);
        T_OK(fmt_report_lines(
                 r, &(fmt_chart){ .key = "l", .title = s, .series = series, .n_series = 1 }, &err),
             err);
        T_OK(fmt_report_scatter(r, &(fmt_chart){ .key = "s", .title = s }, &(fmt_point){ s, 1, 2 },
                                1, &err),
             err);
        T_OK(fmt_report_maps(r,
                             &(fmt_maps){ .key = "m",
                                          .title = s,
                                          .note = s,
                                          .row_label = s,
                                          .col_label = s,
                                          .rows = 1,
                                          .cols = 1,
                                          .map = &map,
                                          .n = 1 },
                             &err),
             err);
        finish(r);
        T_TRUE(has(hostile[i].html));
        if (hostile[i].json)
            T_STR(fmt_json_text(fmt_json_get(doc, "title")), hostile[i].json);
    }
}

/* ---- numbers --------------------------------------------------------------------------------- */

static void t_values(void)
{
    const fmt_col col[] = { { "t", FMT_VAL_TEXT },   { "r", FMT_VAL_REAL },
                            { "f", FMT_VAL_FIXED },  { "i", FMT_VAL_INT },
                            { "b", FMT_VAL_BYTES },  { "p", FMT_VAL_PERCENT },
                            { "s", FMT_VAL_SECONDS } };
    const fmt_cell cell[] = { { .text = "x" },   { .v = 0.012345678 },  { .v = 14.68924 },
                              { .v = 12 },       { .v = 1234567890.0 }, { .v = 0.98765 },
                              { .v = 12.345 },   { .text = NULL },      { .v = NAN },
                              { .v = INFINITY }, { .v = NAN },          { .v = 999 },
                              { .v = -0.0 },     { .v = 1e300 } };
    fmt_report *r = begin("values");
    const fmt_json *row;

    T_OK(fmt_report_table(r, "t", "T", col, 7, cell, 2, &err), err);
    finish(r);
    T_TRUE(has("<td>x</td><td class=\"n\">0.01235</td><td class=\"n\">14.6892</td><td "
               "class=\"n\">12</td><td class=\"n\">1.23 GB</td><td class=\"n\">98.77 %</td><td "
               "class=\"n\">12.35 s</td>") ||
           has("12.34 s</td>"));
    T_TRUE(has("<td></td><td class=\"n\">-</td><td class=\"n\">-</td><td class=\"n\">-</td><td "
               "class=\"n\">999 B</td>"));
    row = fmt_json_at(fmt_json_get(fmt_json_get(doc, "t"), "rows"), 0);
    T_NEAR(num_at(row, 1), 0.012345678, 0);
    T_NEAR(num_at(row, 4), 1234567890.0, 0);
    row = fmt_json_at(fmt_json_get(fmt_json_get(doc, "t"), "rows"), 1);
    T_INT(fmt_json_kind(fmt_json_at(row, 1)), FMT_JSON_NULL);
    T_INT(fmt_json_kind(fmt_json_at(row, 2)), FMT_JSON_NULL);
}

/* Data that charts are not made for: each must give a page without "nan". */
static const struct {
    const char *name;
    double v[4];
    size_t n;
} odd[] = {
    { "empty", { 0 }, 0 },
    { "one value", { 0.25 }, 1 },
    { "one zero", { 0 }, 1 },
    { "equal", { 3, 3, 3 }, 3 },
    { "zeros on a log scale", { 0, 0.01, 0, 10 }, 4 },
    { "only zeros", { 0, 0, 0 }, 3 },
    { "negative", { -1, 2, -3 }, 3 },
    { "not numbers", { NAN, INFINITY, -INFINITY }, 3 },
    { "mixed", { NAN, 1, INFINITY, 2 }, 4 },
    { "largest", { 1.7e308, -1.7e308, 1e-320 }, 3 },
    { "smallest", { 5e-324, 1e-310 }, 2 },
    { "far and narrow", { 1e15, 1e15 + 1 }, 2 },
};

static void t_odd_data(void)
{
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++)
        for (int log = 0; log < 2; log++) {
            const fmt_series s[] = { { .name = "a", .y = odd[i].v, .n = odd[i].n },
                                     { .name = "b", .y = odd[i].v, .n = odd[i].n } };
            const fmt_series xy = { .name = "xy", .x = odd[i].v, .y = odd[i].v, .n = odd[i].n };
            fmt_chart c = { .key = "bars",
                            .title = odd[i].name,
                            .log_y = log,
                            .log_x = log,
                            .series = s,
                            .n_series = 2 };
            fmt_point p[4];
            float f[4];
            const fmt_map map = { "m", f };
            fmt_report *r = begin(odd[i].name);
            const fmt_json *y;

            for (size_t k = 0; k < 4; k++) {
                p[k] = (fmt_point){ "p", odd[i].v[k], odd[i].v[k] };
                f[k] = (float)odd[i].v[k];
            }
            T_OK(fmt_report_bars(r, &c, &err), err);
            c.key = "lines";
            c.series = &xy;
            c.n_series = 1;
            T_OK(fmt_report_lines(r, &c, &err), err);
            c.key = "scatter";
            T_OK(fmt_report_scatter(r, &c, p, odd[i].n, &err), err);
            c.key = "hist";
            T_OK(fmt_report_hist(r, &c, odd[i].v, odd[i].n, 0, 1, 4, &err), err);
            if (odd[i].n)
                T_OK(fmt_report_maps(r,
                                     &(fmt_maps){ .key = "map",
                                                  .title = "m",
                                                  .row_label = "r",
                                                  .col_label = "c",
                                                  .rows = 1,
                                                  .cols = odd[i].n,
                                                  .log = log,
                                                  .map = &map,
                                                  .n = 1 },
                                     &err),
                     err);
            finish(r);
            y = fmt_json_get(fmt_json_at(fmt_json_get(fmt_json_get(doc, "bars"), "series"), 0),
                             "y");
            T_INT(fmt_json_size(y), odd[i].n);
            for (size_t k = 0; k < odd[i].n; k++)
                if (isfinite(odd[i].v[k]))
                    T_NEAR(num_at(y, k), odd[i].v[k], 0);
                else
                    T_INT(fmt_json_kind(fmt_json_at(y, k)), FMT_JSON_NULL);
        }
}

/* ---- charts ---------------------------------------------------------------------------------- */

static void t_bars(void)
{
    const double a[] = { 1, 10, 100 };
    const fmt_series s = { .name = "a", .y = a, .n = 3 };
    fmt_report *r = begin("bars");

    T_OK(fmt_report_bars(r,
                         &(fmt_chart){ .key = "log",
                                       .title = "log",
                                       .log_y = 1,
                                       .x_label = "layer",
                                       .series = &s,
                                       .n_series = 1 },
                         &err),
         err);
    T_OK(fmt_report_bars(
             r, &(fmt_chart){ .key = "lin", .title = "lin", .series = &s, .n_series = 1 }, &err),
         err);
    finish(r);
    T_TRUE(has("<title>layer 1, a: 10</title>"));
    /* 190 pixels: 0.1 to 100 in three decades; 0 to 100 */
    T_TRUE(has("height=\"63.3\"><title>layer 0, a: 1<"));
    T_TRUE(has("height=\"190.0\"><title>layer 2, a: 100<"));
    T_TRUE(has("height=\"19.0\"><title>1, a: 10<"));
    T_TRUE(has("height=\"190.0\"><title>2, a: 100<"));
}

static void t_pareto(void)
{
    const fmt_point p[] = {
        { "big", 4, 1 }, { "small", 1, 4 }, { "beaten", 3, 5 }, { "mid", 2, 2 }, { "nan", NAN, 1 },
    };
    const int best[] = { 1, 1, 0, 1, 0 };
    const fmt_json *list;
    fmt_report *r = begin("pareto");

    T_OK(fmt_report_scatter(r, &(fmt_chart){ .key = "s", .title = "s" }, p, 5, &err), err);
    finish(r);
    list = fmt_json_get(fmt_json_get(doc, "s"), "points");
    for (size_t i = 0; i < 5; i++)
        T_INT(fmt_json_kind(fmt_json_get(fmt_json_at(list, i), "best")),
              best[i] ? FMT_JSON_TRUE : FMT_JSON_FALSE);
}

static void t_hist(void)
{
    const double v[] = { 0, 0.05, 0.5, 0.5, 0.95, 1, 1.5, -1, NAN };
    const double want[] = { 2, 0, 2, 2 };
    const fmt_json *y;
    fmt_report *r = begin("hist");

    T_OK(fmt_report_hist(r, &(fmt_chart){ .key = "h", .title = "h" }, v, 9, 0, 1, 4, &err), err);
    finish(r);
    y = fmt_json_get(fmt_json_at(fmt_json_get(fmt_json_get(doc, "h"), "series"), 0), "y");
    for (size_t i = 0; i < 4; i++)
        T_NEAR(num_at(y, i), want[i], 0);
}

static void t_buckets(void)
{
    enum { N = 1000 };
    float v[N], out[FMT_MAP_COLS];

    for (int i = 0; i < N; i++)
        v[i] = (float)(i % 7);
    v[999] = 50;
    v[0] = 40;
    T_INT(fmt_report_buckets(out, v, N), FMT_MAP_COLS);
    T_NEAR(out[0], 40, 0);
    T_NEAR(out[255], 50, 0);
    T_INT(fmt_report_buckets(out, v, 3), 3);
    T_NEAR(out[2], 2, 0);
}

static uint32_t crc_of(const uint8_t *p, size_t n)
{
    uint32_t c = ~0u;

    for (size_t i = 0; i < 8 * n; i++) {
        const uint32_t bit = (c ^ (uint32_t)(p[i / 8] >> i % 8)) & 1;

        c = c >> 1 ^ (bit ? 0xedb88320u : 0);
    }
    return ~c;
}

/* The picture of a map: chunks with good sums, and the cells in it. */
static void t_png(void)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const float v[] = { 1, 10, 100, NAN, 0, 1000 }; /* a zero has the lowest colour */
    const uint8_t want[] = { 0, 0, 85, 169, 0, 255, 0, 254 };
    const fmt_map map = { "m", v };
    uint8_t png[2048] = { 0 };
    size_t n = 0, at;
    uint32_t bits = 0, have = 0;
    fmt_report *r = begin("png");
    const char *s;

    T_OK(fmt_report_maps(r,
                         &(fmt_maps){ .key = "m",
                                      .title = "m",
                                      .row_label = "r",
                                      .col_label = "c",
                                      .rows = 2,
                                      .cols = 3,
                                      .log = 1,
                                      .map = &map,
                                      .n = 1 },
                         &err),
         err);
    finish(r);
    s = strstr(page.data, "base64,");
    for (s += 7; *s != '"' && *s != '='; s++) {
        bits = bits << 6 | (uint32_t)(strchr(digits, *s) - digits);
        have += 6;
        if (have >= 8 && n < sizeof png)
            png[n++] = (uint8_t)(bits >> (have -= 8));
    }
    T_TRUE(memcmp(png, "\x89PNG\r\n\x1a\n", 8) == 0);
    for (at = 8; at + 12 <= n;) {
        const size_t len = (size_t)png[at + 2] << 8 | png[at + 3];
        const uint8_t *sum = png + at + 8 + len;

        T_INT((uint32_t)sum[0] << 24 | (uint32_t)sum[1] << 16 | (uint32_t)sum[2] << 8 | sum[3],
              crc_of(png + at + 4, len + 4));
        if (memcmp(png + at + 4, "IDAT", 4) == 0)
            T_TRUE(memcmp(png + at + 8 + 7, want, sizeof want) == 0);
        at += len + 12;
    }
    T_INT(at, n);
}

/* ---- sizes ----------------------------------------------------------------------------------- */

enum { LAYERS = 80, LINEARS = 4 };

static void put_large(fmt_report *r)
{
    static float cells[LAYERS * FMT_MAP_COLS];
    static double error[LAYERS];
    const fmt_map pair[] = { { "before", cells }, { "after", cells } };
    const fmt_series s[] = { { .name = "nearest", .y = error, .n = LAYERS },
                             { .name = "gptq", .y = error, .n = LAYERS } };
    char key[32];

    for (size_t i = 0; i < LAYERS * FMT_MAP_COLS; i++)
        cells[i] = (float)exp(sin((double)i));
    for (int i = 0; i < LAYERS; i++)
        error[i] = 0.01 + 0.001 * i;
    for (int i = 0; i < LINEARS; i++) {
        snprintf(key, sizeof key, "map %d", i);
        T_OK(fmt_report_maps(r,
                             &(fmt_maps){ .key = key,
                                          .title = key,
                                          .row_label = "layer",
                                          .col_label = "channel",
                                          .rows = LAYERS,
                                          .cols = FMT_MAP_COLS,
                                          .log = 1,
                                          .map = pair,
                                          .n = 2 },
                             &err),
             err);
        snprintf(key, sizeof key, "error %d", i);
        T_OK(fmt_report_bars(
                 r,
                 &(fmt_chart){ .key = key, .title = key, .log_y = 1, .series = s, .n_series = 2 },
                 &err),
             err);
    }
}

static void t_large(void)
{
    fmt_report *r = begin("a large model");
    q_buf first;

    put_large(r);
    finish(r);
    T_TRUE(page.size < 2000000);
    first = page;
    page = (q_buf){ 0 };
    r = begin("a large model");
    put_large(r);
    finish(r);
    T_INT(page.size, first.size);
    T_TRUE(memcmp(page.data, first.data, first.size) == 0);
    q_buf_free(&first);
}

static void t_refusals(void)
{
    static double many[20001];
    const fmt_series s = { .name = "a", .y = many, .n = 20001 };
    const fmt_chart c = { .key = "c", .title = "too many", .series = &s, .n_series = 1 };
    const fmt_maps m = {
        .key = "m", .title = "wide", .row_label = "r", .col_label = "c", .rows = 1, .cols = 257
    };
    fmt_report *r = begin("refusals");

    T_ERR(fmt_report_bars(r, &c, &err), err, Q_ESHAPE, "'too many' has 20001 marks, at most 20000");
    T_ERR(fmt_report_scatter(r, &c, NULL, 201, &err), err, Q_ESHAPE, "201 points, at most 200");
    T_ERR(fmt_report_maps(r, &m, &err), err, Q_ESHAPE, "map 'wide' of 1 x 257 cells");
    finish(r);
    r = begin("refusals");
    T_ERR(fmt_report_write(r, path_of("r.html"), path_of("r.json"), 0, &err), err, Q_ECREATE,
          "exists");
    T_ERR(fmt_report_write(r, path_of("none/r.html"), path_of("r.json"), 0, &err), err, Q_ECREATE,
          "none");
    fmt_report_free(r);
}

static void t_end(void)
{
    q_buf_free(&page);
    fmt_json_free(doc);
    doc = NULL;
}

static const t_case cases[] = { T(t_checker), T(t_escaping), T(t_values),   T(t_odd_data),
                                T(t_bars),    T(t_pareto),   T(t_hist),     T(t_buckets),
                                T(t_png),     T(t_large),    T(t_refusals), T(t_end),
                                { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
