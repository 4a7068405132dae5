/* generation_config.json: how a checkpoint wants to be sampled and where replies end.
 *
 *     fmt_gen_config g;
 *     Q_TRY(fmt_gen_config_read(&g, &files, err));      (an absent file gives the defaults)
 *
 * eos_token_id may be a number or a list.  Threads: a plain value. */
#ifndef FMT_GEN_CONFIG_H
#define FMT_GEN_CONFIG_H

#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/files.h"
#include "formats/json.h"

#define FMT_MAX_EOS 16

typedef struct fmt_gen_config {
    int do_sample;             /* 0: greedy */
    double temperature;        /* 1 */
    double top_p;              /* 1: off */
    double repetition_penalty; /* 1: off */
    int64_t top_k;             /* 0: off */
    int64_t max_new_tokens;    /* 0: not given */
    int64_t max_window_size;   /* 0: not given */
    int n_eos;
    int32_t eos[FMT_MAX_EOS];
    char chat_format[32]; /* "chatml", "raw", "" when not given */
} fmt_gen_config;

q_status fmt_gen_config_read(fmt_gen_config *g, const fmt_files *files, q_err *err);
q_status fmt_gen_config_parse(fmt_gen_config *g, const fmt_json *doc, const char *file, q_err *err);

#endif
