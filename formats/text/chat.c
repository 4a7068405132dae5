/* Chats to token ids: the table of formats, the raw format and ChatML of Qwen-1, which is
 *
 *     <|im_start|>system\nS<|im_end|>
 *     then for each kept turn \n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>
 *     then                       \n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n
 *
 * A format is a row: its name, its default system prompt, the function that renders it and the
 * special tokens that end a reply.  Role, line end and content of ChatML are encoded apart, as the
 * original does: a content that begins with a line end does not merge with the one before it.
 * Kept turns are found newest first; they are stored with their ids reversed and turned round once
 * at the end, so any number of turns costs linear time.
 *
 * Adding a format: a renderer, a row, its name in TXT_CHAT_NAMES.  Source: reference code of the
 * Qwen-1 release. */
#include "formats/text/chat_impl.h"

#include <string.h>

#define DEFAULT_WINDOW 6144
#define MAX_SPECIALS   4

typedef struct format_row {
    const char *name;
    const char *system;              /* the default; NULL: none */
    const char *needs[MAX_SPECIALS]; /* special tokens that the renderer writes */
    const char *stops[MAX_SPECIALS]; /* special tokens that end a reply */
    int any_stop;                    /* those of stops that the vocabulary has; else all of them */
    int no_system, thinks;
    q_status (*render)(q_ids *ids, const txt_render_args *a, q_err *err);
} format_row;

q_status txt_put_text(q_ids *ids, const txt_tok *tok, const char *text, q_err *err)
{
    return txt_encode(tok, text, strlen(text), 0, ids, err);
}

q_status txt_put_special(q_ids *ids, const txt_tok *tok, const char *name, q_err *err)
{
    return q_ids_push(ids, txt_special_id(tok, name), err);
}

/* <|im_start|>role\n, and content<|im_end|> unless content is NULL */
static q_status put_message(q_ids *ids, const txt_tok *tok, const char *role, const char *content,
                            q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(txt_put_special(ids, tok, "<|im_start|>", err));
    Q_TRY(txt_put_text(ids, tok, role, err));
    Q_TRY(txt_put_text(ids, tok, "\n", err));
    if (content) {
        Q_TRY(txt_put_text(ids, tok, content, err));
        Q_TRY(txt_put_special(ids, tok, "<|im_end|>", err));
    }
out:
    return st;
}

/* \n user message \n assistant message; a NULL answer leaves the last one open */
static q_status put_turn(q_ids *ids, const txt_tok *tok, const char *user, const char *assistant,
                         q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(txt_put_text(ids, tok, "\n", err));
    Q_TRY(put_message(ids, tok, "user", user, err));
    Q_TRY(txt_put_text(ids, tok, "\n", err));
    Q_TRY(put_message(ids, tok, "assistant", assistant, err));
out:
    return st;
}

static void reverse(int32_t *v, size_t n)
{
    for (size_t i = 0; i < n / 2; i++) {
        const int32_t x = v[i];

        v[i] = v[n - 1 - i];
        v[n - 1 - i] = x;
    }
}

/* Appends the turns that fit into the window together with used tokens. */
static q_status put_history(q_ids *ids, const txt_render_args *a, size_t used, q_err *err)
{
    const size_t window =
        a->chat->max_window > 0 ? (size_t)a->chat->max_window : (size_t)DEFAULT_WINDOW;
    const size_t start = ids->n;
    q_status st = Q_OK;
    q_ids turn = { 0 };

    for (size_t i = a->n_turns; i > 0; i--) {
        q_ids_clear(&turn);
        Q_TRY(put_turn(&turn, a->tok, a->turns[i - 1].user, a->turns[i - 1].assistant, err));
        if (used + (ids->n - start) + turn.n >= window)
            break;
        reverse(turn.v, turn.n);
        Q_TRY(q_ids_append(ids, turn.v, turn.n, err));
    }
    reverse(ids->v + start, ids->n - start);
out:
    q_ids_free(&turn);
    return st;
}

static q_status render_chatml(q_ids *ids, const txt_render_args *a, q_err *err)
{
    const size_t start = ids->n;
    q_status st = Q_OK;

    Q_TRY(put_message(ids, a->tok, "system", a->system, err));
    Q_TRY(put_history(ids, a, ids->n - start, err));
    Q_TRY(put_turn(ids, a->tok, a->query, NULL, err));
out:
    return st;
}

static q_status render_raw(q_ids *ids, const txt_render_args *a, q_err *err)
{
    return txt_encode(a->tok, a->query, strlen(a->query), TXT_SPECIALS | TXT_PROMPT, ids, err);
}

#define IM_TOKENS                                                                                  \
    {                                                                                              \
        "<|im_start|>", "<|im_end|>"                                                               \
    }
#define QWEN_STOPS                                                                                 \
    {                                                                                              \
        "<|im_end|>", "<|endoftext|>"                                                              \
    }

static const format_row formats[TXT_CHAT_FORMATS] = {
    [TXT_CHAT_RAW] = { .name = "raw",
                       .stops = { "<|endoftext|>", "</s>" },
                       .any_stop = 1,
                       .no_system = 1,
                       .render = render_raw },
    [TXT_CHATML] = { .name = "chatml",
                     .system = "You are a helpful assistant.",
                     .needs = IM_TOKENS,
                     .stops = { "<|im_end|>", "<|im_start|>" },
                     .render = render_chatml },
    [TXT_CHAT_QWEN15] = { .name = "qwen1.5",
                          .system = "You are a helpful assistant",
                          .needs = IM_TOKENS,
                          .stops = QWEN_STOPS,
                          .render = txt_render_qwen2 },
    [TXT_CHAT_QWEN2] = { .name = "qwen2",
                         .system = "You are a helpful assistant.",
                         .needs = IM_TOKENS,
                         .stops = QWEN_STOPS,
                         .render = txt_render_qwen2 },
    [TXT_CHAT_QWEN25] = { .name = "qwen2.5",
                          .system = "You are Qwen, created by Alibaba Cloud. You are a helpful "
                                    "assistant.",
                          .needs = IM_TOKENS,
                          .stops = QWEN_STOPS,
                          .render = txt_render_qwen2 },
    [TXT_CHAT_QWEN3] = { .name = "qwen3",
                         .needs = IM_TOKENS,
                         .stops = QWEN_STOPS,
                         .thinks = 1,
                         .render = txt_render_qwen3 },
    [TXT_CHAT_GLM2] = { .name = "chatglm2",
                        .needs = { "[gMASK]", "sop" },
                        .stops = { "</s>" },
                        .no_system = 1,
                        .render = txt_render_glm2 },
    [TXT_CHAT_GLM3] = { .name = "chatglm3",
                        .needs = { "<|system|>", "<|user|>", "<|assistant|>" },
                        .stops = { "</s>", "<|user|>", "<|observation|>" },
                        .render = txt_render_glm3 },
};

const char *txt_chat_format_name(txt_chat_format f)
{
    return formats[f].name;
}

int txt_chat_format_from_name(const char *name, txt_chat_format *out)
{
    for (int f = 0; f < TXT_CHAT_FORMATS; f++)
        if (strcmp(name, formats[f].name) == 0) {
            *out = (txt_chat_format)f;
            return 1;
        }
    return 0;
}

int txt_chat_has_system(txt_chat_format f)
{
    return !formats[f].no_system;
}

/* Appends the ids of special tokens of a row; any: leaves out those that are not there. */
static q_status find_specials(q_ids *ids, const txt_tok *tok, const char *format,
                              const char *const names[MAX_SPECIALS], int any, q_err *err)
{
    q_status st = Q_OK;

    for (int i = 0; i < MAX_SPECIALS && names[i]; i++) {
        const int32_t id = txt_special_id(tok, names[i]);

        if (id < 0 && any)
            continue;
        if (id < 0)
            Q_FAIL(err, Q_EUNSUPPORTED,
                   "chat format '%s' needs the special token %s, which this vocabulary lacks: "
                   "choose the format that belongs to the model",
                   format, names[i]);
        Q_TRY(q_ids_push(ids, id, err));
    }
out:
    return st;
}

q_status txt_chat_stop_ids(q_ids *ids, const txt_tok *tok, txt_chat_format f, q_err *err)
{
    const size_t start = ids->n;
    const q_status st =
        find_specials(ids, tok, formats[f].name, formats[f].stops, formats[f].any_stop, err);

    if (st != Q_OK)
        ids->n = start;
    return st;
}

q_status txt_chat_build(q_ids *ids, const txt_tok *tok, const txt_chat *chat, const txt_turn *turns,
                        size_t n_turns, const char *query, q_err *err)
{
    const format_row *row = &formats[chat->format];
    const txt_render_args a = { tok,   chat,    chat->system ? chat->system : row->system,
                                turns, n_turns, query };
    const size_t start = ids->n;
    q_status st = Q_OK;
    q_ids needs = { 0 };
    size_t made;

    if (chat->thinking != TXT_THINKING_DEFAULT && !row->thinks)
        Q_FAIL(err, Q_EUNSUPPORTED,
               "chat format '%s' has no thinking to turn on or off: leave --enable-thinking and "
               "--no-thinking out",
               row->name);
    Q_TRY(find_specials(&needs, tok, row->name, row->needs, 0, err)); /* refuse before any work */
    Q_TRY(row->render(ids, &a, err));
    made = ids->n - start;
    if (chat->max_input > 0 && made > (size_t)chat->max_input) {
        const size_t keep = (size_t)chat->max_input;

        memmove(ids->v + start, ids->v + start + made - keep, keep * sizeof *ids->v);
        ids->n = start + keep;
    }
out:
    if (st != Q_OK)
        ids->n = start;
    q_ids_free(&needs);
    return st;
}
