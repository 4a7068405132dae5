/* tokenizer.json, and vocab.json with merges.txt, from arbitrary bytes.  The first byte chooses
 * what the others are: a whole tokenizer.json, or one part of a good one (merges, vocabulary, added
 * tokens), or merges.txt, so that every reader is reached.  What is accepted must work: all ids
 * decode, and text goes there and back where added tokens do not part it. */
#include <stdio.h>
#include <stdlib.h>

#include "formats/base/q_file.h"
#include "formats/text/tokenizer.h"
#include "formats/text/unicode.h"
#include "tests/t_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define N_IDS 4096 /* ids looked at: a made-up vocabulary may have a million, almost all gaps */

static char dir[] = "/tmp/qwenkit-fuzz-XXXXXX";

static void remove_dir(void)
{
    (void)q_dir_remove(dir, NULL);
}

static void put_file(const char *name, const char *p, size_t n)
{
    char *path = q_path_join(dir, name);
    FILE *f = path ? fopen(path, "wb") : NULL;

    if (!f || fwrite(p, 1, n, f) != n || fclose(f) != 0)
        abort();
    q_free(path);
}

/* A good tokenizer.json; the text behind `part` is cut there and goes on with *rest. */
static const char *good(const char *part, q_buf *head)
{
    static const char *const more[] = { "t h", "th e", "a a", "aa aa", "\xC3 \xA9", NULL };
    static const char *const added[] = { "<|im_end|>", "<think>", NULL };
    char *at;

    if (tiny_hfjson(head, more, added, 1, NULL) != Q_OK || !(at = strstr(head->data, part)))
        abort();
    head->size = (size_t)(at - head->data) + strlen(part);
    return head->data + head->size;
}

static void check_text(const txt_tok *tok, const char *p, size_t n, int whole)
{
    q_ids ids = { 0 };
    q_buf back = { 0 }, want = { 0 };

    if (txt_encode(tok, p, n, TXT_SPECIALS, &ids, NULL) != Q_OK ||
        txt_decode_bytes(tok, ids.v, ids.n, 0, &back, NULL) != Q_OK)
        abort();
    q_ids_clear(&ids);
    q_buf_clear(&back);
    if (txt_encode(tok, p, n, 0, &ids, NULL) != Q_OK ||
        txt_decode_bytes(tok, ids.v, ids.n, 0, &back, NULL) != Q_OK ||
        txt_nfc(&want, p, n, NULL) != Q_OK)
        abort();
    if (whole && (back.size != want.size || memcmp(back.data, want.data, want.size) != 0))
        abort();
    q_ids_free(&ids);
    q_buf_free(&want);
    q_buf_free(&back);
}

static void check_ids(const txt_tok *tok)
{
    const int32_t size = txt_vocab_size(tok);
    q_buf text = { 0 };

    for (int32_t id = 0; id < size && id < N_IDS; id++)
        if (txt_decode(tok, &id, 1, TXT_SKIP_SPECIALS, &text, NULL) != Q_OK ||
            txt_decode(tok, &id, 1, 0, &text, NULL) != Q_OK)
            abort();
    if (txt_decode(tok, &size, 1, 0, &text, NULL) != Q_EFORMAT)
        abort();
    q_buf_free(&text);
}

static q_status open_merges(txt_tok **tok, const char *p, size_t n, q_err *err)
{
    static int made;
    q_buf json = { 0 };
    const char *vocab, *end;

    if (!made) {
        if (!mkdtemp(dir) || atexit(remove_dir) != 0)
            abort();
        (void)good("\"vocab\":", &json);
        vocab = json.data + json.size;
        end = strstr(vocab, ",\"merges\"");
        put_file("vocab.json", vocab, (size_t)(end - vocab));
        q_buf_free(&json);
        made = 1;
    }
    put_file("merges.txt", p, n);
    return txt_tok_open(tok, dir, err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* what stands in front of the bytes, by the first of them; the last is a merges.txt */
    static const char *const parts[] = { "\"merges\":[", "\"vocab\":{", "\"added_tokens\":[",
                                         "\"type\":\"BPE\"," };
    enum { N = sizeof parts / sizeof parts[0] };
    q_buf head = { 0 }, json = { 0 };
    txt_tok *tok = NULL;
    q_err err = { 0 };
    q_status st;
    size_t what;

    if (size == 0)
        return 0;
    what = data[0] % (N + 2);
    if (q_buf_put(&json, data + 1, size - 1, NULL) != Q_OK)
        abort();
    if (what < N) {
        const char *rest = good(parts[what], &head);

        q_buf_clear(&json);
        if (q_buf_put(&json, head.data, head.size, NULL) != Q_OK ||
            q_buf_put(&json, data + 1, size - 1, NULL) != Q_OK ||
            q_buf_puts(&json, rest, NULL) != Q_OK)
            abort();
    }
    st = what == N ? open_merges(&tok, json.data, json.size, &err)
                   : txt_tok_hfjson(&tok, json.data, json.size, "fuzz", &err);
    if (st == Q_OK) {
        check_ids(tok);
        check_text(tok, (const char *)data, size, what == 0 || what == N);
    } else if (tok || err.code != st || err.msg[0] == '\0' ||
               (st != Q_EFORMAT && st != Q_EUNSUPPORTED && st != Q_ECONFIG)) {
        abort();
    }
    txt_tok_close(tok);
    q_buf_free(&json);
    q_buf_free(&head);
    return 0;
}
