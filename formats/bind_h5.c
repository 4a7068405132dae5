/* Binds a model archive: the same names as in the checkpoint it was made from, config.json and all
 * small files inside.  How the words lie is said by the attributes of the modules; a
 * quantization_config in config.json belongs to the checkpoint. */
#include "formats/source_impl.h"

#define CONFIG_MAX ((size_t)4 << 20)

q_status fmt_bind_h5(fmt_src *s, q_err *err)
{
    q_status st = Q_OK;
    fmt_files files = { .dir = s->dir };
    char *path = NULL;

    Q_TRY(fmt_arch_open(&s->arch, s->dir, err));
    files.arch = s->arch;
    s->packing = *fmt_arch_packing(s->arch);
    if (!(path = fmt_files_path(&files, "config.json")))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", s->dir);
    if (!fmt_files_has(&files, "config.json"))
        Q_FAIL(err, Q_EFORMAT, "%s: '/meta/config.json' is missing", s->dir);
    Q_TRY(fmt_files_json(&s->doc, &files, "config.json", CONFIG_MAX, err));
    s->config = s->doc;
    Q_TRY(fmt_model_parse(&s->model, s->config, path, err));
    Q_TRY(fmt_gen_config_read(&s->gen, &files, err));
    Q_TRY(fmt_bind_names(s, err));
out:
    q_free(path);
    return st;
}
