/* A layer is read in its stored type into the end of the f32 array that it will fill, and widened
 * towards the front: no second buffer.  Then it is smoothed as a whole, and rounded by strips of
 * rows, which also find the maximum of each row; maxima of pieces are maxima of those.
 *
 *     [ . . . . . . . . h h h h h h h h ]      raw values h, two bytes each
 *     [ f f f f . . . . . . . . h h h h ]      f: widened; never overtakes the next h
 */
#include "convert/sq_layer.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "convert/pool.h"
#include "quant/rtn.h"
#include "quant/smooth.h"
#include "quant/w8a8.h"

#define CHUNK       4096 /* values widened or rounded at a time: on the stack */
#define STRIP_ELEMS ((int64_t)1 << 18)
#define MAX_PARTS   (2 * FMT_ROLES)

typedef struct tensor {
    fmt_ref ref; /* of the layer that is loaded */
    int64_t N, K;
    float *v; /* [N, K] */
} tensor;

typedef struct strip {
    int part;
    int64_t n0, n1;
} strip;

struct cvt_sq {
    const cvt_plan *p;
    const fmt_model *m;
    tensor part[MAX_PARTS];
    int n_parts;
    strip *strip;
    size_t n_strips;
    qnt_layer layer; /* borrows from part */
    qnt_ranges ranges;
    float *row_max[FMT_ROLES]; /* [N] of each linear */
    float piece_max[FMT_ROLES][FMT_MAX_PIECES];
    float in_max[FMT_ROLES], out_max[FMT_ROLES][FMT_MAX_PIECES];
};

/* ---- memory ---------------------------------------------------------------------------------- */

static int is_smoothed(const cvt_plan *p, fmt_ref ref)
{
    return ref.part <= FMT_BIAS && cvt_plan_smooths(p, ref.role) && fmt_src_has(p->src, ref);
}

uint64_t cvt_sq_bytes(const cvt_plan *p)
{
    uint64_t bytes = 0;

    for (int r = 0; p->opt.smooth && r < FMT_ROLES; r++)
        for (int k = FMT_WEIGHT; k <= FMT_BIAS; k++) {
            const fmt_ref ref = { (fmt_role)r, 0, (fmt_part)k };

            if (is_smoothed(p, ref)) {
                const fmt_box b = fmt_src_shape(p->src, ref);

                bytes += (uint64_t)(b.n1 * (b.k1 + 1)) * sizeof(float);
            }
        }
    return bytes;
}

/* Norms and biases are one row: their strips would be single values. */
static q_status add_part(cvt_sq *q, fmt_ref ref, q_err *err)
{
    const fmt_box b = fmt_src_shape(q->p->src, ref);
    const int vector = b.k1 == 1;
    tensor *t = &q->part[q->n_parts++];

    *t = (tensor){ ref, vector ? 1 : b.n1, vector ? b.n1 : b.k1, NULL };
    if (!(t->v = q_malloc((size_t)(t->N * t->K) * sizeof *t->v)))
        return q_fail(err, Q_ENOMEM, "%s: no memory for its layer in float32: %llu bytes",
                      fmt_src_name(q->p->src, ref, 0), (unsigned long long)cvt_sq_bytes(q->p));
    if (ref.part == FMT_BIAS)
        q->layer.bias[ref.role] = t->v;
    else
        q->layer.w[ref.role] = t->v;
    if (ref.part == FMT_WEIGHT && fmt_role_get(ref.role)->quant &&
        !(q->row_max[ref.role] = q_malloc((size_t)t->N * sizeof(float))))
        return q_fail(err, Q_ENOMEM, "no memory for the maxima of %lld rows", (long long)t->N);
    return Q_OK;
}

/* Counts the strips, and lists them when there is an array. */
static size_t list_strips(const cvt_sq *q, strip *out)
{
    size_t n = 0;

    for (int i = 0; i < q->n_parts; i++) {
        const tensor *t = &q->part[i];
        const int64_t fit = STRIP_ELEMS / t->K, rows = fit > 0 ? fit : 1;

        for (int64_t n0 = 0; n0 < t->N; n0 += rows, n++)
            if (out)
                out[n] = (strip){ i, n0, n0 + rows < t->N ? n0 + rows : t->N };
    }
    return n;
}

q_status cvt_sq_open(cvt_sq **out, const cvt_plan *p, q_err *err)
{
    q_status st = Q_OK;
    cvt_sq *q = q_calloc(1, sizeof *q);

    if (!q)
        Q_FAIL(err, Q_ENOMEM, "no memory for a layer");
    assert(p->ranges);
    q->p = p;
    q->m = fmt_src_model(p->src);
    Q_TRY(qnt_ranges_alloc(&q->ranges, q->m, err));
    for (int r = 0; p->opt.smooth && r < FMT_ROLES; r++)
        for (int k = FMT_WEIGHT; k <= FMT_BIAS; k++) {
            const fmt_ref ref = { (fmt_role)r, 0, (fmt_part)k };

            if (is_smoothed(p, ref))
                Q_TRY(add_part(q, ref, err));
        }
    q->n_strips = list_strips(q, NULL);
    if (q->n_strips && !(q->strip = q_calloc(q->n_strips, sizeof *q->strip)))
        Q_FAIL(err, Q_ENOMEM, "no memory for %zu strips of a layer", q->n_strips);
    list_strips(q, q->strip);
    *out = q;
    q = NULL;
out:
    cvt_sq_close(q);
    return st;
}

void cvt_sq_close(cvt_sq *q)
{
    if (!q)
        return;
    for (int i = 0; i < q->n_parts; i++)
        q_free(q->part[i].v);
    for (int r = 0; r < FMT_ROLES; r++)
        q_free(q->row_max[r]);
    qnt_ranges_free(&q->ranges);
    q_free(q->strip);
    q_free(q);
}

/* ---- loading --------------------------------------------------------------------------------- */

/* n values of a type, at the end of v [n], become f32. */
static void widen(float *v, fmt_dtype type, int64_t n)
{
    const size_t es = fmt_dtype_bytes(type);
    const char *raw = (const char *)v + (size_t)n * (sizeof *v - es);
    float chunk[CHUNK];

    if (type == FMT_F32)
        return;
    for (int64_t i = 0; i < n; i += CHUNK) {
        const size_t k = (size_t)(n - i < CHUNK ? n - i : CHUNK);

        memcpy(chunk, raw + (size_t)i * es, k * es);
        fmt_convert(v + i, FMT_F32, chunk, type, k, NULL);
    }
}

static q_status read_part(void *self, int thread, size_t i, q_err *err)
{
    q_status st = Q_OK;
    const cvt_sq *q = self;
    const tensor *t = &q->part[i];
    const fmt_dtype type = fmt_src_dtype(q->p->src, t->ref);
    const int64_t n = t->N * t->K;
    char *raw = (char *)t->v + (size_t)n * (sizeof *t->v - fmt_dtype_bytes(type));

    (void)thread;
    Q_TRY(fmt_src_read(q->p->src, t->ref, fmt_src_shape(q->p->src, t->ref), raw, err));
    widen(t->v, type, n);
    for (int64_t r = 0; r < t->N; r++)
        if (!isfinite(qnt_absmax(t->v + r * t->K, t->K)))
            Q_FAIL(err, Q_EFORMAT, "%s: row %lld holds a value that is not finite: cannot smooth",
                   fmt_src_name(q->p->src, t->ref, r), (long long)r);
out:
    return st;
}

/* Rounds n values to the stored type and counts those that it cannot hold. */
static uint64_t round_values(float *v, fmt_dtype store, int64_t n)
{
    float chunk[CHUNK];
    uint64_t clipped = 0;

    if (store == FMT_F32)
        return 0;
    for (int64_t i = 0; i < n; i += CHUNK) {
        const size_t k = (size_t)(n - i < CHUNK ? n - i : CHUNK);

        fmt_convert(chunk, store, v + i, FMT_F32, k, &clipped);
        fmt_convert(v + i, FMT_F32, chunk, store, k, NULL);
    }
    return clipped;
}

static q_status round_strip(void *self, int thread, size_t i, q_err *err)
{
    q_status st = Q_OK;
    const cvt_sq *q = self;
    const strip s = q->strip[i];
    const tensor *t = &q->part[s.part];
    const fmt_dtype store = q->p->opt.store;
    const uint64_t clipped = round_values(t->v + s.n0 * t->K, store, (s.n1 - s.n0) * t->K);

    (void)thread;
    if (clipped)
        Q_FAIL(err, Q_EFORMAT,
               "%s: %llu values lie outside the range of %s once they are smoothed: use -t %s",
               fmt_src_name(q->p->src, t->ref, s.n0), (unsigned long long)clipped,
               fmt_dtype_name(store), store == FMT_F16 ? "bfloat16" : "float32");
    if (t->ref.part == FMT_WEIGHT && q->row_max[t->ref.role])
        for (int64_t n = s.n0; n < s.n1; n++)
            q->row_max[t->ref.role][n] = qnt_absmax(t->v + n * t->K, t->K);
out:
    return st;
}

/* Maxima of whole inputs, of outputs and of pieces.  The output of q, k and v is one, as it is for
 * the reference. */
static void find_maxima(cvt_sq *q)
{
    for (int r = 0; r < FMT_ROLES; r++) {
        const fmt_role_row *role = fmt_role_get((fmt_role)r);
        int64_t n = 0;

        if (!role->quant)
            continue;
        q->in_max[r] = qnt_absmax(q->ranges.in[r], fmt_dim_size(role->cols, q->m));
        for (int p = 0; p < role->n_pieces; p++) {
            const int64_t rows = fmt_dim_size(role->piece[p].rows, q->m);

            q->out_max[r][p] = qnt_absmax(q->ranges.out[r] + n, rows);
            if (q->row_max[r])
                q->piece_max[r][p] = qnt_absmax(q->row_max[r] + n, rows);
            n += rows;
        }
    }
    q->out_max[FMT_ATTN_QKV][0] = qnt_absmax(q->out_max[FMT_ATTN_QKV], FMT_MAX_PIECES);
}

q_status cvt_sq_load(cvt_sq *q, int64_t layer, const volatile sig_atomic_t *stop, q_err *err)
{
    q_status st = Q_OK;
    const int threads = q->p->opt.threads;
    cvt_pool pool = { .threads = threads, .stop = stop, .self = q };

    for (int i = 0; i < q->n_parts; i++)
        q->part[i].ref.layer = layer;
    pool.n = (size_t)q->n_parts;
    pool.job = read_part;
    Q_TRY(cvt_pool_run(&pool, err));
    qnt_ranges_free(&q->ranges);
    Q_TRY(qnt_ranges_alloc(&q->ranges, q->m, err));
    qnt_ranges_join(&q->ranges, &q->p->ranges[layer], q->m);
    if (q->p->opt.smooth) {
        double alpha[FMT_ROLES];

        for (int i = 0; i < FMT_ROLES; i++)
            alpha[i] = q->p->opt.alpha == CVT_ALPHA_AUTO ? q->ranges.alpha[i] : q->p->opt.alpha;
        Q_TRY(qnt_smooth_layer(&q->layer, &q->ranges, q->m, alpha, err));
    }
    if (q->p->after)
        qnt_ranges_join(&q->p->after[layer], &q->ranges, q->m);
    pool.n = q->n_strips;
    pool.job = round_strip;
    Q_TRY(cvt_pool_run(&pool, err));
    find_maxima(q);
out:
    return st;
}

/* ---- files ----------------------------------------------------------------------------------- */

/* The piece of a role that row n belongs to. */
static int piece_of(const cvt_sq *q, fmt_role role, int64_t n)
{
    const fmt_role_row *r = fmt_role_get(role);
    int p = 0;

    while (p + 1 < r->n_pieces && n >= fmt_dim_size(r->piece[p].rows, q->m))
        n -= fmt_dim_size(r->piece[p++].rows, q->m);
    return p;
}

void cvt_sq_box(const cvt_sq *q, const fmt_ft_file *f, fmt_box box, void *out)
{
    const fmt_role role = f->ref.role;
    const float *v = f->ref.part == FMT_BIAS ? q->layer.bias[role] : q->layer.w[role];
    const int64_t cols = box.k1 - box.k0;
    const size_t row_bytes = (size_t)cols * fmt_dtype_bytes(f->dtype);
    char *to = out;

    if (f->K == 1) { /* a vector in one go */
        fmt_convert(out, f->dtype, v + box.n0, FMT_F32, (size_t)(box.n1 - box.n0), NULL);
        return;
    }
    for (int64_t n = box.n0; n < box.n1; n++, to += row_bytes) {
        const float *row = v + n * f->K + box.k0;

        if (f->ref.part == FMT_CODES)
            qnt_w8a8_codes((int8_t *)to, row, cols, q->piece_max[role][piece_of(q, role, n)]);
        else if (f->ref.part == FMT_CODES_COL)
            qnt_w8a8_codes((int8_t *)to, row, cols, q->row_max[role][n]);
        else
            fmt_convert(to, f->dtype, row, FMT_F32, (size_t)cols, NULL);
    }
}

static float value_of(const cvt_sq *q, const fmt_ft_file *f, int64_t n)
{
    const fmt_role role = f->ref.role;
    const int by_row = f->N == fmt_role_rows(fmt_role_get(role), q->m);
    const int piece = by_row ? piece_of(q, role, n) : (int)n;
    const double x = (double)qnt_w8a8_scale(q->in_max[role]);
    const double y = (double)qnt_w8a8_scale(q->out_max[role][role == FMT_FFN_GATE_UP ? piece : 0]);

    switch (f->ref.part) {
    case FMT_SCALE_X:
        return (float)(1 / x);
    case FMT_SCALE_Y:
        return (float)y;
    case FMT_SCALE_W:
        return qnt_w8a8_scale(q->piece_max[role][piece]);
    case FMT_SCALE_W_COL:
        return qnt_w8a8_scale(q->row_max[role][n]);
    case FMT_SCALE_ACC:
        return (float)(x * (double)qnt_w8a8_scale(q->piece_max[role][piece]) / y);
    case FMT_SCALE_ACC_COL:
        return (float)(x * (double)qnt_w8a8_scale(q->row_max[role][n]) / y);
    default:
        assert(f->ref.part == FMT_SMOOTHER);
        return 1; /* folded: nothing is left to do at run time */
    }
}

/* One value for each key/value head. */
static float head_scale(const cvt_sq *q, fmt_part part, int64_t head)
{
    const int64_t hd = q->m->hd, v0 = (q->m->n_head + q->m->n_kv) * hd;
    const float *max = part == FMT_K_SCALE ? q->ranges.k : q->ranges.out[FMT_ATTN_QKV] + v0;

    return qnt_w8a8_scale(qnt_absmax(max + head * hd, hd));
}

void cvt_sq_scales(const cvt_sq *q, const fmt_ft_file *f, float *out)
{
    for (int k = 0; k < f->n_seg; k++) {
        const fmt_ft_seg *s = &f->seg[k];

        for (int64_t n = s->box.n0; n < s->box.n1; n++)
            out[s->at + n - s->box.n0] = f->ref.part == FMT_K_SCALE || f->ref.part == FMT_V_SCALE
                                             ? head_scale(q, f->ref.part, n)
                                             : value_of(q, f, n);
    }
}
