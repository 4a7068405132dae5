/* From texts to ids.  Empty samples are left out: there is nothing to see. */
#include "calibrate/calib_data.h"

#include <string.h>

#include "datasets/dset.h"
#include "datasets/prompt.h"
#include "formats/base/q_hash.h"

#define SAMPLES 512
#define SEQ_LEN 2048

static const char *const names[CAL_PROMPTS] = { "summarize", "chat", "raw" };

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

q_status cal_data_open(cal_data *d, const txt_tok *tok, const txt_chat *chat,
                       const cal_data_opts *o, q_err *err)
{
    q_status st = Q_OK;
    const int64_t seq_len = o->seq_len ? o->seq_len : SEQ_LEN;
    ds_set *set = NULL;
    q_ids one = { 0 };

    memset(d, 0, sizeof *d);
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
        if (one.n == 0)
            continue;
        Q_TRY(q_ids_append(&d->ids, one.v, one.n, err));
        d->longest = (int64_t)one.n > d->longest ? (int64_t)one.n : d->longest;
        d->start[++d->n] = d->ids.n;
    }
    if (d->n == 0)
        Q_FAIL(err, Q_EFORMAT, "%s: no sample has a token", o->path);
out:
    ds_close(set);
    q_ids_free(&one);
    if (st != Q_OK)
        cal_data_free(d);
    return st;
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
