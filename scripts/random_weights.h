/* Random weights for random-checkpoint.
 *
 *     Q_TRY(fmt_hf_declare(w, t[i].name, ...));       (all of them)
 *     Q_TRY(rnd_write(w, &(rnd_opts){ .dtype = FMT_F16, .seed = 1 }, t, n, err));
 *     Q_TRY(fmt_hf_commit(w, err));
 *
 * The same tensors, type and seed give the same bytes on every machine, whatever the number of
 * threads (OpenMP's default, when there is OpenMP).  Matrices have mean 0 and deviation 0.02, norms
 * 1 and 0.05, biases 0 and 0.01.  Linears in groups are what GPTQ files hold: words of int4 codes,
 * of zeros (all 8, stored as 7), scales that make the deviation 0.02, and the group of each column.
 */
#ifndef RANDOM_WEIGHTS_H
#define RANDOM_WEIGHTS_H

#include "formats/base/q_log.h"
#include "formats/hf_dir.h"

typedef enum rnd_kind {
    RND_MATRIX,
    RND_NORM,
    RND_BIAS,
    RND_SCALE,
    RND_FLOATS, /* the kinds above are random numbers */
    RND_CODES = RND_FLOATS,
    RND_ZEROS,
    RND_GROUPS
} rnd_kind;

typedef struct rnd_tensor {
    char name[96];
    rnd_kind kind;
    fmt_dtype dtype;
    int ndim;         /* 1 or 2 */
    int64_t shape[2]; /* shape[1] is 1 when ndim is 1 */
} rnd_tensor;

typedef struct rnd_opts {
    uint64_t seed;
    int64_t group;    /* columns of a group */
    const q_log *log; /* progress; may be NULL */
} rnd_opts;

/* All bytes of n tensors, in order, into a writer that has them declared.  Errors: Q_ENOMEM, and
 * those of fmt_hf_write. */
q_status rnd_write(fmt_hf_writer *w, const rnd_opts *o, const rnd_tensor *t, size_t n, q_err *err);

#endif
