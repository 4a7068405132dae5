/* Quality gates. */
#include "calibrate/gate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

q_status cal_gate_parse(cal_gate *g, const char *text, q_err *err)
{
    const size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_");
    const size_t op = strspn(text + n, "<>=");
    char *end = NULL;

    if (n > 0 && n < sizeof g->name && (text[n] == '<' || text[n] == '>') &&
        (op == 1 || (op == 2 && text[n + 1] == '='))) {
        snprintf(g->name, sizeof g->name, "%.*s", (int)n, text);
        snprintf(g->op, sizeof g->op, "%.*s", (int)op, text + n);
        g->bound = strtod(text + n + op, &end);
        if (end > text + n + op && *end == '\0' && isfinite(g->bound))
            return Q_OK;
    }
    return q_fail(err, Q_EARG, "'%s' is no check: wanted NAME<NUMBER, as in ppl_delta<0.01", text);
}

static int holds(const cal_gate *g, double v)
{
    if (g->op[0] == '<')
        return g->op[1] ? v <= g->bound : v < g->bound;
    return g->op[1] ? v >= g->bound : v > g->bound;
}

q_status cal_gate_check(const cal_gate *g, const char *const *names, const double *values, size_t n,
                        q_err *err)
{
    char known[256] = "";

    for (size_t i = 0; i < n; i++) {
        snprintf(known + strlen(known), sizeof known - strlen(known), " %s", names[i]);
        if (strcmp(names[i], g->name) != 0)
            continue;
        if (holds(g, values[i]))
            return Q_OK;
        return q_fail(err, Q_EGATE, "%s is %.6g, wanted %s%s%.6g", g->name, values[i], g->name,
                      g->op, g->bound);
    }
    return q_fail(err, Q_EARG, "--assert: there is no figure '%s'; known:%s", g->name, known);
}
