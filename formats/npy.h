/* NumPy .npy files: token ids in, float matrices out.
 *
 *     q_ids ids = { 0 };
 *     int64_t rows, cols;
 *     Q_TRY(fmt_npy_read_ids(&ids, &rows, &cols, "prompt.npy", err));      ids.v [rows, cols]
 *     Q_TRY(fmt_npy_write_f32("logits.npy", force, data, rows, cols, err));
 *
 * Reads versions 1 to 3, int32 and int64, C order, one or two dimensions.  Source: NumPy format
 * description (numpy.lib.format).  Threads: pure. */
#ifndef FMT_NPY_H
#define FMT_NPY_H

#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/base/q_mem.h"

/* Errors: Q_ENOINPUT, Q_EFORMAT (header, size, an id outside int32), Q_EUNSUPPORTED (type, order).
 */
q_status fmt_npy_read_ids(q_ids *out, int64_t *rows, int64_t *cols, const char *path, q_err *err);
/* data [rows, cols] f32 row-major. */
q_status fmt_npy_write_f32(const char *path, int force, const float *data, int64_t rows,
                           int64_t cols, q_err *err);

#endif
