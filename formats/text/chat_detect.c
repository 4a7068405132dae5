/* The chat format of a checkpoint.
 *
 * Adding a template: its hash and the format whose renderer writes the same text for system, user
 * and assistant messages, shown by a case in test_chat_formats.c.  The hash is over the text of the
 * JSON string, or the bytes of chat_template.jinja.
 * Sources of the hashes: the tokenizer_config.json files of the releases named beside them. */
#include "formats/text/chat_detect.h"

#include <string.h>

#include "formats/base/q_hash.h"

#define FILE_MAX ((size_t)4 << 20)
#define SHOWN    60 /* characters of an unknown template in the message */

static const struct {
    const char *sha256;
    txt_chat_format format;
} templates[] = {
    /* Qwen1.5-Chat */
    { "af9c0233881b083b52ff773580215222b5440ac3d0beeeca99b76329b048f8db", TXT_CHAT_QWEN15 },
    /* Qwen2-Instruct */
    { "793202280c0910ab26bc6eb57c8212c2417324c6d8c4efd0d10d59092ab3e3eb", TXT_CHAT_QWEN2 },
    /* Qwen2.5 base and the first Qwen3-0.6B: Qwen2 with tools */
    { "44d5f08f3f72b837eaad09f13a54c1f9f4eb58d75240334548b7fd52a5437fa5", TXT_CHAT_QWEN2 },
    /* Qwen2.5-Instruct */
    { "cd8e9439f0570856fd70470bf8889ebd8b5d1107207f67a5efb46e342330527f", TXT_CHAT_QWEN25 },
    /* Qwen3, April 2025 */
    { "87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5", TXT_CHAT_QWEN3 },
    /* Qwen3, from May 2025: contents that are not text */
    { "a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8", TXT_CHAT_QWEN3 },
};

int txt_chat_of_template(txt_chat_format *out, const char *text, size_t n, char *hex)
{
    uint8_t digest[32];
    q_sha256 h;

    q_sha256_init(&h);
    q_sha256_update(&h, text, n);
    q_sha256_final(&h, digest);
    q_hex(hex, digest, sizeof digest);
    for (size_t i = 0; i < sizeof templates / sizeof templates[0]; i++)
        if (strcmp(hex, templates[i].sha256) == 0) {
            *out = templates[i].format;
            return 1;
        }
    return 0;
}

static q_status of_template(txt_chat_format *out, const char *text, size_t n, const char *where,
                            q_err *err)
{
    char hex[65];

    if (txt_chat_of_template(out, text, n, hex))
        return Q_OK;
    return q_fail(err, Q_EUNSUPPORTED,
                  "%s: the chat template '%.*s...' (sha256 %s) is not known: choose with "
                  "--chat-format " TXT_CHAT_NAMES,
                  where, (int)txt_utf8_complete(text, n < SHOWN ? n : SHOWN), text, hex);
}

/* chat_template of tokenizer_config.json: a text, or a list of {name, template}; NULL: none. */
static const char *template_of(const fmt_json *config)
{
    const fmt_json *v = fmt_json_get(config, "chat_template");

    for (size_t i = 0; i < fmt_json_size(v); i++) {
        const fmt_json *row = fmt_json_at(v, i);
        const char *name = fmt_json_text(fmt_json_get(row, "name"));

        if (name && strcmp(name, "default") == 0)
            return fmt_json_text(fmt_json_get(row, "template"));
    }
    return fmt_json_text(v);
}

/* ChatGLM: the releases differ in nothing but the name. */
static int of_glm_name(txt_chat_format *out, const char *name)
{
    static const struct {
        const char *part;
        txt_chat_format format;
    } rows[] = { { "chatglm2", TXT_CHAT_GLM2 }, { "chatglm3", TXT_CHAT_GLM3 } };

    for (size_t i = 0; name && i < sizeof rows / sizeof rows[0]; i++)
        if (strstr(name, rows[i].part)) {
            *out = rows[i].format;
            return 1;
        }
    return 0;
}

static q_status path_of(char **path, const fmt_files *files, const char *name, q_err *err)
{
    *path = fmt_files_path(files, name);
    return *path ? Q_OK : q_fail(err, Q_ENOMEM, "%s: no memory", files->dir);
}

q_status txt_chat_detect(txt_chat_format *out, const txt_chat_files *f, q_err *err)
{
    static const char jinja_name[] = "chat_template.jinja", name[] = "tokenizer_config.json";
    q_status st = Q_OK;
    char *jinja = NULL, *path = NULL;
    fmt_json *config = NULL;
    q_buf text = { 0 };
    const char *template, *type;

    if (f->chat_format && f->chat_format[0]) {
        if (!txt_chat_format_from_name(f->chat_format, out))
            Q_FAIL(err, Q_EUNSUPPORTED,
                   "%s: chat format '%s' of generation_config.json is not known: choose with "
                   "--chat-format " TXT_CHAT_NAMES,
                   f->files.dir, f->chat_format);
        goto out;
    }
    Q_TRY(path_of(&jinja, &f->files, jinja_name, err));
    Q_TRY(path_of(&path, &f->files, name, err));
    if (fmt_files_has(&f->files, jinja_name)) {
        Q_TRY(fmt_files_slurp(&text, &f->files, jinja_name, FILE_MAX, err));
        Q_TRY(of_template(out, text.data, text.size, jinja, err));
        goto out;
    }
    if (fmt_files_has(&f->files, name))
        Q_TRY(fmt_files_json(&config, &f->files, name, FILE_MAX, err));
    if ((template = template_of(config)) != NULL) {
        Q_TRY(of_template(out, template, strlen(template), path, err));
        goto out;
    }
    type = fmt_json_text(fmt_json_get(f->config, "model_type"));
    if (type && strcmp(type, "chatglm") == 0 &&
        (of_glm_name(out, fmt_json_text(fmt_json_get(f->config, "_name_or_path"))) ||
         of_glm_name(out, fmt_json_text(fmt_json_get(config, "name_or_path")))))
        goto out;
    Q_FAIL(err, Q_EUNSUPPORTED,
           "%s: neither chat_template.jinja, nor a chat template in tokenizer_config.json, nor a "
           "chat_format in generation_config.json: choose with --chat-format " TXT_CHAT_NAMES,
           f->files.dir);
out:
    q_buf_free(&text);
    fmt_json_free(config);
    q_free(path);
    q_free(jinja);
    return st;
}
