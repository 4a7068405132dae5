/* From a model source to a stacked weight in memory, in the scheme wanted.
 *
 *     qnt_tensor t;
 *     Q_TRY(qnt_load(&t, src, FMT_FFN_DOWN, layer, NULL, err));      as stored
 *     Q_TRY(qnt_load(&t, src, FMT_FFN_DOWN, layer, w8, err));        rounded to nearest while
 * loading
 *
 * The one path by which convert, calibrate and runtime get weights.  Peak memory is the result plus
 * a few megabytes.  Rows are independent, so the result does not depend on the number of threads.
 */
#ifndef QNT_LOAD_H
#define QNT_LOAD_H

#include "formats/source.h"
#include "quant/scheme.h"

/* Weight and, where the family has one, bias of a role.  scheme NULL: the float type it is stored
 * in. Caller owns *out.  Errors: those of fmt_src_read, Q_EUNSUPPORTED (a scheme for a role that is
 * never quantized), Q_EFORMAT (a weight that is not finite, when quantizing), Q_ENOMEM. */
q_status qnt_load(qnt_tensor *out, const fmt_src *src, fmt_role role, int64_t layer,
                  const qnt_scheme *scheme, q_err *err);

/* A vector role (norms) or a bias widened to f32.  *out [n], owned by the caller. */
q_status qnt_load_f32(float **out, const fmt_src *src, fmt_ref ref, int64_t n, q_err *err);

#endif
