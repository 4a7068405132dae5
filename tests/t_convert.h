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

/* Ranges of a model that nobody ran: most channels alike, some large, one never used. */
static inline float tiny_range(int role, int64_t layer, int what, int64_t i)
{
    char name[64];
    float v;

    snprintf(name, sizeof name, "r%d.%lld.%d", role, (long long)layer, what);
    v = tiny_hf_value(name, (uint64_t)i);
    v = (v < 0 ? -v : v) + 0.01f;
    return what == 0 && i == 5 ? 0 : i % 11 == 3 ? 50 * v : 2 * v;
}

static inline qnt_ranges *tiny_ranges(const fmt_model *m)
{
    q_err err = { 0 };
    qnt_ranges *r = q_calloc((size_t)m->layers, sizeof *r);

    T_TRUE(r != NULL);
    for (int64_t l = 0; l < m->layers; l++) {
        T_OK(qnt_ranges_alloc(&r[l], m, &err), err);
        for (int i = 0; i < FMT_ROLES; i++) {
            const fmt_role_row *role = fmt_role_get((fmt_role)i);

            for (int64_t k = 0; role->quant && k < fmt_dim_size(role->cols, m); k++)
                r[l].in[i][k] = tiny_range(i, l, 0, k);
            for (int64_t n = 0; role->quant && n < fmt_role_rows(role, m); n++)
                r[l].out[i][n] = tiny_range(i, l, 1, n);
        }
        for (int64_t k = 0; k < m->n_kv * m->hd; k++)
            r[l].k[k] = tiny_range(FMT_ROLES, l, 1, k);
    }
    return r;
}

static inline void tiny_ranges_free(qnt_ranges *r, int64_t layers)
{
    for (int64_t l = 0; l < layers; l++)
        qnt_ranges_free(&r[l]);
    q_free(r);
}

typedef struct run_opts {
    const char *in, *out;
    int ranks, threads, force, strict;
    fmt_dtype store;
    const qnt_ranges *ranges;
    double alpha; /* smooths when sq is set */
    int sq, kv;
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
                               .smooth = o->sq,
                               .alpha = o->alpha,
                               .kv_scales = o->kv,
                               .tool = "qwenkit test" };

    memset(&o->r, 0, sizeof o->r);
    Q_TRY(fmt_src_open(&s, o->in, err));
    Q_TRY(cvt_plan_build(&p, s, &po, err));
    if (o->ranges)
        Q_TRY(cvt_plan_set_ranges(p, o->ranges, err));
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
