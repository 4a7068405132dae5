/* The text files of an FT directory: config.ini, and what a reader learns from it.
 *
 *     fmt_ft_config c;
 *     Q_TRY(fmt_ft_config_read(&c, dir, err));
 *     ... out: fmt_ft_config_free(&c);
 *
 * Section [qwen] (the family's) holds the conversion options and every key of config.json as the
 * reference writes them, so that its loader and ours read the same file; section [qwenkit] holds
 * what only we need.  Directories written by the reference have no [qwenkit]: they are read as
 * well; their int8 files follow from `smoothquant`.  Paths are written as "." so that the same
 * input gives the same bytes.  Source: reference-behaviour 2.1.  Threads: pure. */
#ifndef FMT_FT_DIR_H
#define FMT_FT_DIR_H

#include "formats/ft_names.h"
#include "formats/json.h"

#define FMT_FT_VERSION 1

typedef struct fmt_ft_config {
    fmt_json *doc;          /* the whole file, owned */
    const fmt_json *config; /* keys of config.json, borrowed from doc */
    fmt_ft_layout layout;
} fmt_ft_config;

q_status fmt_ft_config_read(fmt_ft_config *c, const char *dir, q_err *err);
void fmt_ft_config_free(fmt_ft_config *c);
/* Text of config.ini.  config: the keys of the source's config.json; *out is replaced. */
q_status fmt_ft_config_text(q_buf *out, const fmt_json *config, const char *section,
                            const fmt_ft_layout *l, q_err *err);

#endif
