/* Small files of a directory or of an archive.  Directories go through the same functions as ever,
 * so links of a Hugging Face cache are followed. */
#include "formats/files.h"

#include "formats/arch.h"
#include "formats/base/q_file.h"

char *fmt_files_path(const fmt_files *f, const char *name)
{
    return f->arch ? q_format("%s:%s", f->dir, name) : q_path_join(f->dir, name);
}

int fmt_files_has(const fmt_files *f, const char *name)
{
    char *path;
    int there;

    if (f->arch)
        return fmt_arch_file_find(f->arch, name) != FMT_NONE;
    path = q_path_join(f->dir, name);
    there = path && q_path_exists(path);
    q_free(path);
    return there;
}

q_status fmt_files_slurp(q_buf *out, const fmt_files *f, const char *name, size_t max, q_err *err)
{
    q_status st = Q_OK;
    char *path = fmt_files_path(f, name);

    if (!path)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", f->dir);
    Q_TRY(f->arch ? fmt_arch_file_read(f->arch, name, max, out, err)
                  : q_file_slurp(out, path, max, err));
out:
    q_free(path);
    return st;
}

q_status fmt_files_json(fmt_json **out, const fmt_files *f, const char *name, size_t max,
                        q_err *err)
{
    q_status st = Q_OK;
    char *path = fmt_files_path(f, name);
    q_buf text = { 0 };

    if (!path)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", f->dir);
    if (!f->arch) {
        Q_TRY(fmt_json_read(out, path, max, err));
    } else {
        Q_TRY(fmt_arch_file_read(f->arch, name, max, &text, err));
        Q_TRY(fmt_json_parse(out, text.data, text.size, path, err));
    }
out:
    q_buf_free(&text);
    q_free(path);
    return st;
}
