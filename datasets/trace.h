/* Lengths of requests from a trace of a service: a CSV file with a line of column names.
 *
 *     static q_status see(void *self, const ds_length *l, q_err *err);
 *     Q_TRY(ds_trace_read("AzureLLMInferenceTrace_conv.csv", see, &mine, err));
 *
 * The columns ContextTokens and GeneratedTokens are read (Azure's published traces), or
 * prompt_tokens and output_tokens, input_len and output_len, in any order and with any others
 * beside them.  Fields may stand in double quotes.  Memory: the whole file, at most DS_TRACE_MAX.
 * Threads: one. */
#ifndef DS_TRACE_H
#define DS_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"

#define DS_TRACE_MAX ((size_t)1 << 30) /* bytes */

typedef struct ds_length {
    int64_t prompt, output; /* tokens, at least 0 */
    uint64_t line;          /* of the file, from 1 */
} ds_length;

/* Errors: those of q_file_slurp, Q_EFORMAT (no such columns, a field that is no number of tokens:
 * file and line are named), those of fn. */
q_status ds_trace_read(const char *path, q_status (*fn)(void *self, const ds_length *l, q_err *err),
                       void *self, q_err *err);

#endif
