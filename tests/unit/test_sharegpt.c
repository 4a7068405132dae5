/* ShareGPT reader: records, skips, every refusal, any read size, truncation at every byte, bombs,
 * and memory on a large file. */
#include "datasets/sharegpt.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "datasets/record.h"
#include "formats/base/q_mem.h"
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

/* brackets, quotes, backslashes, commas in strings and keys; a later turn with odd contents */
static const char tricky[] =
    " \n[{\"id\": \"a_1\", \"conversations\": [{\"from\": \"human\", \"value\": \"}]{[,\\\"\\\\\"},"
    " {\"value\": \"x\\u00e9\\ud83d\\ude00\\n\", \"from\": \"gpt\"}, {\"value\": 7}]} ,\r\n"
    "{\"conversations\": []},{\"id\": \"s\", \"conversations\": [{\"value\": \"only\"}]}\t,"
    "{\"}\\\\\": [[[\"]\"]], {}], \"conversations\": [{\"value\": \"\"}, {\"value\": \"b\"}]},"
    "{\"id\": -5, \"conversations\": [{\"value\": \"c\"}, {\"value\": \"d\"}]}]\n ";

/* all records as one text */
static q_status read_all(q_buf *out, const char *path, size_t read_bytes, uint64_t *skipped,
                         q_err *err)
{
    const ds_share_opts o = { .read_bytes = read_bytes };
    q_status st = Q_OK;
    ds_share *s = NULL;
    const ds_turns *t;

    q_buf_clear(out);
    Q_TRY(ds_share_open(&s, path, &o, err));
    for (;;) {
        Q_TRY(ds_share_next(s, &t, err));
        if (!t)
            break;
        Q_TRY(q_buf_printf(out, err, "%llu %s<%s|%s>\n", (unsigned long long)t->number, t->id,
                           t->prompt, t->answer));
    }
    Q_TRY(ds_share_next(s, &t, err)); /* the end stays the end */
    T_TRUE(t == NULL);
    *skipped = ds_share_skipped(s);
out:
    ds_share_close(s);
    return st;
}

static void t_records(void)
{
    const char *path = file("a.json", tricky, strlen(tricky));
    q_buf out = { 0 };
    q_err err = { 0 };
    uint64_t skipped = 0;

    for (size_t step = 0; step <= sizeof tricky + 1; step++) { /* 0: the default */
        T_OK(read_all(&out, path, step, &skipped, &err), err);
        T_STR(out.data, "1 a_1<}]{[,\"\\|x\xc3\xa9\xf0\x9f\x98\x80\n>\n4 4<|b>\n5 -5<c|d>\n");
        T_INT(skipped, 2);
    }
    q_buf_free(&out);
}

static void t_counts(void)
{
    ds_share *s = NULL;
    const ds_turns *t;
    q_err err = { 0 };

    T_OK(ds_share_open(&s, file("a.json", tricky, strlen(tricky)), NULL, &err), err);
    T_INT(ds_share_seen(s), 0);
    T_OK(ds_share_next(s, &t, &err), err);
    T_STR(t->id, "a_1");
    T_INT(ds_share_seen(s), 1);
    T_OK(ds_share_next(s, &t, &err), err);
    T_STR(t->answer, "b");
    T_INT(ds_share_seen(s), 4);
    T_INT(ds_share_skipped(s), 2);
    ds_share_close(s);
    ds_share_close(NULL);
}

static void t_empty_array(void)
{
    q_buf out = { 0 };
    q_err err = { 0 };
    uint64_t skipped = 9;

    T_OK(read_all(&out, file("e.json", "\xef\xbb\xbf[ ]", 6), 1, &skipped, &err), err);
    T_INT(out.size, 0);
    T_OK(read_all(&out, file("e.json", "[]", 2), 0, &skipped, &err), err);
    T_INT(out.size, 0);
    T_INT(skipped, 0);
    q_buf_free(&out);
}

#define GOOD "{\"conversations\": [{\"value\": \"p\"}, {\"value\": \"a\"}]}"

static void t_refused(void)
{
    static const struct {
        const char *content, *part;
    } rows[] = {
        { "", "e.json: ends at byte 0 before the array is closed: fetch it again" },
        { "[", "e.json: ends at byte 1 before the array is closed" },
        { "[" GOOD, "ends at byte 52 before" },
        { "[" GOOD ",", "ends at byte 53 before" },
        { "[" GOOD ",{\"a\": [", "e.json: record 2 (byte 53) is cut off by the end of the file" },
        { GOOD, "byte 0 is '{', wanted '[': a ShareGPT file is one JSON array" },
        { "\x1f\x8b", "byte 0 is 0x1f, wanted '['" },
        { "[1]", "byte 1 is '1', wanted '{' or ']'" },
        { "[,", "byte 1 is ',', wanted '{' or ']'" },
        { "[" GOOD GOOD "]", "byte 52 is '{', wanted ',' or ']'" },
        { "[" GOOD ",]", "byte 53 is ']', wanted '{'" },
        { "[" GOOD "] x", "byte 54 is 'x', wanted nothing behind the array" },
        { "[" GOOD "]]", "byte 53 is ']', wanted nothing" },
        { "[" GOOD ", {\"a\": 1}]", "record 2 (byte 54): no array 'conversations'" },
        { "[{\"conversations\": {}}]", "record 1 (byte 1): no array 'conversations'" },
        { "[{\"conversations\": [1, 2]}]",
          "record 1 (byte 1): conversations[0] has no text 'value'" },
        { "[{\"conversations\": [{\"value\": \"\"}, {\"value\": null}]}]",
          "record 1 (byte 1): conversations[1] has no text 'value'" },
        { "[{\"conversations\": [{\"value\": \"\"}, {}]}]",
          "conversations[1] has no text 'value'" },
        { "[{\"id\": [], \"conversations\": [{\"value\": \"\"}, {\"value\": \"\"}]}]",
          "record 1 (byte 1): 'id' is neither a string nor an integer" },
        { "[{]}]", "record 1 (byte 1): line 1 column" },
        { "[{\"a\": \"\xff\"}]", "record 1 (byte 1): line 1 column" },
        { "[{\"a\": 1, \"a\": 1}]", "record 1 (byte 1): line 1 column" },
        { "[{\"a\": \"\\u0000\"}]", "record 1 (byte 1): line 1 column" },
    };
    q_buf out = { 0 };
    q_err err = { 0 };
    uint64_t skipped;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t step = 0; step < 3; step++) {
            const char *path = file("e.json", rows[i].content, strlen(rows[i].content));

            T_ERR(read_all(&out, path, step, &skipped, &err), err, Q_EFORMAT, rows[i].part);
        }
    T_ERR(read_all(&out, "/nonexistent/s.json", 0, &skipped, &err), err, Q_ENOINPUT, "s.json");
    q_buf_free(&out);
}

static void t_stops_after_an_error(void)
{
    static const char s[] = "[{]}, " GOOD "]";
    ds_share *h = NULL;
    const ds_turns *t;
    q_err err = { 0 };

    T_OK(ds_share_open(&h, file("b.json", s, strlen(s)), NULL, &err), err);
    T_ERR(ds_share_next(h, &t, &err), err, Q_EFORMAT, "record 1");
    T_TRUE(t == NULL);
    T_ERR(ds_share_next(h, &t, &err), err, Q_EFORMAT, "b.json: not read further after an error");
    ds_share_close(h);
}

/* cut anywhere: only the whole file (without its last blanks) is good */
static void t_truncated(void)
{
    const size_t closed = (size_t)(strrchr(tricky, ']') - tricky) + 1;
    q_buf out = { 0 };
    q_err err = { 0 };
    uint64_t skipped;

    for (size_t n = 0; n < sizeof tricky; n++) {
        const char *path = file("t.json", tricky, n);

        if (n >= closed)
            T_OK(read_all(&out, path, n % 7, &skipped, &err), err);
        else
            T_ERR(read_all(&out, path, n % 7, &skipped, &err), err, Q_EFORMAT, "fetch it again");
    }
    q_buf_free(&out);
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

/* 64 MB of records of up to 100 KB stay inside a few MB */
static void t_memory(void)
{
    char path[256], *pad = q_malloc(100000);
    FILE *f;
    ds_share *s = NULL;
    const ds_turns *t;
    q_err err = { 0 };
    q_buf rec = { 0 };
    long before;
    int n = 0;

    T_TRUE(pad != NULL);
    memset(pad, '[', 100000);
    snprintf(path, sizeof path, "%s/big.json", t_tmpdir());
    f = fopen(path, "wb");
    T_TRUE(f != NULL);
    for (int i = 0; i < 1200; i++) {
        q_buf_clear(&rec);
        T_OK(q_buf_printf(&rec, &err,
                          "%c{\"id\": %d, \"conversations\": [{\"value\": \"%.*s\"}, {\"value\": "
                          "\"x\"}]}",
                          i ? ',' : '[', i, i * 7919 % 100000, pad),
             err);
        T_INT(fwrite(rec.data, 1, rec.size, f), rec.size);
    }
    fputc(']', f);
    T_INT(fclose(f), 0);
    before = peak_kb();
    T_OK(ds_share_open(&s, path, NULL, &err), err);
    for (;; n++) {
        T_OK(ds_share_next(s, &t, &err), err);
        if (!t)
            break;
        T_INT(strlen(t->prompt), n * 7919 % 100000);
    }
    T_INT(n, 1200);
    T_TRUE(peak_kb() - before < 8 * 1024);
    ds_share_close(s);
    q_buf_free(&rec);
    q_free(pad);
}

static void t_bombs(void)
{
    const size_t n = DS_SHARE_RECORD_MAX + (1 << 20);
    char *p = q_malloc(n);
    q_buf out = { 0 };
    q_err err = { 0 };
    uint64_t skipped;
    long before;

    T_TRUE(p != NULL);
    memset(p, '[', n); /* brackets: too many values, found in the first MB */
    p[1] = '{';
    before = peak_kb();
    T_ERR(read_all(&out, file("b.json", p, n), 0, &skipped, &err), err, Q_EFORMAT,
          "record 1 (byte 1): more than 262144 JSON values");
    /* fewer brackets: the parser's depth limit */
    T_ERR(read_all(&out, file("d.json", p, 200000), 0, &skipped, &err), err, Q_EFORMAT,
          "record 1 (byte 1) is cut off");
    memset(p + 100000, ']', 100000);
    p[199998] = '}';
    T_ERR(read_all(&out, file("d.json", p, 200000), 0, &skipped, &err), err, Q_EFORMAT,
          "record 1 (byte 1): line 1 column");
    T_TRUE(peak_kb() - before < 64 * 1024);
    memset(p, 'x', n); /* one endless string */
    memcpy(p, "[{\"a\": \"", 8);
    T_ERR(read_all(&out, file("s.json", p, n), 0, &skipped, &err), err, Q_EFORMAT,
          "record 1 (byte 1): longer than 16777216 bytes");
    q_free(p);
    q_buf_free(&out);
}

static const t_case cases[] = { T(t_records), T(t_counts),    T(t_empty_array),
                                T(t_refused), T(t_truncated), T(t_stops_after_an_error),
                                T(t_memory),  T(t_bombs),     { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
