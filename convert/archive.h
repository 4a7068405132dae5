/* Writing a model archive: one .h5 file with int4 or int8 group weights, everything else of the
 * model, its configuration and its tokenizer.
 *
 *     cvt_archive_opts o = { .src = src, .path = "model.h5", .tool = "qwenkit 0.1.0",
 *                            .method = "gptq", .bits = 4, .sym = 1, .group = 128,
 *                            .provenance = doc, .weight = give, .self = solver, .log = log };
 *     Q_TRY(cvt_archive_write(&o, err));
 *
 * The schema is that of formats/arch.h.  Tensors keep the names of the checkpoint: a stacked
 * role is cut back into its pieces.  Roles are asked for in the order of the layers, each once, and
 * one is in memory at a time; large float tensors go through in strips.  The file is written under
 * a temporary name, read back, compared code by code with what was given (by hash of codes, zeros,
 * scales and g_idx), and then gets its name: killed at any moment there is no file or a complete
 * one.  Equal calls give equal bytes.  Threads: one call at a time (HDF5 has no locks); callbacks
 * run in the thread of the caller. */
#ifndef CVT_ARCHIVE_H
#define CVT_ARCHIVE_H

#include <signal.h>

#include "formats/base/q_log.h"
#include "formats/json.h"
#include "formats/source.h"
#include "quant/scheme.h"

typedef struct cvt_archive_result {
    uint64_t bytes, modules; /* of the file; quantized linears */
    char root_sha256[65];    /* of the hashes of all datasets */
} cvt_archive_result;

typedef struct cvt_archive_opts {
    const fmt_src
        *src; /* the checkpoint that is quantized, or, with weight NULL, a quantized one */
    const char *path;
    int force;
    const char *tool; /* "qwenkit 0.1.0" */
    /* How the codes were made; ignored when weight is NULL, then the source says it. */
    const char *method; /* "gptq", "awq" */
    int bits, sym;      /* 4 or 8; sym: every zero is 2^(bits - 1) */
    int64_t group;      /* columns of a group; -1: all of a row */
    /* Settings, hash of the calibration data, seed, losses: goes into /meta/manifest.json as member
     * "quantization".  May be NULL. */
    const fmt_json *provenance;
    /* The stacked tensor of a quantized role, scheme w4g or w8g; the writer frees it.  Its bias is
     * not looked at: biases go through `vector`.  NULL: the codes of the source. */
    q_status (*weight)(void *self, fmt_role role, int64_t layer, qnt_tensor *out, q_err *err);
    /* A norm or a bias that calibration may have changed: *out [n] f32, freed by the writer with
     * q_free and rounded to the type of the source; NULL: as in the source.  May be NULL itself. */
    q_status (*vector)(void *self, fmt_ref ref, float **out, q_err *err);
    /* What the inputs of a linear were divided by before it was rounded: *out [K] f32, freed by the
     * writer with q_free; NULL: by nothing.  May be NULL itself. */
    q_status (*factors)(void *self, fmt_role role, int64_t layer, float **out, q_err *err);
    void *self;
    /* Steps of an int8 key/value cache, [layers, n_kv], both or neither; NULL: those of the source,
     * if it has some. */
    const float *k_scale, *v_scale;
    const volatile sig_atomic_t *stop; /* may be NULL; stops before the next role */
    const q_log *log;
} cvt_archive_opts;

/* r may be NULL.  Errors: Q_ECREATE (exists), Q_EARG (the output is or lies in the input), Q_ESHAPE
 * (N or K is not a multiple of the codes in a word), Q_EUNSUPPORTED (nothing is quantized), Q_EIO
 * (disk full, with what is needed), Q_EFORMAT (read back differently), Q_ECANCEL, Q_ENOMEM, those
 * of the callbacks. */
q_status cvt_archive_write(cvt_archive_result *r, const cvt_archive_opts *o, q_err *err);

#endif
