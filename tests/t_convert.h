/* What the tests of convert share: paths below the private directory, and one whole conversion.
 *
 *     run_opts o = { .in = tmp("in"), .out = tmp("out"), .ranks = 2, .store = FMT_F16 };
 *     T_OK(run(&o, &err), err);
 *
 * Functions in a header, because a test is one file. */
#ifndef T_CONVERT_H
#define T_CONVERT_H

#include <signal.h>
#include <string.h>

#include "convert/exec.h"
#include "tests/t.h"
#include "tests/t_hf.h"

/* more of them in turn than a test uses */
static inline const char *tmp(const char *name)
{
    static char buf[64][256];
    static int turn;
    char *p = buf[turn++ & 63];

    snprintf(p, sizeof buf[0], "%s/%s", t_tmpdir(), name);
    return p;
}

typedef struct run_opts {
    const char *in, *out;
    int ranks, threads, force, strict;
    fmt_dtype store;
    const volatile sig_atomic_t *stop;
    cvt_result r;
} run_opts;

static inline q_status run(run_opts *o, q_err *err)
{
    q_status st = Q_OK;
    fmt_src *s = NULL;
    cvt_plan *p = NULL;
    const cvt_plan_opts po = { .ranks = o->ranks ? o->ranks : 1,
                               .threads = o->threads ? o->threads : 1,
                               .store = o->store,
                               .tool = "qwenkit test" };

    memset(&o->r, 0, sizeof o->r);
    Q_TRY(fmt_src_open(&s, o->in, err));
    Q_TRY(cvt_plan_build(&p, s, &po, err));
    Q_TRY(cvt_run(
        &o->r, p,
        &(cvt_run_opts){ .out = o->out, .force = o->force, .strict = o->strict, .stop = o->stop },
        err));
    T_INT(o->r.files, p->n_files);
    T_INT(o->r.bytes, p->bytes); /* the plan is exact */
out:
    cvt_result_free(&o->r);
    cvt_plan_free(p);
    fmt_src_close(s);
    return st;
}

#endif
