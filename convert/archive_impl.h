/* Inside of the archive writer: what archive.c shares with the files that write a part each. */
#ifndef CVT_ARCHIVE_IMPL_H
#define CVT_ARCHIVE_IMPL_H

#include "convert/archive.h"
#include "convert/units.h"
#include "formats/arch.h"
#include "formats/h5file.h"

typedef struct cvt_archive {
    const qnt_archive_opts *o;
    fmt_packing p;
    fmt_h5w *w;
    qnt_tensor t;  /* the role whose pieces are being written */
    float *values; /* [N] of the vector or bias that is being written; NULL: those of the source */
    cvt_digests digests;
    q_progress *progress;
    uint64_t need, modules;
} cvt_archive;

/* Attributes of the file, and /meta. */
q_status cvt_archive_put_meta(cvt_archive *j, q_err *err);
/* /kv, /factors and /stats: what there is for each layer besides tensors. */
q_status cvt_archive_put_layers(cvt_archive *j, q_err *err);

#endif
