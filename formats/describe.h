/* A model in words: what its headers say, for people and for programs.
 *
 *     Q_TRY(fmt_describe_text(&text, src, err));      a few lines
 *     Q_TRY(fmt_describe_json(doc, src, err));        the same as members of doc
 *     Q_TRY(fmt_tensors_text(&text, src, err));       a line for each part of each role
 *
 * Nothing of the tensor data is read.  Texts are appended.  Threads: pure. */
#ifndef FMT_DESCRIBE_H
#define FMT_DESCRIBE_H

#include "formats/source.h"

q_status fmt_describe_text(q_buf *out, const fmt_src *s, q_err *err);
q_status fmt_describe_json(fmt_json *doc, const fmt_src *s, q_err *err);
q_status fmt_tensors_text(q_buf *out, const fmt_src *s, q_err *err);
q_status fmt_tensors_json(fmt_json *list, const fmt_src *s, q_err *err);

#endif
