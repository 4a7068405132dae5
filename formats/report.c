/* Reports: the page, the document, and what is no chart (report_svg.c, report_map.c).
 *
 * The page is made as text, front to back, of the texts and numbers of report_text.c.  Colours are
 * variables of CSS, so that one page serves light, dark and paper. */
#include "formats/report_impl.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/q_file.h"

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

/* ---- the report ------------------------------------------------------------------------------ */

q_status fmt_report_new(fmt_report **out, const char *title, q_err *err)
{
    q_status st = Q_OK;
    fmt_report *r = q_calloc(1, sizeof *r);
    q_buf clean = { 0 };

    if (!r)
        Q_FAIL(err, Q_ENOMEM, "report: no memory");
    Q_TRY(rep_clean(&clean, title, 1, err));
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
        if (rep_is_text(fact[i].kind) && !fact[i].text)
            continue;
        rep_f(r, "<dt>");
        rep_text(r, fact[i].name);
        rep_f(r, "</dt><dd>");
        rep_show_value(r, fact[i].kind, fact[i].text, fact[i].v);
        rep_f(r, "</dd>\n");
        Q_TRY(rep_put_value(o, fact[i].key, fact[i].kind, fact[i].text, fact[i].v, err));
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
            Q_TRY(rep_put_value(row, NULL, col[c].kind, cell->text, cell->v, err));
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
        rep_f(r, "<th%s>", rep_is_text(col[c].kind) ? "" : " class=\"n\"");
        rep_text(r, col[c].name);
        rep_f(r, "</th>");
    }
    rep_f(r, "</tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < n_rows; i++) {
        rep_f(r, "<tr>");
        for (size_t c = 0; c < n_cols; c++, cell++) {
            rep_f(r, "<td%s>", rep_is_text(col[c].kind) ? "" : " class=\"n\"");
            rep_show_value(r, col[c].kind, cell->text, cell->v);
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
