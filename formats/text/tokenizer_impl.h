/* Inside of a txt_tok, for the loaders of vocabulary files and tokenizer.c only.
 *
 *     Q_TRY(txt_bpe_create(&bpe, n, bytes, err));  ... add all tokens ...
 *     Q_TRY(txt_tok_make(out, &bpe, names, n_names, err));
 *
 * A loader reads one kind of file and ends with txt_tok_make; encoding and decoding are common.
 * Adding a kind: one loader file, and a row in the table of tokenizer.c. */
#ifndef TXT_TOKENIZER_IMPL_H
#define TXT_TOKENIZER_IMPL_H

#include "formats/text/bpe.h"
#include "formats/text/tokenizer.h"

typedef struct txt_special {
    const char *name; /* into names */
    size_t n;
} txt_special;

struct txt_tok {
    txt_bpe *bpe;         /* ids 0 .. size - 1 */
    char *names;          /* surface forms, each with its NUL */
    txt_special *special; /* [n_special] by id: size + index */
    int32_t *by_name;     /* [n_special] indexes in the order of memcmp */
    int32_t n_special;
    uint8_t first[256]; /* 1: some special token begins with this byte */
};

/* Takes *bpe over (sets it to NULL) when it succeeds.  names: n distinct non-empty surface forms,
 * copied.  Errors: Q_ENOMEM. */
q_status txt_tok_make(txt_tok **out, txt_bpe **bpe, const char *const *names, int32_t n,
                      q_err *err);

#endif
