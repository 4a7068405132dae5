/* Texts and numbers of reports, on the page and in the document.
 *
 * What comes from outside goes through rep_text, which knows the two dangers: characters that mean
 * something in HTML, and bytes that are no characters.  C0 controls other than line ends are not
 * allowed in HTML even when they are escaped. */
#include "formats/report_impl.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd"

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

q_status rep_clean(q_buf *b, const char *s, int html, q_err *err)
{
    q_status st = q_buf_puts(b, "", err);

    while (st == Q_OK && *s) {
        const size_t n = char_bytes((const unsigned char *)s);

        st = put_char(b, s, n, html, err);
        s += n ? n : 1;
    }
    return st;
}

/* A text as it may stand in JSON: invalid bytes replaced.  Owned by the caller. */
static char *clean_utf8(const char *s)
{
    q_buf b = { 0 };

    if (rep_clean(&b, s, 0, NULL) == Q_OK)
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
        r->st = rep_clean(&r->page, s, 1, &r->err);
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

static void format_value(char out[REP_NUM], fmt_val_kind kind, double v)
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
    if (!(clean = clean_utf8(s)))
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

int rep_is_text(fmt_val_kind kind)
{
    return kind == FMT_VAL_TEXT || kind == FMT_VAL_CODE;
}

q_status rep_put_value(fmt_json *o, const char *key, fmt_val_kind kind, const char *text, double v,
                       q_err *err)
{
    if (rep_is_text(kind))
        return rep_put_text(o, key, text ? text : "", err);
    if ((kind == FMT_VAL_INT || kind == FMT_VAL_BYTES) && fabs(v) < 1e15 && v == floor(v))
        return fmt_json_put_int(o, key, (int64_t)v, err);
    return rep_put_num(o, key, v, err);
}

void rep_show_value(fmt_report *r, fmt_val_kind kind, const char *text, double v)
{
    char num[REP_NUM];

    if (!rep_is_text(kind))
        format_value(num, kind, v);
    if (kind == FMT_VAL_CODE)
        rep_f(r, "<code>");
    rep_text(r, !rep_is_text(kind) ? num : text ? text : "");
    if (kind == FMT_VAL_CODE)
        rep_f(r, "</code>");
}
