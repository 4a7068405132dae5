/* The templates of Qwen1.5 to Qwen3 for chats of text:
 *
 *     <|im_start|>system\nS<|im_end|>\n                              unless there is no S
 *     for each turn  <|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n
 *     then           <|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n
 *
 * A template makes one text, which is encoded as a whole: what lies between two special tokens is
 * put together first, so that line ends of a content merge with the one behind the role.
 *
 * Qwen3 shows of an earlier answer what stands behind </think>.  An answer keeps its thought when
 * only answers of tools came after the question it belongs to.  Turning thinking off writes an
 * empty thought in front of the answer that is asked for.
 * Sources: the chat templates of the releases (chat_detect.c). */
#include "formats/text/chat_impl.h"

#include <string.h>

/* <|im_start|>role\ncontent<|im_end|>\n; text is scratch */
static q_status put_block(q_ids *ids, const txt_tok *tok, q_buf *text, const char *role,
                          const char *content, size_t n, q_err *err)
{
    q_status st = Q_OK;

    q_buf_clear(text);
    Q_TRY(q_buf_printf(text, err, "%s\n", role));
    Q_TRY(q_buf_put(text, content, n, err));
    Q_TRY(txt_put_special(ids, tok, "<|im_start|>", err));
    Q_TRY(txt_encode(tok, text->data, text->size, 0, ids, err));
    Q_TRY(txt_put_special(ids, tok, "<|im_end|>", err));
    Q_TRY(txt_put_text(ids, tok, "\n", err));
out:
    return st;
}

/* Everything but the turns, which are written by put. */
static q_status render_blocks(q_ids *ids, const txt_render_args *a,
                              q_status (*put)(q_ids *ids, const txt_render_args *a, q_buf *text,
                                              size_t turn, q_err *err),
                              q_err *err)
{
    static const char no_thought[] = "assistant\n<think>\n\n</think>\n\n";
    q_status st = Q_OK;
    q_buf text = { 0 };

    if (a->system)
        Q_TRY(put_block(ids, a->tok, &text, "system", a->system, strlen(a->system), err));
    for (size_t i = 0; i < a->n_turns; i++) {
        const char *user = a->turns[i].user;

        Q_TRY(put_block(ids, a->tok, &text, "user", user, strlen(user), err));
        Q_TRY(put(ids, a, &text, i, err));
    }
    Q_TRY(put_block(ids, a->tok, &text, "user", a->query, strlen(a->query), err));
    Q_TRY(txt_put_special(ids, a->tok, "<|im_start|>", err));
    Q_TRY(txt_put_text(ids, a->tok,
                       a->chat->thinking == TXT_THINKING_OFF ? no_thought : "assistant\n", err));
out:
    q_buf_free(&text);
    return st;
}

static q_status put_answer(q_ids *ids, const txt_render_args *a, q_buf *text, size_t turn,
                           q_err *err)
{
    const char *answer = a->turns[turn].assistant;

    return put_block(ids, a->tok, text, "assistant", answer, strlen(answer), err);
}

q_status txt_render_qwen2(q_ids *ids, const txt_render_args *a, q_err *err)
{
    return render_blocks(ids, a, put_answer, err);
}

/* What a tool gave back comes as a user's message: it does not begin a new question. */
static int is_tool_response(const char *s)
{
    static const char open[] = "<tool_response>", close[] = "</tool_response>";
    const size_t n = strlen(s), m = sizeof close - 1;

    return strncmp(s, open, sizeof open - 1) == 0 && n >= m && strcmp(s + n - m, close) == 0;
}

/* 1: the answer of this turn belongs to the question that is still being worked on. */
static int is_running(const txt_render_args *a, size_t turn)
{
    size_t last = a->n_turns; /* the query */
    const char *s = a->query;

    while (is_tool_response(s)) {
        if (last == 0) /* no question at all */
            return 0;
        s = a->turns[--last].user;
    }
    return turn >= last;
}

/* Splits an answer: *text behind the last </think>, thought[0..*n) before the first, without the
 * line ends around them.  An answer without the mark is all text. */
static const char *split_answer(const char *s, const char **thought, size_t *n)
{
    static const char open[] = "<think>", close[] = "</think>";
    const char *first = strstr(s, close), *from = s, *p;

    *thought = s;
    *n = 0;
    if (!first)
        return s;
    while ((p = strstr(from, close)) != NULL)
        from = p + sizeof close - 1;
    while (first > s && first[-1] == '\n')
        first--;
    while ((p = memmem(*thought, (size_t)(first - *thought), open, sizeof open - 1)) != NULL)
        *thought = p + sizeof open - 1;
    while (*thought < first && **thought == '\n')
        ++*thought;
    *n = (size_t)(first - *thought);
    return from + strspn(from, "\n");
}

static q_status put_qwen3(q_ids *ids, const txt_render_args *a, q_buf *text, size_t turn,
                          q_err *err)
{
    const char *thought, *answer;
    q_status st = Q_OK;
    q_buf whole = { 0 };
    size_t n;

    answer = split_answer(a->turns[turn].assistant, &thought, &n);
    if (n > 0 && is_running(a, turn)) {
        Q_TRY(q_buf_puts(&whole, "<think>\n", err));
        Q_TRY(q_buf_put(&whole, thought, n, err));
        Q_TRY(q_buf_puts(&whole, "\n</think>\n\n", err));
    }
    Q_TRY(q_buf_puts(&whole, answer, err));
    Q_TRY(put_block(ids, a->tok, text, "assistant", whole.data, whole.size, err));
out:
    q_buf_free(&whole);
    return st;
}

q_status txt_render_qwen3(q_ids *ids, const txt_render_args *a, q_err *err)
{
    return render_blocks(ids, a, put_qwen3, err);
}
