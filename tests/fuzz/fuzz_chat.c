/* Chats from arbitrary strings: two bytes of limits, then system, query and turns, each ended by
 * NUL.  Without limits the decoded prompt must be the layout with the NFC of every content; with
 * them it must be a tail of a prompt whose history is a tail of the turns.  In the formats of the
 * later releases there must be as many special tokens as messages, whatever the contents hold. */
#include <stdlib.h>

#include "formats/text/chat.h"
#include "formats/text/unicode.h"
#include "tests/t_text.h"

#define MAX_TURNS 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const txt_tok *bytes_tok(void)
{
    static txt_tok *tok;
    q_buf file = { 0 };

    if (tok)
        return tok;
    if (tiny_vocab(&file, (const char *const[]){ NULL }, NULL) != Q_OK ||
        txt_tok_tiktoken(&tok, file.data, file.size, "bytes", NULL) != Q_OK)
        abort();
    q_buf_free(&file);
    return tok;
}

static const char *take(char **p, char *end)
{
    char *s = *p;

    if (s < end)
        *p = s + strlen(s) + 1;
    return s < end ? s : "";
}

static void put(q_buf *b, const char *before, const char *content, const char *after)
{
    if (q_buf_puts(b, before, NULL) != Q_OK || txt_nfc(b, content, strlen(content), NULL) != Q_OK ||
        q_buf_puts(b, after, NULL) != Q_OK)
        abort();
}

/* The prompt with the newest n turns, as text */
static void expect(q_buf *b, const char *system, const txt_turn *turns, size_t n, const char *query)
{
    q_buf_clear(b);
    put(b, "<|im_start|>system\n", system, "<|im_end|>");
    for (size_t i = 0; i < n; i++) {
        put(b, "\n<|im_start|>user\n", turns[i].user, "<|im_end|>");
        put(b, "\n<|im_start|>assistant\n", turns[i].assistant, "<|im_end|>");
    }
    put(b, "\n<|im_start|>user\n", query, "<|im_end|>\n<|im_start|>assistant\n");
}

/* The ids must spell one of the prompts with 0..n of the newest turns, or with a cut its end. */
static void check(const q_ids *ids, const txt_chat *chat, const txt_turn *turns, size_t n,
                  const char *query)
{
    q_buf got = { 0 }, want = { 0 };
    int found = 0;

    if (txt_decode_bytes(bytes_tok(), ids->v, ids->n, 0, &got, NULL) != Q_OK)
        abort();
    for (size_t kept = chat->max_window == INT64_MAX ? n : 0; kept <= n && !found; kept++) {
        expect(&want, chat->system, turns + n - kept, kept, query);
        found = got.size <= want.size && (chat->max_input > 0 || got.size == want.size) &&
                memcmp(want.data + want.size - got.size, got.data, got.size) == 0;
    }
    if (!found)
        abort();
    q_buf_free(&got);
    q_buf_free(&want);
}

/* Single bytes and the added tokens of Qwen3, of which 256..258 are special */
static const txt_tok *qwen3_tok(void)
{
    static const char *const added[] = { "<|endoftext|>", "<|im_start|>", "<|im_end|>",
                                         "<think>",       "</think>",     NULL };
    static txt_tok *tok;
    q_buf file = { 0 };

    if (tok)
        return tok;
    if (tiny_hfjson(&file, (const char *const[]){ NULL }, added, 3, NULL) != Q_OK ||
        txt_tok_hfjson(&tok, file.data, file.size, "qwen3", NULL) != Q_OK)
        abort();
    q_buf_free(&file);
    return tok;
}

static void count_messages(const char *system, const txt_turn *turns, size_t n, const char *query)
{
    for (int f = TXT_CHAT_QWEN15; f <= TXT_CHAT_QWEN3; f++) {
        const txt_chat chat = { .format = (txt_chat_format)f, .system = system };
        size_t special[3] = { 0 };
        q_ids ids = { 0 };

        if (txt_chat_build(&ids, qwen3_tok(), &chat, turns, n, query, NULL) != Q_OK)
            abort();
        for (size_t i = 0; i < ids.n; i++)
            if (txt_is_special(qwen3_tok(), ids.v[i]))
                special[ids.v[i] - 256]++;
        if (special[0] != 0 || special[1] != 2 * n + 3 || special[2] != 2 * n + 2)
            abort();
        q_ids_free(&ids);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    txt_chat chat = { .format = TXT_CHATML };
    txt_turn turns[MAX_TURNS];
    size_t n = 0;
    const char *query;
    q_buf text = { 0 };
    q_ids ids = { 0 };
    char *p, *end;

    if (size < 2)
        return 0;
    if (q_buf_put(&text, data + 2, size - 2, NULL) != Q_OK)
        abort();
    p = text.data;
    end = p + text.size;
    chat.max_window = data[0] & 1 ? data[0] * 4 : INT64_MAX;
    chat.max_input = data[1] & 1 ? data[1] * 4 : 0;
    chat.system = take(&p, end);
    query = take(&p, end);
    while (n < MAX_TURNS && p < end) {
        turns[n].user = take(&p, end);
        turns[n++].assistant = take(&p, end);
    }
    if (txt_chat_build(&ids, bytes_tok(), &chat, turns, n, query, NULL) != Q_OK)
        abort();
    if (chat.max_input > 0 && ids.n > (size_t)chat.max_input)
        abort();
    check(&ids, &chat, turns, n, query);
    count_messages(chat.system, turns, n, query);

    q_ids_clear(&ids);
    chat.format = TXT_CHAT_RAW;
    if (txt_chat_build(&ids, bytes_tok(), &chat, turns, n, query, NULL) != Q_OK)
        abort();
    q_ids_free(&ids);
    q_buf_free(&text);
    return 0;
}
