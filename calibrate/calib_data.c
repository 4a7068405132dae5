/* From texts to ids.  Empty samples are left out: there is nothing to see. */
#include "calibrate/calib_data.h"

#include <string.h>

#include "datasets/dset.h"
#include "datasets/prompt.h"
#include "formats/base/q_hash.h"

#define SAMPLES        512
#define WINDOWS        128
#define SEQ_LEN        2048
#define BYTES_OF_TOKEN 4 /* of windows, for a first guess */
/* Texts that are read, so many and one for each 64 tokens wanted: windows use as many as they need,
 * and of a large file the rest stays where it is. */
#define TEXTS 4096

static const char *const names[CAL_PROMPTS] = { "summarize", "chat", "raw", "windows" };

const char *cal_prompt_name(cal_prompt p)
{
    return names[p];
}

int cal_prompt_from_name(const char *name, cal_prompt *out)
{
    for (int i = 0; i < CAL_PROMPTS; i++)
        if (strcmp(names[i], name) == 0) {
            *out = (cal_prompt)i;
            return 1;
        }
    return 0;
}

static q_status encode(q_ids *ids, const txt_tok *tok, const txt_chat *base, const cal_data_opts *o,
                       int64_t seq_len, const char *text, q_err *err)
{
    q_status st = Q_OK;
    txt_chat chat = *base;
    q_buf user = { 0 };

    q_ids_clear(ids);
    chat.max_input = seq_len;
    if (o->prompt == CAL_RAW) {
        Q_TRY(txt_encode(tok, text, strlen(text), TXT_PROMPT, ids, err));
        if ((int64_t)ids->n > seq_len)
            ids->n = (size_t)seq_len;
    } else if (o->prompt == CAL_CHAT) {
        Q_TRY(txt_chat_build(ids, tok, &chat, NULL, 0, text, err));
    } else {
        chat.system = txt_chat_has_system(chat.format) ? ds_prompt_system : NULL;
        Q_TRY(ds_prompt_summary(&user, text, err));
        Q_TRY(txt_chat_build(ids, tok, &chat, NULL, 0, user.data, err));
    }
out:
    q_buf_free(&user);
    return st;
}

static q_status add_sample(cal_data *d, const int32_t *ids, size_t n, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(q_ids_append(&d->ids, ids, n, err));
    d->longest = (int64_t)n > d->longest ? (int64_t)n : d->longest;
    d->start[++d->n] = d->ids.n;
out:
    return st;
}

/* Ids of the joined texts: of so many of them that there are `wanted` ids, when there are. */
static q_status encode_joined(q_ids *ids, const txt_tok *tok, const ds_set *set, size_t wanted,
                              q_err *err)
{
    q_status st = Q_OK;
    q_buf text = { 0 };
    size_t bytes = BYTES_OF_TOKEN * wanted, n = 0;

    for (; ids->n < wanted && n < ds_count(set); bytes *= 2) {
        for (; n < ds_count(set) && text.size < bytes; n++) {
            if (n > 0)
                Q_TRY(q_buf_puts(&text, "\n\n", err));
            Q_TRY(q_buf_puts(&text, ds_at(set, n)->article, err));
        }
        q_ids_clear(ids); /* again from the start: a token may cross where two texts meet */
        Q_TRY(txt_encode(tok, text.data, text.size, TXT_PROMPT, ids, err));
    }
out:
    q_buf_free(&text);
    return st;
}

static q_status open_windows(cal_data *d, const txt_tok *tok, const cal_data_opts *o, q_err *err)
{
    q_status st = Q_OK;
    const size_t window = (size_t)(o->seq_len ? o->seq_len : SEQ_LEN);
    const size_t n = o->samples ? o->samples : WINDOWS;
    ds_set *set = NULL;
    q_ids ids = { 0 };
    size_t wanted;

    if (!q_mul_ok(n, window, &wanted) || wanted > SIZE_MAX / 64)
        Q_FAIL(err, Q_EARG, "%zu windows of %zu tokens are too many", n, window);
    Q_TRY(ds_open(&set, o->path,
                  &(ds_opts){ .max_samples = TEXTS + wanted / 64,
                              .shuffle = o->shuffle,
                              .shuffle_seed = o->seed,
                              .field_text = "article" },
                  err));
    Q_TRY(encode_joined(&ids, tok, set, wanted, err));
    if (!(d->start = q_calloc(ids.n / window + 1, sizeof *d->start)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %zu samples", o->path, ids.n / window);
    for (size_t i = 0; i < n && (i + 1) * window <= ids.n; i++)
        Q_TRY(add_sample(d, ids.v + i * window, window, err));
    if (d->n == 0)
        Q_FAIL(err, Q_EFORMAT,
               "%s: %zu tokens, not one window of %zu: use more text or shorter "
               "windows",
               o->path, ids.n, window);
out:
    ds_close(set);
    q_ids_free(&ids);
    return st;
}

static q_status open_samples(cal_data *d, const txt_tok *tok, const txt_chat *chat,
                             const cal_data_opts *o, q_err *err)
{
    q_status st = Q_OK;
    const int64_t seq_len = o->seq_len ? o->seq_len : SEQ_LEN;
    ds_set *set = NULL;
    q_ids one = { 0 };

    Q_TRY(ds_open(&set, o->path,
                  &(ds_opts){ .max_samples = o->samples ? o->samples : SAMPLES,
                              .shuffle = o->shuffle,
                              .shuffle_seed = o->seed,
                              .field_text = "article" },
                  err));
    if (!(d->start = q_calloc(ds_count(set) + 1, sizeof *d->start)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %zu samples", o->path, ds_count(set));
    for (size_t i = 0; i < ds_count(set); i++) {
        Q_TRY(encode(&one, tok, chat, o, seq_len, ds_at(set, i)->article, err));
        if (one.n > 0)
            Q_TRY(add_sample(d, one.v, one.n, err));
    }
    if (d->n == 0)
        Q_FAIL(err, Q_EFORMAT, "%s: no sample has a token", o->path);
out:
    ds_close(set);
    q_ids_free(&one);
    return st;
}

q_status cal_data_open(cal_data *d, const txt_tok *tok, const txt_chat *chat,
                       const cal_data_opts *o, q_err *err)
{
    q_status st;

    memset(d, 0, sizeof *d);
    st = o->prompt == CAL_WINDOWS ? open_windows(d, tok, o, err)
                                  : open_samples(d, tok, chat, o, err);
    if (st != Q_OK)
        cal_data_free(d);
    return st;
}

size_t cal_share_begin(const cal_data *d, int share)
{
    return (size_t)share * d->n / CAL_SHARES; /* samples are ids: fewer than a 16th of size_t */
}

size_t cal_share_end(const cal_data *d, size_t i)
{
    int s = 1;

    while (cal_share_begin(d, s) <= i)
        s++;
    return cal_share_begin(d, s);
}

void cal_data_free(cal_data *d)
{
    q_ids_free(&d->ids);
    q_free(d->start);
    memset(d, 0, sizeof *d);
}

void cal_data_sha256(const cal_data *d, char hex[65])
{
    q_sha256 h;
    uint8_t digest[32];

    q_sha256_init(&h);
    for (size_t i = 0; i < d->n; i++) {
        const size_t n = d->start[i + 1] - d->start[i];

        q_sha256_update(&h, &n, sizeof n);
        q_sha256_update(&h, d->ids.v + d->start[i], n * sizeof *d->ids.v);
    }
    q_sha256_final(&h, digest);
    q_hex(hex, digest, sizeof digest);
}
