/* Text of the summary prompt.
 *
 * The reference appends " TL;DR: ", strips and undoes one habit of the tokenised CNN/DailyMail
 * files ("do n't" -> "don't").  The appended blank is what strip removes at the end, so only the
 * front of the article can lose anything more: leading white space, in the wide sense of Python,
 * which counts Unicode's White_Space (U+00A0, U+3000 ...) and the separators U+001C to U+001F.
 * The replacement comes after the strip, so an article that starts with " n't" keeps "n't". */
#include "datasets/prompt.h"

#include <string.h>

#include "formats/text/unicode.h"

const char ds_prompt_system[] = "You are a useful assistant, please directly output the "
                                "corresponding summary according to the article entered by the "
                                "user.";

static const char *skip_space(const char *s)
{
    uint32_t c;

    while (*s) {
        const size_t k = txt_utf8_next(&c, s, strnlen(s, 4)); /* a character has at most 4 bytes */

        if (txt_class_of(c) != TXT_SPACE && (c < 0x1c || c > 0x1f))
            break;
        s += k;
    }
    return s;
}

q_status ds_prompt_summary(q_buf *out, const char *article, q_err *err)
{
    static const char tail[] = " TL;DR:";
    const char *p = skip_space(article), *hit;
    const int empty = *p == '\0';
    q_status st = Q_OK;

    while ((hit = strstr(p, " n't"))) {
        Q_TRY(q_buf_put(out, p, (size_t)(hit - p), err));
        p = hit + 1; /* the search goes on behind "n't": it cannot hold another match */
        Q_TRY(q_buf_put(out, p, 3, err));
        p += 3;
    }
    Q_TRY(q_buf_puts(out, p, err));
    /* nothing in front of the tail: strip reaches its blank too */
    Q_TRY(q_buf_puts(out, empty ? tail + 1 : tail, err));
out:
    return st;
}
