/* A calibration run over the built-in checkpoint for the tests of the loop: 6 samples of up to 150
 * tokens, its ranges, and their comparison bit by bit. */
#ifndef T_LOOP_H
#define T_LOOP_H

#include <string.h>

#include "calibrate/calibrate.h"
#include "tests/t.h"

#define MODEL "datasets/qwen-tiny"
#define DATA  "datasets/samples.jsonl"

typedef struct fixture {
    fmt_src *src;
    cal_run_opts o;
} fixture;

static inline void open_fixture(fixture *f)
{
    q_err err = { 0 };

    memset(f, 0, sizeof *f);
    T_OK(fmt_src_open(&f->src, MODEL, &err), err);
    f->o = (cal_run_opts){ .data = { .path = DATA, .samples = 6, .seq_len = 150 },
                           .threads = 2,
                           .max_tok = 300,
                           .tool = "test" };
}

static inline void run(const fixture *f, const cal_run_opts *o, cal_ranges *out)
{
    q_err err = { 0 };
    cal_run r;

    T_OK(cal_run_open(&r, f->src, o, &err), err);
    T_INT(r.data.n, 6);
    T_OK(cal_run_ranges(&r, out, &err), err);
    if (o->job_dir)
        T_OK(cal_job_remove(o->job_dir, &err), err);
    cal_run_close(&r);
}

static inline int same_floats(const float *a, const float *b, int64_t n)
{
    return memcmp(a, b, (size_t)n * sizeof *a) == 0;
}

static inline void check_same(const cal_ranges *a, const cal_ranges *b)
{
    for (int64_t i = 0; i < a->m->layers; i++) {
        for (int r = 0; r < FMT_ROLES; r++) {
            const fmt_role_row *role = fmt_role_get((fmt_role)r);

            if (!role->quant)
                continue;
            T_TRUE(
                same_floats(a->layer[i].in[r], b->layer[i].in[r], fmt_dim_size(role->cols, a->m)));
            T_TRUE(same_floats(a->layer[i].out[r], b->layer[i].out[r], fmt_role_rows(role, a->m)));
        }
        T_TRUE(same_floats(a->layer[i].k, b->layer[i].k, a->m->n_kv * a->m->hd));
    }
}

#endif
