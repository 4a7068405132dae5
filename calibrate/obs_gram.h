/* Second moments of the inputs of a layer's linears: H = X'X, and of |x| per channel the mean and
 * the largest.
 *
 *     cal_gram g;
 *     Q_TRY(cal_gram_open(&g, model, device, comm, err));
 *     Q_TRY(cal_gram_see(&g, view, err));                            from observe, in order
 *     Q_TRY(cal_gram_share(&g, points, done, shares, err));          from share
 *     Q_TRY(cal_gram_end(&g, CAL_BIT(CAL_ATTN_IN), layer, err));     H gets its lower triangle
 *     ... g.H[FMT_ATTN_QKV], g.x[FMT_ATTN_QKV] ...      ... out: cal_gram_close(&g);
 *     Q_TRY(cal_gram_begin(&g, CAL_BIT(CAL_ATTN_IN), err));          forgets those
 *
 * They are made where the activations are: on a GPU nothing is copied to the host but what there is
 * per channel.  Sums are f32.  Inside a share of the samples (calib_data.h) they go by the steps of
 * the loop, in their order; those of the eight shares are added up as a binary tree:
 *
 *     ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
 *
 * A rank has whole branches of it, and the ranks add up the rest (comm.h), so that the same steps
 * give the same bits whatever the number of ranks and threads.  Branches that wait for their
 * neighbours, three of them at most, are packed triangles.  Threads: one; a view is shared among
 * OpenMP's threads. */
#ifndef CAL_OBS_GRAM_H
#define CAL_OBS_GRAM_H

#include "calibrate/layer_loop.h"

#define CAL_BRANCHES 3 /* that wait at most: the logarithm of CAL_SHARES */

/* The inputs of the four linears. */
#define CAL_INPUTS                                                                                 \
    (CAL_BIT(CAL_ATTN_IN) | CAL_BIT(CAL_ATTN_OUT) | CAL_BIT(CAL_FFN_IN) | CAL_BIT(CAL_FFN_MID))

typedef struct cal_gram {
    const fmt_model *m;
    qnt_dev d;
    rt_comm *comm;          /* NULL: alone */
    float *H[FMT_ROLES];    /* [K, K] of the linear that reads the input; device */
    double *sum[FMT_ROLES]; /* [K] of |x|; device */
    float *most[FMT_ROLES]; /* [K] largest |x|; device */
    double *x[FMT_ROLES];   /* [K] mean of |x|, after the end */
    float *max[FMT_ROLES];  /* [K] largest |x|, after the end */
    int64_t n[FMT_ROLES];   /* rows seen; of all ranks, after the end */
    /* Branch l waits for the one beside it, with 2^l shares each. */
    float *waiting;                                /* all of them; device; while there are some */
    float *part[CAL_BRANCHES][FMT_ROLES];          /* [K (K + 1) / 2] in it */
    double *part_sum[CAL_BRANCHES + 1][FMT_ROLES]; /* [K] host; the last: what was just seen */
} cal_gram;

fmt_role cal_input_role(cal_point p); /* FMT_ROLES: no input of a linear */
cal_point cal_input_point(int i);     /* the i-th input in the order of a forward, i < 4 */

/* d and comm are borrowed: closed after the moments. */
q_status cal_gram_open(cal_gram *g, const fmt_model *m, qnt_dev d, rt_comm *comm, q_err *err);
void cal_gram_close(cal_gram *g);
uint64_t cal_gram_bytes(const fmt_model *m);         /* of what is kept from layer to layer */
uint64_t cal_gram_waiting_bytes(const fmt_model *m); /* and more while samples are seen */
q_status cal_gram_begin(cal_gram *g, uint32_t points, q_err *err);
q_status cal_gram_see(cal_gram *g, const cal_view *v, q_err *err);
/* The done-th of this rank's shares is over. */
q_status cal_gram_share(cal_gram *g, uint32_t points, int done, int shares, q_err *err);
/* Errors: Q_EFORMAT (an input that is not finite: layer and channel are named). */
q_status cal_gram_end(cal_gram *g, uint32_t points, int64_t layer, q_err *err);
/* Copies for the caller, to be freed with q_free: [K] largest |x|, [K] mean of x^2. */
q_status cal_gram_copy(const cal_gram *g, fmt_role role, float **absmax, float **h_diag,
                       q_err *err);
/* What would have been seen if channel k had been divided by s[k]. */
q_status cal_gram_divide(cal_gram *g, fmt_role role, const double *s, q_err *err);

#endif
