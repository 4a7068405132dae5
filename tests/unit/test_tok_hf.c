/* tokenizer.json, and vocab.json with merges.txt: small vocabularies known by heart, every part
 * that is refused, files as they are found, and the tokenizer of a trained model. */
#include "tests/t.h"

#include <stdlib.h>
#include <string.h>

#include "formats/base/q_file.h"
#include "formats/text/bpe.h"
#include "formats/text/stream.h"
#include "formats/text/tokenizer.h"
#include "formats/text/unicode.h"
#include "tests/t_text.h"

static q_err err;

static const char *const none[] = { NULL };

/* "1 2 3" */
static const char *encode(const txt_tok *tok, const char *text, unsigned flags)
{
    static q_buf b;
    q_ids ids = { 0 };

    q_buf_clear(&b);
    T_OK(q_buf_puts(&b, "", &err), err);
    T_OK(txt_encode(tok, text, strlen(text), flags, &ids, &err), err);
    for (size_t i = 0; i < ids.n; i++)
        T_OK(q_buf_printf(&b, &err, "%s%d", i ? " " : "", ids.v[i]), err);
    q_ids_free(&ids);
    return b.data;
}

static const char *decode(const txt_tok *tok, const int32_t *ids, size_t n, unsigned flags)
{
    static q_buf b;

    q_buf_clear(&b);
    T_OK(txt_decode(tok, ids, n, flags, &b, &err), err);
    return b.data;
}

static txt_tok *open_text(const char *text)
{
    txt_tok *tok = NULL;

    T_OK(txt_tok_hfjson(&tok, text, strlen(text), "tiny", &err), err);
    return tok;
}

/* *b with the first `from` replaced, which must be there */
static void edit(q_buf *b, const char *from, const char *to)
{
    const char *at = strstr(b->data, from);
    q_buf out = { 0 };

    if (!at)
        t_fail(__FILE__, __LINE__, "'%s' is not in the text", from);
    T_OK(q_buf_put(&out, b->data, (size_t)(at - b->data), &err), err);
    T_OK(q_buf_puts(&out, to, &err), err);
    T_OK(q_buf_puts(&out, at + strlen(from), &err), err);
    q_buf_free(b);
    *b = out;
}

static txt_tok *tiny(const char *const *more, const char *const *added, int n_special)
{
    q_buf text = { 0 };
    txt_tok *tok;

    T_OK(tiny_hfjson(&text, more, added, n_special, &err), err);
    tok = open_text(text.data);
    q_buf_free(&text);
    return tok;
}

/* Only listed pairs merge, in the order of the list. */
static void t_pairs(void)
{
    txt_tok *tok =
        tiny((const char *const[]){ "b c", "a b", "ab c", "x y", "xy z", NULL }, none, 0);

    T_STR(encode(tok, "abc", 0), "97 256"); /* bc comes first, and a with bc is no pair */
    T_STR(encode(tok, "ab", 0), "257");
    T_STR(encode(tok, "bc", 0), "256");
    T_STR(encode(tok, "xyz", 0), "260");
    T_STR(encode(tok, "xyxyz", 0), "259 260");
    T_STR(encode(tok, "xyz xyz", 0), "260 32 260");
    txt_tok_close(tok);
}

/* ignore_merges: a piece that is a token needs no pairs. */
static void t_ignore_merges(void)
{
    q_buf text = { 0 };
    txt_tok *tok;

    T_OK(tiny_hfjson(&text, (const char *const[]){ "b c", "a b", "ab c", NULL }, none, 0, &err),
         err);
    edit(&text, "\"type\":\"BPE\",", "\"type\":\"BPE\",\"ignore_merges\":true,");
    tok = open_text(text.data);
    T_STR(encode(tok, "abc", 0), "258");
    T_STR(encode(tok, "abcabc", 0), "97 256 97 256");
    txt_tok_close(tok);
    q_buf_free(&text);
}

/* Merges as pairs; a rank that is not the order of ids; long pieces go another way. */
static void t_ranks(void)
{
    static const char *const more[] = { "a a", "b b", "aa aa", NULL };
    q_buf text = { 0 }, piece = { 0 };
    txt_tok *tok;

    T_OK(tiny_hfjson(&text, more, none, 0, &err), err);
    edit(&text,
         "\"merges\":[\"\\u0061 \\u0061\",\"\\u0062 \\u0062\",\"\\u0061\\u0061 \\u0061\\u0061\"]",
         "\"merges\":[[\"b\",\"b\"],[\"a\",\"a\"],[\"aa\",\"aa\"]]");
    edit(&text, "\":256", "\":300"); /* aa: behind a gap */
    tok = open_text(text.data);
    T_INT(txt_vocab_size(tok), 301);
    T_STR(encode(tok, "aaabb", 0), "300 97 257");
    T_STR(encode(tok, "aaaa", 0), "258");
    T_STR(decode(tok, (const int32_t[]){ 300, 256, 299, 257, 97 }, 5, 0), "aabba");
    for (int i = 0; i < 100; i++)
        T_OK(q_buf_puts(&piece, "a", &err), err);
    for (int i = 0; i < 25; i++)
        T_INT(strncmp(encode(tok, piece.data, 0) + 4 * i, "258 ", i < 24 ? 4 : 3), 0);
    txt_tok_close(tok);
    q_buf_free(&piece);
    q_buf_free(&text);
}

/* Special tokens need the flag; the others are part of every text. */
static void t_added(void)
{
    static const char *const added[] = { "<|im_end|>", "<think>", "<|im_end|>>", NULL };
    txt_tok *tok = tiny((const char *const[]){ "h e", NULL }, added, 1);
    const int32_t ids[] = { 256, 257, 258, 259 };

    T_STR(encode(tok, "he<think>he<|im_end|>he", TXT_SPECIALS), "256 258 256 257 256");
    T_STR(encode(tok, "he<think>he<|im", 0), "256 258 256 60 124 105 109");
    T_STR(encode(tok, "<|im_end|>>", 0), "259");
    T_STR(encode(tok, "<|im_end|>", 0), "60 124 105 109 95 101 110 100 124 62");
    T_STR(encode(tok, "<|im_end|>>", TXT_SPECIALS), "259"); /* the longest */
    T_STR(decode(tok, ids, 4, 0), "he<|im_end|><think><|im_end|>>");
    T_STR(decode(tok, ids, 4, TXT_SKIP_SPECIALS), "he<think><|im_end|>>");
    T_INT(txt_is_special(tok, 257), 1);
    T_INT(txt_is_special(tok, 258), 0);
    T_INT(txt_special_id(tok, "<think>"), 258);
    T_INT(txt_vocab_size(tok), 260);
    txt_tok_close(tok);
}

/* A token that is looked for before normalisation keeps its last character; one that is looked for
 * after it has lost it to the mark behind.  Without a normaliser text stays as it is. */
static void t_normalized(void)
{
    static const char *const added[] = { "<x>", NULL };
    static const char text[] = "<x>\u0338e\u0301";
    q_buf json = { 0 };
    txt_tok *tok;

    T_OK(tiny_hfjson(&json, none, added, 0, &err), err);
    tok = open_text(json.data);
    T_STR(encode(tok, text, 0), "256 204 184 195 169");
    txt_tok_close(tok);
    edit(&json, "\"normalized\":false", "\"normalized\":true");
    tok = open_text(json.data);
    T_STR(encode(tok, text, 0), "60 120 226 137 175 195 169");
    T_STR(encode(tok, "a<x>b", 0), "97 256 98");
    txt_tok_close(tok);
    edit(&json, "{\"type\":\"NFC\"}", "null");
    tok = open_text(json.data);
    T_STR(encode(tok, text, 0), "256 204 184 101 204 129");
    T_STR(encode(tok, "\xFF", 0), "239 191 189");
    txt_tok_close(tok);
    q_buf_free(&json);
}

/* An added token may stand in the vocabulary too. */
static void t_added_inside(void)
{
    q_buf json = { 0 };
    txt_tok *tok = NULL;

    T_OK(tiny_hfjson(&json, (const char *const[]){ "h e", NULL },
                     (const char *const[]){ "<think>", NULL }, 0, &err),
         err);
    edit(&json, "\":256", "\":256,\"<think>\":257");
    tok = open_text(json.data);
    T_STR(encode(tok, "he<think>", 0), "256 257");
    T_STR(decode(tok, (const int32_t[]){ 257 }, 1, 0), "<think>");
    txt_tok_close(tok);
    edit(&json, "\"<think>\":257", "\"<thank>\":257");
    T_ERR(txt_tok_hfjson(&tok, json.data, json.size, "tiny", &err), err, Q_EFORMAT,
          "tiny: id 257 is '<thank>' in the vocabulary and '<think>' among the added tokens");
    q_buf_free(&json);
}

/* One part of a good file replaced: what the message must say */
static void t_malformed(void)
{
    static const struct {
        const char *from, *to;
        q_status status;
        const char *part;
    } rows[] = {
        { "{\"normalizer\"", "[{\"normalizer\"", Q_EFORMAT, "bad: line 1" },
        { "\"model\"", "\"modal\"", Q_EFORMAT, "bad: no 'model': not a tokenizer" },
        { "\"BPE\"", "\"Unigram\"", Q_EUNSUPPORTED, "bad: model of type 'Unigram', wanted BPE" },
        { "\"type\":\"BPE\"", "\"dropout\":0.1,\"type\":\"BPE\"", Q_EUNSUPPORTED,
          "bad: model has dropout: encoding would be random" },
        { "\"type\":\"BPE\"", "\"end_of_word_suffix\":\"</w>\",\"type\":\"BPE\"", Q_EUNSUPPORTED,
          "bad: model has end_of_word_suffix '</w>', wanted none" },
        { "\"type\":\"BPE\"", "\"continuing_subword_prefix\":\"##\",\"type\":\"BPE\"",
          Q_EUNSUPPORTED, "bad: model has continuing_subword_prefix '##', wanted none" },
        { "\"type\":\"BPE\"", "\"byte_fallback\":true,\"type\":\"BPE\"", Q_EUNSUPPORTED,
          "bad: model has byte_fallback, wanted byte-level BPE" },
        { "{\"type\":\"NFC\"}", "{\"type\":\"NFKC\"}", Q_EUNSUPPORTED,
          "bad: normalizer of type 'NFKC', wanted NFC or null" },
        { "{\"type\":\"NFC\"}", "7", Q_EUNSUPPORTED, "bad: normalizer of type '', wanted NFC" },
        { "{\"normalizer\"", "{\"decoder\":{\"type\":\"Metaspace\"},\"normalizer\"", Q_EUNSUPPORTED,
          "bad: decoder of type 'Metaspace', wanted ByteLevel or null" },
        { "{\"normalizer\"", "{\"post_processor\":{\"type\":\"TemplateProcessing\"},\"normalizer\"",
          Q_EUNSUPPORTED, "bad: post_processor of type 'TemplateProcessing', wanted ByteLevel" },
        { "\"Sequence\"", "\"Whitespace\"", Q_EUNSUPPORTED,
          "bad: pre_tokenizer of type 'Whitespace', wanted a Sequence of Split and ByteLevel" },
        { "\\\\p{L}+|", "[\\\\p{L}\\\\p{M}]+|", Q_EUNSUPPORTED,
          "bad: pre_tokenizer splits by '(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}"
          "\\p{M}]+|" },
        { "\"Isolated\"", "\"Removed\"", Q_EUNSUPPORTED,
          "bad: pre_tokenizer Split has behavior 'Removed', wanted Isolated" },
        { "\"invert\":false", "\"invert\":true", Q_EUNSUPPORTED,
          "bad: pre_tokenizer Split has behavior 'Isolated', inverted, wanted Isolated" },
        { "\"use_regex\":false", "\"use_regex\":true", Q_EUNSUPPORTED,
          "bad: pre_tokenizer ByteLevel needs add_prefix_space and use_regex false" },
        { ",\"use_regex\":false", "", Q_EUNSUPPORTED, "use_regex false" },
        { "\"vocab\":{", "\"vocab\":[],\"x\":{", Q_EFORMAT,
          "bad: the vocabulary is not an object with tokens" },
        { "\"\\u0101\":1", "\"\\u0101\":-1", Q_EFORMAT,
          "bad: token '\u0101': the id is not a number from 0 to 1048575" },
        { "\"\\u0101\":1,", "\"\\u0101\":2,", Q_EFORMAT,
          "bad: tokens '\u0101' and '\u0102' have the same id 2" },
        { "\"\\u0101\":1,", "\"\\u0101\":1048576,", Q_EFORMAT, "the id is not a number" },
        { "\"\\u0101\":1,", "\"\\u0150\":1,", Q_EFORMAT,
          "bad: token 1 '\u0150' is not 1 to 1024 bytes in byte-level spelling" },
        { "\"\\u0101\":1,", "\"\":1,", Q_EFORMAT, "bad: token 1 '' is not 1 to 1024 bytes" },
        { "\"\\u0101\":1,", "", Q_EFORMAT, "bad: no token for the single byte 0x01" },
        { "\"merges\":[", "\"merges\":7,\"x\":[", Q_EFORMAT, "bad: model has no list of merges" },
        { "\"merges\":[", "\"merges\":[7,", Q_EFORMAT,
          "bad: merge 0 is neither \"a b\" nor [\"a\", \"b\"]" },
        { "\"merges\":[", "\"merges\":[\"ab\",", Q_EFORMAT, "bad: merge 0 is neither" },
        { "\"merges\":[", "\"merges\":[\"a b c\",", Q_EFORMAT, "bad: merge 0 is neither" },
        { "\"merges\":[", "\"merges\":[[\"a\"],", Q_EFORMAT, "bad: merge 0 is neither" },
        { "\"merges\":[", "\"merges\":[[\"a\",\"b\",\"c\"],", Q_EFORMAT,
          "bad: merge 0 is neither" },
        { "\"merges\":[", "\"merges\":[\"a \",", Q_EFORMAT, "bad: merge 0: '' is no token" },
        { "\"merges\":[", "\"merges\":[\"zz b\",", Q_EFORMAT, "bad: merge 0: 'zz' is no token" },
        { "\"merges\":[", "\"merges\":[\"a z\",", Q_EFORMAT,
          "bad: merge 0 'a z': ids 97 and 122 together are no token" },
        { "\"merges\":[", "\"merges\":[\"h e\",", Q_EFORMAT,
          "bad: merge 1 'h e': the same pair as merge 0" },
        { "\"added_tokens\":[", "\"added_tokens\":7,\"x\":[", Q_EFORMAT,
          "bad: added_tokens is not a list" },
        { "\"id\":257,", "", Q_EFORMAT, "bad: added token 0 has no id" },
        { "\"id\":257,", "\"id\":1048576,", Q_EFORMAT,
          "bad: added token '<|a|>' has id 1048576, wanted 0 to 1048575" },
        { "\"content\":\"<|a|>\"", "\"content\":7", Q_EFORMAT,
          "bad: the added token with id 257 has no text 'content'" },
        { "\"content\":\"<|a|>\"", "\"content\":\"\"", Q_EFORMAT,
          "bad: the added token with id 257 is empty" },
        { "\"content\":\"<|a|>\"", "\"content\":\"<|b|>\"", Q_EFORMAT,
          "bad: added token '<|b|>' has two ids, 257 and 258" },
        { "\"id\":257,", "\"id\":258,", Q_EFORMAT,
          "bad: added tokens '<|a|>' and '<|b|>' have the same id 258" },
        { "\"special\":true", "\"special\":1", Q_ECONFIG, "bad: added token '<|a|>': " },
        { "\"normalized\":false", "\"normalized\":\"no\"", Q_ECONFIG,
          "bad: added token '<|a|>': " },
        { "\"normalized\":false", "\"normalized\":false,\"lstrip\":true", Q_EUNSUPPORTED,
          "bad: added token '<|a|>' has 'lstrip': true, wanted false" },
        { "\"normalized\":false", "\"normalized\":false,\"rstrip\":0", Q_ECONFIG,
          "bad: added token '<|a|>': " },
        { "\"content\":\"<|a|>\",\"normalized\":false",
          "\"content\":\"e\u0301\",\"normalized\":true", Q_EUNSUPPORTED,
          "has 'normalized': true, and its text is not in NFC" },
    };
    txt_tok *tok = NULL;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        q_buf json = { 0 };

        T_OK(tiny_hfjson(&json, (const char *const[]){ "h e", NULL },
                         (const char *const[]){ "<|a|>", "<|b|>", NULL }, 2, &err),
             err);
        edit(&json, rows[i].from, rows[i].to);
        T_ERR(txt_tok_hfjson(&tok, json.data, json.size, "bad", &err), err, rows[i].status,
              rows[i].part);
        T_TRUE(tok == NULL);
        q_buf_free(&json);
    }
    T_ERR(txt_tok_hfjson(&tok, "", 0, "bad", &err), err, Q_EFORMAT, "bad: ");
}

/* Place of a pair in a table of 4096 (bpe.c) */
static unsigned place(int left, int right)
{
    const uint64_t h = ((uint64_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;

    return (unsigned)(h ^ h >> 32) & 4095;
}

/* Pairs made to fall on a few places of the table: refused, or loading would take hours. */
static void t_crowded(void)
{
    txt_bpe *b = NULL;
    q_status st = Q_OK;
    int n = 0;

    T_OK(txt_bpe_create(&b, 256 + 40000, 256 + 80000, &err), err);
    for (int c = 0; c < 256; c++)
        T_OK(txt_bpe_add(b, &(char){ (char)c }, 1, &err), err);
    for (int c = 0; c < 40000; c++) /* every pair of the first 200 bytes is a token */
        T_OK(txt_bpe_add(b, (const char[]){ (char)(c / 200), (char)(c % 200) }, 2, &err), err);
    T_OK(txt_bpe_pairs(b, 2000, 0, &err), err);
    for (int c = 0; c < 40000 && n < 2000 && st == Q_OK; c++)
        if (place(c / 200, c % 200) < 200) {
            st = txt_bpe_merge(b, c / 200, c % 200, &err);
            n++;
        }
    T_TRUE(n > 1024);
    T_ERR(st, err, Q_EFORMAT, "more than 1024 pairs fall on one place of the hash table");
    txt_bpe_free(b);
    b = NULL;
    T_OK(txt_bpe_create(&b, 256, 256, &err), err);
    T_ERR(txt_bpe_pairs(b, TXT_BPE_MAX_TOKENS + 1, 0, &err), err, Q_ESHAPE,
          "1048577 merges, at most 1048576");
    txt_bpe_free(b);
}

static void put_file(const char *dir, const char *name, const char *text)
{
    char *path = q_path_join(dir, name);

    T_TRUE(path);
    T_OK(q_out_whole(path, 1, text, strlen(text), &err), err);
    q_free(path);
}

/* vocab.json with merges.txt, and the files that may stand beside them */
static void t_vocab_files(void)
{
    char *dir = q_path_join(t_tmpdir(), "vocab");
    q_buf json = { 0 };
    txt_tok *tok = NULL;
    char *vocab, *end;

    T_OK(q_dir_make(dir, &err), err);
    T_OK(tiny_hfjson(&json, (const char *const[]){ "h e", "he y", NULL }, none, 0, &err), err);
    vocab = strstr(json.data, "\"vocab\":") + 8;
    end = strstr(vocab, ",\"merges\"");
    *end = '\0';
    put_file(dir, "vocab.json", vocab);
    T_ERR(txt_tok_open(&tok, dir, &err), err, Q_ENOINPUT, "merges.txt");
    put_file(dir, "merges.txt", "#version: 0.2\nh e\nhe y\n");
    T_OK(txt_tok_open(&tok, dir, &err), err);
    T_STR(encode(tok, "hey<think>", 0), "257 60 116 104 105 110 107 62");
    T_STR(encode(tok, "e\u0301", 0), "195 169");
    T_INT(txt_vocab_size(tok), 258);
    txt_tok_close(tok);

    put_file(dir, "added_tokens.json", "{\"<think>\": 258, \"<|im_end|>\": 300}");
    put_file(dir, "tokenizer_config.json",
             "{\"tokenizer_class\": \"Qwen2Tokenizer\", \"added_tokens_decoder\": {\"300\": "
             "{\"content\": \"<|im_end|>\", \"special\": true}}}");
    put_file(dir, "merges.txt", "h e\r\nhe y"); /* CR LF, and no end of the last line */
    T_OK(txt_tok_open(&tok, dir, &err), err);
    T_STR(encode(tok, "hey<think><|im_end|>", TXT_SPECIALS), "257 258 300");
    T_INT(txt_is_special(tok, 258), 0);
    T_INT(txt_is_special(tok, 300), 1);
    txt_tok_close(tok);

    tok = NULL;
    put_file(dir, "merges.txt", "h e\nhey\n");
    T_ERR(txt_tok_open(&tok, dir, &err), err, Q_EFORMAT,
          "merges.txt: merge 1 is not two tokens with a blank between them");
    put_file(dir, "merges.txt", "h e\nhe q\n");
    T_ERR(txt_tok_open(&tok, dir, &err), err, Q_EFORMAT,
          "merges.txt: merge 1 'he q': ids 256 and 113 together are no token");
    put_file(dir, "merges.txt", "");
    T_OK(txt_tok_open(&tok, dir, &err), err);
    T_STR(encode(tok, "hey", 0), "104 101 121");
    txt_tok_close(tok);

    tok = NULL;
    put_file(dir, "added_tokens.json", "{\"<think>\": \"x\"}");
    T_ERR(txt_tok_open(&tok, dir, &err), err, Q_EFORMAT,
          "vocab.json: added_tokens.json: '<think>' has no id");
    put_file(dir, "added_tokens.json", "{\"<think>\": 300}");
    T_ERR(txt_tok_open(&tok, dir, &err), err, Q_EFORMAT,
          "vocab.json: added tokens '<|im_end|>' and '<think>' have the same id 300");
    put_file(dir, "tokenizer_config.json", "{\"added_tokens_decoder\": {\"3x\": {}}}");
    T_ERR(txt_tok_open(&tok, dir, &err), err, Q_EFORMAT,
          "vocab.json: added_tokens_decoder: '3x' is not an id");
    put_file(dir, "tokenizer_config.json", "{\"tokenizer_class\": \"GPT2Tokenizer\"}");
    T_ERR(txt_tok_open(&tok, dir, &err), err, Q_EUNSUPPORTED,
          "vocab.json: tokenizer_class 'GPT2Tokenizer', wanted Qwen2Tokenizer");
    q_buf_free(&json);
    q_free(dir);
}

/* All kinds of text through the tokenizer of a trained model and back, at once and in a stream */
static void t_qwen2_tiny(void)
{
    static const char *const texts[] = {
        "",
        "Hello world",
        "  two  blanks ",
        "\u4F60\u597D \U0001F600",
        "e\u0301\n\n\t x'll",
        "<|im_start|>user\nhi<|im_end|>\n",
    };
    txt_tok *tok = NULL;

    T_OK(txt_tok_open(&tok, T_SHARED("models/qwen2-tiny"), &err), err);
    T_INT(txt_vocab_size(tok), 3891);
    T_INT(txt_special_id(tok, "<|im_end|>"), 3890);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        q_ids ids = { 0 };
        q_buf nfc = { 0 }, joined = { 0 };
        txt_stream s = { .tok = tok };
        const char *p;
        size_t n;

        T_OK(txt_encode(tok, texts[i], strlen(texts[i]), 0, &ids, &err), err);
        T_OK(q_buf_puts(&nfc, "", &err), err);
        T_OK(txt_nfc(&nfc, texts[i], strlen(texts[i]), &err), err);
        T_STR(decode(tok, ids.v, ids.n, TXT_SKIP_SPECIALS), nfc.data);
        T_OK(q_buf_puts(&joined, "", &err), err);
        for (size_t k = 0; k < ids.n; k++) {
            T_OK(txt_stream_push(&s, ids.v[k], &p, &n, &err), err);
            T_OK(q_buf_put(&joined, p ? p : "", n, &err), err);
        }
        T_OK(txt_stream_end(&s, &p, &n, &err), err);
        T_INT(n, 0);
        T_STR(joined.data, nfc.data);
        txt_stream_free(&s);
        q_buf_free(&joined);
        q_buf_free(&nfc);
        q_ids_free(&ids);
    }
    T_STR(encode(tok, "<|im_end|>", TXT_SPECIALS), "3890");
    txt_tok_close(tok);
}

static const t_case cases[] = {
    T(t_pairs),       T(t_ignore_merges), T(t_ranks),     T(t_added),
    T(t_normalized),  T(t_added_inside),  T(t_malformed), T(t_crowded),
    T(t_vocab_files), T(t_qwen2_tiny),    { 0 },
};

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
