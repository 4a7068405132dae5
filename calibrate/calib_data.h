/* Calibration samples: texts of a dataset as token ids.
 *
 *     cal_data d;
 *     Q_TRY(cal_data_open(&d, tok, chat, &(cal_data_opts){ .path = "cnn.jsonl" }, err));
 *     ... d.ids.v + d.start[i], d.start[i + 1] - d.start[i] tokens
 *     ... out: cal_data_free(&d);
 *
 * Prompts: summarize, the reference's: its summary system prompt, article + " TL;DR:", chat format
 * of the model; chat, the text as a user's message; raw, the text alone.  Of a longer sample the
 * LAST seq_len tokens are taken, as the reference does; raw takes the first.  windows: the texts
 * joined by blank lines, cut into whole windows of seq_len tokens, the way the GPTQ paper takes
 * its samples.  The same file and options give the same ids.  Threads: a plain value. */
#ifndef CAL_CALIB_DATA_H
#define CAL_CALIB_DATA_H

#include "formats/base/q_mem.h"
#include "formats/text/chat.h"

typedef enum cal_prompt { CAL_SUMMARIZE, CAL_CHAT, CAL_RAW, CAL_WINDOWS, CAL_PROMPTS } cal_prompt;

const char *cal_prompt_name(cal_prompt p);
int cal_prompt_from_name(const char *name, cal_prompt *out); /* 0: unknown */

typedef struct cal_data_opts {
    const char *path; /* JSON Lines with "article", or plain text */
    cal_prompt prompt;
    size_t samples;  /* 0: 512; windows: 128 */
    int64_t seq_len; /* 0: 2048 */
    int shuffle;     /* 1: drawn with seed; 0: the first ones */
    uint64_t seed;
} cal_data_opts;

typedef struct cal_data {
    q_ids ids;     /* of all samples, one behind the other */
    size_t *start; /* [n + 1] */
    size_t n;
    int64_t longest;
} cal_data;

/* Samples are dealt to ranks, and sums over them are made, by shares: share s is samples s n / 8 up
 * to (s + 1) n / 8.  Steps of the loop end with a share, so what a sample goes through is the same
 * whoever holds it. */
#define CAL_SHARES 8

size_t cal_share_begin(const cal_data *d, int share); /* share CAL_SHARES: the end of all */
size_t cal_share_end(const cal_data *d, size_t i);    /* of the share of sample i */

/* Errors: those of ds_open and txt_chat_build; Q_EFORMAT (not one token, or not one window). */
q_status cal_data_open(cal_data *d, const txt_tok *tok, const txt_chat *chat,
                       const cal_data_opts *o, q_err *err);
void cal_data_free(cal_data *d);
void cal_data_sha256(const cal_data *d, char hex[65]); /* of the ids and where samples begin */

#endif
