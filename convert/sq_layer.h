/* One layer of a conversion in memory: smoothed, rounded, and what int8 files need to know of it.
 *
 *     cvt_sq *q = NULL;
 *     Q_TRY(cvt_sq_open(&q, plan, err));
 *     for (each layer) {
 *         Q_TRY(cvt_sq_load(q, layer, stop, err));
 *         ... cvt_sq_box(q, &file, box, out), cvt_sq_scales(q, &file, out) from any thread ...
 *     }
 *     ... out: cvt_sq_close(q);
 *
 * The smoothed weights are rounded to the stored type before anything is derived from them, so the
 * float files and the int8 files of a directory describe the same numbers.  Of a plan that only
 * adds scales of the key/value cache no weight is read.  Threads: load belongs to one thread and
 * uses those of the plan; the rest is constant until the next load. */
#ifndef CVT_SQ_LAYER_H
#define CVT_SQ_LAYER_H

#include <signal.h>

#include "convert/plan.h"

typedef struct cvt_sq cvt_sq;

q_status cvt_sq_open(cvt_sq **out, const cvt_plan *p, q_err *err);
void cvt_sq_close(cvt_sq *q);
/* Errors: those of reading; Q_EFORMAT (a value that is not finite, or that the stored type cannot
 * hold once it is smoothed), Q_ECANCEL, Q_ENOMEM. */
q_status cvt_sq_load(cvt_sq *q, int64_t layer, const volatile sig_atomic_t *stop, q_err *err);
/* A box of the part of f (weight, bias or codes), row-major, in the type of f. */
void cvt_sq_box(const cvt_sq *q, const fmt_ft_file *f, fmt_box box, void *out);
/* The f->rows values of a file of scales. */
void cvt_sq_scales(const cvt_sq *q, const fmt_ft_file *f, float *out);
uint64_t cvt_sq_bytes(const cvt_plan *p); /* memory of an open one */

#endif
