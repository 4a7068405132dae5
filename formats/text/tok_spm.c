/* tokenizer.model of ChatGLM2 and ChatGLM3: a sentencepiece model and the tokens that the
 * checkpoint's code puts behind its last piece:
 *
 *     [MASK] [gMASK] [sMASK] sop eop <|system|> <|user|> <|assistant|> <|observation|>
 *
 * The last four are ChatGLM3's; no text of ChatGLM2 contains them.  sop and eop are words (of
 * "sophisticated", for one) and are never looked for in text.  Every input begins with [gMASK] sop.
 *
 * The path from one id to its bytes follows the library's decoder: U+2581 is a blank, <0xNN> is a
 * byte, control pieces are nothing, the unknown piece is " U+2047 ", and the blank that encoding
 * puts in front of a text is taken away from its first piece.  In a build without libsentencepiece
 * this file only says so.  Source: the tokenizer of the ChatGLM releases. */
#include <string.h>

#include "formats/base/q_file.h"
#include "formats/json.h"
#include "formats/text/tokenizer_impl.h"

#ifdef HAVE_SENTENCEPIECE

#define FILE_MAX  ((size_t)64 << 20) /* ChatGLM: 1 million bytes */
#define N_SPECIAL 9
#define GMASK     1
#define SOP       3

static const char blank[] = "\xE2\x96\x81"; /* U+2581 */

static int32_t spm_size(const txt_tok *t)
{
    return txt_spm_size(t->spm);
}

static q_status spm_encode(const txt_tok *t, const char *p, size_t n, q_ids *ids, q_err *err)
{
    return txt_spm_encode(t->spm, p, n, ids, err);
}

static int hex_digit(char c)
{
    return c <= '9' ? c - '0' : c - 'A' + 10; /* the library wrote it: 0-9, A-F */
}

static q_status spm_spell(const txt_tok *t, int32_t id, int first, q_buf *out, q_err *err)
{
    q_status st = Q_OK;
    txt_spm_kind kind;
    size_t n;
    const char *p = txt_spm_piece(t->spm, id, &n, &kind), *end = p + n, *next;

    if (kind == TXT_SPM_UNKNOWN)
        return q_buf_puts(out, " \xE2\x81\x87 ", err);
    if (kind == TXT_SPM_BYTE && n == 6)
        return q_buf_put(out, &(const char){ (char)(hex_digit(p[3]) * 16 + hex_digit(p[4])) }, 1,
                         err);
    if (first && n >= 3 && memcmp(p, blank, 3) == 0)
        p += 3;
    for (; (next = memmem(p, (size_t)(end - p), blank, 3)) != NULL; p = next + 3) {
        Q_TRY(q_buf_put(out, p, (size_t)(next - p), err));
        Q_TRY(q_buf_put(out, " ", 1, err));
    }
    Q_TRY(q_buf_put(out, p, (size_t)(end - p), err));
out:
    return st;
}

static void spm_close(txt_tok *t)
{
    txt_spm_free(t->spm);
}

static const txt_tok_ops spm_ops = {
    .size = spm_size, .encode = spm_encode, .spell = spm_spell, .close = spm_close
};

/* A file in the wire format of protocol buffers, as far as it is walked here */
typedef struct wire {
    const uint8_t *p, *end;
} wire;

/* A base-128 number below 2^35; 0: there is none. */
static int wire_number(wire *w, uint64_t *v)
{
    *v = 0;
    for (unsigned shift = 0; shift < 35 && w->p < w->end; shift += 7) {
        *v |= (uint64_t)(*w->p & 0x7F) << shift;
        if (!(*w->p++ & 0x80))
            return 1;
    }
    return 0;
}

/* The next field: its number, and its bytes when it has a length (else none).  0: the end, and
 * *bad tells whether it is a clean one. */
static int wire_field(wire *w, uint64_t *field, wire *inside, int *bad)
{
    uint64_t tag, n = 0;

    *inside = (wire){ w->p, w->p };
    *bad = w->p < w->end;
    if (w->p == w->end || !wire_number(w, &tag) || tag > UINT32_MAX)
        return 0;
    *field = tag >> 3;
    switch (tag & 7) {
    case 0:
        for (n = 1; n < 10 && n <= (size_t)(w->end - w->p) && w->p[n - 1] & 0x80; n++)
            ;
        break;
    case 1:
        n = 8;
        break;
    case 2:
        if (!wire_number(w, &n))
            return 0;
        break;
    case 5:
        n = 4;
        break;
    default:
        return 0;
    }
    if (n > (size_t)(w->end - w->p))
        return 0;
    if ((tag & 7) == 2)
        *inside = (wire){ w->p, w->p + n };
    w->p += n;
    *bad = 0;
    return 1;
}

/* The library follows the offsets in the character map of a normaliser without checks, so that a
 * made-up map reads anywhere in memory.  ChatGLM has none: refused before the library sees it. */
static q_status check_wire(const char *bytes, size_t n, const char *path, q_err *err)
{
    enum { NORMALIZER = 3, DENORMALIZER = 5, CHARSMAP = 2 };
    wire model = { (const uint8_t *)bytes, (const uint8_t *)bytes + n }, spec, value;
    uint64_t field, part;
    int bad, bad_spec = 0;

    while (wire_field(&model, &field, &spec, &bad)) {
        if (field != NORMALIZER && field != DENORMALIZER)
            continue;
        while (wire_field(&spec, &part, &value, &bad_spec))
            if (part == CHARSMAP && value.p < value.end)
                return q_fail(err, Q_EUNSUPPORTED,
                              "%s: the normaliser has a character map of %td bytes, wanted none: "
                              "not a ChatGLM tokenizer",
                              path, value.end - value.p);
        if (bad_spec)
            break;
    }
    if (bad || bad_spec)
        return q_fail(err, Q_EFORMAT,
                      "%s: not a sentencepiece model: broken behind byte %td: fetch it again", path,
                      (const char *)model.p - bytes);
    return Q_OK;
}

/* A class that is not ChatGLM's has other special tokens. */
static q_status check_class(const fmt_files *files, q_err *err)
{
    static const char name[] = "tokenizer_config.json";
    q_status st = Q_OK;
    char *path = fmt_files_path(files, name);
    fmt_json *config = NULL;
    const char *class = NULL;

    if (!path)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", files->dir);
    if (!fmt_files_has(files, name))
        goto out;
    Q_TRY(fmt_files_json(&config, files, name, FILE_MAX, err));
    Q_TRY(fmt_json_str_opt(config, "tokenizer_class", &class, err));
    if (class && strcmp(class, "ChatGLMTokenizer") != 0)
        Q_FAIL(err, Q_EUNSUPPORTED,
               "%s: tokenizer_class '%.80s', wanted ChatGLMTokenizer beside a tokenizer.model",
               path, class);
out:
    fmt_json_free(config);
    q_free(path);
    return st;
}

/* The pieces without text, and the tokens behind the last piece. */
static q_status add_tokens(txt_tok_parts *parts, txt_added *v, const char *path, q_err *err)
{
    static const char *const names[N_SPECIAL] = { "[MASK]",   "[gMASK]",       "[sMASK]",
                                                  "sop",      "eop",           "<|system|>",
                                                  "<|user|>", "<|assistant|>", "<|observation|>" };
    const int32_t size = txt_spm_size(parts->spm);
    size_t k = 0;

    for (int32_t id = 0; id < size; id++) {
        txt_spm_kind kind;
        size_t n;
        const char *p = txt_spm_piece(parts->spm, id, &n, &kind);

        if (kind == TXT_SPM_BYTE && (n != 6 || strspn(p + 3, "0123456789ABCDEF") != 2))
            return q_fail(err, Q_EFORMAT, "%s: piece %d is no <0xNN>", path, id);
        if (kind == TXT_SPM_CONTROL)
            v[k++] = (txt_added){ p, id, TXT_ADDED_SPECIAL | TXT_ADDED_WORD | TXT_ADDED_SILENT };
    }
    for (int32_t i = 0; i < N_SPECIAL; i++)
        v[k++] =
            (txt_added){ names[i], size + i,
                         TXT_ADDED_SPECIAL |
                             (names[i][0] == 's' || names[i][0] == 'e' ? TXT_ADDED_WORD : 0u) };
    parts->added = v;
    parts->n_added = k;
    parts->prefix[0] = size + GMASK;
    parts->prefix[1] = size + SOP;
    parts->n_prefix = 2;
    return Q_OK;
}

q_status txt_tok_load_spm(txt_tok **out, const fmt_files *files, const char *path, q_err *err)
{
    q_status st = Q_OK;
    txt_tok_parts parts = { .ops = &spm_ops };
    txt_added *added = NULL;
    q_buf file = { 0 };

    Q_TRY(check_class(files, err));
    Q_TRY(fmt_files_slurp(&file, files, "tokenizer.model", FILE_MAX, err));
    Q_TRY(check_wire(file.data, file.size, path, err));
    Q_TRY(txt_spm_load(&parts.spm, file.data, file.size, path, err));
    added = q_calloc((size_t)txt_spm_size(parts.spm) + N_SPECIAL, sizeof *added);
    if (!added)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    Q_TRY(add_tokens(&parts, added, path, err));
    Q_TRY(txt_tok_make(out, &parts, path, err));
out:
    txt_spm_free(parts.spm);
    q_free(added);
    q_buf_free(&file);
    return st;
}

#else

q_status txt_tok_load_spm(txt_tok **out, const fmt_files *files, const char *path, q_err *err)
{
    (void)out, (void)files;
    return q_fail(err, Q_EUNSUPPORTED,
                  "%s: built without sentencepiece: install libsentencepiece-dev and rebuild",
                  path);
}

#endif
