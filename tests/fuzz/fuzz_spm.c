/* tokenizer.model from arbitrary bytes.  The library parses it; a hostile file must be an error,
 * and what is accepted must work: all ids decode, text encodes, no exception comes through.  In a
 * build without the library there is nothing to look at. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_file.h"
#include "formats/text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/tmp/qwenkit-fuzz-XXXXXX";

static void remove_dir(void)
{
    (void)q_dir_remove(dir, NULL);
}

static void put_file(const uint8_t *p, size_t n)
{
    static char *path;
    FILE *f;

    if (!path &&
        (!mkdtemp(dir) || atexit(remove_dir) != 0 || !(path = q_path_join(dir, "tokenizer.model"))))
        abort();
    f = fopen(path, "wb");
    if (!f || fwrite(p, 1, n, f) != n || fclose(f) != 0)
        abort();
}

static void use(const txt_tok *tok, const char *p, size_t n)
{
    static const char plain[] = "The quick  brown fox \xE4\xBD\xA0\xE5\xA5\xBD \xF0\x9F\x98\x80\n";
    const int32_t size = txt_vocab_size(tok);
    q_ids ids = { 0 };
    q_buf text = { 0 };

    for (int32_t id = 0; id < size; id++)
        if (txt_decode(tok, &id, 1, 0, &text, NULL) != Q_OK)
            abort();
    (void)txt_encode(tok, plain, sizeof plain - 1, TXT_PROMPT, &ids, NULL);
    (void)txt_encode(tok, p, n, TXT_SPECIALS, &ids, NULL);
    for (size_t i = 0; i < ids.n; i++)
        if (ids.v[i] < 0 || ids.v[i] >= size)
            abort();
    if (txt_decode(tok, ids.v, ids.n, TXT_SKIP_SPECIALS, &text, NULL) != Q_OK)
        abort();
    q_buf_free(&text);
    q_ids_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    txt_tok *tok = NULL;
    q_err err = { 0 };
    q_status st;

    put_file(data, size);
    st = txt_tok_open(&tok, dir, &err);
    if (st == Q_OK)
        use(tok, (const char *)data, size < 256 ? size : 256);
    else if (tok || err.code != st || (st != Q_EFORMAT && st != Q_EUNSUPPORTED))
        abort();
    txt_tok_close(tok);
    return 0;
}
