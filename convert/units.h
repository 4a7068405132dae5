/* The tensors of a model one after another, under the names of the checkpoint: what writers of
 * containers with such names walk, once to measure and once to write.
 *
 *     Q_TRY(cvt_units_each(src, 0, on_unit, self, err));
 *
 * A unit is one tensor of the checkpoint: a float matrix or vector, a bias, or a linear whose codes
 * take the place of its weight.  Order: embedding, layers with their roles in turn, final norm,
 * head; the bias behind the weight it belongs to.  A tied head is none.
 *
 * Codes that were written are remembered by their hash for each role, and compared with those that
 * are read back from the finished file.  Threads: pure. */
#ifndef CVT_UNITS_H
#define CVT_UNITS_H

#include "formats/source.h"
#include "quant/scheme.h"

typedef enum cvt_what { CVT_CODES, CVT_FLOAT, CVT_BIAS } cvt_what;

typedef struct cvt_unit {
    cvt_what what;
    fmt_ref ref;        /* the part it is stored in; of codes FMT_QWEIGHT */
    const char *module; /* name without ".weight", valid for the call */
    int64_t n0, n1, K;  /* its rows of the stacked role, and columns (1: a vector) */
    int first, last;    /* first and last piece of the role */
    int in_module;      /* a bias: its weight is codes */
} cvt_unit;

typedef q_status (*cvt_unit_fn)(void *self, const cvt_unit *u, q_err *err);

/* all_codes: every linear is going to be codes; else those that are in the source. */
q_status cvt_units_each(const fmt_src *src, int all_codes, cvt_unit_fn fn, void *self, q_err *err);

/* Rows r0 .. r0 + n - 1 of a float unit or bias as stored in the source; values, when not NULL, are
 * those of the whole role [N] instead, rounded to the type of the source. */
q_status cvt_unit_read(const fmt_src *src, const cvt_unit *u, int64_t r0, int64_t n,
                       const float *values, void *dst, q_err *err);

typedef struct cvt_digests {
    uint8_t (*v)[32]; /* [layers][FMT_ROLES] */
    int64_t layers;
    uint64_t modules;
} cvt_digests;

q_status cvt_digests_alloc(cvt_digests *d, const fmt_model *m, q_err *err);
void cvt_digests_set(cvt_digests *d, fmt_role role, int64_t layer, const qnt_tensor *t);
/* Opens what was written and compares every code.  name: what it is going to be called.
 * Errors: Q_EFORMAT (naming the role), those of opening and loading. */
q_status cvt_digests_compare(const cvt_digests *d, const char *path, const char *name, q_err *err);
void cvt_digests_free(cvt_digests *d);

/* Q_EIO with needed and free bytes when the disk of path is too small. */
q_status cvt_check_space(const char *path, uint64_t need, q_err *err);

#endif
