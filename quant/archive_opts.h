/* What a model archive of int4 or int8 groups is written from, and what was written: who quantizes
 * (calibrate/) fills the first, the writer (convert/archive.h) takes it, and neither knows the
 * other.
 *
 *     qnt_archive_opts o = { .src = src, .path = "model.h5", .tool = "qwenkit 0.1.0",
 *                            .method = "gptq", .bits = 4, .sym = 1, .group = 128,
 *                            .provenance = doc, .weight = give, .self = solver, .log = log };
 *
 * Everything is borrowed for the call that writes.  Callbacks run in the thread of its caller. */
#ifndef QNT_ARCHIVE_OPTS_H
#define QNT_ARCHIVE_OPTS_H

#include <signal.h>

#include "formats/base/q_log.h"
#include "formats/json.h"
#include "formats/source.h"
#include "quant/scheme.h"

typedef struct qnt_archive_result {
    uint64_t bytes, modules; /* of the file; quantized linears */
    char root_sha256[65];    /* of the hashes of all datasets */
    double check_seconds;    /* from the last dataset to the end */
} qnt_archive_result;

/* What quantization did to a linear, for its attributes. */
typedef struct qnt_loss {
    double error; /* of its output in relation to it: |(W - W')X|^2 / |WX|^2 */
    double damp;  /* of GPTQ, in parts of the mean of the diagonal; else 0 */
} qnt_loss;

typedef struct qnt_archive_opts {
    const fmt_src *src; /* what is quantized, or, with weight NULL, a quantized model */
    const char *path;
    int force;
    int compress;     /* large datasets in chunks, with the filters of HDF5 */
    const char *tool; /* "qwenkit 0.1.0" */
    /* How the codes were made; ignored when weight is NULL, then the source says it, as it does of
     * provenance, factors, stats and loss. */
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
    /* What calibration saw of a linear, ref.part FMT_STAT_ABSMAX, _H_DIAG [K] or _LOSS [2]: *out
     * freed by the writer with q_free; NULL: not known.  May be NULL itself. */
    q_status (*stats)(void *self, fmt_ref ref, float **out, q_err *err);
    /* NULL: not known. */
    qnt_loss (*loss)(void *self, fmt_role role, int64_t layer);
    void *self;
    /* Steps of an int8 key/value cache, [layers, n_kv], both or neither; NULL: those of the source,
     * if it has some. */
    const float *k_scale, *v_scale;
    const volatile sig_atomic_t *stop; /* may be NULL; stops before the next role */
    const q_log *log;
} qnt_archive_opts;

#endif
