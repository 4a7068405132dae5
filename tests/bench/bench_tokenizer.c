/* Speed of the tokenizer on one core:
 *
 *     bench_tokenizer [DIR TEXT [SECONDS]]      default: the built-in model and its abstracts
 *
 * DIR holds the vocabulary, TEXT is encoded whole again and again for at least SECONDS (default 2).
 * Prints the time to open, then megabytes (10^6 bytes) and tokens per second of the fastest round
 * of encode and of decode: the fastest is the one least disturbed by other programs. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "formats/base/q_file.h"
#include "formats/text/tokenizer.h"

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static q_status measure(const txt_tok *tok, const q_buf *text, double seconds, q_err *err)
{
    q_status st = Q_OK;
    double enc = 1e30, dec = 1e30, t;
    q_ids ids = { 0 };
    q_buf back = { 0 };

    for (const double end = now() + seconds; now() < end;) {
        q_ids_clear(&ids);
        q_buf_clear(&back);
        t = now();
        Q_TRY(txt_encode(tok, text->data, text->size, 0, &ids, err));
        enc = now() - t < enc ? now() - t : enc;
        t = now();
        Q_TRY(txt_decode(tok, ids.v, ids.n, 0, &back, err));
        dec = now() - t < dec ? now() - t : dec;
    }
    printf("encode %7.1f MB/s %7.2f Mtok/s   (%zu bytes, %zu tokens)\n",
           1e-6 * (double)text->size / enc, 1e-6 * (double)ids.n / enc, text->size, ids.n);
    printf("decode %7.1f MB/s %7.2f Mtok/s\n", 1e-6 * (double)back.size / dec,
           1e-6 * (double)ids.n / dec);
out:
    q_ids_free(&ids);
    q_buf_free(&back);
    return st;
}

int main(int argc, char **argv)
{
    q_status st = Q_OK;
    q_err err = { 0 };
    txt_tok *tok = NULL;
    q_buf text = { 0 };
    const char *dir = argc > 2 ? argv[1] : "datasets/qwen-tiny";
    const char *file = argc > 2 ? argv[2] : "datasets/samples.jsonl";
    double t = now();

    if (argc == 2) {
        fprintf(stderr, "usage: bench_tokenizer [DIR TEXT [SECONDS]]\n");
        return q_exit_code(Q_EARG);
    }
    Q_TRY(txt_tok_open(&tok, dir, &err));
    printf("open   %7.1f ms, %d tokens\n", 1e3 * (now() - t), txt_vocab_size(tok));
    Q_TRY(q_file_slurp(&text, file, (size_t)1 << 30, &err));
    if (text.size == 0)
        Q_FAIL(&err, Q_EFORMAT, "%s: empty", file);
    Q_TRY(measure(tok, &text, argc > 3 ? atof(argv[3]) : 2, &err));
out:
    if (st != Q_OK)
        fprintf(stderr, "bench_tokenizer: %s\n", err.msg);
    q_buf_free(&text);
    txt_tok_close(tok);
    return q_exit_code(st);
}
