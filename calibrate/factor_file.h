/* Factors of AWQ as another archive holds them: what the inputs of each linear were divided by.
 *
 *     cal_factors f = { 0 };
 *     Q_TRY(cal_factors_open(&f, "awq.h5", model, err));
 *     Q_TRY(cal_factors_check(&f, model_sha256, err));
 *     ... f.v[layer * FMT_ROLES + role], [K] of a linear ...      ... out: cal_factors_close(&f);
 *
 * In the archive: /factors/layers.<i>/<role> [K] f32, and in its manifest the hash of the model
 * that was quantized.  They are what was folded, so folding them again gives the same norms.
 * Threads: a plain value. */
#ifndef CAL_FACTOR_FILE_H
#define CAL_FACTOR_FILE_H

#include "formats/family.h"

typedef struct cal_factors {
    char *path;
    float **v; /* [layers, FMT_ROLES] */
    int64_t layers;
    char model_sha256[65], root_sha256[65]; /* of the model it was made from; of the archive */
} cal_factors;

/* Errors: Q_ENOINPUT, Q_EFORMAT (no archive, one without factors, a damaged one, a factor that is
 * not positive and finite), Q_ECONFIG (another family or another size), Q_ENOMEM. */
q_status cal_factors_open(cal_factors *f, const char *path, const fmt_model *m, q_err *err);
/* Errors: Q_ECONFIG (the archive was made from another model). */
q_status cal_factors_check(const cal_factors *f, const char *model_sha256, q_err *err);
void cal_factors_close(cal_factors *f);

#endif
