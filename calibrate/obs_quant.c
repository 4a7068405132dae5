/* Quantizing a layer.  The order inside one:
 *
 *     after the first pass   load the layer in f32; factors, folded: attn_out and ffn_down first,
 *                            then attn_qkv and ffn_gate_up
 *     after every pass       codes of the linears that were looked at in it
 *
 * There is one pass, the last.  With `sequential` there are four early ones before it, and the
 * resident layer gets what the codes mean: the same values that the run time computes with.  The
 * arithmetic is that of the backend's device (quant/device.h). */
#include "calibrate/quant_weights.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "quant/awq.h"
#include "quant/gptq.h"
#include "quant/load.h"
#include "quant/rtn.h"

/* What passed since the last call belongs to this part. */
static void spent(cal_quant *q, double *part)
{
    const double now = q_now();

    *part += now - q->times.at;
    q->times.at = now;
}

/* ---- factors --------------------------------------------------------------------------------- */

static qnt_round_opts round_opts(const cal_quant *q, const char *name)
{
    return (qnt_round_opts){
        .name = name, .bits = q->o.bits, .group = q->o.group, .sym = q->o.sym, .clip = q->o.clip
    };
}

static void name_of(char out[64], int64_t layer, fmt_role role)
{
    snprintf(out, 64, "layer %lld, %s", (long long)layer, fmt_role_get(role)->name);
}

static q_status search_factors(cal_quant *q, int64_t layer, fmt_role role, double *s, double *w,
                               q_err *err)
{
    q_status st = Q_OK;
    const int64_t N = cal_quant_rows(q, role), K = cal_quant_cols(q, role);
    cal_quant_stat *stat = &q->out.stat[role];
    qnt_awq_result r;
    qnt_round_opts o;
    char name[64];

    name_of(name, layer, role);
    o = round_opts(q, name);
    Q_TRY(q->d.ops->mean(&q->d, w, q->layer.w[role], N, K, q->o.group, err));
    qnt_fold_tie(w, role, q->m);
    qnt_fold_tie(q->gram.x[role], role, q->m);
    Q_TRY(qnt_awq_search(&q->d, s, q->layer.w[role], q->gram.x[role], w, q->gram.H[role], N, K, &o,
                         &r, err));
    stat->alpha = r.alpha;
    stat->by_weight = r.by_weight;
    stat->nearest = r.nearest;
    for (int i = 0; i < 2 * QNT_AWQ_STEPS; i++)
        stat->curve[i / QNT_AWQ_STEPS][i % QNT_AWQ_STEPS] =
            (float)r.curve[i / QNT_AWQ_STEPS][i % QNT_AWQ_STEPS];
out:
    return st;
}

static q_status fold_role(cal_quant *q, int64_t layer, fmt_role role, double *s, double *w,
                          q_err *err)
{
    q_status st = Q_OK;
    const int64_t K = cal_quant_cols(q, role);
    const fmt_ref norm = { FMT_ATTN_NORM, layer, FMT_WEIGHT };
    cal_quant_stat *stat = &q->out.stat[role];
    const qnt_round_opts o = round_opts(q, "");
    float *v = q_malloc((size_t)K * sizeof *v);

    if (!(q->out.factors[role] = v))
        Q_FAIL(err, Q_ENOMEM, "no memory for %lld factors", (long long)K);
    if (q->o.given) {
        memcpy(v, q->o.given->v[layer * FMT_ROLES + role], (size_t)K * sizeof *v);
        Q_TRY(qnt_nearest_error(&q->d, &stat->nearest, q->layer.w[role], q->gram.H[role],
                                cal_quant_rows(q, role), K, &o, err));
    } else {
        Q_TRY(search_factors(q, layer, role, s, w, err));
        for (int64_t k = 0; k < K; k++)
            v[k] = (float)s[k];
    }
    for (int64_t k = 0; k < K; k++) /* what the archive keeps is what is folded */
        s[k] = (double)v[k];
    fmt_report_buckets(stat->input_raw, q->gram.max[role], (size_t)K);
    Q_TRY(qnt_fold(&q->d, &q->layer, role, s, fmt_src_dtype(q->src, norm), q->m, err));
    Q_TRY(cal_gram_divide(&q->gram, role, s, err));
out:
    return st;
}

/* What was folded goes into the resident layer, as far as a pass comes that no codes replace. */
static q_status fold_all(cal_quant *q, rt_model *one, int64_t layer, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = q->m;
    const int64_t a = m->n_head * m->hd, b = m->ffn > m->hid ? m->ffn : m->hid;
    const size_t widest = (size_t)(a > b ? a : b);
    double *s = q_malloc(widest * sizeof *s), *w = q_malloc(widest * sizeof *w);
    float *copy = NULL;

    if (!s || !w)
        Q_FAIL(err, Q_ENOMEM, "no memory for %zu factors", widest);
    for (int i = 0; i < CAL_LINEARS; i++) /* folding one changes another */
        Q_TRY(cal_weights_load(q, one, layer, cal_fold_order[i], err));
    for (int i = 0; i < CAL_LINEARS; i++)
        Q_TRY(fold_role(q, layer, cal_fold_order[i], s, w, err));
    for (int i = 0; i < CAL_LINEARS; i++) {
        const fmt_role role = cal_fold_order[i];

        if (q->layer.bias[role])
            Q_TRY(
                cal_copy_of(&q->out.bias[role], q->layer.bias[role], cal_quant_rows(q, role), err));
        if (!q->o.sequential)
            continue;
        Q_TRY(cal_weights_copy(q, &copy, role, err));
        Q_TRY(cal_weights_set(q, one, role, &copy, err));
    }
    for (int r = FMT_ATTN_NORM; r <= FMT_FFN_NORM; r += FMT_FFN_NORM - FMT_ATTN_NORM) {
        Q_TRY(cal_copy_of(&q->out.norm[r], q->layer.w[r], m->hid, err));
        if (q->o.sequential)
            Q_TRY(cal_set_norm(one, (fmt_role)r, q->layer.w[r], err));
    }
out:
    q_free(s);
    q_free(w);
    q->d.ops->free(&q->d, copy);
    return st;
}

/* ---- codes ----------------------------------------------------------------------------------- */

/* Codes of W, which is left alone, and what they mean. */
static q_status make_codes(cal_quant *q, qnt_tensor *t, float **means, const char *name,
                           fmt_role role, q_err *err)
{
    q_status st = Q_OK;
    const int64_t N = cal_quant_rows(q, role), K = cal_quant_cols(q, role);
    const float *H = q->gram.H[role];
    const qnt_round_opts ro = round_opts(q, name);
    const qnt_gptq_opts go = { .name = name,
                               .bits = q->o.bits,
                               .group = q->o.group,
                               .sym = q->o.sym,
                               .act_order = q->o.act_order,
                               .damp = q->o.damp,
                               .stop = q->o.stop };
    qnt_gptq_result r;

    Q_TRY(cal_weights_copy(q, means, role, err));
    if (q->o.gptq) {
        Q_TRY(qnt_gptq_solve(&q->d, t, *means, H, N, K, &go, &r, err));
        q->out.stat[role].damp = r.damp;
        q->out.stat[role].f64 = r.f64;
        q->out.stat[role].dead = r.dead;
    } else {
        Q_TRY(qnt_round_groups(&q->d, t, *means, H, *means, N, K, &ro, err));
    }
out:
    return st;
}

static q_status quantize(cal_quant *q, rt_model *one, int64_t layer, fmt_role role, q_err *err)
{
    q_status st = Q_OK;
    cal_quant_stat *stat = &q->out.stat[role];
    const float *H = q->gram.H[role];
    const int64_t N = cal_quant_rows(q, role), K = cal_quant_cols(q, role);
    float *means = NULL;
    char name[64];
    qnt_round_opts nearest;

    name_of(name, layer, role);
    nearest = round_opts(q, name);
    Q_TRY(cal_weights_load(q, one, layer, role, err));
    spent(q, &q->times.weights);
    fmt_report_buckets(stat->input, q->gram.max[role], (size_t)K);
    Q_TRY(cal_gram_copy(&q->gram, role, &q->out.absmax[role], &q->out.h_diag[role], err));
    Q_TRY(make_codes(q, &q->out.t[role], &means, name, role, err));
    cal_quant_count(stat, &q->out.t[role]);
    spent(q, &q->times.codes);
    if (!q->o.factors) /* the search has it */
        Q_TRY(qnt_nearest_error(&q->d, &stat->nearest, q->layer.w[role], H, N, K, &nearest, err));
    Q_TRY(qnt_output_error(&q->d, &stat->error, means, q->layer.w[role], H, N, K, err));
    if (stat->damp > 1.001 * (q->o.damp > 0 ? q->o.damp : 0.01))
        q_log_warn(q->o.log, "%s: second moments needed damping %g: use more text", name,
                   stat->damp);
    else if (stat->f64)
        q_log_info(q->o.log, "%s: second moments needed f64", name);
    q_log_put(q->o.log, Q_LOG_DEBUG, "%s: output error %.3e, rounded to nearest %.3e", name,
              stat->error, stat->nearest);
    if (q->o.sequential)
        Q_TRY(cal_weights_set(q, one, role, &means, err));
    spent(q, &q->times.errors);
out:
    q->d.ops->free(&q->d, means);
    q->d.ops->free(&q->d, q->layer.w[role]);
    q->layer.w[role] = NULL;
    return st;
}

/* ---- the client ------------------------------------------------------------------------------ */

static q_status begin(void *self, rt_backend *be, rt_comm *comm, q_err *err)
{
    q_status st = Q_OK;
    cal_quant *q = self;

    q->d = qnt_dev_host();
    if (be->ops->math)
        Q_TRY(be->ops->math(be, &q->d, err));
    Q_TRY(cal_gram_open(&q->gram, q->m, q->d, comm, err));
    Q_TRY(cal_kv_open(&q->ranges, q->m, q->d, comm, err));
    q->since = q->times.at = q_now();
out:
    return st;
}

static void end(void *self)
{
    cal_quant *q = self;

    if (!q->d.ops)
        return;
    cal_weights_free(q);
    cal_gram_close(&q->gram);
    cal_kv_close(&q->ranges);
    q->d.ops->close(&q->d);
}

static q_status observe(void *self, const cal_view *v, q_err *err)
{
    cal_quant *q = self;

    return CAL_BIT(v->point) & CAL_KV_POINTS ? cal_kv_see(&q->ranges, v, err)
                                             : cal_gram_see(&q->gram, v, err);
}

static q_status share(void *self, uint32_t points, int done, int shares, q_err *err)
{
    cal_quant *q = self;

    return cal_gram_share(&q->gram, points, done, shares, err);
}

/* After a pass that saw the inputs `seen`: with those at `points` codes are made. */
static q_status solve(cal_quant *q, rt_model *one, int64_t layer, uint32_t seen, uint32_t points,
                      int first, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(cal_gram_end(&q->gram, seen, layer, err));
    spent(q, &q->times.passes);
    if (first) {
        cal_weights_free(q);
        cal_quant_layer_free(&q->out);
        Q_TRY(cal_layer_load_vectors(&q->layer, q->src, layer, err));
        if (q->o.factors)
            Q_TRY(fold_all(q, one, layer, err));
        spent(q, &q->times.factors);
    }
    for (int p = 0; p < CAL_POINTS; p++)
        if (points & CAL_BIT(p))
            Q_TRY(quantize(q, one, layer, cal_input_role((cal_point)p), err));
    Q_TRY(cal_gram_begin(&q->gram, CAL_INPUTS, err));
out:
    return st;
}

static q_status change(void *self, rt_model *one, int64_t layer, int pass, q_err *err)
{
    cal_quant *q = self;

    return solve(q, one, layer, q->client.early[pass], CAL_BIT(cal_input_point(pass)), pass == 0,
                 err);
}

static q_status done(void *self, rt_model *one, int64_t layer, void **result, q_err *err)
{
    q_status st = Q_OK;
    cal_quant *q = self;
    float *kv = q->kv + layer * 2 * q->m->n_kv;
    cal_quant_layer *out = q_malloc(sizeof *out);

    if (!out)
        Q_FAIL(err, Q_ENOMEM, "no memory for a layer");
    if (q->o.sequential)
        spent(q, &q->times.passes);
    else
        Q_TRY(solve(q, one, layer, CAL_INPUTS, CAL_INPUTS, 1, err));
    /* in a layer that was replaced factors are in the v rows */
    Q_TRY(cal_kv_take(&q->ranges, layer, q->o.sequential ? NULL : q->out.factors[FMT_ATTN_OUT], kv,
                      err));
    Q_TRY(cal_copy_of(&q->out.kv, kv, 2 * q->m->n_kv, err));
    q->out.cost = cal_cost_since(q->since);
    q_log_put(
        q->o.log, Q_LOG_DEBUG,
        "layer %lld: %.2f s: passes %.2f, factors %.2f, weights %.2f, codes %.2f, errors %.2f",
        (long long)layer, q->out.cost.seconds, q->times.passes, q->times.factors, q->times.weights,
        q->times.codes, q->times.errors);
    q->since = q_now();
    q->times = (cal_quant_times){ .at = q->since };
    q->cost[layer] = q->out.cost;
    memcpy(q->stat + layer * FMT_ROLES, q->out.stat, sizeof q->out.stat);
    *out = q->out;
    memset(&q->out, 0, sizeof q->out);
    *result = out;
    out = NULL;
out:
    q_free(out);
    return st;
}

static q_status store(void *self, int64_t layer, const void *result, const char *path, q_err *err)
{
    const cal_quant *q = self;

    (void)layer;
    return cal_quant_write(path, result, q->m, err);
}

static void drop(void *result)
{
    if (result)
        cal_quant_layer_free(result);
    q_free(result);
}

static q_status load(void *self, int64_t layer, const char *path, q_err *err)
{
    q_status st = Q_OK;
    cal_quant *q = self;

    q->since = q_now();
    Q_TRY(cal_quant_read_stats(q->stat + layer * FMT_ROLES, &q->cost[layer], path, q->m, err));
    Q_TRY(cal_quant_read_kv(q->kv + layer * 2 * q->m->n_kv, path, q->m, err));
out:
    return st;
}

uint64_t cal_quant_bytes(const fmt_model *m, uint64_t *device)
{
    uint64_t weights = 0, largest = 0;

    for (int i = 0; i < CAL_LINEARS; i++) {
        const fmt_role_row *row = fmt_role_get(cal_fold_order[i]);
        const uint64_t K = (uint64_t)fmt_dim_size(row->cols, m);

        weights += (uint64_t)fmt_role_rows(row, m) * K * sizeof(float);
        largest = K > largest ? K : largest;
    }
    /* branches of sums come before the weights in f32, and go when those are made */
    *device = 2 * weights + largest * largest * sizeof(float);
    if (*device < cal_gram_waiting_bytes(m))
        *device = cal_gram_waiting_bytes(m);
    *device += cal_gram_bytes(m);
    return *device + weights / sizeof(float); /* codes of a layer while they are written */
}

q_status cal_quant_takes(const fmt_src *src, q_err *err)
{
    for (int64_t l = 0; l < fmt_src_model(src)->layers; l++)
        for (int i = 0; i < CAL_LINEARS; i++)
            if (!fmt_src_has(src, (fmt_ref){ cal_fold_order[i], l, FMT_WEIGHT }))
                return q_fail(err, Q_EUNSUPPORTED,
                              "%s: is quantized already: start from the float model",
                              fmt_src_dir(src));
    return Q_OK;
}

q_status cal_quant_open(cal_quant *q, const fmt_src *src, const cal_quant_opts *o, q_err *err)
{
    q_status st = Q_OK;

    memset(q, 0, sizeof *q);
    q->src = src;
    q->m = fmt_src_model(src);
    q->o = *o;
    q->client = (cal_client){ .points = CAL_KV_POINTS | (o->sequential ? 0 : CAL_INPUTS),
                              .self = q,
                              .begin = begin,
                              .end = end,
                              .observe = observe,
                              .share = share,
                              .change = change,
                              .done = done,
                              .store = store,
                              .drop = drop,
                              .load = load };
    for (int p = 0; o->sequential && p < CAL_EARLY_PASSES; p++)
        q->client.early[p] = p == 0 && o->factors ? CAL_INPUTS : CAL_BIT(cal_input_point(p));
    Q_TRY(cal_quant_takes(src, err));
    q->client.bytes = cal_quant_bytes(q->m, &q->client.device_bytes);
    if (!(q->stat = q_calloc((size_t)q->m->layers * FMT_ROLES, sizeof *q->stat)) ||
        !(q->cost = q_calloc((size_t)q->m->layers, sizeof *q->cost)) ||
        !(q->kv = q_calloc((size_t)(q->m->layers * q->m->n_kv), 2 * sizeof *q->kv)))
        Q_FAIL(err, Q_ENOMEM, "no memory for %lld layers", (long long)q->m->layers);
out:
    if (st != Q_OK)
        cal_quant_close(q);
    return st;
}

void cal_quant_close(cal_quant *q)
{
    cal_quant_layer_free(&q->out);
    q_free(q->stat);
    q_free(q->cost);
    q_free(q->kv);
    memset(q, 0, sizeof *q);
}
