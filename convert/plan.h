/* The plan of a conversion to an FT directory: every file, where it comes from, how large it gets.
 *
 *     cvt_plan *p = NULL;
 *     cvt_plan_opts o = { .ranks = 2, .store = FMT_F16, .threads = 4, .tool = "qwenkit 0.1.0" };
 *     Q_TRY(cvt_plan_build(&p, src, &o, err));
 *     Q_TRY(cvt_plan_check_space(p, "out", err));
 *     ... cvt_run(...), or cvt_plan_text(&text, p, err) for --dry-run ...
 *     ... out: cvt_plan_free(p);
 *
 * Building reads no tensor data and writes nothing.  Sizes are exact: config.ini and manifest.json
 * are functions of the plan (but for the hashes, whose length is known).  The source stays open and
 * unchanged as long as the plan.  Threads: constant once built. */
#ifndef CVT_PLAN_H
#define CVT_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "convert/copies.h"
#include "convert/manifest.h"
#include "formats/base/q_mem.h"
#include "formats/ft_names.h"
#include "formats/json.h"
#include "formats/source.h"
#include "quant/ranges.h"

#define CVT_ALPHA_AUTO (-1.0)

typedef struct cvt_plan_opts {
    int ranks; /* T, at least 1 */
    fmt_dtype store;
    int threads; /* 1 .. CVT_MAX_THREADS; lowered when memory would exceed its bound (plan.c) */
    const char *tool; /* for the manifest: less than CVT_TOOL_MAX bytes */
    int smooth;       /* 1: smooth the linears by alpha and add int8 weights */
    double alpha;  /* 0 .. 1, or CVT_ALPHA_AUTO: what was chosen for each linear in calibration */
    int kv_scales; /* 1: add scales of an int8 key/value cache */
    uint64_t max_ram; /* bytes of memory; a plan that needs more is refused; 0: no limit */
} cvt_plan_opts;

/* Where the values of a file come from: the source as it is, the smoothed layer (sq_layer.h), or
 * the maxima of both. */
typedef enum cvt_origin { CVT_SOURCE, CVT_LAYER, CVT_SCALES } cvt_origin;

/* A file of tensor data. */
typedef struct cvt_item {
    fmt_ft_file file;
    cvt_origin origin;
    fmt_dtype from; /* type of the tensor in the source */
    uint64_t bytes;
} cvt_item;

typedef struct cvt_plan {
    const fmt_src *src; /* borrowed */
    cvt_plan_opts opt;
    const qnt_ranges *ranges; /* [layers], see cvt_plan_set_ranges; else NULL */
    qnt_ranges *after;        /* [layers], borrowed: gets the ranges of layers as they are written;
                               * NULL: they are not kept */
    fmt_ft_layout layout;     /* of the output */
    char name[32];            /* "<T>-gpu" */
    cvt_item *item;
    size_t n_items, n_shared; /* the first n_shared belong to no layer, then layer by layer */
    cvt_copy *copy;           /* by name */
    size_t n_copies;
    q_buf ini;        /* text of config.ini */
    uint64_t bytes;   /* of all files, config.ini and manifest.json included */
    uint64_t n_files; /* likewise */
    uint64_t memory;  /* peak of the conversion: buffers and the process itself */
    size_t strip;     /* bytes of the source's buffer of a thread */
    size_t cast;      /* bytes of its buffer after the cast, 0 when there is none */
    size_t turned;    /* bytes of its buffer for a transposed file */
} cvt_plan;

/* Errors: Q_ECONFIG (T does not divide the model), Q_EARG (alpha), Q_EUNSUPPORTED (the source is
 * smoothed already), Q_ENOMEM, Q_EIO. */
q_status cvt_plan_build(cvt_plan **out, const fmt_src *src, const cvt_plan_opts *o, q_err *err);
/* What calibration saw of the source as it is, [layers], borrowed as long as the plan.  Needed
 * before a plan that smooths or adds scales is carried out.  Errors: Q_EFORMAT (not finite), Q_EARG
 * (CVT_ALPHA_AUTO, and nothing was chosen). */
q_status cvt_plan_set_ranges(cvt_plan *p, const qnt_ranges *ranges, q_err *err);
void cvt_plan_free(cvt_plan *p);
/* Q_EUNSUPPORTED when an FT directory cannot hold the source: its linears are quantized by groups.
 * cvt_plan_build asks it too; before a long calibration it is asked first. */
q_status cvt_plan_takes(const fmt_src *src, q_err *err);
/* Q_EIO with needed and free bytes when the disk of dir (or of its nearest parent) is too small. */
q_status cvt_plan_check_space(const cvt_plan *p, const char *dir, q_err *err);

/* 1: files are made layer by layer, from ranges (sq_layer.h). */
int cvt_plan_makes(const cvt_plan *p);
/* 1: smoothing changes tensors of this role. */
int cvt_plan_smooths(const cvt_plan *p, fmt_role role);
/* The tensor of the source that the item is made of; codes are made of the weight. */
fmt_ref cvt_plan_source(const cvt_item *it);
/* 1: strips of the item follow the columns of the weight, because the source stores it so. */
int cvt_plan_along_k(const cvt_plan *p, const cvt_item *it);

/* Ranks of the plan that hold the same key/value head. */
int cvt_plan_kv_copies(const cvt_plan *p);

/* Rows or columns of a box of the item that fit into the strip buffer at once, at least 1. */
int64_t cvt_plan_step(const cvt_plan *p, const cvt_item *it, int seg);

/* For people and for programs (plan_text.c).  *out is replaced; members are added to doc. */
q_status cvt_plan_text(q_buf *out, const cvt_plan *p, q_err *err);
q_status cvt_plan_json(fmt_json *doc, const cvt_plan *p, q_err *err);

#endif
