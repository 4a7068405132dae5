/* What a calibration run plans and what it then takes: places of the hidden states and sizes of a
 * step inside budgets of a device's memory, with the same result; the time of a layer. */
#include <stdio.h>
#include <stdlib.h>

#include "calibrate/loop_time.h"
#include "quant/load.h"
#include "tests/t_loop.h"

/* ---- a device with memory of its own -------------------------------------------------------- */

/* The CPU as such a device: it counts what it gives, and tells what is free.  A block's size stands
 * in the 64 bytes before it. */
enum { HEADER = 64 };
static const rt_backend_ops *host;
static rt_backend_ops fake;

static void count(rt_backend *be, uint64_t more, uint64_t less)
{
    be->used += more - less;
    be->peak = be->used > be->peak ? be->used : be->peak;
}

static q_status fake_alloc(rt_backend *be, size_t bytes, void **out, q_err *err)
{
    q_status st = Q_OK;
    void *p = NULL;

    if (be->max_bytes && be->used + bytes > be->max_bytes)
        Q_FAIL(err, Q_ENOMEM, "%zu bytes pass the budget", bytes);
    Q_TRY(host->alloc(be, bytes + HEADER, &p, err));
    memcpy(p, &bytes, sizeof bytes);
    *out = (char *)p + HEADER;
    count(be, bytes, 0);
out:
    return st;
}

static void fake_free(rt_backend *be, void *p)
{
    size_t bytes;

    if (!p)
        return;
    memcpy(&bytes, (char *)p - HEADER, sizeof bytes);
    count(be, 0, bytes);
    host->free(be, (char *)p - HEADER);
}

static uint64_t weight_bytes(const rt_weight *w) /* rows of f32 */
{
    return (uint64_t)(w->N * w->K) * sizeof(float) + (w->bias ? (uint64_t)w->N * sizeof(float) : 0);
}

static q_status fake_prep(rt_backend *be, qnt_tensor *src, rt_weight *dst, q_err *err)
{
    const q_status st = host->prep(be, src, dst, err);

    if (st == Q_OK)
        count(be, weight_bytes(dst), 0);
    return st;
}

static void fake_unprep(rt_backend *be, rt_weight *w)
{
    count(be, 0, weight_bytes(w));
    host->unprep(be, w);
}

static uint64_t fake_free_bytes(rt_backend *be, uint64_t *all)
{
    *all = (uint64_t)1 << 30;
    return *all - be->used;
}

/* A GPU when the tests run on one. */
static void open_device(rt_backend **be)
{
    q_err err = { 0 };
    const char *name = getenv("QWENKIT_TEST_DEVICE");

    T_OK(rt_backend_open(be, name ? name : "cpu", 2, &err), err);
    if ((*be)->ops->free_bytes)
        return;
    host = (*be)->ops;
    fake = *host;
    fake.alloc = fake_alloc;
    fake.free = fake_free;
    fake.prep = fake_prep;
    fake.unprep = fake_unprep;
    fake.free_bytes = fake_free_bytes;
    (*be)->ops = &fake;
}

/* Runs inside the plan's budgets, and says what the plan was and what was used. */
static void run_on_device(const fixture *f, const cal_run_opts *o, cal_ranges *out, cal_plan *plan)
{
    q_err err = { 0 };
    cal_run r;
    uint64_t peak;

    T_OK(cal_run_open(&r, f->src, o, &err), err);
    open_device(&r.be);
    T_OK(cal_ranges_open(out, f->src, 0, &err), err);
    T_OK(cal_run_plan(plan, &r, &out->client, &err), err);
    T_OK(cal_run_loop(&r, &out->client, &err), err);
    if (o->job_dir)
        T_OK(cal_job_remove(o->job_dir, &err), err);
    peak = r.be->peak;
    cal_run_close(&r);
    printf("# steps of %lld, hidden states in %s: planned %llu bytes of the device, used %llu\n",
           (long long)plan->step_tok, cal_place_name(plan->place),
           (unsigned long long)cal_memory_sum(&plan->device), (unsigned long long)peak);
    T_TRUE(peak <= cal_memory_sum(&plan->device));
    T_TRUE(10 * peak >= 9 * cal_memory_sum(&plan->device)); /* what is counted is what is used */
    T_TRUE(!o->max_vram || peak <= o->max_vram);
}

static void t_budgets_of_a_device(void)
{
    q_err err = { 0 };
    fixture f;
    cal_ranges a, b;
    cal_run r;
    cal_plan whole, plan;
    cal_run_opts o;

    open_fixture(&f);
    f.o.job_dir = q_path_join(t_tmpdir(), "device.job");
    run_on_device(&f, &f.o, &a, &whole);
    T_INT(whole.place, CAL_ON_DEVICE);
    if (!getenv("QWENKIT_TEST_DEVICE")) { /* the CPU in disguise gives what the CPU gives */
        run(&f, &f.o, &b);
        check_same(&a, &b);
        cal_ranges_close(&b);
    }
    o = f.o;
    o.max_vram = cal_memory_sum(&whole.device) - 1;
    run_on_device(&f, &o, &b, &plan);
    T_INT(plan.place, CAL_IN_MEMORY);
    T_TRUE(plan.device_rows < plan.tokens); /* of a GPU more stays free than these samples have */
    T_TRUE(plan.device_rows > 0 || getenv("QWENKIT_TEST_DEVICE"));
    T_INT((int64_t)(plan.device.hidden + plan.host.hidden), (int64_t)plan.hidden_bytes);
    T_INT(plan.step_tok, whole.step_tok);
    check_same(&a, &b);
    cal_ranges_close(&b);
    o.max_ram = cal_memory_sum(&plan.host) - 1;
    run_on_device(&f, &o, &b, &plan);
    T_INT(plan.place, CAL_IN_FILES);
    check_same(&a, &b);
    cal_ranges_close(&b);
    o.max_vram = whole.device.layer + whole.device.client + whole.device.step - 1;
    run_on_device(&f, &o, &b, &plan);
    T_TRUE(plan.step_tok < whole.step_tok);
    cal_ranges_close(&b);
    o.max_vram = 1000;
    T_OK(cal_run_open(&r, f.src, &o, &err), err);
    open_device(&r.be);
    T_ERR(cal_run_ranges(&r, &b, &err), err, Q_ECONFIG, "--max-vram allows 1000");
    cal_run_close(&r);
    T_INT(q_path_exists(o.job_dir), 0);
    q_free((char *)(uintptr_t)f.o.job_dir);
    cal_ranges_close(&a);
    fmt_src_close(f.src);
}

/* Steps are as long as free memory allows; a job goes on with those it was begun with. */
static void t_steps_of_a_job(void)
{
    static const volatile sig_atomic_t now = 1;
    q_err err = { 0 };
    fixture f;
    cal_ranges a, b;
    cal_run r;
    cal_plan whole, begun, plan;
    cal_run_opts o;

    open_fixture(&f);
    o = f.o;
    o.job_dir = q_path_join(t_tmpdir(), "steps.job");
    o.max_tok = 0;
    run_on_device(&f, &o, &a, &whole);
    cal_ranges_close(&a);
    o.max_vram = whole.device.layer + whole.device.client + whole.device.step - 1;
    run_on_device(&f, &o, &a, &begun);
    T_TRUE(begun.step_tok < whole.step_tok);
    o.stop = &now;
    T_OK(cal_run_open(&r, f.src, &o, &err), err);
    open_device(&r.be);
    T_ERR(cal_run_ranges(&r, &b, &err), err, Q_ECANCEL, "stopped");
    cal_run_close(&r);
    o.stop = NULL;
    o.max_vram = 0;
    run_on_device(&f, &o, &b, &plan);
    T_INT(plan.step_tok, begun.step_tok);
    check_same(&a, &b);
    cal_ranges_close(&a);
    cal_ranges_close(&b);
    q_free((char *)(uintptr_t)o.job_dir);
    fmt_src_close(f.src);
}

/* ---- time ----------------------------------------------------------------------------------- */

static double stated_peak(rt_backend *be, int bits)
{
    (void)be;
    return bits == 16 ? 989e12 : 0;
}

static q_status math_there(rt_backend *be, qnt_dev *out, q_err *err)
{
    (void)be, (void)out, (void)err;
    return Q_OK;
}

/* A layer of GPTQ of the 7B shape on 128 x 2048 tokens: 0.95 s on an H200; hours of a few cores
 * when its mathematics were on the host. */
static void t_time(void)
{
    const rt_backend_ops ops = { .peak = stated_peak, .math = math_there };
    rt_backend be = { .ops = &ops };
    const cal_work w = { .forward = 2.1e14, .client = 4.8e13 };

    T_NEAR(cal_work_seconds(&w, &be), 0.95, 0.1);
}

static const t_case cases[] = { T(t_budgets_of_a_device), T(t_steps_of_a_job), T(t_time), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
