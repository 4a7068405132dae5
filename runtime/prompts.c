/* Prompts of a command line. */
#include "runtime/prompts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_file.h"
#include "formats/npy.h"

#define FILE_MAX ((size_t)256 << 20)

/* Ends the request that began at the last start; an empty one is dropped. */
static q_status end_request(rt_prompts *p, q_err *err)
{
    if (p->ids.n == (p->n ? p->start[p->n] : 0))
        return Q_OK;
    if (p->n + 2 > p->cap) {
        const size_t cap = p->cap ? 2 * p->cap : 16;
        size_t *v = q_calloc(cap, sizeof *v);

        if (!v)
            return q_fail(err, Q_ENOMEM, "no memory for %zu requests", cap);
        if (p->cap)
            memcpy(v, p->start, (p->n + 1) * sizeof *v);
        q_free(p->start);
        p->start = v;
        p->cap = cap;
    }
    p->start[++p->n] = p->ids.n;
    return Q_OK;
}

/* where: the line or the row of a file that the id comes from */
static q_status push_id(rt_prompts *p, const rt_session *s, int64_t id, const char *where,
                        int64_t number, const char *path, q_err *err)
{
    const int64_t vocab = s->desc.vocab;

    if (id < 0 || id >= vocab)
        return q_fail(err, Q_EFORMAT, "%s: %s %lld: token id %lld, wanted 0 to %lld", path, where,
                      (long long)number, (long long)id, (long long)(vocab - 1));
    return q_ids_push(&p->ids, (int32_t)id, err);
}

static q_status read_npy(rt_prompts *p, const rt_session *s, const char *path, q_err *err)
{
    q_status st = Q_OK;
    q_ids all = { 0 };
    int64_t rows = 0, cols = 0;

    Q_TRY(fmt_npy_read_ids(&all, &rows, &cols, path, err));
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < cols; c++) {
            const int32_t id = all.v[r * cols + c];
            int pad = 0;

            for (int i = 0; i < s->gen.n_eos; i++)
                pad |= s->gen.eos[i] == id;
            if (!pad)
                Q_TRY(push_id(p, s, id, "row", r, path, err));
        }
        Q_TRY(end_request(p, err));
    }
out:
    q_ids_free(&all);
    return st;
}

static q_status read_csv(rt_prompts *p, const rt_session *s, const char *path, q_err *err)
{
    q_status st = Q_OK;
    q_buf b = { 0 };
    int line = 1;

    Q_TRY(q_file_slurp(&b, path, FILE_MAX, err));
    for (char *c = b.data; c < b.data + b.size;) {
        char *end;
        long v;

        c += strspn(c, " \t\r,");
        if (*c == '\n') {
            Q_TRY(end_request(p, err));
            line++;
            c++;
            continue;
        }
        if (c == b.data + b.size)
            break;
        errno = 0;
        v = strtol(c, &end, 10);
        if (end == c || errno != 0 || !strchr(" \t\r,\n", *end))
            Q_FAIL(err, Q_EFORMAT, "%s: line %d: '%.*s' is not a token id", path, line,
                   (int)strcspn(c, "\r\n") < 20 ? (int)strcspn(c, "\r\n") : 20, c);
        Q_TRY(push_id(p, s, v, "line", line, path, err));
        c = end;
    }
    Q_TRY(end_request(p, err));
out:
    q_buf_free(&b);
    return st;
}

q_status rt_prompts_build(rt_prompts *p, const rt_session *s, const rt_prompt_opts *o, q_err *err)
{
    q_status st = Q_OK;

    if (o->tokens) {
        const size_t n = strlen(o->tokens);

        Q_TRY(n > 4 && strcmp(o->tokens + n - 4, ".npy") == 0 ? read_npy(p, s, o->tokens, err)
                                                              : read_csv(p, s, o->tokens, err));
    } else if (o->text) {
        Q_TRY(
            txt_encode(s->tok, o->text, strlen(o->text), TXT_SPECIALS | TXT_PROMPT, &p->ids, err));
    } else {
        txt_chat chat;

        Q_TRY(rt_session_chat(&chat, s, err));
        if (o->system && !txt_chat_has_system(chat.format))
            Q_FAIL(err, Q_EUNSUPPORTED, "chat format '%s' has no place for a system prompt",
                   txt_chat_format_name(chat.format));
        chat.system = o->system;
        Q_TRY(txt_chat_build(&p->ids, s->tok, &chat, NULL, 0, o->chat, err));
    }
    Q_TRY(end_request(p, err));
    if (p->n == 0 && o->tokens)
        Q_FAIL(err, Q_EFORMAT, "%s: no token ids in it", o->tokens);
    if (p->n == 0)
        Q_FAIL(err, Q_EARG, "the prompt is empty");
out:
    return st;
}

void rt_prompts_free(rt_prompts *p)
{
    q_ids_free(&p->ids);
    q_free(p->start);
    memset(p, 0, sizeof *p);
}
