/* GPTQ: codes of a weight chosen so that the output of the layer changes least.
 *
 *     qnt_gptq_opts o = { .name = "layer 3, attn_qkv", .bits = 4, .sym = 1, .group = 128 };
 *     Q_TRY(qnt_gptq_solve(&dev, &t, W, H, N, K, &o, &result, err));
 *
 * With H = X'X over the inputs seen in calibration, the columns of W are rounded one after the
 * other, and what each loses is made good by the columns that are still to come:
 *
 *     e = (w_k - w'_k) / U_kk        w_j -= e U_kj for j > k         inverse(H + damping) = U'U
 *
 * in blocks of 128 columns, the rest of the row behind a block in one product.  Scales of a group
 * come from the weights as they are when its first column is reached; with act_order, where the
 * columns go by falling H_kk, from the weights given, so that groups stay what they are in the file
 * and nothing is to be done at run time.  Rows are independent: threads take strips of them, and
 * the result is the same for any number of threads.
 * Source: Frantar et al. 2022, algorithm 1.  Threads: one call per thread. */
#ifndef QNT_GPTQ_H
#define QNT_GPTQ_H

#include "quant/device.h"

typedef struct qnt_gptq_opts {
    const char *name; /* of the weight, for messages */
    int bits;         /* 4 or 8 */
    int64_t group;    /* columns of a group; -1: all */
    int sym;          /* 1: zero in the middle of the codes; 0: a zero for each group */
    int act_order;    /* 1: columns by falling second moment of their input */
    int static_scale; /* 1: scales from the weights given (always with act_order) */
    int plain_scale;  /* 1: full range of the weights; 0: searched, weighted by the input */
    double damp;      /* part of the mean of H's diagonal added to it; 0: 0.01 */
    const volatile sig_atomic_t *stop; /* not 0: Q_ECANCEL at the next strip; may be NULL */
} qnt_gptq_opts;

typedef struct qnt_gptq_result {
    double damp;  /* as used: tenfold for each time H could not be factored, in f32 and in f64 */
    int f64;      /* 1: f32 could not */
    int64_t dead; /* columns whose input was always zero: their weights become zero */
} qnt_gptq_result;

/*   W  [N, K]  in: the weight; out: what the codes mean; device
 *   H  [K, K]  both triangles, unchanged; device
 * *t is host memory, owned by the caller.  Errors: Q_EFORMAT (a value of H that is not finite, a
 * weight without a scale in f16), Q_EFAIL (no damping up to 10 helps), Q_ECANCEL, Q_ENOMEM, those
 * of qnt_group_alloc. */
q_status qnt_gptq_solve(const qnt_dev *d, qnt_tensor *t, float *W, const float *H, int64_t N,
                        int64_t K, const qnt_gptq_opts *o, qnt_gptq_result *r, q_err *err);

#endif
