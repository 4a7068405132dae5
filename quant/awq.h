/* AWQ: factors for input channels that make the rounded weight lose less of the output, and
 * narrower ranges of groups.
 *
 *     Q_TRY(qnt_awq_search(&dev, s, W, x, w, H, N, K, &o, &r, err));
 *     ... s [K] is folded into the layer (fold.h) ...
 *     Q_TRY(qnt_round_groups(&dev, &t, W, H, NULL, N, K, &o, err));     codes of the folded weight
 *
 * Channels with large inputs get a larger weight, and so a smaller step in relation to it:
 *
 *     s_k = x_k^a                  or  s_k = x_k^a / w_k^(1-a)      a = 0, 1/20 .. 19/20
 *
 * with x_k the mean magnitude of the input and w_k the mean of |W| over the largest of its group;
 * normalised to sqrt(max s * min s) = 1.  An a is scored without running the model: with
 * D = Q(W s) / s - W the error of the output is tr(D H D'), H = X'X.  The first a of the first kind
 * is 0, plain rounding, so the result is never worse than that in the rows that are scored.
 * Source: Lin et al. 2023; the second kind of factors follows AutoAWQ.  Threads: one call each. */
#ifndef QNT_AWQ_H
#define QNT_AWQ_H

#include "quant/device.h"

typedef struct qnt_round_opts {
    const char *name; /* of the weight, for messages */
    int bits;         /* 4 or 8 */
    int64_t group;    /* -1: all of a row */
    int sym;
    int clip; /* 1: of each row and group the range with the least error in its block of H */
} qnt_round_opts;

#define QNT_AWQ_STEPS 20

typedef struct qnt_awq_result {
    double alpha;
    int by_weight;                  /* the second kind */
    double error, nearest;          /* tr(D H D') / tr(W H W') with s, and with s = 1 */
    double curve[2][QNT_AWQ_STEPS]; /* the same for every a of both kinds */
} qnt_awq_result;

/* s [K] from x [K], w [K] (both tied, if channels share a factor; w: the mean of a device), all
 * host; W [N, K] and H [K, K] with both triangles, device.  At most 256 rows are scored.  Errors:
 * Q_ENOMEM, those of qnt_dev_tensor. */
q_status qnt_awq_search(const qnt_dev *d, double *s, const float *W, const double *x,
                        const double *w, const float *H, int64_t N, int64_t K,
                        const qnt_round_opts *o, qnt_awq_result *r, q_err *err);

/* *t (host memory) from W, rounded to nearest; H [K, K] is needed with clip only; means [N, K]:
 * what the codes mean, NULL or W itself; W, H and means: device.  Errors: Q_EFORMAT (a weight
 * without a scale in f16), Q_ENOMEM, those of qnt_dev_tensor. */
q_status qnt_round_groups(const qnt_dev *d, qnt_tensor *t, const float *W, const float *H,
                          float *means, int64_t N, int64_t K, const qnt_round_opts *o, q_err *err);

/* tr(D H D') / tr(W H W') with D = V - W over at most 256 rows, evenly spread; 0 when both are.
 * Device. */
q_status qnt_output_error(const qnt_dev *d, double *error, const float *V, const float *W,
                          const float *H, int64_t N, int64_t K, q_err *err);
/* The same for W rounded to nearest, with full ranges. */
q_status qnt_nearest_error(const qnt_dev *d, double *error, const float *W, const float *H,
                           int64_t N, int64_t K, const qnt_round_opts *o, q_err *err);

#endif
