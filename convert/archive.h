/* Writing a model archive: one .h5 file with int4 or int8 group weights, everything else of the
 * model, its configuration and its tokenizer.
 *
 *     qnt_archive_opts o = { .src = src, .path = "model.h5", .tool = "qwenkit 0.1.0",
 *                            .method = "gptq", .bits = 4, .sym = 1, .group = 128,
 *                            .provenance = doc, .weight = give, .self = solver, .log = log };
 *     Q_TRY(cvt_archive_write(&o, err));
 *
 * The schema is that of formats/arch.h.  Tensors keep the names of the checkpoint: a stacked
 * role is cut back into its pieces.  Roles are asked for in the order of the layers, each once, and
 * one is in memory at a time; large float tensors go through in strips.  The file is written under
 * a temporary name, read back, compared code by code with what was given (by hash of codes, zeros,
 * scales and g_idx), and then gets its name: killed at any moment there is no file or a complete
 * one.  Equal calls give equal bytes.  An archive that is rewritten keeps all that it says of its
 * origin: of the same version it gets the same bytes, but for what is given anew.  Threads: one
 * call at a time (HDF5 has no locks); callbacks run in the thread of the caller. */
#ifndef CVT_ARCHIVE_H
#define CVT_ARCHIVE_H

#include "quant/archive_opts.h"

/* What can be known beforehand: whether path may be written (cvt_archive_write asks again), and
 * whether an archive that is the source is as it was written: else a damaged code would get a new,
 * right hash.  Errors: Q_EARG (path is or lies in the source), Q_ECREATE (a directory; exists and
 * !force), Q_EFORMAT. */
q_status cvt_archive_check(const fmt_src *src, const char *path, int force, q_err *err);
/* r may be NULL.  Errors: Q_ECREATE (exists), Q_EARG (the output is or lies in the input), Q_ESHAPE
 * (N or K is not a multiple of the codes in a word), Q_EUNSUPPORTED (nothing is quantized), Q_EIO
 * (disk full, with what is needed), Q_EFORMAT (read back differently), Q_ECANCEL, Q_ENOMEM, those
 * of the callbacks. */
q_status cvt_archive_write(qnt_archive_result *r, const qnt_archive_opts *o, q_err *err);

#endif
