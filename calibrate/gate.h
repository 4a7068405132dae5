/* Quality gates: --assert 'ppl_delta<0.01'.
 *
 *     cal_gate g;
 *     Q_TRY(cal_gate_parse(&g, "ppl_delta<0.01", err));
 *     Q_TRY(cal_gate_check(&g, names, values, n, err));     Q_EGATE (exit code 2) when it fails
 *
 * One comparison of a named figure with a number: <, <=, > or >=.  Threads: a plain value. */
#ifndef CAL_GATE_H
#define CAL_GATE_H

#include <stddef.h>

#include "formats/base/q_err.h"

typedef struct cal_gate {
    char name[32];
    char op[3];
    double bound;
} cal_gate;

/* Errors: Q_EARG with the text and what is wanted. */
q_status cal_gate_parse(cal_gate *g, const char *text, q_err *err);
/* Errors: Q_EARG (no figure of that name: lists them), Q_EGATE with the figure and the bound.  A
 * figure that is not a number fails. */
q_status cal_gate_check(const cal_gate *g, const char *const *names, const double *values, size_t n,
                        q_err *err);

#endif
