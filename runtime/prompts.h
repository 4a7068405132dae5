/* Prompts of a command line as token ids: a text, a chat, or a file of ids.
 *
 *     rt_prompts p = { 0 };
 *     Q_TRY(rt_prompts_build(&p, session, &(rt_prompt_opts){ .chat = "Hello" }, err));
 *     ids of request i: p.ids.v[p.start[i]] .. p.ids.v[p.start[i + 1] - 1]
 *     ... out: rt_prompts_free(&p);
 *
 * Threads: one. */
#ifndef RT_PROMPTS_H
#define RT_PROMPTS_H

#include "runtime/session.h"

typedef struct rt_prompt_opts {
    const char *text; /* one of text, chat, tokens is given */
    const char *chat, *system;
    const char *tokens; /* file: .npy (rows, entries equal to an end-of-text id are padding), or
                         * lines of comma-separated ids */
} rt_prompt_opts;

typedef struct rt_prompts {
    size_t n;
    q_ids ids;
    size_t *start; /* [n + 1] */
    size_t cap;
} rt_prompts;

/* Errors: Q_EFORMAT (file, line, text), Q_ENOINPUT, Q_EARG (nothing in it), Q_EUNSUPPORTED (a chat
 * without a known format; a system prompt where the format has none). */
q_status rt_prompts_build(rt_prompts *p, const rt_session *s, const rt_prompt_opts *o, q_err *err);
void rt_prompts_free(rt_prompts *p);

#endif
