/* Hidden states of all samples between two layers: [rows, width] f32, in memory or in a file.
 *
 *     cal_hidden h;
 *     Q_TRY(cal_hidden_open(&h, rows, width, path_or_NULL, err));
 *     Q_TRY(cal_hidden_get(&h, row, n, dst, err));      of the layer before
 *     Q_TRY(cal_hidden_put(&h, row, n, src, err));      of this layer, after the rows were taken
 *     Q_TRY(cal_hidden_turn(&h, path, err));            this layer becomes the one before
 *     ... out: cal_hidden_close(&h);
 *
 * In memory rows are overwritten in place.  In a file a layer's rows go to a new one, which
 * replaces the old one when it is complete and on the disk, so that a killed run finds the last
 * whole layer.  Threads: one. */
#ifndef CAL_HIDDEN_H
#define CAL_HIDDEN_H

#include "formats/base/q_file.h"

typedef struct cal_hidden {
    int64_t rows, width;
    float *mem;  /* NULL: in files */
    q_file *was; /* file of the layer before, NULL: layer 0 */
    q_out *next; /* file of this layer */
    char *path;  /* of `was` */
} cal_hidden;

/* spilled 0: in memory.  Errors: Q_ENOMEM with the bytes. */
q_status cal_hidden_open(cal_hidden *h, int64_t rows, int64_t width, int spilled, q_err *err);
void cal_hidden_close(cal_hidden *h);
q_status cal_hidden_get(const cal_hidden *h, int64_t row, int64_t n, float *dst, q_err *err);
/* path: where the file of this layer will stand; not used in memory.  Rows in order, each once. */
q_status cal_hidden_put(cal_hidden *h, const char *path, int64_t row, int64_t n, const float *src,
                        q_err *err);
/* In a file: publishes this layer's at `path` and deletes the one before. */
q_status cal_hidden_turn(cal_hidden *h, const char *path, q_err *err);
/* In memory: writes a copy to path.  Files are copies already: nothing happens. */
q_status cal_hidden_save(const cal_hidden *h, const char *path, q_err *err);
/* Takes what a stopped run has stored.  Errors: Q_EFORMAT (another size). */
q_status cal_hidden_load(cal_hidden *h, const char *path, q_err *err);

#endif
