/* Porter stemmer: documented examples, one word per rule and per NLTK change, and a table of words
 * with the stems of NLTK (tests/golden/rouge_gold.jsonl). */
#include "datasets/porter.h"

#include <string.h>

#include "datasets/lines.h"
#include "formats/json.h"
#include "tests/t.h"

static const char *stem(const char *word)
{
    static char buf[128];
    const size_t n = strlen(word);

    if (n >= sizeof buf)
        t_fail(__FILE__, __LINE__, "%s is too long for the test", word);
    memcpy(buf, word, n);
    buf[ds_porter_stem(buf, n)] = '\0';
    return buf;
}

static void t_rules(void)
{
    static const char *const rows[][2] = {
        /* short words stay */
        { "", "" },
        { "a", "a" },
        { "by", "by" },
        { "is", "is" },
        /* 1a */
        { "caresses", "caress" },
        { "ponies", "poni" },
        { "ties", "tie" },
        { "caress", "caress" },
        { "cats", "cat" },
        { "ies", "i" },
        { "flies", "fli" },
        /* 1b */
        { "feed", "feed" },
        { "agreed", "agre" },
        { "plastered", "plaster" },
        { "bled", "bled" },
        { "motoring", "motor" },
        { "sing", "sing" },
        { "conflated", "conflat" },
        { "troubled", "troubl" },
        { "sized", "size" },
        { "hopping", "hop" },
        { "tanned", "tan" },
        { "falling", "fall" },
        { "hissing", "hiss" },
        { "fizzed", "fizz" },
        { "failing", "fail" },
        { "filing", "file" },
        { "died", "die" },
        { "spied", "spi" },
        { "owed", "owe" },
        /* 1c: y behind a consonant only */
        { "happy", "happi" },
        { "enjoy", "enjoy" },
        { "sky", "sky" },
        { "cry", "cri" },
        /* 2 */
        { "relational", "relat" },
        { "conditional", "condit" },
        { "rational", "ration" },
        { "valenci", "valenc" },
        { "digitizer", "digit" },
        { "conformabli", "conform" },
        { "radicalli", "radic" },
        { "differentli", "differ" },
        { "vileli", "vile" },
        { "analogousli", "analog" },
        { "vietnamization", "vietnam" },
        { "predication", "predic" },
        { "operator", "oper" },
        { "feudalism", "feudal" },
        { "decisiveness", "decis" },
        { "hopefulness", "hope" },
        { "callousness", "callous" },
        { "formaliti", "formal" },
        { "sensitiviti", "sensit" },
        { "sensibiliti", "sensibl" },
        { "hopefulli", "hope" },
        { "geologi", "geolog" },
        { "logi", "logi" },
        { "ationalli", "ation" },
        /* 3 */
        { "triplicate", "triplic" },
        { "formative", "form" },
        { "formalize", "formal" },
        { "electriciti", "electr" },
        { "electrical", "electr" },
        { "goodness", "good" },
        /* 4 */
        { "revival", "reviv" },
        { "allowance", "allow" },
        { "inference", "infer" },
        { "airliner", "airlin" },
        { "gyroscopic", "gyroscop" },
        { "adjustable", "adjust" },
        { "defensible", "defens" },
        { "irritant", "irrit" },
        { "replacement", "replac" },
        { "adjustment", "adjust" },
        { "dependent", "depend" },
        { "adoption", "adopt" },
        { "homologou", "homolog" },
        { "communism", "commun" },
        { "activate", "activ" },
        { "angulariti", "angular" },
        { "homologous", "homolog" },
        { "effective", "effect" },
        { "bowdlerize", "bowdler" },
        { "champion", "champion" },
        /* 5 */
        { "probate", "probat" },
        { "rate", "rate" },
        { "cease", "ceas" },
        { "controll", "control" },
        { "roll", "roll" },
        /* irregular */
        { "skies", "sky" },
        { "dying", "die" },
        { "lying", "lie" },
        { "tying", "tie" },
        { "news", "news" },
        { "innings", "inning" },
        { "outings", "outing" },
        { "cannings", "canning" },
        { "howe", "howe" },
        { "proceed", "proceed" },
        { "exceed", "exceed" },
        { "succeed", "succeed" },
        /* digits are consonants */
        { "1990s", "1990" },
        { "x2ing", "x2ing" },
        { "a1ed", "a1e" },
        { "2000", "2000" },
        /* runs of y take turns */
        { "yyyying", "yyyi" },
        { "syzygy", "syzygi" },
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        T_STR(stem(rows[i][0]), rows[i][1]);
}

/* next word of *text, blank-separated, as a copy in out */
static int next_word(const char **text, char *out, size_t size)
{
    const size_t n = strcspn(*text, " ");

    if (n == 0 || n >= size)
        return 0;
    memcpy(out, *text, n);
    out[n] = '\0';
    *text += n + ((*text)[n] == ' ');
    return 1;
}

static void t_gold(void)
{
    ds_lines r = { 0 };
    q_err err = { 0 };
    fmt_json *doc = NULL;
    int more = 1, n = 0;
    char word[64], want[64];

    T_OK(ds_lines_open(&r, "tests/golden/rouge_gold.jsonl", &err), err);
    for (;;) {
        const char *words = NULL, *stems = NULL;

        T_OK(ds_lines_next(&r, &more, &err), err);
        if (!more)
            break;
        T_OK(fmt_json_parse(&doc, r.line.data, r.line.size, "gold", &err), err);
        T_OK(fmt_json_str_opt(doc, "words", &words, &err), err);
        T_OK(fmt_json_str_opt(doc, "stems", &stems, &err), err);
        while (words && next_word(&words, word, sizeof word)) {
            T_TRUE(next_word(&stems, want, sizeof want));
            T_STR(stem(word), want);
            n++;
        }
        fmt_json_free(doc);
    }
    ds_lines_close(&r);
    T_INT(n, 2416);
}

/* any text in, nothing longer out, and stems of long runs in linear time */
static void t_long_words(void)
{
    static char buf[1 << 20];
    static const char *const parts[] = { "y", "alli", "s", "eed", "ational", "ing", "e" };

    for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) {
        const size_t len = strlen(parts[k]);
        size_t n = 0;

        while (n + len <= sizeof buf) {
            memcpy(buf + n, parts[k], len);
            n += len;
        }
        T_TRUE(ds_porter_stem(buf, n) <= n);
    }
}

static const t_case cases[] = { T(t_rules), T(t_gold), T(t_long_words), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
