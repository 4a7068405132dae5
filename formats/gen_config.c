/* generation_config.json.  Defaults are those of Hugging Face transformers for absent keys. */
#include "formats/gen_config.h"

#include <stdio.h>
#include <string.h>

#define FILE_MAX ((size_t)1 << 20)

static q_status parse_eos(fmt_gen_config *g, const fmt_json *doc, q_err *err)
{
    const fmt_json *v = fmt_json_get(doc, "eos_token_id");
    q_status st = Q_OK;

    if (!v || fmt_json_kind(v) == FMT_JSON_NULL)
        return Q_OK;
    if (fmt_json_kind(v) != FMT_JSON_ARRAY) {
        int64_t id = 0;

        Q_TRY(fmt_json_int(doc, "eos_token_id", 0, INT32_MAX, &id, err));
        g->eos[g->n_eos++] = (int32_t)id;
        return Q_OK;
    }
    if (fmt_json_size(v) > FMT_MAX_EOS)
        Q_FAIL(err, Q_ECONFIG, "'eos_token_id' has %zu entries, at most %d are read",
               fmt_json_size(v), FMT_MAX_EOS);
    for (size_t i = 0; i < fmt_json_size(v); i++) {
        int64_t id = -1;

        if (!fmt_json_as_int(fmt_json_at(v, i), 0, INT32_MAX, &id))
            Q_FAIL(err, Q_ECONFIG, "'eos_token_id' entry %zu is not a token id", i);
        g->eos[g->n_eos++] = (int32_t)id;
    }
out:
    return st;
}

static q_status parse(fmt_gen_config *g, const fmt_json *doc, q_err *err)
{
    q_status st = Q_OK;
    const char *chat = "";

    Q_TRY(fmt_json_bool_opt(doc, "do_sample", &g->do_sample, err));
    Q_TRY(fmt_json_real_opt(doc, "temperature", 0, 100, &g->temperature, err));
    Q_TRY(fmt_json_real_opt(doc, "top_p", 0, 1, &g->top_p, err));
    Q_TRY(fmt_json_real_opt(doc, "repetition_penalty", 0.01, 100, &g->repetition_penalty, err));
    Q_TRY(fmt_json_int_opt(doc, "top_k", 0, INT32_MAX, &g->top_k, err));
    Q_TRY(fmt_json_int_opt(doc, "max_new_tokens", 0, INT32_MAX, &g->max_new_tokens, err));
    Q_TRY(fmt_json_int_opt(doc, "max_window_size", 0, INT32_MAX, &g->max_window_size, err));
    Q_TRY(fmt_json_str_opt(doc, "chat_format", &chat, err));
    if (strlen(chat) >= sizeof g->chat_format)
        Q_FAIL(err, Q_ECONFIG, "'chat_format' is longer than %zu bytes", sizeof g->chat_format - 1);
    strcpy(g->chat_format, chat);
    Q_TRY(parse_eos(g, doc, err));
out:
    return st;
}

q_status fmt_gen_config_parse(fmt_gen_config *g, const fmt_json *doc, const char *file, q_err *err)
{
    q_err inner = { 0 };
    q_status st;

    *g = (fmt_gen_config){ .temperature = 1, .top_p = 1, .repetition_penalty = 1 };
    if (!doc)
        return Q_OK;
    if (fmt_json_kind(doc) != FMT_JSON_OBJECT)
        return q_fail(err, Q_EFORMAT, "%s: not a JSON object", file);
    st = parse(g, doc, &inner);
    return st == Q_OK ? Q_OK : q_fail(err, st, "%s: %s", file, inner.msg);
}

q_status fmt_gen_config_read(fmt_gen_config *g, const fmt_files *files, q_err *err)
{
    static const char name[] = "generation_config.json";
    q_status st = Q_OK;
    char *path = fmt_files_path(files, name);
    fmt_json *doc = NULL;

    if (!path)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", files->dir);
    if (fmt_files_has(files, name))
        Q_TRY(fmt_files_json(&doc, files, name, FILE_MAX, err));
    Q_TRY(fmt_gen_config_parse(g, doc, path, err));
out:
    fmt_json_free(doc);
    q_free(path);
    return st;
}
