/* Reports: the page, the document, and what is no chart (report_svg.c, report_map.c).
 *
 * The page is made as text, front to back.  What comes from outside goes through rep_text, which
 * knows the two dangers: characters that mean something in HTML, and bytes that are no characters.
 * C0 controls other than line ends are not allowed in HTML even when they are escaped.
 * Colours are variables of CSS, so that one page serves light, dark and paper. */
#include "formats/report_impl.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/q_file.h"

#define REPLACEMENT "\xef\xbf\xbd"

static const char style[] =
    ":root{color-scheme:light dark;--bg:#fff;--fg:#1c2128;--mut:#59636e;--line:#d0d7de;"
    "--grid:#e7ebef;--card:#f6f8fa;--none:#eceff2;--s0:#0067a8;--s1:#d1570a;--s2:#0a8f6c;"
    "--s3:#b25a94;--s4:#b98200;--s5:#3a9bd8}\n"
    "@media (prefers-color-scheme:dark){:root{--bg:#0f1419;--fg:#e6e9ed;--mut:#9aa5b1;"
    "--line:#343c46;--grid:#262d36;--card:#171d25;--none:#20272f;--s0:#52a8e8;--s1:#ff9350;"
    "--s2:#3fc79f;--s3:#e39bc8;--s4:#ecb83f;--s5:#9ad5f7}}\n"
    "@media print{:root{color-scheme:light;--bg:#fff;--fg:#000;--mut:#444;--line:#bbb;--grid:#ddd;"
    "--card:#fff;--none:#eee;--s0:#0067a8;--s1:#d1570a;--s2:#0a8f6c;--s3:#b25a94;--s4:#b98200;"
    "--s5:#3a9bd8}figure,tr{break-inside:avoid}.scroll{overflow:visible}"
    "svg{max-width:100%;height:auto}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}\n"
    "*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);"
    "font:15px/1.5 system-ui,-apple-system,\"Segoe UI\",Roboto,\"DejaVu Sans\",sans-serif}\n"
    "main{max-width:1220px;margin:0 auto;padding:20px 16px 56px}"
    "h1{font-size:24px;line-height:1.25;margin:8px 0 16px;overflow-wrap:anywhere}"
    "h2{font-size:18px;margin:36px 0 2px;flex:1 1 100%;border-bottom:1px solid var(--line);"
    "padding-bottom:6px}\n"
    "section{display:flex;flex-wrap:wrap;gap:12px 28px}section>p{flex:1 1 100%;margin:0;"
    "max-width:80ch;color:var(--mut)}\n"
    "figure{flex:1 1 100%;min-width:0;margin:10px 0 0}figure.half{flex:1 1 480px}"
    "figcaption{font-weight:600}.note,.key{color:var(--mut);font-size:13px;margin:0 0 4px}"
    ".scroll{overflow-x:auto;max-width:100%}\n"
    ".key span{display:inline-block;margin-right:16px;white-space:nowrap}"
    ".key i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:6px}"
    "figure.maps>div{display:flex;flex-wrap:wrap;gap:12px 28px}"
    "figure.maps>div>div{min-width:0;max-width:100%}figure.maps h3{font-size:13px;margin:4px 0 0;"
    "font-weight:600;color:var(--mut)}\n"
    "table{border-collapse:collapse;font-size:14px}th,td{padding:5px 14px 5px 0;text-align:left;"
    "border-bottom:1px solid var(--line);vertical-align:top}th{color:var(--mut);font-weight:600;"
    "white-space:nowrap}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;"
    "white-space:nowrap}\n"
    ".facts{flex:1 1 100%;min-width:0;background:var(--card);border:1px solid var(--line);"
    "border-radius:8px;margin:0;padding:10px 16px;display:grid;"
    "grid-template-columns:max-content minmax(0,1fr);gap:3px 20px;font-size:14px}"
    ".facts dt{color:var(--mut)}.facts dd{margin:0;overflow-wrap:anywhere}\n"
    "code{font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,\"DejaVu Sans Mono\","
    "monospace;user-select:all}@media (max-width:560px){.facts{grid-template-columns:minmax(0,1fr);"
    "gap:0}.facts dd{margin-bottom:6px}}\n";

static const char chart_style[] =
    "svg{display:block}svg text{font-size:12px;fill:var(--mut)}svg "
    ".v{fill:var(--fg);paint-order:stroke;"
    "stroke:var(--bg);stroke-width:3px}"
    ".g{stroke:var(--grid);fill:none}.a{stroke:var(--line);fill:none}.none{fill:var(--none)}"
    ".t{fill:#000;fill-opacity:0}.t:hover{fill:#fff;fill-opacity:.35}.m{text-anchor:middle}"
    ".e{text-anchor:end}.px{image-rendering:pixelated}\n"
    ".p{fill:none;stroke-width:1.8;stroke-linejoin:round}.thin{fill:none;stroke-width:1.1;"
    "stroke-opacity:.85}.best{fill:none;stroke:var(--mut);stroke-dasharray:5 4;stroke-width:1.4}\n"
    ".s0{fill:var(--s0)}.s1{fill:var(--s1)}.s2{fill:var(--s2)}.s3{fill:var(--s3)}"
    ".s4{fill:var(--s4)}.s5{fill:var(--s5)}.l0{stroke:var(--s0)}.l1{stroke:var(--s1)}"
    ".l2{stroke:var(--s2)}.l3{stroke:var(--s3)}.l4{stroke:var(--s4)}.l5{stroke:var(--s5)}"
    ".b0{background:var(--s0)}.b1{background:var(--s1)}.b2{background:var(--s2)}"
    ".b3{background:var(--s3)}.b4{background:var(--s4)}.b5{background:var(--s5)}\n";

/* ---- texts ----------------------------------------------------------------------------------- */

/* Bytes of the character at s, 0 when it is none (RFC 3629). */
static size_t char_bytes(const unsigned char *s)
{
    const size_t n = s[0] < 0x80 ? 1 : s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    const unsigned low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
    const unsigned high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;

    if (n == 1)
        return 1;
    if (s[0] < 0xc2 || s[0] > 0xf4 || s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++)
        if (s[i] < 0x80 || s[i] > 0xbf) /* a NUL ends it here too */
            return 0;
    return n;
}

static q_status put_char(q_buf *b, const char *s, size_t n, int html, q_err *err)
{
    static const struct {
        char c;
        const char *text;
    } special[] = {
        { '&', "&amp;" }, { '<', "&lt;" }, { '>', "&gt;" }, { '"', "&quot;" }, { '\'', "&#39;" },
    };
    const unsigned char c = (unsigned char)*s;

    if (n == 0)
        return q_buf_puts(b, REPLACEMENT, err);
    if (!html)
        return q_buf_put(b, s, n, err);
    for (size_t i = 0; i < sizeof special / sizeof special[0]; i++)
        if (special[i].c == *s)
            return q_buf_puts(b, special[i].text, err);
    if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f ||
        (n == 2 && c == 0xc2 && (unsigned char)s[1] < 0xa0))
        return q_buf_puts(b, REPLACEMENT, err);
    return q_buf_put(b, s, n, err);
}

static q_status put_clean(q_buf *b, const char *s, int html, q_err *err)
{
    q_status st = q_buf_puts(b, "", err);

    while (st == Q_OK && *s) {
        const size_t n = char_bytes((const unsigned char *)s);

        st = put_char(b, s, n, html, err);
        s += n ? n : 1;
    }
    return st;
}

char *rep_utf8(const char *s)
{
    q_buf b = { 0 };

    if (put_clean(&b, s, 0, NULL) == Q_OK)
        return b.data;
    q_buf_free(&b);
    return NULL;
}

void rep_f(fmt_report *r, const char *fmt, ...)
{
    va_list ap;
    char part[512]; /* numbers and names of ours; texts go through rep_text */
    int n;

    va_start(ap, fmt);
    n = vsnprintf(part, sizeof part, fmt, ap);
    va_end(ap);
    assert(n >= 0 && (size_t)n < sizeof part);
    if (r->st == Q_OK)
        r->st = q_buf_put(&r->page, part, (size_t)n, &r->err);
}

void rep_text(fmt_report *r, const char *s)
{
    if (r->st == Q_OK)
        r->st = put_clean(&r->page, s, 1, &r->err);
}

q_status rep_end(fmt_report *r, q_err *err)
{
    return r->st == Q_OK ? Q_OK : q_fail(err, r->st, "report: %s", r->err.msg);
}

/* ---- numbers --------------------------------------------------------------------------------- */

void rep_num(char out[REP_NUM], double v)
{
    if (!isfinite(v))
        snprintf(out, REP_NUM, "-");
    else
        snprintf(out, REP_NUM, "%.4g", v == 0 ? 0 : v); /* no "-0" */
}

static void bytes_text(char out[REP_NUM], double v)
{
    static const char *const unit[] = { "B", "kB", "MB", "GB", "TB", "PB" };
    size_t u = 0;

    while (fabs(v) >= 1000 && u + 1 < sizeof unit / sizeof unit[0]) {
        v /= 1000;
        u++;
    }
    snprintf(out, REP_NUM, u ? "%.3g %s" : "%.0f %s", v, unit[u]);
}

/* Digits in groups of three, between them a narrow space that does not break. */
static void whole_text(char out[REP_NUM], double v)
{
    char digits[REP_NUM];
    const int n = snprintf(digits, sizeof digits, "%.0f", fabs(v));
    size_t at = 0;

    if (v < 0)
        out[at++] = '-';
    for (int i = 0; i < n; i++) {
        if (i > 0 && n > 4 && (n - i) % 3 == 0) {
            memcpy(out + at, "\xe2\x80\xaf", 3);
            at += 3;
        }
        out[at++] = digits[i];
    }
    out[at] = '\0';
}

void rep_value(char out[REP_NUM], fmt_val_kind kind, double v)
{
    if (!isfinite(v) || kind == FMT_VAL_REAL || fabs(v) >= 1e15)
        rep_num(out, v);
    else if (kind == FMT_VAL_FIXED)
        snprintf(out, REP_NUM, "%.4f", v);
    else if (kind == FMT_VAL_BYTES)
        bytes_text(out, v);
    else if (kind == FMT_VAL_PERCENT)
        snprintf(out, REP_NUM, "%.4g %%", 100 * v);
    else if (kind == FMT_VAL_SECONDS)
        snprintf(out, REP_NUM, v < 100 ? "%.2f s" : "%.0f s", v);
    else
        whole_text(out, v);
}

q_status rep_put_text(fmt_json *o, const char *key, const char *s, q_err *err)
{
    q_status st = Q_OK;
    char *clean = NULL;

    if (!s)
        return Q_OK;
    if (!(clean = rep_utf8(s)))
        Q_FAIL(err, Q_ENOMEM, "report: no memory for a text");
    Q_TRY(fmt_json_put_str(o, key, clean, err));
out:
    q_free(clean);
    return st;
}

q_status rep_put_num(fmt_json *o, const char *key, double v, q_err *err)
{
    if (!isfinite(v))
        return fmt_json_put_null(o, key, err);
    return fmt_json_put_real(o, key, v, err);
}

static int is_text(fmt_val_kind kind)
{
    return kind == FMT_VAL_TEXT || kind == FMT_VAL_CODE;
}

static q_status put_value(fmt_json *o, const char *key, fmt_val_kind kind, const char *text,
                          double v, q_err *err)
{
    if (is_text(kind))
        return rep_put_text(o, key, text ? text : "", err);
    if ((kind == FMT_VAL_INT || kind == FMT_VAL_BYTES) && fabs(v) < 1e15 && v == floor(v))
        return fmt_json_put_int(o, key, (int64_t)v, err);
    return rep_put_num(o, key, v, err);
}

static void show_value(fmt_report *r, fmt_val_kind kind, const char *text, double v)
{
    char num[REP_NUM];

    if (!is_text(kind))
        rep_value(num, kind, v);
    if (kind == FMT_VAL_CODE)
        rep_f(r, "<code>");
    rep_text(r, !is_text(kind) ? num : text ? text : "");
    if (kind == FMT_VAL_CODE)
        rep_f(r, "</code>");
}

/* ---- the report ------------------------------------------------------------------------------ */

q_status fmt_report_new(fmt_report **out, const char *title, q_err *err)
{
    q_status st = Q_OK;
    fmt_report *r = q_calloc(1, sizeof *r);
    q_buf clean = { 0 };

    if (!r)
        Q_FAIL(err, Q_ENOMEM, "report: no memory");
    Q_TRY(put_clean(&clean, title, 1, err));
    r->title = clean.data;
    clean.data = NULL;
    Q_TRY(fmt_json_new(&r->doc, err));
    Q_TRY(rep_put_text(r->doc, "title", title, err));
    *out = r;
    r = NULL;
out:
    q_buf_free(&clean);
    fmt_report_free(r);
    return st;
}

void fmt_report_free(fmt_report *r)
{
    if (!r)
        return;
    q_buf_free(&r->page);
    fmt_json_free(r->doc);
    q_free(r->title);
    q_free(r);
}

static void end_section(fmt_report *r)
{
    if (r->in_section)
        rep_f(r, "</section>\n");
    r->in_section = 0;
}

q_status fmt_report_section(fmt_report *r, const char *title, q_err *err)
{
    end_section(r);
    rep_f(r, "<section>\n<h2>");
    rep_text(r, title);
    rep_f(r, "</h2>\n");
    r->in_section = 1;
    return rep_end(r, err);
}

q_status fmt_report_text(fmt_report *r, const char *text, q_err *err)
{
    rep_f(r, "<p>");
    rep_text(r, text);
    rep_f(r, "</p>\n");
    return rep_end(r, err);
}

q_status fmt_report_facts(fmt_report *r, const char *key, const fmt_fact *fact, size_t n,
                          q_err *err)
{
    q_status st = Q_OK;
    fmt_json *o;

    assert(!fmt_json_get(r->doc, key));
    Q_TRY(fmt_json_put_obj(&o, r->doc, key, err));
    rep_f(r, "<dl class=\"facts\">\n");
    for (size_t i = 0; i < n; i++) {
        if (is_text(fact[i].kind) && !fact[i].text)
            continue;
        rep_f(r, "<dt>");
        rep_text(r, fact[i].name);
        rep_f(r, "</dt><dd>");
        show_value(r, fact[i].kind, fact[i].text, fact[i].v);
        rep_f(r, "</dd>\n");
        Q_TRY(put_value(o, fact[i].key, fact[i].kind, fact[i].text, fact[i].v, err));
    }
    rep_f(r, "</dl>\n");
    Q_TRY(rep_end(r, err));
out:
    return st;
}

static q_status put_table(fmt_report *r, const char *key, const char *title, const fmt_col *col,
                          size_t n_cols, const fmt_cell *cell, size_t n_rows, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *o, *list, *row;

    Q_TRY(fmt_json_put_obj(&o, r->doc, key, err));
    Q_TRY(rep_put_text(o, "title", title, err));
    Q_TRY(fmt_json_put_arr(&list, o, "columns", err));
    for (size_t c = 0; c < n_cols; c++)
        Q_TRY(rep_put_text(list, NULL, col[c].name, err));
    Q_TRY(fmt_json_put_arr(&list, o, "rows", err));
    for (size_t i = 0; i < n_rows; i++) {
        Q_TRY(fmt_json_put_arr(&row, list, NULL, err));
        for (size_t c = 0; c < n_cols; c++, cell++)
            Q_TRY(put_value(row, NULL, col[c].kind, cell->text, cell->v, err));
    }
out:
    return st;
}

q_status fmt_report_table(fmt_report *r, const char *key, const char *title, const fmt_col *col,
                          size_t n_cols, const fmt_cell *cell, size_t n_rows, q_err *err)
{
    q_status st = Q_OK;

    assert(!fmt_json_get(r->doc, key));
    Q_TRY(put_table(r, key, title, col, n_cols, cell, n_rows, err));
    rep_figure(r, title, NULL, 0);
    rep_scroll(r);
    rep_f(r, "<table><thead><tr>");
    for (size_t c = 0; c < n_cols; c++) {
        rep_f(r, "<th%s>", is_text(col[c].kind) ? "" : " class=\"n\"");
        rep_text(r, col[c].name);
        rep_f(r, "</th>");
    }
    rep_f(r, "</tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < n_rows; i++) {
        rep_f(r, "<tr>");
        for (size_t c = 0; c < n_cols; c++, cell++) {
            rep_f(r, "<td%s>", is_text(col[c].kind) ? "" : " class=\"n\"");
            show_value(r, col[c].kind, cell->text, cell->v);
            rep_f(r, "</td>");
        }
        rep_f(r, "</tr>\n");
    }
    rep_f(r, "</tbody></table></div>\n");
    rep_figure_end(r);
    Q_TRY(rep_end(r, err));
out:
    return st;
}

/* ---- figures --------------------------------------------------------------------------------- */

void rep_figure(fmt_report *r, const char *title, const char *note, int half)
{
    rep_f(r, "<figure%s>\n<figcaption>", half ? " class=\"half\"" : "");
    rep_text(r, title);
    rep_f(r, "</figcaption>\n");
    if (note) {
        rep_f(r, "<p class=\"note\">");
        rep_text(r, note);
        rep_f(r, "</p>\n");
    }
}

void rep_scroll(fmt_report *r)
{
    rep_f(r, "<div class=\"scroll\">");
}

void rep_figure_end(fmt_report *r)
{
    rep_f(r, "</figure>\n");
}

q_status rep_put_chart(fmt_json **out, fmt_report *r, const fmt_chart *c, q_err *err)
{
    q_status st = Q_OK;

    assert(!fmt_json_get(r->doc, c->key));
    Q_TRY(fmt_json_put_obj(out, r->doc, c->key, err));
    Q_TRY(rep_put_text(*out, "title", c->title, err));
    Q_TRY(rep_put_text(*out, "x", c->x_label, err));
    Q_TRY(rep_put_text(*out, "y", c->y_label, err));
out:
    return st;
}

/* ---- files ----------------------------------------------------------------------------------- */

q_status fmt_report_write(const fmt_report *r, const char *html, const char *json, int force,
                          q_err *err)
{
    q_status st = Q_OK;
    q_buf all = { 0 }, text = { 0 };

    Q_TRY(q_buf_printf(&all, err,
                       "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                       "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
                       "<title>%s</title>\n<style>\n%s%s</style>\n</head>\n<body>\n<main>\n"
                       "<h1>%s</h1>\n",
                       r->title, style, chart_style, r->title));
    if (r->page.size)
        Q_TRY(q_buf_put(&all, r->page.data, r->page.size, err));
    Q_TRY(q_buf_printf(&all, err, "%s</main>\n</body>\n</html>\n",
                       r->in_section ? "</section>\n" : ""));
    Q_TRY(fmt_json_print(&text, r->doc, 1, err));
    Q_TRY(q_buf_puts(&text, "\n", err));
    Q_TRY(q_out_whole(html, force, all.data, all.size, err));
    Q_TRY(q_out_whole(json, force, text.data, text.size, err));
out:
    q_buf_free(&all);
    q_buf_free(&text);
    return st;
}
