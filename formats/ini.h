/* config.ini as Python's configparser writes it, to and from JSON values.
 *
 *     fmt_json *doc = NULL;
 *     Q_TRY(fmt_ini_parse(&doc, text, n, "config.ini", err));     {"qwen": {"hidden_size": 256,
 * ...}}
 *
 * Values are Python reprs: True, False, None, whole numbers and reals become JSON values, the rest
 * stays text (lists and dictionaries too).  Keys are lower-case; "%%" stands for '%'; a line that
 * begins with white space continues the value above.  Duplicate sections and keys are refused.
 * Writing is the inverse for scalars; nested values are written as their Python repr.
 * Threads: pure. */
#ifndef FMT_INI_H
#define FMT_INI_H

#include "formats/json.h"

q_status fmt_ini_parse(fmt_json **out, const char *text, size_t n, const char *name, q_err *err);
q_status fmt_ini_section(q_buf *out, const char *section, q_err *err); /* [section] */
q_status fmt_ini_put(q_buf *out, const char *key, const fmt_json *value,
                     q_err *err); /* key = repr */
q_status fmt_ini_put_str(q_buf *out, const char *key, const char *value, q_err *err);
q_status fmt_ini_put_int(q_buf *out, const char *key, int64_t value, q_err *err);

#endif
