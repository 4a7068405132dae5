/* The files of an FT directory: the one table that names, cuts and orders them, for writing and for
 * reading.
 *
 *     fmt_ft_layout l = { .ranks = T, .store = FMT_F16, .sets = FMT_FT_W8A8 };
 *     fmt_ft_file f;
 *     for (size_t i = 0; fmt_ft_file_at(&f, model, &l, i); i++)
 *         ... f.name, f.rows x f.cols of f.dtype on disk, f.seg[0 .. f.n_seg - 1]
 *
 * A linear is stored [in, out], so its file is the transposed stack of a few row blocks of the
 * canonical [N, K] matrix; a segment says which block and at which file column it starts.  With T
 * ranks a BY_ROW role keeps the same slice of every piece in a file, a BY_COL role a slice of the
 * inputs.  Embedding, head and norms are one untransposed copy; a tied head
 * has no file.  With more ranks than key/value heads, neighbours hold copies of one head.  What
 * calibration adds comes in sets of further files.  Source: reference-behaviour 2.2 to 2.5.
 * Threads: pure. */
#ifndef FMT_FT_NAMES_H
#define FMT_FT_NAMES_H

#include <stddef.h>
#include <stdint.h>

#include "formats/family.h"
#include "formats/source.h"

#define FMT_FT_NAME_MAX 96

/* sets of files beside the weights */
#define FMT_FT_W8A8 1u /* int8 codes and their scales: qwen-convert --smoothquant */
#define FMT_FT_KV8  2u /* scales of an int8 key/value cache: --calibrate-kv-cache */

typedef struct fmt_ft_layout {
    int ranks;
    fmt_dtype store; /* of weights, biases and norms */
    unsigned sets;
    double alpha; /* of the smoothing, when sets has FMT_FT_W8A8 */
} fmt_ft_layout;

typedef struct fmt_ft_seg {
    fmt_box box; /* of the part's matrix [N, K]; vectors: k0 = 0, k1 = 1 */
    int again;   /* 1: a lower rank has the same block */
    int64_t at;  /* transposed: file column, else file row, where the block starts */
} fmt_ft_seg;

typedef struct fmt_ft_file {
    char name[FMT_FT_NAME_MAX];
    fmt_ref ref;
    fmt_dtype dtype;
    int64_t N, K;       /* the whole part, of which the file holds a cut */
    int rank;           /* 0 .. T-1, 0 for files that all ranks share */
    int transposed;     /* 1: file is [K slice, N slice]; 0: [N slice, K slice] */
    int64_t rows, cols; /* as on disk, row-major; a vector has cols 1 */
    int n_seg;
    fmt_ft_seg seg[FMT_MAX_PIECES];
} fmt_ft_file;

/* The i-th file of the model; 0 when there is none.  Order: shared, then by layer; files of one
 * part follow one another. */
int fmt_ft_file_at(fmt_ft_file *f, const fmt_model *m, const fmt_ft_layout *l, size_t i);

/* How many ranks hold the same key/value head: 1 up to n_kv ranks, T / n_kv above. */
int fmt_ft_kv_copies(const fmt_model *m, int T);

/* Q_ECONFIG with the size that T does not divide and the largest T that works. */
q_status fmt_ft_check_ranks(const fmt_model *m, int T, q_err *err);

#endif
