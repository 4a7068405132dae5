/* Tokenizer: golden ids of the Qwen vocabulary, a tiny vocabulary known by heart, merging against
 * a plain quadratic reference, and the time that the longest pieces take. */
#include "tests/t.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "formats/base/q_file.h"
#include "formats/base/q_hash.h"
#include "formats/text/bpe.h"
#include "formats/text/tokenizer.h"
#include "formats/text/unicode.h"
#include "tests/t_text.h"

static q_err err;

/* The vocabulary of ../shared, opened once for all tests. */
static const txt_tok *qwen(void)
{
    static txt_tok *tok;
    const char *dir = T_SHARED("data/tokenizers");

    if (!tok)
        T_OK(txt_tok_open(&tok, dir, &err), err);
    return tok;
}

static txt_tok *tiny(const char *const *more)
{
    q_buf file = { 0 };
    txt_tok *tok = NULL;

    T_OK(tiny_vocab(&file, more, &err), err);
    T_OK(txt_tok_tiktoken(&tok, file.data, file.size, "tiny", &err), err);
    q_buf_free(&file);
    return tok;
}

/* "1 2 3" */
static const char *id_text(const int32_t *v, size_t n)
{
    static q_buf b;

    q_buf_clear(&b);
    T_OK(q_buf_puts(&b, "", &err), err);
    for (size_t i = 0; i < n; i++)
        T_OK(q_buf_printf(&b, &err, "%s%d", i ? " " : "", v[i]), err);
    return b.data;
}

/* Encodes, compares the ids, decodes, compares with the NFC of the text. */
static void check(const txt_tok *tok, const char *text, size_t n, unsigned flags, const char *want)
{
    q_ids ids = { 0 };
    q_buf back = { 0 }, nfc = { 0 };

    T_OK(txt_encode(tok, text, n, flags, &ids, &err), err);
    T_STR(id_text(ids.v, ids.n), want);
    T_OK(txt_decode(tok, ids.v, ids.n, 0, &back, &err), err);
    T_OK(txt_nfc(&nfc, text, n, &err), err);
    T_INT(back.size, nfc.size);
    T_INT(memcmp(back.data, nfc.data, nfc.size), 0);
    q_ids_free(&ids);
    q_buf_free(&back);
    q_buf_free(&nfc);
}

/* The character behind the \ of a JSON string at *p, which moves on */
static uint32_t read_escape(const char **p)
{
    static const char escape[] = "\"\\/bfnrt", value[] = "\"\\/\b\f\n\r\t";
    const char *s = *p, *e = strchr(escape, *s);
    unsigned hi, lo = 0;

    *p = s + 1;
    if (e && *e)
        return (uint8_t)value[e - escape];
    T_INT(sscanf(s, "u%4x", &hi), 1);
    *p = s + 5;
    if (hi < 0xD800 || hi >= 0xE000)
        return hi;
    T_INT(sscanf(s + 5, "\\u%4x", &lo), 1);
    *p = s + 11;
    return 0x10000 + ((hi - 0xD800) << 10) + (lo - 0xDC00);
}

/* JSON string at *p into b; the golden file holds \u0000, which the strict reader refuses. */
static void read_string(q_buf *b, const char **p)
{
    T_INT(*(*p)++, '"');
    q_buf_clear(b);
    while (**p != '"') {
        char bytes[4] = { **p };
        size_t n = 1;

        T_TRUE(**p != '\0');
        if (*(*p)++ == '\\')
            n = put_utf8(bytes, read_escape(p));
        T_OK(q_buf_put(b, bytes, n, &err), err);
    }
    (*p)++;
}

/* The id list behind key, as "1 2 3" */
static void read_list(q_buf *b, const char *line, const char *key)
{
    const char *p = strstr(line, key);

    T_TRUE(p);
    q_buf_clear(b);
    T_OK(q_buf_puts(b, "", &err), err);
    for (p += strlen(key); *p != ']'; p++)
        if (*p != ',')
            T_OK(q_buf_put(b, p, 1, &err), err);
}

/* Writes name into dir; text is taken apart from the files of ../shared. */
static void write_file(const char *dir, const char *name, const q_buf *text)
{
    char *path = q_path_join(dir, name);

    T_TRUE(path);
    T_OK(q_out_whole(path, 1, text->data, text->size, &err), err);
    q_free(path);
}

/* The lines of merges.txt as a JSON list */
static void put_merges(q_buf *out, const char *lines)
{
    T_OK(q_buf_puts(out, "[\"", &err), err);
    for (const char *p = lines; *p; p++) {
        if (*p == '"' || *p == '\\')
            T_OK(q_buf_puts(out, "\\", &err), err);
        if (*p != '\n')
            T_OK(q_buf_put(out, p, 1, &err), err);
        else if (p[1])
            T_OK(q_buf_puts(out, "\",\n\"", &err), err);
    }
    T_OK(q_buf_puts(out, "\"]", &err), err);
}

/* The same vocabulary in the form of the later releases, opened once: vocab.json with merges.txt,
 * or a tokenizer.json made of them. */
static const txt_tok *qwen2(int json)
{
    static txt_tok *tok[2];
    static const char head[] = /* of a tokenizer.json without a vocabulary */
        "{\"model\":{\"type\":\"BPE\",\"vocab\":";
    q_buf vocab = { 0 }, merges = { 0 }, config = { 0 }, text = { 0 }, empty = { 0 };
    char *dir = q_path_join(t_tmpdir(), json ? "json" : "vocab");
    const char *tail;

    T_OK(q_file_slurp(&vocab, T_SHARED("data/tokenizers/qwen2-vocab.json"), 1 << 24, &err), err);
    T_OK(q_file_slurp(&merges, T_SHARED("data/tokenizers/qwen2-merges.txt"), 1 << 24, &err), err);
    T_OK(q_file_slurp(&config, T_SHARED("data/tokenizers/configs/qwen3-8b/tokenizer_config.json"),
                      1 << 24, &err),
         err);
    if (!tok[json]) {
        T_OK(q_dir_make(dir, &err), err);
        write_file(dir, "vocab.json", &vocab);
        write_file(dir, "merges.txt", &merges);
        write_file(dir, "tokenizer_config.json", &config);
        T_OK(tiny_hfjson(&empty, (const char *const[]){ NULL },
                         (const char *const[]){ "<|endoftext|>", NULL }, 1, &err),
             err);
        tail = strstr(empty.data, ",\"model\"");
        T_TRUE(tail);
        T_OK(q_buf_puts(&text, head, &err), err);
        T_OK(q_buf_put(&text, vocab.data, vocab.size, &err), err);
        T_OK(q_buf_puts(&text, ",\"merges\":", &err), err);
        put_merges(&text, merges.data);
        T_OK(q_buf_puts(&text, "},", &err), err);
        T_OK(q_buf_put(&text, empty.data + 1, (size_t)(tail - empty.data) - 1, &err), err);
        T_OK(q_buf_puts(
                 &text,
                 ",\"added_tokens\":[{\"id\":151643,\"content\":\"<|endoftext|>\",\"special\":"
                 "true},{\"id\":151667,\"content\":\"<think>\",\"normalized\":false}]}",
                 &err),
             err);
        if (json)
            write_file(dir, "tokenizer.json", &text); /* goes before vocab.json */
        T_OK(txt_tok_open(&tok[json], dir, &err), err);
    }
    q_buf_free(&empty);
    q_buf_free(&text);
    q_buf_free(&config);
    q_buf_free(&merges);
    q_buf_free(&vocab);
    q_free(dir);
    return tok[json];
}

static void t_qwen2_files(void)
{
    T_INT(txt_vocab_size(qwen2(0)), 151669);
    T_INT(txt_special_id(qwen2(0), "</think>"), 151668);
    T_INT(txt_special_id(qwen2(1), "</think>"), -1);
    T_INT(txt_vocab_size(qwen2(1)), 151668);
    for (int json = 0; json < 2; json++) {
        T_INT(txt_is_special(qwen2(json), 151643), 1);
        T_INT(txt_is_special(qwen2(json), 151667), 0);
        check(qwen2(json), "a<think>b<|endoftext|>", 22, TXT_SPECIALS, "64 151667 65 151643");
        check(qwen2(json), "a<think>b<|end", 14, 0, "64 151667 65 27 91 408");
    }
    check(qwen2(0), "<|fim_prefix|><|im_end|>", 24, 0, "151659 27 91 318 6213 91 29");
}

static void t_golden(void)
{
    const txt_tok *tok = qwen(), *vocab = qwen2(0), *json = qwen2(1);
    q_buf file = { 0 }, text = { 0 }, want = { 0 };
    int lines = 0;

    T_OK(q_file_slurp(&file, T_SHARED("golden/qwen-tokenizer.jsonl"), (size_t)1 << 26, &err), err);
    for (char *line = file.data, *end; *line; line = end + 1, lines++) {
        const char *p;

        end = strchr(line, '\n');
        T_TRUE(end);
        *end = '\0';
        T_INT(strncmp(line, "{\"text\": ", 9), 0);
        p = line + 9;
        read_string(&text, &p);
        read_list(&want, p, "\"ids\": [");
        check(tok, text.data, text.size, 0, want.data);
        check(vocab, text.data, text.size, 0, want.data);
        check(json, text.data, text.size, 0, want.data);
        read_list(&want, p, "\"ids_special\": [");
        check(tok, text.data, text.size, TXT_SPECIALS, want.data);
    }
    T_INT(lines, 1371);
    q_buf_free(&file);
    q_buf_free(&text);
    q_buf_free(&want);
}

static void t_qwen2_vectors(void)
{
    static const char mark[] = "\n__ggml_vocab_test__\n";
    const txt_tok *tok[] = { qwen(), qwen2(0), qwen2(1) };
    q_buf in = { 0 }, out = { 0 };
    char *text, *want;
    int n = 0;

    T_OK(q_file_slurp(&in, T_SHARED("data/tokenizers/qwen2-vectors.inp"), 1 << 20, &err), err);
    T_OK(q_file_slurp(&out, T_SHARED("data/tokenizers/qwen2-vectors.out"), 1 << 20, &err), err);
    text = in.data;
    want = out.data;
    for (char *end; (end = strstr(text, mark)) != NULL; text = end + strlen(mark), n++) {
        char *eol = strchr(want, '\n');

        T_TRUE(eol);
        *eol = '\0';
        for (size_t k = 0; k < sizeof tok / sizeof tok[0]; k++)
            check(tok[k], text, (size_t)(end - text), 0, want + (*want == ' '));
        want = eol + 1;
    }
    T_INT(n, 46);
    T_STR(text, "");
    T_STR(want, "");
    q_buf_free(&in);
    q_buf_free(&out);
}

static void t_known_ids(void)
{
    static const struct {
        const char *text, *ids;
        unsigned flags;
    } rows[] = {
        { "print(\"<|endoftext|>\")", "1350 445 151643 899", TXT_SPECIALS },
        { "print(\"<|endoftext|>\")", "1350 9639 91 8691 723 427 91 82598", 0 },
        { "print(\"<|extra_0|>\")<|endoftext|>", "1350 445 151646 899 151643", TXT_SPECIALS },
        { "<|extra_204|><|extra_205|>", "151850 27 91 15460 62 17 15 20 91 29", TXT_SPECIALS },
        { "\n", "198", TXT_SPECIALS },
        { "system", "8948", TXT_SPECIALS },
        { "user", "872", TXT_SPECIALS },
        { "assistant", "77091", TXT_SPECIALS },
        { "Observation:", "37763 367 25", TXT_SPECIALS },
        { "Human:", "33975 25", TXT_SPECIALS },
        { "Hello world 12345's\n\n  x", "9707 1879 220 16 17 18 19 20 594 271 220 856",
          TXT_SPECIALS },
        { "I'LL don't  \t\r\n end   ", "40 6 4086 1513 944 256 4474 835 262", TXT_SPECIALS },
        { " \u6839", "51461 117", TXT_SPECIALS },
        { "e\u0301", "963", TXT_SPECIALS },
        { "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
          "\u4F60\u597D\uFF0C\u8BF7\u95EE\u4F60\u53EB\u4EC0\u4E48\uFF1F<|im_end|>\n"
          "<|im_start|>assistant\n",
          "151644 8948 198 2610 525 264 10950 17847 13 151645 198 151644 872 198 108386 37945 "
          "56007 56568 99882 99245 11319 151645 198 151644 77091 198",
          TXT_SPECIALS },
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        check(qwen(), rows[i].text, strlen(rows[i].text), rows[i].flags, rows[i].ids);
    T_INT(txt_vocab_size(qwen()), 151851);
    T_INT(txt_special_id(qwen(), "<|im_end|>"), 151645);
    T_INT(txt_special_id(qwen(), "<|extra_204|>"), 151850);
}

static void check_wikitext(const q_buf *text, const char *first, const char *sha)
{
    q_ids ids = { 0 };
    q_buf back = { 0 };
    uint8_t digest[32];
    char hex[65];
    q_sha256 h;

    T_OK(txt_encode(qwen(), text->data, text->size, 0, &ids, &err), err);
    T_INT(ids.n, 299078);
    T_STR(id_text(ids.v, 8), first);
    q_sha256_init(&h);
    q_sha256_update(&h, ids.v, ids.n * sizeof *ids.v); /* little-endian machines only, as is ours */
    q_sha256_final(&h, digest);
    q_hex(hex, digest, 32);
    T_STR(hex, sha);
    T_OK(txt_decode(qwen(), ids.v, ids.n, 0, &back, &err), err);
    T_STR(back.data, text->data);
    q_ids_free(&ids);
    q_buf_free(&back);
}

static void t_wikitext(void)
{
    q_buf text = { 0 }, joined = { 0 };

    T_OK(q_file_slurp(&text, T_SHARED("data/text/wikitext2-test.txt"), (size_t)1 << 24, &err), err);
    check_wikitext(&text, "715 284 8397 425 10965 465 284 31906",
                   "8557ef42be22a592e5f1704026fedbedc937b484e52f517add9f478adc0de20f");
    for (const char *line = text.data, *end; *line; line = end + 1) { /* the rows, joined by \n\n */
        end = strchr(line, '\n');
        T_TRUE(end);
        if (line != text.data)
            T_OK(q_buf_puts(&joined, "\n\n", &err), err);
        if (end - line > 1)
            T_OK(q_buf_put(&joined, line, (size_t)(end - line) + 1, &err), err);
    }
    T_INT(joined.size, 1296370);
    check_wikitext(&joined, "271 284 8397 425 10965 465 284 76325",
                   "b44603066a92719a20e2dc18d6c5f7f5342b1877c20c1e2bdd92deca662d3d56");
    q_buf_free(&text);
    q_buf_free(&joined);
}

static void t_tiny(void)
{
    static const char *const more[] = {
        "he", "ll", "hell", "lo", " w", "or", "hello", "xyz", NULL
    };
    static const struct {
        const char *text, *ids;
        unsigned flags;
    } rows[] = {
        { "", "", 0 },
        { "h", "104", 0 },
        { "hello", "262", 0 },
        { "xyz", "263", 0 }, /* whole piece first: no merge makes it */
        { "xyzx", "120 121 122 120", 0 },
        { "helloo", "262 111", 0 },
        { "lll", "257 108", 0 }, /* leftmost of equals */
        { "llo", "257 111", 0 }, /* ll has a lower rank than lo */
        { "helo", "256 259", 0 },
        { " world", "260 261 108 100", 0 },
        { "hell<|im_end|>hell", "258 266 258", TXT_SPECIALS },
        { "hell<|im_end|>", "258 60 124 105 109 95 101 110 100 124 62", 0 },
        { "<|im_end|><|im_start|><|endoftext|>", "266 265 264", TXT_SPECIALS },
        { "<|<|im_end|>|>", "60 124 266 124 62", TXT_SPECIALS },
        { "<|im_en", "60 124 105 109 95 101 110", TXT_SPECIALS },
        { "<|extra_1|><|extra_10|><|extra_100|>", "268 277 367", TXT_SPECIALS },
        { "  <|im_end|>", "32 32 266", TXT_SPECIALS },
        { "<|im_end|>\u0338", "60 124 105 109 95 101 110 100 124 226 137 175", TXT_SPECIALS },
        { "\xFFh", "239 191 189 104", 0 },
    };
    txt_tok *tok = tiny(more);

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        check(tok, rows[i].text, strlen(rows[i].text), rows[i].flags, rows[i].ids);
    check(tok, "a\0b", 3, TXT_SPECIALS, "97 0 98");
    T_INT(txt_vocab_size(tok), 264 + 208);
    T_INT(txt_special_id(tok, "<|endoftext|>"), 264);
    T_INT(txt_special_id(tok, "<|extra_204|>"), 264 + 207);
    T_INT(txt_special_id(tok, "<|extra_205|>"), -1);
    T_INT(txt_special_id(tok, "<|im_end"), -1);
    T_INT(txt_special_id(tok, ""), -1);
    T_INT(txt_is_special(tok, 263), 0);
    T_INT(txt_is_special(tok, 264), 1);
    T_INT(txt_is_special(tok, 471), 1);
    T_INT(txt_is_special(tok, 472), 0);
    T_INT(txt_is_special(tok, -1), 0);
    txt_tok_close(tok);
    txt_tok_close(NULL);
}

static void t_decode(void)
{
    static const char *const more[] = { "he", NULL };
    txt_tok *tok = tiny(more);
    const int32_t ids[] = { 256, 258, 0xE4, 0xBD, 257 };
    q_buf b = { 0 };

    T_OK(txt_decode_bytes(tok, ids, 5, 0, &b, &err), err);
    T_STR(b.data, "he<|im_start|>\xE4\xBD<|endoftext|>");
    q_buf_clear(&b);
    T_OK(txt_decode(tok, ids, 5, TXT_SKIP_SPECIALS, &b, &err), err);
    T_STR(b.data, "he\uFFFD");
    q_buf_free(&b);
    T_OK(txt_decode(tok, NULL, 0, 0, &b, &err), err); /* an empty text is a text */
    T_STR(b.data, "");
    T_ERR(txt_decode(tok, (const int32_t[]){ 0, 465 }, 2, 0, &b, &err), err, Q_EFORMAT,
          "token id 465 at place 1: the vocabulary has 0 to 464");
    T_ERR(txt_decode_bytes(tok, (const int32_t[]){ -1 }, 1, 0, &b, &err), err, Q_EFORMAT,
          "token id -1 at place 0");
    q_buf_free(&b);
    txt_tok_close(tok);
}

/* Appended ids stay, also when the text is NULL and empty. */
static void t_append(void)
{
    txt_tok *tok = tiny((const char *const[]){ "he", NULL });
    q_ids ids = { 0 };

    T_OK(txt_encode(tok, "he", 2, 0, &ids, &err), err);
    T_OK(txt_encode(tok, NULL, 0, TXT_SPECIALS, &ids, &err), err);
    T_OK(txt_encode(tok, "a", 1, 0, &ids, &err), err);
    T_STR(id_text(ids.v, ids.n), "256 97");
    q_ids_free(&ids);
    txt_tok_close(tok);
}

/* Lowest rank, leftmost, quadratic: the definition */
static void merge_plainly(const txt_bpe *b, const char *p, size_t n, q_ids *ids)
{
    size_t cut[1024], m = n;

    T_TRUE(n < 1024);
    for (size_t i = 0; i <= n; i++)
        cut[i] = i;
    while (txt_bpe_find(b, p, n) < 0) { /* a whole piece needs no merging */
        int32_t best = INT32_MAX;
        size_t at = 0;

        for (size_t i = 0; i + 1 < m; i++) {
            const int32_t r = txt_bpe_find(b, p + cut[i], cut[i + 2] - cut[i]);

            if (r >= 0 && r < best) {
                best = r;
                at = i;
            }
        }
        if (best == INT32_MAX)
            break;
        memmove(cut + at + 1, cut + at + 2, (m - at - 1) * sizeof *cut);
        m--;
    }
    if (txt_bpe_find(b, p, n) >= 0) {
        cut[1] = n;
        m = 1;
    }
    for (size_t i = 0; i < m; i++)
        T_OK(q_ids_push(ids, txt_bpe_find(b, p + cut[i], cut[i + 1] - cut[i]), &err), err);
}

/* Random vocabularies over three letters, pieces on both sides of the limit of the short path */
static void t_merge_reference(void)
{
    uint64_t seed = 3;

    for (int round = 0; round < 60; round++) {
        txt_bpe *b = NULL;
        q_ids got = { 0 }, want = { 0 };

        T_OK(txt_bpe_create(&b, 400, 4000, &err), err);
        for (int c = 0; c < 256; c++)
            T_OK(txt_bpe_add(b, &(char){ (char)c }, 1, &err), err);
        while (txt_bpe_size(b) < 400) {
            char token[9];
            size_t n;

            seed = seed * 6364136223846793005u + 1442695040888963407u;
            n = 2 + (seed >> 33) % 8 * ((seed >> 40) % 2);
            for (size_t i = 0; i < n; i++)
                token[i] = (char)('a' + (seed >> (36 + 3 * i)) % 3);
            if (txt_bpe_find(b, token, n) < 0)
                T_OK(txt_bpe_add(b, token, n, &err), err);
        }
        for (size_t n = 1; n < 400; n += n < 80 ? 1 : 37) {
            char piece[400];

            for (size_t i = 0; i < n; i++) {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                piece[i] = (char)('a' + (seed >> 33) % 3);
            }
            q_ids_clear(&got);
            q_ids_clear(&want);
            T_OK(txt_bpe_encode(b, piece, n, &got, &err), err);
            merge_plainly(b, piece, n, &want);
            T_INT(got.n, want.n);
            T_INT(memcmp(got.v, want.v, got.n * sizeof *got.v), 0);
        }
        q_ids_free(&got);
        q_ids_free(&want);
        txt_bpe_free(b);
    }
}

/* A megabyte without a place to cut: about a second at worst, where quadratic merging takes hours
 */
static void t_long_piece(void)
{
    static const char *const units[] = { "a", "ab", "\u4F60", "!", " ", "=-", "zqxj" };
    const txt_tok *tok = qwen();

    for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
        const clock_t begin = clock();
        q_buf text = { 0 }, back = { 0 };
        q_ids ids = { 0 };

        while (text.size < (size_t)1 << 20)
            T_OK(q_buf_puts(&text, units[u], &err), err);
        T_OK(txt_encode(tok, text.data, text.size, 0, &ids, &err), err);
        T_OK(txt_decode(tok, ids.v, ids.n, 0, &back, &err), err);
        T_INT(back.size, text.size);
        T_INT(memcmp(back.data, text.data, text.size), 0);
        T_TRUE(clock() - begin < 10 * CLOCKS_PER_SEC);
        q_buf_free(&text);
        q_buf_free(&back);
        q_ids_free(&ids);
    }
}

/* Text full of half-written special tokens is no slower than other text. */
static void t_special_lookalikes(void)
{
    static const char unit[] = "<|<|im_<|extra_20";
    txt_tok *tok = tiny((const char *const[]){ NULL });
    const clock_t begin = clock();
    q_buf text = { 0 };
    q_ids ids = { 0 };

    while (text.size < (size_t)1 << 20)
        T_OK(q_buf_puts(&text, unit, &err), err);
    T_OK(txt_encode(tok, text.data, text.size, TXT_SPECIALS, &ids, &err), err);
    T_INT(ids.n, text.size); /* the vocabulary is single bytes */
    T_TRUE(clock() - begin < 5 * CLOCKS_PER_SEC);
    q_buf_free(&text);
    q_ids_free(&ids);
    txt_tok_close(tok);
}

static void t_open(void)
{
    txt_tok *tok = NULL;
    q_buf file = { 0 };
    char *dir = q_path_join(t_tmpdir(), "tok"), *path = q_path_join(dir, "qwen.tiktoken");

    T_OK(tiny_vocab(&file, (const char *const[]){ "he", NULL }, &err), err);
    T_ERR(txt_tok_open(&tok, dir, &err), err, Q_ENOINPUT, "tok: not a directory");
    T_OK(q_dir_make(dir, &err), err);
    T_ERR(txt_tok_open(&tok, dir, &err), err, Q_ENOINPUT,
          "tok: no qwen.tiktoken, tokenizer.json, vocab.json or tokenizer.model: copy the ");
    T_OK(q_out_whole(path, 0, file.data, file.size / 2, &err), err);
    T_ERR(txt_tok_open(&tok, dir, &err), err, Q_EFORMAT, "tok/qwen.tiktoken: ");
    T_OK(q_out_whole(path, 1, file.data, file.size, &err), err);
    T_OK(txt_tok_open(&tok, dir, &err), err);
    check(tok, "hehe", 4, 0, "256 256");
    txt_tok_close(tok);
    q_free(dir);
    q_free(path);
    q_buf_free(&file);
}

static const t_case cases[] = {
    T(t_qwen2_files),
    T(t_golden),
    T(t_qwen2_vectors),
    T(t_known_ids),
    T(t_wikitext),
    T(t_tiny),
    T(t_decode),
    T(t_append),
    T(t_merge_reference),
    T(t_long_piece),
    T(t_special_lookalikes),
    T(t_open),
    { 0 },
};

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
