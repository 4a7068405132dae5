/* From a model source to a stacked weight in memory, in the scheme wanted.
 *
 *     qnt_tensor t;
 *     qnt_load_opts o = { .scheme = qnt_scheme_find("w8") };     rounded to nearest while loading
 *     Q_TRY(qnt_load(&t, src, FMT_FFN_DOWN, layer, &o, err));    { 0 }: as stored
 *
 * The one path by which convert, calibrate and runtime get weights.  Peak memory is the result plus
 * a few megabytes a thread; rounding what is stored [K, N] needs all of the tensor besides.  Rows
 * are independent, so the result does not depend on the number of threads. */
#ifndef QNT_LOAD_H
#define QNT_LOAD_H

#include "formats/source.h"
#include "quant/scheme.h"

typedef struct qnt_load_opts {
    const qnt_scheme *scheme; /* NULL: as stored: a float type, or w4g, w8g */
    /* w8a8 only, and both need a directory of qwen-convert --smoothquant: */
    int per_tensor; /* 1: codes by one scale for each piece; 0: for each output channel */
    int static_x;   /* 1: activations by the range seen in calibration; 0: each token by its own */
} qnt_load_opts;

/* Weight and, where the family has one, bias of a role.  w8a8 takes the stored codes where there
 * are some, and otherwise rounds the rows of the float weight, unsmoothed.  Scales of pieces are
 * broadcast to rows, so that t->scale [N] is the one form.  Caller owns *out.
 * Errors: those of fmt_src_read, Q_EUNSUPPORTED (w8a8 for a role other than the linears,
 * stored parts that are not there), Q_EFORMAT (a weight that is not finite, when quantizing; a
 * stored scale or code out of range), Q_ENOMEM. */
q_status qnt_load(qnt_tensor *out, const fmt_src *src, fmt_role role, int64_t layer,
                  const qnt_load_opts *o, q_err *err);
/* All of a part, as stored, into dst [N, K]: pieces of it by as many threads as there are.
 * Errors: those of fmt_src_read, of the first piece that has one. */
q_status qnt_read(void *dst, const fmt_src *src, fmt_ref ref, q_err *err);
/* A vector role (norms) or a bias widened to f32.  *out [n], owned by the caller. */
q_status qnt_load_f32(float **out, const fmt_src *src, fmt_ref ref, int64_t n, q_err *err);

/* Steps of an int8 key/value cache, value ~ code * scale: *k and *v [layers, n_kv], owned by the
 * caller, K after its norm and RoPE.  Errors: Q_EUNSUPPORTED (the source has none), Q_EFORMAT (a
 * scale that is not positive and finite), those of fmt_src_read. */
q_status qnt_load_kv_scales(float **k, float **v, const fmt_src *src, q_err *err);

#endif
