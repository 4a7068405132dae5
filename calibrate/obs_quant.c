/* Quantizing a layer.  The order inside one:
 *
 *     after the first early pass   load the layer in f32; factors, folded: attn_out and ffn_down
 *                                  first, then attn_qkv and ffn_gate_up
 *     after every early pass       codes of the linears that were looked at in it
 *
 * The resident layer gets what the codes mean as f32: the same values that the run time computes
 * with.  Weights are read from the source again, because the resident ones are packed. */
#include "calibrate/obs_quant.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "quant/awq.h"
#include "quant/gptq.h"
#include "quant/load.h"
#include "quant/rtn.h"

/* roles by falling distance of what their factors are folded into */
static const fmt_role fold_order[] = { FMT_ATTN_OUT, FMT_FFN_DOWN, FMT_ATTN_QKV, FMT_FFN_GATE_UP };
enum { N_LINEARS = sizeof fold_order / sizeof fold_order[0] };

static int64_t rows_of(const cal_quant *q, fmt_role role)
{
    return fmt_role_rows(fmt_role_get(role), q->gram.m);
}

static int64_t cols_of(const cal_quant *q, fmt_role role)
{
    return fmt_dim_size(fmt_role_get(role)->cols, q->gram.m);
}

/* ---- loading --------------------------------------------------------------------------------- */

static q_status load_layer(cal_quant *q, int64_t layer, q_err *err)
{
    cal_layer_free(&q->layer);
    cal_quant_layer_free(&q->out);
    return cal_layer_load(&q->layer, q->src, layer, err);
}

/* Copies of v for the file and for the resident layer. */
static q_status copy_of(float **out, const float *v, int64_t n, q_err *err)
{
    q_free(*out);
    if (!(*out = q_malloc((size_t)n * sizeof *v)))
        return q_fail(err, Q_ENOMEM, "no memory for %lld values", (long long)n);
    memcpy(*out, v, (size_t)n * sizeof *v);
    return Q_OK;
}

/* The weight w [N, K] of a role, in f32, into the resident layer; w is taken. */
static q_status make_resident(cal_quant *q, rt_model *one, fmt_role role, float **w, q_err *err)
{
    q_status st = Q_OK;
    qnt_tensor t = { .scheme = qnt_scheme_float(FMT_F32),
                     .N = rows_of(q, role),
                     .K = cols_of(q, role),
                     .codes = *w };

    *w = NULL;
    if (q->layer.bias[role])
        Q_TRY(copy_of(&t.bias, q->layer.bias[role], t.N, err));
    Q_TRY(cal_replace(one, role, &t, err));
out:
    qnt_tensor_free(&t);
    return st;
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

static q_status fold_role(cal_quant *q, int64_t layer, fmt_role role, double *s, double *w,
                          q_err *err)
{
    q_status st = Q_OK;
    const int64_t N = rows_of(q, role), K = cols_of(q, role);
    const fmt_ref norm = { FMT_ATTN_NORM, layer, FMT_WEIGHT };
    cal_quant_stat *stat = &q->out.stat[role];
    qnt_awq_result r;
    qnt_round_opts o;
    char name[64];

    name_of(name, layer, role);
    o = round_opts(q, name);
    Q_TRY(qnt_awq_weight_mean(w, q->layer.w[role], N, K, q->o.group, err));
    qnt_fold_tie(w, role, q->gram.m);
    qnt_fold_tie(q->gram.x[role], role, q->gram.m);
    Q_TRY(qnt_awq_search(s, q->layer.w[role], q->gram.x[role], w, q->gram.H[role], N, K, &o, &r,
                         err));
    stat->alpha = r.alpha;
    stat->by_weight = r.by_weight;
    stat->nearest = r.nearest;
    for (int i = 0; i < 2 * QNT_AWQ_STEPS; i++)
        stat->curve[i / QNT_AWQ_STEPS][i % QNT_AWQ_STEPS] =
            (float)r.curve[i / QNT_AWQ_STEPS][i % QNT_AWQ_STEPS];
    fmt_report_buckets(stat->input_raw, q->gram.max[role], (size_t)K);
    qnt_fold(&q->layer, role, s, fmt_src_dtype(q->src, norm), q->gram.m);
    cal_gram_divide(&q->gram, role, s);
out:
    return st;
}

/* What was folded goes into the resident layer, as far as no pass will replace it. */
static q_status fold_all(cal_quant *q, rt_model *one, int64_t layer, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = q->gram.m;
    const int64_t a = m->n_head * m->hd, b = m->ffn > m->hid ? m->ffn : m->hid;
    const size_t widest = (size_t)(a > b ? a : b);
    double *s = q_malloc(widest * sizeof *s), *w = q_malloc(widest * sizeof *w);
    float *copy = NULL;

    if (!s || !w)
        Q_FAIL(err, Q_ENOMEM, "no memory for %zu factors", widest);
    for (int i = 0; i < N_LINEARS; i++)
        Q_TRY(fold_role(q, layer, fold_order[i], s, w, err));
    for (int i = 0; i < N_LINEARS; i++) {
        const fmt_role role = fold_order[i];

        if (q->layer.bias[role])
            Q_TRY(copy_of(&q->out.bias[role], q->layer.bias[role], rows_of(q, role), err));
        if (!q->o.sequential)
            continue;
        Q_TRY(copy_of(&copy, q->layer.w[role], rows_of(q, role) * cols_of(q, role), err));
        Q_TRY(make_resident(q, one, role, &copy, err));
    }
    for (int r = FMT_ATTN_NORM; r <= FMT_FFN_NORM; r += FMT_FFN_NORM - FMT_ATTN_NORM) {
        Q_TRY(copy_of(&q->out.norm[r], q->layer.w[r], m->hid, err));
        Q_TRY(cal_set_norm(one, (fmt_role)r, q->layer.w[r], err));
    }
out:
    q_free(s);
    q_free(w);
    q_free(copy);
    return st;
}

/* ---- codes ----------------------------------------------------------------------------------- */

/* Codes of W, which is left alone, and what they mean. */
static q_status make_codes(cal_quant *q, qnt_tensor *t, float **means, const char *name,
                           fmt_role role, q_err *err)
{
    q_status st = Q_OK;
    const int64_t N = rows_of(q, role), K = cols_of(q, role);
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

    Q_TRY(copy_of(means, q->layer.w[role], N * K, err));
    if (q->o.gptq) {
        Q_TRY(qnt_gptq_solve(t, *means, H, N, K, &go, &r, err));
        q->out.stat[role].damp = r.damp;
        q->out.stat[role].dead = r.dead;
    } else {
        Q_TRY(qnt_round_groups(t, *means, H, N, K, &ro, err));
        qnt_tensor_rows(*means, t, 0, N);
    }
out:
    return st;
}

/* The error of plain rounding, for comparison. */
static q_status nearest_error(cal_quant *q, double *error, const char *name, fmt_role role,
                              q_err *err)
{
    q_status st = Q_OK;
    const int64_t N = rows_of(q, role), K = cols_of(q, role);
    qnt_round_opts o = round_opts(q, name);
    qnt_tensor t = { 0 };
    float *w = NULL;

    o.clip = 0;
    Q_TRY(copy_of(&w, q->layer.w[role], N * K, err));
    Q_TRY(qnt_round_groups(&t, w, NULL, N, K, &o, err));
    qnt_tensor_rows(w, &t, 0, N);
    Q_TRY(qnt_output_error(error, w, q->layer.w[role], q->gram.H[role], N, K, err));
out:
    q_free(w);
    qnt_tensor_free(&t);
    return st;
}

static q_status quantize(cal_quant *q, rt_model *one, int64_t layer, fmt_role role, q_err *err)
{
    q_status st = Q_OK;
    cal_quant_stat *stat = &q->out.stat[role];
    float *means = NULL;
    char name[64];

    name_of(name, layer, role);
    fmt_report_buckets(stat->input, q->gram.max[role], (size_t)cols_of(q, role));
    Q_TRY(make_codes(q, &q->out.t[role], &means, name, role, err));
    if (!q->o.factors) /* the search has it */
        Q_TRY(nearest_error(q, &stat->nearest, name, role, err));
    Q_TRY(qnt_output_error(&stat->error, means, q->layer.w[role], q->gram.H[role], rows_of(q, role),
                           cols_of(q, role), err));
    if (stat->damp > 1.001 * (q->o.damp > 0 ? q->o.damp : 0.01))
        q_log_warn(q->o.log, "%s: second moments needed damping %g: use more text", name,
                   stat->damp);
    q_log_put(q->o.log, Q_LOG_DEBUG, "%s: output error %.3e, rounded to nearest %.3e", name,
              stat->error, stat->nearest);
    Q_TRY(make_resident(q, one, role, &means, err));
out:
    q_free(means);
    return st;
}

/* ---- the client ------------------------------------------------------------------------------ */

static q_status observe(void *self, const cal_view *v, q_err *err)
{
    cal_quant *q = self;

    return cal_gram_see(&q->gram, v, err);
}

static q_status change(void *self, rt_model *one, int64_t layer, int pass, q_err *err)
{
    q_status st = Q_OK;
    cal_quant *q = self;
    const uint32_t points = q->o.sequential ? CAL_BIT(cal_input_point(pass)) : CAL_INPUTS;

    cal_gram_end(&q->gram, q->client.early[pass]);
    if (pass == 0) {
        Q_TRY(load_layer(q, layer, err));
        if (q->o.factors)
            Q_TRY(fold_all(q, one, layer, err));
    }
    for (int p = 0; p < CAL_POINTS; p++)
        if (points & CAL_INPUTS & CAL_BIT(p))
            Q_TRY(quantize(q, one, layer, cal_input_role((cal_point)p), err));
    cal_gram_begin(&q->gram, CAL_INPUTS);
out:
    return st;
}

static q_status done(void *self, int64_t layer, const char *path, q_err *err)
{
    cal_quant *q = self;
    struct rusage used = { 0 };

    getrusage(RUSAGE_SELF, &used);
    q->out.cost =
        (cal_quant_cost){ .seconds = q_now() - q->since, .memory = (double)used.ru_maxrss * 1024 };
    q->since = q_now();
    q->cost[layer] = q->out.cost;
    memcpy(q->stat + layer * FMT_ROLES, q->out.stat, sizeof q->out.stat);
    return cal_quant_write(path, &q->out, q->gram.m, err);
}

static q_status load(void *self, int64_t layer, const char *path, q_err *err)
{
    cal_quant *q = self;

    q->since = q_now();
    return cal_quant_read_stats(q->stat + layer * FMT_ROLES, &q->cost[layer], path, q->gram.m, err);
}

uint64_t cal_quant_bytes(const fmt_model *m)
{
    uint64_t weights = 0, largest = 0;

    for (int i = 0; i < N_LINEARS; i++) {
        const fmt_role_row *row = fmt_role_get(fold_order[i]);
        const uint64_t K = (uint64_t)fmt_dim_size(row->cols, m);

        weights += (uint64_t)fmt_role_rows(row, m) * K * sizeof(float);
        largest = K > largest ? K : largest;
    }
    return 2 * weights + cal_gram_bytes(m) + largest * largest * sizeof(float);
}

q_status cal_quant_open(cal_quant *q, const fmt_src *src, const cal_quant_opts *o, q_err *err)
{
    q_status st = Q_OK;

    memset(q, 0, sizeof *q);
    q->src = src;
    q->o = *o;
    q->client = (cal_client){ .early = { CAL_INPUTS },
                              .self = q,
                              .bytes = cal_quant_bytes(fmt_src_model(src)),
                              .observe = observe,
                              .change = change,
                              .done = done,
                              .load = load };
    for (int p = 0; o->sequential && p < CAL_EARLY_PASSES; p++)
        q->client.early[p] = p == 0 && o->factors ? CAL_INPUTS : CAL_BIT(cal_input_point(p));
    for (int i = 0; i < N_LINEARS; i++)
        if (!fmt_src_has(src, (fmt_ref){ fold_order[i], 0, FMT_WEIGHT }))
            Q_FAIL(err, Q_EUNSUPPORTED, "%s: is quantized already: start from the float model",
                   fmt_src_dir(src));
    Q_TRY(cal_gram_open(&q->gram, fmt_src_model(src), err));
    q->since = q_now();
    if (!(q->stat = q_calloc((size_t)q->gram.m->layers * FMT_ROLES, sizeof *q->stat)) ||
        !(q->cost = q_calloc((size_t)q->gram.m->layers, sizeof *q->cost)))
        Q_FAIL(err, Q_ENOMEM, "no memory for %lld layers", (long long)q->gram.m->layers);
out:
    if (st != Q_OK)
        cal_quant_close(q);
    return st;
}

void cal_quant_close(cal_quant *q)
{
    cal_gram_close(&q->gram);
    cal_layer_free(&q->layer);
    cal_quant_layer_free(&q->out);
    q_free(q->stat);
    q_free(q->cost);
    memset(q, 0, sizeof *q);
}
