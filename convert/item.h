/* Converting one file of a plan.
 *
 *     cvt_worker w;
 *     cvt_worker_init(&w, plan, NULL, dirfd, "out/.1-gpu.part", progress);
 *     Q_TRY(cvt_worker_alloc(&w, err));
 *     Q_TRY(cvt_item_convert(&w, i, &done, err)); ...
 *     Q_TRY(cvt_sink_flush(&w.sink, err));
 *     ... out: cvt_worker_free(&w);
 *
 *     source --strip--> raw --cast--> cast --turn--> turned [K, N] --hash, write--> file
 *                        |             |
 *                        +-------------+-- an untransposed file is written strip by strip
 *
 * A worker owns its buffers and its sink; it belongs to one thread, several share a plan. */
#ifndef CVT_ITEM_H
#define CVT_ITEM_H

#include "convert/plan.h"
#include "convert/sink.h"
#include "convert/sq_layer.h"
#include "formats/base/q_log.h"

typedef struct cvt_worker {
    const cvt_plan *p;
    const cvt_sq *sq;     /* borrowed; for items whose origin is not the source */
    q_progress *progress; /* borrowed; bytes written */
    char *raw, *cast, *turned;
    cvt_sink sink;
} cvt_worker;

/* Values of a tensor that the stored type changed, or that were no numbers before. */
typedef struct cvt_odd {
    uint64_t clipped;   /* finite, infinite when stored */
    uint64_t nonfinite; /* NaN or infinite in the source */
} cvt_odd;

typedef struct cvt_outcome {
    uint64_t size;
    char sha256[CVT_HEX];
    cvt_odd seg[FMT_MAX_PIECES]; /* by segment of the file: pieces may be tensors of their own */
} cvt_outcome;

/* sq may be NULL for plans that make nothing. */
void cvt_worker_init(cvt_worker *w, const cvt_plan *p, const cvt_sq *sq, int dirfd, const char *dir,
                     q_progress *progress);
q_status cvt_worker_alloc(cvt_worker *w, q_err *err);
void cvt_worker_free(cvt_worker *w);

/* Item i of the plan, written and closed; its layer is the one that sq holds, when its origin is
 * not the source.  *done is zero before. */
q_status cvt_item_convert(cvt_worker *w, size_t i, cvt_outcome *done, q_err *err);

#endif
