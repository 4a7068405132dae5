/* KV pages of an engine: one pool for all layers, handed out page by page.
 *
 *     rt_kv_pool pool;
 *     Q_TRY(rt_kv_open(&pool, be, desc, "f32", n_pages, NULL, err));
 *     int32_t page = rt_kv_take(&pool);     (-1: none left)
 *     rt_kv_give(&pool, page);
 *     rt_kv_close(&pool, be);
 *
 * A page number is valid in every layer.  Layout: batch.h.  Threads: one. */
#ifndef RT_KV_H
#define RT_KV_H

#include "runtime/backend.h"

typedef struct rt_kv_pool {
    rt_kv kv;
    int32_t *free; /* stack of page numbers */
    int64_t n_free;
    float *scale; /* backend memory of kv.k_scale and kv.v_scale */
} rt_kv_pool;

/* What one step of a code is worth in an int8 cache: absmax / 127, K after the rotation.  Host. */
typedef struct rt_kv_scales {
    const float *k, *v; /* [layers, n_kv], finite and above 0 */
} rt_kv_scales;

const rt_kv_format *rt_kv_format_find(const char *name); /* NULL: unknown */
/* Bytes of one page in all layers. */
size_t rt_kv_page_bytes(const fmt_model *m, const rt_kv_format *f);
/* scales: copied; needed by int8, ignored by float formats; NULL or NULL inside: none.
 * Errors: Q_EARG (format), Q_ECONFIG (int8 without scales, or with one that is not above 0),
 * Q_ENOMEM with the bytes asked for. */
q_status rt_kv_open(rt_kv_pool *p, rt_backend *be, const fmt_model *m, const char *format,
                    int64_t n_pages, const rt_kv_scales *scales, q_err *err);
void rt_kv_close(rt_kv_pool *p, rt_backend *be); /* a zeroed pool is fine */
int32_t rt_kv_take(rt_kv_pool *p);
void rt_kv_give(rt_kv_pool *p, int32_t page);

#endif
