/* The calibration loop.  One step takes as many whole samples as fit into its tokens; keys and
 * values of a step live in pages of a pool for one layer, and no longer than the step.
 *
 * Three threads: a reader has the next layer in memory when this one ends; a writer stores what the
 * client made of the layer before, and copies of hidden states.  The writer takes things in order:
 * a layer's result is on the disk before its hidden states have their name, which is what resume
 * relies on. */
#include "calibrate/layer_loop.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "calibrate/reader.h"
#include "calibrate/step.h"
#include "quant/load.h"

/* Hidden states up to so many bytes are stored after every layer, larger ones when so many seconds
 * have passed: that much of the work a stopped run does again. */
#define EVERY_LAYER ((uint64_t)1 << 30)
#define SELDOM      120

typedef struct loop {
    const cal_loop_opts *o;
    const fmt_model *m;
    cal_plan plan;
    cal_reader reader;
    cal_writer *writer;
    cal_hidden hidden;
    cal_step step;
    rt_model *layer; /* the resident one */
    int64_t at;      /* its number */
    int always;      /* hidden states are stored behind every layer */
    int embedded;    /* 1: rows of the embedding are where those of the layer before would be */
    uint64_t result; /* ticket of the last one that was handed to the writer */
    double stored;   /* q_now when hidden states were last begun to be stored */
    q_progress *progress;
} loop;

static q_status check_stop(const cal_loop_opts *o, q_err *err)
{
    return o->stop && *o->stop ? q_fail(err, Q_ECANCEL, "stopped by a signal") : Q_OK;
}

/* Rows of the step's samples: of the layer before, or for layer 0 of the embedding, which an early
 * pass leaves in memory for the others. */
static q_status load_rows(loop *l, q_err *err)
{
    cal_step *s = &l->step;
    const int64_t row = s->row0 - l->plan.row0; /* of this rank's */
    q_status st;
    cal_stage was;

    if (l->at > 0 || l->embedded)
        return cal_hidden_get(&l->hidden, row, s->n_tok, s->work.x, err);
    was = cal_stage_begin(l->o->stages, CAL_T_EMBED);
    st = cal_step_embed(s, l->o->src, err);
    if (st == Q_OK && !s->whole && l->plan.place != CAL_IN_FILES)
        st = cal_hidden_put(&l->hidden, row, s->n_tok, s->work.x, err);
    cal_stage_begin(l->o->stages, was);
    return st;
}

/* Samples of one share through the resident layer. */
static q_status pass_share(loop *l, int share, uint32_t points, int last, q_err *err)
{
    q_status st = Q_OK;
    const cal_loop_opts *o = l->o;
    cal_step *s = &l->step;
    const size_t end = cal_share_begin(o->data, share + 1);

    s->whole = last;
    for (size_t first = cal_share_begin(o->data, share); first < end; first = s->last) {
        Q_TRY(check_stop(o, err));
        Q_TRY(cal_step_fill(s, first, err));
        Q_TRY(load_rows(l, err));
        Q_TRY(cal_step_run(s, l->layer, l->at, points, o->client, err));
        q_progress_add(l->progress, (uint64_t)s->n_tok * (uint64_t)rt_comm_ranks(o->comm));
        if (last && l->at + 1 < l->m->layers)
            Q_TRY(cal_hidden_put(&l->hidden, s->row0 - l->plan.row0, s->n_tok, s->work.x, err));
    }
out:
    return st;
}

/* All samples of this rank.  last: the result is what the next layer sees. */
static q_status pass(loop *l, uint32_t points, int last, q_err *err)
{
    q_status st = Q_OK;
    const cal_loop_opts *o = l->o;
    const int shares = CAL_SHARES / rt_comm_ranks(o->comm);
    const cal_stage was = cal_stage_begin(o->stages, CAL_T_FORWARD);

    for (int i = 0; i < shares; i++) {
        Q_TRY(pass_share(l, rt_comm_rank(o->comm) * shares + i, points, last, err));
        if (!points || !o->client->share)
            continue;
        cal_stage_begin(o->stages, CAL_T_STATISTICS);
        Q_TRY(o->client->share(o->client->self, points, i + 1, shares, err));
        cal_stage_begin(o->stages, CAL_T_FORWARD);
    }
    l->embedded = !last && l->plan.place != CAL_IN_FILES;
out:
    cal_stage_begin(o->stages, was);
    return st;
}

/* ---- what is stored ------------------------------------------------------------------------- */

typedef struct result {
    const cal_client *client;
    int64_t layer;
    void *v;
    char *path;
} result;

static q_status store_result(void *self, q_err *err)
{
    const result *r = self;

    return r->client->store(r->client->self, r->layer, r->v, r->path, err);
}

static void drop_result(void *self)
{
    result *r = self;

    if (r->client->drop)
        r->client->drop(r->v);
    q_free(r->path);
    q_free(r);
}

/* The client's result of the layer goes to the writer; no two wait there. */
static q_status keep_result(loop *l, q_err *err)
{
    q_status st = Q_OK;
    const cal_loop_opts *o = l->o;
    result *r = q_calloc(1, sizeof *r);

    if (!r)
        Q_FAIL(err, Q_ENOMEM, "no memory for a result");
    *r = (result){ .client = o->client, .layer = l->at };
    cal_stage_begin(o->stages, CAL_T_SOLVE);
    Q_TRY(o->client->done(o->client->self, l->layer, l->at, &r->v, err));
    cal_stage_begin(o->stages, CAL_T_DISK);
    if (!o->job || rt_comm_rank(o->comm) > 0)
        goto out;
    if (!(r->path = cal_job_layer_path(o->job, l->at)))
        Q_FAIL(err, Q_ENOMEM, "no memory for file names");
    Q_TRY(cal_writer_wait(l->writer, l->result, err));
    st = cal_writer_push(l->writer, &(cal_write){ store_result, drop_result, r }, &l->result, err);
    r = NULL;
out:
    if (r)
        drop_result(r);
    return st;
}

/* Whether hidden states behind this layer become durable: in files always, else in time.  All ranks
 * do the same. */
static q_status is_stored(const loop *l, int *yes, q_err *err)
{
    *yes = l->o->job && l->at + 1 < l->m->layers &&
           (l->always || l->plan.hidden_bytes <= EVERY_LAYER || q_now() - l->stored >= SELDOM);
    return rt_comm_bcast(l->o->comm, yes, sizeof *yes, 0, err);
}

/* Opens the file of this layer when all ranks have theirs of the one stored before: of two that
 * stay, one is then of a layer that all have. */
static q_status begin_file(loop *l, q_err *err)
{
    q_status st = Q_OK;
    char *path = cal_job_hidden_path(l->o->job, l->at);

    if (!path)
        Q_FAIL(err, Q_ENOMEM, "no memory for file names");
    if (l->o->comm) {
        Q_TRY(cal_hidden_wait(&l->hidden, err));
        Q_TRY(rt_comm_wait(l->o->comm, err));
    }
    Q_TRY(cal_hidden_begin(&l->hidden, path, err));
    l->stored = q_now();
out:
    q_free(path);
    return st;
}

static q_status last_pass(loop *l, q_err *err)
{
    q_status st = Q_OK;
    int stored = 0;

    Q_TRY(is_stored(l, &stored, err));
    if (stored)
        Q_TRY(begin_file(l, err));
    Q_TRY(pass(l, l->o->client->points, 1, err));
    Q_TRY(keep_result(l, err)); /* before the hidden states: see resume */
    Q_TRY(cal_hidden_turn(&l->hidden, err));
out:
    return st;
}

static q_status one_layer(loop *l, q_err *err)
{
    q_status st = Q_OK;
    const cal_loop_opts *o = l->o;
    const cal_client *c = o->client;
    rt_layer_data data = { 0 };
    char what[64];

    snprintf(what, sizeof what, "layer %lld of %lld", (long long)l->at + 1,
             (long long)l->m->layers);
    q_progress_round(l->progress, what);
    cal_stage_begin(o->stages, CAL_T_DISK);
    Q_TRY(cal_reader_take(&l->reader, &data, err));
    cal_stage_begin(o->stages, CAL_T_LOAD);
    Q_TRY(rt_model_open_layer(&l->layer, l->m, o->be, &data, err));
    if (l->at + 1 < l->m->layers)
        cal_reader_start(&l->reader, l->at + 1);
    for (int p = 0; p < CAL_EARLY_PASSES && c->early[p]; p++) {
        Q_TRY(pass(l, c->early[p], 0, err));
        cal_stage_begin(o->stages, CAL_T_SOLVE);
        Q_TRY(c->change(c->self, l->layer, l->at, p, err));
    }
    Q_TRY(last_pass(l, err));
out:
    rt_layer_data_free(&data);
    rt_model_close(l->layer);
    l->layer = NULL;
    return st;
}

/* The last layer up to `below` whose hidden states all ranks have stored; -1: none. */
static q_status last_hidden(const loop *l, int64_t below, int64_t *out, q_err *err)
{
    q_status st = Q_OK;
    int64_t least = below;

    do {
        *out = least;
        least = cal_job_last_hidden(l->o->job, *out);
        Q_TRY(rt_comm_reduce(l->o->comm, &least, 1, RT_MIN_I64, err));
    } while (least != *out);
out:
    return st;
}

/* Tokens of all passes through a layer. */
static uint64_t round_tokens(const cal_loop_opts *o)
{
    uint64_t passes = 1;

    for (int p = 0; p < CAL_EARLY_PASSES && o->client->early[p]; p++)
        passes++;
    return passes * o->data->ids.n;
}

/* Continues behind the last layer whose hidden states are stored; the client's results exist for
 * all layers up to there, because they are written first. */
static q_status resume(loop *l, q_err *err)
{
    q_status st = Q_OK;
    const cal_loop_opts *o = l->o;
    int64_t n = 0, stored = -1;
    char *path = NULL;
    q_err why = { 0 };

    if (!o->job)
        return Q_OK;
    while (n < l->m->layers && cal_job_has_layer(o->job, n))
        n++;
    Q_TRY(rt_comm_bcast(o->comm, &n, sizeof n, 0, err)); /* rank 0 stores them */
    if (n < l->m->layers) {
        Q_TRY(last_hidden(l, n - 1, &stored, err));
        n = stored + 1;
    }
    for (int64_t i = 0; i < n; i++) {
        q_free(path);
        if (!(path = cal_job_layer_path(o->job, i)))
            Q_FAIL(err, Q_ENOMEM, "no memory for file names");
        st = o->client->load(o->client->self, i, path, &why);
        Q_TRY(cal_job_read(cal_job_dir(o->job), st, &why, err));
    }
    if (stored >= 0) {
        q_free(path);
        if (!(path = cal_job_hidden_path(o->job, stored)))
            Q_FAIL(err, Q_ENOMEM, "no memory for file names");
        st = cal_hidden_load(&l->hidden, path, &why);
        Q_TRY(cal_job_read(cal_job_dir(o->job), st, &why, err));
    }
    l->at = n;
    if (n > 0)
        q_log_info(o->log, "continuing %s behind layer %lld", cal_job_dir(o->job),
                   (long long)(n - 1));
    q_progress_add(l->progress, (uint64_t)n * round_tokens(o));
out:
    q_free(path);
    return st;
}

static q_status open_loop(loop *l, q_err *err)
{
    q_status st = Q_OK;
    const cal_loop_opts *o = l->o;
    uint32_t always;

    if (o->plan)
        l->plan = *o->plan;
    else
        Q_TRY(cal_plan_make(&l->plan, o, o->job != NULL, err));
    always = l->plan.place == CAL_IN_FILES;
    Q_TRY(rt_comm_reduce(o->comm, &always, 1, RT_MAX_U32, err));
    l->always = always != 0;
    o->be->max_bytes = o->max_vram;
    Q_TRY(cal_writer_open(&l->writer, err));
    Q_TRY(cal_hidden_open(&l->hidden,
                          &(cal_hidden_opts){ .be = o->be,
                                              .writer = l->writer,
                                              .rows = l->plan.rows,
                                              .width = l->m->hid,
                                              .step = l->plan.step_tok,
                                              .place = l->plan.place,
                                              .device_rows = l->plan.device_rows,
                                              .kept = o->comm ? 2 : 1 },
                          err));
    Q_TRY(resume(l, err));
    if (l->at == l->m->layers)
        goto out;
    cal_reader_start(&l->reader, l->at);
    Q_TRY(cal_step_open(&l->step, o->be, l->m, o->data, l->plan.step_tok, err));
    l->step.stages = o->stages;
out:
    return st;
}

q_status cal_loop_run(const cal_loop_opts *o, q_err *err)
{
    q_status st = Q_OK;
    loop l = { .o = o,
               .m = fmt_src_model(o->src),
               .reader = { .src = o->src, .threads = o->be->threads },
               .stored = q_now() };
    int begun = 0;

    assert(o->client->observe && o->client->done && (!o->job || o->client->store));
    l.progress =
        q_progress_open(o->log, "calibrating", (uint64_t)l.m->layers * round_tokens(o), "tokens");
    Q_TRY(open_loop(&l, err));
    begun = o->client->begin && l.at < l.m->layers;
    if (begun)
        Q_TRY(o->client->begin(o->client->self, o->be, o->comm, err));
    for (; l.at < l.m->layers; l.at++)
        Q_TRY(one_layer(&l, err));
    cal_stage_begin(o->stages, CAL_T_DISK);
    Q_TRY(cal_writer_finish(l.writer, err));
    Q_TRY(rt_comm_wait(o->comm, err)); /* the job may be removed now */
out:
    cal_stage_begin(o->stages, CAL_T_START);
    if (begun)
        o->client->end(o->client->self);
    o->be->max_bytes = 0;
    q_progress_close(l.progress);
    cal_reader_close(&l.reader);
    cal_step_close(&l.step);
    cal_hidden_close(&l.hidden);
    cal_writer_close(l.writer);
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
