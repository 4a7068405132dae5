/* The small files of a model, wherever they lie: beside the tensors in a directory, or inside an
 * archive under /meta.
 *
 *     const fmt_files files = fmt_src_files(src);        or  { .dir = "Qwen2.5-7B-Instruct" }
 *     if (fmt_files_has(&files, "tokenizer.json"))
 *         Q_TRY(fmt_files_json(&doc, &files, "tokenizer.json", max, err));
 *
 * A plain value that borrows from the source.  Threads: pure. */
#ifndef FMT_FILES_H
#define FMT_FILES_H

#include <stddef.h>

#include "formats/base/q_err.h"
#include "formats/base/q_mem.h"
#include "formats/json.h"

struct fmt_arch;

typedef struct fmt_files {
    const char *dir;             /* the directory, or the path of the archive: for messages */
    const struct fmt_arch *arch; /* NULL: a directory */
} fmt_files;

int fmt_files_has(const fmt_files *f, const char *name); /* a directory: a broken link counts */
/* For messages: "dir/name", "model.h5:name".  Owned by the caller; NULL when no memory. */
char *fmt_files_path(const fmt_files *f, const char *name);
/* *out is replaced.  Errors: those of q_file_slurp and fmt_json_read. */
q_status fmt_files_slurp(q_buf *out, const fmt_files *f, const char *name, size_t max, q_err *err);
q_status fmt_files_json(fmt_json **out, const fmt_files *f, const char *name, size_t max,
                        q_err *err);

#endif
