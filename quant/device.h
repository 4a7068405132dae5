/* Where the arithmetic of quantization runs: the host, or a GPU that holds what calibration sees.
 *
 *     qnt_dev d = qnt_dev_host();                        or that of a backend (runtime/backend.h)
 *     Q_TRY(d.ops->gram(&d, H, K, X, FMT_F16, n, err));  ... out: d.ops->close(&d);
 *
 * gptq.c, awq.c and the clients of calibration are written against this table, once.  Pointers are
 * memory of the device unless "host" is said; on the host both are the same.  Calls run in order;
 * those that give something to the host wait for it, the others need not.  Sums have a fixed order
 * on each device: the same input gives the same bits; two devices differ by rounding.
 * All matrices are row-major f32.  Errors: Q_ENOMEM, and those of the device.
 * Threads: a device belongs to one. */
#ifndef QNT_DEVICE_H
#define QNT_DEVICE_H

#include <signal.h>

#include "quant/scheme.h"

typedef struct qnt_dev qnt_dev;

typedef struct qnt_group_opts {
    int sym;
    const float *h; /* [K] host: weights of the squared errors in a search of ranges; NULL: none */
} qnt_group_opts;

/* All columns of GPTQ (gptq.h). */
typedef struct qnt_columns {
    qnt_tensor *t;        /* codes, scales and zeros; device */
    float *W;             /* [N, K] in: the weight; out: what the codes mean */
    const float *U;       /* [K, K] upper triangular, in the order of the columns */
    const int32_t *order; /* [K] host: natural column at each place */
    const float *diag;    /* [K] host: second moments, natural order */
    int sym, plain_scale; /* plain: the full range of a group; else searched, weighted by diag */
    int is_static;        /* scales of the weights given; else of those at a group's first column */
    const volatile sig_atomic_t *stop; /* not 0: leave early; may be NULL */
} qnt_columns;

typedef struct qnt_dev_ops {
    const char *name;
    void (*close)(qnt_dev *d);
    /* ---- memory ---- */
    q_status (*alloc)(const qnt_dev *d, size_t bytes, void **out, q_err *err);
    void (*free)(const qnt_dev *d, void *p);
    q_status (*put)(const qnt_dev *d, void *dst, const void *host, size_t bytes, q_err *err);
    q_status (*get)(const qnt_dev *d, void *host, const void *src, size_t bytes, q_err *err);
    q_status (*copy)(const qnt_dev *d, void *dst, const void *src, size_t bytes, q_err *err);
    q_status (*clear)(const qnt_dev *d, void *p, size_t bytes, q_err *err);
    /* ---- inputs seen: X [n, K] of a type that activations have ---- */
    /* H [K, K] += X'X, upper triangle (and a little more, in the tiles of the diagonal) */
    q_status (*gram)(const qnt_dev *d, float *H, int64_t K, const void *X, fmt_dtype type,
                     int64_t n, q_err *err);
    /* sum[k] += |x[., k]|, where sum is not NULL; max[k] = largest |x[., k]|, which stays not
     * finite once a value was */
    q_status (*columns)(const qnt_dev *d, double *sum, float *max, const void *X, fmt_dtype type,
                        int64_t n, int64_t K, q_err *err);
    /* ---- second moments ---- */
    /* P [K (K + 1) / 2] = the upper triangle of H, row by row; and H += P */
    q_status (*triangle)(const qnt_dev *d, float *P, const float *H, int64_t K, q_err *err);
    q_status (*add_triangle)(const qnt_dev *d, float *H, const float *P, int64_t K, q_err *err);
    q_status (*mirror)(const qnt_dev *d, float *H, int64_t K, q_err *err); /* lower = upper */
    /* H_ij /= s_i s_j; s [K] host */
    q_status (*divide)(const qnt_dev *d, float *H, int64_t K, const double *s, q_err *err);
    q_status (*diagonal)(const qnt_dev *d, float *host, const float *H, int64_t K, q_err *err);
    /* U = H with rows and columns in an order, upper triangle, diag [K] in its diagonal; order and
     * diag are host arrays */
    q_status (*arrange)(const qnt_dev *d, float *U, const float *H, int64_t K, const int32_t *order,
                        const float *diag, q_err *err);
    /* The upper triangular U with inverse(H) = U'U, in place of H's upper triangle; below the
     * diagonal zeros.  *ok 0: H is not positive definite or not finite, and its contents are lost.
     */
    q_status (*factor)(const qnt_dev *d, float *H, int64_t K, int *ok, q_err *err);
    /* out[i] = e_i' H e_i for each row of E; out [M] host; E, tmp [M, K]; H both triangles */
    q_status (*quadratic)(const qnt_dev *d, double *out, const float *E, int64_t M, const float *H,
                          int64_t K, float *tmp, q_err *err);
    /* ---- weights [N, K] ---- */
    /* column k times s[k]; row i over s[i]; s is a host array */
    q_status (*scale_columns)(const qnt_dev *d, float *W, int64_t N, int64_t K, const double *s,
                              q_err *err);
    q_status (*divide_rows)(const qnt_dev *d, float *W, int64_t N, int64_t K, const double *s,
                            q_err *err);
    q_status (*subtract)(const qnt_dev *d, float *A, const float *B, int64_t n, q_err *err);
    /* mean [K] host: over rows of |W| / largest of its group */
    q_status (*mean)(const qnt_dev *d, double *mean, const float *W, int64_t N, int64_t K,
                     int64_t group, q_err *err);
    /* ---- codes ---- */
    /* scales and zeros of all groups */
    q_status (*fit)(const qnt_dev *d, qnt_tensor *t, const float *W, const qnt_group_opts *o,
                    q_err *err);
    /* the same with the range that has the least error in the group's block of H */
    q_status (*clip)(const qnt_dev *d, qnt_tensor *t, const float *W, const float *H, int sym,
                     q_err *err);
    q_status (*round)(const qnt_dev *d, qnt_tensor *t, const float *W, q_err *err);
    q_status (*means)(const qnt_dev *d, float *W, const qnt_tensor *t, q_err *err);
    /* E = Q(W s) / s - W with plain ranges; t: bits and group, scratch; s host, NULL: ones */
    q_status (*scaled_error)(const qnt_dev *d, float *E, const float *W, qnt_tensor *t,
                             const double *s, int sym, q_err *err);
    q_status (*solve)(const qnt_dev *d, const qnt_columns *a, q_err *err);
} qnt_dev_ops;

struct qnt_dev {
    const qnt_dev_ops *ops;
    void *self;
};

/* Columns of the block of GPTQ that starts at k0: at most 128, and a group whose scale comes from
 * current weights starts a block, or lies in one. */
int64_t qnt_block_columns(const qnt_columns *c, int64_t k0);

qnt_dev qnt_dev_host(void); /* needs no close */

/* n elements of `bytes` each, or Q_ENOMEM that names what they are. */
q_status qnt_dev_alloc(const qnt_dev *d, int64_t n, int64_t m, size_t bytes, void *out,
                       const char *what, q_err *err);

/* Codes, scales and zeros of w4g or w8g in device memory; group -1 is K.  Errors: Q_EARG (bits,
 * group), Q_ESHAPE, Q_ENOMEM. */
q_status qnt_dev_tensor(const qnt_dev *d, qnt_tensor *t, int bits, int64_t N, int64_t K,
                        int64_t group, q_err *err);
void qnt_dev_tensor_free(const qnt_dev *d, qnt_tensor *t);
/* *t leaves the device: its arrays become host memory of the caller.  Errors: Q_EFORMAT (a scale
 * outside the range of f16: `name` and the row are named), Q_ENOMEM; *t is freed then. */
q_status qnt_dev_tensor_fetch(const qnt_dev *d, qnt_tensor *t, const char *name, q_err *err);

#endif
