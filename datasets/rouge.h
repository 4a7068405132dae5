/* ROUGE-1, -2, -L and -Lsum with the definitions of Google's rouge_score.
 *
 *     ds_rouge s;
 *     ds_rouge_mean m;
 *     Q_TRY(ds_rouge_score(&s, highlights, n_h, summary, n_s, 0, err));
 *     double f = s.v[DS_ROUGE_L][DS_F];
 *     Q_TRY(ds_rouge_aggregate(&m, scores, n_scores, seed, err));
 *
 * Tokens: lower case, every run outside [a-z0-9] separates; no stemming unless asked for (the
 * default of rouge_score and of the reference).  R = matches / target tokens, P = matches /
 * prediction tokens, F = 2PR / (P + R); a side without tokens scores 0.  For ROUGE-Lsum each line
 * is a sentence.  Scores are fractions, 0 to 1, equal to those of rouge_score 0.1.2.
 * Threads: pure.
 * Source: C.-Y. Lin, ROUGE: a package for automatic evaluation of summaries, 2004. */
#ifndef DS_ROUGE_H
#define DS_ROUGE_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"

typedef enum ds_rouge_type {
    DS_ROUGE_1,
    DS_ROUGE_2,
    DS_ROUGE_L,
    DS_ROUGE_LSUM,
    DS_ROUGE_TYPES
} ds_rouge_type;

typedef enum ds_rouge_part { DS_P, DS_R, DS_F, DS_ROUGE_PARTS } ds_rouge_part;

typedef struct ds_rouge {
    double v[DS_ROUGE_TYPES][DS_ROUGE_PARTS];
} ds_rouge;

#define DS_ROUGE_STEM 1u /* Porter-stem tokens of more than 3 letters (ds_porter_stem) */
#define DS_ROUGE_CJK                                                                               \
    2u /* each Han, kana or Hangul character is a token: not comparable with others */

/* Most pairs of tokens, target times prediction: a second of work and 32 MiB for the longest
 * common subsequence.  16384 words against 16384 words are still scored. */
#define DS_ROUGE_MAX_CELLS ((size_t)1 << 28)

const char *ds_rouge_name(ds_rouge_type t); /* "rouge1", "rouge2", "rougeL", "rougeLsum" */

/* Scores one prediction against one target.  Texts are bytes (NUL is a separator), UTF-8 where not
 * ASCII; neither pointer is NULL unless its n is 0.
 * Errors: Q_EARG (unknown flag), Q_ESHAPE (above DS_ROUGE_MAX_CELLS), Q_ENOMEM. */
q_status ds_rouge_score(ds_rouge *out, const char *target, size_t n_target, const char *prediction,
                        size_t n_prediction, unsigned flags, q_err *err);

#define DS_ROUGE_RESAMPLES 1000

typedef struct ds_rouge_mean {
    ds_rouge mean;           /* plain mean over the scores: the headline */
    ds_rouge low, mid, high; /* 2.5, 50, 97.5 percentiles of the bootstrap means */
} ds_rouge_mean;

/* Mean and bootstrap interval of n scores.  A resample draws n scores with replacement and takes
 * their mean, all types and parts from the same draw; draw i is ds_rng_below(n) of a ds_rng that
 * starts with seed.  Percentiles are those of ds_quantile.
 * Errors: Q_EARG (n == 0), Q_ENOMEM. */
q_status ds_rouge_aggregate(ds_rouge_mean *out, const ds_rouge *scores, size_t n, uint64_t seed,
                            q_err *err);

#endif
