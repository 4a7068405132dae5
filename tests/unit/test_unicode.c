/* Decoding, complete prefixes and NFC.  The oracle for NFC is the library's own function for whole
 * texts, which shares the tables but neither the piecewise work nor the ordering with ours. */
#include "tests/t.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <utf8proc.h>

#include "formats/text/tokenizer.h"
#include "formats/text/unicode.h"
#include "tests/t_text.h"

static q_err err;

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static void put_cp(q_buf *b, uint32_t cp)
{
    char bytes[4];

    T_OK(q_buf_put(b, bytes, put_utf8(bytes, cp), &err), err);
}

/* U+FFFD per maximal subpart: the examples of the Unicode Standard and the edges of table 3-7 */
static void t_repair(void)
{
    static const struct {
        const char *in, *out;
    } rows[] = {
        { "", "" },
        { "plain", "plain" },
        { "a\xF1\x80\x80\xE1\x80\xC2"
          "b\x80"
          "c\x80\xBF"
          "d",
          "a???b?c??d" }, /* table 3-8 */
        { "\xC0\xAF\xE0\x80\xBF\xF0\x81\x82"
          "A",
          "????????A" }, /* table 3-9: overlong */
        { "\xED\xA0\x80\xED\xBF\xBF\xED\xAF"
          "A",
          "????????A" }, /* table 3-10: surrogates */
        { "\xF4\x91\x92\x93\xFF"
          "A\x80\xBF"
          "B",
          "?????A??B" }, /* table 3-11 */
        { "\xE1\x80\xE2\xF0\x91\x92\xF1\xBF"
          "A",
          "????A" }, /* table 3-12: truncated */
        { "\xC2", "?" },
        { "\xF4\x8F\xBF\xBF", "\xF4\x8F\xBF\xBF" }, /* U+10FFFF */
        { "\xED\x9F\xBF\xEE\x80\x80", "\xED\x9F\xBF\xEE\x80\x80" },
        { "\xEF\xBF\xBD\xEF\xBF", "\xEF\xBF\xBD?" }, /* a real U+FFFD, then half of one */
        { "\xE0\xA0\x80\xF0\x90\x80\x80\xC2\x80", "\xE0\xA0\x80\xF0\x90\x80\x80\xC2\x80" },
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        q_buf got = { 0 }, nfc = { 0 }, want = { 0 };

        T_OK(q_buf_puts(&want, "", &err), err);
        for (const char *p = rows[i].out; *p; p++)
            T_OK(q_buf_put(&want, *p == '?' ? "\xEF\xBF\xBD" : p, *p == '?' ? 3 : 1, &err), err);
        T_OK(txt_utf8_repair(&got, rows[i].in, strlen(rows[i].in), &err), err);
        T_STR(got.data, want.data);
        T_OK(txt_nfc(&nfc, rows[i].in, strlen(rows[i].in), &err), err);
        T_STR(nfc.data, want.data);
        if (strcmp(rows[i].in, rows[i].out) != 0)
            T_INT(txt_nfc_sure(rows[i].in, strlen(rows[i].in)), 0);
        q_buf_free(&got);
        q_buf_free(&nfc);
        q_buf_free(&want);
    }
}

static void t_complete(void)
{
    static const struct {
        const char *text;
        size_t want;
    } rows[] = {
        { "", 0 },
        { "abc", 3 },
        { "a\xC3", 1 },
        { "a\xC3\xA9", 3 },
        { "a\xE4\xBD", 1 },
        { "a\xE4\xBD\xA0", 4 },
        { "a\xF0\x9F\x91", 1 },
        { "a\xF0\x9F", 1 },
        { "a\xF0", 1 },
        { "a\xF0\x9F\x91\x8B", 5 },
        { "\x80", 1 }, /* never a beginning */
        { "\x80\x80\x80\x80", 4 },
        { "a\xFF", 2 },
        { "a\xC0", 2 }, /* only overlong forms */
        { "a\xF5", 2 },
        { "a\xED\xA0", 3 }, /* a surrogate: invalid already */
        { "a\xE0\x80", 3 }, /* overlong already */
        { "a\xF4\x90", 3 }, /* beyond U+10FFFF already */
        { "a\xEF\xBF", 1 },
        { "a\xEF\xBF\xBD", 4 },
        { "\xC3\xC3", 1 },
        { "\xF0\x9F\x91\xF0", 3 },
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        T_INT(txt_utf8_complete(rows[i].text, strlen(rows[i].text)), rows[i].want);
}

/* Printing complete prefixes as bytes arrive gives the text repaired as a whole. */
static void t_complete_stream(void)
{
    static const uint8_t alphabet[] = { 'a',  0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2,
                                        0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF4, 0xF5, 0xFF };
    uint64_t seed = 1;

    for (int round = 0; round < 20000; round++) {
        char text[24];
        const size_t n = next_random(&seed) % sizeof text;
        size_t done = 0;
        q_buf whole = { 0 }, parts = { 0 };

        for (size_t i = 0; i < n; i++)
            text[i] = (char)alphabet[next_random(&seed) % sizeof alphabet];
        for (size_t i = 1; i <= n; i++) {
            const size_t k = txt_utf8_complete(text + done, i - done);

            T_OK(txt_utf8_repair(&parts, text + done, k, &err), err);
            done += k;
        }
        T_OK(txt_utf8_repair(&parts, text + done, n - done, &err), err);
        T_OK(txt_utf8_repair(&whole, text, n, &err), err);
        T_STR(parts.data, whole.data);
        q_buf_free(&whole);
        q_buf_free(&parts);
    }
}

static void t_class(void)
{
    static const struct {
        uint32_t cp;
        txt_class want;
    } rows[] = {
        { 'a', TXT_LETTER },     { '0', TXT_NUMBER },     { ' ', TXT_SPACE },
        { '_', TXT_OTHER },      { 0x00, TXT_OTHER },     { 0x08, TXT_OTHER },
        { 0x09, TXT_SPACE },     { 0x0B, TXT_SPACE },     { 0x0D, TXT_SPACE },
        { 0x0E, TXT_OTHER },     { 0x1C, TXT_OTHER },     { 0x1F, TXT_OTHER },
        { 0x85, TXT_SPACE },     { 0xA0, TXT_SPACE },     { 0xAA, TXT_LETTER },
        { 0xB2, TXT_NUMBER },    { 0xBD, TXT_NUMBER },    { 0x0301, TXT_OTHER },
        { 0x0903, TXT_OTHER },   { 0x0966, TXT_NUMBER },  { 0x1680, TXT_SPACE },
        { 0x180E, TXT_OTHER },   { 0x2009, TXT_SPACE },   { 0x200B, TXT_OTHER },
        { 0x2028, TXT_SPACE },   { 0x2029, TXT_SPACE },   { 0x202F, TXT_SPACE },
        { 0x205F, TXT_SPACE },   { 0x2160, TXT_NUMBER },  { 0x3000, TXT_SPACE },
        { 0x4E00, TXT_LETTER },  { 0xAC00, TXT_LETTER },  { 0xFEFF, TXT_OTHER },
        { 0xFFFD, TXT_OTHER },   { 0x1F600, TXT_OTHER },  { 0x20000, TXT_LETTER },
        { 0x1D7D8, TXT_NUMBER }, { 0x10FFFF, TXT_OTHER }, { 0xE000, TXT_OTHER },
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (txt_class_of(rows[i].cp) != rows[i].want)
            t_fail(__FILE__, __LINE__, "U+%04X: class %d, wanted %d", rows[i].cp,
                   (int)txt_class_of(rows[i].cp), (int)rows[i].want);
}

static void t_nfc_known(void)
{
    static const struct {
        const char *in, *out;
    } rows[] = {
        { "e\u0301", "\u00E9" },
        { "\u00E9", "\u00E9" },
        { "a\u0315\u0300\u05AEb", "\u00E0\u05AE\u0315b" }, /* order of marks */
        { "\u212B\u2126\u212A", "\u00C5\u03A9K" },         /* singletons */
        { "\u0958", "\u0915\u093C" },                      /* composition exclusion */
        { "\u0344", "\u0308\u0301" },                      /* decomposes to marks alone */
        { "\u1100\u1161\u11A8", "\uAC01" },                /* jamo */
        { "\uAC00\u11A8", "\uAC01" },                      /* syllable and final jamo */
        { "\u304B\u3099", "\u304C" },
        { "\u0438\u0306", "\u0439" },
        { "\uFB01\uFF0C\u2460", "\uFB01\uFF0C\u2460" }, /* compatibility: kept */
        { "\U0002F800", "\u4E3D" },
        { ">\u0338", "\u226F" }, /* eats the end of <|im_end|> */
        { "\u0301", "\u0301" },
        { "x\u0323\u0307y\u0307\u0323", "\u1E8B\u0323\u1EF5\u0307" },
        { "\u1E69 s\u0323\u0307 s\u0307\u0323", "\u1E69 \u1E69 \u1E69" },
        { "\U000110A5\U000110BA", "\U000110AB" },
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        q_buf got = { 0 };

        T_OK(txt_nfc(&got, rows[i].in, strlen(rows[i].in), &err), err);
        T_STR(got.data, rows[i].out);
        q_buf_free(&got);
    }
}

/* Ours against the library's for one text; `sure` must never be wrong. */
static void compare_nfc(const q_buf *text)
{
    utf8proc_uint8_t *want = NULL;
    const utf8proc_ssize_t n =
        utf8proc_map((const utf8proc_uint8_t *)text->data, (utf8proc_ssize_t)text->size, &want,
                     UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    q_buf got = { 0 };

    T_TRUE(n >= 0);
    T_OK(txt_nfc(&got, text->data, text->size, &err), err);
    if (got.size != (size_t)n || memcmp(got.data, want, got.size) != 0)
        t_fail(__FILE__, __LINE__, "NFC of \"%s\" is \"%s\", wanted \"%s\"", text->data, got.data,
               (const char *)want);
    if (txt_nfc_sure(text->data, text->size))
        T_TRUE(text->size == got.size && memcmp(text->data, got.data, got.size) == 0);
    q_buf_free(&got);
    free(want);
}

/* Every code point alone, behind letters and before marks: composition looks both ways. */
static void t_nfc_all(void)
{
    q_buf b = { 0 };

    for (uint32_t cp = 1; cp < 0x110000; cp++) {
        if (cp >= 0xD800 && cp < 0xE000)
            continue;
        q_buf_clear(&b);
        put_cp(&b, cp);
        put_cp(&b, 'a');
        put_cp(&b, cp);
        put_cp(&b, 0x0301);
        put_cp(&b, 0x0323);
        put_cp(&b, 0xAC00);
        put_cp(&b, cp);
        put_cp(&b, cp);
        compare_nfc(&b);
    }
    q_buf_free(&b);
}

/* Texts over the code points that normalisation changes, their parts, and some that it does not. */
static void t_nfc_random(void)
{
    enum { MAX = 40000 };
    uint32_t *pool = malloc(MAX * sizeof *pool);
    size_t n_pool = 0;
    uint64_t seed = 2;
    q_buf b = { 0 };

    T_TRUE(pool != NULL);
    for (uint32_t cp = 1; cp < 0x110000; cp++) {
        int32_t d[18];
        utf8proc_ssize_t n;

        if ((cp >= 0xD800 && cp < 0xE000) || (cp >= 0xAC00 && cp < 0xD7A4 && cp % 97 != 0))
            continue;
        n = utf8proc_decompose_char((utf8proc_int32_t)cp, d, 18, UTF8PROC_DECOMPOSE, NULL);
        if (n == 1 && d[0] == (int32_t)cp &&
            utf8proc_get_property((int32_t)cp)->combining_class == 0)
            continue;
        for (utf8proc_ssize_t i = 0; i < n && n_pool + 1 < MAX; i++)
            pool[n_pool++] = (uint32_t)d[i];
        pool[n_pool++] = cp;
        T_TRUE(n_pool < MAX);
    }
    T_TRUE(n_pool > 3000);
    for (int round = 0; round < 50000; round++) {
        const uint32_t len = 1 + next_random(&seed) % (round % 100 == 0 ? 300 : 12);

        q_buf_clear(&b);
        for (uint32_t i = 0; i < len; i++)
            put_cp(&b, next_random(&seed) % 8 ? pool[next_random(&seed) % n_pool]
                                              : 0x20 + next_random(&seed) % 0x500);
        compare_nfc(&b);
    }
    q_buf_free(&b);
    free(pool);
}

/* A megabyte of marks in the worst order takes about a hundredth of a second; quadratic ordering
 * would take minutes. */
static void t_nfc_long_run(void)
{
    q_buf in = { 0 }, out = { 0 };
    const clock_t begin = clock();
    const size_t pairs = 262144;

    put_cp(&in, 'a');
    for (size_t i = 0; i < pairs; i++) {
        put_cp(&in, 0x0301);
        put_cp(&in, 0x0316);
    }
    T_OK(txt_nfc(&out, in.data, in.size, &err), err);
    /* all class 220 first; the first acute then still composes with the letter */
    T_INT(out.size, 2 + 2 * pairs + 2 * (pairs - 1));
    T_INT(memcmp(out.data, "\xC3\xA1\xCC\x96\xCC\x96", 6), 0);
    T_INT(memcmp(out.data + out.size - 4, "\xCC\x81\xCC\x81", 4), 0);
    T_TRUE(clock() - begin < 5 * CLOCKS_PER_SEC);
    q_buf_free(&in);
    q_buf_free(&out);
}

static const t_case cases[] = { T(t_repair),     T(t_complete),     T(t_complete_stream),
                                T(t_class),      T(t_nfc_known),    T(t_nfc_all),
                                T(t_nfc_random), T(t_nfc_long_run), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
