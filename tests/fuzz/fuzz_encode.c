/* Arbitrary bytes through encode and decode with two small vocabularies, of a .tiktoken file and of
 * a tokenizer.json (merging by pairs; added tokens looked for before normalisation): the text that
 * comes back must be the NFC of the repaired text, with the Unicode library's own NFC as the
 * oracle, with special tokens recognised or not.  The bytes are also read as ids. */
#include <stdlib.h>
#include <utf8proc.h>

#include "formats/text/tokenizer.h"
#include "formats/text/unicode.h"
#include "tests/t_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const txt_tok *small(void)
{
    static const char *const more[] = { "th",       "he",       "the",         " t",
                                        " the",     "  ",       "\n\n",        "'s",
                                        "aa",       "aaaa",     "\xE4\xBD",    "\xE4\xBD\xA0",
                                        "\xC3\xA9", "\xCC\x81", "<|",          "|>",
                                        "im",       "_e",       "unreachable", NULL };
    static txt_tok *tok;
    q_buf file = { 0 };

    if (tok)
        return tok;
    if (tiny_vocab(&file, more, NULL) != Q_OK ||
        txt_tok_tiktoken(&tok, file.data, file.size, "small", NULL) != Q_OK)
        abort();
    q_buf_free(&file);
    return tok;
}

static const txt_tok *small_hf(void)
{
    static const char *const more[] = { "t h",       "h e",       "th e",      "a a", "aa aa",
                                        "\xC3 \xA9", "\xCC \x81", "\xE4 \xBD", NULL };
    static const char *const added[] = { "<|im_end|>", "<|im_start|>", NULL };
    static txt_tok *tok;
    q_buf file = { 0 };

    if (tok)
        return tok;
    if (tiny_hfjson(&file, more, added, 2, NULL) != Q_OK ||
        txt_tok_hfjson(&tok, file.data, file.size, "small", NULL) != Q_OK)
        abort();
    q_buf_free(&file);
    return tok;
}

static void round_trip(const txt_tok *tok, const q_buf *text, const char *want, size_t n_want,
                       unsigned flags)
{
    q_ids ids = { 0 };
    q_buf back = { 0 };

    if (txt_encode(tok, text->data, text->size, flags, &ids, NULL) != Q_OK ||
        txt_decode_bytes(tok, ids.v, ids.n, 0, &back, NULL) != Q_OK)
        abort();
    if (back.size != n_want || (n_want > 0 && memcmp(back.data, want, n_want) != 0))
        abort();
    q_ids_free(&ids);
    q_buf_free(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    q_buf text = { 0 }, repaired = { 0 }, out = { 0 };
    utf8proc_uint8_t *nfc = NULL;
    utf8proc_ssize_t n;
    int32_t ids[64];

    if (q_buf_put(&text, data, size, NULL) != Q_OK ||
        txt_utf8_repair(&repaired, text.data, size, NULL) != Q_OK)
        abort();
    n = utf8proc_map((const utf8proc_uint8_t *)repaired.data, (utf8proc_ssize_t)repaired.size, &nfc,
                     UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (n < 0) /* the library refuses nothing that is valid UTF-8: the repair was wrong */
        abort();
    round_trip(small(), &text, (const char *)nfc, (size_t)n, 0);
    round_trip(small(), &text, (const char *)nfc, (size_t)n, TXT_SPECIALS);
    round_trip(small_hf(), &text, (const char *)nfc, (size_t)n, 0);
    if (txt_utf8_complete(text.data, size) > size)
        abort();

    n = (utf8proc_ssize_t)(size < sizeof ids ? size / sizeof ids[0] : sizeof ids / sizeof ids[0]);
    memcpy(ids, text.data, (size_t)n * sizeof ids[0]);
    for (utf8proc_ssize_t i = 0; i < n; i++)
        if (ids[i] & 1) /* half of them inside the vocabulary or near its end */
            ids[i] &= 511;
    (void)txt_decode(small(), ids, (size_t)n, TXT_SKIP_SPECIALS, &out, NULL);
    (void)txt_decode(small_hf(), ids, (size_t)n, TXT_SKIP_SPECIALS, &out, NULL);
    free(nfc);
    q_buf_free(&text);
    q_buf_free(&repaired);
    q_buf_free(&out);
    return 0;
}
