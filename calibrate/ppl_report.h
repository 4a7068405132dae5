/* Results of perplexity runs, one beside the other: quality against size.
 *
 *     Q_TRY(cal_ppl_json(doc, &about, &result, err));            what --json prints
 *     Q_TRY(cal_ppl_compare("x.html", doc, "a.json,b.json", err));  doc beside earlier ones
 *
 * Only runs over the same text in the same windows can be compared; others are refused.
 * Threads: one. */
#ifndef CAL_PPL_REPORT_H
#define CAL_PPL_REPORT_H

#include "calibrate/eval_ppl.h"
#include "formats/json.h"

typedef struct cal_ppl_about {
    const char *model, *scheme, *base; /* base: NULL without one */
    const char *text_sha256;
    int64_t window;
    uint64_t bytes; /* of the model's tensors on disk */
} cal_ppl_about;

/* Members are added to doc. */
q_status cal_ppl_json(fmt_json *doc, const cal_ppl_about *a, const cal_ppl_result *r, q_err *err);

/* The same for people, without the last line end. */
q_status cal_ppl_text(q_buf *out, const cal_ppl_about *a, const cal_ppl_result *r, q_err *err);

/* Asked before a long run.  Errors: Q_EARG (no name), Q_ECREATE (the report or its JSON, x.json
 * for x.html, is there, or its directory is not), those of reading others. */
q_status cal_ppl_compare_check(const char *html, const char *others, q_err *err);
/* The report.  others: files of earlier --json results with commas between, or NULL.
 * Errors: Q_ENOINPUT, Q_EFORMAT, Q_ECONFIG (a member is missing; another text or window), Q_EIO. */
q_status cal_ppl_compare(const char *html, const fmt_json *doc, const char *others, q_err *err);

#endif
