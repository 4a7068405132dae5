/* The calibration loop on the built-in checkpoint: what it sees layer by layer is what a plain
 * forward of the whole model computes, sample by sample; in memory and spilled; stopped anywhere
 * and continued; and a layer that a client replaced is what the next layers see. */
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_file.h"
#include "quant/load.h"
#include "runtime/kv.h"
#include "tests/t_loop.h"

/* A budget for everything but a part of the hidden states. */
static uint64_t fits_not(const fixture *f, const cal_run_opts *o)
{
    q_err err = { 0 };
    cal_run r;
    cal_plan p;
    cal_client none = { 0 };

    T_OK(cal_run_open(&r, f->src, o, &err), err);
    T_OK(cal_run_plan(&p, &r, &none, &err), err);
    cal_run_close(&r);
    return cal_memory_sum(&p.host) - p.hidden_bytes / 2;
}

/* ---- against the whole model ---------------------------------------------------------------- */

typedef struct watch {
    const fmt_model *m;
    int64_t layer;
    qnt_ranges *max; /* [layers] */
} watch;

static q_status see(void *user, rt_tap at, const void *x, int64_t n_tok, q_err *err)
{
    watch *w = user;
    const fmt_model *m = w->m;
    qnt_ranges *r = &w->max[w->layer];
    const struct {
        float *max;
        int64_t dim;
    } rows[RT_TAPS] = {
        [RT_TAP_ATTN_IN] = { r->in[FMT_ATTN_QKV], m->hid },
        [RT_TAP_QKV] = { r->out[FMT_ATTN_QKV], (m->n_head + 2 * m->n_kv) * m->hd },
        [RT_TAP_ATTN_OUT] = { r->in[FMT_ATTN_OUT], m->n_head * m->hd },
        [RT_TAP_FFN_IN] = { r->in[FMT_FFN_GATE_UP], m->hid },
        [RT_TAP_FFN_MID] = { r->in[FMT_FFN_DOWN], m->ffn },
    };
    const float *v = x;

    (void)err;
    for (int64_t t = 0; t < n_tok; t++)
        for (int64_t k = 0; k < rows[at].dim; k++) {
            const float a =
                v[t * rows[at].dim + k] < 0 ? -v[t * rows[at].dim + k] : v[t * rows[at].dim + k];

            rows[at].max[k] = a > rows[at].max[k] ? a : rows[at].max[k];
        }
    w->layer += at == RT_TAP_FFN_MID;
    return Q_OK;
}

/* One sample alone through the whole model. */
static void forward(rt_model *m, rt_backend *be, const cal_data *d, size_t i, watch *w)
{
    q_err err = { 0 };
    enum { MAX = 150, BLOCKS = 3 };
    const int n = (int)(d->start[i + 1] - d->start[i]);
    int32_t pos[MAX], seq[MAX] = { 0 }, q_start[2] = { 0, n }, kv_len[1] = { n };
    int32_t block[BLOCKS] = { 0, 1, 2 };
    float q_scale[MAX], inv_freq[64], rate = 1;
    rt_kv_pool pool = { 0 };
    rt_work work;
    const rt_batch b = { .n_tok = n,
                         .n_seq = 1,
                         .max_blocks = BLOCKS,
                         .tok = d->ids.v + d->start[i],
                         .pos = pos,
                         .seq = seq,
                         .q_start = q_start,
                         .kv_len = kv_len,
                         .block = block,
                         .inv_freq = inv_freq,
                         .q_scale = q_scale };

    T_TRUE(n <= MAX);
    for (int t = 0; t < n; t++) {
        pos[t] = t;
        q_scale[t] = rate;
    }
    for (int k = 0; k < 64; k++) /* base 10000, 128 rotated elements, as the checkpoint says */
        inv_freq[k] = (float)(1.0 / __builtin_pow(10000, 2.0 * k / 128));
    T_OK(rt_kv_open(&pool, be, &m->desc, "f32", BLOCKS, NULL, &err), err);
    T_OK(rt_work_open(&work, m, MAX, 1, &err), err);
    work.tap = see;
    work.tap_user = w;
    w->layer = 0;
    T_OK(rt_forward(m, &work, &b, &pool.kv, &err), err);
    T_INT(w->layer, m->desc.layers);
    rt_work_close(&work, m);
    rt_kv_close(&pool, be);
}

static void t_sees_the_whole_model(void)
{
    q_err err = { 0 };
    fixture f;
    cal_ranges r;
    cal_run run_;
    rt_backend *be = NULL;
    rt_model *m = NULL;
    watch w;

    open_fixture(&f);
    run(&f, &f.o, &r);
    T_OK(cal_run_open(&run_, f.src, &f.o, &err), err);
    T_OK(rt_backend_open(&be, "cpu", 1, &err), err);
    T_OK(rt_model_open(&m, f.src, be, &(rt_model_opts){ 0 }, &err), err);
    w = (watch){ .m = fmt_src_model(f.src), .max = q_calloc((size_t)r.m->layers, sizeof *w.max) };
    for (int64_t i = 0; i < r.m->layers; i++)
        T_OK(qnt_ranges_alloc(&w.max[i], r.m, &err), err);
    for (size_t i = 0; i < run_.data.n; i++)
        forward(m, be, &run_.data, i, &w);
    for (int64_t i = 0; i < r.m->layers; i++) {
        const qnt_ranges *a = &r.layer[i], *b = &w.max[i];

        /* to the bit: a row of a product does not depend on its batch */
        T_TRUE(same_floats(a->in[FMT_ATTN_QKV], b->in[FMT_ATTN_QKV], 256));
        T_TRUE(same_floats(a->out[FMT_ATTN_QKV], b->out[FMT_ATTN_QKV], 768));
        T_TRUE(same_floats(a->in[FMT_ATTN_OUT], b->in[FMT_ATTN_OUT], 256));
        T_TRUE(same_floats(a->in[FMT_FFN_GATE_UP], b->in[FMT_FFN_GATE_UP], 256));
        T_TRUE(same_floats(a->in[FMT_FFN_DOWN], b->in[FMT_FFN_DOWN], 768));
        for (int64_t h = 0; h < 2; h++) { /* a rotation keeps the length of a pair */
            for (int64_t k = 0; k < 64; k++) {
                const float *k0 = a->k + h * 128 + k, *raw = a->out[FMT_ATTN_QKV] + 256 + h * 128;

                T_TRUE(k0[0] > 0 && k0[0] <= 1.0001f * (raw[k] + raw[k + 64]));
                T_TRUE(k0[64] > 0 && k0[64] <= 1.0001f * (raw[k] + raw[k + 64]));
            }
        }
        for (int64_t k = 0; k < 256; k++)
            T_TRUE(a->out[FMT_ATTN_OUT][k] > 0 && a->out[FMT_FFN_DOWN][k] > 0);
        for (int64_t k = 0; k < 1536; k++)
            T_TRUE(a->out[FMT_FFN_GATE_UP][k] > 0);
        qnt_ranges_free(&w.max[i]);
    }
    q_free(w.max);
    rt_model_close(m);
    rt_backend_close(be);
    cal_run_close(&run_);
    cal_ranges_close(&r);
    fmt_src_close(f.src);
}

/* ---- other ways to the same values ---------------------------------------------------------- */

static void t_steps_threads_spilling(void)
{
    fixture f;
    cal_ranges a, b;
    cal_run_opts o;

    open_fixture(&f);
    run(&f, &f.o, &a);
    o = f.o;
    o.max_tok = 1; /* a sample a step */
    o.threads = 1;
    run(&f, &o, &b);
    check_same(&a, &b);
    cal_ranges_close(&b);
    o.max_tok = 4096; /* all in one */
    o.job_dir = q_path_join(t_tmpdir(), "spilled.job");
    o.max_ram = fits_not(&f, &o);
    run(&f, &o, &b);
    check_same(&a, &b);
    T_INT(q_path_exists(o.job_dir), 0); /* removed when all is done */
    q_free((char *)(uintptr_t)o.job_dir);
    cal_ranges_close(&b);
    cal_ranges_close(&a);
    fmt_src_close(f.src);
}

/* Stops after `steps` steps of the loop, as often as it takes. */
static volatile sig_atomic_t stop_flag;
static int steps_left;
static cal_client inner;

static q_status count_down(void *self, const cal_view *v, q_err *err)
{
    if (v->point == CAL_DOWN && --steps_left == 0)
        stop_flag = 1;
    return inner.observe(self, v, err);
}

static void t_stop_and_continue(void)
{
    fixture f;
    cal_ranges want, got;
    cal_run r;
    q_err err = { 0 };

    open_fixture(&f);
    run(&f, &f.o, &want);
    f.o.job_dir = q_path_join(t_tmpdir(), "stop.job");
    f.o.stop = &stop_flag;
    for (int spill = 0; spill < 2; spill++) {
        int stops = 0;
        q_status st = Q_ECANCEL;

        f.o.max_ram = 0;
        f.o.max_ram = spill ? fits_not(&f, &f.o) : 0;
        for (int steps = 4; st == Q_ECANCEL; steps = steps * 3 % 11 + 4) {
            cal_loop_opts lo;

            stop_flag = 0;
            steps_left = steps;
            T_OK(cal_run_open(&r, f.src, &f.o, &err), err);
            T_OK(cal_ranges_open(&got, f.src, 0, &err), err);
            inner = got.client;
            got.client.observe = count_down;
            T_OK(rt_backend_open(&r.be, "cpu", 2, &err), err);
            {
                fmt_json *fp = NULL;

                T_OK(fmt_json_new(&fp, &err), err);
                T_OK(cal_job_open(&r.job, f.o.job_dir, fp, 1, &err), err);
                fmt_json_free(fp);
            }
            lo = (cal_loop_opts){ .src = f.src,
                                  .be = r.be,
                                  .data = &r.data,
                                  .client = &got.client,
                                  .job = r.job,
                                  .max_tok = f.o.max_tok,
                                  .max_ram = f.o.max_ram,
                                  .stop = &stop_flag };
            st = cal_loop_run(&lo, &err);
            if (st == Q_ECANCEL) {
                stops++;
                err = (q_err){ 0 };
                cal_ranges_close(&got);
            } else {
                T_OK(st, err);
                T_OK(cal_job_remove(f.o.job_dir, &err), err);
            }
            cal_run_close(&r);
        }
        printf("# %s: stopped %d times\n", spill ? "spilled" : "in memory", stops);
        T_TRUE(stops >= 3);
        check_same(&want, &got);
        cal_ranges_close(&got);
    }
    q_free((char *)(uintptr_t)f.o.job_dir);
    cal_ranges_close(&want);
    fmt_src_close(f.src);
}

static void t_budget(void)
{
    q_err err = { 0 };
    fixture f;
    cal_ranges r;
    cal_run run_;

    open_fixture(&f);
    f.o.max_ram = 100000;
    T_OK(cal_run_open(&run_, f.src, &f.o, &err), err);
    T_ERR(cal_run_ranges(&run_, &r, &err), err, Q_ECONFIG, "--max-ram allows 100000");
    cal_run_close(&run_);
    fmt_src_close(f.src);
}

static void t_changed_inputs(void)
{
    q_err err = { 0 };
    fixture f;
    cal_ranges r;
    cal_run run_;

    open_fixture(&f);
    f.o.job_dir = q_path_join(t_tmpdir(), "changed.job");
    T_OK(cal_run_open(&run_, f.src, &f.o, &err), err);
    T_OK(cal_run_ranges(&run_, &r, &err), err); /* done, and the job is kept */
    cal_ranges_close(&r);
    {
        cal_run other;
        cal_ranges none;

        T_OK(cal_run_open(&other, f.src, &f.o, &err), err);
        T_ERR(cal_run_ranges(&other, &none, &err), err, Q_ECREATE, "another run works on this job");
        cal_run_close(&other);
    }
    cal_run_close(&run_);
    f.o.data.samples = 5;
    T_OK(cal_run_open(&run_, f.src, &f.o, &err), err);
    T_ERR(cal_run_ranges(&run_, &r, &err), err, Q_ECONFIG, "was begun with another samples (\"");
    cal_run_close(&run_);
    f.o.no_resume = 1;
    T_OK(cal_run_open(&run_, f.src, &f.o, &err), err);
    T_OK(cal_run_ranges(&run_, &r, &err), err);
    T_OK(cal_job_remove(f.o.job_dir, &err), err);
    cal_ranges_close(&r);
    cal_run_close(&run_);
    q_free((char *)(uintptr_t)f.o.job_dir);
    fmt_src_close(f.src);
}

/* ---- a client that changes what it sees ----------------------------------------------------- */

typedef struct zero {
    int64_t seen_0, seen_1;
    float max_last; /* of the result of down in layer 1 */
} zero;

static q_status zero_observe(void *self, const cal_view *v, q_err *err)
{
    zero *z = self;
    const float *x = v->x; /* on the host */

    (void)err;
    z->seen_0 += v->point == CAL_FFN_MID ? v->n : 0;
    z->seen_1 += v->point == CAL_DOWN ? v->n : 0;
    if (v->point == CAL_DOWN && v->layer == 1)
        for (int64_t i = 0; i < v->n * v->dim; i++)
            z->max_last = x[i] > z->max_last ? x[i] : z->max_last;
    return Q_OK;
}

/* down becomes zeros in layer 1 */
static q_status zero_change(void *self, rt_model *one, int64_t layer, int pass, q_err *err)
{
    q_status st = Q_OK;
    qnt_tensor t = { .scheme = qnt_scheme_find("f32"), .N = 256, .K = 768 };

    (void)self;
    T_INT(pass, 0);
    if (layer != 1)
        return Q_OK;
    if (!(t.codes = q_calloc(256 * 768, sizeof(float))))
        Q_FAIL(err, Q_ENOMEM, "no memory");
    Q_TRY(cal_replace(one, FMT_FFN_DOWN, &t, err));
out:
    qnt_tensor_free(&t);
    return st;
}

static q_status zero_done(void *self, rt_model *one, int64_t layer, void **result, q_err *err)
{
    (void)self, (void)one, (void)layer, (void)result, (void)err;
    return Q_OK;
}

static void t_replace(void)
{
    q_err err = { 0 };
    fixture f;
    cal_run r;
    rt_backend *be = NULL;
    zero z = { 0 };
    const cal_client c = { .early = { CAL_BIT(CAL_FFN_MID) },
                           .points = CAL_BIT(CAL_DOWN),
                           .self = &z,
                           .observe = zero_observe,
                           .change = zero_change,
                           .done = zero_done };

    open_fixture(&f);
    T_OK(cal_run_open(&r, f.src, &f.o, &err), err);
    T_OK(rt_backend_open(&be, "cpu", 2, &err), err);
    T_OK(cal_loop_run(&(cal_loop_opts){ .src = f.src, .be = be, .data = &r.data, .client = &c },
                      &err),
         err);
    T_INT(z.seen_0, 8 * (int64_t)r.data.ids.n);
    T_INT(z.seen_1, 8 * (int64_t)r.data.ids.n);
    T_NEAR(z.max_last, 0, 0); /* the second pass ran through the new weight */
    rt_backend_close(be);
    cal_run_close(&r);
    fmt_src_close(f.src);
}

static const t_case cases[] = { T(t_sees_the_whole_model),
                                T(t_steps_threads_spilling),
                                T(t_stop_and_continue),
                                T(t_budget),
                                T(t_changed_inputs),
                                T(t_replace),
                                { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
