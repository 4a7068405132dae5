/* --json: the object is made as text first, so an object that cannot be printed leaves no half of a
 * line on stdout. */
#include "formats/json_cli.h"

#include <stdio.h>

q_status fmt_json_cli_line(const fmt_json *doc, q_err *err)
{
    q_buf text = { 0 };
    const q_status st = fmt_json_print(&text, doc, 0, err);

    if (st == Q_OK)
        puts(text.data);
    q_buf_free(&text);
    return st;
}
