/* The hand-coded splitter against Qwen's pattern in a regular expression library.
 *
 * Random lines mix scripts, blanks, line ends, marks, contractions and any code point at all.
 * QWENKIT_TEST_LINES sets how many (default 20000).  The two libraries follow different versions of
 * Unicode, so all code points are compared first: those whose class differs are left out of the
 * lines, their number is printed, and each must have one of two reasons (checked): one library does
 * not know it yet, or it is U+180E, which PCRE2 keeps among the blanks for Perl's sake although it
 * lost White_Space in Unicode 6.3. */
#include "tests/t.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "formats/base/q_mem.h"
#include "formats/text/split.h"
#include "formats/text/unicode.h"
#include "tests/t_text.h"

/* Pieces of text joined by | */
static void check_pieces(const char *text, size_t n, const char *want)
{
    q_err err = { 0 };
    q_buf got = { 0 };
    size_t len;

    for (size_t i = 0; i < n; i += len) {
        len = txt_split_next(text + i, n - i);
        T_TRUE(len > 0 && len <= n - i);
        if (i > 0)
            T_OK(q_buf_puts(&got, "|", &err), err);
        T_OK(q_buf_put(&got, text + i, len, &err), err);
    }
    T_STR(got.data, want);
    q_buf_free(&got);
}

static void t_known(void)
{
    static const struct {
        const char *text, *want;
    } rows[] = {
        { "Hello world", "Hello| world" },
        { "Hello world 12345's\n\n  x", "Hello| world| |1|2|3|4|5|'s|\n\n| | x" },
        { "I'LL don't  \t\r\n end   ", "I|'LL| don|'t|  \t\r\n| end|   " },
        { "'s't're've'm'll'd'S'T'RE'vE'M'lL'D", "'s|'t|'re|'ve|'m|'ll|'d|'S|'T|'RE|'vE|'M|'lL|'D" },
        { "'\u017F'\u017Fx", "'\u017F|'\u017F|x" }, /* long s folds to s */
        { "it'street 'r 'l 'lx 'x", "it|'s|treet| '|r| '|l| '|lx| '|x" },
        { "'r", "'r" },
        { "'", "'" },
        { "''s", "''|s" }, /* the second quote belongs to the first run of signs */
        { "(word _word $word", "(word| _|word| $|word" },
        { "\tword\u3000word\nword", "\tword|\u3000word|\n|word" },
        { "a1b22", "a|1|b|2|2" },
        { " 1", " |1" },
        { "  1", " | |1" },
        { "\u00BD\u0663\u2167", "\u00BD|\u0663|\u2167" },
        { "!!!\r\n\r\nx", "!!!\r\n\r\n|x" },
        { " !?\n x", " !?\n| x" },
        { "  !", " | !" },
        { "a  \n \n  b", "a|  \n \n| | b" },
        { "\n", "\n" },
        { " \xC2\x85 b", " \xC2\x85| b" }, /* next line is a blank, no line end */
        { "   ", "   " },
        { "x   ", "x|   " },
        { "e\u0302\u0301x", "e|\u0302\u0301|x" }, /* a mark is neither letter nor blank */
        { "\u0302x", "\u0302x" },
        { "\u4F60\u597D\uFF0C\u8BF7\u95EE", "\u4F60\u597D|\uFF0C\u8BF7\u95EE" },
        { "\U0001F44B\u200D\U0001F600 ok", "\U0001F44B\u200D\U0001F600| ok" },
        { "\u180E x", "\u180E| x" }, /* no blank since Unicode 6.3 */
        { "a\xFF\xFE"
          "b",
          "a|\xFF\xFE|b" }, /* invalid bytes are signs */
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        check_pieces(rows[i].text, strlen(rows[i].text), rows[i].want);
    T_INT(txt_split_next("a\0b", 3), 1);
    T_INT(txt_split_next("\0b", 2), 2); /* NUL is a sign like any other */
}

/* Cutting a megabyte takes the same time whatever it is made of. */
static void t_linear(void)
{
    static const char *const units[] = { " ",   "\n",     " \n",    "a",  "1",   "!",   "'",
                                         "\r ", "\u3000", "\u0301", "'l", "  a", "\n !" };
    enum { N = 1 << 20 };
    q_err err = { 0 };

    for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
        const clock_t begin = clock();
        q_buf text = { 0 };
        size_t len, pieces = 0;

        while (text.size < N)
            T_OK(q_buf_puts(&text, units[u], &err), err);
        for (size_t i = 0; i < text.size; i += len, pieces++)
            len = txt_split_next(text.data + i, text.size - i);
        T_TRUE(pieces > 0);
        T_TRUE(clock() - begin < 2 * CLOCKS_PER_SEC);
        q_buf_free(&text);
    }
}

#ifdef HAVE_PCRE2
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#define N_CP 0x110000u

static const char pattern[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
                              "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static pcre2_code *code;
static pcre2_match_data *md;
static uint8_t *excluded; /* [N_CP] 1: the libraries disagree, or a surrogate */
static uint64_t state = 88172645463325252u;

static uint32_t pick(uint32_t n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)((state >> 33) % n);
}

static pcre2_code *compile(const char *text)
{
    int error;
    PCRE2_SIZE at;
    pcre2_code *c = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP,
                                  &error, &at, NULL);

    if (!c)
        t_fail(__FILE__, __LINE__, "pattern: error %d at %zu", error, (size_t)at);
    pcre2_jit_compile(c, PCRE2_JIT_COMPLETE); /* without it matching is slower, no more */
    return c;
}

/* 0 other, 1 letter, 2 number, 3 space, 4 unassigned: the group that matched */
static int oracle_class(pcre2_code *c, uint32_t cp)
{
    char text[4];
    const size_t n = put_utf8(text, cp);
    const int rc = pcre2_match(c, (PCRE2_SPTR)text, n, 0, PCRE2_ANCHORED, md, NULL);

    return rc > 0 ? rc - 1 : 0;
}

/* Compares the classes of all code points once; fills excluded. */
static void open_oracle(void)
{
    pcre2_code *classes;
    int newer = 0, older = 0, vowel_separator = 0;
    char version[64];

    if (code)
        return;
    code = compile(pattern);
    classes = compile("(\\p{L})|(\\p{N})|(\\s)|(\\p{Cn})");
    md = pcre2_match_data_create(8, NULL);
    excluded = q_calloc(N_CP, 1);
    T_TRUE(md && excluded);
    for (uint32_t cp = 0; cp < N_CP; cp++) {
        int theirs, ours;

        if (cp >= 0xD800 && cp < 0xE000) {
            excluded[cp] = 1;
            continue;
        }
        theirs = oracle_class(classes, cp);
        ours = (int)txt_class_of(cp);
        if (theirs == ours || (theirs == 4 && ours == TXT_OTHER))
            continue;
        excluded[cp] = 1;
        if (theirs == 4)
            newer++;
        else if (cp == 0x180E)
            vowel_separator++;
        else if (ours == TXT_OTHER)
            older++; /* unassigned for us, else this is a difference that nothing explains */
        else
            t_fail(__FILE__, __LINE__, "U+%04X: class %d here, %d in PCRE2", cp, ours, theirs);
    }
    pcre2_code_free(classes);
    pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, version);
    printf("# PCRE2 has Unicode %s; left out: %d code points that it does not know, %d that only "
           "it knows, %d for U+180E\n",
           version, newer, older, vowel_separator);
    T_TRUE(newer == 0 || older == 0); /* one library is the newer one */
}

/* Every piece of one text. */
static void compare(const char *text, size_t n)
{
    const PCRE2_SIZE *v = pcre2_get_ovector_pointer(md);

    for (size_t i = 0; i < n;) {
        const size_t len = txt_split_next(text + i, n - i);
        const int rc = pcre2_match(code, (PCRE2_SPTR)text, n, i,
                                   PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK, md, NULL);

        if (rc < 1 || v[1] != i + len)
            t_fail(__FILE__, __LINE__,
                   "byte %zu of %zu: piece of %zu bytes, wanted %zu (rc %d), text \"%.*s\"", i, n,
                   len, rc < 1 ? 0 : v[1] - i, rc, (int)n, text);
        i += len;
    }
}

/* Ranges that meet in real text, and one of everything */
static const struct {
    uint32_t first, last;
} blocks[] = {
    { 0x0020, 0x007E }, { 0x0041, 0x007A },   { 0x0030, 0x0039 },   { 0x00A0, 0x024F },
    { 0x0300, 0x036F }, { 0x0370, 0x03FF },   { 0x0400, 0x04FF },   { 0x0590, 0x05FF },
    { 0x0600, 0x06FF }, { 0x0900, 0x097F },   { 0x0E00, 0x0E7F },   { 0x1100, 0x11FF },
    { 0x1E00, 0x1FFF }, { 0x2000, 0x206F },   { 0x2150, 0x218F },   { 0x2460, 0x24FF },
    { 0x3000, 0x30FF }, { 0x4E00, 0x9FFF },   { 0xAC00, 0xD7A3 },   { 0xFE00, 0xFE0F },
    { 0xFF00, 0xFFEF }, { 0x1D400, 0x1D7FF }, { 0x1F300, 0x1FAFF }, { 0x0000, 0x10FFFF },
};

static size_t put_random_part(char *p)
{
    static const char *const parts[] = {
        "'s",       "'S",      "'t",     "'re",        "'RE",    "'vE",    "'m",     "'ll",
        "'d",       "'\u017F", "'l",     "'",          " '",     "\r\n",   "\n",     "\r",
        "\n\n",     " ",       "  ",     "\t",         " \n",    "   ",    "\v",     "\f",
        "\xC2\x85", "\u00A0",  "\u2028", "\u3000",     "\u200B", "\u017F", "\u212A", "!",
        "...",      " \"",     "1",      "<|im_end|>", "\x1C",   "\x1F",   "\u1680", "\u202F",
        "\u205F",   "\uFEFF",  "_",      "-",
    };
    const uint32_t what = pick(8);
    uint32_t b, cp;
    size_t n = 0;

    if (what < 4) {
        const char *s = parts[pick(sizeof parts / sizeof parts[0])];

        memcpy(p, s, strlen(s));
        return strlen(s);
    }
    b = pick(sizeof blocks / sizeof blocks[0]);
    for (uint32_t k = 1 + pick(5); k > 0; k--) {
        do
            cp = blocks[b].first + pick(blocks[b].last - blocks[b].first + 1);
        while (excluded[cp]);
        n += put_utf8(p + n, cp);
    }
    return n;
}

static void t_oracle_every_code_point(void)
{
    open_oracle();
    for (uint32_t cp = 0; cp < N_CP; cp++) {
        char text[64];
        size_t n = 0;

        if (excluded[cp])
            continue;
        n += put_utf8(text + n, cp); /* before a letter, in a word, before a digit, after blanks */
        text[n++] = 'a';
        n += put_utf8(text + n, cp);
        text[n++] = '1';
        n += put_utf8(text + n, cp);
        n += put_utf8(text + n, cp);
        text[n++] = '!';
        n += put_utf8(text + n, cp);
        text[n++] = ' ';
        text[n++] = ' ';
        n += put_utf8(text + n, cp);
        text[n++] = '\'';
        n += put_utf8(text + n, cp);
        text[n++] = '\n';
        n += put_utf8(text + n, cp);
        compare(text, n);
    }
}

static void t_oracle_random_lines(void)
{
    const char *env = getenv("QWENKIT_TEST_LINES");
    const long lines = env ? atol(env) : 20000;
    size_t bytes = 0;

    T_TRUE(lines > 0);
    open_oracle();
    for (long i = 0; i < lines; i++) {
        char text[1024];
        size_t n = 0;

        for (uint32_t parts = 1 + pick(30); parts > 0; parts--)
            n += put_random_part(text + n); /* at most 20 bytes each */
        compare(text, n);
        bytes += n;
    }
    printf("# %ld random lines, %zu bytes: equal\n", lines, bytes);
}
#else
static void t_oracle_every_code_point(void)
{
    T_SKIP("built without PCRE2 (libpcre2-dev)");
}

static void t_oracle_random_lines(void)
{
    T_SKIP("built without PCRE2 (libpcre2-dev)");
}
#endif

static const t_case cases[] = {
    T(t_known), T(t_linear), T(t_oracle_every_code_point), T(t_oracle_random_lines), { 0 }
};

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
