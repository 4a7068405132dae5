/* Summary prompt: what Python's  (article + " TL;DR: ").strip().replace(" n't", "n't")  gives. */
#include "datasets/prompt.h"

#include <string.h>

#include "tests/t.h"

static void t_summary(void)
{
    static const char *const rows[][2] = {
        { "One.", "One. TL;DR:" },
        { "", "TL;DR:" },
        { " \t\r\n", "TL;DR:" },
        { "  One. ", "One.  TL;DR:" }, /* blanks of the article stay in front of the tail */
        { "One.\n", "One.\n TL;DR:" },
        { "do n't, ca n't", "don't, can't TL;DR:" },
        { "x n't n't", "xn'tn't TL;DR:" },
        { "x  n't", "x n't TL;DR:" },   /* one pass: the new \" n't\" stays */
        { " n't go", "n't go TL;DR:" }, /* strip comes first */
        { "is n'", "is n' TL;DR:" },
        { "isn't", "isn't TL;DR:" },
        { "\xc2\xa0\xe3\x80\x80One", "One TL;DR:" },         /* U+00A0, U+3000 */
        { "\x1c\x1f\xc2\x85\xe2\x80\xa8One", "One TL;DR:" }, /* U+001C, U+001F, U+0085, U+2028 */
        { "\xe1\x9a\x80\xe2\x80\x8a\xe2\x80\xaf\xe2\x81\x9fOne", "One TL;DR:" },
        { "\xe2\x80\x8bOne", "\xe2\x80\x8bOne TL;DR:" }, /* ZERO WIDTH SPACE is not white space */
        { "\xef\xbb\xbfOne", "\xef\xbb\xbfOne TL;DR:" },
        { "\x1bOne", "\x1bOne TL;DR:" },
        { "\xa0One", "\xa0One TL;DR:" }, /* not UTF-8: kept */
        { "\xe4\xb8\xad\xe6\x96\x87", "\xe4\xb8\xad\xe6\x96\x87 TL;DR:" },
    };
    q_buf out = { 0 };
    q_err err = { 0 };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        q_buf_clear(&out);
        T_OK(ds_prompt_summary(&out, rows[i][0], &err), err);
        T_STR(out.data, rows[i][1]);
    }
    q_buf_free(&out);
}

static void t_appends(void)
{
    q_buf out = { 0 };
    q_err err = { 0 };

    T_OK(q_buf_puts(&out, "> ", &err), err);
    T_OK(ds_prompt_summary(&out, " a", &err), err);
    T_STR(out.data, "> a TL;DR:");
    q_buf_free(&out);
}

static void t_system(void)
{
    T_STR(ds_prompt_system, "You are a useful assistant, please directly output the corresponding "
                            "summary according to the article entered by the user.");
}

static const t_case cases[] = { T(t_summary), T(t_appends), T(t_system), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
