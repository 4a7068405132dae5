/* A quantized layer as a file of a job: what is put into the archive when all layers are done.
 *
 *     Q_TRY(cal_quant_write(path, &layer, err));
 *     Q_TRY(cal_quant_read_weight(&t, path, FMT_ATTN_QKV, model, err));
 *
 * Layout, one group per linear (attn_qkv and so on):
 *
 *     /attn_qkv/codes [N, bytes of a row] u8, scale [N, G] f32, zero [N, G] u8; bits, group and the
 *                     numbers of cal_quant_stat as attributes
 *     /attn_qkv/bias  [N] f32 and /attn_norm/weight [hid] f32, where factors were folded into them
 *     /attn_qkv/input [P] f32, and with factors: factors [K] f32, input_raw [P] f32, and when they
 *                     were searched for, curve [2, steps] f32; counts [17] f32: codes, ends
 *     /attn_qkv/absmax, h_diag [K] f32: of the input as it was rounded for
 *     /kv [2, n_kv] f32: largest keys and values of each head
 *     attributes of "/": seconds, memory
 *
 * The bytes depend on the values, and on what the layer cost.  Threads: one. */
#ifndef CAL_QUANT_FILE_H
#define CAL_QUANT_FILE_H

#include "calibrate/cost.h"
#include "formats/family.h"
#include "formats/report.h"
#include "formats/source.h"
#include "quant/awq.h"
#include "quant/scheme.h"

#define CAL_CODE_BINS 16

/* What quantization did to one linear. */
typedef struct cal_quant_stat {
    double nearest;    /* error of the output in relation to it, rounded to nearest */
    double error;      /* as it was quantized */
    double damp;       /* of GPTQ, else 0 */
    int64_t f64;       /* 1: its second moments needed f64 */
    double alpha;      /* of AWQ's factors, else 0 */
    int64_t by_weight; /* 1: their second kind */
    int64_t dead;      /* inputs that were always zero */
    /* largest magnitudes of the input by parts of its channels (fmt_report_buckets), as it was
     * rounded for; and before AWQ's factors, else 0 */
    float input[FMT_MAP_COLS], input_raw[FMT_MAP_COLS];
    float curve[2][QNT_AWQ_STEPS]; /* errors of the search for factors, else 0 */
    float codes[CAL_CODE_BINS];    /* share of the codes in each sixteenth of their range */
    float ends;                    /* share of the smallest and the largest code */
} cal_quant_stat;

/* Fills codes and ends, of every sixteenth row. */
void cal_quant_count(cal_quant_stat *s, const qnt_tensor *t);

typedef struct cal_quant_layer {
    qnt_tensor t[FMT_ROLES];   /* of the linears; without bias */
    float *bias[FMT_ROLES];    /* [N] when it was changed, else NULL */
    float *norm[FMT_ROLES];    /* [hid] of the two norms when they were changed, else NULL */
    float *factors[FMT_ROLES]; /* [K] what the inputs were divided by, else NULL */
    float *absmax[FMT_ROLES];  /* [K] largest |x| of the inputs as they were rounded for */
    float *h_diag[FMT_ROLES];  /* [K] mean of x^2 of them */
    float *kv;                 /* [2, n_kv] largest keys and values */
    cal_quant_stat stat[FMT_ROLES];
    cal_cost cost;
} cal_quant_layer;

void cal_quant_layer_free(cal_quant_layer *l);

q_status cal_quant_write(const char *path, const cal_quant_layer *l, const fmt_model *m,
                         q_err *err);
/* Checks the whole file.  Errors: Q_EFORMAT. */
q_status cal_quant_read_stats(cal_quant_stat stat[FMT_ROLES], cal_cost *cost, const char *path,
                              const fmt_model *m, q_err *err);
q_status cal_quant_read_kv(float *kv, const char *path, const fmt_model *m, q_err *err);
q_status cal_quant_read_weight(qnt_tensor *t, const char *path, fmt_role role, const fmt_model *m,
                               q_err *err);
/* A bias (of a linear) or the weight of a norm; *out NULL when it is that of the source. */
q_status cal_quant_read_vector(float **out, const char *path, fmt_role role, const fmt_model *m,
                               q_err *err);
/* FMT_STAT_ABSMAX or _H_DIAG of a linear [K].  Errors: Q_EFORMAT (not there). */
q_status cal_quant_read_seen(float **out, const char *path, fmt_role role, fmt_part part,
                             const fmt_model *m, q_err *err);
/* Factors of a linear [K]; *out NULL when there are none. */
q_status cal_quant_read_factors(float **out, const char *path, fmt_role role, const fmt_model *m,
                                q_err *err);

#endif
