/* tokenizer.json of Hugging Face tokenizers, as far as Qwen checkpoints use it:
 *
 *     normalizer     null or NFC
 *     pre_tokenizer  Sequence of Split (one of the patterns below, Isolated) and ByteLevel
 *     model          BPE: vocab {spelling: id}, merges ["a b", ...] or [["a", "b"], ...]
 *     post_processor, decoder   null or ByteLevel, which change no ids and no text
 *     added_tokens   [{id, content, special, ...}]
 *
 * Everything that would change ids is either known or refused with its name; truncation and padding
 * are the caller's business there too and are not looked at.  The splitter is code (split.c), so a
 * pattern is recognised by its exact text.  Limits: FILE_MAX bytes; the JSON tree of a hostile file
 * takes about twenty times its size.  Source: the file format of Hugging Face tokenizers. */
#include <string.h>

#include "formats/base/q_file.h"
#include "formats/text/hf_vocab.h"

#define FILE_MAX ((size_t)32 << 20) /* Qwen3: 11 million bytes */

static const char *const patterns[] = {
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
};

/* Text of o[key], "" when it is absent or something else. */
static const char *text_of(const fmt_json *o, const char *key)
{
    const char *s = fmt_json_text(fmt_json_get(o, key));

    return s ? s : "";
}

static int is_true(const fmt_json *o, const char *key)
{
    return fmt_json_kind(fmt_json_get(o, key)) == FMT_JSON_TRUE;
}

static int is_absent(const fmt_json *v)
{
    return fmt_json_kind(v) == FMT_JSON_NULL;
}

/* o[key] must be null or an object of this type. */
static q_status null_or(const fmt_json *doc, const char *key, const char *type, const char *name,
                        q_err *err)
{
    const fmt_json *v = fmt_json_get(doc, key);

    if (is_absent(v) || strcmp(text_of(v, "type"), type) == 0)
        return Q_OK;
    return q_fail(err, Q_EUNSUPPORTED, "%s: %s of type '%.40s', wanted %s or null", name, key,
                  text_of(v, "type"), type);
}

static q_status check_pre_tokenizer(const fmt_json *doc, const char *name, q_err *err)
{
    const fmt_json *pre = fmt_json_get(doc, "pre_tokenizer");
    const fmt_json *list = fmt_json_get(pre, "pretokenizers");
    const fmt_json *split = fmt_json_at(list, 0), *bytes = fmt_json_at(list, 1);
    const char *regex = text_of(fmt_json_get(split, "pattern"), "Regex");
    size_t k = 0;

    if (strcmp(text_of(pre, "type"), "Sequence") != 0 || fmt_json_size(list) != 2 ||
        strcmp(text_of(split, "type"), "Split") != 0 ||
        strcmp(text_of(bytes, "type"), "ByteLevel") != 0)
        return q_fail(err, Q_EUNSUPPORTED,
                      "%s: pre_tokenizer of type '%.40s', wanted a Sequence of Split and ByteLevel",
                      name, text_of(pre, "type"));
    while (k < sizeof patterns / sizeof patterns[0] && strcmp(regex, patterns[k]) != 0)
        k++;
    if (k == sizeof patterns / sizeof patterns[0])
        return q_fail(err, Q_EUNSUPPORTED,
                      "%s: pre_tokenizer splits by '%.120s', which is not the pattern of Qwen to "
                      "Qwen3",
                      name, regex);
    if (strcmp(text_of(split, "behavior"), "Isolated") != 0 || is_true(split, "invert"))
        return q_fail(err, Q_EUNSUPPORTED,
                      "%s: pre_tokenizer Split has behavior '%.40s'%s, wanted Isolated", name,
                      text_of(split, "behavior"), is_true(split, "invert") ? ", inverted" : "");
    /* both are true when they are absent */
    if (fmt_json_kind(fmt_json_get(bytes, "add_prefix_space")) != FMT_JSON_FALSE ||
        fmt_json_kind(fmt_json_get(bytes, "use_regex")) != FMT_JSON_FALSE)
        return q_fail(err, Q_EUNSUPPORTED,
                      "%s: pre_tokenizer ByteLevel needs add_prefix_space and use_regex false",
                      name);
    return Q_OK;
}

static q_status check_model(const fmt_json *model, const char *name, q_err *err)
{
    static const char *const affixes[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    const fmt_json *dropout = fmt_json_get(model, "dropout");
    int64_t zero;

    if (strcmp(text_of(model, "type"), "BPE") != 0)
        return q_fail(err, Q_EUNSUPPORTED, "%s: model of type '%.40s', wanted BPE", name,
                      text_of(model, "type"));
    if (!is_absent(dropout) && !fmt_json_as_int(dropout, 0, 0, &zero))
        return q_fail(err, Q_EUNSUPPORTED, "%s: model has dropout: encoding would be random", name);
    for (size_t i = 0; i < sizeof affixes / sizeof affixes[0]; i++)
        if (!is_absent(fmt_json_get(model, affixes[i])) &&
            fmt_json_kind(fmt_json_get(model, affixes[i])) == FMT_JSON_STRING &&
            *text_of(model, affixes[i]))
            return q_fail(err, Q_EUNSUPPORTED, "%s: model has %s '%.40s', wanted none", name,
                          affixes[i], text_of(model, affixes[i]));
    if (is_true(model, "byte_fallback"))
        return q_fail(err, Q_EUNSUPPORTED, "%s: model has byte_fallback, wanted byte-level BPE",
                      name);
    return Q_OK;
}

static q_status read_added(txt_hf *hf, const fmt_json *list, q_err *err)
{
    q_status st = Q_OK;

    if (!is_absent(list) && fmt_json_kind(list) != FMT_JSON_ARRAY)
        Q_FAIL(err, Q_EFORMAT, "%s: added_tokens is not a list", hf->name);
    for (size_t i = 0; i < fmt_json_size(list); i++) {
        int64_t id = -1;

        if (!fmt_json_as_int(fmt_json_get(fmt_json_at(list, i), "id"), 0, INT32_MAX, &id))
            Q_FAIL(err, Q_EFORMAT, "%s: added token %zu has no id", hf->name, i);
        Q_TRY(txt_hf_add_object(hf, fmt_json_at(list, i), id, err));
    }
out:
    return st;
}

static q_status read_merges(txt_hf *hf, const fmt_json *model, q_err *err)
{
    const fmt_json *merges = fmt_json_get(model, "merges");
    q_status st = Q_OK;

    if (fmt_json_kind(merges) != FMT_JSON_ARRAY)
        Q_FAIL(err, Q_EFORMAT, "%s: model has no list of merges", hf->name);
    Q_TRY(txt_hf_merges(hf, fmt_json_size(merges), is_true(model, "ignore_merges"), err));
    for (size_t i = 0; i < fmt_json_size(merges); i++) {
        const fmt_json *m = fmt_json_at(merges, i);
        const char *line = fmt_json_text(m), *blank = line ? strchr(line, ' ') : NULL;
        const char *left = fmt_json_text(fmt_json_at(m, 0));
        const char *right = fmt_json_text(fmt_json_at(m, 1));

        if (blank && !strchr(blank + 1, ' '))
            Q_TRY(txt_hf_merge(hf, i, line, (size_t)(blank - line), blank + 1, strlen(blank + 1),
                               err));
        else if (left && right && fmt_json_size(m) == 2)
            Q_TRY(txt_hf_merge(hf, i, left, strlen(left), right, strlen(right), err));
        else
            Q_FAIL(err, Q_EFORMAT, "%s: merge %zu is neither \"a b\" nor [\"a\", \"b\"]", hf->name,
                   i);
    }
out:
    return st;
}

static q_status read_doc(txt_tok **out, const fmt_json *doc, const char *name, q_err *err)
{
    const fmt_json *model = fmt_json_get(doc, "model");
    txt_hf hf = { .name = name };
    q_status st = Q_OK;

    if (fmt_json_kind(model) != FMT_JSON_OBJECT)
        Q_FAIL(err, Q_EFORMAT, "%s: no 'model': not a tokenizer", name);
    Q_TRY(check_model(model, name, err));
    Q_TRY(null_or(doc, "normalizer", "NFC", name, err));
    Q_TRY(check_pre_tokenizer(doc, name, err));
    Q_TRY(null_or(doc, "post_processor", "ByteLevel", name, err));
    Q_TRY(null_or(doc, "decoder", "ByteLevel", name, err));
    Q_TRY(read_added(&hf, fmt_json_get(doc, "added_tokens"), err));
    Q_TRY(txt_hf_vocab(&hf, fmt_json_get(model, "vocab"), err));
    Q_TRY(read_merges(&hf, model, err));
    Q_TRY(txt_hf_make(out, &hf, !is_absent(fmt_json_get(doc, "normalizer")), err));
out:
    txt_hf_free(&hf);
    return st;
}

q_status txt_tok_hfjson(txt_tok **out, const char *bytes, size_t n, const char *name, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *doc = NULL;

    Q_TRY(fmt_json_parse(&doc, bytes, n, name, err));
    Q_TRY(read_doc(out, doc, name, err));
out:
    fmt_json_free(doc);
    return st;
}

q_status txt_tok_load_hfjson(txt_tok **out, const fmt_files *files, const char *path, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *doc = NULL;

    Q_TRY(fmt_files_json(&doc, files, "tokenizer.json", FILE_MAX, err));
    Q_TRY(read_doc(out, doc, path, err));
out:
    fmt_json_free(doc);
    return st;
}
