/* Vocabulary files from arbitrary bytes.  With an odd first byte the rest is put behind a valid
 * vocabulary of single bytes, so that lines deep in a file are reached too.  What is accepted must
 * work: every token decodes, and encodes back to its own id where no cut or special splits it. */
#include <stdlib.h>

#include "formats/text/bpe.h"
#include "formats/text/tokenizer_impl.h"
#include "tests/t_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const txt_tok *tok)
{
    q_ids ids = { 0 };
    q_buf text = { 0 };

    for (int32_t id = 0; id < txt_bpe_size(tok->bpe); id++) {
        size_t n;
        const char *p = txt_bpe_token(tok->bpe, id, &n);

        q_ids_clear(&ids);
        if (txt_bpe_encode(tok->bpe, p, n, &ids, NULL) != Q_OK || ids.n != 1 || ids.v[0] != id)
            abort();
    }
    q_ids_clear(&ids);
    for (int32_t id = 0; id < txt_vocab_size(tok); id++)
        if (q_ids_push(&ids, id, NULL) != Q_OK)
            abort();
    if (txt_decode(tok, ids.v, ids.n, 0, &text, NULL) != Q_OK)
        abort();
    q_ids_clear(&ids);
    if (txt_encode(tok, text.data, text.size, TXT_SPECIALS, &ids, NULL) != Q_OK)
        abort();
    q_ids_free(&ids);
    q_buf_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    q_err err = { 0 };
    q_buf file = { 0 };
    txt_tok *tok = NULL;
    q_status st;

    if (size == 0)
        return 0;
    if (data[0] & 1 && tiny_vocab(&file, (const char *const[]){ NULL }, &err) != Q_OK)
        abort();
    if (q_buf_put(&file, data + 1, size - 1, &err) != Q_OK)
        abort();
    st = txt_tok_tiktoken(&tok, file.data, file.size, "fuzz", &err);
    if (st == Q_OK)
        use(tok);
    else if (tok || st != Q_EFORMAT || err.code != st || strncmp(err.msg, "fuzz: ", 6) != 0)
        abort();
    txt_tok_close(tok);
    q_buf_free(&file);
    return 0;
}
