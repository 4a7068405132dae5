/* KV pages.  A new format is a row here and a case in the two ops that touch pages. */
#include "runtime/kv.h"

#include <assert.h>
#include <string.h>

static const rt_kv_format rt_kv_formats[] = { { "f32", FMT_F32 }, { "f16", FMT_F16 }, { 0 } };

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

q_status rt_kv_open(rt_kv_pool *p, rt_backend *be, const fmt_model *m, const char *format,
                    int64_t n_pages, q_err *err)
{
    q_status st = Q_OK;
    const rt_kv_format *f = rt_kv_format_find(format);
    size_t bytes;

    memset(p, 0, sizeof *p);
    if (!f)
        Q_FAIL(err, Q_EARG, "KV cache format '%s': wanted f32 or f16", format);
    if (n_pages > INT32_MAX || !q_mul_ok((size_t)n_pages, rt_kv_page_bytes(m, f), &bytes))
        Q_FAIL(err, Q_ENOMEM, "KV cache of %lld pages is too large", (long long)n_pages);
    p->kv = (rt_kv){
        .format = f, .n_pages = n_pages, .layers = m->layers, .n_kv = m->n_kv, .hd = m->hd
    };
    Q_TRY(be->ops->alloc(be, bytes, &p->kv.base, err));
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
