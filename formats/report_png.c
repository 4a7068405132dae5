/* Pictures of heat maps: the scale of colours, and PNG inside a page.
 *
 *     colour of t in 0 .. 1     lightness 0.24 .. 0.94 in equal steps, hue from violet over blue
 *                               and green to yellow: order is seen without colour vision too
 *
 * PNG with stored blocks of deflate needs no compressor.  Sources: Ottosson 2020 (OKLab); PNG
 * specification, sections 5, 10, annex D; RFC 1950, RFC 1951 3.2.4; RFC 4648. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "formats/report_impl.h"

/* ---- colours --------------------------------------------------------------------------------- */

static int gamma_byte(double v)
{
    v = v < 0 ? 0 : v > 1 ? 1 : v;
    v = v <= 0.0031308 ? 12.92 * v : 1.055 * pow(v, 1 / 2.4) - 0.055;
    return (int)(v * 255 + 0.5);
}

static void colour_at(uint8_t rgb[3], double t)
{
    const double pi = 3.14159265358979323846;
    const double L = 0.24 + 0.70 * t, hue = (305 - 195 * t) * pi / 180;
    const double C = 0.10 + 0.07 * fabs(2 * t - 1); /* green and blue have the least room */
    const double a = C * cos(hue), b = C * sin(hue);
    const double l = pow(L + 0.3963377774 * a + 0.2158037573 * b, 3);
    const double m = pow(L - 0.1055613458 * a - 0.0638541728 * b, 3);
    const double s = pow(L - 0.0894841775 * a - 1.2914855480 * b, 3);

    rgb[0] = (uint8_t)gamma_byte(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s);
    rgb[1] = (uint8_t)gamma_byte(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s);
    rgb[2] = (uint8_t)gamma_byte(-0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s);
}

void rep_colour(char out[8], double t)
{
    uint8_t c[3];

    colour_at(c, t);
    snprintf(out, 8, "#%02x%02x%02x", c[0], c[1], c[2]);
}

/* ---- PNG ------------------------------------------------------------------------------------- */

static void be32(uint8_t out[4], uint32_t v)
{
    for (int i = 0; i < 4; i++)
        out[i] = (uint8_t)(v >> (24 - 8 * i));
}

static uint32_t crc32_of(const uint8_t *p, size_t n)
{
    uint32_t c = 0xffffffffu;

    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int k = 0; k < 8; k++)
            c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
    }
    return ~c;
}

static uint32_t adler32_of(const uint8_t *p, size_t n)
{
    uint32_t a = 1, b = 0;

    for (size_t i = 0; i < n; i++) {
        a = (a + p[i]) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

/* A chunk: the length, then type and data, which the sum covers. */
static q_status put_chunk(q_buf *b, const char type[4], const void *p, size_t n, q_err *err)
{
    q_status st = Q_OK;
    uint8_t word[4];
    size_t from;

    be32(word, (uint32_t)n);
    Q_TRY(q_buf_put(b, word, 4, err));
    from = b->size;
    Q_TRY(q_buf_put(b, type, 4, err));
    if (n)
        Q_TRY(q_buf_put(b, p, n, err));
    be32(word, crc32_of((const uint8_t *)b->data + from, b->size - from));
    Q_TRY(q_buf_put(b, word, 4, err));
out:
    return st;
}

/* Rows of the picture, each behind a filter byte of 0, as a zlib stream of stored blocks. */
static q_status put_stream(q_buf *z, const q_buf *raw, q_err *err)
{
    q_status st = Q_OK;
    uint8_t sum[4];

    Q_TRY(q_buf_put(z, "\x78\x01", 2, err));
    for (size_t at = 0; at < raw->size; at += 65535) {
        const size_t n = raw->size - at < 65535 ? raw->size - at : 65535;
        const uint8_t head[5] = { at + n == raw->size, (uint8_t)(n & 255), (uint8_t)(n >> 8),
                                  (uint8_t)(~n & 255), (uint8_t)((~n >> 8) & 255) };

        Q_TRY(q_buf_put(z, head, sizeof head, err));
        Q_TRY(q_buf_put(z, raw->data + at, n, err));
    }
    be32(sum, adler32_of((const uint8_t *)raw->data, raw->size));
    Q_TRY(q_buf_put(z, sum, sizeof sum, err));
out:
    return st;
}

static void put_base64(fmt_report *r, const q_buf *b)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *p = (const uint8_t *)b->data;

    for (size_t i = 0; i < b->size; i += 3) {
        const size_t n = b->size - i < 3 ? b->size - i : 3;
        const uint32_t v =
            (uint32_t)p[i] << 16 | (n > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (n > 2 ? p[i + 2] : 0);

        rep_f(r, "%c%c%c%c", digit[v >> 18], digit[v >> 12 & 63], n > 1 ? digit[v >> 6 & 63] : '=',
              n > 2 ? digit[v & 63] : '=');
    }
}

q_status rep_png(fmt_report *r, const uint8_t *cell, size_t rows, size_t cols, q_err *err)
{
    q_status st = Q_OK;
    q_buf raw = { 0 }, z = { 0 }, png = { 0 };
    uint8_t head[13] = { [8] = 8, [9] = 3 }, palette[3 * 256] = { 0 }, alpha[256];

    be32(head, (uint32_t)cols);
    be32(head + 4, (uint32_t)rows);
    for (int i = 0; i < REP_STEPS; i++)
        colour_at(palette + 3 * i, (double)i / (REP_STEPS - 1));
    memset(alpha, 255, sizeof alpha);
    alpha[REP_STEPS] = 0;
    for (size_t i = 0; i < rows; i++) {
        Q_TRY(q_buf_put(&raw, "", 1, err));
        Q_TRY(q_buf_put(&raw, cell + i * cols, cols, err));
    }
    Q_TRY(put_stream(&z, &raw, err));
    Q_TRY(q_buf_put(&png, "\x89PNG\r\n\x1a\n", 8, err));
    Q_TRY(put_chunk(&png, "IHDR", head, sizeof head, err));
    Q_TRY(put_chunk(&png, "PLTE", palette, sizeof palette, err));
    Q_TRY(put_chunk(&png, "tRNS", alpha, sizeof alpha, err));
    Q_TRY(put_chunk(&png, "IDAT", z.data, z.size, err));
    Q_TRY(put_chunk(&png, "IEND", NULL, 0, err));
    put_base64(r, &png);
    Q_TRY(rep_end(r, err));
out:
    q_buf_free(&raw);
    q_buf_free(&z);
    q_buf_free(&png);
    return st;
}
