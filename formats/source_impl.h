/* Inside of fmt_src: slots and segments.  Included by source.c and by the binders of the containers
 * (bind_hf.c, bind_ft.c) only.
 *
 * A slot is one part of one role of one layer.  Its matrix [N, K] is covered by segments:
 * rectangles that lie in one stored array each.  Reading a box intersects it with the segments, so
 * pieces, ranks and transposition need no code of their own. */
#ifndef FMT_SOURCE_IMPL_H
#define FMT_SOURCE_IMPL_H

#include "formats/ft_names.h"
#include "formats/hf_dir.h"
#include "formats/source.h"

typedef struct fmt_seg {
    fmt_box box;    /* of the slot's matrix */
    size_t store;   /* HF: tensor index; FT: index into src->ft_file */
    int transposed; /* 1: element (n, k) is at [k - k0][at + n - n0] of the stored array */
    int64_t at, ld; /* transposed: first column; row length of the stored array in elements */
    int64_t row0;   /* not transposed: stored row of box.n0 */
} fmt_seg;

typedef struct fmt_slot {
    int present;
    fmt_dtype dtype;
    int64_t N, K;
    size_t seg0, n_seg; /* into src->seg */
} fmt_slot;

typedef struct fmt_stored_file {
    char *name;
    uint64_t bytes;
} fmt_stored_file;

struct fmt_src {
    char *dir;
    const char *kind;
    fmt_ft_layout layout;
    fmt_json *doc;          /* config.json, or config.ini as JSON */
    const fmt_json *config; /* the keys of config.json, borrowed from doc */
    fmt_model model;
    fmt_gen_config gen;
    fmt_hf *hf;               /* HF */
    fmt_stored_file *ft_file; /* FT */
    size_t n_ft_file;
    fmt_slot *slot; /* [layers][FMT_ROLES][FMT_PARTS] */
    fmt_seg *seg;
    size_t n_seg, cap_seg;
    uint64_t bytes;
};

fmt_slot *fmt_src_slot(const fmt_src *s, fmt_ref ref);
/* Allocates the slot table for s->model. */
q_status fmt_src_alloc(fmt_src *s, q_err *err);
/* Adds a segment to a slot; segments of one slot must be added one after another. */
q_status fmt_src_add_seg(fmt_src *s, fmt_slot *slot, const fmt_seg *seg, q_err *err);
/* After binding: every role of the family is present and covered.  Errors name the role. */
q_status fmt_src_check(const fmt_src *s, q_err *err);

/* The binders.  They set config, model, gen, slots; dir and kind are set. */
q_status fmt_bind_hf(fmt_src *s, q_err *err);
q_status fmt_bind_ft(fmt_src *s, q_err *err);

#endif
