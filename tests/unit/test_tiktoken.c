/* Vocabulary files: every way in which one can be wrong, with its message, and the limits. */
#include "tests/t.h"

#include <string.h>

#include "formats/text/bpe.h"
#include "formats/text/tokenizer.h"
#include "tests/t_text.h"

static q_err err;

/* The text must give n times id 256, the first behind the single bytes. */
static void check_256(const txt_tok *tok, const char *text, size_t size, size_t n)
{
    q_ids ids = { 0 };

    T_OK(txt_encode(tok, text, size, 0, &ids, &err), err);
    T_INT(ids.n, n);
    for (size_t i = 0; i < n; i++)
        T_INT(ids.v[i], 256);
    q_ids_free(&ids);
}

static void t_malformed(void)
{
    /* put instead of the line of byte 3, "Aw== 3\n" */
    static const struct {
        const char *line, *message;
    } rows[] = {
        { "Aw== 3", "bad: line 4: the rank is not a number" }, /* runs into the next line */
        { "Aw==\n", "bad: line 4: no blank between token and rank" },
        { "\n", "bad: line 4: no blank between token and rank" },
        { "", "bad: line 4: rank 4, wanted 3: lines are missing or sorted" },
        { "Aw== 4\n", "bad: line 4: rank 4, wanted 3" },
        { "Aw== 03\n", "bad: line 4: the rank is not a number" },
        { "Aw== +3\n", "bad: line 4: the rank is not a number" },
        { "Aw== -3\n", "bad: line 4: the rank is not a number" },
        { "Aw==  3\n", "bad: line 4: the rank is not a number" },
        { "Aw== 3 \n", "bad: line 4: the rank is not a number" },
        { "Aw== 3\r\r\n", "bad: line 4: the rank is not a number" },
        { "Aw== \n", "bad: line 4: the rank is not a number" },
        { "Aw== 0x3\n", "bad: line 4: the rank is not a number" },
        { "Aw== 3.0\n", "bad: line 4: the rank is not a number" },
        { "Aw== 4294967299\n", "bad: line 4: the rank is not a number" },
        { "Aw== 18446744073709551619\n", "bad: line 4: the rank is not a number" },
        { "Aw==\t3\n", "bad: line 4: no blank between token and rank" },
        { " 3\n", "bad: line 4: token of 0 bytes, wanted 1 to 1024" },
        { "Aw= 3\n", "bad: line 4: the token is not base64" },
        { "Aw 3\n", "bad: line 4: the token is not base64" },
        { "A=== 3\n", "bad: line 4: the token is not base64" },
        { "==== 3\n", "bad: line 4: the token is not base64" },
        { "Aw=A 3\n", "bad: line 4: the token is not base64" },
        { "Ax== 3\n", "bad: line 4: the token is not base64" }, /* bits behind the end */
        { "AAB= 3\n", "bad: line 4: the token is not base64" },
        { "A*== 3\n", "bad: line 4: the token is not base64" },
        { "A_== 3\n", "bad: line 4: the token is not base64" }, /* the URL alphabet */
        { "Ag== 3\n", "bad: line 4: the same bytes as rank 2" },
        { "AAA= 3\n", "bad: no token for the single byte 0x03 in 256 lines" },
    };
    q_buf good = { 0 }, bad = { 0 };
    txt_tok *tok = NULL;
    const char *at, *after;

    T_OK(tiny_vocab(&good, (const char *const[]){ NULL }, &err), err);
    at = strstr(good.data, "Aw== 3\n");
    T_TRUE(at);
    after = at + strlen("Aw== 3\n");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        q_buf_clear(&bad);
        T_OK(q_buf_put(&bad, good.data, (size_t)(at - good.data), &err), err);
        T_OK(q_buf_puts(&bad, rows[i].line, &err), err);
        T_OK(q_buf_puts(&bad, after, &err), err);
        T_ERR(txt_tok_tiktoken(&tok, bad.data, bad.size, "bad", &err), err, Q_EFORMAT,
              rows[i].message);
        T_TRUE(tok == NULL);
    }
    T_ERR(txt_tok_tiktoken(&tok, "", 0, "bad", &err), err, Q_EFORMAT, "bad: empty");
    T_ERR(txt_tok_tiktoken(&tok, good.data, good.size - 1, "bad", &err), err, Q_EFORMAT,
          "bad: line 256: no line end: the file is cut, fetch it again");
    T_ERR(txt_tok_tiktoken(&tok, good.data, (size_t)(after - good.data), "bad", &err), err,
          Q_EFORMAT, "bad: no token for the single byte 0x04 in 4 lines");
    T_ERR(txt_tok_tiktoken(&tok, "AA\0= 0\n", 7, "bad", &err), err, Q_EFORMAT,
          "bad: line 1: the token is not base64");
    q_buf_free(&good);
    q_buf_free(&bad);
}

static void t_limits(void)
{
    static char big[TXT_BPE_MAX_TOKEN + 1];
    q_buf file = { 0 };
    txt_tok *tok = NULL;
    txt_bpe *b = NULL;

    memset(big, 'x', sizeof big);
    T_OK(tiny_vocab(&file, (const char *const[]){ NULL }, &err), err);
    T_OK(tiny_line(&file, big, TXT_BPE_MAX_TOKEN, 256, &err), err);
    T_OK(txt_tok_tiktoken(&tok, file.data, file.size, "limits", &err), err);
    check_256(tok, big, TXT_BPE_MAX_TOKEN, 1);
    txt_tok_close(tok);
    tok = NULL;
    T_OK(tiny_line(&file, big, TXT_BPE_MAX_TOKEN + 1, 257, &err), err);
    T_ERR(txt_tok_tiktoken(&tok, file.data, file.size, "limits", &err), err, Q_EFORMAT,
          "limits: line 258: token of 1025 bytes, wanted 1 to 1024");
    q_buf_clear(&file);
    for (int i = 0; i < 400; i++)
        T_OK(q_buf_puts(&file, "AAAA", &err), err);
    T_OK(q_buf_puts(&file, " 0\n", &err), err);
    T_ERR(txt_tok_tiktoken(&tok, file.data, file.size, "limits", &err), err, Q_EFORMAT,
          "limits: line 1: token of about 1200 bytes, at most 1024");
    q_buf_clear(&file);
    while (file.size <= TXT_BPE_MAX_TOKENS)
        T_OK(q_buf_puts(&file, "\n\n\n\n\n\n\n\n", &err), err);
    T_ERR(txt_tok_tiktoken(&tok, file.data, file.size, "limits", &err), err, Q_EFORMAT,
          "limits: 1048584 lines, at most 1048576 tokens");
    T_ERR(txt_bpe_create(&b, 0, 0, &err), err, Q_ESHAPE, "vocabulary of 0 tokens");
    T_ERR(txt_bpe_create(&b, TXT_BPE_MAX_TOKENS + 1, 0, &err), err, Q_ESHAPE, "at most 1048576");
    T_ERR(txt_bpe_create(&b, 1, (size_t)1 << 40, &err), err, Q_ESHAPE, "1099511627776 bytes");
    q_buf_free(&file);
}

/* Sixteen-byte tokens made to meet in one place: the second word undoes what the first one did to
 * the state of the hash (bpe.c), so all 64 bits are equal.  Refused, or opening would take hours.
 */
static void t_crowded(void)
{
    q_buf file = { 0 };
    txt_tok *tok = NULL;

    T_OK(tiny_vocab(&file, (const char *const[]){ NULL }, &err), err);
    for (int i = 0; i < 1100; i++) {
        uint64_t w[2] = { (uint64_t)i, 0 };
        char token[16];

        w[1] = (16 * 0xD6E8FEB86659FD93u ^ w[0]) * 0x9E3779B97F4A7C15u;
        w[1] ^= w[1] >> 32;
        memcpy(token, w, sizeof token);
        T_OK(tiny_line(&file, token, sizeof token, 256 + i, &err), err);
    }
    T_ERR(txt_tok_tiktoken(&tok, file.data, file.size, "crowd", &err), err, Q_EFORMAT,
          "more than 1024 tokens fall on one place of the hash table");
    q_buf_free(&file);
}

/* CR LF copies of the real file are in circulation. */
static void t_cr_lf(void)
{
    q_buf lf = { 0 }, crlf = { 0 };
    txt_tok *tok = NULL;

    T_OK(tiny_vocab(&lf, (const char *const[]){ "he", NULL }, &err), err);
    for (size_t i = 0; i < lf.size; i++) {
        if (lf.data[i] == '\n')
            T_OK(q_buf_puts(&crlf, "\r", &err), err);
        T_OK(q_buf_put(&crlf, lf.data + i, 1, &err), err);
    }
    T_OK(txt_tok_tiktoken(&tok, crlf.data, crlf.size, "crlf", &err), err);
    check_256(tok, "hehe", 4, 2);
    T_INT(txt_vocab_size(tok), 257 + 208);
    txt_tok_close(tok);
    q_buf_free(&lf);
    q_buf_free(&crlf);
}

static const t_case cases[] = { T(t_malformed), T(t_limits), T(t_crowded), T(t_cr_lf), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
