/* KV pages.  A new format is a row here and a case in the two ops that touch pages.  The scales of
 * int8 come from calibration; every one is checked before memory is taken. */
#include "runtime/kv.h"

#include <assert.h>
#include <float.h>
#include <string.h>

static const rt_kv_format rt_kv_formats[] = {
    { "f32", FMT_F32 },
    { "f16", FMT_F16 },
    { "int8", FMT_I8 },
    { 0 },
};

const rt_kv_format *rt_kv_format_find(const char *name)
{
    for (const rt_kv_format *f = rt_kv_formats; f->name; f++)
        if (strcmp(f->name, name) == 0)
            return f;
    return NULL;
}

size_t rt_kv_page_bytes(const fmt_model *m, const rt_kv_format *f)
{
    return (size_t)(m->layers * 2 * m->n_kv * RT_PAGE * m->hd) * fmt_dtype_bytes(f->dtype);
}

static q_status check_scales(const fmt_model *m, const rt_kv_scales *scales, q_err *err)
{
    if (!scales || !scales->k || !scales->v)
        return q_fail(err, Q_ECONFIG,
                      "KV cache int8 needs the ranges of keys and values, and this model has none: "
                      "calibrate first: qwen-calibrate-kv");
    for (int64_t i = 0; i < 2 * m->layers * m->n_kv; i++) {
        const int64_t at = i / 2;
        const float s = i % 2 == 0 ? scales->k[at] : scales->v[at];

        if (!(s > 0 && s <= FLT_MAX))
            return q_fail(err, Q_ECONFIG,
                          "KV cache int8: %s scale of layer %lld, head %lld is %g, wanted a finite "
                          "number above 0: calibrate again: qwen-calibrate-kv",
                          i % 2 == 0 ? "key" : "value", (long long)(at / m->n_kv),
                          (long long)(at % m->n_kv), (double)s);
    }
    return Q_OK;
}

static q_status copy_scales(rt_kv_pool *p, rt_backend *be, const rt_kv_scales *scales, q_err *err)
{
    q_status st = Q_OK;
    const size_t n = (size_t)(p->kv.layers * p->kv.n_kv), bytes = n * sizeof(float);
    void *dev = NULL;

    Q_TRY(be->ops->alloc(be, 2 * bytes, &dev, err));
    p->scale = dev;
    Q_TRY(be->ops->copy(be, p->scale, scales->k, bytes, RT_TO_DEVICE, err));
    Q_TRY(be->ops->copy(be, p->scale + n, scales->v, bytes, RT_TO_DEVICE, err));
    p->kv.k_scale = p->scale;
    p->kv.v_scale = p->scale + n;
out:
    return st;
}

q_status rt_kv_open(rt_kv_pool *p, rt_backend *be, const fmt_model *m, const char *format,
                    int64_t n_pages, const rt_kv_scales *scales, q_err *err)
{
    q_status st = Q_OK;
    const rt_kv_format *f = rt_kv_format_find(format);
    size_t bytes;

    memset(p, 0, sizeof *p);
    if (!f)
        Q_FAIL(err, Q_EARG, "KV cache format '%s': wanted f32, f16 or int8", format);
    if (f->dtype == FMT_I8)
        Q_TRY(check_scales(m, scales, err));
    if (n_pages > INT32_MAX || !q_mul_ok((size_t)n_pages, rt_kv_page_bytes(m, f), &bytes))
        Q_FAIL(err, Q_ENOMEM, "KV cache of %lld pages is too large", (long long)n_pages);
    p->kv = (rt_kv){
        .format = f, .n_pages = n_pages, .layers = m->layers, .n_kv = m->n_kv, .hd = m->hd
    };
    Q_TRY(be->ops->alloc(be, bytes, &p->kv.base, err));
    if (f->dtype == FMT_I8)
        Q_TRY(copy_scales(p, be, scales, err));
    if (!(p->free = q_malloc((size_t)n_pages * sizeof *p->free)))
        Q_FAIL(err, Q_ENOMEM, "no memory for %lld page numbers", (long long)n_pages);
    for (int64_t i = 0; i < n_pages; i++) /* lowest page on top: deterministic and compact */
        p->free[i] = (int32_t)(n_pages - 1 - i);
    p->n_free = n_pages;
out:
    if (st != Q_OK)
        rt_kv_close(p, be);
    return st;
}

void rt_kv_close(rt_kv_pool *p, rt_backend *be)
{
    be->ops->free(be, p->kv.base);
    be->ops->free(be, p->scale);
    q_free(p->free);
    memset(p, 0, sizeof *p);
}

int32_t rt_kv_take(rt_kv_pool *p)
{
    return p->n_free > 0 ? p->free[--p->n_free] : -1;
}

void rt_kv_give(rt_kv_pool *p, int32_t page)
{
    assert(p->n_free < p->kv.n_pages);
    p->free[p->n_free++] = page;
}
