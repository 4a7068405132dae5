/* ROUGE: Google's published values, scores of rouge_score on made-up texts (tests/golden), cases by
 * hand, limits, and the aggregate. */
#include "datasets/rouge.h"

#include <stdio.h>
#include <string.h>

#include "datasets/lines.h"
#include "datasets/stats.h"
#include "formats/base/q_file.h"
#include "formats/json.h"
#include "tests/t.h"

static ds_rouge score(const char *target, const char *prediction, unsigned flags)
{
    ds_rouge s;
    q_err err = { 0 };

    T_OK(ds_rouge_score(&s, target, strlen(target), prediction, strlen(prediction), flags, &err),
         err);
    return s;
}

/* recall hits/n_t, precision hits/n_p */
static void check(const ds_rouge *s, ds_rouge_type t, int hits, int n_t, int n_p)
{
    const double r = (double)hits / n_t, p = (double)hits / n_p;

    T_NEAR(s->v[t][DS_R], r, 1e-12);
    T_NEAR(s->v[t][DS_P], p, 1e-12);
    T_NEAR(s->v[t][DS_F], hits ? 2 * p * r / (p + r) : 0, 1e-12);
}

static void t_google_pairs(void)
{
    static const struct {
        int line;
        unsigned flags;
        int hits1, hits2, hits_l, n_t, n_p;
    } rows[] = {
        { 0, 0, 11, 8, 11, 27, 16 },
        { 0, DS_ROUGE_STEM, 11, 8, 11, 27, 16 },
        { 1, 0, 17, 12, 17, 42, 26 },
        { 1, DS_ROUGE_STEM, 18, 12, 18, 42, 26 },
    };
    q_buf t = { 0 }, p = { 0 };
    q_err err = { 0 };

    T_OK(q_file_slurp(&t, T_SHARED("data/rouge/target.txt"), 1 << 20, &err), err);
    T_OK(q_file_slurp(&p, T_SHARED("data/rouge/prediction.txt"), 1 << 20, &err), err);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *ta = t.data, *pa = p.data;
        ds_rouge s;

        for (int k = 0; k < rows[i].line; k++) {
            ta = strchr(ta, '\n') + 1;
            pa = strchr(pa, '\n') + 1;
        }
        T_OK(ds_rouge_score(&s, ta, strcspn(ta, "\n"), pa, strcspn(pa, "\n"), rows[i].flags, &err),
             err);
        check(&s, DS_ROUGE_1, rows[i].hits1, rows[i].n_t, rows[i].n_p);
        check(&s, DS_ROUGE_2, rows[i].hits2, rows[i].n_t - 1, rows[i].n_p - 1);
        check(&s, DS_ROUGE_L, rows[i].hits_l, rows[i].n_t, rows[i].n_p);
    }
    q_buf_free(&t);
    q_buf_free(&p);
}

static void t_google_multi(void)
{
    q_buf t = { 0 }, p = { 0 };
    q_err err = { 0 };

    T_OK(q_file_slurp(&t, T_SHARED("data/rouge/target_multi.0.txt"), 1 << 20, &err), err);
    T_OK(q_file_slurp(&p, T_SHARED("data/rouge/prediction_multi.0.txt"), 1 << 20, &err), err);
    for (unsigned stem = 0; stem < 2; stem++) {
        const ds_rouge s = score(t.data, p.data, stem ? DS_ROUGE_STEM : 0);

        check(&s, DS_ROUGE_1, stem ? 38 : 37, 104, 57);
        check(&s, DS_ROUGE_2, 25, 103, 56);
        check(&s, DS_ROUGE_LSUM, stem ? 38 : 37, 104, 57);
    }
    q_buf_free(&t);
    q_buf_free(&p);
}

static void t_by_hand(void)
{
    ds_rouge s = score("w1 w2 w3 w4 w5", "w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5", 0);

    check(&s, DS_ROUGE_1, 4, 5, 10);
    check(&s, DS_ROUGE_2, 1, 4, 9);
    check(&s, DS_ROUGE_L, 4, 5, 10);
    check(&s, DS_ROUGE_LSUM, 4, 5, 10);
    /* a token of the target may be in both LCS, but the prediction has it once */
    s = score("a b\na b", "a b", 0);
    check(&s, DS_ROUGE_LSUM, 2, 4, 2);
    /* order: the LCS of all is shorter than that of the lines */
    s = score("a b\nc d", "c d\na b", 0);
    check(&s, DS_ROUGE_L, 2, 4, 4);
    check(&s, DS_ROUGE_LSUM, 4, 4, 4);
    /* clipped counts */
    s = score("a a a b", "a b b", 0);
    check(&s, DS_ROUGE_1, 2, 4, 3);
    check(&s, DS_ROUGE_2, 1, 3, 2);
    /* one token: no bigram, so 0 and not 1 */
    s = score("a", "A!", 0);
    check(&s, DS_ROUGE_1, 1, 1, 1);
    check(&s, DS_ROUGE_2, 0, 1, 1);
}

static void t_tokens(void)
{
    static const struct {
        const char *target, *prediction;
        unsigned flags;
        double f1;
    } rows[] = {
        { "Don't", "don t", 0, 1 },
        { "x1.5,y", "X1 5 Y", 0, 1 },
        { "", "", 0, 0 },
        { "", "a", 0, 0 },
        { "...", "!", 0, 0 },
        { "caf\xc3\xa9s", "caf s", 0, 1 },
        { "\xe2\x84\xaag", "kg", 0, 1 }, /* KELVIN SIGN lower-cases to k */
        { "A\xc4\xb0"
          "B",
          "ai b", 0, 1 },          /* I WITH DOT ABOVE: i and a combining dot */
        { "\xe2\x84", "k", 0, 0 }, /* cut short */
        { "\xff\xfe"
          "a\xc3",
          "a", 0, 1 }, /* invalid UTF-8 separates */
        { "runs", "run", 0, 0 },
        { "runs", "run", DS_ROUGE_STEM, 1 },
        { "was", "wa", DS_ROUGE_STEM, 0 }, /* three letters are not stemmed */
        { "\xe4\xb8\xad\xe6\x96\x87", "\xe4\xb8\xad\xe6\x96\x87", 0, 0 },
        { "\xe4\xb8\xad\xe6\x96\x87", "\xe4\xb8\xad", DS_ROUGE_CJK, 2.0 / 3 },
        { "a\xe4\xb8\xad"
          "b",
          "b \xe4\xb8\xad a", DS_ROUGE_CJK, 1 },
        { "\xf0\xa0\x80\x80", "\xf0\xa0\x80\x80", DS_ROUGE_CJK, 1 },
        { "\xef\xbc\x8c", "\xef\xbc\x8c", DS_ROUGE_CJK, 0 }, /* full-width comma */
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const ds_rouge s = score(rows[i].target, rows[i].prediction, rows[i].flags);

        if (s.v[DS_ROUGE_1][DS_F] != rows[i].f1)
            t_fail(__FILE__, __LINE__, "row %zu: F1 %.17g, wanted %.17g", i, s.v[DS_ROUGE_1][DS_F],
                   rows[i].f1);
    }
}

static void t_nul_is_a_separator(void)
{
    ds_rouge s;
    q_err err = { 0 };

    T_OK(ds_rouge_score(&s, "a\0b", 3, "a b", 3, 0, &err), err);
    check(&s, DS_ROUGE_2, 1, 1, 1);
    T_OK(ds_rouge_score(&s, NULL, 0, NULL, 0, 0, &err), err);
    T_NEAR(s.v[DS_ROUGE_L][DS_F], 0, 0);
}

static void check_gold(const fmt_json *doc, const char *key, unsigned flags)
{
    const fmt_json *want = fmt_json_get(doc, key), *target = fmt_json_get(doc, "target");
    q_buf text = { 0 };
    q_err err = { 0 };
    const ds_rouge s =
        score(fmt_json_text(target), fmt_json_text(fmt_json_get(doc, "prediction")), flags);
    const char *p;

    T_OK(fmt_json_print(&text, want, 0, &err), err);
    p = text.data + 1;
    for (int t = 0; t < DS_ROUGE_TYPES; t++)
        for (int k = 0; k < DS_ROUGE_PARTS; k++) {
            double v;
            int used;

            T_INT(sscanf(p, "%lf%n", &v, &used), 1);
            p += used + 1;
            if (!(s.v[t][k] - v <= 1e-12 && v - s.v[t][k] <= 1e-12))
                t_fail(__FILE__, __LINE__, "%s, %s part %d: %.17g, wanted %.17g, target \"%s\"",
                       key, ds_rouge_name((ds_rouge_type)t), k, s.v[t][k], v,
                       fmt_json_text(target));
        }
    q_buf_free(&text);
}

static void t_gold(void)
{
    ds_lines r = { 0 };
    q_err err = { 0 };
    fmt_json *doc = NULL;
    int more = 1, n = 0;

    T_OK(ds_lines_open(&r, "tests/golden/rouge_gold.jsonl", &err), err);
    for (;;) {
        T_OK(ds_lines_next(&r, &more, &err), err);
        if (!more)
            break;
        T_OK(fmt_json_parse(&doc, r.line.data, r.line.size, "gold", &err), err);
        if (fmt_json_get(doc, "target")) {
            check_gold(doc, "plain", 0);
            check_gold(doc, "stem", DS_ROUGE_STEM);
            n++;
        }
        fmt_json_free(doc);
    }
    ds_lines_close(&r);
    T_INT(n, 130);
}

/* "a a a ...": n tokens */
static char *repeat(size_t n)
{
    char *s = q_malloc(2 * n + 1);

    for (size_t i = 0; s && i < n; i++)
        memcpy(s + 2 * i, "a ", 2);
    if (s)
        s[2 * n] = '\0';
    return s;
}

static void t_limits(void)
{
    char *a = repeat(16384), *b = repeat(16385);
    ds_rouge s;
    q_err err = { 0 };

    T_TRUE(a && b);
    T_ERR(ds_rouge_score(&s, a, strlen(a), b, strlen(b), 0, &err), err, Q_ESHAPE,
          "16384 target tokens x 16385 prediction tokens, at most 268435456 cells");
    T_ERR(ds_rouge_score(&s, a, (size_t)1 << 31, b, 1, 0, &err), err, Q_ESHAPE, "at most 2 GiB");
    T_ERR(ds_rouge_score(&s, "a", 1, "a", 1, 4, &err), err, Q_EARG, "unknown flags 0x4");
    /* 10 000 x 10 000 is scored: row by row, and one bit per cell for Lsum */
    T_OK(ds_rouge_score(&s, a, 20000, b, 20000, 0, &err), err);
    T_NEAR(s.v[DS_ROUGE_LSUM][DS_F], 1, 0);
    T_NEAR(s.v[DS_ROUGE_L][DS_F], 1, 0);
    q_free(a);
    q_free(b);
}

/* half a million lines without tokens must not become 500 000^2 sentence pairs */
static void t_empty_lines(void)
{
    const size_t n = 1 << 20;
    char *a = q_malloc(n + 1);
    ds_rouge s;
    q_err err = { 0 };

    T_TRUE(a != NULL);
    memset(a, '\n', n);
    a[n - 1] = 'x';
    T_OK(ds_rouge_score(&s, a, n, a, n, 0, &err), err);
    check(&s, DS_ROUGE_LSUM, 1, 1, 1);
    q_free(a);
}

static void t_aggregate(void)
{
    ds_rouge v[4] = { 0 };
    ds_rouge_mean m, again, other;
    q_err err = { 0 };

    for (int i = 0; i < 4; i++)
        for (int t = 0; t < DS_ROUGE_TYPES; t++)
            for (int k = 0; k < DS_ROUGE_PARTS; k++)
                v[i].v[t][k] = i + t * 10 + k * 100;
    T_OK(ds_rouge_aggregate(&m, v, 4, 7, &err), err);
    for (int t = 0; t < DS_ROUGE_TYPES; t++)
        for (int k = 0; k < DS_ROUGE_PARTS; k++) {
            const double shift = t * 10 + k * 100;

            T_NEAR(m.mean.v[t][k], 1.5 + shift, 1e-12);
            /* one draw for all: every column is the first one shifted */
            T_NEAR(m.low.v[t][k] - shift, m.low.v[0][0], 1e-9);
            T_NEAR(m.mid.v[t][k] - shift, m.mid.v[0][0], 1e-9);
            T_NEAR(m.high.v[t][k] - shift, m.high.v[0][0], 1e-9);
        }
    /* means of 4 draws from {0, 1, 2, 3}: standard deviation 0.559 */
    T_NEAR(m.mid.v[0][0], 1.5, 0.1);
    T_NEAR(m.low.v[0][0], 0.5, 0.13);
    T_NEAR(m.high.v[0][0], 2.5, 0.13);
    T_OK(ds_rouge_aggregate(&again, v, 4, 7, &err), err);
    T_INT(memcmp(&m, &again, sizeof m), 0);
    for (int i = 0; i < 4; i++)
        v[i].v[0][0] = 0.1 * i * i;
    T_OK(ds_rouge_aggregate(&m, v, 4, 7, &err), err);
    T_OK(ds_rouge_aggregate(&other, v, 4, 8, &err), err);
    T_TRUE(memcmp(&m, &other, sizeof m) != 0);
    /* one score: nothing to vary */
    T_OK(ds_rouge_aggregate(&m, v + 3, 1, 0, &err), err);
    T_NEAR(m.low.v[0][0], v[3].v[0][0], 0);
    T_NEAR(m.high.v[0][0], v[3].v[0][0], 0);
    T_ERR(ds_rouge_aggregate(&m, v, 0, 0, &err), err, Q_EARG, "no scores");
}

static void t_names(void)
{
    T_STR(ds_rouge_name(DS_ROUGE_1), "rouge1");
    T_STR(ds_rouge_name(DS_ROUGE_2), "rouge2");
    T_STR(ds_rouge_name(DS_ROUGE_L), "rougeL");
    T_STR(ds_rouge_name(DS_ROUGE_LSUM), "rougeLsum");
    T_STR(ds_rouge_name(DS_ROUGE_TYPES), "?");
}

/* SplitMix64 from state 0 and 1234567: the published first outputs */
static void t_rng(void)
{
    ds_rng r = { 0 };
    int seen[7] = { 0 };

    T_TRUE(ds_rng_next(&r) == UINT64_C(0xe220a8397b1dcdaf));
    T_TRUE(ds_rng_next(&r) == UINT64_C(0x6e789e6aa1b965f4));
    T_TRUE(ds_rng_next(&r) == UINT64_C(0x06c45d188009454f));
    r.state = 1234567;
    T_TRUE(ds_rng_next(&r) == UINT64_C(6457827717110365317));
    T_INT(ds_rng_below(&r, 1), 0);
    for (int i = 0; i < 7000; i++)
        seen[ds_rng_below(&r, 7)]++;
    for (int i = 0; i < 7; i++)
        T_NEAR(seen[i], 1000, 120);
    T_TRUE(ds_rng_below(&r, UINT64_MAX) < UINT64_MAX);
}

static const t_case cases[] = {
    T(t_google_pairs),       T(t_google_multi), T(t_by_hand), T(t_tokens),
    T(t_nul_is_a_separator), T(t_gold),         T(t_limits),  T(t_empty_lines),
    T(t_aggregate),          T(t_names),        T(t_rng),     { 0 }
};

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
