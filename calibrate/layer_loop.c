/* The calibration loop.  One step takes as many whole samples as fit into max_tok tokens; keys and
 * values of a step live in pages of a pool for one layer, and no longer than the step. */
#include "calibrate/layer_loop.h"

#include <assert.h>
#include <string.h>
#include <unistd.h>

#include "calibrate/hidden.h"
#include "calibrate/step.h"
#include "quant/load.h"

/* Hidden states up to so many bytes are stored after every layer, above after every eighth. */
#define EVERY_LAYER ((uint64_t)1 << 30)
#define SELDOM      8

typedef struct loop {
    const cal_loop_opts *o;
    const fmt_model *m;
    cal_hidden hidden;
    cal_step step;
    rt_model *layer; /* the resident one */
    int64_t at;      /* its number */
    int64_t stored;  /* layer whose hidden states the job holds; -1: none */
    q_progress *progress;
} loop;

static uint64_t hidden_bytes(const cal_loop_opts *o)
{
    return (uint64_t)o->data->ids.n * (uint64_t)fmt_src_model(o->src)->hid * sizeof(float);
}

static q_status check_stop(const cal_loop_opts *o, q_err *err)
{
    return o->stop && *o->stop ? q_fail(err, Q_ECANCEL, "stopped by a signal") : Q_OK;
}

/* Rows of the step's samples: of the embedding for layer 0, else of the layer before. */
static q_status load_rows(loop *l, q_err *err)
{
    q_status st = Q_OK;
    const cal_step *s = &l->step;

    if (l->at == 0)
        Q_TRY(cal_step_embed(s, l->o->src, s->rows, err));
    else
        Q_TRY(cal_hidden_get(&l->hidden, s->row0, s->n_tok, s->rows, err));
out:
    return st;
}

/* All samples through the resident layer.  keep: the result is what the next layer sees. */
static q_status pass(loop *l, uint32_t points, int keep, const char *path, q_err *err)
{
    q_status st = Q_OK;
    const cal_loop_opts *o = l->o;

    for (size_t first = 0; first < o->data->n; first = l->step.last) {
        Q_TRY(check_stop(o, err));
        Q_TRY(cal_step_fill(&l->step, first, err));
        Q_TRY(load_rows(l, err));
        Q_TRY(cal_step_run(&l->step, l->layer, l->at, points, o->client, err));
        if (!keep)
            continue;
        Q_TRY(cal_step_result(&l->step, l->step.rows, err));
        Q_TRY(cal_hidden_put(&l->hidden, path, l->step.row0, l->step.n_tok, l->step.rows, err));
        q_progress_add(l->progress, (uint64_t)l->step.n_tok);
    }
out:
    return st;
}

/* Hidden states behind the layer become durable, in time. */
static q_status store(loop *l, const char *path, q_err *err)
{
    q_status st = Q_OK;
    const cal_loop_opts *o = l->o;
    char *old = NULL;

    Q_TRY(cal_hidden_turn(&l->hidden, path, err));
    if (!o->job || !l->hidden.mem || l->at + 1 == l->m->layers ||
        (hidden_bytes(o) > EVERY_LAYER && (l->at + 1) % SELDOM != 0))
        goto out;
    Q_TRY(cal_hidden_save(&l->hidden, path, err));
    if (l->stored >= 0 && (old = cal_job_hidden_path(o->job, l->stored)))
        unlink(old);
    l->stored = l->at;
out:
    q_free(old);
    return st;
}

static q_status one_layer(loop *l, q_err *err)
{
    q_status st = Q_OK;
    const cal_loop_opts *o = l->o;
    const cal_client *c = o->client;
    char *part = o->job ? cal_job_layer_path(o->job, l->at) : NULL;
    char *path = o->job ? cal_job_hidden_path(o->job, l->at) : NULL;

    if (o->job && (!part || !path))
        Q_FAIL(err, Q_ENOMEM, "no memory for file names");
    Q_TRY(rt_model_open_layer(&l->layer, o->src, o->be, l->at, err));
    for (int p = 0; p < CAL_EARLY_PASSES && c->early[p]; p++) {
        Q_TRY(pass(l, c->early[p], 0, path, err));
        Q_TRY(c->change(c->self, l->layer, l->at, p, err));
    }
    Q_TRY(pass(l, c->points, 1, path, err));
    Q_TRY(c->done(c->self, l->at, part, err)); /* before the hidden states: see resume */
    Q_TRY(store(l, path, err));
out:
    rt_model_close(l->layer);
    l->layer = NULL;
    q_free(part);
    q_free(path);
    return st;
}

/* Continues behind the last layer whose hidden states are stored; the client's results exist for
 * all layers up to there, because they are written first. */
static q_status resume(loop *l, q_err *err)
{
    q_status st = Q_OK;
    const cal_loop_opts *o = l->o;
    int64_t n = 0;
    char *path = NULL;

    l->stored = -1;
    if (!o->job)
        return Q_OK;
    while (n < l->m->layers && cal_job_has_layer(o->job, n))
        n++;
    if (n < l->m->layers) {
        l->stored = cal_job_last_hidden(o->job, n - 1);
        n = l->stored + 1;
    }
    for (int64_t i = 0; i < n; i++) {
        q_free(path);
        if (!(path = cal_job_layer_path(o->job, i)))
            Q_FAIL(err, Q_ENOMEM, "no memory for file names");
        Q_TRY(o->client->load(o->client->self, i, path, err));
    }
    if (l->stored >= 0) {
        q_free(path);
        if (!(path = cal_job_hidden_path(o->job, l->stored)))
            Q_FAIL(err, Q_ENOMEM, "no memory for file names");
        Q_TRY(cal_hidden_load(&l->hidden, path, err));
    }
    l->at = n;
    if (n > 0)
        q_log_info(o->log, "continuing %s behind layer %lld", cal_job_dir(o->job),
                   (long long)(n - 1));
    q_progress_add(l->progress, (uint64_t)n * o->data->ids.n);
out:
    q_free(path);
    return st;
}

/* A layer while it is packed is there twice. */
static uint64_t layer_bytes(const cal_loop_opts *o)
{
    const fmt_model *m = fmt_src_model(o->src);
    uint64_t bytes = 0;

    for (int r = 0; r < FMT_ROLES; r++) {
        const fmt_role_row *role = fmt_role_get((fmt_role)r);

        if (role->quant)
            bytes +=
                (uint64_t)(fmt_role_rows(role, m) * fmt_dim_size(role->cols, m)) *
                fmt_dtype_bytes(fmt_src_dtype(o->src, (fmt_ref){ (fmt_role)r, 0, FMT_WEIGHT }));
    }
    return 2 * bytes;
}

void cal_loop_cost(cal_cost *c, const cal_loop_opts *o)
{
    const uint64_t fixed = layer_bytes(o) +
                           cal_step_bytes(fmt_src_model(o->src), o->data, o->max_tok) +
                           (o->client ? o->client->bytes : 0);

    memset(c, 0, sizeof *c);
    c->tokens = (int64_t)o->data->ids.n;
    c->hidden = hidden_bytes(o);
    c->spilled = o->max_ram && fixed + c->hidden > o->max_ram;
    c->ram = fixed + (c->spilled ? 0 : c->hidden);
    c->disk = 2 * c->hidden;
}

static q_status check_budget(int *spilled, const cal_loop_opts *o, q_err *err)
{
    cal_cost c;

    cal_loop_cost(&c, o);
    *spilled = c.spilled && o->job;
    if (o->max_ram && c.ram > o->max_ram)
        return q_fail(
            err, Q_ECONFIG,
            "a layer and its buffers need %llu bytes, --max-ram allows %llu: allow more, or "
            "use shorter samples",
            (unsigned long long)c.ram, (unsigned long long)o->max_ram);
    return Q_OK;
}

q_status cal_loop_run(const cal_loop_opts *o, q_err *err)
{
    q_status st = Q_OK;
    loop l = { .o = o, .m = fmt_src_model(o->src) };
    int spilled = 0;

    assert(o->client->observe && o->client->done);
    l.progress = q_progress_open(o->log, "calibrating",
                                 (uint64_t)l.m->layers * (uint64_t)o->data->ids.n, "tokens");
    Q_TRY(check_budget(&spilled, o, err));
    Q_TRY(cal_hidden_open(&l.hidden, (int64_t)o->data->ids.n, l.m->hid, spilled, err));
    Q_TRY(resume(&l, err));
    if (l.at < l.m->layers)
        Q_TRY(cal_step_open(&l.step, o->be, l.m, o->data, o->max_tok, err));
    for (; l.at < l.m->layers; l.at++)
        Q_TRY(one_layer(&l, err));
out:
    q_progress_close(l.progress);
    cal_step_close(&l.step);
    cal_hidden_close(&l.hidden);
    return st;
}

q_status cal_replace(rt_model *one, fmt_role role, qnt_tensor *t, q_err *err)
{
    rt_weight *w = &one->layer[0].w[role];

    one->be->ops->unprep(one->be, w);
    *w = (rt_weight){ 0 };
    return one->be->ops->prep(one->be, t, w, err);
}

q_status cal_set_norm(rt_model *one, fmt_role norm, const float *v, q_err *err)
{
    rt_layer *l = &one->layer[0];

    return one->be->ops->copy(one->be, norm == FMT_ATTN_NORM ? l->norm1 : l->norm2, v,
                              (size_t)one->desc.hid * sizeof *v, RT_TO_DEVICE, err);
}
