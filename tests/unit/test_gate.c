/* gate: what a check may look like, and that it holds and fails where it should. */
#include <string.h>

#include "calibrate/gate.h"
#include "tests/t.h"

static void t_parse(void)
{
    static const char *const bad[] = {
        "",      "ppl_delta", "<1",    "a<",
        "a<b",   "a<1x",      "a=1",   "a<>1",
        "a<inf", "a<nan",     "a=<1",  "a<<1",
        "a< 1 ", "a<1<2",     "a<==1", "a_name_that_is_far_too_long_for_a_figure<1"
    };
    q_err err = { 0 };
    cal_gate g;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        T_ERR(cal_gate_parse(&g, bad[i], &err), err, Q_EARG, "is no check: wanted NAME<NUMBER");
    T_OK(cal_gate_parse(&g, "ppl_delta<=-1e-2", &err), err);
    T_STR(g.name, "ppl_delta");
    T_STR(g.op, "<=");
    T_NEAR(g.bound, -0.01, 0);
}

static void t_check(void)
{
    static const char *const names[] = { "a", "b" };
    static const struct {
        const char *text;
        int holds;
    } rows[] = { { "a<1", 0 },   { "a<=1", 1 },     { "a>1", 0 }, { "a>=1", 1 },
                 { "b<0.5", 0 }, { "a<1.0001", 1 }, { "b>=0", 0 } };
    const double values[] = { 1, __builtin_nan("") };
    q_err err = { 0 };
    cal_gate g;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        T_OK(cal_gate_parse(&g, rows[i].text, &err), err);
        if (rows[i].holds)
            T_OK(cal_gate_check(&g, names, values, 2, &err), err);
        else
            T_ERR(cal_gate_check(&g, names, values, 2, &err), err, Q_EGATE, ", wanted ");
    }
    T_OK(cal_gate_parse(&g, "c<1", &err), err);
    T_ERR(cal_gate_check(&g, names, values, 2, &err), err, Q_EARG, "no figure 'c'; known: a b");
}

static const t_case cases[] = { T(t_parse), T(t_check), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
