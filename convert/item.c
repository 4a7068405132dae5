/* One file: strips of about a megabyte are read, counted, cast and turned while they are in the
 * cache of the processor.  A strip is whole rows of the source's matrix, or whole columns when the
 * source stores it transposed: either way a run of consecutive bytes of the stored array. */
#include "convert/item.h"

#include <string.h>
#include <sys/resource.h>

#include "formats/turn.h"

#define OPEN_FILES 384 /* late ones of all sinks together */

#define BLOCK 256 /* a fixed count, and small enough for sums of 16 bits: the loop vectorizes */

#define COUNT(type, mask)                                                                          \
    for (size_t i = 0; i < whole; i += BLOCK) {                                                    \
        type sum = 0;                                                                              \
                                                                                                   \
        for (size_t k = 0; k < BLOCK; k++)                                                         \
            sum = (type)(sum + ((((const type *)p)[i + k] & (mask)) == (mask)));                   \
        bad += sum;                                                                                \
    }                                                                                              \
    for (size_t i = whole; i < n; i++)                                                             \
        bad += (((const type *)p)[i] & (mask)) == (mask);

/* NaN and infinity: all bits of the exponent are set. */
static uint64_t count_nonfinite(const void *p, fmt_dtype type, size_t n)
{
    const size_t whole = n / BLOCK * BLOCK;
    uint64_t bad = 0;

    if (type == FMT_F16) {
        COUNT(uint16_t, 0x7c00)
    } else if (type == FMT_BF16) {
        COUNT(uint16_t, 0x7f80)
    } else {
        COUNT(uint32_t, 0x7f800000u)
    }
    return bad;
}

void cvt_worker_init(cvt_worker *w, const cvt_plan *p, const cvt_sq *sq, int dirfd, const char *dir,
                     q_progress *progress)
{
    struct rlimit r = { .rlim_cur = 2 * OPEN_FILES };
    int lag;

    memset(w, 0, sizeof *w);
    w->p = p;
    w->sq = sq;
    w->progress = progress;
    getrlimit(RLIMIT_NOFILE, &r); /* half of the descriptors: the source needs some too */
    lag = (int)(r.rlim_cur / 2 < OPEN_FILES ? r.rlim_cur / 2 : OPEN_FILES) / p->opt.threads;
    cvt_sink_init(&w->sink, dirfd, dir, lag < 1 ? 1 : lag > CVT_SINK_LAG ? CVT_SINK_LAG : lag);
}

q_status cvt_worker_alloc(cvt_worker *w, q_err *err)
{
    const cvt_plan *p = w->p;

    w->raw = q_malloc(p->strip);
    w->turned = q_malloc(p->turned);
    w->cast = p->cast ? q_malloc(p->cast) : NULL;
    if (!w->raw || !w->turned || (p->cast && !w->cast))
        return q_fail(err, Q_ENOMEM,
                      "no memory: %d threads need %llu bytes in all: lower --threads",
                      p->opt.threads, (unsigned long long)p->memory);
    return Q_OK;
}

void cvt_worker_free(cvt_worker *w)
{
    q_free(w->raw);
    q_free(w->cast);
    q_free(w->turned);
    cvt_sink_free(&w->sink);
}

static size_t box_elements(fmt_box b)
{
    return (size_t)((b.n1 - b.n0) * (b.k1 - b.k0));
}

/* A box that fits into the strip buffer, in the type of the file; *out belongs to w. */
static q_status load(const void **out, cvt_worker *w, const cvt_item *it, fmt_box box, cvt_odd *odd,
                     q_err *err)
{
    q_status st = Q_OK;
    const size_t n = box_elements(box);
    const fmt_dtype to = it->file.dtype;
    char *cast = it->from == to ? w->raw : w->cast;

    if (it->origin == CVT_LAYER) {
        cvt_sq_box(w->sq, &it->file, box, cast);
    } else {
        Q_TRY(fmt_src_read(w->p->src, it->file.ref, box, w->raw, err));
        if (fmt_dtype_is_float(to))
            odd->nonfinite += count_nonfinite(w->raw, it->from, n);
        if (it->from != to)
            fmt_convert(cast, to, w->raw, it->from, n, &odd->clipped);
    }
    *out = cast;
    q_progress_add(w->progress, n * fmt_dtype_bytes(to));
out:
    return st;
}

static q_status stream(cvt_worker *w, const cvt_item *it, int seg, cvt_odd *odd, q_err *err)
{
    q_status st = Q_OK;
    const fmt_box all = it->file.seg[seg].box;
    const int64_t step = cvt_plan_step(w->p, it, seg);
    const size_t es = fmt_dtype_bytes(it->file.dtype);
    const void *p;

    for (int64_t n = all.n0; n < all.n1; n += step) {
        const fmt_box b = { n, n + step < all.n1 ? n + step : all.n1, all.k0, all.k1 };

        Q_TRY(load(&p, w, it, b, odd, err));
        Q_TRY(cvt_sink_write(&w->sink, p, box_elements(b) * es, err));
    }
out:
    return st;
}

/* The segment into its columns of w->turned [rows, cols]. */
static q_status turn(cvt_worker *w, const cvt_item *it, int seg, cvt_odd *odd, q_err *err)
{
    q_status st = Q_OK;
    const fmt_ft_seg *s = &it->file.seg[seg];
    const int64_t step = cvt_plan_step(w->p, it, seg), cols = it->file.cols;
    const int along_k = cvt_plan_along_k(w->p, it);
    const int64_t end = along_k ? s->box.k1 : s->box.n1;
    const size_t es = fmt_dtype_bytes(it->file.dtype);
    const void *p;

    for (int64_t at = along_k ? s->box.k0 : s->box.n0; at < end; at += step) {
        const int64_t to = at + step < end ? at + step : end;
        const fmt_box b = { along_k ? s->box.n0 : at, along_k ? s->box.n1 : to,
                            along_k ? at : s->box.k0, along_k ? to : s->box.k1 };
        const int64_t row = b.k0 - s->box.k0, col = s->at + (b.n0 - s->box.n0);

        Q_TRY(load(&p, w, it, b, odd, err));
        fmt_turn(w->turned + (size_t)(row * cols + col) * es, cols, p, b.k1 - b.k0, b.n1 - b.n0,
                 b.k1 - b.k0, es);
    }
out:
    return st;
}

static q_status scales(cvt_worker *w, const cvt_item *it, q_err *err)
{
    q_status st = Q_OK;
    float *v = q_malloc((size_t)it->bytes);

    if (!v)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %llu bytes", it->file.name,
               (unsigned long long)it->bytes);
    cvt_sq_scales(w->sq, &it->file, v);
    Q_TRY(cvt_sink_write(&w->sink, v, (size_t)it->bytes, err));
    q_progress_add(w->progress, it->bytes);
out:
    q_free(v);
    return st;
}

q_status cvt_item_convert(cvt_worker *w, size_t i, cvt_outcome *done, q_err *err)
{
    q_status st = Q_OK;
    const cvt_item *it = &w->p->item[i];

    Q_TRY(cvt_sink_open(&w->sink, it->file.name, err));
    if (it->origin == CVT_SCALES)
        Q_TRY(scales(w, it, err));
    for (int k = 0; it->origin != CVT_SCALES && k < it->file.n_seg; k++)
        Q_TRY((it->file.transposed ? turn : stream)(w, it, k, &done->seg[k], err));
    if (it->file.transposed)
        Q_TRY(cvt_sink_write(&w->sink, w->turned, (size_t)it->bytes, err));
    Q_TRY(cvt_sink_close(&w->sink, &done->size, done->sha256, err));
out:
    return st;
}
