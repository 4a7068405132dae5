/* Porter stemmer in NLTK's default mode.
 *
 * A word is seen as [C](VC)^m[V], C and V runs of consonants and vowels; m, the measure, says how
 * long it is.  y is a consonant at the start and behind a vowel, else a vowel.  Five steps take off
 * suffixes; in a step the first row of its table whose suffix fits decides, even if its condition
 * then fails.  Deviations from the paper are marked "NLTK" below.
 *
 * No step makes a word longer (a row that adds a letter has removed two or more), so all happens in
 * the caller's buffer.  Time is linear: "alli" can only be reduced to "al" once. */
#include "datasets/porter.h"

#include <string.h>

typedef struct rule {
    const char *suffix, *with;
    int more_than;     /* measure of what is in front of the suffix must be above this */
    size_t keep;       /* letters of the suffix that count as front for the measure */
    const char *after; /* last letter of the front must be one of these, NULL: any */
} rule;

/* Words that the steps would get wrong (NLTK). */
static const char *const irregular[][2] = {
    { "skies", "sky" },       { "sky", "sky" },          { "dying", "die" },
    { "lying", "lie" },       { "tying", "tie" },        { "news", "news" },
    { "innings", "inning" },  { "inning", "inning" },    { "outings", "outing" },
    { "outing", "outing" },   { "cannings", "canning" }, { "canning", "canning" },
    { "howe", "howe" },       { "proceed", "proceed" },  { "exceed", "exceed" },
    { "succeed", "succeed" },
};

static const rule step2_rules[] = {
    { "ational", "ate", 0, 0, NULL }, { "tional", "tion", 0, 0, NULL },
    { "enci", "ence", 0, 0, NULL },   { "anci", "ance", 0, 0, NULL },
    { "izer", "ize", 0, 0, NULL },    { "bli", "ble", 0, 0, NULL },
    { "alli", "al", 0, 0, NULL },     { "entli", "ent", 0, 0, NULL },
    { "eli", "e", 0, 0, NULL },       { "ousli", "ous", 0, 0, NULL },
    { "ization", "ize", 0, 0, NULL }, { "ation", "ate", 0, 0, NULL },
    { "ator", "ate", 0, 0, NULL },    { "alism", "al", 0, 0, NULL },
    { "iveness", "ive", 0, 0, NULL }, { "fulness", "ful", 0, 0, NULL },
    { "ousness", "ous", 0, 0, NULL }, { "aliti", "al", 0, 0, NULL },
    { "iviti", "ive", 0, 0, NULL },   { "biliti", "ble", 0, 0, NULL },
    { "fulli", "ful", 0, 0, NULL }, /* NLTK */
    { "logi", "log", 0, 1, NULL },  /* NLTK: the l counts, so "geologi" but not "logi" */
};

static const rule step3_rules[] = {
    { "icate", "ic", 0, 0, NULL }, { "ative", "", 0, 0, NULL },  { "alize", "al", 0, 0, NULL },
    { "iciti", "ic", 0, 0, NULL }, { "ical", "ic", 0, 0, NULL }, { "ful", "", 0, 0, NULL },
    { "ness", "", 0, 0, NULL },
};

static const rule step4_rules[] = {
    { "al", "", 1, 0, NULL },   { "ance", "", 1, 0, NULL }, { "ence", "", 1, 0, NULL },
    { "er", "", 1, 0, NULL },   { "ic", "", 1, 0, NULL },   { "able", "", 1, 0, NULL },
    { "ible", "", 1, 0, NULL }, { "ant", "", 1, 0, NULL },  { "ement", "", 1, 0, NULL },
    { "ment", "", 1, 0, NULL }, { "ent", "", 1, 0, NULL },  { "ion", "", 1, 0, "st" },
    { "ou", "", 1, 0, NULL },   { "ism", "", 1, 0, NULL },  { "ate", "", 1, 0, NULL },
    { "iti", "", 1, 0, NULL },  { "ous", "", 1, 0, NULL },  { "ive", "", 1, 0, NULL },
    { "ize", "", 1, 0, NULL },
};

#define N_OF(a) (sizeof(a) / sizeof *(a))

static int is_one_of(char c, const char *set)
{
    return c != '\0' && strchr(set, c) != NULL;
}

/* Is w[i] a consonant, given whether w[i - 1] is? */
static int cons_after(const char *w, size_t i, int before)
{
    if (w[i] == 'y')
        return i == 0 || !before;
    return !is_one_of(w[i], "aeiou");
}

static int is_cons(const char *w, size_t i)
{
    size_t y = i; /* first of the run of y's that ends at i */
    int c;

    while (y > 0 && w[y] == 'y')
        y--;
    c = cons_after(w, y, 0);
    while (y < i)
        c = cons_after(w, ++y, c);
    return c;
}

static int measure(const char *w, size_t n)
{
    int m = 0, before = 1;

    for (size_t i = 0; i < n; i++) {
        const int c = cons_after(w, i, before);

        if (c && !before && m < 2) /* nobody asks for more */
            m++;
        before = c;
    }
    return m;
}

static int has_vowel(const char *w, size_t n)
{
    int c = 1;

    for (size_t i = 0; i < n; i++)
        if (!(c = cons_after(w, i, c)))
            return 1;
    return 0;
}

static int ends_double(const char *w, size_t n)
{
    return n >= 2 && w[n - 1] == w[n - 2] && is_cons(w, n - 1);
}

/* Consonant, vowel, consonant that is not w, x or y: "hop".  NLTK: also "op" as a whole word. */
static int ends_cvc(const char *w, size_t n)
{
    if (n == 2)
        return !is_cons(w, 0) && is_cons(w, 1);
    return n >= 3 && is_cons(w, n - 3) && !is_cons(w, n - 2) && is_cons(w, n - 1) &&
           !is_one_of(w[n - 1], "wxy");
}

static int ends(const char *w, size_t n, const char *suffix)
{
    const size_t k = strlen(suffix);

    return n >= k && memcmp(w + n - k, suffix, k) == 0;
}

/* Puts `with` behind the first n letters. */
static size_t put(char *w, size_t n, const char *with)
{
    const size_t k = strlen(with);

    memcpy(w + n, with, k);
    return n + k;
}

static size_t apply(char *w, size_t n, const rule *r, size_t n_rules)
{
    size_t front;

    while (n_rules > 0 && !ends(w, n, r->suffix)) {
        r++;
        n_rules--;
    }
    if (n_rules == 0)
        return n;
    front = n - strlen(r->suffix);
    if (measure(w, front + r->keep) <= r->more_than)
        return n;
    if (r->after && !is_one_of(w[front - 1], r->after)) /* measure > 0: front is not empty */
        return n;
    return put(w, front, r->with);
}

/* plurals */
static size_t step1a(char *w, size_t n)
{
    if (ends(w, n, "ies"))
        return put(w, n - 3, n == 4 ? "ie" : "i"); /* NLTK: "ties" -> "tie" */
    if (ends(w, n, "sses"))
        return n - 2;
    if (ends(w, n, "ss") || !ends(w, n, "s"))
        return n;
    return n - 1;
}

/* past and progressive, and the repair of the front they leave */
static size_t step1b(char *w, size_t n)
{
    size_t front;

    if (ends(w, n, "ied"))
        return put(w, n - 3, n == 4 ? "ie" : "i"); /* NLTK */
    if (ends(w, n, "eed"))
        return measure(w, n - 3) > 0 ? n - 1 : n;
    if (ends(w, n, "ed") && has_vowel(w, n - 2))
        front = n - 2;
    else if (ends(w, n, "ing") && has_vowel(w, n - 3))
        front = n - 3;
    else
        return n;
    if (ends(w, front, "at") || ends(w, front, "bl") || ends(w, front, "iz"))
        return put(w, front, "e");
    if (ends_double(w, front))
        return is_one_of(w[front - 1], "lsz") ? front : front - 1;
    if (measure(w, front) == 1 && ends_cvc(w, front))
        return put(w, front, "e");
    return front;
}

/* NLTK: y -> i behind a consonant that is not the first letter, so "enjoy" and "by" stay */
static size_t step1c(char *w, size_t n)
{
    if (n > 2 && w[n - 1] == 'y' && is_cons(w, n - 2))
        w[n - 1] = 'i';
    return n;
}

static size_t step2(char *w, size_t n)
{
    if (ends(w, n, "alli") && measure(w, n - 4) > 0)
        n -= 2; /* NLTK: "rationalli" -> "rational", and on with the table */
    return apply(w, n, step2_rules, N_OF(step2_rules));
}

static size_t step5(char *w, size_t n)
{
    if (ends(w, n, "e")) {
        const int m = measure(w, n - 1);

        if (m > 1 || (m == 1 && !ends_cvc(w, n - 1)))
            n--;
    }
    if (ends(w, n, "ll") && measure(w, n - 1) > 1)
        n--;
    return n;
}

size_t ds_porter_stem(char *word, size_t n)
{
    for (size_t i = 0; i < N_OF(irregular); i++)
        if (strlen(irregular[i][0]) == n && memcmp(irregular[i][0], word, n) == 0)
            return put(word, 0, irregular[i][1]);
    if (n <= 2)
        return n;
    n = step1a(word, n);
    n = step1b(word, n);
    n = step1c(word, n);
    n = step2(word, n);
    n = apply(word, n, step3_rules, N_OF(step3_rules));
    n = apply(word, n, step4_rules, N_OF(step4_rules));
    return step5(word, n);
}
