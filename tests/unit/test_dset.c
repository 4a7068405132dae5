/* Samples from files: real and made-up files, every refusal with its message, sampling, joining,
 * truncation at every byte, and the record scanner. */
#include "datasets/dset.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "datasets/record.h"
#include "formats/base/q_hash.h"
#include "tests/t.h"

/* without the fsync of q_out: a thousand small files */
static const char *file(const char *name, const void *p, size_t n)
{
    static char path[256];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", t_tmpdir(), name);
    f = fopen(path, "wb");
    T_TRUE(f && fwrite(p, 1, n, f) == n);
    T_INT(fclose(f), 0);
    return path;
}

static const char *text(const char *name, const char *s)
{
    return file(name, s, strlen(s));
}

static void t_jsonl(void)
{
    static const char s[] =
        "\xef\xbb\xbf{\"id\": \"a\", \"article\": \"x\\n\\u00e9\", \"highlights\": \"y\"}\n"
        "\n \t\r\n"
        "{\"highlights\":\"h2\",\"id\":77,\"article\":\"a2\",\"more\":[1,{}]}\r\n"
        "{\"article\": \"\", \"highlights\": \"h3\", \"id\": null}";
    ds_set *set = NULL;
    q_err err = { 0 };

    T_OK(ds_open(&set, text("a.jsonl", s), NULL, &err), err);
    T_INT(ds_count(set), 3);
    T_STR(ds_at(set, 0)->id, "a");
    T_STR(ds_at(set, 0)->article, "x\n\xc3\xa9");
    T_STR(ds_at(set, 0)->highlights, "y");
    T_STR(ds_at(set, 1)->id, "77");
    T_STR(ds_at(set, 1)->article, "a2");
    T_STR(ds_at(set, 2)->id, "5"); /* its line */
    T_STR(ds_at(set, 2)->article, "");
    T_TRUE(ds_at(set, 3) == NULL);
    ds_close(set);
}

static void t_kinds(void)
{
    static const struct {
        const char *name, *content;
        const char *article; /* NULL: JSON Lines with this sample */
    } rows[] = {
        { "k.txt", "{\"article\": 1}", "{\"article\": 1}" },
        { "k.raw", "{x", "{x" },
        { "k", "plain\n", "plain\n" },
        { "k2", " \n {\"article\": \"A\", \"highlights\": \"B\"}", NULL },
        { "k.data", "\xef\xbb\xbf{\"article\": \"A\", \"highlights\": \"B\"}", NULL },
        { "k.json", "{\"article\": \"A\", \"highlights\": \"B\"}", NULL },
        { "k.ndjson", "{\"article\": \"A\", \"highlights\": \"B\"}", NULL },
        { "bom.txt", "\xef\xbb\xbfx\xef\xbf\xbd\n", "x\xef\xbf\xbd\n" },
    };
    ds_set *set = NULL;
    q_err err = { 0 };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        T_OK(ds_open(&set, text(rows[i].name, rows[i].content), NULL, &err), err);
        T_INT(ds_count(set), 1);
        T_STR(ds_at(set, 0)->article, rows[i].article ? rows[i].article : "A");
        if (rows[i].article)
            T_TRUE(ds_at(set, 0)->highlights == NULL);
        else
            T_STR(ds_at(set, 0)->highlights, "B");
        ds_close(set);
    }
}

#define LINE(s) "{\"article\": \"a\", \"highlights\": \"h\"}\n" s

static void t_refused(void)
{
    static const struct {
        const char *name, *content;
        size_t n; /* 0: strlen */
        q_status st;
        const char *part;
    } rows[] = {
        { "e.jsonl", "", 0, Q_EFORMAT, "e.jsonl: no samples in it" },
        { "e.txt", "", 0, Q_EFORMAT, "e.txt: no samples in it" },
        { "e.txt", "\xef\xbb\xbf", 0, Q_EFORMAT, "e.txt: no samples in it" },
        { "e.jsonl", "\n\n \n", 0, Q_EFORMAT, "no samples" },
        { "e.jsonl", LINE("\n{\"article\": \"a\"}"), 0, Q_EFORMAT,
          "e.jsonl:3: field 'highlights' is missing" },
        { "e.jsonl", LINE("{\"highlights\": \"a\"}"), 0, Q_EFORMAT,
          "e.jsonl:2: field 'article' is missing" },
        { "e.jsonl", LINE("{\"article\": 5, \"highlights\": \"a\"}"), 0, Q_EFORMAT,
          "e.jsonl:2: field 'article' is not a string" },
        { "e.jsonl", LINE("{\"article\": null, \"highlights\": \"a\"}"), 0, Q_EFORMAT,
          "e.jsonl:2: field 'article' is not a string" },
        { "e.jsonl", LINE("{\"article\": \"a\", \"highlights\": [\"a\"]}"), 0, Q_EFORMAT,
          "e.jsonl:2: field 'highlights' is not a string" },
        { "e.jsonl", LINE("{\"article\": \"a\", \"highlights\": \"b\", \"id\": 1.5}"), 0, Q_EFORMAT,
          "e.jsonl:2: 'id' is neither a string nor an integer" },
        { "e.jsonl", LINE("[1, 2]"), 0, Q_EFORMAT, "e.jsonl:2: not a JSON object" },
        { "e.jsonl", LINE("\"a\""), 0, Q_EFORMAT, "e.jsonl:2: not a JSON object" },
        { "e.jsonl", LINE("{\"article\": \"a\", "), 0, Q_EFORMAT, "e.jsonl:2: line 1 column" },
        { "e.jsonl", LINE("{\"article\": \"a\", \"article\": \"a\"}"), 0, Q_EFORMAT,
          "e.jsonl:2: line 1 column" },
        { "e.jsonl", LINE("{} {}"), 0, Q_EFORMAT, "e.jsonl:2: line 1 column" },
        { "e.jsonl", LINE("{\"article\": \"\xff\", \"highlights\": \"a\"}"), 0, Q_EFORMAT,
          "e.jsonl:2: line 1 column" },
        { "e.jsonl", LINE("{\"article\": \"\xed\xa0\x80\", \"highlights\": \"a\"}"), 0, Q_EFORMAT,
          "e.jsonl:2: line 1 column" },
        { "e.jsonl", LINE("{\"article\": \"\\u0000\", \"highlights\": \"a\"}"), 0, Q_EFORMAT,
          "e.jsonl:2: line 1 column" },
        { "e.jsonl", LINE("{\"article\": \"\\ud83d\", \"highlights\": \"a\"}"), 0, Q_EFORMAT,
          "e.jsonl:2: line 1 column" },
        { "e.jsonl", "{\"article\": \"a\0\", \"highlights\": \"a\"}", 36, Q_EFORMAT,
          "e.jsonl:1: line 1 column" },
        { "e.json", " [{\"article\": \"a\", \"highlights\": \"a\"}]", 0, Q_EFORMAT,
          "a JSON array, wanted one object per line: jq -c" },
        { "e.txt", "ab\xc3", 0, Q_EFORMAT,
          "e.txt: byte 2 (0xc3) is not UTF-8: wanted text or JSON" },
        { "e.txt", "ab\xf4\x90\x80\x80", 0, Q_EFORMAT, "e.txt: byte 2 (0xf4) is not UTF-8" },
        { "e.txt", "a\0b", 3, Q_EFORMAT, "e.txt: byte 1 is NUL" },
        { "e", "PAR1\x15\x04\xff\xff", 0, Q_EFORMAT, "is not UTF-8: wanted text or JSON Lines" },
    };
    ds_set *set = NULL;
    q_err err = { 0 };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *path =
            file(rows[i].name, rows[i].content, rows[i].n ? rows[i].n : strlen(rows[i].content));
        const ds_opts drawn = { .shuffle = 1, .max_samples = 9 };

        T_ERR(ds_open(&set, path, NULL, &err), err, rows[i].st, rows[i].part);
        T_ERR(ds_open(&set, path, &drawn, &err), err, rows[i].st, rows[i].part);
        T_TRUE(set == NULL);
    }
    T_ERR(ds_open(&set, "/nonexistent/x.jsonl", NULL, &err), err, Q_ENOINPUT, "x.jsonl");
    T_ERR(ds_open(&set, t_tmpdir(), NULL, &err), err, Q_EFORMAT, "is a directory, wanted a file");
}

static void t_max_stops_reading(void)
{
    const ds_opts one = { .max_samples = 1 }, two = { .max_samples = 2 };
    const char *path = text("m.jsonl", LINE("broken"));
    ds_set *set = NULL;
    q_err err = { 0 };

    T_OK(ds_open(&set, path, &one, &err), err);
    T_INT(ds_count(set), 1);
    ds_close(set);
    set = NULL;
    T_ERR(ds_open(&set, path, &two, &err), err, Q_EFORMAT, "m.jsonl:2: line 1 column");
}

static void t_field_text(void)
{
    const ds_opts text_only = { .field_text = "text" }, missing = { .field_text = "Text" };
    const char *path =
        text("f.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\", \"article\": 3}\n");
    ds_set *set = NULL;
    q_buf out = { 0 };
    q_err err = { 0 };

    T_OK(ds_open(&set, path, &text_only, &err), err);
    T_STR(ds_at(set, 1)->article, "two");
    T_TRUE(ds_at(set, 1)->highlights == NULL);
    T_OK(ds_join(set, "text", "\n\n", &out, &err), err);
    T_STR(out.data, "one\n\ntwo");
    T_ERR(ds_join(set, "highlights", "", &out, &err), err, Q_EARG,
          "field 'highlights' was not read, only 'text'");
    T_ERR(ds_join(set, "article", "", &out, &err), err, Q_EARG, "field 'article' was not read");
    ds_close(set);
    set = NULL;
    T_ERR(ds_open(&set, path, &missing, &err), err, Q_EFORMAT,
          "f.jsonl:1: field 'Text' is missing");
    q_buf_free(&out);
}

static void t_join(void)
{
    ds_set *set = NULL;
    q_buf out = { 0 };
    q_err err = { 0 };

    T_OK(ds_open(&set, text("j.jsonl", LINE(LINE("{\"article\": \"\", \"highlights\": \"z\"}"))),
                 NULL, &err),
         err);
    T_OK(q_buf_puts(&out, ">", &err), err); /* appends */
    T_OK(ds_join(set, NULL, "--", &out, &err), err);
    T_STR(out.data, ">a--a--");
    q_buf_clear(&out);
    T_OK(ds_join(set, "article", "", &out, &err), err);
    T_STR(out.data, "aa");
    q_buf_clear(&out);
    T_OK(ds_join(set, "highlights", ",", &out, &err), err);
    T_STR(out.data, "h,h,z");
    T_ERR(ds_join(set, "summary", ",", &out, &err), err, Q_EARG,
          "field 'summary' was not read, only 'article' and 'highlights'");
    ds_close(set);
    set = NULL;
    T_OK(ds_open(&set, text("j.txt", "t"), NULL, &err), err);
    T_ERR(ds_join(set, "highlights", ",", &out, &err), err, Q_EARG, "a plain text has none");
    ds_close(set);
    q_buf_free(&out);
}

static void t_shared_files(void)
{
    const ds_opts first = { .max_samples = 400 };
    ds_set *set = NULL;
    q_buf out = { 0 };
    q_err err = { 0 };

    T_OK(ds_open(&set, T_SHARED("data/summaries/test.jsonl"), NULL, &err), err);
    T_INT(ds_count(set), 500);
    T_STR(ds_at(set, 0)->id, "2411.15876");
    ds_close(set);
    T_OK(ds_open(&set, T_SHARED("data/summaries/calibration.jsonl"), &first, &err), err);
    T_INT(ds_count(set), 400);
    T_OK(ds_join(set, "article", "\n\n", &out, &err), err);
    T_TRUE(out.size > 100000);
    ds_close(set);
    q_buf_free(&out);
    T_OK(ds_open(&set, "datasets/samples.jsonl", NULL, &err), err);
    T_TRUE(ds_count(set) > 0);
    ds_close(set);
}

/* the hash of data/text/README.md: rows of the data set, joined as the GPTQ paper does */
static void t_wikitext_rows(void)
{
    const ds_opts rows = { .rows = 1 };
    ds_set *set = NULL;
    q_buf out = { 0 };
    q_err err = { 0 };
    q_sha256 h;
    uint8_t digest[32];
    char hex[65];

    T_OK(ds_open(&set, T_SHARED("data/text/wikitext2-test.txt"), &rows, &err), err);
    T_INT(ds_count(set), 4358);
    T_OK(ds_join(set, NULL, "\n\n", &out, &err), err);
    T_INT(out.size, 1296370);
    q_sha256_init(&h);
    q_sha256_update(&h, out.data, out.size);
    q_sha256_final(&h, digest);
    q_hex(hex, digest, 32);
    T_STR(hex, "696cca6b65a171b0a358a4be6732cdfdf2dd6164a32e20fd70e3c13fc4dfae83");
    ds_close(set);
    set = NULL;
    q_buf_free(&out);
    T_ERR(ds_open(&set, text("r.jsonl", "{}"), &rows, &err), err, Q_EARG, "rows are lines");
    T_ERR(ds_open(&set, text("r.txt", "ok\n\n\xff\n"), &rows, &err), err, Q_EFORMAT,
          "r.txt: byte 4 (0xff)");
}

/* lines "0" .. "n-1" as rows */
static const char *numbers(int n)
{
    static char buf[8192];
    size_t at = 0;

    for (int i = 0; i < n; i++)
        at += (size_t)snprintf(buf + at, sizeof buf - at, "%d\n", i);
    return text("numbers.txt", buf);
}

static void t_shuffle(void)
{
    const char *path = numbers(100);
    ds_opts o = { .rows = 1, .shuffle = 1, .max_samples = 10, .shuffle_seed = 3 };
    ds_set *a = NULL, *b = NULL;
    q_err err = { 0 };
    int seen[100] = { 0 }, differ = 0;

    T_OK(ds_open(&a, path, &o, &err), err);
    T_OK(ds_open(&b, path, &o, &err), err);
    T_INT(ds_count(a), 10);
    for (size_t i = 0; i < 10; i++) {
        static const int want[10] = {
            31, 34, 97, 25, 29, 92, 56, 71, 17, 91
        }; /* the rule of dset.h, computed apart */
        int v = -1;

        T_STR(ds_at(a, i)->article, ds_at(b, i)->article);
        T_INT(sscanf(ds_at(a, i)->article, "%d", &v), 1);
        T_INT(v, want[i]);
        T_INT(seen[v]++, 0); /* without replacement */
    }
    ds_close(b);
    o.shuffle_seed = 4;
    T_OK(ds_open(&b, path, &o, &err), err);
    for (size_t i = 0; i < 10; i++)
        differ += strcmp(ds_at(a, i)->article, ds_at(b, i)->article) != 0;
    T_TRUE(differ > 0);
    ds_close(a);
    ds_close(b);
    /* all of them: a permutation; its ends are a promise to users of the same seed */
    o = (ds_opts){ .rows = 1, .shuffle = 1 };
    T_OK(ds_open(&a, path, &o, &err), err);
    T_INT(ds_count(a), 100);
    memset(seen, 0, sizeof seen);
    for (size_t i = 0; i < 100; i++) {
        int v = -1;

        T_INT(sscanf(ds_at(a, i)->article, "%d", &v), 1);
        T_INT(seen[v]++, 0);
    }
    T_STR(ds_at(a, 0)->article, "2\n");
    T_STR(ds_at(a, 99)->article, "35\n");
    ds_close(a);
}

/* every line is drawn about as often, in every place: 2000 seeds, 3 of 6 */
static void t_shuffle_is_fair(void)
{
    const char *path = numbers(6);
    int count[6][3] = { { 0 } };
    q_err err = { 0 };

    for (uint64_t seed = 0; seed < 2000; seed++) {
        const ds_opts o = { .rows = 1, .shuffle = 1, .max_samples = 3, .shuffle_seed = seed };
        ds_set *set = NULL;

        T_OK(ds_open(&set, path, &o, &err), err);
        for (size_t i = 0; i < 3; i++)
            count[ds_at(set, i)->article[0] - '0'][i]++;
        ds_close(set);
    }
    for (int v = 0; v < 6; v++)
        for (int i = 0; i < 3; i++)
            T_NEAR(count[v][i], 2000 / 6.0, 75); /* 4.5 standard deviations */
}

static void t_truncated(void)
{
    static const char s[] = "{\"id\":\"1\",\"article\":\"a\\\"\\u00e9\",\"highlights\":\"h\"}\n"
                            "{\"article\":\"b\",\"highlights\":\"i\"}\n";
    q_err err = { 0 };

    for (size_t n = 0; n < sizeof s; n++) {
        ds_set *set = NULL;
        const char *first = strchr(s, '\n');
        const size_t one = (size_t)(first - s), all = sizeof s - 2;
        const q_status st = ds_open(&set, file("t.jsonl", s, n), NULL, &err);

        if (n == one || n == one + 1)
            T_INT(ds_count(set), 1);
        else if (n >= all)
            T_INT(ds_count(set), 2);
        else
            T_ERR(st, err, Q_EFORMAT, n < one ? "t.jsonl" : "t.jsonl:2:");
        ds_close(set);
    }
}

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1 /* as gcc has it */
#endif
#endif

/* peak memory; 0 under the address sanitizer, which keeps freed blocks for a while */
static long peak_kb(void)
{
#ifdef __SANITIZE_ADDRESS__
    return 0;
#else
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return u.ru_maxrss;
#endif
}

static void t_limits(void)
{
    const size_t n = DS_LINE_MAX + 2;
    char *p = q_malloc(n);
    const char *path;
    ds_set *set = NULL;
    q_err err = { 0 };

    T_TRUE(p != NULL);
    memset(p, ' ', n);
    p[0] = '{';
    p[n - 1] = '\n';
    path = file("long.jsonl", p, n);
    T_ERR(ds_open(&set, path, NULL, &err), err, Q_EFORMAT,
          "long.jsonl:1: line is longer than 67108864 bytes");
    q_free(p);
}

/* lines that would take gigabytes as a tree are refused before parsing, deep ones by the parser */
static void t_bombs(void)
{
    const size_t n = 8 << 20;
    char *p = q_malloc(n);
    ds_set *set = NULL;
    q_err err = { 0 };
    long before;

    T_TRUE(p != NULL);
    for (size_t i = 0; i < n; i++)
        p[i] = "{},"[i % 3];
    memcpy(p, "{\"a\":[", 6);
    before = peak_kb();
    T_ERR(ds_open(&set, file("bomb.jsonl", p, n), NULL, &err), err, Q_EFORMAT,
          "bomb.jsonl:1: more than 262144 JSON values");
    memset(p, '[', n);
    memcpy(p, "{\"a\":", 5);
    T_ERR(ds_open(&set, file("deep.jsonl", p, 200000), NULL, &err), err, Q_EFORMAT,
          "deep.jsonl:1: line 1 column");
    T_TRUE(peak_kb() - before < 96 * 1024);
    q_free(p);
}

static void t_scan(void)
{
    static const struct {
        const char *text;
        size_t used, values;
        int done;
    } rows[] = {
        { "{}x", 2, 1, 1 },        { "[[{}],1]]", 8, 4, 1 }, { "{\"a\":\"}\\\"}\\\\\"}", 14, 1, 1 },
        { "{\"a\":\"}", 7, 1, 0 }, { "{\"\\", 3, 1, 0 },     { "", 0, 0, 0 },
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const size_t n = strlen(rows[i].text);

        for (size_t cut = 0; cut <= n; cut++) { /* any split gives the same */
            ds_scan s = { 0 };
            size_t used = ds_scan_feed(&s, rows[i].text, cut);

            used += ds_scan_feed(&s, rows[i].text + cut, n - cut);
            T_INT(used, rows[i].used);
            T_INT(s.n_values, rows[i].values);
            T_INT(s.done, rows[i].done);
        }
    }
}

static const t_case cases[] = { T(t_jsonl),
                                T(t_kinds),
                                T(t_refused),
                                T(t_max_stops_reading),
                                T(t_field_text),
                                T(t_join),
                                T(t_shared_files),
                                T(t_wikitext_rows),
                                T(t_shuffle),
                                T(t_shuffle_is_fair),
                                T(t_truncated),
                                T(t_bombs),
                                T(t_limits),
                                T(t_scan),
                                { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
