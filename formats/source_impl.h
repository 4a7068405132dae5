/* Inside of fmt_src: slots and segments.  Included by source.c and by the binders of the containers
 * (bind_*.c) only.
 *
 * A slot is one part of one role of one layer.  Its matrix [N, K] is covered by segments:
 * rectangles that lie in one stored array each.  Reading a box intersects it with the segments, so
 * pieces, ranks and transposition need no code of their own. */
#ifndef FMT_SOURCE_IMPL_H
#define FMT_SOURCE_IMPL_H

#include "formats/arch.h"
#include "formats/ft_names.h"
#include "formats/hf_dir.h"
#include "formats/source.h"

typedef struct fmt_seg {
    fmt_box box;    /* of the slot's matrix */
    size_t store;   /* HF, archive: tensor index; FT: index into src->ft_file */
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
    fmt_packing packing;      /* of the linears; bits 0: none is quantized by groups */
    fmt_hf *hf;               /* HF */
    fmt_arch *arch;           /* archive */
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

/* The binders.  They set config, model, gen, slots; dir and kind are set. */
q_status fmt_bind_hf(fmt_src *s, q_err *err);
q_status fmt_bind_ft(fmt_src *s, q_err *err);
q_status fmt_bind_h5(fmt_src *s, q_err *err);

/* ---- sources whose tensors have the names of a checkpoint: hf or arch is set ---------------- */

#define FMT_NAME_CAP 600 /* safetensors names are at most 512 bytes */

const fmt_tensor *fmt_src_tensor(const fmt_src *s, size_t i);
size_t fmt_src_find(const fmt_src *s, const char *name); /* FMT_NONE: absent */
const char *fmt_src_holder(const fmt_src *s, size_t i);  /* the file that holds it */
q_status fmt_src_tensor_read(const fmt_src *s, size_t i, uint64_t from, size_t n, void *dst,
                             q_err *err);
void fmt_src_use(fmt_src *s, size_t i, char *used); /* counts its bytes once */
/* cols 0: a vector */
q_status fmt_src_check_shape(const fmt_src *s, const fmt_tensor *t, int64_t rows, int64_t cols,
                             q_err *err);
/* All roles of the family, by name; s->model and s->packing are set. */
q_status fmt_bind_names(fmt_src *s, q_err *err);
/* *packed 1: the role is quantized by groups in this layer, and its arrays are bound. */
q_status fmt_bind_packed(int *packed, fmt_src *s, const fmt_name_row *names, int64_t layer,
                         char *used, q_err *err);

#endif
