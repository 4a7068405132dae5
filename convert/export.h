/* Writing a quantized model as a Hugging Face directory that other programs load.
 *
 *     cvt_export_opts o = { .src = src, .out = "Qwen2.5-7B-AWQ", .to = CVT_HF_AWQ,
 *                           .tool = "qwenkit 0.1.0", .log = log };
 *     Q_TRY(cvt_export(&result, &o, err));
 *
 * The source is an archive or another quantized directory.  Codes, zeros and scales are moved, not
 * computed.  The directory has shards of at most 5 GB with an index, config.json with the
 * quantization_config of its format, and every small file of the source.  Where a zero is 0 GPTQ is
 * written as gptq_v2.  It is written under a temporary name, opened and compared code by code, and
 * then renamed: killed at any moment there is no directory or a complete one.  Equal calls give
 * equal bytes.  Threads: one call; OpenMP inside. */
#ifndef CVT_EXPORT_H
#define CVT_EXPORT_H

#include <signal.h>

#include "formats/base/q_log.h"
#include "formats/source.h"

typedef enum cvt_export_to { CVT_HF_GPTQ, CVT_HF_AWQ, CVT_HF_CT } cvt_export_to;

typedef struct cvt_export_opts {
    const fmt_src *src;
    const char *out; /* the directory; its parent is made when it is not there */
    cvt_export_to to;
    int force;
    const char *tool;
    const volatile sig_atomic_t *stop; /* may be NULL */
    const q_log *log;
} cvt_export_opts;

typedef struct cvt_export_result {
    uint64_t bytes, modules; /* of tensors and small files; quantized linears */
    const char *format;      /* "gptq", "gptq_v2", "awq", "compressed-tensors" */
} cvt_export_result;

/* r may be NULL.  Errors: Q_EUNSUPPORTED (the source is not quantized; what the format cannot hold,
 * with the reason), Q_ESHAPE, Q_EARG (the output is the input), Q_ECREATE, Q_EIO, Q_EFORMAT (read
 * back differently), Q_ECANCEL, Q_ENOMEM. */
q_status cvt_export(cvt_export_result *r, const cvt_export_opts *o, q_err *err);

#endif
