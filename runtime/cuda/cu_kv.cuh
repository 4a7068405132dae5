/* Where keys and values are: the layout of batch.h on the device. */
#ifndef CU_KV_CUH
#define CU_KV_CUH

#include "runtime/cuda/cu_device.cuh"

typedef struct cu_pages {
    char *base;           /* of the layer */
    const int32_t *block; /* [n_seq, max_blocks] */
    int64_t n_kv, hd;
    int max_blocks, bytes; /* bytes of an element */
} cu_pages;

static inline cu_pages cu_pages_of(const rt_kv *kv, const rt_batch *b, int layer)
{
    cu_pages p;

    p.bytes = (int)fmt_dtype_bytes(kv->format->dtype);
    p.base = (char *)kv->base +
             (size_t)(layer * kv->n_pages * 2 * kv->n_kv * RT_PAGE * kv->hd) * (size_t)p.bytes;
    p.block = b->block;
    p.n_kv = kv->n_kv;
    p.hd = kv->hd;
    p.max_blocks = b->max_blocks;
    return p;
}

/* Slot 0 of page j of a sequence: K (which 0) or V (which 1) of kv head h. */
static __device__ __forceinline__ char *cu_page(const cu_pages &p, int seq, int64_t j, int which,
                                                int64_t h)
{
    const int64_t page = p.block[(int64_t)seq * p.max_blocks + j];

    return p.base + ((page * 2 + which) * p.n_kv + h) * RT_PAGE * p.hd * p.bytes;
}

#endif
