/* The test harness: a table of functions, asserts that print both values, TAP on stdout.
 *
 *     static void t_adds(void) { T_INT(1 + 1, 2); }
 *     static const t_case cases[] = { T(t_adds), { 0 } };
 *     int main(int argc, char **argv) { return t_main(argc, argv, cases); }
 *
 * Plain C and no library, so that machines without cmocka run the op and model tests too.  A failed
 * check prints file, line and values and ends that test; T_SKIP ends it with a reason that is
 * counted.  `prog NAME` runs one test.  T_SHARED("models/qwen-tiny") gives a path in ../shared or
 * skips the test when it is not there.  Tests of half a minute begin with T_LONG: they run in CI
 * and with `make test LONG=1`. */
#ifndef T_H
#define T_H

#include <stdint.h>
#include <stdio.h>
#include <stddef.h>

#include "formats/base/q_err.h"

typedef struct t_case {
    const char *name;
    void (*fn)(void);
} t_case;

#define T(fn)                                                                                      \
    {                                                                                              \
#fn, fn                                                                                    \
    }

int t_main(int argc, char **argv, const t_case *cases);

/* 0 when the test must end (they print); the macros below leave the function through longjmp */
void t_fail(const char *file, int line, const char *fmt, ...) Q_PRINTF(3, 4);
void t_skip(const char *fmt, ...) Q_PRINTF(1, 2);
const char *t_shared(
    const char *path);               /* static buffer per call, four in turn; skips when absent */
int t_long(void);                    /* 1: every test runs, however long it takes */
const char *t_tmpdir(void);          /* private directory of this process, removed at the end */
const char *t_tmp(const char *name); /* a path in it; 64 in turn */
double t_max_abs_diff(const float *a, const float *b, size_t n);
/* float32 .npy of ndim dimensions; data is malloc'ed; fails the test on anything else */
float *t_npy_f32(const char *path, int64_t *shape, int ndim);

#define T_SKIP(...) t_skip(__VA_ARGS__)
#define T_LONG()                                                                                   \
    do {                                                                                           \
        if (!t_long())                                                                             \
            t_skip("takes long: make test LONG=1");                                                \
    } while (0)
#define T_SHARED(path) t_shared(path)
#define T_TRUE(x)                                                                                  \
    do {                                                                                           \
        if (!(x))                                                                                  \
            t_fail(__FILE__, __LINE__, "%s is false", #x);                                         \
    } while (0)
#define T_INT(a, b)                                                                                \
    do {                                                                                           \
        const long long t_a = (long long)(a), t_b = (long long)(b);                                \
        if (t_a != t_b)                                                                            \
            t_fail(__FILE__, __LINE__, "%s = %lld, wanted %s = %lld", #a, t_a, #b, t_b);           \
    } while (0)
#define T_STR(a, b) t_str(__FILE__, __LINE__, #a, (a), (b))
#define T_NEAR(a, b, tol)                                                                          \
    do {                                                                                           \
        const double t_a = (a), t_b = (b), t_d = t_a > t_b ? t_a - t_b : t_b - t_a;                \
        if (!(t_d <= (tol)))                                                                       \
            t_fail(__FILE__, __LINE__, "%s = %.9g, wanted %.9g within %g, off by %g", #a, t_a,     \
                   t_b, (double)(tol), t_d);                                                       \
    } while (0)
/* a call that must succeed; `err` is printed */
#define T_OK(call, e)                                                                              \
    do {                                                                                           \
        const q_status t_st = (call);                                                              \
        if (t_st != Q_OK)                                                                          \
            t_fail(__FILE__, __LINE__, "%s: %s: %s", #call, q_status_name(t_st), (e).msg);         \
    } while (0)
/* a call that must fail with this status and a message that contains `part`; clears the error */
#define T_ERR(call, e, want, part)                                                                 \
    do {                                                                                           \
        const q_status t_st = (call);                                                              \
        t_err(__FILE__, __LINE__, #call, t_st, &(e), (want), (part));                              \
    } while (0)

void t_str(const char *file, int line, const char *expr, const char *a, const char *b);
void t_err(const char *file, int line, const char *expr, q_status got, q_err *err, q_status want,
           const char *part);

#endif
