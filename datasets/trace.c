/* A CSV reader for two columns of whole numbers.  Fields are cut in place in the text of the file:
 * the separator becomes the end of a string. */
#include "datasets/trace.h"

#include <string.h>
#include <strings.h>

#include "formats/base/q_file.h"

#define MAX_TOKENS 100000000

static const char *const names[][2] = { { "ContextTokens", "GeneratedTokens" },
                                        { "prompt_tokens", "output_tokens" },
                                        { "input_len", "output_len" } };

/* The next field of a line; *p is NULL after the last one. */
static char *next_field(char **p)
{
    char *f = *p, *end;

    if (*f == '"') {
        end = strchr(++f, '"');
        if (end)
            *end++ = '\0';
        end = end ? strchr(end, ',') : NULL;
    } else {
        end = strchr(f, ',');
    }
    *p = end ? end + 1 : NULL;
    if (end)
        *end = '\0';
    return f;
}

/* The next line, without its end; NULL behind the last one. */
static char *next_line(char **at)
{
    char *line = *at, *end;

    if (!*line)
        return NULL;
    end = line + strcspn(line, "\r\n");
    *at = end;
    if (end[0] == '\r' && end[1] == '\n')
        *at = end + 2;
    else if (*end)
        *at = end + 1;
    *end = '\0';
    return line;
}

static q_status find_columns(int column[2], const char *path, char *line, q_err *err)
{
    const size_t n_names = sizeof names / sizeof names[0];
    int at[sizeof names / sizeof names[0]][2];
    char *p = line;

    for (size_t i = 0; i < n_names; i++)
        at[i][0] = at[i][1] = -1;
    for (int c = 0; p; c++) {
        const char *f = next_field(&p);

        for (size_t i = 0; i < 2 * n_names; i++)
            if (strcasecmp(f, names[i / 2][i % 2]) == 0)
                at[i / 2][i % 2] = c;
    }
    for (size_t i = 0; i < n_names; i++)
        if (at[i][0] >= 0 && at[i][1] >= 0) {
            memcpy(column, at[i], sizeof at[i]);
            return Q_OK;
        }
    return q_fail(err, Q_EFORMAT,
                  "%s: the first line names neither the columns ContextTokens and GeneratedTokens, "
                  "prompt_tokens and output_tokens, nor input_len and output_len",
                  path);
}

static int number_of(int64_t *out, const char *text)
{
    int64_t v = 0;

    if (!*text)
        return 0;
    for (; *text >= '0' && *text <= '9' && v <= MAX_TOKENS; text++)
        v = 10 * v + (*text - '0');
    *out = v;
    return *text == '\0' && v <= MAX_TOKENS;
}

q_status ds_trace_read(const char *path, q_status (*fn)(void *self, const ds_length *l, q_err *err),
                       void *self, q_err *err)
{
    q_status st = Q_OK;
    q_buf text = { 0 };
    ds_length l = { .line = 1 };
    char *at, *line;
    int column[2];

    Q_TRY(q_file_slurp(&text, path, DS_TRACE_MAX, err));
    if (strlen(text.data) != text.size)
        Q_FAIL(err, Q_EFORMAT, "%s: holds a NUL: this is no CSV file", path);
    at = text.data;
    if (strncmp(at, "\xef\xbb\xbf", 3) == 0) /* byte order mark */
        at += 3;
    if (!(line = next_line(&at)))
        Q_FAIL(err, Q_EFORMAT, "%s: is empty, wanted a line of column names", path);
    Q_TRY(find_columns(column, path, line, err));
    while ((line = next_line(&at))) {
        int64_t *const want[] = { &l.prompt, &l.output };
        int found = 0;

        l.line++;
        if (!*line)
            continue;
        for (int c = 0; line; c++) {
            const char *f = next_field(&line);

            for (int i = 0; i < 2; i++) {
                if (c != column[i])
                    continue;
                if (!number_of(want[i], f))
                    Q_FAIL(err, Q_EFORMAT, "%s: line %llu: '%s' is not a number of tokens", path,
                           (unsigned long long)l.line, f);
                found++;
            }
        }
        if (found != 2)
            Q_FAIL(err, Q_EFORMAT, "%s: line %llu: ends before its column of tokens", path,
                   (unsigned long long)l.line);
        Q_TRY(fn(self, &l, err));
    }
out:
    q_buf_free(&text);
    return st;
}
