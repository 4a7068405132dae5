/* Inside of a txt_tok, for the loaders of vocabulary files and tokenizer.c only.
 *
 *     txt_tok_parts parts = { .ops = &txt_bpe_ops, .bpe = bpe, .added = v, .n_added = n };
 *     Q_TRY(txt_tok_make(out, &parts, name, err));
 *
 * A loader reads one kind of file and ends with txt_tok_make; added tokens, normalisation and the
 * walk over ids are common.  Adding a kind: one loader file, and a row in the table of tokenizer.c.
 * Threads: as tokenizer.h. */
#ifndef TXT_TOKENIZER_IMPL_H
#define TXT_TOKENIZER_IMPL_H

#include "formats/text/bpe.h"
#include "formats/text/spm.h"
#include "formats/text/tokenizer.h"

#define TXT_ADDED_SPECIAL    1u /* steers the model: see tokenizer.h */
#define TXT_ADDED_NORMALIZED 2u /* recognised after normalisation, not before */
#define TXT_ADDED_WORD       4u /* looks like text ("sop"): never recognised in text */
#define TXT_ADDED_SILENT     8u /* decodes to nothing, also when special tokens are spelled out */

typedef struct txt_added {
    const char *text; /* the surface form */
    int32_t id;
    unsigned flags;
} txt_added;

typedef struct txt_added_token {
    const char *name; /* into names */
    size_t n;
    int32_t id;
    unsigned flags;
} txt_added_token;

/* What differs between byte-pair merging and sentencepiece. */
typedef struct txt_tok_ops {
    int32_t (*size)(
        const txt_tok *t); /* ids 0 .. size - 1 are its own, an added one goes before it */
    /* Ids of a stretch of valid text without added tokens, n > 0 */
    q_status (*encode)(const txt_tok *t, const char *p, size_t n, q_ids *ids, q_err *err);
    /* Appends the bytes of id, inside 0..size-1.  first: it begins the text. */
    q_status (*spell)(const txt_tok *t, int32_t id, int first, q_buf *out, q_err *err);
    void (*close)(txt_tok *t); /* frees spm; NULL when there is none */
} txt_tok_ops;

#define TXT_MAX_PREFIX 2

typedef struct txt_tok_parts {
    const txt_tok_ops *ops;
    txt_bpe *bpe; /* one of the two, taken over when it succeeds */
    txt_spm *spm;
    int nfc;                /* text is normalised to NFC */
    const txt_added *added; /* [n_added] in any order, texts copied */
    size_t n_added;
    int32_t prefix[TXT_MAX_PREFIX]; /* what TXT_PROMPT writes */
    int n_prefix;
} txt_tok_parts;

struct txt_tok {
    const txt_tok_ops *ops;
    txt_bpe *bpe;
    txt_spm *spm;
    int nfc, n_prefix;
    int32_t prefix[TXT_MAX_PREFIX];
    int32_t n_ids;
    char *names;            /* surface forms, each with its NUL */
    txt_added_token *added; /* [n_added] by id */
    int32_t *by_name;       /* [n_added] indexes in the order of strcmp */
    int32_t n_added;
    uint8_t first[256]; /* 1: some added token begins with this byte */
    /* kinds[0]: those recognised before normalisation, [1]: after it.  Bits: 1 some are special,
     * 2 some are not. */
    unsigned kinds[2];
};

extern const txt_tok_ops txt_bpe_ops; /* pieces of the Qwen pattern, merged */

/* Errors: Q_EFORMAT (an empty text; an id or a text that two added tokens share; an id above
 * TXT_BPE_MAX_TOKENS), Q_ENOMEM; messages begin with name. */
q_status txt_tok_make(txt_tok **out, txt_tok_parts *parts, const char *name, q_err *err);

/* Loaders: files holds the file of the row; path names it in messages. */
q_status txt_tok_load_hfjson(txt_tok **out, const fmt_files *files, const char *path, q_err *err);
q_status txt_tok_load_vocab(txt_tok **out, const fmt_files *files, const char *path, q_err *err);
q_status txt_tok_load_spm(txt_tok **out, const fmt_files *files, const char *path, q_err *err);

#endif
