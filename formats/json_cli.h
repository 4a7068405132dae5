/* Results of programs on stdout.
 *
 *     Q_TRY(fmt_json_cli_line(doc, err));        --json: one object, one line
 *
 * Only programs and *_cli files include this file.  Threads: one. */
#ifndef FMT_JSON_CLI_H
#define FMT_JSON_CLI_H

#include "formats/json.h"

q_status fmt_json_cli_line(const fmt_json *doc, q_err *err);

#endif
