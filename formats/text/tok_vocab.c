/* vocab.json with merges.txt: the older form of the same byte-level BPE.
 *
 *     vocab.json              {spelling: id}
 *     merges.txt              one merge "a b" per line, lowest rank first; a first line that begins
 *                             with #version is skipped, CR LF is accepted
 *     tokenizer_config.json   added_tokens_decoder {"id": {content, special, ...}}, optional
 *     added_tokens.json       {text: id}, optional: names what added_tokens_decoder lacks; without
 *                             a word about them there, these tokens are part of the text
 *
 * The pattern of the splitter is in none of these files: it is the code of the tokenizer class, so
 * any class other than Qwen2Tokenizer (and its fast form) is refused by name.
 * Source: the Qwen2 tokenizer of Hugging Face transformers, whose text is normalised to NFC. */
#include <stdlib.h>
#include <string.h>

#include "formats/text/hf_vocab.h"

#define FILE_MAX ((size_t)32 << 20)

/* *out stays NULL when there is no such file. */
static q_status read_optional(fmt_json **out, const fmt_files *files, const char *name, q_err *err)
{
    return fmt_files_has(files, name) ? fmt_files_json(out, files, name, FILE_MAX, err) : Q_OK;
}

static q_status read_decoder(txt_hf *hf, const fmt_json *config, q_err *err)
{
    const fmt_json *list = fmt_json_get(config, "added_tokens_decoder");
    const char *class = fmt_json_text(fmt_json_get(config, "tokenizer_class"));
    q_status st = Q_OK;

    if (class && strcmp(class, "Qwen2Tokenizer") != 0 && strcmp(class, "Qwen2TokenizerFast") != 0)
        Q_FAIL(err, Q_EUNSUPPORTED, "%s: tokenizer_class '%.80s', wanted Qwen2Tokenizer", hf->name,
               class);
    for (fmt_json_iter *it = fmt_json_first(list); it; it = fmt_json_next(list, it)) {
        const char *key = fmt_json_key(it);
        char *end;
        const long id = strtol(key, &end, 10);

        if (*key < '0' || *key > '9' || *end)
            Q_FAIL(err, Q_EFORMAT, "%s: added_tokens_decoder: '%.40s' is not an id", hf->name, key);
        Q_TRY(txt_hf_add_object(hf, fmt_json_value(it), id, err));
    }
out:
    return st;
}

static q_status read_added(txt_hf *hf, const fmt_json *added, q_err *err)
{
    const size_t described = hf->n_added;
    q_status st = Q_OK;

    for (fmt_json_iter *it = fmt_json_first(added); it; it = fmt_json_next(added, it)) {
        const char *text = fmt_json_key(it);
        int64_t id = -1;
        size_t k = 0;

        if (!fmt_json_as_int(fmt_json_value(it), 0, INT32_MAX, &id))
            Q_FAIL(err, Q_EFORMAT, "%s: added_tokens.json: '%.80s' has no id", hf->name, text);
        while (k < described && !(hf->added[k].id == id && strcmp(hf->added[k].text, text) == 0))
            k++;
        if (k == described)
            Q_TRY(txt_hf_add(hf, text, id, 0, err));
    }
out:
    return st;
}

static q_status read_merges(txt_hf *hf, const fmt_files *files, const char *path, q_err *err)
{
    q_status st = Q_OK;
    q_buf b = { 0 };
    const char *p, *end;
    size_t lines = 0, i = 0;

    Q_TRY(fmt_files_slurp(&b, files, "merges.txt", FILE_MAX, err));
    end = b.data + b.size;
    for (p = b.data; p < end; p++)
        lines += *p == '\n';
    lines += b.size > 0 && end[-1] != '\n';
    p = b.data;
    if (b.size > 8 && memcmp(p, "#version", 8) == 0) {
        p = memchr(p, '\n', b.size);
        p = p ? p + 1 : end;
        lines--;
    }
    hf->name = path; /* the messages of merges are about this file */
    Q_TRY(txt_hf_merges(hf, lines, 0, err));
    while (p < end) {
        const char *eol = memchr(p, '\n', (size_t)(end - p));
        size_t n = eol ? (size_t)(eol - p) : (size_t)(end - p);
        const char *blank;

        n -= n > 0 && p[n - 1] == '\r';
        blank = memchr(p, ' ', n);
        if (!blank || memchr(blank + 1, ' ', n - (size_t)(blank + 1 - p)))
            Q_FAIL(err, Q_EFORMAT, "%s: merge %zu is not two tokens with a blank between them",
                   path, i);
        Q_TRY(txt_hf_merge(hf, i++, p, (size_t)(blank - p), blank + 1, n - (size_t)(blank + 1 - p),
                           err));
        p = eol ? eol + 1 : end;
    }
out:
    q_buf_free(&b);
    return st;
}

q_status txt_tok_load_vocab(txt_tok **out, const fmt_files *files, const char *path, q_err *err)
{
    q_status st = Q_OK;
    txt_hf hf = { .name = path };
    char *merges = fmt_files_path(files, "merges.txt");
    fmt_json *vocab = NULL, *config = NULL, *added = NULL;

    if (!merges)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", files->dir);
    Q_TRY(fmt_files_json(&vocab, files, "vocab.json", FILE_MAX, err));
    Q_TRY(read_optional(&config, files, "tokenizer_config.json", err));
    Q_TRY(read_optional(&added, files, "added_tokens.json", err));
    Q_TRY(read_decoder(&hf, config, err));
    Q_TRY(read_added(&hf, added, err));
    Q_TRY(txt_hf_vocab(&hf, vocab, err));
    Q_TRY(read_merges(&hf, files, merges, err));
    hf.name = path;
    Q_TRY(txt_hf_make(out, &hf, 1, err));
out:
    txt_hf_free(&hf);
    fmt_json_free(added);
    fmt_json_free(config);
    fmt_json_free(vocab);
    q_free(merges);
    return st;
}
