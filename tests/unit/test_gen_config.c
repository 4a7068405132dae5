/* gen_config: generation_config.json of real models, defaults and refusals. */
#include <string.h>

#include "formats/gen_config.h"
#include "tests/t.h"

static void t_real(void)
{
    q_err err = { 0 };
    fmt_gen_config g;

    T_OK(fmt_gen_config_read(&g, &(fmt_files){ .dir = T_SHARED("data/tokenizers/configs/qwen-7b") },
                             &err),
         err);
    T_STR(g.chat_format, "raw");
    T_INT(g.do_sample, 1);
    T_INT(g.top_k, 0);
    T_NEAR(g.top_p, 0.8, 1e-15);
    T_NEAR(g.temperature, 1, 0);
    T_NEAR(g.repetition_penalty, 1, 0);
    T_INT(g.max_new_tokens, 512);
    T_INT(g.n_eos, 1);
    T_INT(g.eos[0], 151643);
    T_OK(fmt_gen_config_read(
             &g, &(fmt_files){ .dir = T_SHARED("data/tokenizers/configs/qwen3-8b") }, &err),
         err);
    T_STR(g.chat_format, "");
    T_INT(g.top_k, 20);
    T_NEAR(g.temperature, 0.6, 1e-15);
    T_INT(g.n_eos, 2);
    T_INT(g.eos[0], 151645);
    T_INT(g.eos[1], 151643);
}

static q_status parse(fmt_gen_config *g, const char *json, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *doc = NULL;

    Q_TRY(fmt_json_parse(&doc, json, strlen(json), "g.json", err));
    Q_TRY(fmt_gen_config_parse(g, doc, "g.json", err));
out:
    fmt_json_free(doc);
    return st;
}

static void t_defaults(void)
{
    q_err err = { 0 };
    fmt_gen_config g, none;

    T_OK(fmt_gen_config_read(&none, &(fmt_files){ .dir = t_tmpdir() }, &err),
         err); /* no such file there */
    T_OK(parse(&g, "{\"eos_token_id\": null, \"top_k\": null}", &err), err);
    T_TRUE(memcmp(&g, &none, sizeof g) == 0);
    T_INT(g.do_sample, 0);
    T_NEAR(g.top_p, 1, 0);
    T_INT(g.max_new_tokens + g.max_window_size + g.n_eos, 0);
}

static void t_refused(void)
{
    static const struct {
        const char *json;
        q_status status;
        const char *part;
    } rows[] = {
        { "[]", Q_EFORMAT, "g.json: not a JSON object" },
        { "{\"top_p\": 1.5}", Q_ECONFIG, "g.json: 'top_p' is 1.5" },
        { "{\"top_k\": -1}", Q_ECONFIG, "g.json: 'top_k' is -1" },
        { "{\"temperature\": \"hot\"}", Q_ECONFIG, "'temperature' is \"hot\"" },
        { "{\"repetition_penalty\": 0}", Q_ECONFIG, "'repetition_penalty' is 0" },
        { "{\"do_sample\": 1}", Q_ECONFIG, "'do_sample' is 1, wanted true or false" },
        { "{\"max_new_tokens\": 2147483648}", Q_ECONFIG, "'max_new_tokens' is 2147483648" },
        { "{\"eos_token_id\": -1}", Q_ECONFIG, "'eos_token_id' is -1" },
        { "{\"eos_token_id\": [1, \"2\"]}", Q_ECONFIG, "'eos_token_id' entry 1 is not a token id" },
        { "{\"eos_token_id\": [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]}", Q_ECONFIG,
          "'eos_token_id' has 17 entries, at most 16 are read" },
        { "{\"chat_format\": \"0123456789012345678901234567890123\"}", Q_ECONFIG,
          "'chat_format' is longer than 31 bytes" },
    };
    q_err err = { 0 };
    fmt_gen_config g;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        T_ERR(parse(&g, rows[i].json, &err), err, rows[i].status, rows[i].part);
}

static const t_case cases[] = { T(t_real), T(t_defaults), T(t_refused), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
