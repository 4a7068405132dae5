/* Plans.  Sizes are those that are allocated later, by the same formulas; what varies from device
 * to device (padding of rows, halves of biases) is counted as the hungriest one needs it. */
#include "calibrate/loop_plan.h"

#include <string.h>

#include "calibrate/layer_loop.h"
#include "calibrate/step.h"

#define ROW_PAD 128 /* bytes that rows of weights may be padded to on a device */
#define MORE    "allow more, or use shorter samples"
#define SPARE   20 /* without a budget a twentieth of the free memory of a device stays free */

uint64_t cal_memory_sum(const cal_memory *m)
{
    return m->layer + m->client + m->step + m->hidden;
}

/* Linears of one layer, with rows of `bytes` per element, padded; 0: as the source stores them. */
static uint64_t layer_bytes(const cal_loop_opts *o, size_t bytes, int64_t pad)
{
    const fmt_model *m = fmt_src_model(o->src);
    uint64_t sum = 4 * (uint64_t)m->hid * sizeof(float);

    for (int r = 0; r < FMT_ROLES; r++) {
        const fmt_role_row *role = fmt_role_get((fmt_role)r);
        const fmt_ref ref = { (fmt_role)r, 0, FMT_WEIGHT };
        const size_t each = bytes ? bytes : fmt_dtype_bytes(fmt_src_dtype(o->src, ref));
        const int64_t N = fmt_role_rows(role, m);
        const int64_t row = fmt_dim_size(role->cols, m) * (int64_t)each;

        if (role->quant)
            sum += (uint64_t)(N * ((row + pad - 1) / pad * pad) + 8 * N);
    }
    return sum;
}

static void count(cal_plan *p, const cal_loop_opts *o, int64_t max_tok)
{
    const fmt_model *m = fmt_src_model(o->src);
    const cal_client *c = o->client;
    uint64_t device = 0;

    p->step_tok = cal_step_tokens(o->data, max_tok);
    p->host.step = cal_step_bytes(o->be, m, o->data, p->step_tok, &device) +
                   cal_hidden_stage_bytes(p->step_tok, m->hid);
    p->host.client = c ? c->bytes : 0;
    if (!p->has_device) {
        p->host.layer =
            2 * layer_bytes(o, 0, 1); /* while it is packed, and while the next is read */
        p->host.step += device;
        return;
    }
    p->host.layer = layer_bytes(o, 0, 1);
    p->host.client -= c ? c->device_bytes : 0;
    p->device.layer = layer_bytes(o, fmt_dtype_bytes(o->be->ops->act), ROW_PAD);
    p->device.client = c ? c->device_bytes : 0;
    p->device.step = device + o->be->used;
}

/* limit: what the budget comes from; next: what can be done about it. */
static q_status refuse(const cal_memory *m, const char *limit, const char *next, int64_t tok,
                       q_err *err)
{
    return q_fail(err, Q_ECONFIG,
                  "a layer (%llu bytes), statistics (%llu) and steps of %lld tokens (%llu) need "
                  "%llu bytes of %s %llu: %s",
                  (unsigned long long)m->layer, (unsigned long long)m->client, (long long)tok,
                  (unsigned long long)m->step, (unsigned long long)(m->layer + m->client + m->step),
                  limit, (unsigned long long)m->budget, next);
}

static int fits(const cal_memory *m, uint64_t more)
{
    return !m->budget || cal_memory_sum(m) + more <= m->budget;
}

/* Half the step, until the device holds it. */
static q_status fit_device(cal_plan *p, const cal_loop_opts *o, q_err *err)
{
    uint64_t all = 0;

    p->device.budget = o->max_vram;
    if (!p->device.budget) {
        p->device.budget = o->be->ops->free_bytes(o->be, &all) + o->be->used;
        p->device.budget -= p->device.budget / SPARE;
    }
    while (!fits(&p->device, 0) && p->step_tok > o->data->longest)
        count(p, o, p->step_tok / 2);
    if (!fits(&p->device, 0))
        return o->max_vram
                   ? refuse(&p->device, "device memory, --max-vram allows", MORE, p->step_tok, err)
                   : refuse(&p->device, "device memory, free are",
                            "use shorter samples, or --device cpu", p->step_tok, err);
    return Q_OK;
}

/* Hidden states where there is room: what the device does not hold goes to the host, and all of
 * them to files when it does not fit there. */
static void place_hidden(cal_plan *p, int64_t hid, int can_spill)
{
    const uint64_t row = (uint64_t)hid * sizeof(float);
    uint64_t room = 0;

    if (p->has_device && fits(&p->device, p->hidden_bytes)) {
        p->place = CAL_ON_DEVICE;
        p->device.hidden = p->hidden_bytes;
        return;
    }
    if (p->has_device && fits(&p->device, p->device.budget / SPARE))
        room = p->device.budget - p->device.budget / SPARE - cal_memory_sum(&p->device);
    p->device_rows = (int64_t)(room / row);
    room = (uint64_t)p->device_rows * row;
    if (fits(&p->host, p->hidden_bytes - room) || !can_spill) {
        p->device.hidden = room;
        p->host.hidden = p->hidden_bytes - room;
        return;
    }
    p->place = CAL_IN_FILES;
    p->device_rows = 0;
}

/* Which samples are those of this rank. */
static q_status deal(cal_plan *p, const cal_loop_opts *o, q_err *err)
{
    const int ranks = rt_comm_ranks(o->comm), shares = CAL_SHARES / ranks;
    const int first = rt_comm_rank(o->comm) * shares;

    p->samples = (int64_t)o->data->n;
    p->tokens = (int64_t)o->data->ids.n;
    p->row0 = (int64_t)o->data->start[cal_share_begin(o->data, first)];
    p->rows = (int64_t)o->data->start[cal_share_begin(o->data, first + shares)] - p->row0;
    if (p->samples < ranks)
        return q_fail(err, Q_EARG, "%lld samples for %d ranks: use more text, or fewer ranks",
                      (long long)p->samples, ranks);
    return Q_OK;
}

q_status cal_plan_make(cal_plan *p, const cal_loop_opts *o, int can_spill, q_err *err)
{
    q_status st = Q_OK;

    memset(p, 0, sizeof *p);
    p->has_device = o->be->ops->free_bytes != NULL;
    Q_TRY(deal(p, o, err));
    p->hidden_bytes = (uint64_t)p->rows * (uint64_t)fmt_src_model(o->src)->hid * sizeof(float);
    /* with ranks the last two are kept (hidden.h) */
    p->disk = (rt_comm_ranks(o->comm) > 1 ? 3 : 2) * (uint64_t)p->tokens *
              (uint64_t)fmt_src_model(o->src)->hid * sizeof(float);
    p->host.budget = o->max_ram;
    count(p, o, o->max_tok);
    if (p->has_device)
        Q_TRY(fit_device(p, o, err));
    if (!fits(&p->host, 0))
        return refuse(&p->host, "memory, --max-ram allows", MORE, p->step_tok, err);
    place_hidden(p, fmt_src_model(o->src)->hid, can_spill);
out:
    return st;
}

/* ---- for people and programs ---------------------------------------------------------------- */

static q_status put_line(q_buf *out, const char *name, const cal_memory *m, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(q_buf_printf(out, err,
                       "%s: %.3f GB: layer %.3f, statistics %.3f, buffers %.3f, hidden states %.3f",
                       name, (double)cal_memory_sum(m) * 1e-9, (double)m->layer * 1e-9,
                       (double)m->client * 1e-9, (double)m->step * 1e-9, (double)m->hidden * 1e-9));
    if (m->budget)
        Q_TRY(q_buf_printf(out, err, "; of %.3f GB", (double)m->budget * 1e-9));
    Q_TRY(q_buf_puts(out, "\n", err));
out:
    return st;
}

q_status cal_plan_text(q_buf *out, const cal_plan *p, double seconds, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(q_buf_printf(out, err,
                       "calibration: %lld samples, %lld tokens, %.2f GB of memory, %.2f GB of job "
                       "directory, about %.1f minutes on this machine\n",
                       (long long)p->samples, (long long)p->tokens,
                       (double)cal_memory_sum(&p->host) * 1e-9, (double)p->disk * 1e-9,
                       seconds / 60));
    Q_TRY(put_line(out, "memory", &p->host, err));
    if (p->has_device)
        Q_TRY(put_line(out, "device memory", &p->device, err));
    Q_TRY(q_buf_printf(out, err, "steps of %lld tokens, hidden states %s%s\n",
                       (long long)p->step_tok, p->place == CAL_ON_DEVICE ? "on the " : "in ",
                       cal_place_name(p->place)));
out:
    return st;
}

static q_status put_memory(fmt_json *list, const char *name, const cal_memory *m, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *v;

    Q_TRY(fmt_json_put_obj(&v, list, name, err));
    Q_TRY(fmt_json_put_int(v, "layer", (int64_t)m->layer, err));
    Q_TRY(fmt_json_put_int(v, "statistics", (int64_t)m->client, err));
    Q_TRY(fmt_json_put_int(v, "buffers", (int64_t)m->step, err));
    Q_TRY(fmt_json_put_int(v, "hidden", (int64_t)m->hidden, err));
    if (m->budget)
        Q_TRY(fmt_json_put_int(v, "budget", (int64_t)m->budget, err));
out:
    return st;
}

q_status cal_plan_json(fmt_json *v, const cal_plan *p, double seconds, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *memory;

    Q_TRY(fmt_json_put_int(v, "samples", p->samples, err));
    Q_TRY(fmt_json_put_int(v, "tokens", p->tokens, err));
    Q_TRY(fmt_json_put_real(v, "seconds", seconds, err));
    Q_TRY(fmt_json_put_str(v, "hidden_in", cal_place_name(p->place), err));
    Q_TRY(fmt_json_put_int(v, "step_tokens", p->step_tok, err));
    Q_TRY(fmt_json_put_int(v, "host_bytes", (int64_t)cal_memory_sum(&p->host), err));
    if (p->has_device)
        Q_TRY(fmt_json_put_int(v, "device_bytes", (int64_t)cal_memory_sum(&p->device), err));
    Q_TRY(fmt_json_put_int(v, "disk_bytes", (int64_t)p->disk, err));
    Q_TRY(fmt_json_put_obj(&memory, v, "memory", err));
    Q_TRY(put_memory(memory, "host", &p->host, err));
    if (p->has_device)
        Q_TRY(put_memory(memory, "device", &p->device, err));
out:
    return st;
}
