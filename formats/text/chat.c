/* Chats to token ids.
 *
 * A format is a row: its name, its default system prompt, the function that renders it and the
 * special tokens that end a reply.  ChatML of Qwen-1 is
 *
 *     <|im_start|>system\nS<|im_end|>
 *     then for each kept turn \n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>
 *     then                       \n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n
 *
 * Role, line end and content are encoded apart, as the original does: a content that begins with a
 * line end does not merge with the one before it.  Kept turns are found newest first; they are
 * stored with their ids reversed and turned round once at the end, so any number of turns costs
 * linear time.
 *
 * Adding a format: a renderer and a row. */
#include "formats/text/chat.h"

#include <string.h>

#define DEFAULT_WINDOW 6144
#define MAX_SPECIALS   2

/* What a renderer works with: the arguments of txt_chat_build, the default filled in. */
typedef struct render_args {
    const txt_tok *tok;
    const txt_chat *chat;
    const char *system;
    const txt_turn *turns;
    size_t n_turns;
    const char *query;
} render_args;

typedef struct format_row {
    const char *name;
    const char *system;              /* the default */
    const char *needs[MAX_SPECIALS]; /* special tokens that the renderer writes */
    const char *stops[MAX_SPECIALS]; /* special tokens that end a reply */
    q_status (*render)(q_ids *ids, const render_args *a, q_err *err);
} format_row;

static q_status put_text(q_ids *ids, const txt_tok *tok, const char *text, q_err *err)
{
    return txt_encode(tok, text, strlen(text), 0, ids, err);
}

static q_status put_special(q_ids *ids, const txt_tok *tok, const char *name, q_err *err)
{
    return q_ids_push(ids, txt_special_id(tok, name), err);
}

/* <|im_start|>role\n, and content<|im_end|> unless content is NULL */
static q_status put_message(q_ids *ids, const txt_tok *tok, const char *role, const char *content,
                            q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(put_special(ids, tok, "<|im_start|>", err));
    Q_TRY(put_text(ids, tok, role, err));
    Q_TRY(put_text(ids, tok, "\n", err));
    if (content) {
        Q_TRY(put_text(ids, tok, content, err));
        Q_TRY(put_special(ids, tok, "<|im_end|>", err));
    }
out:
    return st;
}

/* \n user message \n assistant message; a NULL answer leaves the last one open */
static q_status put_turn(q_ids *ids, const txt_tok *tok, const char *user, const char *assistant,
                         q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(put_text(ids, tok, "\n", err));
    Q_TRY(put_message(ids, tok, "user", user, err));
    Q_TRY(put_text(ids, tok, "\n", err));
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
static q_status put_history(q_ids *ids, const render_args *a, size_t used, q_err *err)
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

static q_status render_chatml(q_ids *ids, const render_args *a, q_err *err)
{
    const size_t start = ids->n;
    q_status st = Q_OK;

    Q_TRY(put_message(ids, a->tok, "system", a->system, err));
    Q_TRY(put_history(ids, a, ids->n - start, err));
    Q_TRY(put_turn(ids, a->tok, a->query, NULL, err));
out:
    return st;
}

static q_status render_raw(q_ids *ids, const render_args *a, q_err *err)
{
    return txt_encode(a->tok, a->query, strlen(a->query), TXT_SPECIALS, ids, err);
}

static const format_row formats[TXT_CHAT_FORMATS] = {
    [TXT_CHAT_RAW] = { .name = "raw", .stops = { "<|endoftext|>" }, .render = render_raw },
    [TXT_CHATML] = { .name = "chatml",
                     .system = "You are a helpful assistant.",
                     .needs = { "<|im_start|>", "<|im_end|>" },
                     .stops = { "<|im_end|>", "<|im_start|>" },
                     .render = render_chatml },
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

/* Appends the ids of special tokens of a row. */
static q_status find_specials(q_ids *ids, const txt_tok *tok, const char *format,
                              const char *const names[MAX_SPECIALS], q_err *err)
{
    q_status st = Q_OK;

    for (int i = 0; i < MAX_SPECIALS && names[i]; i++) {
        const int32_t id = txt_special_id(tok, names[i]);

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
    const q_status st = find_specials(ids, tok, formats[f].name, formats[f].stops, err);

    if (st != Q_OK)
        ids->n = start;
    return st;
}

q_status txt_chat_build(q_ids *ids, const txt_tok *tok, const txt_chat *chat, const txt_turn *turns,
                        size_t n_turns, const char *query, q_err *err)
{
    const format_row *row = &formats[chat->format];
    const render_args a = { tok,   chat,    chat->system ? chat->system : row->system,
                            turns, n_turns, query };
    const size_t start = ids->n;
    q_status st = Q_OK;
    q_ids needs = { 0 };
    size_t made;

    Q_TRY(find_specials(&needs, tok, row->name, row->needs, err)); /* refuse before any work */
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
