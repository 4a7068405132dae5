/* Binds a Hugging Face directory: config.json, how its linears are quantized, and its tensors. */
#include "formats/base/q_file.h"
#include "formats/source_impl.h"

#define CONFIG_MAX ((size_t)4 << 20)

q_status fmt_bind_hf(fmt_src *s, q_err *err)
{
    q_status st = Q_OK;
    const fmt_files files = { .dir = s->dir };
    char *path = q_path_join(s->dir, "config.json");

    if (!path)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", s->dir);
    Q_TRY(fmt_json_read(&s->doc, path, CONFIG_MAX, err));
    s->config = s->doc;
    Q_TRY(fmt_model_parse(&s->model, s->config, path, err));
    Q_TRY(fmt_packing_parse(&s->packing, s->config, &files, err));
    Q_TRY(fmt_gen_config_read(&s->gen, &files, err));
    Q_TRY(fmt_hf_open(&s->hf, s->dir, err));
    Q_TRY(fmt_bind_names(s, err));
out:
    q_free(path);
    return st;
}
