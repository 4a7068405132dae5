/* Hidden states of all samples between two layers: [rows, width] f32, on the device, in host memory
 * (the first of them on the device all the same, as many as fit) or in a file; and their copy in a
 * job, for a run that is stopped.
 *
 *     cal_hidden h;
 *     Q_TRY(cal_hidden_open(&h, &(cal_hidden_opts){ be, writer, rows, width, step, place }, err));
 *     Q_TRY(cal_hidden_begin(&h, path, err));           rows that are put go to a file as well
 *     Q_TRY(cal_hidden_get(&h, row, n, x, err));        of the layer before
 *     Q_TRY(cal_hidden_put(&h, row, n, x, err));        of this layer, after the rows were taken
 *     Q_TRY(cal_hidden_turn(&h, err));                  this layer becomes the one before
 *     ... out: cal_hidden_close(&h);                    (before the writer is closed)
 *
 * x is memory of the backend.  On the device and in host memory rows are overwritten in place.  A
 * file gets its rows from the writer (writer.h) and its name when it is complete and on the disk;
 * then the one before it goes away (or the one before that), so that a killed run finds the last
 * whole layer.  Behind its rows stand sums of them, which loading compares.  Where rows live
 * changes no bit of them.  Threads: one. */
#ifndef CAL_HIDDEN_H
#define CAL_HIDDEN_H

#include "calibrate/writer.h"
#include "formats/base/q_file.h"
#include "runtime/backend.h"

typedef enum cal_place { CAL_IN_MEMORY, CAL_ON_DEVICE, CAL_IN_FILES } cal_place;

const char *cal_place_name(cal_place p); /* "memory", "device", "files" */

typedef struct cal_hidden_opts {
    rt_backend *be;
    cal_writer *writer;
    int64_t rows, width;
    int64_t step; /* rows of one get or put at most */
    cal_place place;
    int64_t device_rows; /* of CAL_IN_MEMORY: the first ones, which lie on the device */
    int kept;            /* files that stay: 1, or 2 where ranks may be a layer apart */
} cal_hidden_opts;

#define CAL_STAGES 3 /* puts that may wait for the disk */

/* A file of rows that is being written: behind the rows stand the four sums of them. */
typedef struct cal_sums {
    uint64_t lane[4];
    uint64_t n; /* words so far */
} cal_sums;

typedef struct cal_hidden_file {
    q_out *out;
    cal_sums sums; /* the writer's */
} cal_hidden_file;

typedef struct cal_rows { /* on their way to a file */
    cal_hidden_file *file;
    float *v; /* [step, width] host */
    size_t bytes;
    uint64_t ticket;
} cal_rows;

typedef struct cal_hidden {
    cal_hidden_opts o;
    float *near; /* [device_rows, width] backend memory, NULL: none */
    float *mem;  /* [the rest, width] host memory, NULL: none */
    cal_rows stage[CAL_STAGES];
    unsigned turn;
    cal_hidden_file *next; /* of this layer, NULL: it gets none */
    q_file *was;           /* in files: of the layer before */
    char *path;            /* of the last file that has its name, or will have */
    char *older;           /* and of the one before, if it is kept */
    uint64_t named;        /* ticket of the last one */
    char *next_path;
} cal_hidden;

/* Errors: Q_ENOMEM with the bytes. */
q_status cal_hidden_open(cal_hidden *h, const cal_hidden_opts *o, q_err *err);
void cal_hidden_close(cal_hidden *h);
uint64_t cal_hidden_stage_bytes(int64_t step, int64_t width); /* of host memory beside the rows */
/* path: where the file of this layer will stand. */
q_status cal_hidden_begin(cal_hidden *h, const char *path, q_err *err);
q_status cal_hidden_get(cal_hidden *h, int64_t row, int64_t n, float *x, q_err *err);
/* Rows in order, each once. */
q_status cal_hidden_put(cal_hidden *h, int64_t row, int64_t n, float *x, q_err *err);
/* Hands the file to the writer, which publishes it behind everything pushed before. */
q_status cal_hidden_turn(cal_hidden *h, q_err *err);
/* Returns when the last file that was handed over is on the disk. */
q_status cal_hidden_wait(cal_hidden *h, q_err *err);
/* Takes what a stopped run has stored.  Errors: Q_EFORMAT (another size, or not what was written).
 */
q_status cal_hidden_load(cal_hidden *h, const char *path, q_err *err);

#endif
