/* Building the plan.
 *
 * Memory.  A thread has a strip of the source, the same strip after the cast when the types differ,
 * and the whole of a transposed file: its rows are complete only when the last strip has arrived.
 * All together stay below twice the largest tensor plus 256 MiB; more threads than that allows are
 * not started.  A smoothed layer stands beside them in f32. */
#include "convert/plan.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/pool.h"
#include "convert/sq_layer.h"
#include "formats/base/q_file.h"
#include "formats/ft_dir.h"
#include "quant/smooth.h"

#define STRIP_BYTES ((size_t)1 << 20)
#define SLACK_BYTES ((uint64_t)256 << 20)
#define SELF_BYTES  ((uint64_t)16 << 20) /* program, libraries, tables: measured, 15 to 17 MiB */
#define BLOCK       4096                 /* of a file system: the last block of a file counts */

int cvt_plan_makes(const cvt_plan *p)
{
    return p->opt.smooth || p->opt.kv_scales;
}

int cvt_plan_smooths(const cvt_plan *p, fmt_role role)
{
    return p->opt.smooth &&
           (fmt_role_get(role)->quant || role == FMT_ATTN_NORM || role == FMT_FFN_NORM);
}

fmt_ref cvt_plan_source(const cvt_item *it)
{
    fmt_ref ref = it->file.ref;

    if (it->origin == CVT_LAYER && ref.part != FMT_BIAS)
        ref.part = FMT_WEIGHT;
    return ref;
}

static cvt_origin origin_of(const cvt_plan *p, fmt_ref ref)
{
    switch (ref.part) {
    case FMT_WEIGHT:
    case FMT_BIAS:
    case FMT_CODES:
    case FMT_CODES_COL:
        return cvt_plan_smooths(p, ref.role) ? CVT_LAYER : CVT_SOURCE;
    case FMT_K_SCALE:
    case FMT_V_SCALE:
        return cvt_plan_makes(p) ? CVT_SCALES : CVT_SOURCE; /* smoothing changes V */
    default:
        return p->opt.smooth || !fmt_src_has(p->src, ref) ? CVT_SCALES : CVT_SOURCE;
    }
}

static q_status list_items(cvt_plan *p, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = fmt_src_model(p->src);
    fmt_ft_file f;
    size_t n = 0;

    while (fmt_ft_file_at(&f, m, &p->layout, n))
        n++;
    if (!(p->item = q_calloc(n, sizeof *p->item)))
        Q_FAIL(err, Q_ENOMEM, "no memory for a plan of %zu files", n);
    for (; p->n_items < n; p->n_items++) {
        cvt_item *it = &p->item[p->n_items];

        fmt_ft_file_at(&it->file, m, &p->layout, p->n_items);
        it->origin = origin_of(p, it->file.ref);
        it->from = it->origin == CVT_SCALES ? FMT_F32 : fmt_src_dtype(p->src, cvt_plan_source(it));
        it->bytes =
            (uint64_t)it->file.rows * (uint64_t)it->file.cols * fmt_dtype_bytes(it->file.dtype);
        p->n_shared += !fmt_role_get(it->file.ref.role)->per_layer;
    }
out:
    return st;
}

int cvt_plan_along_k(const cvt_plan *p, const cvt_item *it)
{
    return it->file.transposed && it->origin == CVT_SOURCE &&
           strcmp(fmt_src_kind(p->src), "ft") == 0;
}

/* Elements of a box in the direction that a strip keeps whole. */
static int64_t strip_width(const cvt_plan *p, const cvt_item *it, int seg)
{
    const fmt_box b = it->file.seg[seg].box;

    return cvt_plan_along_k(p, it) ? b.n1 - b.n0 : b.k1 - b.k0;
}

int64_t cvt_plan_step(const cvt_plan *p, const cvt_item *it, int seg)
{
    const fmt_box b = it->file.seg[seg].box;
    const int64_t along = cvt_plan_along_k(p, it) ? b.k1 - b.k0 : b.n1 - b.n0;
    const int64_t width = strip_width(p, it, seg);
    int64_t step = (int64_t)(STRIP_BYTES / fmt_dtype_bytes(it->from)) / width;

    if (step > 64)
        step = step / 64 * 64; /* whole cache lines of the turned rows */
    return step < 1 ? 1 : step < along ? step : along;
}

/* Threads give way to the budget: the result is the same with one. */
static q_status size_buffers(cvt_plan *p, q_err *err)
{
    const uint64_t max = p->opt.max_ram;
    uint64_t largest = 0, per_thread, fixed;

    for (size_t i = 0; i < p->n_items; i++) {
        const cvt_item *it = &p->item[i];
        const uint64_t source =
            it->bytes / fmt_dtype_bytes(it->file.dtype) * fmt_dtype_bytes(it->from);

        for (int k = 0; k < it->file.n_seg; k++) {
            const size_t n = (size_t)(cvt_plan_step(p, it, k) * strip_width(p, it, k));
            const size_t strip = n * fmt_dtype_bytes(it->from);
            const size_t cast =
                it->from == it->file.dtype ? 0 : n * fmt_dtype_bytes(it->file.dtype);

            p->strip = strip > p->strip ? strip : p->strip;
            p->cast = cast > p->cast ? cast : p->cast;
        }
        if (it->file.transposed && it->bytes > p->turned)
            p->turned = (size_t)it->bytes;
        largest = it->bytes > largest ? it->bytes : largest;
        largest = source > largest ? source : largest;
    }
    per_thread = (uint64_t)p->strip + p->cast + p->turned;
    while (p->opt.threads > 1 && (uint64_t)p->opt.threads * per_thread > 2 * largest + SLACK_BYTES)
        p->opt.threads--;
    if ((size_t)p->opt.threads > p->n_items)
        p->opt.threads = (int)p->n_items;
    fixed = SELF_BYTES + cvt_sq_bytes(p);
    while (p->opt.threads > 1 && max && (uint64_t)p->opt.threads * per_thread + fixed > max)
        p->opt.threads--;
    p->memory = (uint64_t)p->opt.threads * per_thread + fixed;
    if (max && p->memory > max)
        return q_fail(err, Q_ECONFIG,
                      "writing the files needs %llu bytes of memory, --max-ram allows %llu: allow "
                      "more",
                      (unsigned long long)p->memory, (unsigned long long)max);
    return Q_OK;
}

int cvt_plan_kv_copies(const cvt_plan *p)
{
    return fmt_ft_kv_copies(fmt_src_model(p->src), p->opt.ranks);
}

/* A manifest with other hashes has the same size. */
static q_status measure_manifest(const cvt_plan *p, uint64_t *bytes, q_err *err)
{
    static const char hash[CVT_HEX] =
        "0000000000000000000000000000000000000000000000000000000000000000";
    q_status st = Q_OK;
    cvt_manifest m = { .ranks = p->opt.ranks,
                       .kv_copies = cvt_plan_kv_copies(p),
                       .store = p->opt.store };
    q_buf text = { 0 };

    assert(strlen(p->opt.tool) < sizeof m.tool && p->opt.threads <= CVT_MAX_THREADS);
    strcpy(m.tool, p->opt.tool);
    for (size_t i = 0; i < p->n_items; i++)
        Q_TRY(cvt_manifest_add(&m, p->item[i].file.name, p->item[i].bytes, hash, err));
    for (size_t i = 0; i < p->n_copies; i++)
        Q_TRY(cvt_manifest_add(&m, p->copy[i].name, p->copy[i].bytes, hash, err));
    Q_TRY(cvt_manifest_add(&m, "config.ini", p->ini.size, hash, err));
    Q_TRY(cvt_manifest_text(&text, &m, err));
    *bytes = text.size;
out:
    cvt_manifest_free(&m);
    q_buf_free(&text);
    return st;
}

/* What the source has stays, what is asked for comes. */
static q_status set_layout(cvt_plan *p, q_err *err)
{
    q_status st = Q_OK;
    const cvt_plan_opts *o = &p->opt;

    p->layout = *fmt_src_layout(p->src);
    p->layout.ranks = o->ranks;
    p->layout.store = o->store;
    if (o->smooth && (p->layout.sets & FMT_FT_W8A8))
        Q_FAIL(err, Q_EUNSUPPORTED, "%s: is smoothed already: start from the checkpoint",
               fmt_src_dir(p->src));
    if (o->smooth && o->alpha != CVT_ALPHA_AUTO && !(o->alpha >= 0 && o->alpha <= 1))
        Q_FAIL(err, Q_EARG, "smoothquant %g: wanted 0 to 1, or auto", o->alpha);
    if (o->smooth) /* chosen ones are not known yet, and config.ini has one number for all */
        p->layout.alpha = o->alpha == CVT_ALPHA_AUTO ? 0.5 : o->alpha;
    p->layout.sets |= (o->smooth ? FMT_FT_W8A8 : 0) | (o->kv_scales ? FMT_FT_KV8 : 0);
out:
    return st;
}

q_status cvt_plan_takes(const fmt_src *src, q_err *err)
{
    char text[96];

    if (!fmt_src_packing(src))
        return Q_OK;
    fmt_packing_text(text, sizeof text, fmt_src_packing(src));
    return q_fail(err, Q_EUNSUPPORTED,
                  "%s: is quantized already (%s), and an FT directory holds float and int8 weights "
                  "only: use --to h5, hf-gptq, hf-awq or hf-ct, or start from the float checkpoint",
                  fmt_src_dir(src), text);
}

q_status cvt_plan_build(cvt_plan **out, const fmt_src *src, const cvt_plan_opts *o, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = fmt_src_model(src);
    cvt_plan *p = NULL;

    Q_TRY(cvt_plan_takes(src, err));
    Q_TRY(fmt_ft_check_ranks(m, o->ranks, err));
    if (!(p = q_calloc(1, sizeof *p)))
        Q_FAIL(err, Q_ENOMEM, "no memory for a plan");
    p->src = src;
    p->opt = *o;
    snprintf(p->name, sizeof p->name, "%d-gpu", o->ranks);
    Q_TRY(set_layout(p, err));
    Q_TRY(list_items(p, err));
    Q_TRY(cvt_copies_list(&p->copy, &p->n_copies, src, err));
    Q_TRY(fmt_ft_config_text(&p->ini, fmt_src_config(src), m->family->model_type, &p->layout, err));
    Q_TRY(measure_manifest(p, &p->bytes, err));
    p->bytes += p->ini.size;
    for (size_t i = 0; i < p->n_items; i++)
        p->bytes += p->item[i].bytes;
    for (size_t i = 0; i < p->n_copies; i++)
        p->bytes += p->copy[i].bytes;
    p->n_files = p->n_items + p->n_copies + 2;
    Q_TRY(size_buffers(p, err));
    *out = p;
    p = NULL;
out:
    cvt_plan_free(p);
    return st;
}

q_status cvt_plan_set_ranges(cvt_plan *p, const qnt_ranges *ranges, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = fmt_src_model(p->src);

    for (int64_t l = 0; l < m->layers; l++) {
        Q_TRY(qnt_smooth_check(&ranges[l], m, l, err));
        if (p->opt.smooth && p->opt.alpha == CVT_ALPHA_AUTO && !ranges[l].searched)
            Q_FAIL(err, Q_EARG,
                   "layer %lld: these statistics hold no exponents: calibrate with --smoothquant "
                   "auto",
                   (long long)l);
    }
    p->ranges = ranges;
out:
    return st;
}

void cvt_plan_free(cvt_plan *p)
{
    if (!p)
        return;
    cvt_copies_free(p->copy, p->n_copies);
    q_free(p->item);
    q_buf_free(&p->ini);
    q_free(p);
}

q_status cvt_plan_check_space(const cvt_plan *p, const char *dir, q_err *err)
{
    q_status st = Q_OK;
    const uint64_t need = p->bytes + p->n_files * BLOCK;
    uint64_t have = 0;

    Q_TRY(q_disk_free(dir, &have, err));
    if (have < need)
        Q_FAIL(err, Q_EIO, "%s: %llu bytes needed, %llu free: make room or choose another --output",
               dir, (unsigned long long)need, (unsigned long long)have);
out:
    return st;
}
